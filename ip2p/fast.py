"""Edits in few steps, and in one prediction a step: a UNet that `ip2p.distillation` taught, or for Stable
Diffusion an adapter."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from diffusers.models.embeddings import get_timestep_embedding

from ip2p.common.durable import read_json

FAST = "unet_fast"  # the folder of a distilled UNet, beside the editor's other parts
STUDENT_PREDICTS = "v_prediction"


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
        inside = True
        for scale, (low, high) in zip((s_t, s_i), self.scales, strict=True):
            inside = inside and bool(((scale >= low) & (scale <= high)).all())
        return inside

    def warn(self) -> None:
        (s_t, most_s_t), (s_i, most_s_i) = self.scales
        warnings.warn(
            f"the fast editor knows guidance scales from {s_t:g} to {most_s_t:g} and image guidance scales "
            f"from {s_i:g} to {most_s_i:g}; with others the full one edits, which takes longer",
            stacklevel=4,
        )

    def guidance(self, unet, image: torch.Tensor, text: torch.Tensor, s_t: torch.Tensor, s_i: torch.Tensor):
        """A function like `Guidance.three`, with the same arguments; unet: its own, or compiled."""
        dtype = unet.dtype
        cond = scale_features(s_t, s_i, self.scales, self.unet.config.time_cond_proj_dim)
        cond, image, text = (x.to(image.device, dtype) for x in (cond, image, text))

        def predict(z: torch.Tensor, t) -> tuple[torch.Tensor, list[None]]:
            x = torch.cat([z.to(dtype), image], 1)
            return unet(x, t, text, timestep_cond=cond).sample.float(), [None, None, None]

        return predict


def scale_features(s_t: torch.Tensor, s_i: torch.Tensor, ranges: tuple, dim: int) -> torch.Tensor:
    """Both guidance scales, (n,) each, as sines and cosines of their places in their ranges: (n, dim)."""
    halves = []
    for scale, (low, high) in zip((s_t, s_i), ranges, strict=True):
        place = (scale - low) / (high - low)
        halves.append(get_timestep_embedding(1000 * place, dim // 2))
    return torch.cat(halves, 1)


def load_distilled(folder: str, pipe, device: torch.device) -> Distilled:
    """What `ip2p distill` left in an editor's folder. Raises ValueError if that is nothing."""
    from diffusers import LCMScheduler, UNet2DConditionModel

    about = Path(folder) / FAST / "distilled.json"
    if not about.exists():
        raise ValueError(
            f"{folder} holds no fast editor; make one by `ip2p distill --model {folder} --out {folder}`"
        )
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder=FAST, dtype=pipe.unet.dtype)
    scheduler = LCMScheduler.from_config(pipe.scheduler.config, prediction_type=STUDENT_PREDICTS)
    return Distilled(unet.to(device).eval(), scheduler, read_json(about))


def add_fast_lora(pipe, name: str) -> tuple[float, float, int]:
    """Let a pipeline of Stable Diffusion 1.5 edit in few steps by LCM-LoRA (arXiv 2311.05556), a folder or of
    the hub. Returns scales and steps that fit."""
    from diffusers import LCMScheduler

    pipe.load_lora_weights(name)
    pipe.fuse_lora()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return 2.0, 1.0, 4
