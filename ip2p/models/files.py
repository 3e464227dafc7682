"""What every bundled model's folder is written with."""

from __future__ import annotations

import os

import torch

CORES = f"{os.cpu_count()} CPU cores"


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are shipped: fp16 on the CPU."""
    return {name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
            for name, t in model.state_dict().items()}


def names(sets) -> str:
    """`sets`: (n, seed, mix) each, as words."""
    return ", ".join(f"{n:,} of the mix {mix!r}" for n, _, mix in sets)


def minutes(log: list[dict]) -> float:
    """Minutes of training, from the log of `train_loop`, whose seconds count from the last save."""
    seconds, last = 0.0, 0.0
    for row in log:
        seconds += row["seconds"] - last if row["seconds"] >= last else row["seconds"]
        last = row["seconds"]
    return seconds / 60
