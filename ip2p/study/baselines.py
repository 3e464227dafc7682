"""What InstructPix2Pix is compared with (section 4.1 of the paper), and two bounds of a world that is known.

SDEdit (Meng et al., arXiv 2108.01073) noises a picture part of the way and paints it back by a text.
Text2LIVE (Bar-Tal et al., arXiv 2204.02491) trains, for one picture, a network that paints a layer of colour
and opacity over it. The bounds are the picture as it was, and the true edit (`ip2p.miniworld.render` of the
edited scene).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.diffusion import decode, embed, guided_step, new_scheduler, seeded
from ip2p.common.images import as_tensor, as_uint8, fit, to_float, to_pil
from ip2p.dataset.lessons import SIDES


@torch.no_grad()
def sdedit(
    pipe,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    strength: float,
    *,
    guidance_scale: float,
    steps: int = 20,
    seeds: Sequence[int] | None = None,
) -> list[Image.Image]:
    """SDEdit with a text-to-image StableDiffusionPipeline, as diffusers' image-to-image pipeline does it.

    Noise of `strength` (0: none, 1: nothing is left), then strength * steps denoising steps by the prompt.
    Picture i has its own noise, of seeds[i] (None: 0, 1, ...). All pictures come out in the size of the first
    one, cut to what the model can paint. Raises ValueError for a strength that paints nothing.
    """
    painted = int(steps * strength)
    if not 0 < strength <= 1 or painted < 1:
        raise ValueError(
            f"strength {strength} of {steps} steps: nothing would be painted; take a strength in (0, 1] "
            "and more steps"
        )
    n, device = len(images), pipe.unet.device
    generators = seeded(range(n) if seeds is None else seeds)
    text = torch.cat([embed(pipe, [""]).expand(n, -1, -1), embed(pipe, list(prompts))])
    scale = torch.full((n,), guidance_scale, device=device)
    clean = posterior_samples(pipe.vae, images, generators)
    scheduler = new_scheduler(pipe.scheduler)
    scheduler.set_timesteps(steps, device=device)
    first = scheduler.order * (steps - painted)
    scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
    z = scheduler.add_noise(clean, noise.to(device), timesteps[:1].repeat(n))
    for t in timesteps:
        z = guided_step(pipe.unet, scheduler, z, t, text, scale, generators)
    return [to_pil(picture) for picture in decode(pipe, z)]


def posterior_samples(vae, images: Sequence[Image.Image], generators: list[torch.Generator]) -> torch.Tensor:
    """Scaled latents, (n, c, h, w) float32, drawn with each picture's own generator."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels of a latent's side
    width, height = images[0].size
    size = (width // factor * factor, height // factor * factor)
    pixels = to_float(as_uint8([fit(image, size) for image in images])).to(vae.device, vae.dtype)
    samples = []
    for i, generator in enumerate(generators):
        samples.append(vae.encode(pixels[i : i + 1]).latent_dist.sample(generator))
    return torch.cat(samples).float() * vae.config.scaling_factor


# ------------------------------------------------------------------------------------------- Text2LIVE


class LayerGenerator(nn.Module):
    """A small U-Net: a picture (B, 3, H, W) in [0, 1] -> a layer (B, 4, H, W), RGB and opacity, in [0, 1]."""

    def __init__(self, width: int = 32, levels: int = 3):
        super().__init__()

        def block(inside, outside, stride=1):
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, stride, 1, padding_mode="reflect"),
                nn.GroupNorm(8, outside),
                nn.LeakyReLU(0.2),
            )

        self.first = block(3, width)
        self.down = nn.ModuleList(block(width, width, 2) for _ in range(levels))
        self.up = nn.ModuleList(block(2 * width, width) for _ in range(levels))
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(2 * x - 1)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="bilinear"), skip], 1))
        return self.last(x).sigmoid()


class Layered(NamedTuple):
    """What Text2LIVE made: the edited picture, the layer as RGBA, and the loss of every step."""

    image: Image.Image
    layer: Image.Image
    losses: list[float]


SCREEN = (0.0, 177 / 255, 64 / 255)  # the authors' green

# The authors'
WEIGHTS = {
    "composition": 1.0,
    "direction": 1.0,
    "screen": 1.0,
    "structure": 2.0,
    "sparsity": 0.06,
}


