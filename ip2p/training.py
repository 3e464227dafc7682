"""Stage 4, section 3.2 of InstructPix2Pix: a text-to-image model learns to edit.

The UNet's first convolution gets extra input channels for the latent of the input image, E(c_I), and learns
L = E || eps - eps_theta(z_t, t, E(c_I), c_T) ||^2 on the pairs, where z_t is the noisy latent of the *edited* image.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm

from ip2p.common.diffusion import add_noise, embed, min_snr_loss, stratified_timesteps
from ip2p.common.durable import save_tensors
from ip2p.common.images import as_tensor
from ip2p.common.train_loop import train_loop
from ip2p.dataset.shards import read_pairs
from ip2p.profiles import Profile, get_profile, load_edit_pipeline, load_text_to_image


def widen_input(unet, extra: int = 4):
    """Give `conv_in` `extra` zero-initialised input channels; weight *and* bias are kept, so that at step 0 the UNet
    gives exactly the base model's output whatever the conditioning image. Changes `unet` and returns it."""
    old = unet.conv_in
    new = nn.Conv2d(old.in_channels + extra, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=old.in_channels + extra)
    return unet


def conditioning_dropout(
    n: int, generator: torch.Generator, rate: float = 0.05
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of n samples lose their text, and which their image: `rate` text only, `rate` image only, `rate` both.

    Returns (drop_text, drop_image), (n,) bool each.
    """
    u = torch.rand(n, generator=generator)
    return u < 2 * rate, (u >= rate) & (u < 3 * rate)


@torch.no_grad()
def posteriors(pipe, images: torch.Tensor, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (which is the mode) and standard deviation of the latents, (n, c, h, w) each, of images (n, 3, H, W) in
    [0, 1]."""
    found = [pipe.vae.encode(x.to(pipe.vae.device) * 2 - 1).latent_dist for x in images.split(batch)]
    return torch.cat([p.mean for p in found]), torch.cat([p.std for p in found])


def cache_latents(pipe, pairs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning latents (posterior mode, *unscaled*) and target latents (mode, scaled), (n, c, h, w) each."""
    source, target = (
        posteriors(pipe, as_tensor([p[name] for p in pairs]))[0].cpu()
        for name in ("original_image", "edited_image")
    )
    return source, target * pipe.vae.config.scaling_factor


class Cache:
    """What the frozen encoders make of all lessons, computed once and kept in safetensors files of ROWS lessons each
    in `folder`, from which lessons are read when they are needed: "source", "mean" and "std" (n, 2, c, h, w), as they
    are and mirrored, and "text" (n, T, d). Stopped at any moment, it goes on with the next file."""

    ROWS = 256

    def __init__(self, pipe, pairs: list[dict], folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{start:08}.safetensors" for start in range(0, len(pairs), self.ROWS)]
        for number, path in enumerate(tqdm(paths, desc="encoding lessons", delay=2, mininterval=2.0)):
            if not path.exists():
                some = pairs[number * self.ROWS : (number + 1) * self.ROWS]
                before, after = (
                    posteriors(pipe, torch.cat([x, x.flip(-1)]))
                    for x in (
                        as_tensor([p[name] for p in some]) for name in ("original_image", "edited_image")
                    )
                )
                both = {"source": before[0], "mean": after[0], "std": after[1]}
                save_tensors(
                    {name: torch.stack(x.chunk(2), 1).cpu() for name, x in both.items()}
                    | {"text": embed(pipe, [p["edit_prompt"] for p in some]).cpu()},
                    path,
                )
        self.files = [safe_open(path, "pt") for path in paths]

    def take(self, lessons: list[int], mirror: list[bool]) -> tuple[torch.Tensor, ...]:
        """source, mean, std, text of lessons, (B, ...) each."""
        slices = [
            [self.files[k // self.ROWS].get_slice(name) for k in lessons]
            for name in ("source", "mean", "std", "text")
        ]
        rows = [k % self.ROWS for k in lessons]
        return (
            *(
                torch.cat(
                    [x[r : r + 1, m : m + 1] for x, r, m in zip(some, rows, map(int, mirror), strict=True)]
                )[:, 0]
                for some in slices[:3]
            ),
            torch.cat([x[r : r + 1] for x, r in zip(slices[3], rows, strict=True)]),
        )


SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


def may_mirror(pair: dict) -> bool:
    """Nothing in the words of a pair speaks of left or right."""
    return not any(SIDES.search(pair[name]) for name in ("edit_prompt", "original_prompt", "edited_prompt"))


def paired_augmentation(
    pair: torch.Tensor, generator: torch.Generator, size: int, larger: float = 1.125, flip: bool = True
) -> torch.Tensor:
    """A random size, crop and mirror image, the same for both pictures of a pair: (2, 3, H, H) in [0, 1] ->
    (2, 3, size, size). The side before cropping is between `size` and `larger` times that. No `flip` where the pair
    may not be mirrored (`may_mirror`)."""
    side, y, x, mirror = torch.rand(4, generator=generator).tolist()
    side = round(size * (1 + side * (larger - 1)))
    if side != pair.shape[-1]:
        pair = F.interpolate(pair, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(
            0, 1
        )
    y, x = (int(r * (side - size + 1)) for r in (y, x))
    pair = pair[..., y : y + size, x : x + size]
    return pair.flip(-1) if flip and mirror < 0.5 else pair


class Draws(NamedTuple):
    """All that chance decides for n lessons; (n, ...) each."""

    drop_text: torch.Tensor
    drop_image: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor

    def part(self, rows: slice) -> Draws:
        return Draws(*(x[rows] for x in self))


def draw(
    shape: torch.Size, generator: torch.Generator, timesteps: int = 1000, dropout: float = 0.05
) -> Draws:
    """For target latents of `shape` (n, c, h, w)."""
    drop_text, drop_image = conditioning_dropout(shape[0], generator, dropout)
    t = stratified_timesteps(shape[0], generator, timesteps)[torch.randperm(shape[0], generator=generator)]
    return Draws(drop_text, drop_image, t, torch.randn(shape, generator=generator))


def edit_loss(
    unet,
    alpha_bar: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    chance: torch.Generator | Draws,
    gamma: float = 5.0,
) -> torch.Tensor:
    """One batch of the loss above. source: E(c_I) unscaled, target: scaled latents, (B, c, h, w); text: (B, T, d);
    empty: (1, T, d), the features of "". chance: a generator, or what was drawn. Returns a scalar."""
    draws = chance if isinstance(chance, Draws) else draw(target.shape, chance, len(alpha_bar))
    drop_text, drop_image, t, noise = (x.to(target.device) for x in draws)
    text = torch.where(drop_text[:, None, None], empty, text)
    source = torch.where(drop_image[:, None, None, None], torch.zeros_like(source), source)
    a = alpha_bar.to(target.device)[t]
    eps = unet(torch.cat([add_noise(target, noise, a), source], 1), t, text).sample
    return min_snr_loss(eps.float(), noise, a, gamma)


def new_editor(profile: str | Profile = "mini"):
    """A StableDiffusionInstructPix2PixPipeline with the text-to-image model's weights and a widened UNet."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    base = load_text_to_image(profile)
    widen_input(base.unet)
    return StableDiffusionInstructPix2PixPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def same_run(path: Path, settings: dict) -> None:
    """Note the settings of a run in its folder; raises ValueError if another run is there, or another model."""
    model = path.parents[1] / "model_index.json"
    if model.exists() and not path.exists():
        raise ValueError(f"{model.parent} holds a model that was not trained there; choose another folder")
    if path.exists() and (there := json.loads(path.read_text(encoding="utf-8"))) != settings:
        differ = ", ".join(name for name in settings if there.get(name) != settings[name])
        raise ValueError(f"{path.parent} holds another run, with other {differ}; take another, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def train(
    pairs: str | Path | list[dict],
    out: str | Path,
    profile: str | Profile = "mini",
    *,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    start: str | Path | None = None,
    augment: bool = False,
    accumulate: int = 1,
    mixed_precision: str = "no",
    checkpointing: bool = False,
    lora: int = 0,
    gamma: float = 5.0,
    dropout: float = 0.05,
    eight_bit: bool = False,
    tensorboard: bool = False,
    keep: int = 2,
    sample=None,
    sample_minutes: float = 8.0,
    sample_every: int = 0,
    save_minutes: float = 4.0,
    device: str = "cpu",
):
    """Train an editor on pairs (a folder, or rows of `read_pairs`) and save it as a stock pipeline folder.

    An interrupted run in `out` goes on; a finished one is not repeated; one with other settings is a ValueError.
    start: an editor's folder to begin from instead of the text-to-image model. `batch` lessons make one step whatever
    the number of processes (`accelerate launch`), and are worked through in `accumulate` parts. Latents and texts are
    encoded once (`Cache`, kept with the checkpoints) and mirrored at random; with `augment` pictures are resized and
    cropped as well, and so encoded anew in every step. The conditioning latent is the mode, the target a sample.
    mixed_precision: "no" or "bf16". checkpointing: less memory, more time. lora: the rank of adapters that learn in
    place of the attention's weights (0: all weights learn); the input convolution learns whole, and in the end all is
    merged into plain weights. gamma: of `min_snr_loss`. dropout: the rate of each kind of `conditioning_dropout`.
    eight_bit: AdamW with 8-bit moments (bitsandbytes). keep: the last so many checkpoints. The log (see `train_loop`),
    and with `tensorboard` out's folder of that name, too, hold the loss and "image_weights", the norm of the input
    convolution's new weights as a share of the old ones'. `sample(pipe, step)` is called now and then, or every
    `sample_every` steps. Returns (pipeline, log).
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    profile, out = get_profile(profile), Path(out)
    steps, batch, lr = steps or profile.train_steps, batch or profile.train_batch, lr or profile.train_lr
    rows = pairs if isinstance(pairs, list) else read_pairs(pairs)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run may have had another device
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    if accelerator.device.type != torch.device(device).type:
        raise ValueError(f"there is no device {device} here; this machine offers {accelerator.device}")
    parts = accelerator.num_processes * accumulate
    if parts < 1 or batch % parts:
        raise ValueError(
            f"a batch of {batch} cannot be split into {parts} equal parts (processes times accumulate)"
        )
    device = accelerator.device
    if accelerator.is_main_process:
        same_run(
            out / "work" / "settings.json",
            {
                "pairs": hashlib.sha256(
                    json.dumps(
                        [{name: value for name, value in r.items() if "image" not in name} for r in rows],
                        default=str,
                    ).encode()
                ).hexdigest(),
                "steps": steps,
                "batch": batch,
                "lr": lr,
                "seed": seed,
                "start": str(start or profile.text_to_image),
                "augment": augment,
                "mixed_precision": mixed_precision,
                "lora": lora,
                "gamma": gamma,
                "dropout": dropout,
                "eight_bit": eight_bit,
                "muon": profile.muon,
            },
        )
    accelerator.wait_for_everyone()
    pipe = (load_edit_pipeline(str(start)) if start else new_editor(profile)).to(device)
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    unet = pipe.unet
    if checkpointing:
        unet.enable_gradient_checkpointing()
    if lora:
        from peft import LoraConfig

        unet.requires_grad_(False)
        torch.manual_seed(seed)
        unet.add_adapter(
            LoraConfig(r=lora, lora_alpha=lora, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        )
        unet.conv_in.requires_grad_(True)
    if not augment:
        with accelerator.main_process_first():
            cache = Cache(pipe, rows, out / "work" / "cache")
    empty, alpha_bar = embed(pipe, [""]), pipe.scheduler.alphas_cumprod.float().cpu()
    side = profile.resolution // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    latent, free = (pipe.vae.config.latent_channels, side, side), [may_mirror(r) for r in rows]

    def lessons(numbers: list[int], seeds: list[int]) -> tuple[torch.Tensor, ...]:
        """Conditioning latents, target latents and texts."""
        chance = [torch.Generator().manual_seed(seed) for seed in seeds]
        if augment:
            pictures = [
                paired_augmentation(
                    as_tensor([rows[k]["original_image"], rows[k]["edited_image"]]),
                    g,
                    profile.resolution,
                    flip=free[k],
                )
                for k, g in zip(numbers, chance, strict=True)
            ]
            (source, mean), (_, std) = (
                x.chunk(2) for x in posteriors(pipe, torch.stack(pictures, 1).flatten(0, 1))
            )
            text = embed(pipe, [rows[k]["edit_prompt"] for k in numbers])
        else:
            mirror = [
                free[k] and torch.rand((), generator=g).item() < 0.5
                for k, g in zip(numbers, chance, strict=True)
            ]
            source, mean, std, text = (x.to(device) for x in cache.take(numbers, mirror))
        noise = torch.stack([torch.randn(latent, generator=g) for g in chance]).to(device)
        return source, (mean + std * noise) * pipe.vae.config.scaling_factor, text

    def losses(model, generator, step):
        """The parts of one step that this process works through; what is drawn is drawn for all processes alike."""
        i = torch.randint(len(rows), (batch,), generator=generator).tolist()
        draws = draw(torch.Size((batch, *latent)), generator, len(alpha_bar), dropout)
        seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
        for part in range(accelerator.process_index, parts, accelerator.num_processes):
            own = slice(part, None, parts)
            yield (
                edit_loss(model, alpha_bar, *lessons(i[own], seeds[own]), empty, draws.part(own), gamma)
                / accumulate
            )

    board = None
    if tensorboard and accelerator.is_main_process:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(out / "tensorboard")

    def on_log(row):
        weight, channels = unet.conv_in.weight.detach(), latent[0]
        row["image_weights"] = round((weight[:, -channels:].norm() / weight[:, :-channels].norm()).item(), 4)
        for name in ("loss", "image_weights") if board else ():
            board.add_scalar(name, row[name], row["step"])

    # half of the steps cool down: after the first steps, the loss falls with the learning rate
    log = train_loop(
        losses,
        unet,
        out / "work",
        steps=steps,
        lr=lr,
        seed=seed,
        ema_decay=0.999,
        sample=(lambda step: sample(pipe, step)) if sample else None,
        sample_minutes=sample_minutes,
        sample_every=sample_every,
        save_minutes=save_minutes,
        desc="training",
        muon=profile.muon,
        warmup=min(100, max(1, steps // 10)),
        decay=0.5,
        eight_bit=eight_bit,
        keep=keep,
        accelerator=accelerator,
        on_log=on_log,
    )
    if lora:
        unet.fuse_lora()
        unet.unload_lora()
    if accelerator.is_main_process:
        pipe.save_pretrained(out)
    accelerator.wait_for_everyone()
    return pipe, log
