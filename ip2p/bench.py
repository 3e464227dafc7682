"""Speed, always of two or more ways in one run on the same inputs; the tables go into README.md.

    python -m ip2p.bench pairs   # ways to paint pairs against the plain loop
    python -m ip2p.bench early   # what could be saved by giving up on candidates before they are painted to the end
    python -m ip2p.bench editing # an edit by our sampler, eager and compiled, against the stock pipeline
    python -m ip2p.bench training # latents encoded once, against the stock script's way: in every step
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace

import numpy as np
import torch

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.editing import Editor, fit, load_editor, open_image
from ip2p.evaluation import GENERATED, judge_pairs
from ip2p.pairs import Job, paint_and_filter, read_pairs
from ip2p.profiles import DATA, get_profile, load_text_to_image
from ip2p.prompt_to_prompt import decode, embed
from ip2p.sheets import ROOT, fill
from ip2p.training import cache_latents, edit_loss, new_editor
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


def bench_editing(rounds: int = 7, profile: str = "mini", steps: int = 20) -> str:
    """A Markdown table: for the stock pipeline and our sampler the best of `rounds` edits, taken in turn, how many
    times as fast as the stock one that is, the seconds until the first preview, and the difference of the pictures."""
    editor = load_editor(profile)
    pipe, image = editor.pipe, fit(open_image(DATA / "images" / "cat.png"), (editor.resolution,) * 2)
    pipe.set_progress_bar_config(disable=True)
    s_t, s_i, _ = editor.defaults

    def stock():
        return pipe("make it night", image=image, guidance_scale=s_t, image_guidance_scale=s_i,
                    num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]

    def ours(editor):
        return lambda: editor(image, "make it night", num_inference_steps=steps, seed=0)

    def preview(editor):
        begin = time.perf_counter()
        editor.decode(next(editor.sample([image], ["make it night"], num_inference_steps=steps)).x0)
        return time.perf_counter() - begin

    ways = {"stock pipeline": (stock, None)}
    for name, make in (("ours", lambda e: e), ("ours, compiled", Editor.compile),
                       ("ours, compiled, bfloat16", lambda e: e.compile(bf16=True))):
        one = make(Editor(pipe, *editor.defaults))
        ways[name] = ours(one), one
    best, first = {name: float("inf") for name in ways}, {name: float("inf") for name in ways}
    for _ in range(rounds):  # in turn, so that a noisy neighbour disturbs all of them
        for name, (edit, one) in ways.items():
            begin = time.perf_counter()
            edit()
            best[name] = min(best[name], time.perf_counter() - begin)
            if one:
                first[name] = min(first[name], preview(one))
    plain, lines = np.asarray(stock(), int), [
        f"| {steps} steps | Seconds | Times the stock one | First preview | Largest, mean difference of 255 |",
        "|---|---:|---:|---:|---:|"]
    for name, (edit, one) in ways.items():
        apart = np.abs(np.asarray(edit(), int) - plain)
        lines.append(f"| {name} | {best[name]:.2f} | {best['stock pipeline'] / best[name]:.2f} | "
                     f"{f'{first[name]:.2f} s' if one else ''} | {apart.max()}, {apart.mean():.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def bench_training(steps: int = 12, batch: int = 32, profile: str = "mini") -> str:
    """A Markdown table: images a second of a training step that encodes its pictures anew, as the stock script's
    does, against one on cached latents; the same model, pairs, optimiser and precision, steps taken in turn."""
    profile = get_profile(profile)
    pipe, rows = new_editor(profile), read_pairs(profile.pairs)[:128]
    source, target = cache_latents(pipe, rows)
    unet, alpha_bar, empty = pipe.unet.train(), pipe.scheduler.alphas_cumprod.float(), embed(pipe, [""])
    optimiser = torch.optim.AdamW(unet.parameters(), 1e-5)

    ways = {"pictures encoded in every step": lambda i: cache_latents(pipe, [rows[k] for k in i]),
            "latents cached": lambda i: (source[i], target[i])}
    best = {name: float("inf") for name in ways}
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        i = torch.randint(len(rows), (batch,), generator=generator).tolist()
        for name, latents in ways.items():
            begin = time.perf_counter()
            text = embed(pipe, [rows[k]["edit_prompt"] for k in i]).detach()
            edit_loss(unet, alpha_bar, *latents(i), text, empty, generator).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            best[name] = min(best[name], time.perf_counter() - begin)
    plain = best["pictures encoded in every step"]
    return "\n".join(["| A training step | Images a second | Times the stock way |", "|---|---:|---:|"] + [
        f"| {name} | {batch / seconds:.0f} | {plain / seconds:.2f} |" for name, seconds in best.items()])


BENCHES = {"pairs": bench_pairs, "early": bench_early, "editing": bench_editing, "training": bench_training}

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m ip2p.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(BENCHES))
    parser.add_argument("--n", type=int, help="caption pairs, rounds of edits or steps")
    args = parser.parse_args()
    fill(ROOT / "README.md", {f"bench_{args.what}": BENCHES[args.what](*([args.n] if args.n else []))})
