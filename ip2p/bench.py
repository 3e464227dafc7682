"""Speed of the pair factory, measured in one run on the same captions and thresholds; the tables go into README.md.

    python -m ip2p.bench pairs   # ways to paint pairs against the plain loop
    python -m ip2p.bench early   # what could be saved by giving up on candidates before they are painted to the end
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace

import torch

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.evaluation import GENERATED, judge_pairs
from ip2p.pairs import Job, paint_and_filter
from ip2p.profiles import get_profile, load_text_to_image
from ip2p.prompt_to_prompt import decode
from ip2p.sheets import ROOT, fill
from ip2p.triplets import read_triplets


def ways(profile) -> dict[str, tuple[Job, str]]:
    """Name -> (job, how the UNet runs). The first is the plain loop: one pair at a time, as the authors paint."""
    job = Job.of(profile, per_seed=1, enough=False)
    return {
        "one pair at a time, each with a seed of its own": (replace(job, batch=1), ""),
        "in batches": (job, ""),
        "in batches, channels_last": (job, "channels_last"),
        "in batches, bfloat16": (job, "bf16"),
        "3 candidates of a seed share what they have in common": (replace(job, per_seed=3), ""),
        "6 candidates of a seed": (replace(job, per_seed=6), ""),
        "3 of a seed, and stop when enough are good": (replace(job, per_seed=3, enough=True), "")}


def bench_pairs(n: int = 24, seed: int = 3, profile: str = "mini") -> str:
    """A Markdown table: for each of `ways`, accepted pairs a minute, how many times the plain loop that is, and how
    many of the accepted pairs the judge finds valid."""
    profile = get_profile(profile)
    pipe, clip = load_text_to_image(profile), ClipSimilarity(profile.clip)
    triplets = random.Random(seed).sample(read_triplets(GENERATED), n)
    lines = ["| Way | Candidates | Accepted | Accepted a minute | Times the plain loop | Valid, by the judge |",
             "|---|---:|---:|---:|---:|---:|"]
    plain = None
    for name, (job, how) in ways(profile).items():
        job = replace(job, seed=seed)
        pipe.unet.to(memory_format=torch.channels_last if how == "channels_last" else torch.contiguous_format)
        with torch.autocast(pipe.unet.device.type, torch.bfloat16, enabled=how == "bf16"):
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


def bench_early(n: int = 64, seed: int = 4, profile: str = "mini", lost: float = 0.05) -> str:
    """A Markdown table: CLIP looks at the predicted x0 after some steps, and gives up on what lies below its thresholds
    lowered so far that `lost` of the candidates that pass in the end are lost. How many are given up, and how much of
    all painting that saves (the look itself not counted)."""
    profile = get_profile(profile)
    pipe, clip = load_text_to_image(profile), ClipSimilarity(profile.clip)
    job = replace(Job.of(profile, per_seed=1, enough=False), candidates=2, seed=seed)
    triplets = random.Random(seed).sample(read_triplets(GENERATED), n)
    looks = [job.steps * part // 6 for part in (2, 3, 4, 5)]
    predicted, step_of_scheduler = [], pipe.scheduler.step

    def step(*args, **options):
        out = step_of_scheduler(*args, **options)
        predicted.append(out.pred_original_sample)
        return out

    pipe.scheduler.step, seen = step, []

    def look(asked, settings, pictures, sim):
        texts = [[t[name] for t in asked] for name in ("input", "output")]
        early = [clip(*(x[:len(asked)] for x in decode(pipe, predicted[k - 1]).chunk(2)), *texts) for k in looks]
        seen.append([torch.stack(s) for s in (*early, sim)])
        predicted.clear()

    paint_and_filter(pipe, clip, job, triplets, range(n), look)
    *early, final = (torch.cat(parts, 1) for parts in zip(*seen, strict=True))  # (4, candidates) each
    passed = passes(Similarities(*final), **job.thresholds)
    lines = ["| Look after | Given up | Lost of those that pass | Painting saved |", "|---|---:|---:|---:|"]
    for k, sims in zip(looks, early, strict=True):
        worst = sims - torch.tensor([job.thresholds[name] for name in (
            "min_caption", "min_caption", "min_direction", "min_image")])[:, None]
        margin = worst.amin(0)  # how far above its threshold the worst of the four is
        give_up = margin < margin[passed].quantile(lost)
        lines.append(f"| {k} of {job.steps} steps | {give_up.float().mean():.0%} of {len(give_up)} | "
                     f"{give_up[passed].float().mean():.0%} of {int(passed.sum())} | "
                     f"{give_up.float().mean() * (1 - k / job.steps):.0%} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m ip2p.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs", "early"))
    parser.add_argument("--n", type=int, help="caption pairs")
    args = parser.parse_args()
    bench = {"pairs": bench_pairs, "early": bench_early}[args.what]
    fill(ROOT / "README.md", {f"bench_{args.what}": bench(*([args.n] if args.n else []))})
