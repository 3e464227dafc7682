"""Editors that lack one thing each, trained alike and compared."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import Similarities, best
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job, candidate_settings
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import edit_kind, edit_success, judge, parse, preservation
from ip2p.miniworld.judging import VALID, concerned
from ip2p.profiles import Profile
from ip2p.prompt_to_prompt import ATTENTION
from ip2p.study.measures import column
from ip2p.study.plots import save_comparison
from ip2p.study.points import OUT, Case, Point, held_out_cases, images_of, instructions_of
from ip2p.training import train

IMAGE_GUIDANCE_SCALES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # s_I in figure 8 of the paper

COMPARED_TRIPLETS = 256  # whose pairs are painted for a comparison

ABLATION_STEPS = 300  # of every training whose only purpose is a comparison

NO_FILTER = {
    "enough": False,
    "min_image": -1.0,
    "min_caption": -1.0,
    "min_direction": -1.0,
}  # every cosine passes

TrainingPairs = Callable[[], list[dict]]  # rows as of `read_pairs`, made when they are first needed

# ------------------------------------------------------------------------------- editors, and their points


def edit_function(editor: Callable[[], Editor], **scales: float) -> Callable:
    """A point's `edit` by an editor, which is loaded when it is first needed."""

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        images = images_of(cases)
        instructions = instructions_of(cases)
        return editor().many(images, instructions, seeds=seeds, **scales)

    return edit


def trained_editor(profile: Profile, name: str, pairs: TrainingPairs, **options) -> Editor:
    """An editor trained for ABLATION_STEPS and kept in out/figures/models/NAME; stopped, its training goes
    on. options: of `train`."""
    folder = OUT / "models" / re.sub(r"\W+", "-", name)
    train(pairs(), folder, profile, steps=ABLATION_STEPS, **options)
    return load_editor(str(folder), profile=profile)


def points_of_editors(
    profile: Profile, pairs_of: dict[str, TrainingPairs], scales: tuple[float, ...] = ()
) -> list[Point]:
    """Editors that are trained alike on different pairs, each at the values of s_I (none: the profile's)."""
    points = []
    for name, pairs in pairs_of.items():
        editor = cache(partial(trained_editor, profile, name, pairs))
        for scale in scales or [profile.image_guidance_scale]:
            points.append(Point(name, scale, edit_function(editor, image_guidance_scale=scale)))
    return points


# ------------------------------------------------------------------------------- how much data, and which


def random_pairs(profile: Profile, share: float = 1.0) -> list[dict]:
    """A random share of the profile's pairs, in random order."""
    rows = read_pairs(profile.pairs)
    return random.Random(0).sample(rows, round(share * len(rows)))


def triplets_to_paint(profile: Profile, n: int) -> list[dict]:
    """The first n triplets of which the profile's pairs are, or could be, painted."""
    return read_triplets(GENERATED_TRIPLETS if profile.in_world else profile.triplets)[:n]


