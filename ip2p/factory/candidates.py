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
            p = rng.uniform(low, high)
            settings.append(Setting(seed, p, rng.uniform(*job.pair_guidance)))
            continue
        guidance_scale = rng.uniform(*job.pair_guidance)
        shift = (family + 0.5) / families  # between two members of a family lies one of each other family
        for member in range(job.per_seed):
            p = low + (high - low) * (member + shift) / job.per_seed
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
        of_family = settings[i : i + job.per_seed]
        families.append(Family(triplets[i], of_family))
    at_once = max(1, job.batch // job.per_seed)
    first, second = [], []
    for i in range(0, len(families), at_once):
        batch = families[i : i + at_once]
        real = len(batch) * job.per_seed
        image_0, image_1 = paint_batch(pipe, job, padded(batch, at_once))
        first.append(image_0[:real].cpu())
        second.append(image_1[:real].cpu())
    return torch.cat(first), torch.cat(second)


def padded(batch: list, size: int) -> list:
    """The batch, its last one repeated up to `size`: in batches of one size, neighbours change no bit."""
    return batch + batch[-1:] * (size - len(batch))


def paint_batch(pipe, job: Job, families: list[Family]) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch: `job.per_seed` pairs for each family. Two tensors (len(families) * per_seed, 3, H, W) in
    [0, 1], the first and the second images, family by family. Raises ValueError if families of several
    candidates differ in p."""
    prompts_0, prompts_1, seeds, guidance_scales = [], [], [], []
    p_of_families = []
    for triplet, settings in families:
        leader = settings[0]  # the others of the family have its seed and its guidance
        prompts_0.append(triplet["input"])
        prompts_1.append(triplet["output"])
        seeds.append(leader.seed)
        guidance_scales.append(leader.guidance_scale)
        p_of_families.append([setting.p for setting in settings])
    asked = {
        "prompts_0": prompts_0,
        "prompts_1": prompts_1,
        "seeds": seeds,
        "guidance_scale": guidance_scales,
        "num_inference_steps": job.steps,
        "attention": job.attention,
    }
    if job.per_seed == 1:
        return sample_pairs(pipe, p=[p for (p,) in p_of_families], **asked)
    shared_p = p_of_families[0]
    if any(p != shared_p for p in p_of_families):
        raise ValueError("families that are painted together must branch at the same p")
    # (families, 3, H, W): a family has its first image in common; (families, per_seed, 3, H, W)
    first, second = sample_families(pipe, p=shared_p, **asked)
    return first.repeat_interleave(job.per_seed, 0), second.flatten(0, 1)
