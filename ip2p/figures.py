"""The paper's curves and ablations: `python -m ip2p.figures NAME`, or all of them, `make figures` (hours on a CPU).

A figure is a list of points, and a point is one way to make the same held-out edits. What came of every edit is
appended to out/figures/NAME.jsonl, so a killed run goes on; means with bootstrap intervals go to data/eval/NAME.csv,
and pictures are drawn from that file alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.baselines import sdedit, text2live
from ip2p.clip_filter import ClipSimilarity, Similarities, best
from ip2p.editing import Editor, load_editor
from ip2p.evaluation import BATCH, GENERATED, Edit, held_out_edits, hold_out, run_editor, score
from ip2p.miniworld import (
    COLOURS,
    KINDS,
    SIZES,
    Scene,
    caption,
    difference,
    edit,
    edit_kind,
    edit_success,
    instruction,
    judge,
    parse,
    preservation,
    random_edit,
    random_scene,
    render,
)
from ip2p.models.renders import HELD_OUT
from ip2p.pairs import Job, as_tensor, candidate_settings, make_pairs, paint_candidates, read_pairs, to_pil
from ip2p.profiles import DATA, Profile, get_profile, load_text_to_image
from ip2p.prompt_to_prompt import ATTENTION
from ip2p.sheets import ROOT, fill
from ip2p.show import grid
from ip2p.training import train
from ip2p.triplets import read_triplets

OUT = ROOT / "out" / "figures"
MEASURES = ("success", "preservation", "outside", "image", "direction", "caption", "l1", "l2", "valid", "red")


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
        rows = [r | s for r, s in zip(rows, score([c.truth for c in cases], inputs, outputs), strict=True)]
    return rows


def interval(values: Iterable[float], draws: int = 2000) -> tuple[float, float]:
    """The 95% interval of the mean, by bootstrap."""
    values = np.asarray(list(values), float)
    means = values[np.random.default_rng(0).integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


# --------------------------------------------------------------------------------------- running a figure


def stamp(profile: Profile) -> dict[str, str]:
    """The first digits of a checksum over the weights of each model that a figure may use."""
    out = {}
    for name in ("text_to_image", "editor", "clip"):
        folder, digest = Path(getattr(profile, name)), hashlib.sha256()
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(path.read_bytes())
        out[name] = f"{folder.name} {digest.hexdigest()[:12]}" if folder.is_dir() else str(folder)
    return out


def run(name: str, profile: Profile, n: int = 300) -> Path:
    """Measure all points of a figure and write its CSV. Raises ValueError if other models began it."""
    points = FIGURES[name](profile)
    made_by = {"command": f"python -m ip2p.figures {name} --profile {profile.name}",
               "seeds": "0, 1, ... of the edits",
               "trainings": f"{ABLATION_STEPS} steps each", **stamp(profile)}
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
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
        first, *rows = map(json.loads, data[:data.rfind(b"\n") + 1].splitlines())
        if first != made_by:
            changed = [name for name in made_by if made_by[name] != first.get(name)]
            raise ValueError(f"{path} was begun with other {', '.join(changed)}; delete it, or move it away")
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
            for key in MEASURES if kind == "all" else ("success", "preservation", "valid", "red"):
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


# ------------------------------------------------------------------------------------------- the figures

S_I = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # figure 8 of the paper
STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of SDEdit; the paper's begin at 0.3
POOL, POOL_TRIPLETS = 96, 96  # candidates of a triplet, all kept, from which selections are made
TRIPLETS = 256  # of those whose pairs are painted for a comparison
ABLATION_STEPS = 300  # of every training whose only purpose is a comparison


def by(editor: Callable[[], Editor], **scales) -> Callable:
    """A point's `edit` by an editor, which is loaded when it is first needed."""
    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return editor().many([c.image for c in cases], [c.instruction for c in cases], seeds=seeds, **scales)
    return edit


