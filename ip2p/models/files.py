"""What every bundled model's folder is written with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from ip2p.common.folders import temporary_folder

CORES = f"{os.cpu_count()} CPU cores"


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are shipped: fp16 on the CPU."""
    return {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in model.state_dict().items()
    }


def save_half(pipe, folder: Path) -> None:
    """Write a diffusers pipeline as a folder with fp16 weights that stock diffusers loads in float32."""
    with temporary_folder(folder) as tmp:
        _save_half(pipe, tmp)
        for new in sorted(path for path in tmp.rglob("*") if path.is_file()):
            target = folder / new.relative_to(tmp)  # what else lies in the folder (its card, its log) stays
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, target)


def _save_half(pipe, tmp: Path) -> None:
    from safetensors.torch import save_file

    pipe.save_pretrained(tmp)
    for name, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        save_file(half(getattr(pipe, name)), tmp / name / f"{file}.safetensors", {"format": "pt"})
        path = tmp / name / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if name == "text_encoder":
            config["dtype"] = "float32"  # else stock diffusers keeps this one in fp16, beside a float32 UNet
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    index = tmp / "model_index.json"
    config = json.loads(index.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    index.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def names(sets) -> str:
    """How many of which mix, in words. `sets`: (n, seed, mix) each."""
    total: dict[str, int] = {}
    for n, _, mix in sets:
        total[mix] = total.get(mix, 0) + n
    return " and ".join(f"{n:,} of the mix {mix!r}" for mix, n in total.items())


def minutes(log: list[dict]) -> float:
    """Minutes of training, from the log of `train_loop`: the mean time of a step, without what came between runs."""
    gaps = [
        (b["step"] - a["step"], b["seconds"] - a["seconds"])
        for a, b in zip(log, log[1:], strict=False)
        if b["seconds"] > a["seconds"]
    ]
    gaps = gaps or [(log[-1]["step"], log[-1]["seconds"])]
    return log[-1]["step"] * sum(s for _, s in gaps) / sum(n for n, _ in gaps) / 60
