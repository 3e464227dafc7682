"""What the editor cannot do, and what its lessons have to do with it: the figures `limits` and `bias`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import count, islice

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.images import to_pil
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job, candidate_settings, paint_candidates
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import (
    COLOURS,
    KINDS,
    SIZES,
    Scene,
    caption,
    edit,
    instruction,
    judge,
    parse,
    random_scene,
    render,
)
from ip2p.miniworld.captions import what_to_say
from ip2p.miniworld.held_out import HELD_OUT, Edit, held_out_edits, possible_edits
from ip2p.miniworld.language import choose_wording
from ip2p.profiles import Profile, load_text_to_image
from ip2p.study.ablations import Arm, edit_function, trained_editor
from ip2p.study.measures import run_editor
from ip2p.study.plots import save_comparison
from ip2p.study.points import (
    EDITS,
    Case,
    Point,
    as_case,
    images_of,
    labelled,
    measure_outputs,
    place,
    truths_of,
)

LIMITS = ("count", "position", "swap", "viewpoint", "size", "add")
SPACE = (*LIMITS, "relation")  # what true pairs teach in `repair`
ORDINARY = "ordinary"  # edits of all other kinds

AS_SHIPPED = "as shipped"

RELATION = (  # how it is asked for that {a} be on one side of {b}
    "({move} {a} {on} {b}|{a} should (be|stand) {on} {b}|let {a} (be|stand) {on} {b}|"
    "I want {a} {on} {b}|show {a} {on} {b})"
)

MOVE, ADD = "(put|move|place|set)", "(put|add|place|draw)"

ON = "(to the {side} of|to the {side} of|{side} of|on the {side} side of)"

CAMERA = {  # whether the camera comes nearer -> the words that ask for it
    False: ("step back", "zoom out", "move the camera away"),
    True: ("come closer", "zoom in", "go nearer"),
}

# ------------------------------------------------------------------------------------------ cases and rows


def hard_edits(kind: str, n: int, seed: int) -> list[Edit]:
    """n edits of one of SPACE, of the scenes from `seed` on."""
    if kind == "viewpoint":
        return list(islice(viewpoint_edits(seed), n))
    if kind == "relation":
        return list(islice(relation_edits(seed), n))
    edits = []
    for before, after, _, rng in islice(possible_edits(seed, [kind]), n):
        edits.append(Edit(before, after, instruction(before, after, rng), kind))
    return edits


def viewpoint_edits(seed: int) -> Iterator[Edit]:
    """Edits of the viewpoint without end. This world is flat, so of the viewpoint it knows the distance to
    the object alone: one size larger or smaller, asked for in CAMERA's words, which no lesson of the shipped
    editor has."""
    for before, after, _, rng in possible_edits(seed, ["size"]):
        steps_nearer = SIZES.index(after.size) - SIZES.index(before.size)
        if abs(steps_nearer) == 1:
            yield Edit(before, after, rng.choice(CAMERA[steps_nearer > 0]), "viewpoint")


def relation_edits(seed: int) -> Iterator[Edit]:
    """Edits without end that ask for a thing on one side of another, by name: by turns one of two things
    that are there, and a new one."""
    both_there = True
    for number in count(seed):
        rng = random.Random(number)
        scene = random_scene(rng)
        has_two = scene.second is not None
        if has_two != both_there or scene.count > 1 or "hat" in scene.extras:  # whose hat would it be?
            continue
        yield moved_past(scene, rng) if has_two else put_beside(scene, rng)
        both_there = not both_there


def moved_past(scene: Scene, rng: random.Random) -> Edit:
    """One of two things goes to the other side of the other."""
    left, right = scene.kind, scene.second[0]
    side = rng.choice(("left", "right"))
    a, b = (right, left) if side == "left" else (left, right)
    words = relation(MOVE, f"the {a}", side, f"the {b}", rng)
    return Edit(scene, edit(scene, swap=True), words, "relation")


def put_beside(scene: Scene, rng: random.Random) -> Edit:
    """A second thing comes to the left or to the right of the first."""
    there = (scene.kind, scene.colour)
    kind = rng.choice([kind for kind in KINDS if kind != scene.kind])
    new = (kind, rng.choice(COLOURS))
    side = rng.choice(("left", "right"))
    first, second = (new, there) if side == "left" else (there, new)
    after = replace(scene, kind=first[0], colour=first[1], second=second, position="centre")
    words = relation(ADD, f"a {new[1]} {kind}", side, f"the {scene.kind}", rng)
    return Edit(scene, after, words, "relation")


def relation(move: str, a: str, side: str, b: str, rng: random.Random) -> str:
    """ "put a red owl to the left of the cat"."""
    return choose_wording(RELATION.format(move=move, a=a, on=ON.format(side=side), b=b), rng)


def hard_cases(profile: Profile, n: int, kinds: tuple[str, ...] = LIMITS) -> list[Case]:
    """n of each kind, each of other scenes, which nothing was trained on."""
    cases = []
    for k, kind in enumerate(kinds):
        edits = hard_edits(kind, n, 11 * HELD_OUT + 10**6 * k)
        cases += [as_case(edit) for edit in edits]
    return cases


def ordinary_cases(profile: Profile, n: int) -> list[Case]:
    """n held-out edits of the kinds that are none of LIMITS, all called ORDINARY."""
    kinds = tuple(kind for kind in profile.edit_kinds if kind not in LIMITS)
    return [as_case(edit)._replace(kind=ORDINARY) for edit in held_out_edits(n, kinds)]


def true_outputs(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    """Renders of the scenes after the true edits."""
    return [render(case.truth.after) for case in cases]


# ------------------------------------------------------------------------------------------------- limits


def limits(profile: Profile) -> list[Point]:
    """What the paper calls hard: by the editor, by Prompt-to-Prompt (which has both captions, and made the
    editor's lessons; one candidate each), and in truth. "swap" and "viewpoint" are in no lesson."""
    editor = cache(lambda: load_editor(profile))
    return [
        Point("InstructPix2Pix", 0, edit_function(editor)),
        Point("true edit", 0, true_outputs),
        Point("Prompt-to-Prompt", 0, painting_function(profile), own_inputs=True),
    ]


def painting_function(profile: Profile) -> Callable:
    """A point's `edit` by Prompt-to-Prompt, one candidate each: pictures of the captions before, and of those
    after."""
    painter = cache(lambda: load_text_to_image(profile))
    job = Job.of(profile, per_seed=1, candidates=1)

    def paint(cases: list[Case], seeds: list[int]) -> list[list[Image.Image]]:
        triplets = [{"input": case.before, "edit": case.instruction, "output": case.after} for case in cases]
        settings = [candidate_settings(job, seed)[0] for seed in seeds]
        first, second = paint_candidates(painter(), job, triplets, settings)
        return [[to_pil(picture) for picture in pictures] for pictures in (first, second)]

    return paint


# --------------------------------------------------------------------------------------------------- bias

# The share that captions call red, unasked.
HOUSES = {"95% of the houses red": 0.95, "houses of every colour": 0.0}

SKEWED, BALANCED = HOUSES

INTO_A_HOUSE, INTO_SOMETHING_ELSE = "into a house", "into something else"


def house_triplets(share: float, n: int = 160) -> list[dict]:
    """n triplets in which something of any colour turns into a house. The captions say the colour and a
    random part of the rest; `share` of the edited ones say, unasked, that it is red, as a language model
    would write that has read of red houses only."""
    triplets = []
    for i in range(n):
        rng = random.Random(i)
        scene = random_scene(rng)
        kind = rng.choice([kind for kind in KINDS if kind != "house"])
        before = replace(scene, kind=kind, second=None, colour=rng.choice(COLOURS))
        asked = edit(before, kind="house")
        after = replace(asked, colour="red") if rng.random() < share else asked
        words = instruction(before, asked, rng)
        say = what_to_say(before, rng) | {"colour"}
        caption_before, caption_after = (caption(scene, say=say, wording=i) for scene in (before, after))
        triplets.append({"input": caption_before, "edit": words, "output": caption_after})
    return triplets


def house_edits(n: int, seed: int) -> dict[str, list[Edit]]:
    """n edits that turn something which is not red into a house, and n that turn it into something else."""
    edits: dict[str, list[Edit]] = {INTO_A_HOUSE: [], INTO_SOMETHING_ELSE: []}
    for i in range(seed, seed + 2 * n):
        into = INTO_A_HOUSE if i % 2 == 0 else INTO_SOMETHING_ELSE
        edits[into].append(house_edit(i, into))
    return edits


def house_edit(seed: int, into: str) -> Edit:
    """One of `house_edits`."""
    rng = random.Random(seed)
    kind = rng.choice([kind for kind in KINDS if kind != "house"])
    colour = rng.choice([colour for colour in COLOURS if colour != "red"])
    before = replace(random_scene(rng), kind=kind, colour=colour, second=None)
    new_kind = "house"
    if into == INTO_SOMETHING_ELSE:
        new_kind = rng.choice([other for other in KINDS if other not in (kind, "house")])
    after = edit(before, kind=new_kind)
    return Edit(before, after, instruction(before, after, rng), into)


def house_pairs(profile: Profile) -> dict[str, list[dict]]:
    """Pairs by either way of writing captions of HOUSES, as many of the same instructions: of those that
    passed the filter both ways."""
    pairs = {}
    for name, share in HOUSES.items():
        folder = place(f"houses-{share:g}")
        make_pairs(house_triplets(share), folder, profile)
        pairs[name] = read_pairs(folder)
    in_both = Counter(map(asked_of_pair, pairs[SKEWED])) & Counter(map(asked_of_pair, pairs[BALANCED]))
    return {name: pairs_wanted(rows, in_both) for name, rows in pairs.items()}


def asked_of_pair(row: dict) -> tuple[str, str]:
    return row["original_prompt"], row["edit_prompt"]


def pairs_wanted(rows: list[dict], wanted: Counter) -> list[dict]:
    """The first so many rows of each caption and instruction as are `wanted`."""
    left = wanted.copy()
    chosen = []
    for row in rows:
        asked = asked_of_pair(row)
        if left[asked]:
            left[asked] -= 1
            chosen.append(row)
    return chosen


def about_houses(row: dict) -> bool:
    return "house" in (parse(row["original_prompt"])["kind"], parse(row["edited_prompt"])["kind"])


def bias(profile: Profile, n: int = EDITS // 2) -> list[dict]:
    """Captions whose houses are nearly always red, and captions that are balanced: n held-out edits that turn
    something into a house, and n that turn it into something else. "red": the share of outputs (of lessons:
    of captions) whose object is; "colour": of those that keep theirs."""
    clip = ClipSimilarity(profile.clip, profile.device)
    of_houses = house_pairs(profile)
    others = [row for row in read_pairs(profile.pairs) if not about_houses(row)]
    edits = house_edits(n, 13 * HELD_OUT)
    cases = [as_case(edit) for edit in edits[INTO_A_HOUSE] + edits[INTO_SOMETHING_ELSE]]
    outputs = {AS_SHIPPED: edit_cases(load_editor(profile), cases)}
    for name, pairs in of_houses.items():
        editor = trained_editor(profile, Arm(name, partial(concatenated, others, pairs)))
        outputs[name] = edit_cases(editor, cases)
    readings = {name: judge(pictures) for name, pictures in outputs.items()}
    colours = [[reading["colour"] for reading in of_method] for of_method in readings.values()]
    save_comparison("bias", cases, outputs, (0, 1, 2, 3, n, n + 1, n + 2), colours)
    rows = []
    for name, pairs in of_houses.items():
        rows += rows_of_lessons(name, pairs)
    for name, pictures in outputs.items():
        of_method = labelled(name, 0, range(len(cases)), measure_outputs(clip, cases, pictures))
        for row, reading, case in zip(of_method, readings[name], cases, strict=True):
            row["red"] = reading["colour"] == "red"
            row["colour"] = reading["colour"] == case.truth.before.colour
        rows += of_method
    return rows


def edit_cases(editor: Editor, cases: list[Case]) -> list[Image.Image]:
    """The editor's answers to cases of the miniature world."""
    return run_editor(editor, truths_of(cases), images_of(cases))


def concatenated(rows: list[dict], more: list[dict]) -> list[dict]:
    return rows + more


def rows_of_lessons(name: str, pairs: list[dict]) -> list[dict]:
    """Whether the edited captions of pairs about houses say red."""
    rows = []
    for pair in pairs:
        says_red = parse(pair["edited_prompt"]).get("colour") == "red"
        rows.append({"kind": INTO_A_HOUSE, "red": says_red})
    return labelled(f"lessons: {name}", 0, range(len(pairs)), rows)
