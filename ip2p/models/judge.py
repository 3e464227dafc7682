"""Trains the judge (`ip2p.miniworld.judging`) from renders and writes data/models/mini-judge."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ip2p.common.images import to_float
from ip2p.common.train_loop import train_loop
from ip2p.miniworld import ATTRIBUTES, Scene, random_scene
from ip2p.miniworld.held_out import HELD_OUT
from ip2p.miniworld.judging import SIZE, Judge, judge, load_judge
from ip2p.models.autoencoder import decode, encode
from ip2p.models.corrupt import corrupt, repainted_pairs, training_pairs
from ip2p.models.files import CORES, filling, half, minutes, names, write_json
from ip2p.models.renders import cached_draw, cached_renders

# (renders, seed, mix), and an edit of each
SETS = ((7000, 1, "wild"), (4000, 3, "even"), (8000, 5, "two"))

SHARES = {"wild": 0.5, "even": 0.2, "two": 0.3}  # of the samples

REPAINTED = 5000  # pairs that go through the autoencoder

HALF_WAY = 0.5  # share of the steps after which every second sample has been through the autoencoder


def classes(scenes: list[Scene]) -> torch.Tensor:
    """The number of each attribute's value: (n, attributes) int64."""
    rows = []
    for scene in scenes:
        attributes = scene.attributes()
        rows.append([values.index(attributes[name]) for name, values in ATTRIBUTES.items()])
    return torch.tensor(rows)


