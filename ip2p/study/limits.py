"""What the editor cannot do, why, and what mends it: limits, repair, bias."""

from __future__ import annotations

import random
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.grids import grid
from ip2p.common.images import to_pil
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job, candidate_settings, paint_candidates
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import (
    COLOURS,
    KINDS,
    SIZES,
    caption,
    edit,
    instruction,
    judge,
    parse,
    random_edit,
    random_scene,
    render,
)
from ip2p.miniworld.held_out import HELD_OUT, Edit, held_out_edits
from ip2p.paths import DATA
from ip2p.profiles import Profile, load_text_to_image
from ip2p.study.ablations import pupil, shuffled
from ip2p.study.measures import Case, as_case, measure, run_editor
from ip2p.study.plots import OUT

LIMITS = ("count", "position", "swap", "viewpoint", "size", "add")

CAMERA = {
    False: ("step back", "zoom out", "move the camera away"),
    True: ("come closer", "zoom in", "go nearer"),
}


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
    """n of each of LIMITS, each of other scenes, which nothing was trained on."""
    return [
        as_case(e) for k, kind in enumerate(LIMITS) for e in hard_edits(kind, n, 11 * HELD_OUT + 10**6 * k)
    ]


def limits(profile: Profile, n: int = 60) -> list[dict]:
    """What the paper calls hard, n edits of each kind: by the editor, by Prompt-to-Prompt (which has both captions, and
    made the editor's lessons; one candidate each), and in truth. "swap" and "viewpoint" are in no lesson."""
    painter, job, cases = (
        load_text_to_image(profile),
        Job.of(profile, per_seed=1, candidates=1),
        hard_cases(n),
    )
    triplets = [{"input": c.before, "edit": c.instruction, "output": c.after} for c in cases]
    pairs = paint_candidates(
        painter, job, triplets, [candidate_settings(job, k)[0] for k in range(len(cases))]
    )
    first, second = ([to_pil(x) for x in pictures] for pictures in pairs)
    return [
        *verdicts(profile, "InstructPix2Pix", cases, edited_by(load_editor(profile.name), cases)),
        *verdicts(profile, "true edit", cases, [render(c.truth.after) for c in cases]),
        *verdicts(
            profile,
            "Prompt-to-Prompt",
            [c._replace(image=i) for c, i in zip(cases, first, strict=True)],
            second,
        ),
    ]


def edited_by(editor: Editor, cases: list[Case]) -> list[Image.Image]:
    return run_editor(editor, [c.truth for c in cases], [c.image for c in cases])


def verdicts(profile: Profile, method: str, cases: list[Case], outputs: list[Image.Image]) -> list[dict]:
    """Rows of a figure that is no curve; "valid" as for pairs."""
    return [
        {"method": method, "setting": 0, "edit": k} | r | {"valid": r["success"] and r["preservation"] >= 0.9}
        for k, r in enumerate(measure(ClipSimilarity(profile.clip), cases, outputs))
    ]


def true_pairs(n: int) -> list[dict]:
    """n rendered pairs of each of LIMITS, as rows of `read_pairs`."""
    return [
        {
            "original_prompt": c.before,
            "original_image": c.image,
            "edit_prompt": c.instruction,
            "edited_prompt": c.after,
            "edited_image": render(c.truth.after),
        }
        for kind in LIMITS
        for c in map(as_case, hard_edits(kind, n, 0))
    ]