def figure_8(profile: Profile) -> list[Point]:
    """Ours over s_I, SDEdit over its strength, driven by the output caption, by a short one and by the instruction,
    Text2LIVE, and the bounds."""
    editor, painter = cache(lambda: load_editor(profile.name)), cache(lambda: load_text_to_image(profile))
    clip = cache(lambda: ClipSimilarity(profile.clip))

    def noised(strength: float, text: Callable[[Case], str]) -> Callable:
        return lambda cases, seeds: sdedit(painter(), [c.image for c in cases], list(map(text, cases)), strength,
                                           guidance_scale=profile.paint_guidance, seeds=seeds)

    def layered(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return [text2live(clip(), c.image, c.before, c.after, seed=seed, progress=False).image
                for c, seed in zip(cases, seeds, strict=True)]

    points = [Point("InstructPix2Pix", s, by(editor, image_guidance_scale=s)) for s in S_I]
    drives = {"output caption": lambda c: c.after, "instruction": lambda c: c.instruction}
    if profile.in_world:
        drives["short caption"] = lambda c: caption(said(c.truth))
    points += [Point(f"SDEdit, {name}", s, noised(s, text)) for name, text in drives.items() for s in STRENGTHS]
    points.append(Point("unedited", 0, lambda cases, _: [c.image for c in cases]))
    if profile.in_world:
        points.append(Point("true edit", 0, lambda cases, _: [render(c.truth.after) for c in cases]))
    return [*points, Point("Text2LIVE", 0, layered, n=100)]


def said(truth: Edit) -> Scene:
    """The edited scene as a caption of the wild would tell it: object, colour, place, and what the edit asks for. A
    caption of the miniature world leaves nothing unsaid, which no caption of a photograph does."""
    after, asked = truth.after, difference(truth.before, truth.after)
    named = {name: getattr(after, name) for name in ("kind", "colour", "place", *asked) if hasattr(after, name)}
    return Scene(**named, extras=tuple(e for e in after.extras if e in asked),
                 second=after.second if "second_kind" in asked else None)


def unfiltered(profile: Profile) -> list[dict]:
    """As many pairs as the profile's, of candidates that no filter saw: two of a triplet, each with its own seed."""
    wanted = len(read_pairs(profile.pairs, decode=False))
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:-(-wanted // 2)]
    make_pairs(triplets, OUT / "unfiltered", profile, candidates=2, keep=2, per_seed=1, enough=False, min_image=-1.0,
               min_caption=-1.0, min_direction=-1.0)
    return read_pairs(OUT / "unfiltered")[:wanted]


def pupil(profile: Profile, name: str, lessons: Callable[[], list[dict]], **options) -> Editor:
    """An editor trained for ABLATION_STEPS and kept in out/figures/models/NAME; stopped, its training goes on.
    `options`: of `train`."""
    folder = OUT / "models" / re.sub(r"\W+", "-", name)
    train(lessons(), folder, profile, steps=ABLATION_STEPS, **options)
    return load_editor(str(folder), profile=profile.name)


def pupils(profile: Profile, lessons: dict[str, Callable[[], list[dict]]], scales: tuple[float, ...] = ()
           ) -> list[Point]:
    """Editors that are trained alike on different lessons, each at the values of s_I (none: the profile's)."""
    points = []
    for name, rows in lessons.items():
        editor = cache(partial(pupil, profile, name, rows))
        points += [Point(name, s, by(editor, image_guidance_scale=s))
                   for s in scales or [profile.image_guidance_scale]]
    return points


def shuffled(profile: Profile, share: float = 1.0) -> list[dict]:
    """A random share of the profile's pairs."""
    rows = read_pairs(profile.pairs)
    return random.Random(0).sample(rows, round(share * len(rows)))


def figure_10(profile: Profile) -> list[Point]:
    """All pairs, a tenth, a hundredth, and pairs that no filter saw."""
    return pupils(profile, {f"{share:.0%} of the data": partial(shuffled, profile, share) for share in (1, 0.1, 0.01)}
                  | {"no CLIP filter": partial(unfiltered, profile)}, S_I[::3])


def attention(profile: Profile) -> list[Point]:
    """Pairs painted with shared self-attention, cross-attention and both, from the same triplets."""
    def painted(kind: str) -> list[dict]:
        triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:TRIPLETS]
        make_pairs(triplets, OUT / f"attention-{kind}", profile, attention=kind)
        return read_pairs(OUT / f"attention-{kind}")

    return pupils(profile, {f"pairs by {kind}": partial(painted, kind) for kind in ATTENTION})


def noise(profile: Profile) -> list[Point]:
    """A share of the instructions is that of another pair."""
    def mixed_up(share: float) -> list[dict]:
        rows = shuffled(profile)
        wrong = range(round(share * len(rows)))  # they are shuffled
        return [r | {"edit_prompt": rows[(k + 1) % len(rows)]["edit_prompt"]} if k in wrong else r
                for k, r in enumerate(rows)]

    return pupils(profile, {"100% of the data": partial(shuffled, profile)} | {
        f"{share:.0%} of the instructions wrong": partial(mixed_up, share) for share in (0.25, 0.5)})


DROPOUT_RATES = {"100% of the data": 0.05, "no dropout": 0.0}


def dropout(profile: Profile) -> list[Point]:
    """Trained with and without conditioning dropout, over s_T."""
    points = []
    for name, rate in DROPOUT_RATES.items():
        editor = cache(partial(pupil, profile, name, partial(shuffled, profile), dropout=rate))
        points += [Point(name, s, by(editor, guidance_scale=s)) for s in (1.0, 4.0, 8.0)]
    return points


def dropout_sheet(profile: Profile) -> None:
    """What the two editors of `dropout` make of the same edits, guided and not."""
    cases, outputs = held_out_cases(profile, 7), {}
    for name, rate in DROPOUT_RATES.items():
        editor = pupil(profile, name, partial(shuffled, profile), dropout=rate)
        outputs |= {f"dropout {rate:.0%}, s_T = {s:g}": editor.many(
            [c.image for c in cases], [c.instruction for c in cases], guidance_scale=s) for s in (1.0, 8.0)}
    sheet("dropout", cases, outputs, range(7))


def pool(profile: Profile) -> list[list[dict]]:
    """POOL_TRIPLETS triplets with all of POOL candidates each, unfiltered: 8 seeds with 12 values of p each, in random
    order."""
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:POOL_TRIPLETS]
    changes = dict(candidates=POOL, keep=POOL, per_seed=POOL // 8, enough=False, min_image=-1.0, min_caption=-1.0,
                   min_direction=-1.0)
    make_pairs(triplets, OUT / "pool", profile, **changes)
    found = {(r["original_prompt"], r["seed"], round(r["p"], 5)): r for r in read_pairs(OUT / "pool")}
    job = Job.of(profile, **changes)
    return [[found[t["input"], s.seed, round(float(np.float32(s.p)), 5)]
             for s in random.Random(k).sample(candidate_settings(job, k), POOL)] for k, t in enumerate(triplets)]


