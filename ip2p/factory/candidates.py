"""Stage 2 for many triplets: which candidates are painted, and how they are painted together."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch

from ip2p.options import Job
from ip2p.prompt_to_prompt import sample_families, sample_pairs


class Setting(NamedTuple):
    """What makes a candidate of a triplet."""

    seed: int
    p: float
    guidance_scale: float


def candidate_settings(job: Job, number: int) -> list[Setting]:
    """The candidates of triplet `number`, those of one seed side by side.

    Seed, guidance and, at one candidate a seed, p are random. The p of one seed's candidates are spread
    evenly over their range, alike for all triplets (so that whole batches branch at the same steps), and lie
    between those of the next seed's.
    """
    rng = random.Random(job.seed * 1_000_003 + number)
    low, high = job.share
    families = job.candidates // job.per_seed
    settings = []
    for family in range(families):
        seed = rng.randrange(2**31)
        if job.per_seed == 1:
            settings.append(Setting(seed, rng.uniform(low, high), rng.uniform(*job.pair_guidance)))
            continue
        guidance_scale = rng.uniform(*job.pair_guidance)
        for member in range(job.per_seed):
            p = low + (high - low) * (member + (family + 0.5) / families) / job.per_seed
            settings.append(Setting(seed, p, guidance_scale))
    return settings


class Family(NamedTuple):
    """Candidates of one triplet and one seed."""

    triplet: dict
    settings: list[Setting]


def paint_candidates(
    pipe, job: Job, triplets: list[dict], settings: list[Setting]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair for each (triplet, setting), in batches of about `job.batch`; with `job.per_seed` > 1, that many
    neighbours are of one triplet and seed. Two tensors (n, 3, H, W) in [0, 1]."""
    families = []
    for i in range(0, len(triplets), job.per_seed):
        families.append(Family(triplets[i], settings[i : i + job.per_seed]))
    at_once = max(1, job.batch // job.per_seed)
    first, second = [], []
    for i in range(0, len(families), at_once):
        batch = families[i : i + at_once]
        padding = batch[-1:] * (at_once - len(batch))  # always the same batch, so neighbours change no bit
        real = len(batch) * job.per_seed
        image_0, image_1 = paint_batch(pipe, job, batch + padding)
        first.append(image_0[:real].cpu())
        second.append(image_1[:real].cpu())
    return torch.cat(first), torch.cat(second)


def paint_batch(pipe, job: Job, families: list[Family]) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch: `job.per_seed` pairs for each family. Two tensors (len(families) * per_seed, 3, H, W) in
    [0, 1], the first and the second images, family by family. Raises ValueError if families of several
    candidates differ in p."""
    p_of_families = [tuple(setting.p for setting in family.settings) for family in families]
    leaders = [family.settings[0] for family in families]
    asked = {
        "prompts_0": [family.triplet["input"] for family in families],
        "prompts_1": [family.triplet["output"] for family in families],
        "seeds": [leader.seed for leader in leaders],
        "guidance_scale": [leader.guidance_scale for leader in leaders],
        "num_inference_steps": job.steps,
        "attention": job.attention,
    }
    if job.per_seed == 1:
        return sample_pairs(pipe, p=[leader.p for leader in leaders], **asked)
    if len(set(p_of_families)) > 1:
        raise ValueError("families that are painted together must branch at the same p")
    # (families, 3, H, W): a family has its first image in common; (families, per_seed, 3, H, W)
    first, second = sample_families(pipe, p=list(p_of_families[0]), **asked)
    return first.repeat_interleave(job.per_seed, 0), second.flatten(0, 1)
