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
    mixes = list(dict.fromkeys(mix for *_, mix in sets))
    return " and ".join(f"{sum(n for n, _, m in sets if m == mix):,} of the mix {mix!r}" for mix in mixes)


def minutes(log: list[dict]) -> float:
    """Minutes of training, from the log of `train_loop`, whose seconds begin anew at every save: the mean time of a
    step between two rows with no save in between, times the steps."""
    gaps = [(b["step"] - a["step"], b["seconds"] - a["seconds"]) for a, b in zip(log, log[1:], strict=False)
            if b["seconds"] > a["seconds"]]
    steps, seconds = (sum(x) for x in zip(*gaps, strict=True)) if gaps else (log[-1]["step"], log[-1]["seconds"])
    return log[-1]["step"] * seconds / steps / 60
