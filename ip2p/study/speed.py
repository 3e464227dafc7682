"""Speed, always of two or more ways in one run on the same inputs; the tables go into README.md.

ip2p bench pairs   # ways to paint pairs against the plain loop
ip2p bench early   # what could be saved by giving up on candidates before they are painted to the end
ip2p bench editing # an edit by our sampler, eager and compiled, against the stock pipeline
ip2p bench guidance # an edit that is guided in every step, every second, ...: speed, and what it loses
ip2p bench training # pictures and texts encoded once, against the stock script's way: in every step
ip2p bench filter  # CLIP on batches of pairs, against the authors' one pair at a time
ip2p bench ray     # one worker of a Ray cluster against painting in this process
ip2p bench finetuning # all weights of the language model against adapters (LoRA)
ip2p bench memory  # what options of `ip2p train` save
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.common.diffusion import decode, embed
from ip2p.common.images import as_tensor, fit, open_image
from ip2p.common.markdown import fill
from ip2p.dataset.checks import retell
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job
from ip2p.factory.pairs import make_shard, paint_and_filter
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.profiles import get_profile, load_text_to_image
from ip2p.study.evaluate import GENERATED, fresh_captions, judge_answers
from ip2p.study.measures import BATCH, held_out_cases, interval, judge_pairs, measure, run_editor
from ip2p.training import Cache, cache_latents, edit_loss, new_editor


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
        "3 of a seed, and stop when enough are good": (replace(job, per_seed=3, enough=True), ""),
    }


def bench_pairs(n: int = 24, seed: int = 3, profile: str = "mini") -> str:
    """A Markdown table: for each of `ways`, accepted pairs a minute, how many times the plain loop that is, and how
    many of the accepted pairs the judge finds valid."""
    profile = get_profile(profile)
    pipe, clip = load_text_to_image(profile), ClipSimilarity(profile.clip)
    triplets = random.Random(seed).sample(read_triplets(GENERATED), n)
    lines = [
        "| Way | Candidates | Accepted | Accepted a minute | Times the plain loop | Valid, by the judge |",
        "|---|---:|---:|---:|---:|---:|",
    ]
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
        verdicts = judge_pairs(
            [triplets[k] for k, *_ in kept], *(torch.stack([pair[i] for pair in kept]) for i in (3, 4))
        )
        valid = sum(v["valid"] for v in verdicts)
        lines.append(
            f"| {name} | {counts['candidates']} | {len(kept)} | {rate:.1f} | {rate / plain:.2f} | "
            f"{valid} of {len(kept)} |"
        )
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
        early = [
            clip(*(x[: len(asked)] for x in decode(pipe, predicted[k - 1]).chunk(2)), *texts) for k in looks
        ]
        seen.append([torch.stack(s) for s in (*early, sim)])
        predicted.clear()

    paint_and_filter(pipe, clip, job, triplets, range(n), look)
    *early, final = (torch.cat(parts, 1) for parts in zip(*seen, strict=True))  # (4, candidates) each
    passed = passes(Similarities(*final), **job.thresholds)
    lines = ["| Look after | Given up | Lost of those that pass | Painting saved |", "|---|---:|---:|---:|"]
    for k, sims in zip(looks, early, strict=True):
        worst = (
            sims
            - torch.tensor(
                [
                    job.thresholds[name]
                    for name in ("min_caption", "min_caption", "min_direction", "min_image")
                ]
            )[:, None]
        )
        margin = worst.amin(0)  # how far above its threshold the worst of the four is
        give_up = margin < margin[passed].quantile(lost)
        lines.append(
            f"| {k} of {job.steps} steps | {give_up.float().mean():.0%} of {len(give_up)} | "
            f"{give_up[passed].float().mean():.0%} of {int(passed.sum())} | "
            f"{give_up.float().mean() * (1 - k / job.steps):.0%} |"
        )
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
        return pipe(
            "make it night",
            image=image,
            guidance_scale=s_t,
            image_guidance_scale=s_i,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
        ).images[0]

    def ours(editor, **options):
        return lambda: editor(image, "make it night", num_inference_steps=steps, seed=0, **options)

    def preview(editor):
        begin = time.perf_counter()
        editor.decode(next(editor.sample([image], ["make it night"], num_inference_steps=steps)).x0)
        return time.perf_counter() - begin

    ways = {"stock pipeline": (stock, None)}
    for name, make in (
        ("ours", lambda e: e),
        ("ours, compiled", Editor.compile),
        ("ours, compiled, bfloat16", lambda e: e.compile(bf16=True)),
    ):
        one = make(Editor(pipe, *editor.defaults))
        ways[name] = ours(one), one
        if name != "ours, compiled":
            ways[f"{name}, guided every second step"] = ours(one, guidance_every=2), None
    best, first = {name: float("inf") for name in ways}, {name: float("inf") for name in ways}
    for _ in range(rounds):  # in turn, so that a noisy neighbour disturbs all of them
        for name, (edit, one) in ways.items():
            begin = time.perf_counter()
            edit()
            best[name] = min(best[name], time.perf_counter() - begin)
            if one:
                first[name] = min(first[name], preview(one))
    plain, lines = (
        np.asarray(stock(), int),
        [
            f"| {steps} steps | Seconds | Times the stock one | First preview | Largest, mean difference of 255 |",
            "|---|---:|---:|---:|---:|",
        ],
    )
    for name, (edit, one) in ways.items():
        apart = np.abs(np.asarray(edit(), int) - plain)
        lines.append(
            f"| {name} | {best[name]:.2f} | {best['stock pipeline'] / best[name]:.2f} | "
            f"{f'{first[name]:.2f} s' if one else ''} | {apart.max()}, {apart.mean():.2f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def bench_guidance(n: int = 300) -> str:
    """A Markdown table: mini's held-out edits in batches, guided in every k-th step: how many times as fast that is,
    the judge's success and preservation, CLIP's direction, each with its 95% interval."""
    profile = get_profile("mini")
    editor, cases, clip = load_editor(profile.name), held_out_cases(profile, n), ClipSimilarity(profile.clip)
    plain, lines = (
        None,
        [
            "| Guided in | Times the speed | Edit success | Preservation | Direction, by CLIP |",
            "|---|---:|---:|---:|---:|",
        ],
    )
    run_editor(editor, [c.truth for c in cases[:BATCH]], [c.image for c in cases[:BATCH]])  # warm up
    for k in (1, 2, 3, 4):
        begin = time.perf_counter()
        outputs = run_editor(editor, [c.truth for c in cases], [c.image for c in cases], guidance_every=k)
        seconds = time.perf_counter() - begin
        plain = plain or seconds
        rows = measure(clip, cases, outputs)
        values = [[float(r[name]) for r in rows] for name in ("success", "preservation", "direction")]
        shown = " | ".join(
            f"{np.mean(v):.3f} ({low:.3f} to {high:.3f})" for v in values for low, high in [interval(v)]
        )
        lines.append(f"| {'every step' if k == 1 else f'1 step of {k}'} | {plain / seconds:.2f} | {shown} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def bench_training(steps: int = 12, batch: int = 32, profile: str = "mini") -> str:
    """A Markdown table: images a second of a training step that encodes its pictures and texts anew, as the stock
    script's does, against one that takes them from the cache; the same model, pairs, optimiser and precision, steps
    taken in turn."""
    profile = get_profile(profile)
    pipe, rows = new_editor(profile), read_pairs(profile.pairs)[:128]
    unet, alpha_bar, empty = pipe.unet.train(), pipe.scheduler.alphas_cumprod.float(), embed(pipe, [""])
    optimiser = torch.optim.AdamW(unet.parameters(), 1e-5)
    scale = pipe.vae.config.scaling_factor
    with TemporaryDirectory() as folder:
        cache = Cache(pipe, rows, Path(folder))

        def anew(i):
            some = [rows[k] for k in i]
            return *cache_latents(pipe, some), embed(pipe, [r["edit_prompt"] for r in some])

        def cached(i):
            source, mean, std, text = cache.take(i, [False] * len(i))
            return source, (mean + std * torch.randn_like(std)) * scale, text

        ways = {"pictures and texts encoded in every step": anew, "from the cache": cached}
        best = dict.fromkeys(ways, float("inf"))
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            i = torch.randint(len(rows), (batch,), generator=generator).tolist()
            for name, lessons in ways.items():
                begin = time.perf_counter()
                edit_loss(unet, alpha_bar, *lessons(i), empty, generator).backward()
                torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
                optimiser.step()
                optimiser.zero_grad()
                best[name] = min(best[name], time.perf_counter() - begin)
    plain = best["pictures and texts encoded in every step"]
    return "\n".join(
        ["| A training step | Images a second | Times the stock way |", "|---|---:|---:|"]
        + [f"| {name} | {batch / seconds:.0f} | {plain / seconds:.2f} |" for name, seconds in best.items()]
    )


def one_by_one(
    clip: ClipSimilarity, image_0: torch.Tensor, image_1: torch.Tensor, text_0: list[str], text_1: list[str]
) -> Similarities:
    """What `clip` gives, in the authors' way: each pair alone, its texts encoded every time."""
    out = []
    for a, b, c, d in zip(image_0, image_1, text_0, text_1, strict=True):
        i0, i1 = (
            F.normalize(clip.clip.encode_image((x[None] - clip.mean) / clip.std), dim=-1) for x in (a, b)
        )
        t0, t1 = (F.normalize(clip.clip.encode_text(clip.tokenizer([x])), dim=-1) for x in (c, d))
        pairs = (i0, t0), (i1, t1), (i1 - i0, t1 - t0), (i0, i1)
        out.append(torch.cat([F.cosine_similarity(*x) for x in pairs]))
    return Similarities(*torch.stack(out, 1))


