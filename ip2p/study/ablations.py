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
from ip2p.dataset.triplets import read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job, candidate_settings
from ip2p.factory.pairs import make_pairs
from ip2p.miniworld import difference, edit_kind, edit_success, judge, parse, preservation
from ip2p.profiles import Profile
from ip2p.prompt_to_prompt import ATTENTION
from ip2p.study.curves import Point
from ip2p.study.evaluate import GENERATED
from ip2p.study.figures import POOL, POOL_TRIPLETS
from ip2p.study.limits import sheet
from ip2p.study.measures import Case, held_out_cases
from ip2p.study.plots import OUT
from ip2p.training import train

S_I = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # figure 8 of the paper

TRIPLETS = 256  # of those whose pairs are painted for a comparison

ABLATION_STEPS = 300  # of every training whose only purpose is a comparison


def by(editor: Callable[[], Editor], **scales) -> Callable:
    """A point's `edit` by an editor, which is loaded when it is first needed."""

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return editor().many([c.image for c in cases], [c.instruction for c in cases], seeds=seeds, **scales)

    return edit


def unfiltered(profile: Profile) -> list[dict]:
    """As many pairs as the profile's, of candidates that no filter saw: two of a triplet, each with its own seed."""
    wanted = len(read_pairs(profile.pairs, decode=False))
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[: -(-wanted // 2)]
    make_pairs(
        triplets,
        OUT / "unfiltered",
        profile,
        candidates=2,
        keep=2,
        per_seed=1,
        enough=False,
        min_image=-1.0,
        min_caption=-1.0,
        min_direction=-1.0,
    )
    return read_pairs(OUT / "unfiltered")[:wanted]


def pupil(profile: Profile, name: str, lessons: Callable[[], list[dict]], **options) -> Editor:
    """An editor trained for ABLATION_STEPS and kept in out/figures/models/NAME; stopped, its training goes on.
    `options`: of `train`."""
    folder = OUT / "models" / re.sub(r"\W+", "-", name)
    train(lessons(), folder, profile, steps=ABLATION_STEPS, **options)
    return load_editor(str(folder), profile=profile.name)


def pupils(
    profile: Profile, lessons: dict[str, Callable[[], list[dict]]], scales: tuple[float, ...] = ()
) -> list[Point]:
    """Editors that are trained alike on different lessons, each at the values of s_I (none: the profile's)."""
    points = []
    for name, rows in lessons.items():
        editor = cache(partial(pupil, profile, name, rows))
        points += [
            Point(name, s, by(editor, image_guidance_scale=s))
            for s in scales or [profile.image_guidance_scale]
        ]
    return points


def shuffled(profile: Profile, share: float = 1.0) -> list[dict]:
    """A random share of the profile's pairs."""
    rows = read_pairs(profile.pairs)
    return random.Random(0).sample(rows, round(share * len(rows)))


def figure_10(profile: Profile) -> list[Point]:
    """All pairs, a tenth, a hundredth, and pairs that no filter saw."""
    return pupils(
        profile,
        {f"{share:.0%} of the data": partial(shuffled, profile, share) for share in (1, 0.1, 0.01)}
        | {"no CLIP filter": partial(unfiltered, profile)},
        S_I[::3],
    )


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
        return [
            r | {"edit_prompt": rows[(k + 1) % len(rows)]["edit_prompt"]} if k in wrong else r
            for k, r in enumerate(rows)
        ]

    return pupils(
        profile,
        {"100% of the data": partial(shuffled, profile)}
        | {f"{share:.0%} of the instructions wrong": partial(mixed_up, share) for share in (0.25, 0.5)},
    )


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
        outputs |= {
            f"dropout {rate:.0%}, s_T = {s:g}": editor.many(
                [c.image for c in cases], [c.instruction for c in cases], guidance_scale=s
            )
            for s in (1.0, 8.0)
        }
    sheet("dropout", cases, outputs, range(7))


def pool(profile: Profile) -> list[list[dict]]:
    """POOL_TRIPLETS triplets with all of POOL candidates each, unfiltered: 8 seeds with 12 values of p each, in random
    order."""
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:POOL_TRIPLETS]
    changes = dict(
        candidates=POOL,
        keep=POOL,
        per_seed=POOL // 8,
        enough=False,
        min_image=-1.0,
        min_caption=-1.0,
        min_direction=-1.0,
    )
    make_pairs(triplets, OUT / "pool", profile, **changes)
    found = {(r["original_prompt"], r["seed"], round(r["p"], 5)): r for r in read_pairs(OUT / "pool")}
    job = Job.of(profile, **changes)
    return [
        [
            found[t["input"], s.seed, round(float(np.float32(s.p)), 5)]
            for s in random.Random(k).sample(candidate_settings(job, k), POOL)
        ]
        for k, t in enumerate(triplets)
    ]


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
        for r, *seen in zip(
            some,
            *(judge([r[name] for r in some]) for name in ("original_image", "edited_image")),
            strict=True,
        ):
            kept = preservation(*seen, difference(before, after))
            r.update(
                direction=r["clip_sim_dir"], preservation=kept, success=edit_success(before, after, seen[1])
            )
            r["valid"] = r["success"] and kept >= 0.9
        for m in (1, 4, 16, POOL):
            good = chosen(some[:m], profile)
            for method, of in (
                ("best that passes", good[:1]),
                ("any that passes", good),
                ("any, same triplets", some[:m] if good else []),
                ("any", some[:m]),
            ):
                if of:
                    rows.append(
                        {"method": method, "setting": m, "edit": number, "kind": edit_kind(before, after)}
                        | {
                            name: float(np.mean([r[name] for r in of]))
                            for name in ("valid", "success", "preservation", "direction")
                        }
                    )
    return rows


def candidates(profile: Profile) -> list[Point]:
    """The best pair of the first 1, 4, 16 and POOL candidates of each triplet."""

    def best_of(m: int) -> list[dict]:
        return [r for some in pool(profile) for r in chosen(some[:m], profile)[:1]]

    return pupils(profile, {f"best of {m} candidates": partial(best_of, m) for m in (1, 4, 16, POOL)})
