"""What a figure is measured on: cases to edit, and points, each of them one way to edit all cases.

`measure_figure` appends what comes of every edit to out/figures/NAME.jsonl, so that a killed run goes on;
means with 95% intervals go to data/eval/NAME.csv, and pictures are drawn from that file alone
(`ip2p.study.plots`). Which figures there are: `ip2p.study.figures`.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.devices import choose_dtype
from ip2p.common.durable import append_line, write_atomically
from ip2p.common.images import as_tensor
from ip2p.dataset.shards import read_pairs
from ip2p.miniworld import caption, render
from ip2p.miniworld.held_out import Edit, held_out_edits
from ip2p.paths import DATA, ROOT
from ip2p.profiles import Profile
from ip2p.study.measures import BATCH, column, interval, score
from ip2p.study.progress import begin_or_resume, model_checksums
from ip2p.study.validation import hold_out

OUT = ROOT / "out" / "figures"  # rows of every edit, pairs and editors that figures are made of

JUDGED = ("success", "preservation", "right", "outside")  # what the judge says of an edit, see `score`
BY_CLIP = ("image", "direction", "caption")
OF_PIXELS = ("l1", "l2")
OF_SOME_FIGURES = ("valid", "red", "colour", "gain", "reward")
MEASURES = JUDGED + BY_CLIP + OF_PIXELS + OF_SOME_FIGURES
MEASURES_OF_A_KIND = ("success", "preservation", "right", *OF_SOME_FIGURES)  # also told for each kind of edit


class Case(NamedTuple):
    """Something to edit: a picture, an instruction, captions of it before and after; in the miniature world
    the truth, too."""

    image: Image.Image
    instruction: str
    before: str
    after: str
    kind: str
    truth: Edit | None = None


def images_of(cases: Sequence[Case]) -> list[Image.Image]:
    return [case.image for case in cases]


def instructions_of(cases: Sequence[Case]) -> list[str]:
    return [case.instruction for case in cases]


def truths_of(cases: Sequence[Case]) -> list[Edit]:
    return [case.truth for case in cases]


class Point(NamedTuple):
    """One way to edit: `edit(cases, seeds)` gives their pictures. n: of so many cases (None: of all)."""

    method: str
    setting: float
    edit: Callable[[list[Case], list[int]], list[Image.Image]]
    n: int | None = None


# -------------------------------------------------------------------------------------------------- cases


def as_case(edit: Edit) -> Case:
    """An edit of the miniature world, rendered and captioned."""
    image = render(edit.before)
    return Case(image, edit.instruction, caption(edit.before), caption(edit.after), edit.kind, edit)


def case_of_pair(row: dict) -> Case:
    """A row of `read_pairs`, to be edited anew."""
    return Case(
        row["original_image"], row["edit_prompt"], row["original_prompt"], row["edited_prompt"], "any"
    )


def held_out_cases(profile: Profile, n: int) -> list[Case]:
    """n renders of scenes that nothing was trained on; outside of the miniature world pairs, one each of n
    captions, which the editors that a figure trains itself have seen."""
    if profile.in_world:
        return [as_case(edit) for edit in held_out_edits(n, profile.edit_kinds)]
    _, kept_away = hold_out(read_pairs(profile.pairs), n)
    return [case_of_pair(row) for row in kept_away]


# -------------------------------------------------------------------------------------------- measurement


def measure_outputs(
    clip: ClipSimilarity, cases: Sequence[Case], outputs: Sequence[Image.Image]
) -> list[dict]:
    """A row for each output: its kind of edit ("kind"); CLIP's similarity of output and input ("image"), of
    the change and the captions' change ("direction") and of output and new caption ("caption"); the mean
    absolute ("l1") and squared ("l2") change of a pixel; in the miniature world what `score` says."""
    inputs = [case.image.resize(output.size) for case, output in zip(cases, outputs, strict=True)]
    before = as_tensor(inputs)
    after = as_tensor(list(outputs))
    sim = clip(before, after, [case.before for case in cases], [case.after for case in cases])
    columns = {
        "image": sim.sim_image.tolist(),
        "direction": sim.sim_direction.tolist(),
        "caption": sim.sim_1.tolist(),
        "l1": (before - after).abs().mean((1, 2, 3)).tolist(),
        "l2": (before - after).square().mean((1, 2, 3)).tolist(),
    }
    rows: list[dict] = [{} for _ in cases]
    if cases[0].truth:
        rows = score(truths_of(cases), inputs, outputs)
    for k, row in enumerate(rows):
        row["kind"] = cases[k].kind  # which may be called otherwise than that of its edit
        for name, values in columns.items():
            row[name] = values[k]
    return rows


def measure_figure(
    name: str, content: list[Point] | list[dict], profile: Profile, n: int = 300, **about: str
) -> Path:
    """Measure all points of a figure (or take rows that were measured already) and write its CSV, with
    `about` in its head. Returns the CSV's path. Raises ValueError if other models, or another `about`, began
    it."""
    command = f"ip2p figures {name} --profile {profile.name}"
    are_points = isinstance(content[0], Point)
    if are_points:  # rows are of a number of their own
        command += f" --n {n}"
    device, dtype = profile.place()
    if dtype != choose_dtype("auto", device):
        command += f" --dtype {profile.dtype}"
    made_by = {"command": command, "seeds": "0, 1, ... of the edits", **about, **model_checksums(profile)}
    rows = rows_of_points(name, content, profile, n, made_by) if are_points else content
    return write_csv(name, rows, made_by)


def rows_of_points(
    name: str, points: list[Point], profile: Profile, n: int, made_by: dict[str, str]
) -> list[dict]:
    """The rows of all edits of all points; those that an earlier run left are not made again."""
    path = OUT / f"{name}.jsonl"
    cases = held_out_cases(profile, n)
    rows = begin_or_resume(path, made_by)
    todo = unmeasured_edits(points, rows, n)
    if not todo:
        return rows
    print_estimate(todo, cases)
    clip = ClipSimilarity(profile.clip, profile.device)
    total = sum(len(numbers) for numbers in todo.values())
    with tqdm(total=total, desc=name, unit="edit", mininterval=2.0) as progress:
        for point, numbers in todo.items():
            for start in range(0, len(numbers), BATCH):
                new = rows_of_batch(clip, point, cases, numbers[start : start + BATCH])
                for row in new:
                    append_line(path, row)
                rows += new
                progress.update(len(new))
    return rows


def unmeasured_edits(points: list[Point], rows: list[dict], n: int) -> dict[Point, list[int]]:
    """The numbers of the edits of each point that have no row yet, without points that have all of theirs."""
    done = {(row["method"], row["setting"], row["edit"]) for row in rows}
    todo = {}
    for point in points:
        wanted = n if point.n is None else min(n, point.n)
        missing = [k for k in range(wanted) if (point.method, point.setting, k) not in done]
        if missing:
            todo[point] = missing
    return todo


def rows_of_batch(clip: ClipSimilarity, point: Point, cases: list[Case], numbers: list[int]) -> list[dict]:
    """Edit the cases of these numbers in a point's way, and measure what comes out."""
    chosen = [cases[k] for k in numbers]
    outputs = point.edit(chosen, numbers)
    return labelled(point.method, point.setting, numbers, measure_outputs(clip, chosen, outputs))