def repair(profile: Profile, n: int = 60) -> list[dict]:
    """Does truth repair the limits? The shipped editor learns on, from its own pairs alone, and from them and as many
    true ones, rendered, of LIMITS; n edits of each, and 105 ordinary ones of the other kinds."""
    others = tuple(kind for kind in profile.edit_kinds if kind not in LIMITS)
    cases = hard_cases(n) + [as_case(e)._replace(kind="ordinary") for e in held_out_edits(105, others)]
    outputs = {"as shipped": edited_by(load_editor(profile.name), cases)}
    own = shuffled(profile)
    arms = {
        "learning on": lambda: own,
        "learning on, with true pairs": lambda: own + true_pairs(len(own) // len(LIMITS)),
    }
    outputs |= {
        name: edited_by(pupil(profile, name, lessons, start=profile.editor), cases)
        for name, lessons in arms.items()
    }
    rows = {name: verdicts(profile, name, cases, pictures) for name, pictures in outputs.items()}
    titles = [
        [f"{'✓' if r['success'] else '✗'}  {r['preservation']:.0%} kept" for r in some]
        for some in rows.values()
    ]
    sheet(
        "repair",
        cases,
        outputs | {"the truth": [render(c.truth.after) for c in cases]},
        [n * k for k in range(len(LIMITS))],
        titles,
    )
    return [row for some in rows.values() for row in some]


def sheet(
    name: str,
    cases: list[Case],
    outputs: dict[str, list[Image.Image]],
    which: Sequence[int],
    titles: Sequence[Sequence[str]] = (),
) -> None:
    """data/images/NAME.jpg: some cases, each with what every method made of it, and its title."""
    rows = [[c.image for c in cases], *outputs.values()]
    grid(
        [[row[k] for k in which] for row in rows],
        rows=["input", *(textwrap.fill(name, 14) for name in outputs)],
        columns=[textwrap.fill(cases[k].instruction, 18) for k in which],
        titles=titles and [[], *([row[k] for k in which] for row in titles)],
    ).savefig(DATA / "images" / f"{name}.jpg", pil_kwargs={"quality": 92})


HOUSES = {
    "95% of the houses red": 0.95,
    "houses of every colour": 0.0,
}  # the share that captions call red, unasked

SKEWED, BALANCED = HOUSES


def house_triplets(share: float, n: int = 160) -> list[dict]:
    """n triplets in which something of any colour turns into a house; `share` of the edited captions say, unasked, that
    it is red, as a language model would write that has read of red houses only."""
    out = []
    for i in range(n):
        rng = random.Random(i)
        before = replace(
            random_scene(rng),
            kind=rng.choice([k for k in KINDS if k != "house"]),
            second=None,
            colour=rng.choice(COLOURS),
        )
        asked = edit(before, kind="house")
        after = replace(asked, colour="red") if rng.random() < share else asked
        out.append(
            {"input": caption(before), "edit": instruction(before, asked, rng), "output": caption(after)}
        )
    return out


def house_edits(n: int, seed: int) -> dict[str, list[Edit]]:
    """n edits that turn something which is not red into a house, and n that turn it into something else."""
    edits: dict[str, list[Edit]] = {"into a house": [], "into something else": []}
    for i in range(seed, seed + 2 * n):
        house, rng = i % 2 == 0, random.Random(i)
        kind = rng.choice([k for k in KINDS if k != "house"])
        colour = rng.choice([c for c in COLOURS if c != "red"])
        before = replace(random_scene(rng), kind=kind, colour=colour, second=None)
        after = edit(
            before, kind="house" if house else rng.choice([k for k in KINDS if k not in (kind, "house")])
        )
        into = "into a house" if house else "into something else"
        edits[into].append(Edit(before, after, instruction(before, after, rng), into))
    return edits


def house_pairs(profile: Profile) -> dict[str, list[dict]]:
    """Pairs by either way of writing captions of HOUSES, as many of the same instructions: of those that passed the
    filter both ways."""

    def triplet(r: dict) -> tuple[str, str]:
        return r["original_prompt"], r["edit_prompt"]

    out = {}
    for name, share in HOUSES.items():
        folder = OUT / f"houses-{share:g}"
        make_pairs(house_triplets(share), folder, profile)
        out[name] = read_pairs(folder)
    wanted = Counter(map(triplet, out[SKEWED])) & Counter(map(triplet, out[BALANCED]))
    for name, rows in out.items():
        left = wanted.copy()
        out[name] = []
        for r in rows:
            if left[triplet(r)]:
                left[triplet(r)] -= 1
                out[name].append(r)
    return out


def bias(profile: Profile, n: int = 150) -> list[dict]:
    """Captions whose houses are nearly always red, and captions that are balanced: n held-out edits that turn something
    into a house, and n that turn it into something else. "red": the share of outputs (of lessons: of captions) whose
    object is; "colour": of those that keep theirs."""
    lessons, rows = house_pairs(profile), []
    others = [
        r
        for r in read_pairs(profile.pairs)
        if "house" not in (parse(r["original_prompt"]).kind, parse(r["edited_prompt"]).kind)
    ]
    cases = [as_case(e) for some in house_edits(n, 13 * HELD_OUT).values() for e in some]
    outputs = {"as shipped": edited_by(load_editor(profile.name), cases)} | {
        name: edited_by(pupil(profile, name, partial(others.__add__, some)), cases)
        for name, some in lessons.items()
    }
    read = {name: judge(pictures) for name, pictures in outputs.items()}
    which = (0, 1, 2, 3, n, n + 1, n + 2)
    sheet("bias", cases, outputs, which, [[s["colour"] for s in some] for some in read.values()])
    for name, some in lessons.items():
        rows += [
            {
                "method": f"lessons: {name}",
                "setting": 0,
                "edit": k,
                "kind": "into a house",
                "red": parse(r["edited_prompt"]).colour == "red",
            }
            for k, r in enumerate(some)
        ]
    for name, pictures in outputs.items():
        rows += [
            row | {"red": seen["colour"] == "red", "colour": seen["colour"] == c.truth.before.colour}
            for row, seen, c in zip(verdicts(profile, name, cases, pictures), read[name], cases, strict=True)
        ]
    return rows
