"""The autoencoder of mini-sd: diffusers' AutoencoderKL, 64 px -> 4 x 16 x 16 latents of unit variance a
channel."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ip2p.common.images import to_float, to_uint8
from ip2p.common.train_loop import train_loop
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.models.renders import cached_renders, draw, save_sheet, scenes

SCALING_FACTOR = (
    0.18215  # that of Stable Diffusion 1.5, so "scaled" and "unscaled" stay different things here too
)


def new_autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,
    )


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbours, down and across."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def loss(vae, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """L1 on pixels and on their differences (keeps outlines crisp), and a small KL term (keeps latents
    smooth)."""
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
    y = vae.decode(posterior.mean + posterior.std * noise).sample
    crisp = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return F.l1_loss(y, x) + 0.5 * crisp + 2e-3 * kl


@torch.no_grad()
def normalise_latents(vae, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold a per-channel shift and scale into the 1x1 quant convolutions, so that every latent channel of
    `pictures` (uint8) has mean 0 and standard deviation 1 / 0.18215. Stock pipelines multiply by 0.18215
    and get unit variance.

    Returns the mean and standard deviation that were folded away, (4,) each.
    """
    z = torch.cat([vae.encode(to_float(p)).latent_dist.mean for p in pictures.split(256)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALING_FACTOR
    q, p = vae.quant_conv, vae.post_quant_conv
    q.bias[:4] -= mean  # the posterior's mean ...
    q.weight[:4] /= std[:, None, None, None]
    q.bias[:4] /= std
    q.bias[4:] -= 2 * std.log()  # ... and its log variance
    p.bias += p.weight[:, :, 0, 0] @ mean  # the decoder undoes both
    p.weight *= std[None, :, None, None]
    return mean, std


@torch.no_grad()
def encode(vae, pictures: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Posterior modes, unscaled: (n, 3, 64, 64) uint8 -> (n, 4, 16, 16) float32."""
    device = next(vae.parameters()).device
    return torch.cat(
        [vae.encode(to_float(p.to(device))).latent_dist.mode().cpu() for p in pictures.split(batch)]
    )


@torch.no_grad()
def decode(vae, latents: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Unscaled latents -> pictures, uint8."""
    device = next(vae.parameters()).device
    return torch.cat([to_uint8(vae.decode(z.to(device)).sample).cpu() for z in latents.split(batch)])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio over pictures, dB; uint8 inputs (n, 3, h, w)."""
    mse = ((a.float() - b.float()) ** 2).mean((1, 2, 3)).clamp_min(1e-3)
    return (10 * torch.log10(255**2 / mse)).mean().item()


def held_out_psnr(vae, n: int = 500) -> float:
    pictures = torch.from_numpy(draw(scenes(n, HELD_OUT), desc="held-out renders"))
    return psnr(decode(vae, encode(vae, pictures)), pictures)


def build(
    work: Path,
    *,
    device: str = "cpu",
    steps: int = 12_000,
    batch: int = 8,
    renders: int = 12_000,
    seed: int = 0,
):
    """Train from nothing (or from `work`'s checkpoint) and normalise. Returns the AutoencoderKL."""
    torch.manual_seed(seed)
    vae = new_autoencoder().to(device, memory_format=torch.channels_last)
    _, pictures = cached_renders(work, renders, seed=1)
    test = torch.from_numpy(draw(scenes(32, HELD_OUT), desc="held-out renders"))

    def step_loss(model, generator, step):
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        return loss(model, to_float(pictures[rows].to(device)), generator)

    def sample(step):
        again = decode(vae, encode(vae, test))
        print(f"autoencoder, step {step}: {psnr(again, test):.2f} dB", flush=True)
        save_sheet(
            torch.stack([test, again], 1).flatten(0, 1), work / "autoencoder" / f"sheet-{step:06d}.png"
        )

    train_loop(
        step_loss,
        vae,
        work / "autoencoder",
        steps=steps,
        lr=1.2e-3,
        seed=seed,
        ema_decay=0.998,
        sample=sample,
        sample_minutes=6,
        desc="autoencoder",
        weight_decay=0.0,
        decay=0.7,
    )
    normalise_latents(vae, pictures[:4096])
    return vae
