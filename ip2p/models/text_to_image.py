"""mini-sd: a small Stable Diffusion (UNet with cross-attention on 16x16 latents), trained on renders and
captions."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ip2p.common.diffusion import (
    add_noise,
    guided_step,
    latent_shape,
    min_snr_loss,
    seeded,
    starting_latents,
    stratified_timesteps,
)
from ip2p.common.durable import replacing
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import Scene, caption
from ip2p.miniworld.held_out import HELD_OUT, scenes
from ip2p.models.autoencoder import SCALING_FACTOR, decode, encode
from ip2p.models.files import save_half, write_log
from ip2p.models.renders import cached_renders, save_sheet
from ip2p.models.text_encoder import WIDTH, tokenise

EMPTY_SHARE = 0.1  # of the captions that are left out


def new_unet(side: int = 16, channels: int = 4):
    """A UNet2DConditionModel for latents (B, channels, side, side) and token features (B, T, WIDTH)."""
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(64, 96, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
        attention_head_dim=4,
    )


def new_scheduler():
    """Euler ancestral, as the paper samples. Betas go up to 0.02, further than Stable Diffusion 1.5's 0.012:
    at 16x16 the latter leaves the mean colour visible at the last training step, and a sampler that starts
    from pure noise then cannot paint a dark night."""
    return EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def cached_latents(work: Path, vae, pictures: torch.Tensor) -> torch.Tensor:
    """Scaled latents of pictures (n, 3, size, size) uint8, (n, c, h, w) fp16, kept as
    `work/latents-N-SIZE.pt`."""
    path = work / f"latents-{len(pictures)}-{pictures.shape[-1]}.pt"
    if not path.exists():
        latents = (encode(vae, pictures) * SCALING_FACTOR).half()
        with replacing(path) as tmp:
            torch.save(latents, tmp)
    return torch.load(path)


def some_caption(scene: Scene, rng: random.Random) -> str:
    """A caption, or now and then none, for classifier-free guidance."""
    return "" if rng.random() < EMPTY_SHARE else caption(scene, rng)


def denoising_loss(
    unet, alpha_bar: torch.Tensor, z: torch.Tensor, text: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """|| eps - eps_theta(z_t, t, c) ||^2, weighted by min-SNR. z: (B, c, h, w), scaled; text: (B, T, d),
    whose device counts; alpha_bar: (timesteps,). Returns a scalar."""
    t = stratified_timesteps(len(z), generator)
    noise = torch.randn(z.shape, generator=generator)
    z_t = add_noise(z, noise, alpha_bar[t])
    eps = unet(z_t.to(text.device), t.to(text.device), text).sample
    return min_snr_loss(eps, noise.to(text.device), alpha_bar[t].to(text.device))


def build(
    work: Path,
    vae,
    tokenizer,
    text_encoder,
    *,
    size: int = 64,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    steps: int = 3_500,
    batch: int = 32,
    renders: int = 24_000,
    shown: int = 64,
    seed: int = 0,
):
    """Train from nothing or from `work`'s checkpoint. Returns the UNet with its averaged weights and the log.

    size: pixels a side of the pictures; renders: how many to learn from; shown: pictures on the sheet of
    samples that is drawn now and then.
    """
    vae = vae.to(device).eval()
    text_encoder = text_encoder.to(device).eval().requires_grad_(False)
    todo, pictures = cached_renders(work, renders, seed=2, size=size)
    latents = cached_latents(work, vae, pictures)
    del pictures
    torch.manual_seed(seed)
    unet = new_unet(latents.shape[-1], latents.shape[1]).to(device, memory_format=torch.channels_last)
    scheduler = new_scheduler()
    alpha_bar = scheduler.alphas_cumprod.float()

    @torch.no_grad()
    def features(texts):
        return text_encoder(tokenise(tokenizer, texts).to(device))[0]

    def step_loss(model, generator, step):
        rows = torch.randint(len(latents), (batch,), generator=generator)
        rng = random.Random(seed * 1_000_003 + step)
        texts = [some_caption(todo[row], rng) for row in rows.tolist()]
        return denoising_loss(model, alpha_bar, latents[rows].float(), features(texts), generator)

    captions = [caption(scene, i) for i, scene in enumerate(scenes(shown, HELD_OUT))]

    def save_samples(step):
        empty = features([""] * shown)
        z = sample_latents(unet, scheduler, features(captions), empty, seeds=range(shown))
        save_sheet(decode(vae, z / SCALING_FACTOR), work / "mini-sd" / f"sheet-{step:06d}.png")

    log = train_loop(
        step_loss,
        unet,
        work / "mini-sd",
        steps=steps,
        lr=1e-3,
        seed=seed,
        dtype=dtype,
        ema_decay=0.999,
        sample=save_samples,
        sample_minutes=10,
        desc="mini-sd",
        muon=True,
    )
    return unet, log


@torch.no_grad()
def sample_latents(
    unet,
    scheduler,
    cond: torch.Tensor,
    uncond: torch.Tensor,
    seeds,
    guidance_scale: float = 3.0,
    steps: int = 25,
) -> torch.Tensor:
    """Plain sampling with classifier-free guidance. cond, uncond: (n, T, d); seeds: n.

    Returns scaled latents (n, c, h, w), of the shape that the UNet is made for.
    """
    device = cond.device
    text = torch.cat([uncond, cond])
    scale = torch.full((len(cond),), guidance_scale, device=device)
    generators = seeded(seeds)
    scheduler.set_timesteps(steps)
    z = starting_latents(scheduler, latent_shape(unet), generators, device)
    for t in scheduler.timesteps:
        z = guided_step(unet, scheduler, z, t, text, scale, generators)
    return z


def save(vae, tokenizer, text_encoder, unet, log: list[dict], folder: Path, card: str) -> None:
    """Write mini-sd as a folder for stock diffusers, its training curve and its card beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder, log)
    (folder / "README.md").write_text(card, encoding="utf-8")
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_half(pipe, folder)
