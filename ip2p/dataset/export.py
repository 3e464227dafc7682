"""Pairs for the authors' scripts, in their layout; `ip2p.dataset.shards` reads it."""

from __future__ import annotations

import json
from collections import Counter
from numbers import Integral
from pathlib import Path

from ip2p.dataset.shards import IMAGES, NUMBERS, TEXT
from ip2p.dataset.triplets import shortened


def write_author_layout(folder: str | Path, rows: list[dict]) -> None:
    """The layout of the authors' scripts: seeds.json, and a folder a triplet with prompt.json, metadata.jsonl
    and pictures SEED_0.jpg and SEED_1.jpg; SEED-2, SEED-3 and so on for further pairs of one seed."""
    folder = Path(folder)
    of_triplet: dict[tuple, list[dict]] = {}
    for row in rows:
        of_triplet.setdefault(tuple(row[name] for name in TEXT), []).append(row)
    index = []
    for number, ((caption, edit, output), members) in enumerate(of_triplet.items()):
        place = folder / f"{number:07d}"
        place.mkdir(parents=True, exist_ok=True)
        prompt = {"caption": caption, "edit": edit, "output": output}
        (place / "prompt.json").write_text(json.dumps(prompt))
        metadata = []
        names = names_of(members)
        for name, row in zip(names, members, strict=True):
            numbers = {column: row.get(column) for column in ("seed", *NUMBERS)}
            metadata.append(json.dumps(numbers | {"name": name}) + "\n")
            for i, column in enumerate(IMAGES):
                row[column].save(place / f"{name}_{i}.jpg", quality=100)
        (place / "metadata.jsonl").write_text("".join(metadata))
        index.append([place.name, names])
    (folder / "seeds.json").write_text(json.dumps(index))


def names_of(rows: list[dict]) -> list[str]:
    """A name for the pictures of each row: its seed, if no row before has that. Raises ValueError for a seed
    that is no whole number."""
    times = Counter()
    names = []
    for row in rows:
        seed = 0 if row.get("seed") is None else row["seed"]
        if not isinstance(seed, Integral):
            raise ValueError(f"the seed {shortened(seed)} is no whole number")
        times[seed] += 1
        names.append(f"{seed}" if times[seed] == 1 else f"{seed}-{times[seed]}")
    return names
