"""What every stage needs of a latent diffusion model: text features, noise, guidance, the clean latent."""

from __future__ import annotations

import numpy as np
import torch


def alpha_bar_at(scheduler, t: float) -> float:
    """The cumulative alpha of a timestep, which may lie between two whole ones."""
    alphas = scheduler.alphas_cumprod
    return float(np.interp(float(t), np.arange(len(alphas)), alphas.cpu().numpy()))


def to_x0(prediction: torch.Tensor, z: torch.Tensor, alpha_bar: float, kind: str = "epsilon") -> torch.Tensor:
    """The clean latent that a prediction of `kind` (of diffusers' prediction_type) means. z: the UNet's input."""
    a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if kind == "epsilon":
        return (z - b * prediction) / a
    return a * z - b * prediction if kind == "v_prediction" else prediction


def from_x0(x0: torch.Tensor, z: torch.Tensor, alpha_bar: float, kind: str = "epsilon") -> torch.Tensor:
    """The inverse of `to_x0`: the prediction that means x0."""
    a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if kind == "epsilon":
        return (z - a * x0) / b
    return (a * z - x0) / b if kind == "v_prediction" else x0


def new_scheduler(scheduler, name: str | None = None):
    """A fresh copy of a diffusers scheduler, or another one of the same noise schedule, by its class name."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

    name = name or type(scheduler).__name__
    names = [
        k.name for k in KarrasDiffusionSchedulers if k.name != "EDMEulerScheduler"
    ]  # not for such models
    if name not in names:
        raise ValueError(f"there is no scheduler {name!r} for such models; choose one of {', '.join(names)}")
    return getattr(diffusers, name).from_config(scheduler.config)


@torch.no_grad()
def embed(pipe, prompts: list[str]) -> torch.Tensor:
    """Token features, (n, T, d)."""
    ids = pipe.tokenizer(
        prompts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return pipe.text_encoder(ids.to(pipe.text_encoder.device))[0]


def latent_shape(unet) -> tuple[int, int, int]:
    return unet.config.in_channels, unet.config.sample_size, unet.config.sample_size


def guided(unet, scheduler, z: torch.Tensor, t, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance: z (R, c, h, w), text (2R, T, d) unconditional first, scale (R,) -> prediction"""
    z = scheduler.scale_model_input(z, t)
    uncond, cond = unet(torch.cat([z, z]), t, text).sample.chunk(2)
    return uncond + scale[:, None, None, None] * (cond - uncond)


def decode(pipe, z: torch.Tensor) -> torch.Tensor:
    """Latents -> images in [0, 1]."""
    return (pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def add_noise(z: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """z_t = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise. z, noise: (B, c, h, w); alpha_bar: (B,)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * z + (1 - a).sqrt() * noise


def min_snr_loss(
    eps: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, gamma: float = 5.0
) -> torch.Tensor:
    """|eps - noise|^2, weighted by min(SNR, gamma) / SNR (Hang et al., arXiv 2303.09556); gamma infinite: not weighted.
    Returns a scalar."""
    snr = alpha_bar / (1 - alpha_bar)
    return ((eps - noise).square().mean((1, 2, 3)) * snr.clamp(max=gamma) / snr).mean()


def stratified_timesteps(n: int, generator: torch.Generator, steps: int = 1000) -> torch.Tensor:
    """n timesteps, one from each n-th of the range: as uniform as independent draws, with less variance."""
    return ((torch.arange(n) + torch.rand(n, generator=generator)) * steps / n).long().clamp(max=steps - 1)