@torch.no_grad()
def bench_filter(rounds: int = 5, profile: str = "mini", n: int = 144) -> str:
    """A Markdown table: for CLIP's ways, taken in turn, the best of `rounds`: pairs a second, how many times the
    authors' way that is, and the largest and the mean difference of the cosines."""
    profile = get_profile(profile)
    rows = sorted(read_pairs(profile.pairs), key=lambda r: r["original_prompt"])[
        :n
    ]  # pairs of a caption side by side
    asked = (
        *(as_tensor([r[name] for r in rows]) for name in ("original_image", "edited_image")),
        *([r[name] for r in rows] for name in ("original_prompt", "edited_prompt")),
    )
    clip, rough = ClipSimilarity(profile.clip), ClipSimilarity(profile.clip, bf16=True)
    plain = "one pair at a time"
    ways = {
        plain: lambda: one_by_one(clip, *asked),
        "in batches, texts remembered": lambda: clip(*asked),
        "the same, bfloat16": lambda: rough(*asked),
    }
    best, cosines = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for name, way in ways.items():
            clip._texts.clear()
            rough._texts.clear()
            begin = time.perf_counter()
            cosines[name] = torch.stack(way())
            best[name] = min(best[name], time.perf_counter() - begin)
    lines = [
        "| CLIP | Pairs a second | Times one at a time | Largest, mean difference of a cosine |",
        "|---|---:|---:|---:|",
    ]
    for name, seconds in best.items():
        apart = (cosines[name] - cosines[plain]).abs()
        lines.append(
            f"| {name} | {n / seconds:.0f} | {best[plain] / seconds:.2f} | {apart.max():.1g}, "
            f"{apart.mean():.1g} |"
        )
    return "\n".join(lines)


