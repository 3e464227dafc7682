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
from ip2p.models.renders import cached_edits, cached_renders


def training_pairs(work: Path, sets: tuple) -> tuple[list[Scene], torch.Tensor, torch.Tensor]:
    """Scenes, their pictures (n, 3, 64, 64) uint8, and whether each is of the mix "even".

    `sets`: (n, seed, mix) each. Scene 2i + 1 is a random edit of scene 2i.
    """
    todo, pictures, even = [], [], []
    for n, seed, mix in sets:
        (before, a), (after, b) = cached_renders(work, n, seed, mix), cached_edits(work, n, seed, mix)
        todo += [s for pair in zip(before, after, strict=True) for s in pair]
        pictures.append(torch.stack([a, b], 1).flatten(0, 1))
        even += [mix == "even"] * (2 * n)
    return todo, torch.cat(pictures), torch.tensor(even)


def repainted_pairs(
    work: Path, vae, pictures: torch.Tensor, n: int = 3000, seed: int = 0, noise: float = 0.4
) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` random pairs through the autoencoder, kept as `work/repainted-N.npy`. About half of the pictures
    have Gaussian noise of up to `noise` standard deviations on their latents, as a sampler leaves it.

    Returns the rows of `pictures` that were taken, (2n,), a pair side by side, and what became of them.
    """
    from ip2p.models.autoencoder import SCALING_FACTOR, decode, encode

    generator = torch.Generator().manual_seed(seed)
    first = 2 * torch.randperm(len(pictures) // 2, generator=generator)[:n]
    rows, path = torch.stack([first, first + 1], 1).flatten(), work / f"repainted-{n}.npy"
    if not path.exists():
        out = []
        for part in tqdm(pictures[rows].split(64), desc="repainting", mininterval=2.0):
            z = encode(vae, part)
            strength = (torch.rand((len(z), 1, 1, 1), generator=generator) * 2 - 1).clamp_min(0) * noise
            out.append(decode(vae, z + strength / SCALING_FACTOR * torch.randn(z.shape, generator=generator)))
        with replacing(path) as new, open(new, "wb") as file:
            np.save(file, torch.cat(out).numpy())
    return rows, torch.from_numpy(np.load(path))


def corrupt(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, blur, brightness, contrast and noise, a little of each, each picture its own.

    x: (B, 3, h, w) in [-1, 1]. No flips and no change of hue: position and colour are to be read.
    """
    n, _, h, w = x.shape

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((n, 1, 1, 1), generator=generator)

    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    shifts = torch.randint(0, 5, (n, 2), generator=generator).tolist()
    x = torch.stack([p[:, dy : dy + h, dx : dx + w] for p, (dy, dx) in zip(padded, shifts, strict=True)])
    size = int(torch.randint(h * 5 // 8, h * 7 // 8, (), generator=generator))
    part = n // 4  # the batch is in random order
    small = F.interpolate(x[:part], size=(size, size), mode="bilinear", antialias=True)
    x[:part] = F.interpolate(small, size=(h, w), mode="bicubic")
    x = x * uniform(0.9, 1.1) + uniform(-0.08, 0.08)
    sigma = uniform(-0.12, 0.12).clamp_min(0)  # half of the pictures stay clean
    return (x + sigma * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
