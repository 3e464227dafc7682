"""Editors that lack one thing each, or learned from other pairs, trained alike and compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import Similarities, best
from ip2p.dataset.shards import Manifest, read_pairs
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job, candidate_settings
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import edit_kind, edit_success, judge, parse, preservation
from ip2p.miniworld.held_out import held_out_edits
from ip2p.miniworld.judging import VALID, concerned
from ip2p.profiles import Profile
from ip2p.study.measures import column
from ip2p.study.plots import save_comparison
from ip2p.study.points import (
    Case,
    Point,
    alone,
    held_out_cases,
    images_of,
    instructions_of,
    model_folder,
    place,
    true_pair,
)
from ip2p.study.validation import HELD_OUT_LOSS, HeldOutLoss, hold_out
from ip2p.training import train

IMAGE_GUIDANCE_SCALES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # s_I in figure 8 of the paper

COMPARED_PAIRS = 1000  # that editors learn from if they differ in how their pairs were made

PART = 128  # triplets that are painted before it is asked whether there are pairs enough

ABLATION_STEPS = 1500  # of every training whose only purpose is a comparison

HELD_OUT_PAIRS = 128  # of which the loss tells whether a training has flattened

NO_FILTER = {
    "enough": False,
    "min_image": -1.0,
    "min_caption": -1.0,
    "min_direction": -1.0,
}  # every cosine passes

NO_SHARING = {"share": (0.0, 0.0)}  # both pictures of a pair begin with the same noise, and that is all

TrainingPairs = Callable[[], list[dict]]  # rows as of `read_pairs`, made when they are first needed

# ------------------------------------------------------------------------------- editors, and their points


@dataclass(frozen=True)
class Arm:
    """An editor that is trained to be compared; figures that name the same one share it."""

    name: str  # of its folder in out/figures/models
    pairs: TrainingPairs
    options: dict = field(default_factory=dict)  # of `train`
    start: Callable[[], str] | None = None  # gives the editor to go on from, when it is first needed


def edit_function(editor: Callable[[], Editor], **scales: float) -> Callable:
    """A point's `edit` by an editor, which is loaded when it is first needed."""

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        images = images_of(cases)
        instructions = instructions_of(cases)
        return editor().many(images, instructions, seeds=seeds, **scales)

    return edit


