"""The autoencoder of mini-sd: diffusers' AutoencoderKL, 128 px -> 16 x 16 x 16 latents of unit variance a
channel.

It is trained with the losses of Stable Diffusion's (Rombach et al., arXiv 2112.10752, appendix G), in two
parts. First encoder and decoder learn together, by pixels, their differences and a perceptual distance
(`learn_to_encode`). Then the encoder is frozen, and the decoder learns on with an adversarial term besides,
for crisp outlines (`learn_to_decode`). A painter learns latents, which the second part leaves as they are; so
its training may begin after the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ip2p.common.durable import append_line
from ip2p.common.images import to_float, to_uint8
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import Scene
from ip2p.miniworld.held_out import HELD_OUT, scenes
from ip2p.models.perceptual import Critic, PerceptualNet, build_perceptual, hinge
from ip2p.models.renders import cached_renders, draw, save_sheet

SIZE = 128  # pixels a side
# That of Stable Diffusion 1.5, so "scaled" and "unscaled" stay different things here too.
SCALING_FACTOR = 0.18215
CHANNELS = (16, 24, 48, 96)  # of the blocks: three times the sides are halved
LATENT_CHANNELS = 16
PERCEPTUAL_WEIGHT = 0.2  # a first guess; no other was tried
KL_WEIGHT = 1e-4
ADVERSARIAL_WEIGHT = 0.5  # that of Stable Diffusion's
WARM_UP = 0.02  # share of the decoder's steps in which its critic learns and is not yet listened to
SETS = ((5000, 1, "wild"), (5000, 3, "even"))  # (renders, seed, mix) to learn from


def new_autoencoder(size: int = SIZE):
    """An untrained AutoencoderKL. size: of the pictures in pixels, which the config notes; the weights fit
    any."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT_CHANNELS,
        sample_size=size,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,  # every part sees its surroundings only: cheap, and fast to learn
    )


class Contest(nn.Module):
    """The autoencoder and the critic of its decoder: one module, so that one loop trains, averages and saves
    both."""

    def __init__(self, vae, critic: Critic):
        super().__init__()
        self.vae, self.critic = vae, critic


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbours, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def distance(y: torch.Tensor, x: torch.Tensor, perceptual: PerceptualNet) -> torch.Tensor:
    """How far reconstructions `y` are from pictures `x`: L1 on pixels and on their differences, and the
    perceptual distance."""
    crisp = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    pixels = F.l1_loss(y, x) + 0.5 * crisp
    return pixels + PERCEPTUAL_WEIGHT * perceptual.distance(y, x)


def encoding_loss(
    vae, x: torch.Tensor, generator: torch.Generator, perceptual: PerceptualNet
) -> torch.Tensor:
    """How far pictures x (B, 3, h, w) in [-1, 1] are from what comes back of a sample of their latents, and
    KL_WEIGHT times the latents' divergence from N(0, 1), which keeps them smooth. Returns a scalar."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(sample_of(posterior, generator)).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return distance(y, x, perceptual) + KL_WEIGHT * kl


def decoding_losses(
    contest: Contest,
    x: torch.Tensor,
    generator: torch.Generator,
    perceptual: PerceptualNet,
    adversarial: float,
) -> Iterator[torch.Tensor]:
    """The two parts of one step's loss on pictures x (B, 3, h, w) in [-1, 1], after a frozen encoder.

    First the decoder's: the distance, and the critic's displeasure, `adversarial` times as strong. Then the
    critic's own."""
    vae, critic = contest.vae, contest.critic
    with torch.no_grad():
        z = sample_of(vae.encode(x).latent_dist, generator)
    y = vae.decode(z).sample
    critic.requires_grad_(False)
    yield adversarial_loss(vae, critic, y, x, perceptual, adversarial)
    critic.requires_grad_(True)
    yield hinge(critic, x, y.detach())


def sample_of(posterior, generator: torch.Generator) -> torch.Tensor:
    """A sample of the latents' distribution, (B, c, h, w); the noise is drawn on the CPU."""
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return posterior.mean + posterior.std * noise.to(posterior.mean.device)


