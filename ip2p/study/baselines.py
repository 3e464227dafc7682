"""What InstructPix2Pix is compared with (section 4.1 of the paper), and two bounds that only a known world has.

SDEdit (Meng et al., arXiv 2108.01073) noises a picture part of the way and paints it back by a text. Text2LIVE (Bar-Tal
et al., arXiv 2204.02491) trains, for one picture, a network that paints a layer of colour and opacity over it. The
bounds are the picture as it was, and the true edit (`ip2p.miniworld.render` of the edited scene).
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
from ip2p.common.images import as_tensor, to_pil
from ip2p.dataset.lessons import SIDES


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
    """SDEdit with a text-to-image StableDiffusionPipeline: noise of `strength` (0: none, 1: nothing is left), then
    strength * steps denoising steps by the prompt. Picture i has its own noise, of seeds[i] (None: 0, 1, ...)."""
    from diffusers import StableDiffusionImg2ImgPipeline

    if not 0 < strength <= 1 or steps * strength < 1:
        raise ValueError(
            f"strength {strength} of {steps} steps: nothing would be painted; take a strength in (0, 1] "
            "and more steps"
        )
    painter = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    generators = [
        torch.Generator().manual_seed(int(s)) for s in (range(len(images)) if seeds is None else seeds)
    ]
    return painter(
        list(prompts),
        image=list(images),
        strength=strength,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        generator=generators,
    ).images


# -------------------------------------------------------------------------------------------- Text2LIVE


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

WEIGHTS = {
    "composition": 1.0,
    "direction": 1.0,
    "screen": 1.0,
    "structure": 2.0,
    "sparsity": 0.06,
}  # the authors'


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
    """Train a `LayerGenerator` on one picture (square, of any size) until its layer over the picture shows `target`.

    caption: what the picture shows. layer: what the layer alone should show, over a green screen (None: `target`).
    Losses, weighted as the authors do: the composite's CLIP features against the target's, the change's direction, the
    layer over the screen, the composite's structure (self-similarity of CLIP's map of features) against the picture's,
    and a sparse opacity. CLIP sees random crops, `views` of each. Stops early when the smoothed loss has not fallen for
    `patience` steps. Smaller than the authors' code: a lighter network that sees the whole picture only, no templates
    around the texts, structure by CLIP's features instead of a ViT's keys, AdamW instead of MADGRAD, no bootstrapping
    of the opacity, and crops without tilt, jitter or grey, since colours are what many edits are about.
    """
    device, generator = clip.mean.device, torch.Generator().manual_seed(seed)
    picture = as_tensor([image.convert("RGB")]).to(device)
    flips = not SIDES.search(f"{caption} {target}")
    source, goal, alone = clip.encode_text([caption, target, layer or target])[:, None]
    screen = torch.tensor(SCREEN, device=device)[:, None, None]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = LayerGenerator().to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr)
    structure = self_similarity(clip, picture)
    losses, best, waited, smooth = [], float("inf"), 0, None
    with tqdm(
        range(steps), desc="Text2LIVE", disable=not progress, delay=2, mininterval=2.0, leave=False
    ) as bar:
        for _ in bar:
            rgba = net(picture)
            over = compose(rgba, picture)
            crops = random_crops(
                torch.cat([picture, over, compose(rgba, screen)], 1), views, clip.size, flips, generator
            )
            before, after, shown = (features(clip, x) for x in crops.split(3, 1))
            terms = {
                "composition": spherical(after, goal),
                "direction": 1 - F.cosine_similarity(after - before, goal - source).mean(),
                "screen": spherical(shown, alone),
                "structure": (self_similarity(clip, over) - structure).square().mean(),
                "sparsity": rgba[:, 3].mean() + (2 * (5 * rgba[:, 3]).sigmoid() - 1).mean(),
            }
            loss = sum(WEIGHTS[name] * term for name, term in terms.items())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            smooth = losses[-1] if smooth is None else 0.9 * smooth + 0.1 * losses[-1]
            best, waited = (smooth, 0) if smooth < best - 1e-3 else (best, waited + 1)
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
            if waited >= patience:
                break
    with torch.no_grad():
        rgba = net(picture)
        drawn = (rgba[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Layered(to_pil(compose(rgba, picture)[0]), Image.fromarray(drawn, "RGBA"), losses)


def compose(rgba: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """A layer (B, 4, H, W) over a picture or a colour (3, H, W) or (3, 1, 1), all in [0, 1]."""
    colour, alpha = rgba[:, :3], rgba[:, 3:]
    return alpha * colour + (1 - alpha) * below


def random_crops(x: torch.Tensor, n: int, size: int, flips: bool, generator: torch.Generator) -> torch.Tensor:
    """n crops (n, C, size, size) of 60 to 100% of the side of one picture (1, C, H, W), half of them mirrored."""
    scale = 0.6 + 0.4 * torch.rand(n, generator=generator)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2 * (torch.rand(n, generator=generator) < 0.5).float() if flips else torch.ones(n)
    zero = torch.zeros(n)
    theta = torch.stack(
        [torch.stack([scale * mirror, zero, shift[:, 0]], 1), torch.stack([zero, scale, shift[:, 1]], 1)], 1
    ).to(x.device)
    grid = F.affine_grid(theta, (n, x.shape[1], size, size), align_corners=False)
    return F.grid_sample(
        x.expand(n, -1, -1, -1), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def features(clip: ClipSimilarity, images: torch.Tensor) -> torch.Tensor:
    """`ClipSimilarity.encode_image` with gradients, for images of CLIP's own size."""
    return F.normalize(clip.clip.encode_image((images - clip.mean) / clip.std), dim=-1)


def spherical(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The mean squared distance on the sphere of unit vectors, twice: the authors' loss for CLIP's features."""
    return ((a - b).norm(dim=-1) / 2).clamp(max=1).arcsin().square().mul(2).mean()


def self_similarity(clip: ClipSimilarity, image: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) -> (N, N): the cosines between all places of CLIP's deepest map of features that has 4x4 or more."""
    if image.shape[-2:] != (clip.size, clip.size):
        image = F.interpolate(image, (clip.size, clip.size), mode="bicubic", antialias=True).clamp(0, 1)
    maps = clip.clip.visual.forward_intermediates((image - clip.mean) / clip.std, intermediates_only=True)[
        "image_intermediates"
    ]
    deepest = next(m for m in reversed(maps) if m.shape[-1] >= 4)[0].flatten(1)
    places = F.normalize(deepest, dim=0)
    return places.T @ places
