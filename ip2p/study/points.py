"""What a figure is measured on: cases to edit, and points, each of them one way to edit all cases.

`measure_figure` appends what comes of every edit to out/figures/NAME.jsonl, so that a killed run goes on;
means with 95% intervals go to data/eval/NAME.csv, and pictures are drawn from that file alone
(`ip2p.study.plots`). Which figures there are: `ip2p.study.figures`. Two processes may measure two figures at
once: what both need, one makes, and the other waits for it (`alone`).
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.devices import choose_dtype
from ip2p.common.durable import append_line, locked, write_atomically
from ip2p.common.images import as_tensor
from ip2p.dataset.shards import read_pairs
from ip2p.miniworld import caption, render
from ip2p.miniworld.held_out import Edit, held_out_edits
from ip2p.paths import DATA, ROOT
from ip2p.profiles import Profile
from ip2p.study.measures import BATCH, interval, score
from ip2p.study.progress import begin_or_resume, model_checksums
from ip2p.study.validation import HELD_OUT_LOSS, hold_out, told_loss

OUT = ROOT / "out" / "figures"  # rows of every edit, pairs and editors that figures are made of

EDITS = 330  # a point

JUDGED = ("success", "preservation", "right", "outside")  # what the judge says of an edit, see `score`
BY_CLIP = ("image", "direction", "caption")
OF_PIXELS = ("l1", "l2")
SURVIVAL = {"kind": "survival of kind", "colour": "survival of colour"}  # over edits of something else
OF_SOME_FIGURES = ("valid", "red", "colour", "response", "gain", "reward")
MEASURES = (*JUDGED, *SURVIVAL.values(), *BY_CLIP, *OF_PIXELS, *OF_SOME_FIGURES)
MEASURES_OF_A_KIND = ("success", "preservation", "right", *OF_SOME_FIGURES)  # also told for each kind of edit


def place(*names: str) -> Path:
    """A file or folder in OUT; the folder that it lies in is there."""
    path = OUT.joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def model_folder(name: str) -> Path:
    """Where an editor that was trained for figures is kept."""
    return place("models", re.sub(r"\W+", "-", name))


@contextmanager
def alone(name: str, doing: str, wait: bool = True) -> Iterator[None]:
    """One process at a time is at what is called `name`; another one waits, or without `wait` raises
    ValueError."""
    with locked(place("locks", name), doing, wait):
        yield


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
    """One way to edit: `edit(cases, seeds)` gives their pictures.

    own_inputs: it paints what it edits, too, so that `edit` gives the pictures before and those after.
    editor: the name of the editor that was trained for it (see `model_folder`), if one was.
    """

    method: str
    setting: float
    edit: Callable[[list[Case], list[int]], list]
    n: int | None = None  # of so many cases; None: of all
    own_inputs: bool = False
    editor: str = ""


# -------------------------------------------------------------------------------------------------- cases


def as_case(edit: Edit) -> Case:
    """An edit of the miniature world, rendered and captioned."""
    image = render(edit.before)
    return Case(image, edit.instruction, caption(edit.before), caption(edit.after), edit.kind, edit)


def true_pair(edit: Edit) -> dict:
    """An edit of the miniature world as a row of `read_pairs`, both pictures rendered."""
    return {
        "original_prompt": caption(edit.before),
        "original_image": render(edit.before),
        "edit_prompt": edit.instruction,
        "edited_prompt": caption(edit.after),
        "edited_image": render(edit.after),
    }


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
        survives = row.pop("survives", {})
        for name, measure in SURVIVAL.items():
            if name in survives:
                row[measure] = survives[name]
        row["kind"] = cases[k].kind  # which may be called otherwise than that of its edit
        for name, values in columns.items():
            row[name] = values[k]
    return rows


def measure_figure(
    name: str,
    content: list[Point] | list[dict],
    profile: Profile,
    n: int = EDITS,
    cases_of: Callable[[Profile, int], list[Case]] = held_out_cases,
    more_rows: Callable[[list[dict]], list[dict]] | None = None,
    **about: str,
) -> Path:
    """Measure all points of a figure on `cases_of(profile, n)` (or take rows that were measured already) and
    write its CSV, with `about` and the held-out losses of its trainings in its head. more_rows: what follows
    from the rows of all edits. Returns the CSV's path. Raises ValueError if other models, or another `about`,
    began it."""
    command = f"ip2p figures {name} --profile {profile.name}"
    are_points = isinstance(content[0], Point)
    if are_points:  # rows are of a number of their own
        command += f" --n {n}"
    device, dtype = profile.place()
    if dtype != choose_dtype("auto", device):
        command += f" --dtype {profile.dtype}"
    made_by = {"command": command, "seeds": "0, 1, ... of the edits", **about, **model_checksums(profile)}
    if not are_points:
        return write_csv(name, content, made_by | told_losses(content, {}))
    rows = rows_of_points(name, content, profile, cases_of(profile, n), made_by)
    losses = told_losses(rows, {point.method: point.editor for point in content if point.editor})
    return write_csv(name, rows + (more_rows(rows) if more_rows else []), made_by | losses)


def told_losses(rows: list[dict], editors: dict[str, str]) -> dict[str, str]:
    """How the loss on held-out pairs of each editor that was trained for a figure ended. editors: their
    names, where methods are called otherwise."""
    told = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        path = model_folder(editors.get(method, method)) / HELD_OUT_LOSS
        if path.is_file():
            told[f"held-out loss, {method}"] = told_loss(path)
    return told


def rows_of_points(
    name: str, points: list[Point], profile: Profile, cases: list[Case], made_by: dict[str, str]
) -> list[dict]:
    """The rows of all edits of all points; those that an earlier run left are not made again."""
    path = place(f"{name}.jsonl")
    rows = begin_or_resume(path, made_by)
    todo = unmeasured_edits(points, rows, len(cases))
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
    if point.own_inputs:
        inputs, outputs = outputs
        chosen = [case._replace(image=image) for case, image in zip(chosen, inputs, strict=True)]
    return labelled(point.method, point.setting, numbers, measure_outputs(clip, chosen, outputs))


def labelled(method: str, setting: float, numbers: Sequence[int], rows: list[dict]) -> list[dict]:
    """The rows of edits, with what says whose they are in front."""
    out = []
    for k, row in zip(numbers, rows, strict=True):
        out.append({"method": method, "setting": setting, "edit": k} | row)
    return out


def print_estimate(todo: dict[Point, list[int]], cases: list[Case]) -> None:
    """Say what is to come: how many edits by each method, and how long they take, from two by its first
    point. An editor that may have yet to be trained takes as long as the methods before it."""
    seconds: dict[str, float] = {}  # an edit
    counts: dict[str, int] = {}
    for point, numbers in todo.items():
        counts[point.method] = counts.get(point.method, 0) + len(numbers)
        if point.method in seconds:
            continue
        if point.editor and seconds:
            seconds[point.method] = max(seconds.values())
            continue
        first = numbers[:2]
        if point.editor:  # is trained now, if it never was
            point.edit([cases[first[0]]], first[:1])
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
        for kind in dict.fromkeys(("all", row["kind"])):
            groups.setdefault((row["method"], row["setting"], kind), []).append(row)
    text = io.StringIO()
    for key, value in made_by.items():
        text.write(f"# {key}: {value}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("method", "setting", "kind", "measure", "mean", "low", "high", "sd", "n"))
    for (method, setting, kind), group in groups.items():
        for measure in MEASURES if kind == "all" else MEASURES_OF_A_KIND:
            values = [float(row[measure]) for row in group if measure in row]
            if values:
                table.writerow((method, setting, kind, measure, *statistics_of(values), len(values)))
    path = DATA / "eval" / f"{name}.csv"
    write_atomically(path, text.getvalue())
    return path


def statistics_of(values: list[float]) -> list[str]:
    """Mean, low and high end of its 95% interval, and standard deviation, as they stand in a CSV."""
    low, high = interval(values)
    return [f"{x:.4f}" for x in (np.mean(values), low, high, np.std(values))]
