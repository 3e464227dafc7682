"""Renders of random scenes in bulk, drawn once and kept in a work folder."""

from __future__ import annotations

import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ip2p.common.durable import replacing
from ip2p.miniworld import Scene, random_edit, render
from ip2p.miniworld.held_out import scenes
from ip2p.miniworld.render import things_mask


def _draw(scene: Scene, size: int) -> np.ndarray:
    return np.asarray(render(scene, size)).transpose(2, 0, 1)


def draw(todo: list[Scene], size: int = 128, desc: str = "renders") -> np.ndarray:
    """The scenes' pictures, (n, 3, size, size) uint8, drawn on all cores."""
    out = np.empty((len(todo), 3, size, size), np.uint8)
    return _on_all_cores(partial(_draw, size=size), todo, out, desc)


def draw_things(todo: list[Scene], side: int = 16) -> np.ndarray:
    """Where the scenes' objects and extras are, (n, side, side) bool, see `things_mask`; on all cores."""
    out = np.empty((len(todo), side, side), bool)
    return _on_all_cores(partial(things_mask, side=side), todo, out, "masks of things")


def _on_all_cores(function, todo: list[Scene], out: np.ndarray, desc: str) -> np.ndarray:
    """out, filled with what the function makes of each scene."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(function, todo, chunksize=64)
        for i, one in enumerate(tqdm(made, total=len(todo), desc=desc, mininterval=2.0)):
            out[i] = one
    return out


def cached_draw(path: Path, todo: list[Scene], size: int = 128) -> torch.Tensor:
    """The scenes' pictures (n, 3, size, size) uint8, kept at `path` (.npy)."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new, open(new, "wb") as file:
            np.save(file, draw(todo, size))
    return torch.from_numpy(np.load(path))


def cached_renders(
    work: Path, n: int, seed: int, mix: str = "wild", size: int = 128
) -> tuple[list[Scene], torch.Tensor]:
    """Scenes and their pictures (n, 3, size, size) uint8, kept as `work/renders-MIX-SEED-N-SIZE.npy`."""
    todo = scenes(n, seed, mix)
    return todo, cached_draw(work / f"renders-{mix}-{seed}-{n}-{size}.npy", todo, size)


def cached_edits(
    work: Path, n: int, seed: int, mix: str = "wild", size: int = 128
) -> tuple[list[Scene], torch.Tensor]:
    """One random edit of each scene of `cached_renders`, kept as `work/edits-MIX-SEED-N-SIZE.npy`."""
    todo = [
        random_edit(scene, random.Random(seed * 1_000_003 + i))
        for i, scene in enumerate(scenes(n, seed, mix))
    ]
    return todo, cached_draw(work / f"edits-{mix}-{seed}-{n}-{size}.npy", todo, size)


def save_sheet(pictures: torch.Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write pictures (n, 3, h, w) uint8 as one sheet."""
    from PIL import Image

    n, _, h, w = pictures.shape
    sheet = Image.new("RGB", (columns * (w + 2) * zoom, -(-n // columns) * (h + 2) * zoom), "white")
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).cpu().numpy()):
        tile = Image.fromarray(picture).resize((w * zoom, h * zoom), Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * (w + 2) * zoom, i // columns * (h + 2) * zoom))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=60)
