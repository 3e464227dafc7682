"""Checkpoints of a training run: `checkpoint-STEP.safetensors`, all tensors, and numbers as JSON in its
header."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ip2p.common.durable import save_tensors


def save_checkpoint(work: Path, step: int, keep: int, state: dict, **rest) -> None:
    """state: dicts in dicts, down to tensors and numbers; `rest`: what JSON can hold. Older checkpoints in
    `work` than the last `keep` are deleted."""
    tensors = {}
    numbers = {}
    for name, value in leaves(state):
        (tensors if torch.is_tensor(value) else numbers)[name] = value
    about = json.dumps({"step": step, "numbers": numbers} | rest)
    save_tensors(tensors, work / f"checkpoint-{step:08}.safetensors", about)
    for old in checkpoints(work)[:-keep]:
        old.unlink()


def checkpoints(work: Path) -> list[Path]:
    """Those that `save_checkpoint` wrote, the newest last."""
    return sorted(work.glob(f"checkpoint-{8 * '[0-9]'}.safetensors"))


def load_checkpoint(work: Path) -> tuple[dict, dict]:
    """The newest checkpoint's state, with names like "model.conv_in.weight", and its rest; two empty ones, if
    none.

    One that is broken is put aside as NAME.broken, with a warning, for the one before it. Raises ValueError
    if all are broken."""
    paths = checkpoints(work)
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            broken = path.with_name(path.name + ".broken")
            with suppress(FileNotFoundError):  # another process was first
                path.replace(broken)
            warnings.warn(f"{path} is broken ({error}), so it is now called {broken.name}", stacklevel=2)
    if paths:
        raise ValueError(f"no checkpoint in {work} can be read; run again to begin anew")
    return {}, {}


def read_checkpoint(path: Path) -> tuple[dict, dict]:
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()["about"])
        state = rest.pop("numbers")
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            state[name] = file.get_tensor(name)
    return state, rest


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """("branch.leaf", value) of everything in dicts in dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def part(state: dict, prefix: str) -> dict:
    """What is called PREFIX.name, by its name."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def nested(state: dict) -> dict:
    """The inverse of `leaves`."""
    tree: dict = {}
    for name, value in state.items():
        *branches, leaf = name.split(".")
        place = tree
        for branch in branches:
            place = place.setdefault(branch, {})
        place[leaf] = value
    return tree


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict) -> None:
    """state: "0.exp_avg" and so on, by the number of the parameter."""
    by_number = {int(number): values for number, values in nested(state).items()}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": by_number})
