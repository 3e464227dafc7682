"""How long figures take on this machine, foretold from a step of training, a candidate and an edit."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ip2p.clip_filter import ClipSimilarity
from ip2p.editing import load_editor
from ip2p.factory.pairs import paint_and_compare
from ip2p.options import Job
from ip2p.profiles import Profile, load_text_to_image
from ip2p.study.ablations import COMPARED_PAIRS, random_pairs, triplets_to_paint
from ip2p.study.measures import BATCH
from ip2p.study.points import held_out_cases, images_of, instructions_of
from ip2p.training import train

STEPS = 5  # of which the first is not timed


class Work(NamedTuple):
    """What a figure costs, from nothing; what it shares with a figure that is measured already is there."""

    steps: int = 0  # of training, of all its editors together
    sets: int = 0  # of COMPARED_PAIRS pairs that are painted and filtered
    candidates: int = 0  # that are painted besides
    edits: int = 0


def forecast(works: dict[str, Work], profile: Profile) -> str:
    """A line for each figure: about how many hours it takes."""
    step, candidate, edit = (cache(partial(f, profile)) for f in (of_a_step, of_a_candidate, of_an_edit))
    lines = []
    for name, work in works.items():
        candidates = work.candidates + work.sets * COMPARED_PAIRS * profile.candidates
        parts = [
            part("training", work.steps, "steps", step),
            part("painting", candidates, "candidates or more", candidate),
            part("editing", work.edits, "edits", edit),
        ]
        hours = sum(hours for hours, _ in parts)
        told = ", ".join(text for _, text in parts if text)
        lines.append(f"{name}: about {hours:.1f} hours from nothing ({told})")
    return "\n".join(lines)


def part(doing: str, n: int, things: str, seconds: Callable[[], float]) -> tuple[float, str]:
    """Hours and words for n things, each of which takes `seconds()`; that is measured only if n is not 0."""
    if not n:
        return 0.0, ""
    hours = n * seconds() / 3600
    return hours, f"{doing} {hours:.1f}: {n:,} {things} of {seconds():.2f} s"


def of_a_step(profile: Profile) -> float:
    """Seconds that a step of training takes."""
    moments: list[float] = []
    lessons = random_pairs(profile)[: profile.train_batch]
    with TemporaryDirectory() as folder:
        train(
            lessons,
            folder,
            profile,
            steps=STEPS,
            sample_every=1,
            sample=lambda pipe, step: moments.append(time.perf_counter()),
        )
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def of_a_candidate(profile: Profile) -> float:
    """Seconds that a candidate takes to be painted and compared, each with its own seed."""
    job = Job.of(profile, per_seed=1, candidates=1)
    triplets = triplets_to_paint(profile, job.batch)
    painter, clip = load_text_to_image(profile), ClipSimilarity(profile.clip, profile.device)
    begin = time.perf_counter()
    group = list(range(len(triplets)))
    paint_and_compare(painter, clip, job, triplets, group, slice(0, 1), len(group))
    return (time.perf_counter() - begin) / len(group)


def of_an_edit(profile: Profile) -> float:
    """Seconds that an edit takes in a batch of BATCH, by the shipped editor."""
    cases = held_out_cases(profile, BATCH)
    editor = load_editor(profile)
    begin = time.perf_counter()
    editor.many(images_of(cases), instructions_of(cases))
    return (time.perf_counter() - begin) / len(cases)
