"""The judge against a human eye: what it reads in pictures that were painted, and edited.

    ip2p eye --out out/eye

paints 100 captions, edits 100 renders, and writes sheets with the judge's word below each picture. Somebody
looks at them, one by one, and writes a line for each into data/eval/eye.jsonl: "agrees", "differs" or "cannot
tell". Once those lines are there, data/images/judge-*.jpg show what did not agree.
"""

from __future__ import annotations

import json
import random
import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ip2p.common.grids import grid
from ip2p.editing import load_editor
from ip2p.miniworld import caption, judge, random_scene, render
from ip2p.miniworld.held_out import HELD_OUT, held_out_edits
from ip2p.paths import DATA
from ip2p.profiles import Profile, get_profile
from ip2p.study.factory_figures import quiet_painter
from ip2p.study.measures import paint, run_editor, score

VERDICTS = DATA / "eval" / "eye.jsonl"
PICTURES = DATA / "images"
N = 100  # of each sort
SEED = 7  # other pictures than those of `ip2p evaluate`
WORDS = ("agrees", "differs", "cannot tell")


class Case(NamedTuple):
    """Something that the judge and an eye decide on."""

    pictures: list[Image.Image]  # one; of an edit, input and output
    judged: str  # the judge's word


def paintings(profile: Profile) -> list[Case]:
    """Captions that say a part, painted, and all that the judge reads there."""
    captions = []
    for i in range(N):
        number = SEED * HELD_OUT + i
        captions.append(caption(random_scene(random.Random(number)), i))
    pictures = paint(
        quiet_painter(profile),
        captions,
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=SEED * HELD_OUT,
    )
    readings = judge(pictures)
    return [Case([picture], in_words(reading)) for picture, reading in zip(pictures, readings, strict=True)]


def in_words(reading: dict) -> str:
    """All that a reading says, in six short lines."""
    extras = [name for name in ("hat", "balloon", "flag", "flowers", "birds") if reading[name]]
    lines = [
        f"{reading['count']} {reading['size']} {reading['colour']}",
        f"{reading['kind']}, {reading['position']}",
        f"{reading['place']}, {reading['time']}, {reading['weather']}",
        reading["style"],
        ", ".join(extras) or "no extras",
        f"second: {reading['second_colour']} {reading['second_kind']}",
    ]
    return "\n".join(lines)


def edits(profile: Profile) -> list[Case]:
    """Edits of renders, each done or not, by the judge."""
    asked = held_out_edits(N, profile.edit_kinds, seed=SEED)
    inputs = [render(edit.before, profile.resolution) for edit in asked]
    editor = load_editor(profile.editor, profile.device, profile.dtype, profile)
    outputs = run_editor(editor, asked, inputs)
    cases = []
    verdicts_of_judge = score(asked, inputs, outputs)
    for edit, before, after, verdict in zip(asked, inputs, outputs, verdicts_of_judge, strict=True):
        done = "done" if verdict["success"] else "not done"
        cases.append(Case([before, after], f"{textwrap.fill(edit.instruction, 30)}\n{done}"))
    return cases


SORTS = {"painting": paintings, "edit": edits}


def verdicts() -> list[dict]:
    """Rows of eye.jsonl: "what" (of SORTS), "number", "eye" (of WORDS), and a "note" unless it agrees."""
    return [json.loads(line) for line in VERDICTS.read_text(encoding="utf-8").splitlines()]


def counts() -> dict[str, Counter]:
    """How often each of WORDS was said, by sort."""
    said = {what: Counter() for what in SORTS}
    for row in verdicts():
        said[row["what"]][row["eye"]] += 1
    return said


def in_sentences() -> dict[str, str]:
    """`counts`, as pages tell of them."""
    sentences = {}
    for what, said in counts().items():
        agree, differ, unclear = (said[word] for word in WORDS)
        sentences[what] = f"{agree} agree, {differ} differ, and {unclear} an eye cannot tell"
    return sentences


def sheet(cases: list[Case], numbers: list[int], columns: int = 5, size: float = 2.2):
    """Cases with their numbers and the judge's words, as a figure; an edit's output is below its input."""
    rows, titles = [], []
    for start in range(0, len(cases), columns):
        part = slice(start, start + columns)
        labels = [f"{number}: {case.judged}" for number, case in zip(numbers[part], cases[part], strict=True)]
        for k in range(len(cases[0].pictures)):
            rows.append([case.pictures[k] for case in cases[part]])
            titles.append([] if k else labels)
    return grid(rows, titles=titles, size=size)


def draw_sheets(out: Path, profile: str | Profile = "mini") -> None:
    """Paint and edit, and write the sheets into `out`; where the verdicts are there, also the misses."""
    profile = get_profile(profile)
    out.mkdir(parents=True, exist_ok=True)
    for what, make in SORTS.items():
        cases = make(profile)
        for start in range(0, N, 20):
            numbers = list(range(start, start + 20))
            sheet(cases[start : start + 20], numbers).savefig(out / f"{what}-{start:03d}.png")
        if VERDICTS.exists():
            show_misses(what, cases)


def show_misses(what: str, cases: list[Case]) -> None:
    """data/images/judge-WHAT.jpg: the cases on which the judge and the eye do not agree."""
    numbers, missed = [], []
    for row in verdicts():
        if row["what"] == what and row["eye"] != "agrees":
            case = cases[row["number"]]
            told = textwrap.fill(f"Eye: {row['note']}", 30)
            numbers.append(row["number"])
            missed.append(case._replace(judged=f"{case.judged}\n{told}"))
    if missed:
        picture = PICTURES / f"judge-{what}.jpg"
        sheet(missed, numbers).savefig(picture, pil_kwargs={"quality": 55})
