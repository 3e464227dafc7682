"""Stage 4, section 3.2 of InstructPix2Pix: a text-to-image model learns to edit.

The UNet's first convolution gets extra input channels for the latent of the input image, E(c_I), and learns

    L = E || eps - eps_theta(z_t, t, E(c_I), c_T) ||^2

on the pairs, where z_t is the noisy latent of the *edited* image. A model that predicts the velocity v
instead of the noise eps learns the same with v and v_theta. By default each timestep's term is weighted by
its signal-to-noise ratio (see `diffusion_loss`), which the paper does not do.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ip2p.common.checkpoints import checkpoints
from ip2p.common.devices import choose_device, choose_training_dtype, mixed_precision
from ip2p.common.diffusion import add_noise, diffusion_loss, embed, stratified_timesteps
from ip2p.common.durable import locked, name_of_model, read_json, write_atomically
from ip2p.common.images import as_tensor
from ip2p.common.train_loop import LoopOptions, train_loop
from ip2p.dataset.lessons import Cache, Lessons, forget_cache, posteriors
from ip2p.dataset.shards import IMAGES, picture_bytes, read_pairs
from ip2p.options import TrainOptions
from ip2p.profiles import Profile, get_profile, load_edit_pipeline, load_text_to_image

# ------------------------------------------------------------------------------------ the model


def widen_input(unet, channels: int | None = None):
    """Give `conv_in` so many zero-initialised input channels more (None: as many as a latent has); weight
    *and* bias are kept, so that at step 0 the UNet gives exactly the base model's output whatever it is given
    in them. Changes `unet` (of a text-to-image model, where channels is None), and returns it."""
    old = unet.conv_in
    extra = channels or unet.config.out_channels  # a prediction is as large as a latent: 4 in SD 1.5
    new = nn.Conv2d(old.in_channels + extra, old.out_channels, old.kernel_size, old.stride, old.padding)
    new = new.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=old.in_channels + extra)
    return unet


def new_editor(profile: str | Profile = "mini"):
    """A StableDiffusionInstructPix2PixPipeline with the text-to-image model's weights and a widened UNet, to
    be trained: on the CPU, in float32."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    base = load_text_to_image(profile, "cpu", "float32")
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