def bench_ray(n: int = 16, profile: str = "mini", shard: int = 4) -> str:
    """A Markdown table: shards of n caption pairs painted in this process and by one worker on a Ray cluster, one
    thread each; the rate from the first finished shard to the last, so without loading models."""
    from ip2p.factory.on_ray import make_shards

    profile, threads = get_profile(profile), torch.get_num_threads()
    job, triplets = (
        Job.of(profile, threads=1, shard=shard, batch=shard * profile.per_seed),
        read_triplets(GENERATED)[:n],
    )
    starts = list(range(0, n, shard))
    pipe, clip = load_text_to_image(profile), ClipSimilarity(profile.clip)
    torch.set_num_threads(1)
    ways = {
        "in this process": lambda: ((k, *make_shard(pipe, clip, job, triplets, k)) for k in starts),
        "one worker on Ray": lambda: make_shards(profile, job, triplets, starts, workers=1, gpu=False),
    }
    done, rates = {}, {name: [] for name in ways}
    for name in (*ways, *ways):  # in turn
        moments = []
        for start, data, counts in ways[name]():
            done.setdefault(start, data)
            assert done[start] == data, "other bytes"
            moments.append((time.perf_counter(), counts["candidates"]))
        rates[name].append(sum(c for _, c in moments[1:]) / (moments[-1][0] - moments[0][0]))
    torch.set_num_threads(threads)
    plain = max(rates["in this process"])
    return "\n".join(
        ["| One thread | Candidates a second | Of the rate in this process |", "|---|---:|---:|"]
        + [f"| {name} | {max(r):.2f} | {max(r) / plain:.0%} |" for name, r in rates.items()]
    )


