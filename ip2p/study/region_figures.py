"""Which one? Two things and a sentence that names neither: by the sentence alone, under a mask, and by an
editor that takes the region as an input (`ip2p.region`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count, cycle, islice

import numpy as np
from PIL import Image, ImageDraw

from ip2p.clip_filter import ClipSimilarity
from ip2p.editing import Editor, load_editor
from ip2p.miniworld import COLOURS, KINDS, Scene, random_scene, render
from ip2p.miniworld.held_out import HELD_OUT, Edit, held_out_edits
from ip2p.miniworld.language import choose_wording
from ip2p.miniworld.render import FEET, layout
from ip2p.profiles import Profile
from ip2p.region import WHOLE, box_mask, edit_region, train_region
from ip2p.study.ablations import random_pairs
from ip2p.study.measures import BATCH, batches
from ip2p.study.plots import save_comparison
from ip2p.study.points import (
    Case,
    alone,
    as_case,
    images_of,
    instructions_of,
    labelled,
    measure_outputs,
    model_folder,
    true_pair,
)

# Kinds of edit: of one of two things of different kinds, or of one of two that differ in colour alone.
COLOUR, KIND, TWINS = "colour of one", "kind of one", "colour of one of two alike"
ORDINARY = "ordinary"  # held-out edits of all kinds, the whole picture being the region

SENTENCE, MASKED, AS_INPUT = "the sentence alone", "under a mask", "the region as an input"

THIS_COLOUR = (
    "((make|paint|colour|dye) (this one|this one|it) {v}|this one should be {v}|I want this one {v}|"
    "let this one be {v}|{v}, please)"
)
THIS_KIND = (
    "((turn|change) (this one|this one|it) into a {v}|make this one a {v}|replace this one with a {v}|"
    "this one should be a {v}|a {v} here, please|put a {v} here instead)"
)

REGION_STEPS = 2000
REGION_LR = 1 / 5  # of the learning rate with which the editor was trained
REGION_EDITS = 400  # a quarter of each kind
LOOSE = 0.12  # of a thing's side: how far each side of a drawn box is off, at most

# ---------------------------------------------------------------------------------------------- edits, boxes


def region_edits(seed: int) -> Iterator[Edit]:
    """Edits of one of two things, without end, of the three kinds by turns."""
    kinds = cycle((COLOUR, KIND, TWINS))
    for number in count(seed):
        rng = random.Random(number)
        scene = random_scene(rng)
        if scene.count > 1 or "hat" in scene.extras:  # whose hat would it be?
            continue
        kind = next(kinds)
        yield edit_of_one(with_second(scene, rng, kind == TWINS), kind, rng)


def with_second(scene: Scene, rng: random.Random, alike: bool) -> Scene:
    """The scene with two things, alike but for their colours, or of different kinds."""
    second = (other(KINDS, rng, scene.kind), rng.choice(COLOURS))
    if alike:
        second = (scene.kind, other(COLOURS, rng, scene.colour))
    return replace(scene, second=second, position="centre")


def other(values: tuple, rng: random.Random, *taken: str) -> str:
    return rng.choice([value for value in values if value not in taken])


def edit_of_one(scene: Scene, what: str, rng: random.Random) -> Edit:
    """One of the two things gets another colour or kind; the sentence does not say which."""
    things = [(scene.kind, scene.colour), scene.second]
    which = rng.randrange(2)
    kind, colour = things[which]
    if what == KIND:
        kind = other(KINDS, rng, scene.kind, scene.second[0])
        words = THIS_KIND.format(v=kind)
    else:
        colour = other(COLOURS, rng, scene.colour, scene.second[1])
        words = THIS_COLOUR.format(v=colour)
    things[which] = (kind, colour)
    after = replace(scene, kind=things[0][0], colour=things[0][1], second=things[1])
    return Edit(scene, after, choose_wording(words, rng), what)


def box_around(scene: Scene, which: int, rng: random.Random | None = None) -> list[float]:
    """The box of a thing of a scene, the first or the second; with `rng` as loosely as one draws it."""
    _, _, x, side = layout(scene)[which]
    box = [x - side / 2, FEET - side, x + side / 2, FEET]
    if rng:
        box = [edge + rng.uniform(-LOOSE, LOOSE) * side for edge in box]
    return [min(1.0, max(0.0, edge)) for edge in box]


def which_changes(edit: Edit) -> int:
    return int(edit.before.second != edit.after.second)


def box_of(edit: Edit, rng: random.Random | None = None) -> list[float]:
    """Where an edit is asked for: around the thing that it changes; of an ordinary one, everywhere."""
    if edit.kind not in (COLOUR, KIND, TWINS):
        return list(WHOLE)
    return box_around(edit.before, which_changes(edit), rng)


def region_rows(profile: Profile) -> list[dict]:
    """What the editor learns from: its own pairs, whose region is the whole picture, and as many rendered
    ones of `region_edits`."""
    own = random_pairs(profile)
    rows = [row | {"region": list(WHOLE)} for row in own]
    for number, edit in enumerate(islice(region_edits(0), len(own))):
        rows.append(true_pair(edit) | {"region": box_of(edit, random.Random(number))})
    return rows


def trained_region_editor(profile: Profile) -> Editor:
    folder = model_folder("region")
    with alone("editor-region", "training"):
        train_region(
            region_rows(profile), folder, profile, steps=REGION_STEPS, lr=profile.train_lr * REGION_LR
        )
    return load_editor(str(folder), profile=profile)


# ---------------------------------------------------------------------------------------------- measurement


def region_cases(profile: Profile, n: int) -> list[Case]:
    """n cases: a quarter each of COLOUR, KIND, TWINS and ORDINARY, that nothing was trained on."""
    edits = list(islice(region_edits(17 * HELD_OUT), 3 * n // 4))
    ordinary = [edit._replace(kind=ORDINARY) for edit in held_out_edits(n - len(edits), profile.edit_kinds)]
    return [as_case(edit) for edit in edits + ordinary]


def region_methods(profile: Profile) -> dict[str, Callable]:
    """Method -> what edits cases, given their seeds and boxes."""
    shipped = load_editor(profile)
    with_region = trained_region_editor(profile)

    def by_sentence(cases, seeds, boxes):
        return shipped.many(images_of(cases), instructions_of(cases), seeds=seeds)

    def under_mask(cases, seeds, boxes):
        masks = [box_mask(case.image, box) for case, box in zip(cases, boxes, strict=True)]
        return shipped.many(images_of(cases), instructions_of(cases), seeds=seeds, masks=masks)

    def by_region(cases, seeds, boxes):
        return edit_region(with_region, images_of(cases), instructions_of(cases), boxes, seeds=seeds)

    return {SENTENCE: by_sentence, MASKED: under_mask, AS_INPUT: by_region}


def region(profile: Profile, n: int = REGION_EDITS) -> list[dict]:
    """The three methods on the same edits and boxes; a row an edit, as `measure_outputs` gives them. Of two
    things alike the judge knows nothing, so `read_twins` reads their colours."""
    clip = ClipSimilarity(profile.clip, profile.device)
    cases = region_cases(profile, n)
    boxes = [box_of(case.truth, random.Random(number)) for number, case in enumerate(cases)]
    outputs: dict[str, list[Image.Image]] = {}
    rows = []
    for method, edit in region_methods(profile).items():
        outputs[method] = []
        for numbers in batches(n, BATCH, method):
            of_batch = [cases[k] for k in numbers]
            outputs[method] += edit(of_batch, list(numbers), [boxes[k] for k in numbers])
        measured = measure_outputs(clip, cases, outputs[method])
        for case, output, row in zip(cases, outputs[method], measured, strict=True):
            if case.kind == TWINS:
                row |= verdict_on_twins(case.truth, output)
        rows += labelled(method, 0, range(n), measured)
    framed = [
        case._replace(image=with_frame(case.image, box)) for case, box in zip(cases, boxes, strict=True)
    ]
    save_comparison("region", framed, outputs, range(6))
    return rows


def verdict_on_twins(edit: Edit, output: Image.Image) -> dict:
    """ "success": the thing in question has the colour that was asked for; "preservation": the other has its
    own; "right": both."""
    colours = read_twins(edit.before, output)
    wanted = [edit.after.colour, edit.after.second[1]]
    which = which_changes(edit)
    success = colours[which] == wanted[which]
    kept = colours[1 - which] == wanted[1 - which]
    return {"success": success, "preservation": float(kept), "right": success and kept}


def read_twins(scene: Scene, picture: Image.Image) -> list[str]:
    """The colours of the two things in a picture of this scene, both of one kind: of each, that in which a
    render is nearest to the picture where the thing is."""
    read = []
    for which in (0, 1):
        box = box_around(scene, which)
        thing = pixels_in(picture, box)
        distances = {}
        for colour, rendered in rows_of_two(scene, picture.width).items():
            distances[colour] = np.abs(pixels_in(rendered, box) - thing).mean()
        read.append(min(distances, key=distances.__getitem__))
    return read


@lru_cache(maxsize=512)
def rows_of_two(scene: Scene, size: int) -> dict[str, Image.Image]:
    """For each colour a render in which both things have it: a row of two stands where they stand."""
    renders = {}
    for colour in COLOURS:
        renders[colour] = render(replace(scene, colour=colour, count=2, second=None), size)
    return renders


def pixels_in(picture: Image.Image, box: list[float]) -> np.ndarray:
    """(h, w, 3), the pixels in a box."""
    corners = np.array(box) * np.array(picture.size * 2)
    return np.asarray(picture.crop(tuple(corners.round().astype(int))), np.float32)


def with_frame(picture: Image.Image, box: list[float]) -> Image.Image:
    """The picture with a box drawn on it."""
    framed = picture.copy()
    corners = np.array(box) * np.array(picture.size * 2)
    ImageDraw.Draw(framed).rectangle(tuple(corners), outline="white", width=2)
    return framed