def labelled(method: str, setting: float, numbers: Sequence[int], rows: list[dict]) -> list[dict]:
    """The rows of edits, with what says whose they are in front."""
    out = []
    for k, row in zip(numbers, rows, strict=True):
        out.append({"method": method, "setting": setting, "edit": k} | row)
    return out


def print_estimate(todo: dict[Point, list[int]], cases: list[Case]) -> None:
    """Say what is to come: how many edits by each method, and how long they take, from two by its first
    point."""
    seconds: dict[str, float] = {}  # an edit
    counts: dict[str, int] = {}
    for point, numbers in todo.items():
        counts[point.method] = counts.get(point.method, 0) + len(numbers)
        if point.method not in seconds:
            first = numbers[:2]
            begin = time.perf_counter()
            point.edit([cases[k] for k in first], first)
            seconds[point.method] = (time.perf_counter() - begin) / len(first)
    for method, count in counts.items():
        each = seconds[method]
        minutes = count * each / 60
        print(f"{method}: {count} edits, {each:.2f} s each or less in batches: {minutes:.0f} minutes")


# -------------------------------------------------------------------------------------------------- CSV


def write_csv(name: str, rows: list[dict], made_by: dict[str, str]) -> Path:
    """data/eval/NAME.csv: a line for each point, kind of edit ("all") and measure, with its 95% interval."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        for kind in ("all", row["kind"]):
            groups.setdefault((row["method"], row["setting"], kind), []).append(row)
    text = io.StringIO()
    for key, value in made_by.items():
        text.write(f"# {key}: {value}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("method", "setting", "kind", "measure", "mean", "low", "high", "sd", "n"))
    for (method, setting, kind), group in groups.items():
        for measure in MEASURES if kind == "all" else MEASURES_OF_A_KIND:
            if measure in group[0]:
                values = [float(value) for value in column(group, measure)]
                table.writerow((method, setting, kind, measure, *statistics_of(values), len(values)))
    path = DATA / "eval" / f"{name}.csv"
    write_atomically(path, text.getvalue())
    return path


def statistics_of(values: list[float]) -> list[str]:
    """Mean, low and high end of its 95% interval, and standard deviation, as they stand in a CSV."""
    low, high = interval(values)
    return [f"{x:.4f}" for x in (np.mean(values), low, high, np.std(values))]
