"""mini-sd: a small Stable Diffusion (UNet with cross-attention on 16x16 latents), trained on renders and captions."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from ip2p.common.diffusion import (
    add_noise,
    guided_step,
    latent_shape,
    min_snr_loss,
    seeded,
    starting_latents,
    stratified_timesteps,
)
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import caption
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.models.autoencoder import SCALING_FACTOR, decode, encode
from ip2p.models.renders import cached_renders, save_sheet, scenes
from ip2p.models.text_encoder import WIDTH, tokenise


def new_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 96, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
        attention_head_dim=4,
    )


def new_scheduler():
    """Euler ancestral, as the paper samples. Betas go up to 0.02, further than Stable Diffusion 1.5's 0.012: at 16x16
    the latter leaves the mean colour visible at the last training step, and a sampler that starts from pure noise
    then cannot paint a dark night."""
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def build(
    work: Path,
    vae,
    tokenizer,
    text_encoder,
    *,
    device: str = "cpu",
    steps: int = 3_500,
    batch: int = 32,
    renders: int = 24_000,
    seed: int = 0,
    lr: float = 1e-3,
    stop_after: int | None = None,
):
    """Train from nothing or from `work`'s checkpoint. Returns the UNet with its averaged weights and the log."""
    todo, pictures = cached_renders(work, renders, seed=2)
    vae, text_encoder = vae.to(device).eval(), text_encoder.to(device).eval().requires_grad_(False)
    latent_path = work / f"latents-{renders}.pt"
    if not latent_path.exists():
        torch.save((encode(vae, pictures) * SCALING_FACTOR).half(), latent_path)
    latents = torch.load(latent_path)
    del pictures
    torch.manual_seed(seed)
    unet, scheduler = new_unet().to(device, memory_format=torch.channels_last), new_scheduler()
    alpha_bar = scheduler.alphas_cumprod.float()

    def embed(texts):
        with torch.no_grad():
            return text_encoder(tokenise(tokenizer, texts).to(device))[0]

    def step_loss(model, generator, step):
        rows = torch.randint(len(latents), (batch,), generator=generator)
        z = latents[rows].float()
        rng = random.Random(seed * 1_000_003 + step)
        texts = ["" if rng.random() < 0.1 else caption(todo[i], rng) for i in rows.tolist()]
        t, noise = stratified_timesteps(batch, generator), torch.randn(z.shape, generator=generator)
        z_t = add_noise(z, noise, alpha_bar[t])
        eps = model(z_t.to(device), t.to(device), embed(texts)).sample
        return min_snr_loss(eps, noise.to(device), alpha_bar[t].to(device))

    shown = scenes(64, HELD_OUT)
    captions = [caption(s, random.Random(i)) for i, s in enumerate(shown)]

    def sample(step):
        z = sample_latents(unet, scheduler, embed(captions), embed([""] * len(captions)), seeds=range(64))
        save_sheet(decode(vae, z / SCALING_FACTOR), work / "mini-sd" / f"sheet-{step:06d}.png")

    log = train_loop(
        step_loss,
        unet,
        work / "mini-sd",
        steps=steps,
        lr=lr,
        seed=seed,
        ema_decay=0.999,
        sample=sample,
        sample_minutes=10,
        desc="mini-sd",
        stop_after=stop_after,
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
    """Plain sampling with classifier-free guidance. cond, uncond: (n, T, d). Returns scaled latents."""
    device = cond.device
    text = torch.cat([uncond, cond])
    scale = torch.full((len(cond),), guidance_scale, device=device)
    generators = seeded(seeds)
    scheduler.set_timesteps(steps)
    z = starting_latents(scheduler, latent_shape(unet), generators, device)
    for t in scheduler.timesteps:
        z = guided_step(unet, scheduler, z, t, text, scale, generators)
    return z
