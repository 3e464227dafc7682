"""Edits in few steps, and in one prediction a step: a UNet that `ip2p.distillation` taught, or for Stable
Diffusion an adapter.

No heavy imports at the top: the command line reads the options of `ip2p distill` here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2p.common.durable import read_json
from ip2p.options import Options, option

if TYPE_CHECKING:
    import torch

FAST = "unet_fast"  # the folder of a distilled UNet, beside the editor's other parts
STUDENT_PREDICTS = "v_prediction"
SKETCH_STEPS = 1  # of a sketch, while somebody drags a slider


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Options):
    """How an editor's fast student is taught. The bundled one learned from 4,096 edits, in 1,100 steps of
    256 of their states."""

    edits: int = option(6000, range="count", help="edits of the teacher's to learn from")
    teacher_steps: int = option(12, range="count", help="its denoising steps")
    steps: int = option(3000, range="count", help="optimiser steps")
    batch: int = option(profile="train_batch", range="count", help="states of the teacher's edits a step")
    lr: float = option(profile="train_lr", range=(1e-9, 1), help="peak learning rate")
    muon: bool = option(profile="muon")
    seed: int = option(0)
    student_steps: int = option(3, range="count", identifies=False, help="denoising steps of a fast edit")
    # the scales that the student learns: lowest and highest
    guidance_scale: tuple[float, float] = option((1.0, 8.0), range=(0, 100))
    image_guidance_scale: tuple[float, float] = option((1.0, 2.5), range=(0, 100))
    save_minutes: float = option(4.0, range="natural", identifies=False)  # between checkpoints


class Distilled:
    """An editor that says Eq. 3 in one prediction and is done in few steps, see `ip2p.distillation`: its UNet
    has both scales as an input, `timestep_cond`.

    config: what `ip2p distill` noted beside it, the scales that it has learned and its number of steps."""

    def __init__(self, unet, scheduler, config: dict):
        self.unet, self.scheduler = unet, scheduler
        self.steps = config["steps"]
        self.scales = config["guidance_scale"], config["image_guidance_scale"]  # (lowest, highest) of each

    def knows(self, s_t: torch.Tensor, s_i: torch.Tensor) -> bool:
        """Whether it has learned these scales, (n,) each."""
        ranges = zip((s_t, s_i), self.scales, strict=True)
        return all(bool(((scale >= low) & (scale <= high)).all()) for scale, (low, high) in ranges)

    def warn(self) -> None:
        (s_t, most_s_t), (s_i, most_s_i) = self.scales
        warnings.warn(
            f"the fast editor knows guidance scales from {s_t:g} to {most_s_t:g} and image guidance scales "
            f"from {s_i:g} to {most_s_i:g}; with others the full one edits, which takes longer",
            stacklevel=4,
        )

    def guidance(self, unet, image: torch.Tensor, text: torch.Tensor, s_t: torch.Tensor, s_i: torch.Tensor):
        """A function like `Guidance.three`, with the same arguments; unet: its own, or compiled."""
        import torch

        dtype = unet.dtype
        cond = scale_features(s_t, s_i, self.scales, self.unet.config.time_cond_proj_dim)
        cond, image, text = (x.to(image.device, dtype) for x in (cond, image, text))

        def predict(z: torch.Tensor, t) -> tuple[torch.Tensor, list[None]]:
            x = torch.cat([z.to(dtype), image], 1)
            return unet(x, t, text, timestep_cond=cond).sample.float(), [None, None, None]

        return predict


def scale_features(s_t: torch.Tensor, s_i: torch.Tensor, ranges: tuple, dim: int) -> torch.Tensor:
    """Both guidance scales, (n,) each, as sines and cosines of their places in their ranges: (n, dim)."""
    import torch
    from diffusers.models.embeddings import get_timestep_embedding

    halves = []
    for scale, (low, high) in zip((s_t, s_i), ranges, strict=True):
        place = (scale - low) / (high - low)
        halves.append(get_timestep_embedding(1000 * place, dim // 2))
    return torch.cat(halves, 1)


def make_fast(editor, folder: str, lora: str | None) -> None:
    """Let an `Editor` edit in few steps: by the distilled UNet that `ip2p distill` left in its folder, or if
    it is one of Stable Diffusion 1.5 by an adapter like LCM-LoRA (arXiv 2311.05556), a folder or of the hub.
    Raises ValueError if there is no distilled UNet."""
    from diffusers import LCMScheduler, UNet2DConditionModel

    pipe = editor.pipe
    if lora:
        pipe.load_lora_weights(lora)
        pipe.fuse_lora()
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        editor.defaults = 2.0, 1.0, 4  # scales and steps; not tried with the true weights
        return
    about = Path(folder) / FAST / "distilled.json"
    if not about.exists():
        raise ValueError(
            f"{folder} holds no fast editor; make one by `ip2p distill --model {folder} --out {folder}`"
        )
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder=FAST, dtype=pipe.unet.dtype)
    scheduler = LCMScheduler.from_config(pipe.scheduler.config, prediction_type=STUDENT_PREDICTS)
    editor.fast = Distilled(unet.to(pipe.device).eval(), scheduler, read_json(about))
