"""Trains the judge (`ip2p.miniworld.judge`) from renders and writes data/models/mini-judge."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from ip2p.loop import train_loop
from ip2p.miniworld import ATTRIBUTES, Scene
from ip2p.miniworld.judge import Judge, judge
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, reconstructions, training_pairs
from ip2p.models.renders import HELD_OUT, cached_renders, to_float

SETS = ((6000, 1, "plain"), (5000, 3, "even"))  # (renders, seed, mix), and an edit of each
EVEN_SHARE = 0.3  # of the samples; the rest are of the mix "plain"
REPAINTED = 6000  # training pictures that went through the autoencoder


def classes(scenes: list[Scene]) -> torch.Tensor:
    """The number of each attribute's value: (n, attributes) int64."""
    todo = (scene.attributes() for scene in scenes)
    return torch.tensor([[values.index(a[name]) for name, values in ATTRIBUTES.items()] for a in todo])


def accuracy(model: Judge, pictures: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share read right, by attribute."""
    seen = judge(pictures, model)
    truth = [scene.attributes() for scene in scenes]
    return {name: sum(a[name] == b[name] for a, b in zip(seen, truth, strict=True)) / len(truth)
            for name in ATTRIBUTES}


def measure(model: Judge, work: Path, vae=None, n: int = 2000) -> dict:
    """Accuracy on held-out renders of the mix "plain", and on the same after the autoencoder."""
    scenes, pictures = cached_renders(work, n, HELD_OUT)
    figures = {"held_out": n, "renders": accuracy(model, pictures, scenes)}
    if vae is not None:
        figures["after_autoencoder"] = accuracy(model, decode(vae, encode(vae, pictures, 64), 64), scenes)
    return figures


def build(work: Path, vae=None, *, device: str = "cpu", steps: int = 2500, batch: int = 64, seed: int = 0,
          sets=SETS, stop_after: int | None = None) -> Judge:
    """Train from nothing or from `work`'s checkpoint. In the second half of the training every second sample has been
    through the autoencoder `vae` (None: stop there)."""
    torch.manual_seed(seed)
    model = Judge().to(device, memory_format=torch.channels_last)
    scenes, pictures, even = training_pairs(work, sets)
    truth = classes(scenes)
    pools = [torch.nonzero(even == kind).flatten() for kind in (False, True)]
    repaint_from = steps // 2
    if vae is None:
        stop_after = repaint_from
    else:
        some = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:REPAINTED]
        paint = reconstructions(work, vae, pictures, some, seed)
    test, held_out = cached_renders(work, 2000, HELD_OUT)
    test, held_out = test[:300], held_out[:300]

    def step_loss(model, generator, step):
        from_even = torch.rand(batch, generator=generator) < EVEN_SHARE
        places = torch.rand(batch, generator=generator)
        plain, even = (pool[(places * len(pool)).long()] for pool in pools)
        rows = torch.where(from_even, even, plain)
        x, y = pictures[rows], truth[rows]
        if step >= repaint_from:
            again = torch.randint(len(some), (batch // 2,), generator=generator)
            x[::2], y[::2] = paint[again], truth[some[again]]
        x = corrupt(to_float(x), generator).to(device, memory_format=torch.channels_last)
        y = y.to(device)
        return sum(F.cross_entropy(out, y[:, i]) for i, out in enumerate(model(x).values()))

    def sample(step):
        right = accuracy(model, held_out, test)
        worst = sorted(right, key=right.get)[:5]
        print(f"judge, step {step}: mean {sum(right.values()) / len(right):.4f}; "
              + ", ".join(f"{name} {right[name]:.3f}" for name in worst), flush=True)

    train_loop(step_loss, model, work / "judge", steps=steps, lr=2e-3, seed=seed, sample=sample, sample_minutes=3,
               desc="judge", decay=0.6, stop_after=stop_after, save_minutes=2)
    return model
