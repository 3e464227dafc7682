"""Stage 2 for many triplets: which candidates are painted, and how they are painted together."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ip2p.profiles import Profile
from ip2p.prompt_to_prompt import sample_families, sample_pairs

# ------------------------------------------------------------------------------------------- the factory


class Setting(NamedTuple):
    """What makes a candidate of a triplet."""

    seed: int
    p: float
    guidance_scale: float


@dataclass(frozen=True)
class Job:
    """What a folder of pairs is made by; from a profile by `Job.of`. Two jobs that are equal make equal bytes."""

    candidates: int
    keep: int
    steps: int
    attention: str
    share: tuple[float, float]
    pair_guidance: tuple[float, float]
    per_seed: (
        int  # candidates of one seed, which differ by p alone and share what they have in common; 1: none do
    )
    enough: bool  # stop painting for a triplet that has `keep` good ones
    min_image: float
    min_caption: float
    min_direction: float
    batch: int
    shard: int = 64  # triplets a shard
    threads: int = 0  # of PyTorch on a CPU, whose last bits depend on them (0: as many as it likes)
    seed: int = 0

    @classmethod
    def of(cls, profile: Profile, seed: int = 0, **changes) -> Job:
        """The profile's job, with those of `changes` that are not None."""
        names = cls.__dataclass_fields__.keys() - {"seed", "steps", "shard", "threads"}
        values = {name: getattr(profile, name) for name in names} | {
            "steps": profile.pair_steps,
            "seed": seed,
        }
        job = cls(**values | {name: value for name, value in changes.items() if value is not None})
        if (
            min(job.candidates, job.keep, job.steps, job.per_seed, job.batch, job.shard) < 1
            or job.candidates % job.per_seed
        ):
            raise ValueError(
                f"{job.candidates} candidates, {job.per_seed} of each seed, {job.keep} kept, {job.steps} "
                "steps: each must be 1 or more, and the first a multiple of the second"
            )
        return job

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("min_image", "min_caption", "min_direction")}


def candidate_settings(job: Job, number: int) -> list[Setting]:
    """The candidates of triplet `number`, those of one seed side by side. Seed, guidance and, at one candidate a seed,
    p are random; the p of one seed's candidates are spread evenly over their range, alike for all triplets (so that
    whole batches branch at the same steps), and lie between those of the next seed's."""
    rng, k = random.Random(job.seed * 1_000_003 + number), job.per_seed
    if k == 1:
        return [
            Setting(rng.randrange(2**31), rng.uniform(*job.share), rng.uniform(*job.pair_guidance))
            for _ in range(job.candidates)
        ]
    low, high = job.share
    out, rounds = [], job.candidates // k
    for r in range(rounds):
        seed, guidance = rng.randrange(2**31), rng.uniform(*job.pair_guidance)
        out += [Setting(seed, low + (high - low) * (i + (r + 0.5) / rounds) / k, guidance) for i in range(k)]
    return out


def paint_candidates(
    pipe, job: Job, triplets: list[dict], settings: list[Setting]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair for each (triplet, setting), in batches of about `job.batch`; with `job.per_seed` > 1, that many
    neighbours are of one triplet and seed. Two tensors (n, 3, H, W) in [0, 1]."""
    k, out = job.per_seed, []
    families = [(t, settings[i * k : i * k + k]) for i, t in enumerate(triplets[::k])]
    at_once = max(1, job.batch // k)
    for i in range(0, len(families), at_once):
        some = families[i : i + at_once]
        if k > 1 and len({tuple(s.p for s in settings) for _, settings in some}) > 1:
            raise ValueError("families that are painted together must branch at the same p")
        missing = at_once - len(some)  # always the same batch, so neighbours change no bit
        some = some + some[-1:] * missing
        asked = dict(
            prompts_0=[t["input"] for t, _ in some],
            prompts_1=[t["output"] for t, _ in some],
            seeds=[s[0].seed for _, s in some],
            guidance_scale=[s[0].guidance_scale for _, s in some],
            num_inference_steps=job.steps,
            attention=job.attention,
        )
        if k == 1:
            first, second = sample_pairs(pipe, p=[s[0].p for _, s in some], **asked)
        else:
            first, second = sample_families(pipe, p=[s.p for s in some[0][1]], **asked)
            first, second = first.repeat_interleave(k, 0), second.flatten(0, 1)
        out.append([x[: len(x) - missing * k].cpu() for x in (first, second)])
    return tuple(torch.cat(x) for x in zip(*out, strict=True))