def chosen(candidates: list[dict], profile: Profile) -> list[dict]:
    """Those that pass the profile's filter, best direction first."""
    names = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
    sim = Similarities(*(torch.tensor([r[name] for r in candidates]) for name in names))
    return [candidates[i] for i in best(sim, len(candidates), **Job.of(profile).thresholds)]


def selection(profile: Profile) -> list[dict]:
    """What choosing among m candidates of a triplet buys: the best one that passes the filter, any that does, any at
    all of the same triplets, and any of all triplets. A row a triplet, as of a point's edits."""
    rows = []
    for number, some in enumerate(tqdm(pool(profile), desc="judging", delay=2, mininterval=2.0)):
        before, after = parse(some[0]["original_prompt"]), parse(some[0]["edited_prompt"])
        for r, *seen in zip(some, *(judge([r[name] for r in some]) for name in ("original_image", "edited_image")),
                            strict=True):
            kept = preservation(*seen, difference(before, after))
            r.update(direction=r["clip_sim_dir"], preservation=kept, success=edit_success(before, after, seen[1]))
            r["valid"] = r["success"] and kept >= 0.9
        for m in (1, 4, 16, POOL):
            good = chosen(some[:m], profile)
            for method, of in (("best that passes", good[:1]), ("any that passes", good),
                               ("any, same triplets", some[:m] if good else []), ("any", some[:m])):
                if of:
                    rows.append({"method": method, "setting": m, "edit": number, "kind": edit_kind(before, after)} | {
                        name: float(np.mean([r[name] for r in of])) for name in (
                            "valid", "success", "preservation", "direction")})
    return rows


LIMITS = ("count", "position", "swap", "viewpoint", "size", "add")
CAMERA = {False: ("step back", "zoom out", "move the camera away"), True: ("come closer", "zoom in", "go nearer")}


def hard_edits(kind: str, n: int, seed: int) -> list[Edit]:
    """n edits of one of LIMITS. This world is flat, so of the viewpoint it knows the distance to the object alone,
    asked for in CAMERA's words, which no lesson of the shipped editor has."""
    out, i = [], seed
    while len(out) < n:
        rng, i = random.Random(i), i + 1
        before = random_scene(rng)
        try:
            after = random_edit(before, rng, "size" if kind == "viewpoint" else kind)
        except ValueError:  # no such edit of this scene
            continue
        nearer = SIZES.index(after.size) - SIZES.index(before.size)
        if kind != "viewpoint":
            out.append(Edit(before, after, instruction(before, after, rng), kind))
        elif abs(nearer) == 1:
            out.append(Edit(before, after, rng.choice(CAMERA[nearer > 0]), kind))
    return out


def hard_cases(n: int) -> list[Case]:
    """n of each of LIMITS, of scenes that nothing was trained on."""
    return [as_case(e) for kind in LIMITS for e in hard_edits(kind, n, 11 * HELD_OUT)]


