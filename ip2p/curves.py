"""Curves with intervals: what measured points are, a runner that loses nothing, their CSV files and their pictures.

What came of every edit is appended to out/figures/NAME.jsonl, so a killed run goes on; means with 95% intervals
go to data/eval/NAME.csv, and pictures are drawn from that file alone. The figures themselves are in `ip2p.figures`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.evaluation import BATCH, Edit, held_out_edits, hold_out, score
from ip2p.miniworld import caption, render
from ip2p.miniworld.judging import FOLDER as JUDGE
from ip2p.pairs import as_tensor, read_pairs
from ip2p.profiles import DATA, Profile
from ip2p.sheets import ROOT

OUT = ROOT / "out" / "figures"
MEASURES = ("success", "preservation", "outside", "image", "direction", "caption", "l1", "l2", "valid", "red", "colour")


class Case(NamedTuple):
    """Something to edit: a picture, an instruction, captions of it before and after; in the miniature world the truth,
    too."""

    image: Image.Image
    instruction: str
    before: str
    after: str
    kind: str
    truth: Edit | None = None


class Point(NamedTuple):
    """One way to edit: `edit(cases, seeds)` gives their pictures. n: of so many cases (None: of all)."""

    method: str
    setting: float
    edit: Callable[[list[Case], list[int]], list[Image.Image]]
    n: int | None = None


def as_case(e: Edit) -> Case:
    return Case(render(e.before), e.instruction, caption(e.before), caption(e.after), e.kind, e)


def held_out_cases(profile: Profile, n: int) -> list[Case]:
    """n renders of scenes that nothing was trained on; outside of the miniature world pairs, one each of n captions,
    which the editors that a figure trains itself have seen."""
    if profile.in_world:
        return [as_case(e) for e in held_out_edits(n, profile.edit_kinds)]
    return [Case(r["original_image"], r["edit_prompt"], r["original_prompt"], r["edited_prompt"], "any")
            for r in hold_out(read_pairs(profile.pairs), n)[1]]


def measure(clip: ClipSimilarity, cases: list[Case], outputs: list[Image.Image]) -> list[dict]:
    """The MEASURES of each output, and its kind of edit: CLIP's similarity of output and input ("image"), of the change
    and the captions' change ("direction") and of output and new caption ("caption"); the mean absolute ("l1") and
    squared ("l2") change of a pixel; in the miniature world what `score` says."""
    inputs = [c.image.resize(o.size) for c, o in zip(cases, outputs, strict=True)]
    a, b = as_tensor(inputs), as_tensor(outputs)
    sim = clip(a, b, [c.before for c in cases], [c.after for c in cases])
    rows = [{"kind": c.kind, "image": i, "direction": d, "caption": t, "l1": m, "l2": s} for c, i, d, t, m, s in zip(
        cases, *(x.tolist() for x in (sim.sim_image, sim.sim_direction, sim.sim_1, (a - b).abs().mean((1, 2, 3)),
                                      (a - b).square().mean((1, 2, 3)))), strict=True)]
    if cases[0].truth:
        verdicts = score([c.truth for c in cases], inputs, outputs)
        rows = [verdict | row for row, verdict in zip(rows, verdicts, strict=True)]  # the kind is the case's
    return rows


def interval(values: Iterable[float], draws: int = 2000) -> tuple[float, float]:
    """The 95% interval of the mean: by bootstrap, and of a share (values 0 and 1) by Wilson's formula, which is not
    empty where all values are the same."""
    values = np.asarray(list(values), float)
    if np.isin(values, (0, 1)).all():
        p, n, z = float(values.mean()), len(values), 1.96
        middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        return max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n))
    means = values[np.random.default_rng(0).integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


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
    made_by = {"command": f"python -m ip2p.figures {name} --profile {profile.name}",
               "seeds": "0, 1, ... of the edits", **about, **stamp(profile)}
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
    with open(path, "a", encoding="utf-8") as file, tqdm(total=sum(map(len, todo.values())), desc=name,
                                                         unit="edit", mininterval=2.0) as bar:
        for point, numbers in todo.items():
            for start in range(0, len(numbers), BATCH):
                some = numbers[start:start + BATCH]
                which = [cases[k] for k in some]
                new = [{"method": point.method, "setting": point.setting, "edit": k} | r
                       for k, r in zip(some, measure(clip, which, point.edit(which, some)), strict=True)]
                file.write("".join(json.dumps(r) + "\n" for r in new))
                file.flush()
                os.fsync(file.fileno())
                rows += new
                bar.update(len(some))
    return write_csv(name, rows, made_by)


def resume(path: Path, made_by: dict) -> list[dict]:
    """What a run of this figure left; a half line, left by a killed one, is cut off."""
    if path.exists() and path.stat().st_size:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        try:
            first, *rows = map(json.loads, data[:whole].splitlines())
            changed = [name for name in made_by if made_by[name] != first.get(name)]
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is not a run of this figure; move it away") from None
        if changed or first != made_by:
            raise ValueError(f"{path} was begun with other {', '.join(changed)}; delete it, or move it away")
        os.truncate(path, whole)
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
        print(f"{method}: {count} edits, {each:.2f} s each or less in batches: {count * each / 60:.0f} minutes")


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


def read_csv(name: str) -> list[dict]:
    """The lines of data/eval/NAME.csv, numbers as numbers. Raises ValueError if it was never made."""
    path = DATA / "eval" / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"there is no {path}; make it with `python -m ip2p.figures {name}`")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{k: v if k in ("method", "kind", "measure") else float(v) for k, v in row.items()}
            for row in csv.DictReader(lines)]


def curve(rows: list[dict], method: str, measure: str, kind: str = "all") -> list[dict]:
    """The lines of one method and measure, in the order of the settings."""
    some = [r for r in rows if (r["method"], r["measure"], r["kind"]) == (method, measure, kind)]
    return sorted(some, key=lambda r: r["setting"])


def value(rows: list[dict], method: str, measure: str, kind: str = "all", setting: float | None = None) -> dict:
    """The one line of a method and measure (at a setting). Raises ValueError if there is none, or more than one."""
    (line,) = (r for r in curve(rows, method, measure, kind) if setting in (None, r["setting"]))
    return line


def differ(a: dict, b: dict) -> bool:
    """Whether the intervals of two lines have nothing in common."""
    return a["high"] < b["low"] or b["high"] < a["low"]


PLANES = {"CLIP's plane": ("direction", "image"), "the judge's plane": ("success", "preservation")}
PALETTE = ("#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#000000", "#8A8A8A")
AXES = {"direction": "CLIP: the change goes the caption's way", "image": "CLIP: output resembles the input",
        "success": "edit success, by the judge", "preservation": "share of the rest kept, by the judge"}


def draw(name: str, heading: str = ""):
    """The curves of a figure in both PLANES, from its CSV: a matplotlib figure. Bars are 95% intervals; the settings at
    a curve's ends stand beside them."""
    from matplotlib import pyplot as plt

    rows = read_csv(name)
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), dpi=110, layout="constrained")
    for axes, (title, (x, y)) in zip(panels, PLANES.items(), strict=True):
        for method, colour in zip(methods, PALETTE, strict=False):
            xs, ys = curve(rows, method, x), curve(rows, method, y)
            if not xs:
                continue
            spread = [[[r["mean"] - r["low"] for r in c], [r["high"] - r["mean"] for r in c]] for c in (xs, ys)]
            means = [[r["mean"] for r in c] for c in (xs, ys)]
            axes.errorbar(*means, xerr=spread[0], yerr=spread[1], fmt="o-" if len(xs) > 1 else "D", color=colour, ms=4,
                          lw=1.5, elinewidth=0.6, label=method if axes is panels[0] else None)
            for k in (0, -1) if len(xs) > 1 else ():
                axes.annotate(f"{xs[k]['setting']:g}", (means[0][k], means[1][k]), xytext=(4, 4), fontsize=7,
                              textcoords="offset points", color=colour)
        axes.set(xlabel=AXES[x], ylabel=AXES[y], title=title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(heading, fontsize=11)
    plt.close(figure)  # shown once, as the value of a cell
    return figure