def bench_finetuning(n: int = 200, profile: str = "mini") -> str:
    """A Markdown table: one pass over the hand-written lessons with all weights and with adapters of rank 16 on all
    linear layers (LoRA) at two learning rates: weights that learn, and what n answers are worth."""
    from peft import LoraConfig, get_peft_model

    from ip2p.backends.local import generate
    from ip2p.instructions import finetune, load_language_model

    profile = get_profile(profile)
    written, rng = read_triplets(profile.triplets), random.Random(0)
    lessons, captions = [retell(t, rng) for t in written], fresh_captions(n, written)
    lines = [
        "| What learns | Learning rate | Weights, millions | Well-formed | Valid |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rank, lr in (("all weights", 0, 3e-4), ("adapters", 16, 1e-3), ("adapters", 16, 3e-3)):
        model, tokenizer = load_language_model(profile.language_model)
        if rank:
            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))
        taught = sum(
            p.numel() for name, p in model.named_parameters() if p.requires_grad and "embed" not in name
        )
        finetune(model, tokenizer, lessons, lr=lr)
        model = model.merge_and_unload() if rank else model
        answers = generate(model, tokenizer, captions, seed=1, max_new_tokens=128)
        worth = judge_answers(captions, answers, written, profile.in_world)
        lines.append(
            f"| {name} | {lr:g} | {taught / 1e6:.1f} | {worth['formed']:.2f} | {worth['valid']:.2f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


PEAK = """
import json, resource, sys
from ip2p.dataset.shards import read_pairs
from ip2p.profiles import get_profile
from ip2p.training import train

name, out, options = sys.argv[1:]
profile = get_profile(name, muon=False)
rows = read_pairs(profile.pairs)[:64]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)

before = peak()
train(rows, out, profile, steps=3, **json.loads(options))
print(before, peak())
"""


def bench_memory(profile: str = "mini") -> str:
    """A Markdown table: the peak of the memory (on a CPU: of the whole process) that training takes, three steps of the
    profile's batch with AdamW, for options of `ip2p train`; and that peak without what Python and the libraries hold
    before."""
    presets = {
        "as it is": {},
        "--accumulate 4": {"accumulate": 4},
        "--checkpointing": {"checkpointing": True},
        "--mixed-precision bf16": {"mixed_precision": "bf16"},
        "--eight-bit": {"eight_bit": True},
        "--lora 16": {"lora": 16},
        "--lora 16 --accumulate 4 --checkpointing": {"lora": 16, "accumulate": 4, "checkpointing": True},
    }
    lines = ["| Options | Peak, GB | Of which training, GB |", "|---|---:|---:|"]
    extra = os.pathsep.join([str(Path(sys.prefix) / "extra"), *sys.path])  # where `make` puts bitsandbytes
    for name, options in presets.items():
        with TemporaryDirectory() as out:
            done = subprocess.run(
                [sys.executable, "-c", PEAK, profile, out, json.dumps(options)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | ({"PYTHONPATH": extra} if options.get("eight_bit") else {}),
            )
        before, peak = map(float, done.stdout.splitlines()[-1].split())
        lines.append(f"| {name} | {peak:.2f} | {peak - before:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


BENCHES = {
    "pairs": bench_pairs,
    "early": bench_early,
    "editing": bench_editing,
    "guidance": bench_guidance,
    "training": bench_training,
    "filter": bench_filter,
    "ray": bench_ray,
    "finetuning": bench_finetuning,
    "memory": bench_memory,
}


def run_benchmark(name: str, n: int | None = None) -> None:
    """Run a benchmark and write its table into the README. n: caption pairs, rounds of edits or steps."""
    need_clone("ip2p bench")
    fill(ROOT / "README.md", {f"bench_{name}": BENCHES[name](*([n] if n else []))})