def cache_latents(pipe, pairs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning latents (posterior mode, *unscaled*) and target latents (mode, scaled), (n, c, h, w)
    each. For looking at a few pairs: `train` itself uses `Cache`, which keeps them on disk."""
    source, _ = posteriors(pipe, as_tensor([pair["original_image"] for pair in pairs]))
    target, _ = posteriors(pipe, as_tensor([pair["edited_image"] for pair in pairs]))
    return source.cpu(), target.cpu() * pipe.vae.config.scaling_factor


# ------------------------------------------------------------------------------------ the loss


def conditioning_dropout(
    n: int, generator: torch.Generator, rate: float = 0.05
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of n samples lose their text, and which their image: `rate` text only, `rate` image only, `rate`
    both.

    Returns (drop_text, drop_image), (n,) bool each.
    """
    u = torch.rand(n, generator=generator)
    return u < 2 * rate, (u >= rate) & (u < 3 * rate)


class Draws(NamedTuple):
    """All that chance decides for n lessons; (n, ...) each."""

    drop_text: torch.Tensor
    drop_image: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def sample(
        cls, shape: tuple[int, ...], generator: torch.Generator, timesteps: int = 1000, dropout: float = 0.05
    ) -> Draws:
        """For target latents of `shape` (n, c, h, w)."""
        n = shape[0]
        drop_text, drop_image = conditioning_dropout(n, generator, dropout)
        t = stratified_timesteps(n, generator, timesteps)
        # stratified t rise with the lesson's number, and low numbers lose their text or image: mix them
        t = t[torch.randperm(n, generator=generator)]
        return cls(drop_text, drop_image, t, torch.randn(shape, generator=generator))

    def part(self, rows: slice) -> Draws:
        return Draws(*(x[rows] for x in self))


def edit_loss(
    unet,
    scheduler,
    source: torch.Tensor,
    target: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    draws: torch.Generator | Draws,
    gamma: float = 5.0,
    weight: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """One batch of

        E [ min(SNR(t), gamma) / SNR(t) * mean((eps - eps_theta(z_t, t, E(c_I), c_T))^2) ]

    with SNR(t) = alpha_bar(t) / (1 - alpha_bar(t)) (min-SNR, arXiv 2303.09556), or the like with v and
    v_theta where the scheduler says that the model predicts that (see `diffusion_loss`). The paper's loss is
    that of gamma = inf, where all weights are 1. scheduler: its noise schedule and prediction_type count;
    source: E(c_I) unscaled, target: scaled latents, (B, c, h, w); text: (B, T, d); empty: (1, T, d), the
    features of "". draws: what was drawn, or a generator to draw it. weight: (B,), how much each lesson
    counts. Returns a scalar."""
    alpha_bar = scheduler.alphas_cumprod.float()  # (timesteps,)
    if isinstance(draws, torch.Generator):
        draws = Draws.sample(target.shape, draws, len(alpha_bar))
    drop_text, drop_image, t, noise = (x.to(target.device) for x in draws)
    text = torch.where(drop_text[:, None, None], empty, text)
    source = torch.where(drop_image[:, None, None, None], torch.zeros_like(source), source)
    a = alpha_bar.to(target.device)[t]
    z_t = add_noise(target, noise, a)
    prediction = unet(torch.cat([z_t, source], 1), t, text).sample
    kind = scheduler.config.prediction_type
    return diffusion_loss(prediction.float(), target, noise, a, kind, gamma, weight=weight)


# ------------------------------------------------------------------------------------ the training


def train(
    pairs: str | Path | list[dict],
    out: str | Path,
    profile: str | Profile = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    sample=None,
    **options,
):
    """Train an editor on pairs (a folder, or rows of `read_pairs`) and save it as a stock pipeline folder.

    An interrupted run in `out` goes on; a finished one is not repeated; one with other settings is a
    ValueError, and so is one that is under way. `batch` lessons make one step whatever the number of
    processes (`accelerate launch`), and are worked through in `accumulate` parts. A pair may have a "weight",
    by which its loss counts (else 1). device, dtype: see `choose_device` and `choose_training_dtype`; None:
    the profile's. `sample(pipe, step)` is called now and then, with averaged weights. options: of
    `TrainOptions`. Returns (pipeline, log); the log (see `train_loop`) also holds "image_weights", the norm
    of the input convolution's new weights as a share of the old.
    """
    profile = get_profile(profile)
    options = TrainOptions.of(profile, **options)
    dtype = choose_training_dtype(profile.dtype if dtype is None else dtype)
    accelerator, device = set_up_processes(profile.device if device is None else device, options)
    out = Path(out)
    rows = pairs if isinstance(pairs, list) else read_pairs(pairs)
    if not rows:
        raise ValueError("there are no pairs to learn from; make some with `ip2p pairs`")
    alone = nullcontext()
    if accelerator.is_main_process:
        refuse_untrained(out)  # before the lock, which is a file, too
        out.mkdir(parents=True, exist_ok=True)
        alone = locked(out, "training in")
    with alone:
        if accelerator.is_main_process:
            settings = run_settings(rows, profile, options, dtype)
            same_run(out / "work", settings, done=out / "model_index.json")
        accelerator.wait_for_everyone()
        return train_alone(rows, out, profile, options, accelerator, device, dtype, sample)


def train_alone(
    rows: list[dict],
    out: Path,
    profile: Profile,
    options: TrainOptions,
    accelerator,
    device: torch.device,
    dtype: torch.dtype,
    sample,
):
    """`train`, once the folder `out` is ours."""
    pipe = load_pupil(profile, options).to(device)
    with accelerator.main_process_first():
        cache = None if options.augment else Cache(pipe, rows, out / "work" / "cache", profile.resolution)
    lessons = Lessons(pipe, rows, profile.resolution, cache)
    board = out / "tensorboard" if options.tensorboard and accelerator.is_main_process else None
    log = train_loop(
        step_losses(lessons, options, accelerator, dtype),
        pipe.unet,
        out / "work",
        sample=None if sample is None else partial(sample, pipe),
        accelerator=accelerator,
        on_log=LogEntry(pipe.unet, board),
        desc="training",
        ema_decay=0.999,
        warmup=min(100, max(1, options.steps // 10)),
        decay=0.5,  # half of the steps cool down: after the first ones, the loss falls with the learning rate
        # steps, lr, muon, seed, eight_bit, keep, save_minutes, sample_minutes and sample_every
        **options.shared_with(LoopOptions),
    )
    if options.lora:
        pipe.unet.fuse_lora()
        pipe.unet.unload_lora()
    if accelerator.is_main_process and not (out / "model_index.json").exists():  # which is written last
        pipe.save_pretrained(out)
    accelerator.wait_for_everyone()
    return pipe, log


def set_up_processes(device: str | torch.device, options: TrainOptions):
    """Hugging Face's accelerator, and the device of this process. ValueError if a batch cannot be split."""
    from accelerate import Accelerator

    device = choose_device(device)
    accelerator = Accelerator(mixed_precision="no", device_placement=False)  # both are decided here
    if accelerator.num_processes > 1:
        device = accelerator.device  # each process of `accelerate launch` has its own
    parts = accelerator.num_processes * options.accumulate
    if options.batch % parts:
        raise ValueError(
            f"a batch of {options.batch} cannot be split into {parts} equal parts, processes times accumulate"
        )
    return accelerator, device


def run_settings(rows: list[dict], profile: Profile, options: TrainOptions, dtype: torch.dtype) -> dict:
    """What the result of a run depends on; of pairs, words, numbers and pixels count."""
    start = profile.text_to_image if options.start is None else options.start
    return options.identity() | {
        "pairs": checksum_of_pairs(rows),
        "start": name_of_model(start),
        "resolution": profile.resolution,
        "dtype": str(dtype).removeprefix("torch."),
    }


def checksum_of_pairs(rows: list[dict]) -> str:
    """SHA-256 of pairs as `read_pairs` gives them."""
    sha256 = hashlib.sha256()
    for row in rows:
        about = {name: row[name] for name in row if name not in IMAGES}
        sha256.update(json.dumps(about, default=str).encode())
        for name in IMAGES:
            sha256.update(picture_bytes(row, name))
    return sha256.hexdigest()


def refuse_untrained(out: Path) -> None:
    """Raises ValueError if `out` holds a model that `train` did not make there."""
    if (out / "model_index.json").exists() and not (out / "work" / "settings.json").exists():
        raise ValueError(f"{out} holds a model that was not trained there; choose another folder")


def same_run(work: Path, settings: dict, done: Path) -> None:
    """Note the settings of a run in its folder. Raises ValueError if there is a run with other settings. One
    that failed or was stopped before its first checkpoint binds nobody, and what it encoded goes. done: a
    file that is written at the end."""
    path = work / "settings.json"
    work.mkdir(parents=True, exist_ok=True)
    there = read_json(path) if path.exists() else {}
    settings = json.loads(json.dumps(settings))  # tuples are lists, as in the file
    differ = ", ".join(name for name in settings if there.get(name) != settings[name])
    begun = checkpoints(work) or done.exists()
    if differ and begun:
        raise ValueError(f"{work} holds another run, with other {differ}; choose another folder")
    if differ:
        forget_cache(work / "cache")
    write_atomically(path, json.dumps(settings, indent=1))


def load_pupil(profile: Profile, options: TrainOptions):
    """The pipeline to train; only what is to learn requires gradients. Raises ValueError for a model that
    predicts neither noise nor velocity, for the loss teaches those."""
    pipe = new_editor(profile) if options.start is None else load_edit_pipeline(str(options.start))
    kind = pipe.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the model to start from predicts {kind}; only noise or velocity can be taught")
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    if options.checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if options.lora:
        from peft import LoraConfig

        attention = ["to_q", "to_k", "to_v", "to_out.0"]
        pipe.unet.requires_grad_(False)
        torch.manual_seed(options.seed)
        pipe.unet.add_adapter(LoraConfig(r=options.lora, lora_alpha=options.lora, target_modules=attention))
        pipe.unet.conv_in.requires_grad_(True)
    return pipe


def step_losses(lessons: Lessons, options: TrainOptions, accelerator, dtype: torch.dtype):
    """For `train_loop`: a generator of the losses of the parts of one step that this process works through.
    What is drawn is drawn for all processes alike."""
    pipe = lessons.pipe
    empty = embed(pipe, [""])
    timesteps = len(pipe.scheduler.alphas_cumprod)
    side = lessons.size // pipe.vae_scale_factor
    shape = (options.batch, pipe.vae.config.latent_channels, side, side)
    parts = accelerator.num_processes * options.accumulate

    def losses(model, generator: torch.Generator, step: int):
        def predict(*inputs):
            with mixed_precision(pipe.device, dtype):
                return model(*inputs)

        numbers = torch.randint(len(lessons.pairs), (options.batch,), generator=generator).tolist()
        draws = Draws.sample(shape, generator, timesteps, options.dropout)
        seeds = torch.randint(2**62, (options.batch,), generator=generator).tolist()
        for part in range(accelerator.process_index, parts, accelerator.num_processes):
            own = slice(part, None, parts)
            lesson = lessons.batch(numbers[own], seeds[own])
            weight = lessons.weights[numbers[own]].to(pipe.device)
            own_draws = draws.part(own)
            loss = edit_loss(predict, pipe.scheduler, *lesson, empty, own_draws, options.gamma, weight)
            yield loss / options.accumulate

    return losses


class LogEntry:
    """For `train_loop`: adds "image_weights" to each row of the log, and shows it in TensorBoard, if in a
    folder."""

    def __init__(self, unet, folder: Path | None):
        self.conv_in = unet.conv_in
        self.board = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder)

    def __call__(self, row: dict) -> None:
        weight = self.conv_in.weight.detach()
        old, new = weight[:, : weight.shape[1] // 2], weight[:, weight.shape[1] // 2 :]
        row["image_weights"] = round((new.norm() / old.norm()).item(), 4)
        if self.board is not None:
            for name in ("loss", "image_weights"):
                self.board.add_scalar(name, row[name], row["step"])
