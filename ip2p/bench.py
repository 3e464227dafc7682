"""`python -m ip2p.bench pairs`: ways to paint pairs against the plain loop, in one run, on the same captions and
thresholds. Writes its table into README.md."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace

import torch

from ip2p.clip_filter import ClipSimilarity
from ip2p.evaluation import GENERATED, judge_pairs
from ip2p.pairs import Job, paint_and_filter
from ip2p.profiles import get_profile, load_text_to_image
from ip2p.sheets import ROOT, fill
from ip2p.triplets import read_triplets


def ways(profile) -> dict[str, tuple[Job, bool]]:
    """Name -> (job, channels_last). The first is the plain loop: one pair at a time, as the authors paint."""
    job = Job.of(profile, per_seed=1, enough=False)
    return {
        "one pair at a time, each with a seed of its own": (replace(job, batch=1), False),
        "in batches": (job, False),
        "in batches, channels_last": (job, True),
        "3 candidates of a seed share what they have in common": (replace(job, per_seed=3), False),
        "6 candidates of a seed": (replace(job, per_seed=6), False),
        "3 of a seed, and stop when enough are good": (replace(job, per_seed=3, enough=True), False)}


def bench_pairs(n: int = 24, seed: int = 3, profile: str = "mini") -> str:
    """A Markdown table: for each of `ways`, accepted pairs a minute, how many times the plain loop that is, and how
    many of the accepted pairs the judge finds valid."""
    profile = get_profile(profile)
    pipe, clip = load_text_to_image(profile), ClipSimilarity(profile.clip)
    triplets = random.Random(seed).sample(read_triplets(GENERATED), n)
    lines = ["| Way | Candidates | Accepted | Accepted a minute | Times the plain loop | Valid, by the judge |",
             "|---|---:|---:|---:|---:|---:|"]
    plain = None
    for name, (job, channels_last) in ways(profile).items():
        job = replace(job, seed=seed)
        pipe.unet.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        paint_and_filter(pipe, clip, job, triplets, range(1))  # warm up
        clip._texts.clear()  # what an earlier way asked
        begin = time.perf_counter()
        kept, counts = paint_and_filter(pipe, clip, job, triplets, range(n))
        rate = 60 * len(kept) / (time.perf_counter() - begin)
        plain = plain or rate
        verdicts = judge_pairs([triplets[k] for k, *_ in kept], *(torch.stack([pair[i] for pair in kept])
                                                                  for i in (3, 4)))
        valid = sum(v["valid"] for v in verdicts)
        lines.append(f"| {name} | {counts['candidates']} | {len(kept)} | {rate:.1f} | {rate / plain:.2f} | "
                     f"{valid} of {len(kept)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m ip2p.bench", description=__doc__)
    parser.add_argument("what", choices=("pairs",))
    parser.add_argument("--n", type=int, default=24, help="caption pairs")
    args = parser.parse_args()
    fill(ROOT / "README.md", {"bench_pairs": bench_pairs(args.n)})