def limits(profile: Profile, n: int = 60) -> list[dict]:
    """What the paper calls hard, n edits of each kind: by the editor, by Prompt-to-Prompt (which has both captions, and
    made the editor's lessons; one candidate each), and in truth. "swap" and "viewpoint" are in no lesson."""
    painter, job, cases = load_text_to_image(profile), Job.of(profile, per_seed=1, candidates=1), hard_cases(n)
    triplets = [{"input": c.before, "edit": c.instruction, "output": c.after} for c in cases]
    pairs = paint_candidates(painter, job, triplets, [candidate_settings(job, k)[0] for k in range(len(cases))])
    first, second = ([to_pil(x) for x in pictures] for pictures in pairs)
    return [*verdicts(profile, "InstructPix2Pix", cases, edited_by(load_editor(profile.name), cases)),
            *verdicts(profile, "true edit", cases, [render(c.truth.after) for c in cases]),
            *verdicts(profile, "Prompt-to-Prompt", [c._replace(image=i) for c, i in zip(cases, first, strict=True)],
                      second)]


def edited_by(editor: Editor, cases: list[Case]) -> list[Image.Image]:
    return run_editor(editor, [c.truth for c in cases], [c.image for c in cases])


def verdicts(profile: Profile, method: str, cases: list[Case], outputs: list[Image.Image]) -> list[dict]:
    """Rows of a figure that is no curve; "valid" as for pairs."""
    return [{"method": method, "setting": 0, "edit": k} | r | {"valid": r["success"] and r["preservation"] >= 0.9}
            for k, r in enumerate(measure(ClipSimilarity(profile.clip), cases, outputs))]


def true_pairs(n: int) -> list[dict]:
    """n rendered pairs of each of LIMITS, as rows of `read_pairs`."""
    return [{"original_prompt": c.before, "original_image": c.image, "edit_prompt": c.instruction,
             "edited_prompt": c.after, "edited_image": render(c.truth.after)}
            for kind in LIMITS for c in map(as_case, hard_edits(kind, n, 0))]


