"""Stage 4, section 3.2 of InstructPix2Pix: a text-to-image model learns to edit.

The UNet's first convolution gets extra input channels for the latent of the input image, E(c_I), and learns
L = E || eps - eps_theta(z_t, t, E(c_I), c_T) ||^2 on the pairs, where z_t is the noisy latent of the *edited* image.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ip2p.loop import train_loop
from ip2p.pairs import as_tensor, read_pairs
from ip2p.profiles import Profile, get_profile, load_edit_pipeline, load_text_to_image
from ip2p.prompt_to_prompt import embed


def widen_input(unet, extra: int = 4):
    """Give `conv_in` `extra` zero-initialised input channels; weight *and* bias are kept, so that at step 0 the UNet
    gives exactly the base model's output whatever the conditioning image. Changes `unet` and returns it."""
    old = unet.conv_in
    new = nn.Conv2d(old.in_channels + extra, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=old.in_channels + extra)
    return unet


def conditioning_dropout(n: int, generator: torch.Generator, rate: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of n samples lose their text, and which their image: `rate` text only, `rate` image only, `rate` both.

    Returns (drop_text, drop_image), (n,) bool each.
    """
    u = torch.rand(n, generator=generator)
    return u < 2 * rate, (u >= rate) & (u < 3 * rate)


def add_noise(z: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """z_t = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise. z, noise: (B, c, h, w); alpha_bar: (B,)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * z + (1 - a).sqrt() * noise


def min_snr_loss(eps: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, gamma: float = 5.0) -> torch.Tensor:
    """|eps - noise|^2, weighted by min(SNR, gamma) / SNR (Hang et al., arXiv 2303.09556). Returns a scalar."""
    snr = alpha_bar / (1 - alpha_bar)
    return ((eps - noise).square().mean((1, 2, 3)) * snr.clamp(max=gamma) / snr).mean()


def stratified_timesteps(n: int, generator: torch.Generator, steps: int = 1000) -> torch.Tensor:
    """n timesteps, one from each n-th of the range: as uniform as independent draws, with less variance."""
    return ((torch.arange(n) + torch.rand(n, generator=generator)) * steps / n).long().clamp(max=steps - 1)


@torch.no_grad()
def cache_latents(pipe, pairs: list[dict], batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning latents (posterior mode, *unscaled*) and target latents (mode, scaled), (n, c, h, w) each."""
    device, out = pipe.vae.device, []
    for name in ("original_image", "edited_image"):
        modes = [pipe.vae.encode(as_tensor([p[name] for p in pairs[i:i + batch]]).to(device) * 2 - 1)
                 .latent_dist.mode().cpu() for i in range(0, len(pairs), batch)]
        out.append(torch.cat(modes))
    return out[0], out[1] * pipe.vae.config.scaling_factor


def edit_loss(unet, alpha_bar: torch.Tensor, source: torch.Tensor, target: torch.Tensor, text: torch.Tensor,
              empty: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One batch of the loss above. source: E(c_I) unscaled, target: scaled latents, (B, c, h, w); text: (B, T, d);
    empty: (1, T, d), the features of "". Returns a scalar."""
    n, device = len(source), target.device
    drop_text, drop_image = (d.to(device) for d in conditioning_dropout(n, generator))
    text = torch.where(drop_text[:, None, None], empty, text)
    source = torch.where(drop_image[:, None, None, None], torch.zeros_like(source), source)
    t = stratified_timesteps(n, generator, len(alpha_bar))[torch.randperm(n, generator=generator)]
    noise = torch.randn(target.shape, generator=generator).to(device)
    a = alpha_bar[t].to(device)
    eps = unet(torch.cat([add_noise(target, noise, a), source], 1), t.to(device), text).sample
    return min_snr_loss(eps, noise, a)


def new_editor(profile: str | Profile = "mini"):
    """A StableDiffusionInstructPix2PixPipeline with the text-to-image model's weights and a widened UNet."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    base = load_text_to_image(profile)
    widen_input(base.unet)
    return StableDiffusionInstructPix2PixPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet,
        scheduler=base.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def train(pairs: str | Path | list[dict], out: str | Path, profile: str | Profile = "mini", *, steps: int | None = None,
          batch: int | None = None, lr: float | None = None, seed: int = 0, start: str | Path | None = None,
          sample=None, sample_minutes: float = 8.0, device: str = "cpu"):
    """Train an editor on pairs (a folder, or rows of `read_pairs`) and save it as a stock pipeline folder.

    Goes on from `out/work` if that run was interrupted; `start`: an editor's folder to begin from instead of the
    text-to-image model. `sample(pipe, step)` is called now and then. Returns (pipeline, log).
    """
    profile = get_profile(profile)
    steps, batch, lr = steps or profile.train_steps, batch or profile.train_batch, lr or profile.train_lr
    rows = pairs if isinstance(pairs, list) else read_pairs(pairs)
    pipe = (load_edit_pipeline(str(start)) if start else new_editor(profile)).to(device)
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    source, target = cache_latents(pipe, rows)
    instructions = [r["edit_prompt"] for r in rows]
    empty = embed(pipe, [""])
    alpha_bar = pipe.scheduler.alphas_cumprod.float().cpu()

    def loss_fn(unet, generator, step):
        i = torch.randint(len(rows), (batch,), generator=generator)
        text = embed(pipe, [instructions[k] for k in i.tolist()])
        return edit_loss(unet, alpha_bar, source[i].to(device), target[i].to(device), text, empty, generator)

    # half of the steps cool down: after the first steps, the loss falls with the learning rate
    log = train_loop(loss_fn, pipe.unet, Path(out) / "work", steps=steps, lr=lr, seed=seed, ema_decay=0.999,
                     sample=(lambda step: sample(pipe, step)) if sample else None, sample_minutes=sample_minutes,
                     desc="training", muon=profile.muon, warmup=min(100, max(1, steps // 10)), decay=0.5)
    pipe.save_pretrained(Path(out))
    return pipe, log
