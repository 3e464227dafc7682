"""What text to image, Prompt-to-Prompt and the filter are worth: parts of `ip2p evaluate`.

The judge (`ip2p.miniworld.judge`) decides what a picture shows.
"""

from __future__ import annotations

import random
from collections import Counter
from math import comb

import numpy as np
import torch
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity, Similarities, best, passes
from ip2p.common.images import quantise
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.factory.candidates import Setting, paint_candidates
from ip2p.factory.pairs import paint_and_compare
from ip2p.miniworld import (
    ATTRIBUTES,
    COLOURS,
    EDIT_KINDS,
    MIXES,
    STYLES,
    TIMES,
    WEATHERS,
    caption,
    edit_kind,
    judge,
    parse,
    random_scene,
)
from ip2p.miniworld.held_out import HELD_OUT, Edit, caption_pairs, held_out_edits
from ip2p.options import Job
from ip2p.profiles import Profile, load_text_to_image
from ip2p.study.measures import column, judge_pairs, paint, validity_by_p
from ip2p.study.progress import Notes


def quiet_painter(profile: Profile):
    """The profile's text-to-image pipeline, without progress bars."""
    pipe = load_text_to_image(profile)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ------------------------------------------------------------------------------------------- text to image


def text_to_image_figures(profile: Profile, n: int = 500) -> dict:
    """How well the text-to-image model paints what n held-out captions say, by the judge: shares of right
    attributes, in the "mean", of each of "attributes", and of pictures with "all" of them right. And how much
    it varies what they leave open: "spread", see `spread`."""
    captions = [caption(random_scene(random.Random(HELD_OUT + i)), i) for i in range(n)]
    pictures = paint(
        quiet_painter(profile),
        captions,
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=HELD_OUT,
    )
    readings = judge(pictures)
    said_by = [parse(words) for words in captions]
    said: Counter = Counter()
    right: Counter = Counter()
    all_right = 0
    for attributes, reading in zip(said_by, readings, strict=True):
        hits = [name for name, value in attributes.items() if reading[name] == value]
        said.update(attributes.keys())
        right.update(hits)
        all_right += len(hits) == len(attributes)
    return {
        "n": n,
        "mean": right.total() / said.total(),
        "all": all_right / n,
        "attributes": {name: right[name] / said[name] for name in ATTRIBUTES if said[name]},
        "spread": {name: spread(name, said_by, readings) for name in TRAINING_SHARES},
    }


def even_shares(values: tuple) -> dict:
    return dict.fromkeys(values, 1 / len(values))


WILD = MIXES["wild"]

# How often each value comes in the pictures that the text-to-image model learns from.
TRAINING_SHARES = {
    "time": dict(zip(TIMES, WILD.time, strict=True)),
    "weather": dict(zip(WEATHERS, WILD.weather, strict=True)),
    "style": dict(zip(STYLES, WILD.style, strict=True)),
    "colour": even_shares(COLOURS),
}


def spread(name: str, said_by: list[dict], readings: list[dict]) -> dict:
    """Of the pictures whose captions do not say an attribute, how often each of its values comes, as a
    multiple of its share in training; 0: it never comes, though nothing forbids it."""
    values = [reading[name] for said, reading in zip(said_by, readings, strict=True) if name not in said]
    shares = {}
    for value, expected in TRAINING_SHARES[name].items():
        shares[value] = values.count(value) / max(1, len(values)) / expected
    return shares


# ------------------------------------------------------------------------------------------ Prompt-to-Prompt

SHARES = tuple(k / 8 for k in range(9))  # values of p, the share of the steps with shared attention


def partial_triplets(edits: list[Edit]) -> list[dict]:
    """Edits as triplets, with captions that say a part."""
    triplets = []
    for edit, (before, after) in zip(edits, caption_pairs(edits), strict=True):
        triplets.append({"input": before, "edit": edit.instruction, "output": after})
    return triplets


