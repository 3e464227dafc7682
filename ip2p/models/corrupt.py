"""Training pictures for the judge and mini-clip, spoiled as the pictures of small models are.

Both will look at what an autoencoder and a diffusion model paint, not at clean renders only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ip2p.common.durable import replacing
from ip2p.miniworld import Scene
from ip2p.models.autoencoder import SCALING_FACTOR, decode, encode
from ip2p.models.renders import cached_edits, cached_renders


def training_pairs(work: Path, sets: tuple, size: int = 128) -> tuple[list[Scene], torch.Tensor, list[str]]:
    """Scenes, their pictures (n, 3, size, size) uint8, and the mix that each is of.

    `sets`: (n, seed, mix) each. Scene 2i + 1 is a random edit of scene 2i. The pictures are kept in `work`.
    """
    todo: list[Scene] = []
    pictures, mixes = [], []
    for n, seed, mix in sets:
        before, pictures_before = cached_renders(work, n, seed, mix, size)
        after, pictures_after = cached_edits(work, n, seed, mix, size)
        for pair in zip(before, after, strict=True):
            todo += pair
        pictures.append(torch.stack([pictures_before, pictures_after], 1).flatten(0, 1))
        mixes += [mix] * (2 * n)
    return todo, torch.cat(pictures), mixes


def repainted_pairs(
    work: Path, vae, pictures: torch.Tensor, n: int = 3000, seed: int = 0, noise: float = 0.4
) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` random pairs through the autoencoder, kept as `work/repainted-N-SIZE.npy`. About half of the
    pictures have Gaussian noise of up to `noise` standard deviations on their latents, as a sampler leaves
    it.

    Returns the rows of `pictures` that were taken, (2n,), a pair side by side, and what became of them.
    """
    generator = torch.Generator().manual_seed(seed)
    first = 2 * torch.randperm(len(pictures) // 2, generator=generator)[:n]
    rows = torch.stack([first, first + 1], 1).flatten()
    path = work / f"repainted-{n}-{pictures.shape[-1]}.npy"
    if not path.exists():
        parts = []
        for part in tqdm(pictures[rows].split(64), desc="repainting", mininterval=2.0):
            z = encode(vae, part)
            strength = (torch.rand((len(z), 1, 1, 1), generator=generator) * 2 - 1).clamp_min(0) * noise
            noisy = z + strength / SCALING_FACTOR * torch.randn(z.shape, generator=generator)
            parts.append(decode(vae, noisy))
        with replacing(path) as tmp, open(tmp, "wb") as file:
            np.save(file, torch.cat(parts).numpy())
    return rows, torch.from_numpy(np.load(path))


def corrupt(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, blur, brightness, contrast and noise, a little of each, each picture its own.

    x: (B, 3, h, w) in [-1, 1], in random order: the first quarter is blurred. Returns the same shape and
    range. No flips and no change of hue: position and colour are to be read.
    """
    n = len(x)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((n, 1, 1, 1), generator=generator)

    x = shift(x, generator)
    quarter = n // 4
    x[:quarter] = blur(x[:quarter], generator)
    contrast = uniform(0.9, 1.1)
    brightness = uniform(-0.08, 0.08)
    x = x * contrast + brightness
    sigma = uniform(-0.12, 0.12).clamp_min(0)  # half of the pictures stay clean
    return (x + sigma * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def shift(x: torch.Tensor, generator: torch.Generator, most: int = 4) -> torch.Tensor:
    """Each picture by up to `most` pixels, down and across; its border is repeated. Same shape."""
    n, _, h, w = x.shape
    padded = F.pad(x, (most,) * 4, mode="replicate")
    shifts = torch.randint(0, 2 * most + 1, (n, 2), generator=generator).tolist()
    shifted = [p[:, dy : dy + h, dx : dx + w] for p, (dy, dx) in zip(padded, shifts, strict=True)]
    return torch.stack(shifted)


def blur(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Scaled down to a random side, 5/8 to 7/8 of its own and the same for all, and up again. Same shape."""
    h, w = x.shape[-2:]
    side = int(torch.randint(h * 5 // 8, h * 7 // 8, (), generator=generator))
    small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=(h, w), mode="bicubic")
