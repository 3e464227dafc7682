"""The autoencoder of mini-sd: diffusers' AutoencoderKL, 128 px -> 8 x 16 x 16 latents of unit variance a
channel.

It is trained in three phases, as Stable Diffusion's was (Rombach et al., arXiv 2112.10752, appendix G):
pixels and their differences first; then a perceptual distance too; from half-way on an adversarial term,
for crisp outlines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ip2p.common.durable import append_line
from ip2p.common.images import to_float, to_uint8
from ip2p.common.train_loop import train_loop
from ip2p.miniworld.held_out import HELD_OUT, scenes
from ip2p.models.perceptual import Critic, PerceptualNet, build_perceptual, hinge
from ip2p.models.renders import cached_renders, draw, save_sheet

# That of Stable Diffusion 1.5, so "scaled" and "unscaled" stay different things here too.
SCALING_FACTOR = 0.18215
# By size in pixels: channels of the blocks (a block more at 128 px, so latents are 16 x 16 in both) and
# of the latents.
CHANNELS = {64: (16, 32, 64), 128: (16, 24, 48, 96)}
LATENT_CHANNELS = {64: 4, 128: 8}
PERCEPTUAL_WEIGHT, KL_WEIGHT = 0.2, 1e-3  # first guesses; no others were tried
ADVERSARIAL_WEIGHT = 0.5  # that of Stable Diffusion's
SETS = ((5000, 1, "plain"), (5000, 3, "even"))  # (renders, seed, mix) to learn from


def new_autoencoder(size: int = 128, latent_channels: int | None = None):
    """An untrained AutoencoderKL for pictures `size` pixels wide (64 or 128)."""
    from diffusers import AutoencoderKL

    channels = CHANNELS[size]
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=latent_channels or LATENT_CHANNELS[size],
        sample_size=size,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,  # every part sees its surroundings only: cheap, and fast to learn
    )


class Contest(nn.Module):
    """The autoencoder and its critic: one module, so that one loop trains, averages and saves both."""

    def __init__(self, vae, critic: Critic):
        super().__init__()
        self.vae, self.critic = vae, critic


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbours, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def distance(y: torch.Tensor, x: torch.Tensor, perceptual: PerceptualNet | None = None) -> torch.Tensor:
    """How far reconstructions `y` are from pictures `x`: L1 on pixels and on their differences, and the
    perceptual distance if a network for it is given."""
    crisp = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    pixels = F.l1_loss(y, x) + 0.5 * crisp
    return pixels + PERCEPTUAL_WEIGHT * perceptual.distance(y, x) if perceptual else pixels


def losses(
    contest: Contest,
    x: torch.Tensor,
    generator: torch.Generator,
    perceptual: PerceptualNet | None = None,
    adversarial: float | None = None,
) -> Iterator[torch.Tensor]:
    """The parts of one step's loss on pictures x (B, 3, h, w) in [-1, 1].

    First the autoencoder's: the distance, a small KL term (keeps latents smooth) and, if `adversarial`
    is a number, the critic's displeasure, `adversarial` times as strong as the distance. Then the
    critic's own."""
    vae, critic = contest.vae, contest.critic
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
    y = vae.decode(posterior.mean + posterior.std * noise).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    if adversarial is None:
        yield distance(y, x, perceptual) + KL_WEIGHT * kl
        return
    critic.requires_grad_(False)
    yield adversarial_loss(vae, critic, y, x, perceptual, adversarial) + KL_WEIGHT * kl
    critic.requires_grad_(True)
    yield hinge(critic, x, y.detach())


def adversarial_loss(
    vae, critic: Critic, y: torch.Tensor, x: torch.Tensor, perceptual: PerceptualNet | None, strength: float
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
    z = torch.cat([vae.encode(to_float(p)).latent_dist.mean for p in pictures.split(64)])
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
    """On `n` renders of the mix "plain" that were never trained on, dB."""
    pictures = torch.from_numpy(draw(scenes(n, HELD_OUT), vae.config.sample_size, desc="held-out renders"))
    return psnr(decode(vae, encode(vae, pictures)), pictures)


def measure(vae, work: Path, n: int = 250) -> dict[str, float]:
    """PSNR in dB and sharpness on `n` renders each of the mixes "plain" and "even" that were never
    trained on."""
    size = vae.config.sample_size
    pictures = torch.cat([cached_renders(work, n, HELD_OUT, mix, size)[1] for mix in ("plain", "even")])
    again = decode(vae, encode(vae, pictures))
    return {"psnr": round(psnr(again, pictures), 2), "sharpness": round(sharpness(again, pictures), 3)}


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
    middle = slice(len(pictures) // 2 - 12, len(pictures) // 2 + 12)  # half of them plain, half even
    pairs = torch.stack([pictures[middle], again[middle]], 1).flatten(0, 1)
    save_sheet(pairs, folder / f"sheet-{step:06d}.png", zoom=3)


def adversarial_strength(share: float, start: float) -> float | None:
    """Of the adversarial term once a `share` of the steps is done: None before `start`; 0 for 2% of the
    steps, in which the critic learns and is not yet listened to; then the full weight."""
    if share < start:
        return None
    return ADVERSARIAL_WEIGHT if share >= start + 0.02 else 0.0


def build(
    work: Path,
    *,
    size: int = 128,
    latent_channels: int | None = None,
    device: str = "cpu",
    steps: int = 14_000,
    batch: int = 4,
    lr: float = 1.5e-3,
    muon: bool = True,
    perceptual_from: float = 0.2,
    adversarial_from: float = 0.5,
    perceptual_steps: int = 1000,
    seed: int = 0,
    sets=SETS,
    stop_after: int | None = None,
    sample_minutes: float = 15,
    name: str = "autoencoder",
):
    """Train from nothing (or from the checkpoint in `work`/`name`) and normalise. Returns the AutoencoderKL.

    The perceptual and the adversarial term join in at a share of the steps. Beside the loss,
    `measures.jsonl` has the PSNR and the sharpness of held-out pictures now and then."""
    torch.manual_seed(seed)
    contest = Contest(new_autoencoder(size, latent_channels), Critic()).to(device)
    drawn = [cached_renders(work, n, first, mix, size) for n, first, mix in sets]
    pictures = torch.cat([some for _, some in drawn])
    test = torch.cat([cached_renders(work, 32, HELD_OUT, mix, size)[1] for mix in ("plain", "even")])
    perceptual = None  # made when it is first needed

    def step_loss(model, generator, step):
        nonlocal perceptual
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        x = to_float(pictures[rows].to(device))
        share = step / steps
        if share >= perceptual_from and perceptual is None:
            told = [scene for some, _ in drawn for scene in some]
            perceptual = build_perceptual(
                work, told, pictures, device=device, steps=perceptual_steps, seed=seed
            )
        return losses(model, x, generator, perceptual, adversarial_strength(share, adversarial_from))

    train_loop(
        step_loss,
        contest,
        work / name,
        steps=steps,
        lr=lr,
        seed=seed,
        ema_decay=0.998,
        sample=lambda step: report(contest.vae, test, work / name, step),
        sample_minutes=sample_minutes,
        desc=name,
        weight_decay=0.0,
        decay=0.7,
        muon=muon,
        stop_after=stop_after,
    )
    normalise_latents(contest.vae, pictures[:: -(-len(pictures) // 2048)])  # of every set
    return contest.vae