def text2live(
    clip: ClipSimilarity,
    image: Image.Image,
    caption: str,
    target: str,
    *,
    layer: str | None = None,
    steps: int = 150,
    lr: float = 2.5e-3,
    views: int = 8,
    patience: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> Layered:
    """Train a `LayerGenerator` on one square picture until its layer over the picture shows `target`.

    caption: what the picture shows. layer: what the layer alone should show, over a green screen (None:
    `target`). CLIP sees random crops, `views` of each picture (see `LayerLosses`). Stops early when the
    smoothed loss has not fallen for `patience` steps. Smaller than the authors' code: a lighter network that
    sees the whole picture only, no templates around the texts, structure by CLIP's features instead of a
    ViT's keys, AdamW instead of MADGRAD, no bootstrapping of the opacity, and crops without tilt, jitter or
    grey, since colours are what many edits are about.
    """
    device = clip.mean.device
    generator = torch.Generator().manual_seed(seed)
    picture = as_tensor([image]).to(device)
    texts = [caption, target, target if layer is None else layer]
    flips = not SIDES.search(f"{caption} {target}")
    layer_losses = LayerLosses(clip, picture, texts, views, flips, generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = LayerGenerator().to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr)
    losses = []
    smooth = None
    best = float("inf")
    waited = 0
    options = {"disable": not progress, "delay": 2, "mininterval": 2.0, "leave": False}
    with tqdm(range(steps), desc="Text2LIVE", **options) as bar:
        for _ in bar:
            loss = layer_losses(net(picture))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            smooth = losses[-1] if smooth is None else 0.9 * smooth + 0.1 * losses[-1]
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
            waited += 1
            if smooth < best - 1e-3:
                best = smooth
                waited = 0
            if waited >= patience:
                break
    with torch.no_grad():
        rgba = net(picture)
    return Layered(to_pil(compose(rgba, picture)[0]), to_pil(rgba[0]), losses)


class LayerLosses:
    """Text2LIVE's losses of a layer over a picture, weighted as the authors do.

    The composite's CLIP features against the target's, the change's direction, the layer over the screen, the
    composite's structure (self-similarity of CLIP's map of features) against the picture's, and a sparse
    opacity. picture: (1, 3, H, W) in [0, 1]. texts: what the picture shows, what it should show, and what the
    layer should.
    """

    def __init__(
        self,
        clip: ClipSimilarity,
        picture: torch.Tensor,
        texts: list[str],
        views: int,
        flips: bool,
        generator: torch.Generator,
    ):
        self.clip = clip
        self.picture = picture
        self.views = views
        self.flips = flips
        self.generator = generator
        self.source, self.goal, self.alone = clip.encode_text(texts)[:, None]
        self.screen = torch.tensor(SCREEN, device=picture.device)[:, None, None]
        self.structure = self_similarity(clip, picture)

    def __call__(self, rgba: torch.Tensor) -> torch.Tensor:
        """rgba: (1, 4, H, W) in [0, 1]. Returns the weighted sum."""
        over = compose(rgba, self.picture)
        on_screen = compose(rgba, self.screen)
        pictures = torch.cat([self.picture, over, on_screen], 1)
        crops = random_crops(pictures, self.views, self.clip.size, self.flips, self.generator)
        before, after, shown = (features(self.clip, part) for part in crops.split(3, 1))
        opacity = rgba[:, 3]
        few = 2 * (5 * opacity).sigmoid() - 1
        terms = {
            "composition": spherical(after, self.goal),
            "direction": 1 - F.cosine_similarity(after - before, self.goal - self.source).mean(),
            "screen": spherical(shown, self.alone),
            "structure": (self_similarity(self.clip, over) - self.structure).square().mean(),
            "sparsity": opacity.mean() + few.mean(),
        }
        return sum(WEIGHTS[name] * term for name, term in terms.items())


def compose(rgba: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """A layer (B, 4, H, W) over a picture or a colour (3, H, W) or (3, 1, 1), all in [0, 1]."""
    colour, alpha = rgba[:, :3], rgba[:, 3:]
    return alpha * colour + (1 - alpha) * below


def random_crops(x: torch.Tensor, n: int, size: int, flips: bool, generator: torch.Generator) -> torch.Tensor:
    """n crops (n, C, size, size) of 60 to 100% of a picture's side, (1, C, H, W); half of them mirrored."""
    scale = 0.6 + 0.4 * torch.rand(n, generator=generator)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = torch.ones(n)
    if flips:
        mirror = 1 - 2 * (torch.rand(n, generator=generator) < 0.5).float()
    across = torch.stack([scale * mirror, torch.zeros(n), shift[:, 0]], 1)
    down = torch.stack([torch.zeros(n), scale, shift[:, 1]], 1)
    theta = torch.stack([across, down], 1).to(x.device)  # (n, 2, 3): where each crop lies
    places = F.affine_grid(theta, (n, x.shape[1], size, size), align_corners=False)
    pictures = x.expand(n, -1, -1, -1)
    return F.grid_sample(pictures, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def features(clip: ClipSimilarity, images: torch.Tensor) -> torch.Tensor:
    """`ClipSimilarity.encode_image` with gradients, for images of CLIP's own size."""
    return F.normalize(clip.clip.encode_image((images - clip.mean) / clip.std), dim=-1)


def spherical(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Twice the mean squared distance on the sphere of unit vectors: the authors' loss of CLIP's features."""
    return ((a - b).norm(dim=-1) / 2).clamp(max=1).arcsin().square().mul(2).mean()


def self_similarity(clip: ClipSimilarity, image: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) -> (N, N): cosines between all places of CLIP's deepest map of features of 4x4 or more."""
    if image.shape[-2:] != (clip.size, clip.size):
        image = F.interpolate(image, (clip.size, clip.size), mode="bicubic", antialias=True).clamp(0, 1)
    image = (image - clip.mean) / clip.std
    maps = clip.clip.visual.forward_intermediates(image, intermediates_only=True)["image_intermediates"]
    large = [of_layer for of_layer in maps if of_layer.shape[-1] >= 4]
    places = F.normalize(large[-1][0].flatten(1), dim=0)  # (d, N)
    return places.T @ places
