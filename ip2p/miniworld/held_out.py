"""Scenes and edits that nothing is trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

from ip2p.miniworld import EDIT_KINDS, Scene, edit, edit_kind, instruction, random_edit, random_scene
from ip2p.paths import DATA

REWORDED = DATA / "eval" / "reworded.jsonl"


class Edit(NamedTuple):
    """One thing to do, with the truth: the scene before and after."""

    before: Scene
    after: Scene
    instruction: str
    kind: str


def possible_edits(
    first_seed: int, kinds: Sequence[str]
) -> Iterator[tuple[Scene, Scene, str, random.Random]]:
    """Scenes with a random edit each, the `kinds` in turn, without end: (before, after, kind, what chooses
    on). The scenes are those of the seeds from `first_seed` on, without those that allow no such edit."""
    turns = cycle(kinds)
    kind = next(turns)
    for seed in count(first_seed):
        rng = random.Random(seed)
        before = random_scene(rng)
        try:
            after = random_edit(before, rng, kind)
        except ValueError:  # no such edit of this scene: take the next one
            continue
        yield before, after, kind, rng
        kind = next(turns)


def held_out_edits(n: int, kinds: tuple[str, ...] | None = None, seed: int = 0) -> list[Edit]:
    """n edits of scenes that were never trained on, all `kinds` (None: all there are) equally often."""
    first_seed = HELD_OUT * 7 + seed * 1_000_003
    edits = []
    for before, after, kind, rng in islice(possible_edits(first_seed, kinds or EDIT_KINDS), n):
        edits.append(Edit(before, after, instruction(before, after, rng), kind))
    return edits


def reworded_edits(path: str | Path = REWORDED) -> list[Edit]:
    """The instructions that were worded by hand and frozen before training."""
    out = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        extras, second = tuple(row["scene"].pop("extras")), row["scene"].pop("second")
        before = Scene(**row["scene"], extras=extras, second=tuple(second) if second else None)
        change = {k: tuple(v) if isinstance(v, list) else v for k, v in row["change"].items()}
        after = edit(before, **change)
        out.append(Edit(before, after, row["edit"], edit_kind(before, after)))
    return out


HELD_OUT = 10**9  # seeds from here on are never trained on
