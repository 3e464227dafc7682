"""What every bundled model's folder is written with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file

from ip2p.common.folders import temporary_folder

THREADS = torch.get_num_threads()
CORES = "one CPU core" if THREADS == 1 else f"{THREADS} CPU cores"  # that PyTorch computes on

# The parts of a diffusers pipeline that hold weights, and the names of their files.
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def hardware(device: torch.device) -> str:
    """What a training on this device runs on, in words for a card."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return "Apple's GPU" if device.type == "mps" else CORES


@contextmanager
def filling(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder, whose files are moved into `folder` if the block ends without an error.

    Files of the same names are replaced, all others in `folder` stay. The file `last` is moved at the end, so
    it stands for a folder that is complete.
    """
    with temporary_folder(folder.parent) as tmp:
        yield tmp
        names = sorted(path.relative_to(tmp) for path in tmp.rglob("*") if path.is_file())
        names.sort(key=lambda name: name == Path(last))
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(tmp / name, target)


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are shipped: fp16 on the CPU."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.half()
        weights[name] = tensor.cpu().contiguous()
    return weights


def write_json(path: Path, content: dict, indent: int = 2) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def save_half(pipe, folder: Path) -> None:
    """Write a diffusers pipeline into a folder, with fp16 weights that stock diffusers loads in float32.

    What else lies in the folder stays: its card, its log, further models beside the pipeline's.
    """
    with filling(folder, last="model_index.json") as tmp:
        pipe.save_pretrained(tmp)
        for part, file in WEIGHTS.items():
            save_file(half(getattr(pipe, part)), tmp / part / file, {"format": "pt"})
        for path in (tmp / "model_index.json", *(tmp / part / "config.json" for part in WEIGHTS)):
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            if path.parent.name == "text_encoder":
                config["dtype"] = "float32"  # else stock diffusers keeps it in fp16, beside a float32 UNet
            write_json(path, config)


def write_log(folder: Path, log: list[dict]) -> None:
    """The curve of a training run, beside the model: JSON lines of step, loss, seconds."""
    lines = [json.dumps(row) + "\n" for row in log]
    (folder / "training_log.jsonl").write_text("".join(lines), encoding="utf-8")


def names(sets) -> str:
    """How many of which mix, in words. `sets`: (n, seed, mix) each."""
    total: dict[str, int] = {}
    for n, _, mix in sets:
        total[mix] = total.get(mix, 0) + n
    return " and ".join(f"{n:,} of the mix {mix!r}" for mix, n in total.items())


def minutes(log: list[dict]) -> float:
    """Minutes of training, from the log of `train_loop` (rows of step and seconds): the mean time of a step,
    without what came between runs."""
    steps = seconds = 0
    for before, after in pairwise(log):
        if after["seconds"] > before["seconds"]:  # else a run was resumed from an earlier checkpoint
            steps += after["step"] - before["step"]
            seconds += after["seconds"] - before["seconds"]
    if not steps:
        steps, seconds = log[-1]["step"], log[-1]["seconds"]
    return log[-1]["step"] * seconds / steps / 60