def sharing_figures(profile: Profile, n: int = 300, notes: Notes | None = None) -> dict:
    """Whether Prompt-to-Prompt is needed: of n held-out edits of all kinds in turn, told by captions that say
    a part, one seed each, the valid share at each of SHARES. notes: rows of an earlier run, and where new
    ones go. Values: see `summary_of_sharing`."""
    notes = notes or Notes()
    edits = held_out_edits(n, profile.edit_kinds, seed=2)
    triplets = partial_triplets(edits)
    pipe = quiet_painter(profile)
    job = Job.of(profile, candidates=len(SHARES), per_seed=len(SHARES))
    guidance_scale = float(np.mean(profile.pair_guidance))
    at_once = max(1, job.batch // len(SHARES))
    starts = range(len(notes.rows), n, at_once)
    for start in tqdm(starts, desc="painting at each p", mininterval=2.0, leave=False):
        numbers = range(start, min(start + at_once, n))
        verdicts = valid_at_each_p(pipe, job, triplets, numbers, guidance_scale)
        rows = []
        for number, valid in zip(numbers, verdicts, strict=True):
            rows.append({"kind": edits[number].kind, "valid": valid})
        notes.add(rows)
    return summary_of_sharing(notes.rows)


def valid_at_each_p(
    pipe, job: Job, triplets: list[dict], numbers: range, guidance_scale: float
) -> list[list[bool]]:
    """Whether the pairs of triplets of these numbers are valid, at each of SHARES; each has its own seed."""
    asked, settings = [], []
    for number in numbers:
        asked += [triplets[number]] * len(SHARES)
        settings += [Setting(HELD_OUT + number, p, guidance_scale) for p in SHARES]
    first, second = paint_candidates(pipe, job, asked, settings)
    verdicts = column(judge_pairs(asked, quantise(first), quantise(second)), "valid")
    return np.reshape(verdicts, (len(numbers), len(SHARES))).tolist()


def summary_of_sharing(rows: list[dict]) -> dict:
    """The valid share at each value of "p" ("valid"), of all and of each of "kinds", and where it is best
    ("p_best", "best"; the smallest p of several). "each": of all, if each kind of edit has its own best p.

    rows: with "kind", and "valid" at each of SHARES.
    """
    kinds = {}
    for kind in EDIT_KINDS:
        of_kind = [row["valid"] for row in rows if row["kind"] == kind]
        if of_kind:
            kinds[kind] = validity_at_each_p(of_kind)
    total = sum(of_kind["best"] * of_kind["n"] for of_kind in kinds.values())
    of_all = validity_at_each_p(column(rows, "valid"))
    return {"p": list(SHARES), **of_all, "each": total / len(rows), "kinds": kinds}


def validity_at_each_p(verdicts: list[list[bool]]) -> dict:
    """verdicts: (n, values of p)."""
    shares = np.mean(verdicts, 0)
    k = int(shares.argmax())
    return {"n": len(verdicts), "valid": shares.tolist(), "p_best": SHARES[k], "best": float(shares[k])}


# ------------------------------------------------------------------------------------------------ the filter

CANDIDATES = 24  # of a triplet, of 8 seeds with 3 values of p each
PER_SEED = 3
FEW = 4  # candidates of a triplet that CANDIDATES are compared with


def triplets_by_kind() -> dict[str, list[dict]]:
    """Stage 1's triplets of each kind of edit."""
    by_kind: dict[str, list[dict]] = {}
    for triplet in read_triplets(GENERATED_TRIPLETS):
        kind = edit_kind(parse(triplet["input"]), parse(triplet["output"]))
        by_kind.setdefault(kind, []).append(triplet)
    return by_kind


def filter_figures(profile: Profile, n: int = 16, notes: Notes | None = None, seed: int = 1) -> dict:
    """What the filter and many candidates buy, on CANDIDATES each of n random ones of stage 1's triplets of
    each kind of edit (all, if there are fewer), with p from the profile's range. Painted afresh, with another
    seed than the shipped pairs. notes: rows of an earlier run, and where new ones go. Values: see
    `summary_of_filter`."""
    notes = notes or Notes()
    rng = random.Random(seed)
    triplets = []
    for of_kind in triplets_by_kind().values():
        triplets += rng.sample(of_kind, min(n, len(of_kind)))
    pipe = quiet_painter(profile)
    clip = ClipSimilarity(profile.clip, profile.device)
    job = Job.of(profile, seed, candidates=CANDIDATES, per_seed=PER_SEED)
    at_once = max(1, job.batch // PER_SEED)
    starts = range(len(notes.rows), len(triplets), at_once)
    for start in tqdm(starts, desc="painting candidates", mininterval=2.0, leave=False):
        group = list(range(start, min(start + at_once, len(triplets))))
        notes.add(judged_candidates(pipe, clip, job, triplets, group, at_once))
    return summary_of_filter(notes.rows, job.keep)


def judged_candidates(
    pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], group: list[int], at_once: int
) -> list[dict]:
    """For each triplet of `group` the "kind" of edit and, of all its candidates, "p", whether they are
    "valid", by the judge, whether they pass the filter's thresholds ("passes") and whether it keeps them
    ("kept")."""
    rows: list[dict] = [{"kind": "", "p": [], "valid": []} for _ in group]
    similarities: list[list[Similarities]] = [[] for _ in group]
    for start in range(0, job.candidates, job.per_seed):
        which = slice(start, start + job.per_seed)
        batch = paint_and_compare(pipe, clip, job, triplets, group, which, at_once)
        first, second = (quantise(side) for side in batch.pictures)
        for k, verdict in enumerate(judge_pairs(batch.asked, first, second)):
            row = rows[k // job.per_seed]
            row["kind"] = verdict["kind"]
            row["p"].append(batch.settings[k].p)
            row["valid"].append(verdict["valid"])
        for i, of_triplet in enumerate(similarities):
            own = slice(i * job.per_seed, (i + 1) * job.per_seed)
            of_triplet.append(Similarities(*(values[own] for values in batch.similarities)))
    for row, of_triplet in zip(rows, similarities, strict=True):
        sim = Similarities(*(torch.cat(parts) for parts in zip(*of_triplet, strict=True)))
        kept = best(sim, job.keep, **job.thresholds)
        row["passes"] = passes(sim, **job.thresholds).tolist()
        row["kept"] = [k in kept for k in range(job.candidates)]
    return rows


def summary_of_filter(rows: list[dict], keep: int) -> dict:
    """Of "n" candidates of "triplets": how many are "passing" the thresholds, and how many are "kept", at
    most `keep` of a triplet; the invalid share of all ("invalid_before"), of those that pass
    ("invalid_passing") and of those kept ("invalid_after"). The share of triplets of which something passes,
    with FEW candidates ("something_of_few") and with all ("something_of_all"). The valid share of each of
    "kinds" by p.

    rows: of `judged_candidates`.
    """
    candidates: list[dict] = []  # each with its kind, p, valid, passes and kept
    few, all_of_them = [], []
    for row in rows:
        for p, valid, passing, kept in zip(row["p"], row["valid"], row["passes"], row["kept"], strict=True):
            values = {"p": p, "valid": valid, "passes": passing, "kept": kept}
            candidates.append({"kind": row["kind"], **values})
        n_passing = sum(row["passes"])
        few.append(chance_of_some(n_passing, len(row["p"]), FEW))
        all_of_them.append(n_passing > 0)
    passing = [row for row in candidates if row["passes"]]
    kept = [row for row in candidates if row["kept"]]
    kinds = {}
    for kind in dict.fromkeys(column(rows, "kind")):
        kinds[kind] = validity_by_p([row for row in candidates if row["kind"] == kind])
    return {
        "n": len(candidates),
        "triplets": len(rows),
        "passing": len(passing),
        "kept": len(kept),
        "keep": keep,
        "invalid_before": invalid_share(candidates),
        "invalid_passing": invalid_share(passing),
        "invalid_after": invalid_share(kept),
        "something_of_few": float(np.mean(few)),
        "something_of_all": float(np.mean(all_of_them)),
        "kinds": kinds,
    }


def invalid_share(rows: list[dict]) -> float:
    """NaN if there are no rows."""
    if not rows:
        return float("nan")
    return 1 - sum(row["valid"] for row in rows) / len(rows)


def chance_of_some(passing: int, n: int, drawn: int) -> float:
    """The chance that at least one of `passing` ones of n is among `drawn` that are taken at random, none of
    them twice (hypergeometric distribution)."""
    return 1 - comb(n - passing, drawn) / comb(n, drawn)
