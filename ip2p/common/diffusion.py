"""What every stage needs of a latent diffusion model: text features, noise, guidance, the clean latent.

Denoising is the same short loop wherever it stands, as in section 3.1.2 of the paper and here:

    scheduler.set_timesteps(steps, device=device)
    generators = seeded(seeds)
    z = starting_latents(scheduler, latent_shape(unet), generators, device)
    for t in scheduler.timesteps:
        z = guided_step(unet, scheduler, z, t, text, scale, generators)

Models may be float32, bfloat16 or float16; latents and what a scheduler does with them are float32 always.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch

# ------------------------------------------------------------------------------------------- in and out


@torch.no_grad()
def embed(pipe, prompts: list[str]) -> torch.Tensor:
    """Token features of prompts, (n, T, d), in the number format of the text encoder. Warns of each end that
    it does not read."""
    ids = pipe.tokenizer(
        prompts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    for prompt in prompts:
        cut = cut_off(pipe.tokenizer, prompt)
        if cut:
            warnings.warn(f"{prompt!r} is too long for the model, which does not read {cut!r}", stacklevel=2)
    return pipe.text_encoder(ids.to(pipe.text_encoder.device))[0]


def cut_off(tokenizer, prompt: str) -> str:
    """The end of a prompt that a text encoder does not read."""
    if len(prompt.encode()) < tokenizer.model_max_length - 2:  # a token has a byte or more
        return ""
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :])


@torch.no_grad()
def decode(pipe, z: torch.Tensor) -> torch.Tensor:
    """Scaled latents (n, c, h, w) -> pictures (n, 3, H, W), float32 in [0, 1]."""
    vae = pipe.vae
    z = z / vae.config.scaling_factor
    pictures = vae.decode(z.to(vae.dtype)).sample.float()
    return (pictures / 2 + 0.5).clamp(0, 1)


def latent_shape(unet) -> tuple[int, int, int]:
    """(channels, height, width) of one latent of a text-to-image UNet."""
    return unet.config.in_channels, unet.config.sample_size, unet.config.sample_size


# ------------------------------------------------------------------------------------------- denoising


def new_scheduler(scheduler, name: str | None = None):
    """A fresh copy of a diffusers scheduler, or another one of the same noise schedule, by its class name.

    Raises ValueError for a name that is no scheduler of such models.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

    if name is None:
        return type(scheduler).from_config(scheduler.config)
    names = [kind.name for kind in KarrasDiffusionSchedulers]
    names.remove("EDMEulerScheduler")  # not for such models
    if name not in names:
        raise ValueError(f"there is no scheduler {name!r} for such models; choose one of {', '.join(names)}")
    return getattr(diffusers, name).from_config(scheduler.config)


def seeded(seeds: Iterable[int]) -> list[torch.Generator]:
    """Each sample's own source of noise, on the CPU: a seed means the same noise on every device."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def starting_latents(
    scheduler, shape: tuple[int, ...], generators: list[torch.Generator], device
) -> torch.Tensor:
    """z_T, (n, *shape): each sample's first noise, scaled for the scheduler, whose timesteps are set."""
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return noise.to(device) * scheduler.init_noise_sigma