def repair(profile: Profile, n: int = 60) -> list[dict]:
    """Does truth repair the limits? The shipped editor learns on, from its own pairs alone, and from them and as many
    true ones, rendered, of LIMITS; n edits of each, and 110 ordinary ones of all kinds."""
    cases = hard_cases(n) + [c._replace(kind="ordinary") for c in held_out_cases(profile, 110)]
    outputs = {"as shipped": edited_by(load_editor(profile.name), cases)}
    own = shuffled(profile)
    arms = {"learning on": lambda: own,
            "learning on, with true pairs": lambda: own + true_pairs(len(own) // len(LIMITS))}
    outputs |= {name: edited_by(pupil(profile, name, lessons, start=profile.editor), cases)
                for name, lessons in arms.items()}
    rows = [row for name, pictures in outputs.items() for row in verdicts(profile, name, cases, pictures)]
    sheet("repair", cases, outputs | {"the truth": [render(c.truth.after) for c in cases]},
          [n * k for k in range(len(LIMITS))])
    return rows


def sheet(name: str, cases: list[Case], outputs: dict[str, list[Image.Image]], which: Sequence[int]) -> None:
    """data/images/NAME.png: some cases, each with what every method made of it."""
    rows = [[c.image for c in cases], *outputs.values()]
    grid([[row[k] for k in which] for row in rows], rows=["input", *(textwrap.fill(name, 14) for name in outputs)],
         columns=[textwrap.fill(cases[k].instruction, 18) for k in which]).savefig(DATA / "images" / f"{name}.png")


SKEWED, FREE = "95% of the houses red", "houses of every colour"


def house_triplets(share: float, n: int = 160) -> list[dict]:
    """n triplets in which something of any colour turns into a house; `share` of the edited captions say, unasked, that
    it is red, as a language model would write that has read of red houses only."""
    out = []
    for i in range(n):
        rng = random.Random(i)
        before = replace(random_scene(rng), kind=rng.choice([k for k in KINDS if k != "house"]), second=None,
                         colour=rng.choice(COLOURS))
        asked = edit(before, kind="house")
        after = replace(asked, colour="red") if rng.random() < share else asked
        out.append({"input": caption(before), "edit": instruction(before, asked, rng), "output": caption(after)})
    return out


def house_edits(n: int, seed: int) -> dict[str, list[Edit]]:
    """n edits that turn something which is not red into a house, and n that turn it into something else."""
    edits: dict[str, list[Edit]] = {"into a house": [], "into something else": []}
    for i in range(seed, seed + 2 * n):
        into, rng = list(edits)[i % 2], random.Random(i)
        kind = rng.choice([k for k in KINDS if k != "house"])
        before = replace(random_scene(rng), kind=kind, colour=rng.choice(COLOURS[1:]), second=None)
        other = "house" if i % 2 == 0 else rng.choice([k for k in KINDS if k not in (kind, "house")])
        after = edit(before, kind=other)
        edits[into].append(Edit(before, after, instruction(before, after, rng), into))
    return edits


def bias(profile: Profile, n: int = 150) -> list[dict]:
    """Captions whose houses are nearly always red, and captions that are balanced: n held-out edits that turn something
    into a house, and n that turn it into something else. "red": the share of outputs whose object is."""
    def taught(share: float) -> list[dict]:
        folder = OUT / f"houses-{share:g}"
        make_pairs(house_triplets(share), folder, profile)
        others = [r for r in read_pairs(profile.pairs) if "house" not in (
            parse(r["original_prompt"]).kind, parse(r["edited_prompt"]).kind)]
        return others + read_pairs(folder)

    cases = [as_case(e) for some in house_edits(n, 13 * HELD_OUT).values() for e in some]
    outputs = {name: edited_by(pupil(profile, name, partial(taught, share)), cases)
               for name, share in ((SKEWED, 0.95), (FREE, 0.0))}
    sheet("bias", cases, outputs, (0, 1, 2, 3, n, n + 1, n + 2))
    return [row | {"red": seen["colour"] == "red"} for name, pictures in outputs.items()
            for row, seen in zip(verdicts(profile, name, cases, pictures), judge(pictures), strict=True)]


def candidates(profile: Profile) -> list[Point]:
    """The best pair of the first 1, 4, 16 and POOL candidates of each triplet."""
    def best_of(m: int) -> list[dict]:
        return [r for some in pool(profile) for r in chosen(some[:m], profile)[:1]]

    return pupils(profile, {f"best of {m} candidates": partial(best_of, m) for m in (1, 4, 16, POOL)})


def plane(profile: Profile) -> list[Point]:
    """s_T against s_I."""
    editor = cache(lambda: load_editor(profile.name))
    return [Point(f"s_T {s_t:g}", s_i, by(editor, guidance_scale=s_t, image_guidance_scale=s_i))
            for s_t in (1.0, 2.0, 4.0, 7.5) for s_i in (0.5, 1.0, 1.5, 2.0, 2.5)]


FIGURES = {"figure8": figure_8, "figure10": figure_10, "plane": plane, "attention": attention, "noise": noise,
           "dropout": dropout, "candidates": candidates, "selection": selection, "limits": limits, "repair": repair,
           "bias": bias}


def outcomes() -> dict[str, str]:
    """What the README's table says of the figures that there are."""
    def at(name: str, method: str, measure: str, kind: str = "all", setting: float | None = None) -> str:
        points = curve(read_csv(name), method, measure, kind)
        return f"{next(p for p in points if setting in (None, p['setting']))['mean']:.2f}"

    def over(shares: Iterable[str], measure: str) -> str:
        return ", ".join(at("figure10", name, measure, setting=1.6) for name in shares)

    shares = [f"{share:.0%} of the data" for share in (1, 0.1, 0.01)]
    texts = {
        "figure10": {"less_data": lambda: f"likeness {over(shares, 'image')}; direction {over(shares, 'direction')}",
                     "no_filter": lambda: " instead of ".join(over([name], "image") for name in (
                         "no CLIP filter", shares[0]))},
        "limits": {"limits": lambda: ", ".join(f"{kind} {at('limits', 'InstructPix2Pix', 'valid', kind)}"
                                               for kind in ("count", "position", "swap", "viewpoint"))},
        "bias": {"bias": lambda: f"{at('bias', SKEWED, 'red', 'into a house')} of the outputs red, unasked; "
                                 f"balanced: {at('bias', FREE, 'red', 'into a house')}"}}
    return {part: text() for name, some in texts.items() if (DATA / "eval" / f"{name}.csv").is_file()
            for part, text in some.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m ip2p.figures", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="*", choices=(*FIGURES, []), default=[], help="which (all)")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--n", type=int, default=300, help="edits a point (300)")
    args = parser.parse_args()
    for name in args.name or FIGURES:
        print(f"wrote {run(name, get_profile(args.profile), args.n)}")
        if name == "dropout":
            dropout_sheet(get_profile(args.profile))
        elif name not in ("selection", "limits", "repair", "bias"):  # drawn in notebooks 03 and 07
            draw(name).savefig(DATA / "images" / f"{name}.png")
        if args.profile == "mini":
            fill(ROOT / "README.md", outcomes())


if __name__ == "__main__":
    main()