def accuracy(model: Judge, pictures: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share read right, by attribute. pictures: (n, 3, h, w) uint8."""
    right = dict.fromkeys(ATTRIBUTES, 0)
    for reading, scene in zip(judge(pictures, model), scenes, strict=True):
        truth = scene.attributes()
        for name in ATTRIBUTES:
            right[name] += reading[name] == truth[name]
    return {name: count / len(scenes) for name, count in right.items()}


def accuracy_of_seconds(model: Judge, pictures: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share read right of the second objects' kind and colour, where there is one."""
    rows = [row for row, scene in enumerate(scenes) if scene.second]
    right = accuracy(model, pictures[rows], [scenes[row] for row in rows])
    return {name: right[name] for name in ("second_kind", "second_colour")}


def scenes_of_two(n: int, seed: int) -> list[Scene]:
    """n random scenes of the mix "wild" that have a second object."""
    rng = random.Random(seed)
    found: list[Scene] = []
    while len(found) < n:
        scene = random_scene(rng)
        if scene.second:
            found.append(scene)
    return found


def measure(model: Judge, work: Path, vae=None, n: int = 2000, n_seconds: int = 600) -> dict:
    """Accuracy on `n` held-out renders of the mix "wild"; on `n_seconds` others, of scenes that have a second
    object, that of its kind and colour ("seconds"); both also after the autoencoder `vae`."""
    scenes, pictures = cached_renders(work, n, HELD_OUT, size=model.size)
    of_two = scenes_of_two(n_seconds, HELD_OUT)
    pictures_of_two = cached_draw(work / f"of-two-{n_seconds}-{model.size}.npy", of_two, model.size)
    seconds = {"n": n_seconds, "renders": accuracy_of_seconds(model, pictures_of_two, of_two)}
    figures = {"held_out": n, "renders": accuracy(model, pictures, scenes), "seconds": seconds}
    if vae is not None:
        repainted = decode(vae, encode(vae, pictures, 64), 64)
        figures["after_autoencoder"] = accuracy(model, repainted, scenes)
        repainted = decode(vae, encode(vae, pictures_of_two, 64), 64)
        seconds["after_autoencoder"] = accuracy_of_seconds(model, repainted, of_two)
    return figures


class Lessons:
    """Pictures and the classes of their attributes, drawn at random from renders and, later, from repainted
    ones."""

    def __init__(self, work: Path, vae, sets: tuple, size: int, seed: int):
        scenes, self.pictures, mixes = training_pairs(work, sets, size)
        self.truth = classes(scenes)
        self.weights = torch.tensor([SHARES[mix] / mixes.count(mix) for mix in mixes])
        if vae is not None:
            n = min(REPAINTED, len(scenes) // 2)
            self.repainted_rows, self.repainted = repainted_pairs(work, vae, self.pictures, n, seed)
            self.weights_repainted = self.weights[self.repainted_rows]

    def take(
        self, n: int, generator: torch.Generator, half_repainted: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (n, 3, size, size) uint8 and classes (n, attributes)."""
        rows = self.weights.multinomial(n, replacement=True, generator=generator)
        x, y = self.pictures[rows], self.truth[rows]
        if half_repainted:
            again = self.weights_repainted.multinomial(n // 2, replacement=True, generator=generator)
            x[::2] = self.repainted[again]
            y[::2] = self.truth[self.repainted_rows[again]]
        return x, y


def build(
    work: Path,
    vae=None,
    *,
    size: int = SIZE,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    steps: int = 8000,
    batch: int = 64,
    held_out: int = 2000,
    seed: int = 0,
    sets=SETS,
) -> tuple[Judge, list[dict]]:
    """Train from nothing or from `work`'s checkpoint. In the second half of the training every second sample
    has been through the autoencoder `vae` (None: stop there). Returns the judge and the log.

    size: pixels a side of the pictures; held_out: renders to be measured on later, some of which are looked
    at now and then; sets: as of `training_pairs`.
    """
    torch.manual_seed(seed)
    model = Judge(size=size).to(device, memory_format=torch.channels_last)
    lessons = Lessons(work, vae, sets, size, seed)
    repaint_from = int(HALF_WAY * steps)
    scenes, pictures = cached_renders(work, held_out, HELD_OUT, size=size)
    scenes, pictures = scenes[:300], pictures[:300]

    def step_loss(model, generator, step):
        x, y = lessons.take(batch, generator, half_repainted=step >= repaint_from)
        x = corrupt(to_float(x), generator).to(device, memory_format=torch.channels_last)
        y = y.to(device)
        losses = [F.cross_entropy(logits, y[:, i]) for i, logits in enumerate(model(x).values())]
        return sum(losses)

    def report(step):
        right = accuracy(model, pictures, scenes)
        mean = sum(right.values()) / len(right)
        worst = sorted(right, key=right.get)[:5]
        by_name = ", ".join(f"{name} {right[name]:.3f}" for name in worst)
        print(f"judge, step {step}: mean {mean:.4f}; {by_name}", flush=True)

    log = train_loop(
        step_loss,
        model,
        work / "judge",
        steps=steps,
        lr=2e-3,
        seed=seed,
        dtype=dtype,
        sample=report,
        sample_minutes=3,
        desc="judge",
        decay=0.6,
        stop_after=repaint_from if vae is None else None,
        save_minutes=2,
    )
    return model, log


def save(
    model: Judge,
    log: list[dict],
    folder: Path,
    work: Path,
    vae,
    *,
    sets=SETS,
    held_out: int = 2000,
    hardware: str = CORES,
) -> dict:
    """Write data/models/mini-judge: config, fp16 weights, a card with figures measured on what was written.
    Returns the figures."""
    with filling(folder, last="README.md") as tmp:
        write_json(tmp / "config.json", model.config, indent=1)
        save_file(half(model), tmp / "model.safetensors")
        load_judge.cache_clear()
        figures = measure(load_judge(tmp), work, vae, held_out, min(600, held_out))
        card = model_card(figures, sum(p.numel() for p in model.parameters()), log, sets, hardware)
        (tmp / "README.md").write_text(card, encoding="utf-8")
    load_judge.cache_clear()
    return figures


def model_card(figures: dict, parameters: int, log: list[dict], sets, hardware: str) -> str:
    """The text of the folder's README.md. figures: those of `measure`."""
    clean, again = figures["renders"], figures["after_autoencoder"]
    seconds = figures["seconds"]
    rows = []
    for name, values in ATTRIBUTES.items():
        rows.append(f"| {name} | {len(values)} | {clean[name]:.2%} | {again[name]:.2%} |")
    return CARD.format(
        parameters=parameters,
        steps=log[-1]["step"],
        minutes=minutes(log),
        hardware=hardware,
        rows="\n".join(rows),
        n=figures["held_out"],
        clean=sum(clean.values()) / len(clean),
        again=sum(again.values()) / len(again),
        renders=2 * sum(n for n, *_ in sets),
        sets=names(sets),
        n_seconds=seconds["n"],
        seconds=seconds["renders"],
        seconds_again=seconds["after_autoencoder"],
    )


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

Share read right on {n:,} held-out renders of the mix 'wild', and on the same after the autoencoder (mean
{clean:.2%} and {again:.2%}):

| Attribute | Values | Renders | After the autoencoder |
|---|---:|---:|---:|
{rows}

Small things are the hardest. Of {n_seconds:,} other held-out scenes, all of which have a second object, its
kind is read right in {seconds[second_kind]:.2%} and its colour in {seconds[second_colour]:.2%}; after the
autoencoder in {seconds_again[second_kind]:.2%} and {seconds_again[second_colour]:.2%}.

Limits: it knows this world only, answers for any picture, and never says "I cannot tell".
"""
