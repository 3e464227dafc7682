"""Curves with intervals: what measured points are, a runner that loses nothing, their CSV files and their pictures.

What came of every edit is appended to out/figures/NAME.jsonl, so a killed run goes on; means with 95% intervals
go to data/eval/NAME.csv, and pictures are drawn from that file alone. The figures themselves are in `ip2p.study.figures`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import whole_lines
from ip2p.miniworld.judging import FOLDER as JUDGE
from ip2p.paths import DATA
from ip2p.profiles import Profile
from ip2p.study.measures import BATCH, MEASURES, Case, held_out_cases, interval, measure
from ip2p.study.plots import OUT


class Point(NamedTuple):
    """One way to edit: `edit(cases, seeds)` gives their pictures. n: of so many cases (None: of all)."""

    method: str
    setting: float
    edit: Callable[[list[Case], list[int]], list[Image.Image]]
    n: int | None = None


# --------------------------------------------------------------------------------------- running a figure


def stamp(profile: Profile) -> dict[str, str]:
    """The first digits of a checksum over the weights of each model that a figure may use."""
    out = {}
    for name in ("text_to_image", "editor", "clip", "judge"):
        folder, digest = Path(getattr(profile, name, JUDGE)), hashlib.sha256()
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(path.read_bytes())
        out[name] = f"{folder.name} {digest.hexdigest()[:12]}" if folder.is_dir() else str(folder)
    return out


def run(name: str, points: list[Point] | list[dict], profile: Profile, n: int = 300, **about: str) -> Path:
    """Measure all points of a figure (or take rows that were measured already) and write its CSV, with `about` in its
    head. Raises ValueError if other models, or another `about`, began it."""
    made_by = {
        "command": f"ip2p figures {name} --profile {profile.name}",
        "seeds": "0, 1, ... of the edits",
        **about,
        **stamp(profile),
    }
    if not isinstance(points[0], Point):  # rows already, of a number of its own
        return write_csv(name, points, made_by)
    made_by["command"] += f" --n {n}"
    cases, clip = held_out_cases(profile, n), ClipSimilarity(profile.clip)
    path = OUT / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = resume(path, made_by)
    done = {(r["method"], r["setting"], r["edit"]) for r in rows}
    todo = {p: [k for k in range(min(n, p.n or n)) if (p.method, p.setting, k) not in done] for p in points}
    todo = {p: ks for p, ks in todo.items() if ks}
    if todo:
        estimate(todo, cases)
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=sum(map(len, todo.values())), desc=name, unit="edit", mininterval=2.0) as bar,
    ):
        for point, numbers in todo.items():
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                which = [cases[k] for k in some]
                new = [
                    {"method": point.method, "setting": point.setting, "edit": k} | r
                    for k, r in zip(some, measure(clip, which, point.edit(which, some)), strict=True)
                ]
                file.write("".join(json.dumps(r) + "\n" for r in new))
                file.flush()
                os.fsync(file.fileno())
                rows += new
                bar.update(len(some))
    return write_csv(name, rows, made_by)


def resume(path: Path, made_by: dict) -> list[dict]:
    """What a run of this figure left; a half line, left by a killed one, is cut off."""
    if path.exists() and path.stat().st_size:
        try:
            first, *rows = map(json.loads, whole_lines(path))
            changed = [name for name in made_by if made_by[name] != first.get(name)]
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is not a run of this figure; move it away") from None
        if changed or first != made_by:
            raise ValueError(f"{path} was begun with other {', '.join(changed)}; delete it, or move it away")
        whole_lines(path, cut=True)
        return rows
    path.write_text(json.dumps(made_by) + "\n", encoding="utf-8")
    return []


def estimate(todo: dict[Point, list[int]], cases: list[Case]) -> None:
    """Say what is to come, from two edits by the first point of each method."""
    seconds: dict[str, float] = {}
    for point, numbers in todo.items():
        if point.method not in seconds:
            begin, some = time.perf_counter(), numbers[:2]
            point.edit([cases[k] for k in some], some)
            seconds[point.method] = (time.perf_counter() - begin) / len(some)
    for method, each in seconds.items():
        count = sum(len(numbers) for point, numbers in todo.items() if point.method == method)
        print(
            f"{method}: {count} edits, {each:.2f} s each or less in batches: {count * each / 60:.0f} minutes"
        )


def write_csv(name: str, rows: list[dict], made_by: dict) -> Path:
    """data/eval/NAME.csv: a line for each point, kind of edit ("all") and measure, with its 95% interval."""
    path, points = DATA / "eval" / f"{name}.csv", {}
    for row in rows:
        for kind in ("all", row["kind"]):
            points.setdefault((row["method"], row["setting"], kind), []).append(row)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in made_by.items())
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("method", "setting", "kind", "measure", "mean", "low", "high", "sd", "n"))
        for (method, setting, kind), some in points.items():
            for key in MEASURES if kind == "all" else ("success", "preservation", "valid", "red", "colour"):
                if key in some[0]:
                    values = [float(r[key]) for r in some]
                    figures = (np.mean(values), *interval(values), np.std(values))
                    table.writerow((method, setting, kind, key, *(f"{x:.4f}" for x in figures), len(values)))
    return path