def guided_prediction(
    unet, scheduler, z: torch.Tensor, t, text: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): uncond + scale (cond - uncond).

    z: (n, c, h, w). text: (2n, T, d), the unconditional half first. scale: (n,). Returns the shape of z,
    float32.
    """
    z = scheduler.scale_model_input(z, t).to(text.dtype)
    uncond, cond = unet(torch.cat([z, z]), t, text).sample.float().chunk(2)
    return uncond + scale[:, None, None, None] * (cond - uncond)


def guided_step(
    unet, scheduler, z: torch.Tensor, t, text: torch.Tensor, scale: torch.Tensor, generators
) -> torch.Tensor:
    """One denoising step of n samples, each with noise from its own generator; see `guided_prediction`."""
    prediction = guided_prediction(unet, scheduler, z, t, text, scale)
    return scheduler.step(prediction, t, z, generator=generators).prev_sample


# ------------------------------------------------------------------------------------------- the clean latent


def alpha_bar_at(scheduler, t: float) -> float:
    """The cumulative alpha of a timestep, which may lie between two whole ones."""
    alphas = scheduler.alphas_cumprod.cpu().numpy()
    return float(np.interp(float(t), np.arange(len(alphas)), alphas))


def to_x0(prediction: torch.Tensor, z: torch.Tensor, alpha_bar: float, kind: str = "epsilon") -> torch.Tensor:
    """The clean latent that a prediction of `kind` (diffusers' prediction_type) means. z: its input."""
    signal = alpha_bar**0.5
    noise = (1 - alpha_bar) ** 0.5
    if kind == "epsilon":
        return (z - noise * prediction) / signal
    if kind == "v_prediction":
        return signal * z - noise * prediction
    return prediction


def from_x0(x0: torch.Tensor, z: torch.Tensor, alpha_bar: float, kind: str = "epsilon") -> torch.Tensor:
    """The inverse of `to_x0`: the prediction that means x0."""
    signal = alpha_bar**0.5
    noise = (1 - alpha_bar) ** 0.5
    if kind == "epsilon":
        return (z - signal * x0) / noise
    if kind == "v_prediction":
        return (signal * z - x0) / noise
    return x0


# ------------------------------------------------------------------------------------------- training


def add_noise(z: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """z_t = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise. z, noise: (B, c, h, w); alpha_bar: (B,)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * z + (1 - a).sqrt() * noise


def velocity(z: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z (Salimans and Ho, arXiv 2202.00512, appendix D).

    z, noise: (B, c, h, w); alpha_bar: (B,). Returns the shape of z."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * z


def diffusion_loss(
    prediction: torch.Tensor,
    z: torch.Tensor,
    noise: torch.Tensor,
    alpha_bar: torch.Tensor,
    kind: str = "epsilon",
    gamma: float = 5.0,
    places: torch.Tensor | None = None,
    weight: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Mean squared error of a prediction of `kind` (diffusers' prediction_type), each sample's weighted by

        min(SNR, gamma) / SNR              for "epsilon" (min-SNR; Hang et al., arXiv 2303.09556)
        min(SNR + 1, gamma) / (SNR + 1)    for "v_prediction"

    with SNR = alpha_bar / (1 - alpha_bar). gamma infinite: not weighted.

    Both cap at gamma what an error of the clean latent costs: an error of the noise is SNR times that one,
    an error of v SNR + 1 times (Salimans and Ho, arXiv 2202.00512). The min-SNR paper's own weight for v,
    min(SNR, gamma) / (SNR + 1), is its loss of the noise in other words; it is nearly 0 where nearly all is
    noise, which is what v is here to be taught.

    prediction, z, noise: (B, c, h, w), z the clean latents; alpha_bar: (B,). places: (B, 1, h, w), how much
    each place counts beside the others of its picture; None: all alike. weight: (B,), how much each sample
    counts. Returns a scalar. Raises ValueError for another kind."""
    snr = alpha_bar / (1 - alpha_bar)
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = velocity(z, noise, alpha_bar)
        snr = snr + 1
    else:
        raise ValueError(f"the loss of {kind} is not here; only those of epsilon and v_prediction are")
    square = (prediction - target).square()
    if places is not None:
        square = square * places / places.mean((1, 2, 3), keepdim=True)
    error = square.mean((1, 2, 3))
    return (error * snr.clamp(max=gamma) / snr * weight).mean()


def stratified_timesteps(n: int, generator: torch.Generator, steps: int = 1000) -> torch.Tensor:
    """n timesteps, one from each n-th of the range: as uniform as independent draws, with less variance."""
    places = (torch.arange(n) + torch.rand(n, generator=generator)) * steps / n
    return places.long().clamp(max=steps - 1)
