"""Trains the judge (`ip2p.miniworld.judging`) from renders and writes data/models/mini-judge."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ip2p.common.images import to_float
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import ATTRIBUTES, Scene
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.miniworld.judging import Judge, judge, load_judge
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, repainted_pairs, training_pairs
from ip2p.models.files import CORES, half, minutes, names
from ip2p.models.renders import cached_renders

SETS = ((6000, 1, "plain"), (5000, 3, "even"))  # (renders, seed, mix), and an edit of each

EVEN_SHARE = 0.3  # of the samples; the rest are of the mix "plain"


def classes(scenes: list[Scene]) -> torch.Tensor:
    """The number of each attribute's value: (n, attributes) int64."""
    todo = (scene.attributes() for scene in scenes)
    return torch.tensor([[values.index(a[name]) for name, values in ATTRIBUTES.items()] for a in todo])


def accuracy(model: Judge, pictures: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share read right, by attribute."""
    seen = judge(pictures, model)
    truth = [scene.attributes() for scene in scenes]
    return {
        name: sum(a[name] == b[name] for a, b in zip(seen, truth, strict=True)) / len(truth)
        for name in ATTRIBUTES
    }


def measure(model: Judge, work: Path, vae=None, n: int = 2000) -> dict:
    """Accuracy on held-out renders of the mix "plain", and on the same after the autoencoder."""
    scenes, pictures = cached_renders(work, n, HELD_OUT)
    figures = {"held_out": n, "renders": accuracy(model, pictures, scenes)}
    if vae is not None:
        figures["after_autoencoder"] = accuracy(model, decode(vae, encode(vae, pictures, 64), 64), scenes)
    return figures


def build(
    work: Path,
    vae=None,
    *,
    device: str = "cpu",
    steps: int = 4000,
    batch: int = 64,
    seed: int = 0,
    sets=SETS,
    stop_after: int | None = None,
) -> tuple[Judge, list[dict]]:
    """Train from nothing or from `work`'s checkpoint. In the second half of the training every second sample
    has been through the autoencoder `vae` (None: stop there). Returns the judge and the log."""
    torch.manual_seed(seed)
    model = Judge().to(device, memory_format=torch.channels_last)
    scenes, pictures, even = training_pairs(work, sets)
    truth = classes(scenes)
    pools = [torch.nonzero(even == kind).flatten() for kind in (False, True)]
    repaint_from = steps // 2
    if vae is None:
        stop_after = min(stop_after or steps, repaint_from)
    else:
        painted, paint = repainted_pairs(work, vae, pictures, seed=seed)
    test, held_out = cached_renders(work, 2000, HELD_OUT)
    test, held_out = test[:300], held_out[:300]

    def step_loss(model, generator, step):
        from_even = torch.rand(batch, generator=generator) < EVEN_SHARE
        places = torch.rand(batch, generator=generator)
        plain, even = (pool[(places * len(pool)).long()] for pool in pools)
        rows = torch.where(from_even, even, plain)
        x, y = pictures[rows], truth[rows]
        if step >= repaint_from:
            again = torch.randint(len(paint), (batch // 2,), generator=generator)
            x[::2], y[::2] = paint[again], truth[painted[again]]
        x = corrupt(to_float(x), generator).to(device, memory_format=torch.channels_last)
        y = y.to(device)
        return sum(F.cross_entropy(out, y[:, i]) for i, out in enumerate(model(x).values()))

    def sample(step):
        right = accuracy(model, held_out, test)
        worst = sorted(right, key=right.get)[:5]
        print(
            f"judge, step {step}: mean {sum(right.values()) / len(right):.4f}; "
            + ", ".join(f"{name} {right[name]:.3f}" for name in worst),
            flush=True,
        )

    log = train_loop(
        step_loss,
        model,
        work / "judge",
        steps=steps,
        lr=2e-3,
        seed=seed,
        sample=sample,
        sample_minutes=3,
        desc="judge",
        decay=0.6,
        stop_after=stop_after,
        save_minutes=2,
    )
    return model, log


def save(model: Judge, log: list[dict], folder: Path, work: Path, vae, hardware: str = CORES) -> dict:
    """Write data/models/mini-judge: config, fp16 weights, a card with figures measured on what was written.
    Returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=1) + "\n", encoding="utf-8")
    save_file(half(model), folder / "model.safetensors")
    load_judge.cache_clear()
    figures = measure(load_judge(folder), work, vae)
    clean, again = figures["renders"], figures["after_autoencoder"]
    rows = "\n".join(
        f"| {name} | {len(values)} | {clean[name]:.2%} | {again[name]:.2%} |"
        for name, values in ATTRIBUTES.items()
    )
    mean = {key: sum(right.values()) / len(right) for key, right in figures.items() if key != "held_out"}
    (folder / "README.md").write_text(
        CARD.format(
            parameters=sum(p.numel() for p in model.parameters()),
            steps=log[-1]["step"],
            minutes=minutes(log),
            hardware=hardware,
            rows=rows,
            n=figures["held_out"],
            clean=mean["renders"],
            again=mean["after_autoencoder"],
            renders=2 * sum(n for n, *_ in SETS),
            sets=names(SETS),
        ),
        encoding="utf-8",
    )
    return figures


CARD = """# mini-judge

Reads every attribute of a scene of the miniature world off its picture: a residual convolutional network
of {parameters:,} parameters with one linear head an attribute. It is independent of mini-clip and selects
nothing, neither data nor thresholds nor checkpoints; it only says afterwards whether an edit happened and
whether the rest stayed.

    from ip2p.miniworld import judge
    judge(image)  # PIL in, a list with one dict of attributes out

- Data: {renders:,} renders by `ip2p.miniworld.render` ({sets}, and one random edit of each). No other data.
- Training: {steps:,} steps of 64 pictures, shifted, blurred, brightened and noised a little; in the second
  half every second one went through the autoencoder of mini-sd first. About {minutes:.0f} minutes on
  {hardware}.
- Made by `ip2p models build`; public domain (CC0), like all files here.

Share read right on {n:,} held-out renders of the mix 'plain', and on the same after the autoencoder (mean
{clean:.2%} and {again:.2%}):

| Attribute | Values | Renders | After the autoencoder |
|---|---:|---:|---:|
{rows}

Limits: it knows this world only, answers for any picture, and never says "I cannot tell".
"""