def unfiltered_pairs(profile: Profile) -> list[dict]:
    """As many pairs as the profile's, of candidates that no filter saw: two of a triplet, each with its own
    seed."""
    wanted = len(read_pairs(profile.pairs))
    triplets = triplets_to_paint(profile, -(-wanted // 2))
    make_pairs(triplets, OUT / "unfiltered", profile, candidates=2, keep=2, per_seed=1, **NO_FILTER)
    return read_pairs(OUT / "unfiltered")[:wanted]


def figure_10(profile: Profile) -> list[Point]:
    """All pairs, a tenth, a hundredth, and pairs that no filter saw."""
    pairs_of = {}
    for share in (1, 0.1, 0.01):
        pairs_of[f"{share:.0%} of the data"] = partial(random_pairs, profile, share)
    pairs_of["no CLIP filter"] = partial(unfiltered_pairs, profile)
    return points_of_editors(profile, pairs_of, IMAGE_GUIDANCE_SCALES[::3])


def attention(profile: Profile) -> list[Point]:
    """Pairs painted with shared self-attention, cross-attention and both, from the same triplets."""

    def painted_pairs(kind: str) -> list[dict]:
        folder = OUT / f"attention-{kind}"
        make_pairs(triplets_to_paint(profile, COMPARED_TRIPLETS), folder, profile, attention=kind)
        return read_pairs(folder)

    pairs_of = {f"pairs by {kind}": partial(painted_pairs, kind) for kind in ATTENTION}
    return points_of_editors(profile, pairs_of)


def noise(profile: Profile) -> list[Point]:
    """A share of the instructions is that of another pair."""

    def mixed_up_pairs(share: float) -> list[dict]:
        rows = random_pairs(profile)
        wrong = round(share * len(rows))  # the first ones: their order is random
        mixed_up = []
        for k, row in enumerate(rows):
            following = rows[(k + 1) % len(rows)]
            mixed_up.append(row | {"edit_prompt": following["edit_prompt"]} if k < wrong else row)
        return mixed_up

    pairs_of = {"100% of the data": partial(random_pairs, profile)}
    for share in (0.25, 0.5):
        pairs_of[f"{share:.0%} of the instructions wrong"] = partial(mixed_up_pairs, share)
    return points_of_editors(profile, pairs_of)


# ----------------------------------------------------------------------------------- conditioning dropout

DROPOUT_RATES = {"100% of the data": 0.05, "no dropout": 0.0}


def dropout(profile: Profile) -> list[Point]:
    """Trained with and without conditioning dropout, over s_T."""
    pairs = partial(random_pairs, profile)
    points = []
    for name, rate in DROPOUT_RATES.items():
        editor = cache(partial(trained_editor, profile, name, pairs, dropout=rate))
        for scale in (1.0, 4.0, 8.0):
            points.append(Point(name, scale, edit_function(editor, guidance_scale=scale)))
    return points


def save_dropout_sheet(profile: Profile) -> None:
    """data/images/dropout.jpg: what the two editors of `dropout` make of the same edits, guided and not."""
    cases = held_out_cases(profile, 7)
    images = images_of(cases)
    instructions = instructions_of(cases)
    outputs = {}
    for name, rate in DROPOUT_RATES.items():
        editor = trained_editor(profile, name, partial(random_pairs, profile), dropout=rate)
        for scale in (1.0, 8.0):
            method = f"dropout {rate:.0%}, s_T = {scale:g}"
            outputs[method] = editor.many(images, instructions, guidance_scale=scale)
    save_comparison("dropout", cases, outputs, range(7))


# ---------------------------------------------------------------------------------- how many candidates

CANDIDATES = 96  # of a triplet, all kept, from which selections are made
SELECTION_TRIPLETS = 96
SELECTION_SIZES = (1, 4, 16, CANDIDATES)
ALL_KEPT = {"candidates": CANDIDATES, "keep": CANDIDATES, "per_seed": CANDIDATES // 8, **NO_FILTER}


def candidates_of_triplets(profile: Profile) -> list[list[dict]]:
    """SELECTION_TRIPLETS triplets with all of their CANDIDATES each, unfiltered, as rows of `read_pairs`: 8
    seeds with 12 values of p each, in random order."""
    triplets = triplets_to_paint(profile, SELECTION_TRIPLETS)
    make_pairs(triplets, OUT / "pool", profile, **ALL_KEPT)
    row_of_candidate = {}
    for row in read_pairs(OUT / "pool"):
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
    """The best pair of the first 1, 4, 16 and all CANDIDATES of each triplet."""

    def best_pairs(m: int) -> list[dict]:
        pairs = []
        for candidates in candidates_of_triplets(profile):
            pairs += passing_candidates(candidates[:m], profile)[:1]
        return pairs

    pairs_of = {f"best of {m} candidates": partial(best_pairs, m) for m in SELECTION_SIZES}
    return points_of_editors(profile, pairs_of)
