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

from ip2p.miniworld import Scene, random_edit, random_scene, render

HELD_OUT = 10**9  # seeds from here on are never trained on


def scenes(n: int, seed: int, mix: str = "plain") -> list[Scene]:
    """`n` random scenes; scene i depends on (seed, i) alone."""
    return [random_scene(random.Random(seed * 1_000_003 + i), mix) for i in range(n)]


def _draw(scene: Scene, size: int) -> np.ndarray:
    return np.asarray(render(scene, size)).transpose(2, 0, 1)


def draw(todo: list[Scene], size: int = 64, desc: str = "renders") -> np.ndarray:
    """The scenes' pictures, (n, 3, size, size) uint8, drawn on all cores."""
    out = np.empty((len(todo), 3, size, size), np.uint8)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        pictures = pool.map(partial(_draw, size=size), todo, chunksize=64)
        for i, picture in enumerate(tqdm(pictures, total=len(todo), desc=desc, mininterval=2.0)):
            out[i] = picture
    return out


def cached_draw(path: Path, todo: list[Scene], size: int = 64) -> torch.Tensor:
    """The scenes' pictures (n, 3, size, size) uint8, kept at `path` (.npy)."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_suffix(".tmp.npy")
        np.save(tmp, draw(todo, size))
        os.replace(tmp, path)
    return torch.from_numpy(np.load(path))


def cached_renders(
    work: Path, n: int, seed: int, mix: str = "plain", size: int = 64
) -> tuple[list[Scene], torch.Tensor]:
    """Scenes and their pictures (n, 3, size, size) uint8, kept as `work/renders-MIX-SEED-N-SIZE.npy`."""
    todo = scenes(n, seed, mix)
    return todo, cached_draw(work / f"renders-{mix}-{seed}-{n}-{size}.npy", todo, size)


def cached_edits(
    work: Path, n: int, seed: int, mix: str = "plain", size: int = 64
) -> tuple[list[Scene], torch.Tensor]:
    """One random edit of each scene of `cached_renders`, kept as `work/edits-MIX-SEED-N-SIZE.npy`."""
    todo = [random_edit(scene, random.Random(seed * 1_000_003 + i))
            for i, scene in enumerate(scenes(n, seed, mix))]
    return todo, cached_draw(work / f"edits-{mix}-{seed}-{n}-{size}.npy", todo, size)


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float [-1, 1], same shape."""
    return pictures.float() / 127.5 - 1


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] -> uint8 [0, 255], same shape."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def save_sheet(pictures: torch.Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write pictures (n, 3, h, w) uint8 as one sheet."""
    from PIL import Image

    n, _, h, w = pictures.shape
    sheet = Image.new("RGB", (columns * (w + 2) * zoom, -(-n // columns) * (h + 2) * zoom), "white")
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).cpu().numpy()):
        tile = Image.fromarray(picture).resize((w * zoom, h * zoom), Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * (w + 2) * zoom, i // columns * (h + 2) * zoom))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