def trained_editor(profile: Profile, arm: Arm) -> Editor:
    """The editor of an arm, after ABLATION_STEPS; a training that was stopped goes on, and one that another
    process is at is waited for. What it reaches on held-out pairs meanwhile stands beside it."""
    folder = model_folder(arm.name)
    options = {"steps": ABLATION_STEPS} | arm.options
    with alone(f"editor-{folder.name}", "training"):
        if arm.start:
            options["start"] = arm.start()
        held_out = held_out_pairs(profile)
        kept_away = set(column(held_out, "original_prompt"))
        rows = [row for row in arm.pairs() if row["original_prompt"] not in kept_away]
        watch = HeldOutLoss(held_out, profile.resolution, folder / HELD_OUT_LOSS)
        train(rows, folder, profile, sample=watch, sample_every=max(1, options["steps"] // 15), **options)
    return load_editor(str(folder), profile=profile)


@cache
def held_out_pairs(profile: Profile) -> list[dict]:
    """Pairs that no arm learns from, the same for all: in the miniature world true ones, of scenes that
    nothing was trained on."""
    if profile.in_world:
        return [true_pair(edit) for edit in held_out_edits(HELD_OUT_PAIRS, profile.edit_kinds, seed=3)]
    return hold_out(read_pairs(profile.pairs), HELD_OUT_PAIRS)[1]


def points_of_arms(profile: Profile, arms: dict[str, Arm], scales: tuple[float, ...] = ()) -> list[Point]:
    """Editors by the names that a figure gives them, each at the values of s_I (none: the profile's)."""
    points = []
    for name, arm in arms.items():
        editor = cache(partial(trained_editor, profile, arm))
        for scale in scales or [profile.image_guidance_scale]:
            edit = edit_function(editor, image_guidance_scale=scale)
            points.append(Point(name, scale, edit, editor=arm.name))
    return points


# ------------------------------------------------------------------------------- pairs, painted in many ways


def triplets_to_paint(profile: Profile, n: int) -> list[dict]:
    """The first n triplets of which the profile's pairs are, or could be, painted."""
    return read_triplets(GENERATED_TRIPLETS if profile.in_world else profile.triplets)[:n]


def painted_pairs(
    profile: Profile,
    name: str,
    wanted: int | None = None,
    triplets: Callable[[Profile, int], list[dict]] = triplets_to_paint,
    **options,
) -> list[dict]:
    """`wanted` pairs (None: COMPARED_PAIRS; fewer only if the triplets do not yield more), of as many
    triplets, from the first on, as it takes.

    Each candidate has its own seed, as the authors' have: where p is fixed, those of one seed would all be
    the same. options: of `Job`; triplets(profile, n): the first n. They lie in out/figures/pairs/NAME.
    """
    wanted = COMPARED_PAIRS if wanted is None else wanted
    rows: list[dict] = []
    with alone(f"pairs-{name}", "painting"):
        for start in count(0, PART):
            part = triplets(profile, start + PART)[start:] if len(rows) < wanted else []
            if not part:
                return rows[:wanted]
            folder = place("pairs", name, f"{start:05}")
            make_pairs(part, folder, profile, seed=start, per_seed=1, **options)
            if sum(shard["kept"] for shard in Manifest(folder).shards.values()):
                rows += read_pairs(folder)
    return rows


def complete(profile: Profile) -> Arm:
    """Nothing is missing: what the arms below are compared with."""
    return Arm("complete", partial(painted_pairs, profile, "complete"))


def no_sharing(profile: Profile) -> Arm:
    """Without Prompt-to-Prompt."""
    return Arm("no-sharing", partial(painted_pairs, profile, "no-sharing", **NO_SHARING))


def no_filter(profile: Profile) -> Arm:
    """One random candidate of each triplet."""
    return Arm("no-filter", partial(unfiltered_pairs, profile, COMPARED_PAIRS))


def no_dropout(profile: Profile) -> Arm:
    """Without conditioning dropout."""
    return Arm("no-dropout", complete(profile).pairs, {"dropout": 0.0})


def unfiltered_pairs(profile: Profile, wanted: int) -> list[dict]:
    """Candidates that no filter saw: one of each triplet, or as many more as it takes."""
    each = -(-wanted // len(triplets_to_paint(profile, wanted)))
    options = {"candidates": each, "keep": each, **NO_FILTER}
    return painted_pairs(profile, f"unfiltered-{each}", wanted, **options)


def attention(profile: Profile) -> list[Point]:
    """Pairs painted with shared self-attention, cross-attention, both and neither."""
    arms = {}
    for kind in ("self", "cross", "both"):
        pairs = partial(painted_pairs, profile, f"attention-{kind}", attention=kind)
        arms[f"pairs by {kind}"] = Arm(f"attention-{kind}", pairs)
    if profile.attention in ("self", "cross", "both"):
        arms[f"pairs by {profile.attention}"] = complete(profile)
    return points_of_arms(profile, arms | {"pairs by none": no_sharing(profile)})


def sharing(profile: Profile) -> list[Point]:
    """p, the share of the steps with shared attention: drawn anew for each candidate, or fixed."""
    arms = {"p drawn": complete(profile)}
    for p in (0.1, 0.5, 0.9):
        pairs = partial(painted_pairs, profile, f"p-{p:g}", share=(p, p))
        arms[f"p = {p:g}"] = Arm(f"p-{p:g}", pairs)
    return points_of_arms(profile, arms)


# ------------------------------------------------------------------------------- how much data, and which


def random_pairs(profile: Profile, share: float = 1.0) -> list[dict]:
    """A random share of the profile's pairs, in random order."""
    rows = read_pairs(profile.pairs)
    return random.Random(0).sample(rows, round(share * len(rows)))


def as_many_unfiltered(profile: Profile) -> list[dict]:
    """As many pairs as the profile's, that no filter saw."""
    return unfiltered_pairs(profile, len(read_pairs(profile.pairs)))


def figure_10(profile: Profile) -> list[Point]:
    """All pairs, a tenth, a hundredth, and pairs that no filter saw."""
    arms = {}
    for share in (1, 0.1, 0.01):
        name = f"{share:.0%} of the data"
        arms[name] = Arm(name, partial(random_pairs, profile, share))
    arms["no CLIP filter"] = Arm("no CLIP filter", partial(as_many_unfiltered, profile))
    return points_of_arms(profile, arms, IMAGE_GUIDANCE_SCALES[::3])


def noise(profile: Profile) -> list[Point]:
    """A share of the instructions is that of another pair."""
    arms = {"all instructions right": complete(profile)}
    for share in (0.25, 0.5):
        name = f"{share:.0%} of the instructions wrong"
        arms[name] = Arm(name, partial(mixed_up_pairs, complete(profile).pairs, share))
    return points_of_arms(profile, arms)


def mixed_up_pairs(pairs: TrainingPairs, share: float) -> list[dict]:
    """Pairs in random order, a share of which has the instruction of the pair that follows."""
    rows = pairs()
    random.Random(0).shuffle(rows)
    wrong = round(share * len(rows))
    mixed_up = []
    for k, row in enumerate(rows):
        following = rows[(k + 1) % len(rows)]
        mixed_up.append(row | {"edit_prompt": following["edit_prompt"]} if k < wrong else row)
    return mixed_up


# ----------------------------------------------------------------------------------- conditioning dropout

SLIDERS = {  # what stage 5 calls it, the values, and which of CLIP's similarities it is there to move
    "s_T": ("guidance_scale", (1.0, 2.0, 4.0, 8.0), "direction"),
    "s_I": ("image_guidance_scale", (1.0, 1.5, 2.0, 2.5), "image"),
}


def dropout_arms(profile: Profile) -> dict[str, Arm]:
    return {"dropout 5%": complete(profile), "no dropout": no_dropout(profile)}


def dropout(profile: Profile) -> list[Point]:
    """Trained with and without conditioning dropout, over both sliders; see `responses`."""
    points = []
    for name, arm in dropout_arms(profile).items():
        editor = cache(partial(trained_editor, profile, arm))
        for slider, (scale, values, _) in SLIDERS.items():
            for value in values:
                edit = edit_function(editor, **{scale: value})
                points.append(Point(f"{name}, over {slider}", value, edit, editor=arm.name))
    return points


def responses(rows: list[dict]) -> list[dict]:
    """What a slider moves, edit by edit: "response" is the difference between CLIP's similarity at its
    highest value and at its lowest. rows: of the points of `dropout`."""
    more = []
    found = {(row["method"], row["setting"], row["edit"]): row for row in rows}
    for (method, setting, number), row in found.items():
        slider = method[-3:]
        _, values, similarity = SLIDERS[slider]
        first = found.get((method, values[0], number))
        if setting == values[-1] and first:
            what = {"method": f"{method}, from {values[0]:g} to {values[-1]:g}", "setting": 0}
            change = row[similarity] - first[similarity]
            more.append(what | {"edit": number, "kind": row["kind"], "response": change})
    return more


def save_dropout_sheet(profile: Profile) -> None:
    """data/images/dropout.jpg: what the two editors of `dropout` make of the same edits, guided and not."""
    cases = held_out_cases(profile, 7)
    images = images_of(cases)
    instructions = instructions_of(cases)
    outputs = {}
    for name, arm in dropout_arms(profile).items():
        editor = trained_editor(profile, arm)
        for scale in (1.0, 8.0):
            outputs[f"{name}, s_T = {scale:g}"] = editor.many(images, instructions, guidance_scale=scale)
    save_comparison("dropout", cases, outputs, range(7))


# ---------------------------------------------------------------------------------- how many candidates

CANDIDATES = 64  # of a triplet, painted once, from which selections are made
SELECTION_TRIPLETS = 192
SELECTION_SIZES = (1, 4, 16, CANDIDATES)
ALL_KEPT = {
    "candidates": CANDIDATES,
    "keep": CANDIDATES,
    "per_seed": CANDIDATES // 8,
    "shard": 8,  # triplets; a shard is in memory as a whole
    **NO_FILTER,
}


def candidates_of_triplets(profile: Profile) -> list[list[dict]]:
    """SELECTION_TRIPLETS triplets with all of their CANDIDATES each, unfiltered, as rows of `read_pairs`: 8
    seeds with 8 values of p each, in random order."""
    triplets = triplets_to_paint(profile, SELECTION_TRIPLETS)
    with alone("pool", "painting"):
        make_pairs(triplets, place("pool"), profile, **ALL_KEPT)
    row_of_candidate = {}
    for row in read_pairs(place("pool")):
        row_of_candidate[row["original_prompt"], row["seed"], round(row["p"], 5)] = row
    job = Job.of(profile, **ALL_KEPT)
    candidates = []
    for number, triplet in enumerate(triplets):
        settings = random.Random(number).sample(candidate_settings(job, number), CANDIDATES)
        # on the disk p is a float32
        keys = [(triplet["input"], s.seed, round(float(np.float32(s.p)), 5)) for s in settings]
        candidates.append([row_of_candidate[key] for key in keys])
    return candidates


def passing_candidates(candidates: list[dict], profile: Profile) -> list[dict]:
    """Those that pass the profile's filter, best direction first."""
    columns = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
    sim = Similarities(*(torch.tensor(column(candidates, name)) for name in columns))
    return [candidates[k] for k in best(sim, len(candidates), **Job.of(profile).thresholds)]


def judge_candidates(candidates: list[dict]) -> None:
    """Note on each candidate of one triplet "direction", "preservation", "success" and "valid"."""
    before = parse(candidates[0]["original_prompt"])
    after = parse(candidates[0]["edited_prompt"])
    changed = concerned(before, after)
    read_before = judge(column(candidates, "original_image"))
    read_after = judge(column(candidates, "edited_image"))
    for row, first, second in zip(candidates, read_before, read_after, strict=True):
        row["direction"] = row["clip_sim_dir"]
        row["preservation"] = preservation(first, second, changed)
        row["success"] = edit_success(before, after, second)
        row["valid"] = row["success"] and row["preservation"] >= VALID


def selection(profile: Profile) -> list[dict]:
    """What choosing among m candidates of a triplet buys: the best one that passes the filter, any that does,
    any at all of the same triplets, and any of all triplets. A row a triplet, as of a point's edits."""
    rows = []
    triplets = candidates_of_triplets(profile)
    for number, candidates in enumerate(tqdm(triplets, desc="judging", delay=2, mininterval=2.0)):
        judge_candidates(candidates)
        before = parse(candidates[0]["original_prompt"])
        after = parse(candidates[0]["edited_prompt"])
        kind = edit_kind(before, after)
        for m in SELECTION_SIZES:
            first = candidates[:m]
            passing = passing_candidates(first, profile)
            selections = {
                "best that passes": passing[:1],
                "any that passes": passing,
                "any, same triplets": first if passing else [],
                "any": first,
            }
            for method, selected in selections.items():
                if selected:
                    row = {"method": method, "setting": m, "edit": number, "kind": kind}
                    rows.append(row | means_of_candidates(selected))
    return rows


def means_of_candidates(candidates: list[dict]) -> dict[str, float]:
    means = {}
    for name in ("valid", "success", "preservation", "direction"):
        means[name] = float(np.mean(column(candidates, name)))
    return means


def candidates(profile: Profile) -> list[Point]:
    """The best pairs, as many as the profile keeps, of the first 1, 4, 16 and all CANDIDATES of each
    triplet: painted once, so that more candidates are the same ones and others."""
    pool = cache(partial(candidates_of_triplets, profile))

    def best_pairs(m: int) -> list[dict]:
        pairs = []
        for candidates in pool():
            pairs += passing_candidates(candidates[:m], profile)[: profile.keep]
        return pairs

    arms = {}
    for m in SELECTION_SIZES:
        name = f"best of {m} candidates"
        arms[name] = Arm(name, partial(best_pairs, m))
    return points_of_arms(profile, arms)
