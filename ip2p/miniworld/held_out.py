"""Scenes and edits that nothing is trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

from ip2p.miniworld.captions import caption_pair
from ip2p.miniworld.language import instruction
from ip2p.miniworld.scene import EDIT_KINDS, Scene, edit, edit_kind, random_edit, random_scene
from ip2p.paths import DATA

HELD_OUT = 10**9  # seeds from here on are never trained on

REWORDED = DATA / "eval" / "reworded.jsonl"  # one edit a line: {"scene", "change", "edit"}


class Edit(NamedTuple):
    """One thing to do, with the truth: the scene before and after."""

    before: Scene
    after: Scene
    instruction: str
    kind: str  # one of EDIT_KINDS, "swap" or "several"


def scenes(n: int, seed: int, mix: str = "wild") -> list[Scene]:
    """`n` random scenes of the mix `mix`; scene i depends on (seed, i) alone. Give HELD_OUT as the seed for
    scenes that are never trained on."""
    return [random_scene(random.Random(seed * 1_000_003 + i), mix) for i in range(n)]


def possible_edits(
    first_seed: int, kinds: Sequence[str]
) -> Iterator[tuple[Scene, Scene, str, random.Random]]:
    """Scenes with a random edit each, the `kinds` in turn, without end: (before, after, kind, what chooses
    on).

    The scenes are those of the seeds from `first_seed` on, without those that allow no such edit. Raises
    ValueError for a kind that there is not.
    """
    unknown = set(kinds) - {*EDIT_KINDS, "swap"}
    if unknown:
        raise ValueError(
            f"there is no edit of kind {min(unknown)!r}; choose from {', '.join(EDIT_KINDS)}, swap"
        )
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
    """`n` edits of held-out scenes, all `kinds` (None: EDIT_KINDS) equally often, in turn.

    Raises ValueError for a kind that there is not.
    """
    first_seed = HELD_OUT * 7 + seed * 1_000_003
    edits = []
    for before, after, kind, rng in islice(possible_edits(first_seed, kinds or EDIT_KINDS), n):
        edits.append(Edit(before, after, instruction(before, after, rng), kind))
    return edits


def caption_pairs(edits: Sequence[Edit], seed: int = 0) -> list[tuple[str, str]]:
    """The captions of each edit before and after, which say a part (`caption_pair`); pair i depends on (seed,
    i) and its edit alone."""
    pairs = []
    for i, (before, after, *_) in enumerate(edits):
        rng = random.Random(seed * 1_000_003 + i)
        pairs.append(caption_pair(before, after, rng))
    return pairs


def reworded_edits(path: str | Path = REWORDED) -> list[Edit]:
    """The instructions that were worded by hand and frozen before training, in the file's order."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [_reworded_edit(json.loads(line)) for line in lines]


def _reworded_edit(row: dict) -> Edit:
    """A line of REWORDED. JSON has no tuples: its lists become those of `Scene` and `edit`."""
    before = Scene(**_with_tuples(row["scene"]))
    after = edit(before, **_with_tuples(row["change"]))
    return Edit(before, after, row["edit"], edit_kind(before, after))


def _with_tuples(row: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
