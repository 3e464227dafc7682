"""mini-sd: a small Stable Diffusion (UNet with cross-attention on 16x16 latents), trained on renders and
captions that leave things unsaid."""

from __future__ import annotations

import random
from math import inf
from pathlib import Path

import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ip2p.common.diffusion import (
    add_noise,
    diffusion_loss,
    guided_step,
    latent_shape,
    seeded,
    starting_latents,
)
from ip2p.common.durable import remove_unfinished, save_tensors
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import Scene, caption
from ip2p.miniworld.held_out import HELD_OUT, scenes
from ip2p.models.autoencoder import LATENT_CHANNELS, SCALING_FACTOR, decode, encode
from ip2p.models.files import save_half, write_log
from ip2p.models.renders import draw, draw_things, save_sheet
from ip2p.models.text_encoder import WIDTH, tokenise

BATCH = 256  # pictures a step
RENDERS = 48_000  # to learn from, of the mix "wild"
EMPTY_SHARE = 0.1  # of the captions that are left out
THINGS_COUNT = 5.0  # how much an object or an extra counts beside its background
COMPANY_COUNT = 3.0  # how often a scene with a second object is drawn beside another
CHUNK = 4096  # pictures that are drawn and encoded at once: 200 MB, where all would take 2.4 GB


def new_unet(side: int = 16, channels: int = LATENT_CHANNELS):
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
    from pure noise then cannot paint a dark night.

    The UNet predicts v, not the noise. At the last timestep the signal-to-noise ratio is below 0.0001, so a
    guess of the clean latent from a predicted noise is off by the error of that noise times 100 and more: by
    many times the latent's own deviation. A small painter then begins with nothing that the caption says,
    and paints dark and deaf pictures. From v the guess is off by the error of v itself."""
    return EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        steps_offset=1,
        prediction_type="v_prediction",
    )


def encoded(vae, todo: list[Scene]) -> dict[str, torch.Tensor]:
    """Of n scenes, drawn as wide as `vae` is made for: "latents", scaled, (n, c, h, w) fp16, and "things",
    the places of the latents where objects and extras are, (n, h, w) bool."""
    pictures = torch.from_numpy(draw(todo, vae.config.sample_size))
    latents = encode(vae, pictures) * SCALING_FACTOR
    things = torch.from_numpy(draw_things(todo, latents.shape[-1]))
    return {"latents": latents.half(), "things": things}


def cached_latents(folder: Path, vae, todo: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """What `encoded` says of all scenes, "latents" and "things", kept in `folder` in files of CHUNK scenes
    each. Only one chunk's pictures are in memory; stopped at any moment, it goes on with the next chunk."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder, "*.safetensors")
    parts = []
    for start in tqdm(range(0, len(todo), CHUNK), desc="latents", mininterval=2.0):
        path = folder / f"{start:08}.safetensors"
        if not path.exists():
            save_tensors(encoded(vae, todo[start : start + CHUNK]), path)
        parts.append(load_file(path))
    latents = torch.cat([part["latents"] for part in parts])
    return latents, torch.cat([part["things"] for part in parts])


def how_often(todo: list[Scene]) -> torch.Tensor:
    """How often each scene is drawn beside the others, (n,): those with a second object more often, as they
    are rare and learnt last."""
    return torch.tensor([COMPANY_COUNT if scene.second else 1.0 for scene in todo])


def some_caption(scene: Scene, rng: random.Random) -> str:
    """A caption, or now and then none, for classifier-free guidance."""
    return "" if rng.random() < EMPTY_SHARE else caption(scene, rng)


def log_normal_timesteps(
    n: int, generator: torch.Generator, alpha_bar: torch.Tensor, mean: float = 0.8, std: float = 1.6
) -> torch.Tensor:
    """n timesteps whose noise levels sigma = sqrt((1 - alpha_bar) / alpha_bar) are log-normal (Karras et al.,
    arXiv 2206.00364, table 1), one from each n-th of the distribution.

    alpha_bar: of all timesteps, (T,). mean, std: of log sigma. Returns (n,) int64, the nearest timesteps in
    log sigma."""
    shares = (torch.arange(n) + torch.rand(n, generator=generator)) / n  # in [0, 1)
    wanted = mean + std * torch.special.ndtri(shares.double())  # log sigma; at a share of 0: -infinity
    of_steps = 0.5 * ((1 - alpha_bar.double()) / alpha_bar.double()).log()  # (T,), rising
    borders = (of_steps[1:] + of_steps[:-1]) / 2
    return torch.searchsorted(borders, wanted)


def denoising_loss(
    unet,
    scheduler,
    z: torch.Tensor,
    things: torch.Tensor,
    text: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """|| v - v_theta(z_t, t, c) ||^2, or of what else the scheduler says that is predicted, at log-normal
    noise levels. z: (B, c, h, w), scaled; things: (B, h, w) bool, the places that count THINGS_COUNT times
    the others; text: (B, T, d), whose device counts. Returns a scalar."""
    alpha_bar = scheduler.alphas_cumprod.float()  # (timesteps,)
    t = log_normal_timesteps(len(z), generator, alpha_bar)
    noise = torch.randn(z.shape, generator=generator)
    # The weight of a place does not move the optimum where noisy latent and caption tell what is there, only
    # what is learnt first: small things, not skies. (Where they do not, near pure noise, it leans to things.)
    places = 1 + (THINGS_COUNT - 1) * things[:, None].float()
    z, noise, places, a = (x.to(text.device) for x in (z, noise, places, alpha_bar[t]))
    prediction = unet(add_noise(z, noise, a), t.to(text.device), text).sample.float()
    # no further weights of noise levels (gamma): those are chosen by how often they are drawn
    return diffusion_loss(prediction, z, noise, a, scheduler.config.prediction_type, inf, places)


def build(
    work: Path,
    vae,
    tokenizer,
    text_encoder,
    *,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    steps: int = 2_200,
    batch: int = BATCH,
    renders: int = RENDERS,
    shown: int = 64,
    seed: int = 0,
):
    """Train from nothing or from `work`'s checkpoint. Returns the UNet with its averaged weights and the log.

    The defaults are for a GPU; on a CPU, where they take most of a day, fewer steps of a smaller batch paint,
    too. renders: how many to learn from; shown: pictures on the sheet of samples that is drawn now and then.
    """
    vae = vae.to(device).eval()
    text_encoder = text_encoder.to(device).eval().requires_grad_(False)
    todo = scenes(renders, seed=2, mix="wild")
    size = vae.config.sample_size
    latents, things = cached_latents(work / f"latents-wild-2-{renders}-{size}", vae, todo)
    often = how_often(todo)
    torch.manual_seed(seed)
    unet = new_unet(latents.shape[-1], latents.shape[1]).to(device, memory_format=torch.channels_last)
    scheduler = new_scheduler()

    @torch.no_grad()
    def features(texts):
        return text_encoder(tokenise(tokenizer, texts).to(device))[0]

    def step_loss(model, generator, step):
        rows = torch.multinomial(often, batch, replacement=True, generator=generator)
        rng = random.Random(seed * 1_000_003 + step)
        texts = [some_caption(todo[row], rng) for row in rows.tolist()]  # worded anew in every step
        z = latents[rows].float()
        return denoising_loss(model, scheduler, z, things[rows], features(texts), generator)

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
        decay=0.5,
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
    guidance_scale: float = 1.5,
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