def adversarial_loss(
    vae, critic: Critic, y: torch.Tensor, x: torch.Tensor, perceptual: PerceptualNet, strength: float
) -> torch.Tensor:
    """The distance of `y` to `x` minus the critic's logits, these weighted so that their gradient at the
    decoder's last weights is `strength` times as long as the distance's (LDM's adaptive weight; VQGAN,
    arXiv 2012.09841, equation 7)."""
    end = y.detach().requires_grad_()  # both gradients are taken up to here, then once through the rest
    far, fooled = distance(end, x, perceptual), critic(end).mean()
    (pull,) = torch.autograd.grad(far, end)
    (push,) = torch.autograd.grad(-fooled, end)
    last = vae.decoder.conv_out.weight
    lengths = []
    for gradient in (pull, push):
        (at_last,) = torch.autograd.grad(y, last, gradient, retain_graph=True)
        lengths.append(at_last.norm())
    weight = strength * (lengths[0] / (lengths[1] + 1e-6)).clamp(0, 1e4)
    value = far.detach() - weight * fooled.detach()
    through = (y * (pull + weight * push)).sum()  # its gradient is the one wanted ...
    return through - through.detach() + value  # ... and this its value


@torch.no_grad()
def normalise_latents(vae, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold a per-channel shift and scale into the 1x1 quant convolutions, so that every latent channel of
    `pictures` (uint8) has mean 0 and standard deviation 1 / 0.18215. Stock pipelines multiply by 0.18215
    and get unit variance.

    Returns the mean and standard deviation that were folded away, (latent channels,) each.
    """
    z = encode(vae, pictures).to(vae.device)
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALING_FACTOR
    q, p, c = vae.quant_conv, vae.post_quant_conv, len(mean)
    q.bias[:c] -= mean  # the posterior's mean ...
    q.weight[:c] /= std[:, None, None, None]
    q.bias[:c] /= std
    q.bias[c:] -= 2 * std.log()  # ... and its log variance
    p.bias += p.weight[:, :, 0, 0] @ mean  # the decoder undoes both
    p.weight *= std[None, :, None, None]
    return mean, std


@torch.no_grad()
def encode(vae, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Posterior modes, unscaled: (n, 3, h, w) uint8 -> (n, latent channels, 16, 16) float32."""
    device = next(vae.parameters()).device
    return torch.cat(
        [vae.encode(to_float(p.to(device))).latent_dist.mode().cpu() for p in pictures.split(batch)]
    )


@torch.no_grad()
def decode(vae, latents: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Unscaled latents -> pictures, uint8."""
    device = next(vae.parameters()).device
    return torch.cat([to_uint8(vae.decode(z.to(device)).sample).cpu() for z in latents.split(batch)])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio over pictures, dB; uint8 inputs (n, 3, h, w)."""
    mse = ((a.float() - b.float()) ** 2).mean((1, 2, 3)).clamp_min(1e-3)
    return (10 * torch.log10(255**2 / mse)).mean().item()


def sharpness(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean gradient magnitude of pictures `a` over that of `b`, both uint8 (n, 3, h, w): below 1, `a` is
    blurred."""

    def magnitude(x: torch.Tensor) -> torch.Tensor:
        down, across = edges(x.float())
        return (down[..., :-1] ** 2 + across[..., :-1, :] ** 2).sqrt().mean()

    return (magnitude(a) / magnitude(b)).item()


def held_out_psnr(vae, n: int = 500) -> float:
    """On `n` renders of the mix "wild" that were never trained on, dB."""
    pictures = torch.from_numpy(draw(scenes(n, HELD_OUT), vae.config.sample_size, desc="held-out renders"))
    return psnr(decode(vae, encode(vae, pictures)), pictures)


def report(vae, pictures: torch.Tensor, folder: Path, step: int) -> None:
    """Note in `folder` how held-out pictures come back at a step: figures, and a sheet of 24 beside the
    renders."""
    again = decode(vae, encode(vae, pictures))
    row = {
        "step": step,
        "psnr": round(psnr(again, pictures), 2),
        "sharpness": round(sharpness(again, pictures), 3),
    }
    print(row, flush=True)
    append_line(folder / "measures.jsonl", row)
    half = len(pictures) // 2
    middle = slice(max(0, half - 12), half + 12)  # half of them wild, half even
    save_beside(pictures[middle], again[middle], folder / f"sheet-{step:06d}.png")


def save_beside(pictures: torch.Tensor, again: torch.Tensor, path: Path) -> None:
    """A sheet, three times as wide, of pictures (n, 3, h, w) uint8, each followed by its reconstruction."""
    save_sheet(torch.stack([pictures, again], 1).flatten(0, 1), path, zoom=3)


def save_reconstructions(vae, path: Path, n: int = 24) -> None:
    """The sheet of n held-out renders, half of the mix "wild" and half of "even", for a card."""
    todo = scenes(n - n // 2, HELD_OUT, "wild") + scenes(n // 2, HELD_OUT, "even")
    pictures = torch.from_numpy(draw(todo, vae.config.sample_size, desc="held-out renders"))
    save_beside(pictures, decode(vae, encode(vae, pictures)), path)


def adversarial_strength(step: int, steps: int) -> float:
    """Of the adversarial term at a step of the decoder's training: 0 for the first WARM_UP, then the full
    weight."""
    return 0.0 if step < WARM_UP * steps else ADVERSARIAL_WEIGHT


def some_renders(work: Path, sets) -> tuple[list[Scene], torch.Tensor]:
    """The scenes of `sets` and their pictures (n, 3, SIZE, SIZE) uint8."""
    todo: list[Scene] = []
    pictures = []
    for n, seed, mix in sets:
        of_set, drawn = cached_renders(work, n, seed, mix, SIZE)
        todo += of_set
        pictures.append(drawn)
    return todo, torch.cat(pictures)


def learn(step_loss, model: nn.Module, vae, work: Path, name: str, shown: int, **options) -> None:
    """One of the two parts: `train_loop`, with what comes back of held-out pictures reported now and then.
    Its checkpoints lie in `work`/`name`."""
    _, test = some_renders(work, ((shown, HELD_OUT, "wild"), (shown, HELD_OUT, "even")))
    train_loop(
        step_loss,
        model,
        work / name,
        ema_decay=0.998,
        sample=lambda step: report(vae, test, work / name, step),
        sample_minutes=15,
        desc=name,
        weight_decay=0.0,
        decay=0.7,
        muon=True,
        **options,
    )


def learn_to_encode(
    work: Path,
    *,
    device: str | torch.device = "cpu",
    steps: int = 4500,
    batch: int = 16,
    lr: float = 1.5e-3,
    perceptual_steps: int = 1000,
    seed: int = 0,
    sets=SETS,
    shown: int = 32,
    stop_after: int | None = None,
):
    """Train encoder and decoder from nothing (or from the checkpoint in `work`/encoder) and normalise the
    latents. Returns the AutoencoderKL.

    batch: renders a step; perceptual_steps: of the network of the perceptual distance, which is trained
    before; shown: held-out pictures of each mix whose PSNR and sharpness `measures.jsonl` has now and
    then."""
    todo, pictures = some_renders(work, sets)
    perceptual = build_perceptual(work, todo, pictures, device=device, steps=perceptual_steps, seed=seed)
    torch.manual_seed(seed)
    vae = new_autoencoder().to(device)

    def step_loss(model, generator, step):
        x = some_pictures(pictures, batch, generator).to(device)
        return encoding_loss(model, to_float(x), generator, perceptual)

    options = {"shown": shown, "steps": steps, "lr": lr, "seed": seed, "stop_after": stop_after}
    learn(step_loss, vae, vae, work, "encoder", **options)
    normalise_latents(vae, pictures[:: -(-len(pictures) // 2048)])  # of every set
    return vae


def learn_to_decode(
    work: Path,
    vae,
    *,
    device: str | torch.device = "cpu",
    steps: int = 3000,
    batch: int = 16,
    lr: float = 1e-3,
    perceptual_steps: int = 1000,
    seed: int = 0,
    sets=SETS,
    shown: int = 32,
    stop_after: int | None = None,
):
    """Train the decoder of `vae`, which `learn_to_encode` made, on (or from the checkpoint in
    `work`/decoder), now against a critic besides. The latents stay as they are. Returns `vae`.

    The other arguments are those of `learn_to_encode`."""
    todo, pictures = some_renders(work, sets)
    perceptual = build_perceptual(work, todo, pictures, device=device, steps=perceptual_steps, seed=seed)
    torch.manual_seed(seed)
    contest = Contest(vae, Critic()).to(device)
    freeze_encoder(vae)

    def step_loss(model, generator, step):
        x = some_pictures(pictures, batch, generator).to(device)
        strength = adversarial_strength(step, steps)
        return decoding_losses(model, to_float(x), generator, perceptual, strength)

    options = {"shown": shown, "steps": steps, "lr": lr, "seed": seed, "stop_after": stop_after}
    learn(step_loss, contest, vae, work, "decoder", **options)
    return vae


def freeze_encoder(vae) -> None:
    """What makes latents of pictures learns no more."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


def some_pictures(pictures: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """n of them at random, each as likely."""
    return pictures[torch.randint(len(pictures), (n,), generator=generator)]
