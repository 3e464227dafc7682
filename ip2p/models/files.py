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
    """How many of which mix, in words. `sets`: (n, seed, mix) each."""
    total: dict[str, int] = {}
    for n, _, mix in sets:
        total[mix] = total.get(mix, 0) + n
    return " and ".join(f"{n:,} of the mix {mix!r}" for mix, n in total.items())


def minutes(log: list[dict]) -> float:
    """Minutes of training, from the log of `train_loop`, whose seconds begin anew at every save: the mean
    time of a step between two rows without a save in between, times the steps."""
    gaps = [(b["step"] - a["step"], b["seconds"] - a["seconds"])
            for a, b in zip(log, log[1:], strict=False) if b["seconds"] > a["seconds"]]
    gaps = gaps or [(log[-1]["step"], log[-1]["seconds"])]
    return log[-1]["step"] * sum(s for _, s in gaps) / sum(n for n, _ in gaps) / 60
