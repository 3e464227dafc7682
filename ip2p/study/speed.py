"""Speed, always of two or more ways in one run on the same inputs; the tables go into docs/benchmarks.md.

ip2p bench pairs      # ways to paint pairs against the plain loop
ip2p bench early      # what could be saved by giving up on candidates before they are painted to the end
ip2p bench editing    # an edit by our sampler, eager and compiled, against the stock pipeline
ip2p bench fast       # the distilled editor against the full one and the stock pipeline
ip2p bench training   # pictures and texts encoded once, against the stock script's way: in every step
ip2p bench filter     # CLIP on batches of pairs, against the authors' one pair at a time
ip2p bench ray        # one worker of a Ray cluster against painting in this process
ip2p bench finetuning # all weights of the language model against adapters (LoRA)
ip2p bench memory     # what options of `ip2p train` save
ip2p bench sd15       # one step of each stage at the true size of Stable Diffusion 1.5, with random weights
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.common.devices import choose_device, choose_training_dtype, mixed_precision
from ip2p.common.diffusion import decode, embed
from ip2p.common.images import as_tensor, fit, open_image
from ip2p.common.markdown import fill_pages
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job
from ip2p.factory.pairs import Kept, make_shard, make_shards_on_ray, paint_and_filter
from ip2p.fast import SKETCH_STEPS
from ip2p.miniworld.retelling import retell
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.profiles import MINI, Profile, get_profile, load_edit_pipeline, load_text_to_image
from ip2p.study.answers import check_answers, fresh_captions
from ip2p.study.measures import column, judge_pairs
from ip2p.study.true_size import STEPS
from ip2p.training import Cache, cache_latents, edit_loss, new_editor


class Table:
    """A Markdown table whose lines are printed as they come; all columns but the first are aligned right."""

    def __init__(self, *columns: str):
        self.lines = [
            "| " + " | ".join(columns) + " |",
            "|---|" + "---:|" * (len(columns) - 1),
        ]

    def add(self, *cells: str) -> None:
        self.lines.append("| " + " | ".join(cells) + " |")
        print(self.lines[-1], flush=True)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def best_seconds(functions: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The shortest time of each function, in seconds; they take turns, so that a noisy neighbour disturbs
    all."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was told; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# --------------------------------------------------------------------------------------------- the factory


class Painting(NamedTuple):
    """A way to paint pairs."""

    job: Job
    channels_last: bool = False  # the memory format of the UNet
    bfloat16: bool = False  # autocast


def ways_to_paint(profile: Profile, seed: int) -> dict[str, Painting]:
    """The first is the plain loop: one pair at a time, as the authors paint."""
    job = Job.of(profile, seed, per_seed=1, enough=False)
    shared = "3 candidates of a seed share what they have in common"
    return {
        "one pair at a time, each with a seed of its own": Painting(replace(job, batch=1)),
        "in batches": Painting(job),
        "in batches, channels_last": Painting(job, channels_last=True),
        "in batches, bfloat16": Painting(job, bfloat16=True),
        shared: Painting(replace(job, per_seed=3)),
        "6 candidates of a seed": Painting(replace(job, per_seed=6)),
        "3 of a seed, and stop when enough are good": Painting(replace(job, per_seed=3, enough=True)),
    }


def random_triplets(n: int, seed: int) -> list[dict]:
    return random.Random(seed).sample(read_triplets(GENERATED_TRIPLETS), n)


def bench_pairs(n: int = 24, seed: int = 3, profile: str | Profile = "mini") -> Table:
    """For each of `ways_to_paint`, accepted pairs a minute, how many times the plain loop that is, and how
    many of the accepted pairs the judge finds valid."""
    profile = get_profile(profile)
    pipe = load_text_to_image(profile)
    triplets = random_triplets(n, seed)
    table = Table(
        "Way", "Candidates", "Accepted", "Accepted a minute", "Times the plain loop", "Valid, by the judge"
    )
    plain = None
    for name, painting in ways_to_paint(profile, seed).items():
        layout = torch.channels_last if painting.channels_last else torch.contiguous_format
        pipe.unet.to(memory_format=layout)
        with torch.autocast(pipe.unet.device.type, torch.bfloat16, enabled=painting.bfloat16):
            warm_up = ClipSimilarity(profile.clip, profile.device)
            paint_and_filter(pipe, warm_up, painting.job, triplets, range(1))
            clip = ClipSimilarity(profile.clip, profile.device)  # that remembers no text
            begin = time.perf_counter()
            kept, counts = paint_and_filter(pipe, clip, painting.job, triplets, range(n))
            seconds = time.perf_counter() - begin
        rate = 60 * len(kept) / seconds
        plain = plain or rate
        table.add(
            name,
            str(counts["candidates"]),
            str(len(kept)),
            f"{rate:.1f}",
            f"{rate / plain:.2f}",
            f"{count_valid(triplets, kept)} of {len(kept)}",
        )
    return table


def count_valid(triplets: list[dict], kept: list[Kept]) -> int:
    """How many pairs that `paint_and_filter` kept the judge finds valid."""
    asked = [triplets[pair.number] for pair in kept]
    images_0 = torch.stack([pair.image_0 for pair in kept])
    images_1 = torch.stack([pair.image_1 for pair in kept])
    return sum(verdict["valid"] for verdict in judge_pairs(asked, images_0, images_1))


def bench_early(n: int = 64, seed: int = 4, profile: str | Profile = "mini", lost: float = 0.05) -> Table:
    """CLIP looks at the predicted x0 after some steps, and gives up on what lies below its thresholds lowered
    so far that `lost` of the candidates that pass in the end are lost. How many are given up, and how much of
    all painting that saves (the look itself not counted)."""
    profile = get_profile(profile)
    job = replace(Job.of(profile, seed, per_seed=1, enough=False), candidates=2)
    look_after = [job.steps * part // 6 for part in (2, 3, 4, 5)]  # steps
    *early, final = early_similarities(profile, job, random_triplets(n, seed), look_after)
    passed = passes(Similarities(*final), **job.thresholds)
    names = ("min_caption", "min_caption", "min_direction", "min_image")
    thresholds = torch.tensor([job.thresholds[name] for name in names])[:, None]
    table = Table("Look after", "Given up", "Lost of those that pass", "Painting saved")
    for steps, similarities in zip(look_after, early, strict=True):
        margin = (similarities - thresholds).amin(0)  # how far above its threshold the worst of the four is
        given_up = margin < margin[passed].quantile(lost)
        share = given_up.float().mean()
        lost_share = given_up[passed].float().mean()
        table.add(
            f"{steps} of {job.steps} steps",
            f"{share:.0%} of {len(given_up)}",
            f"{lost_share:.0%} of {int(passed.sum())}",
            f"{share * (1 - steps / job.steps):.0%}",
        )
    return table


def early_similarities(
    profile: Profile, job: Job, triplets: list[dict], look_after: list[int]
) -> list[torch.Tensor]:
    """CLIP's four similarities of all candidates, by the predicted x0 after so many steps, and, last, in the
    end: (4, candidates) each."""
    pipe = load_text_to_image(profile)
    clip = ClipSimilarity(profile.clip, profile.device)
    predicted: list[torch.Tensor] = []  # x0 after each step of the batch that is being painted
    scheduler_step = pipe.scheduler.step

    def step_and_note(*args, **options):
        output = scheduler_step(*args, **options)
        predicted.append(output.pred_original_sample)
        return output

    pipe.scheduler.step = step_and_note
    of_looks: list[list[torch.Tensor]] = [[] for _ in (*look_after, "the end")]

    def look(asked, settings, pictures, similarities) -> None:
        texts_0 = [triplet["input"] for triplet in asked]
        texts_1 = [triplet["output"] for triplet in asked]
        for found, steps in zip(of_looks, look_after, strict=False):
            first, second = decode(pipe, predicted[steps - 1]).chunk(2)
            sim = clip(first[: len(asked)], second[: len(asked)], texts_0, texts_1)
            found.append(torch.stack(sim))
        of_looks[-1].append(torch.stack(similarities))
        predicted.clear()

    paint_and_filter(pipe, clip, job, triplets, range(len(triplets)), look)
    return [torch.cat(found, 1).cpu() for found in of_looks]


def bench_ray(n: int = 16, profile: str | Profile = "mini", shard: int = 4) -> Table:
    """Shards of n caption pairs painted in this process and by one worker on a Ray cluster, one thread each;
    the rate from the first finished shard to the last, so without loading models."""
    profile = get_profile(profile)
    device, dtype = profile.place()
    job = Job.of(profile, threads=1, shard=shard, batch=shard * profile.per_seed)
    triplets = read_triplets(GENERATED_TRIPLETS)[:n]
    starts = list(range(0, n, shard))
    pipe = load_text_to_image(profile)
    clip = ClipSimilarity(profile.clip, profile.device)

    def shards_of_this_process():
        for start in starts:
            yield start, *make_shard(pipe, clip, job, triplets, start)

    def shards_of_ray():
        return make_shards_on_ray(profile, job, triplets, starts, 1, device, dtype)

    ways = {"in this process": shards_of_this_process, "one worker on Ray": shards_of_ray}
    rates = dict.fromkeys(ways, 0.0)
    made: dict[int, bytes] = {}  # start of a shard -> its bytes, which all must agree on
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in (*ways, *ways):  # in turn
        rates[name] = max(rates[name], candidates_a_second(ways[name](), made))
    torch.set_num_threads(threads)
    table = Table("One thread", "Candidates a second", "Of the rate in this process")
    for name, rate in rates.items():
        table.add(name, f"{rate:.2f}", f"{rate / rates['in this process']:.0%}")
    return table


def candidates_a_second(shards, made: dict[int, bytes]) -> float:
    """The rate of shards (start, bytes, counts) from the first to the last. Raises ValueError if bytes are
    not those that are `made`, to which new ones are added."""
    moments = []
    counts_of_shards = []
    for start, data, counts in shards:
        if made.setdefault(start, data) != data:
            raise ValueError(f"the shard of the triplets from {start} on has other bytes than before")
        moments.append(time.perf_counter())
        counts_of_shards.append(counts["candidates"])
    return sum(counts_of_shards[1:]) / (moments[-1] - moments[0])


# ------------------------------------------------------------------------------------------------- editing

INSTRUCTION = "make it night"


def stock_pipeline(profile: Profile):
    """diffusers' own with the weights of the profile's editor, and its autoencoder as diffusers lays it."""
    device, dtype = profile.place()
    pipe = load_edit_pipeline(profile.editor, dtype).to(device)
    pipe.vae.to(memory_format=torch.contiguous_format)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class OneEdit(NamedTuple):
    """The same edit by every editor and by the stock pipeline."""

    image: Image.Image
    steps: int

    def by_stock_pipeline(self, pipe, guidance_scale: float, image_guidance_scale: float) -> Image.Image:
        return pipe(
            INSTRUCTION,
            image=self.image,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(0),
        ).images[0]

    def by_editor(self, editor: Editor) -> Image.Image:
        return editor(self.image, INSTRUCTION, num_inference_steps=self.steps, seed=0)

    def slider_event(self, editor: Editor) -> Callable[[], Image.Image]:
        """What the explorer does while a slider is dragged: picture and sentence are encoded already."""
        encoded = editor.encode([self.image]), embed(editor.pipe, [INSTRUCTION])

        def again() -> Image.Image:
            *_, last = editor.sample(
                [self.image], [INSTRUCTION], num_inference_steps=self.steps, encoded=encoded
            )
            return editor.decode(last.z)[0]

        return again

    def preview(self, editor: Editor) -> None:
        """The predicted picture after the first step."""
        steps = editor.sample([self.image], [INSTRUCTION], num_inference_steps=self.steps)
        editor.decode(next(steps).x0)


def bench_editing(rounds: int = 7, profile: str | Profile = "mini", steps: int = 20) -> Table:
    """For the stock pipeline and our sampler the best of `rounds` edits, taken in turn, how many times as
    fast as the stock one that is, the seconds until the first preview, and the difference of the pictures."""
    profile = get_profile(profile)
    pipe = stock_pipeline(profile)
    editor = load_editor(profile)
    guidance_scale, image_guidance_scale, _ = editor.defaults
    compiled = Editor(editor.pipe, *editor.defaults).compile()
    rough = Editor(editor.pipe, *editor.defaults).compile(bf16=True)
    cat = open_image(DATA / "images" / "cat.png")
    one = OneEdit(fit(cat, (editor.resolution, editor.resolution)), steps)

    stock = "stock pipeline"
    edits = {
        stock: lambda: one.by_stock_pipeline(pipe, guidance_scale, image_guidance_scale),
        "ours": lambda: one.by_editor(editor),
        "ours, compiled": lambda: one.by_editor(compiled),
        "ours, compiled, bfloat16": lambda: one.by_editor(rough),
    }
    previews = {
        "ours": lambda: one.preview(editor),
        "ours, compiled": lambda: one.preview(compiled),
        "ours, compiled, bfloat16": lambda: one.preview(rough),
    }
    seconds = best_seconds(edits, rounds)
    first = best_seconds(previews, rounds)
    expected = np.asarray(edits[stock](), int)
    table = Table(
        f"{steps} steps", "Seconds", "Times the stock one", "First preview", "Largest, mean difference of 255"
    )
    for name, edit in edits.items():
        apart = np.abs(np.asarray(edit(), int) - expected)
        table.add(
            name,
            f"{seconds[name]:.2f}",
            f"{seconds[stock] / seconds[name]:.2f}",
            f"{first[name]:.2f} s" if name in first else "",
            f"{apart.max()}, {apart.mean():.2f}",
        )
    return table


def bench_fast(rounds: int = 7, profile: str | Profile = "mini") -> Table:
    """An edit by the stock pipeline, by our sampler and by the distilled editor, pictures in and pictures
    out; and what one event of a slider costs, where picture and sentence are encoded already. The best of
    `rounds`, taken in turn."""
    profile = get_profile(profile)
    pipe = stock_pipeline(profile)
    editor = load_editor(profile, fast=True)
    full = Editor(editor.pipe, *editor.defaults)
    compiled = Editor(editor.pipe, *editor.defaults)
    compiled.fast = editor.fast
    compiled.compile()
    guidance_scale, image_guidance_scale, steps = editor.defaults
    cat = fit(open_image(DATA / "images" / "cat.png"), (editor.resolution, editor.resolution))
    one, usual, few = OneEdit(cat, 20), OneEdit(cat, steps), OneEdit(cat, editor.fast.steps)
    sketch = OneEdit(cat, SKETCH_STEPS)
    stock = "stock pipeline, 20 steps"
    edits = {
        stock: lambda: one.by_stock_pipeline(pipe, guidance_scale, image_guidance_scale),
        f"stock pipeline, {steps} steps": lambda: usual.by_stock_pipeline(
            pipe, guidance_scale, image_guidance_scale
        ),
        f"ours, {steps} steps": lambda: usual.by_editor(full),
        f"ours, fast, {few.steps} steps": lambda: few.by_editor(editor),
        f"ours, fast, compiled, {few.steps} steps": lambda: few.by_editor(compiled),
        "one event of a slider, sketched": sketch.slider_event(editor),
        "one event of a slider, sketched, compiled": sketch.slider_event(compiled),
    }
    seconds = best_seconds(edits, rounds)
    table = Table("Edit", "Milliseconds", f"Times the {stock}")
    for name in edits:
        table.add(name, f"{1000 * seconds[name]:.0f}", f"{seconds[stock] / seconds[name]:.1f}")
    return table


# ------------------------------------------------------------------------------------------------ training


def bench_training(steps: int = 12, batch: int = 32, profile: str | Profile = "mini") -> Table:
    """Images a second of a training step that encodes its pictures and texts anew, as the stock script's
    does, against one that takes them from the cache; the same model, pairs, optimiser and precision, steps
    taken in turn."""
    profile = get_profile(profile)
    device = choose_device(profile.device)
    dtype = choose_training_dtype(profile.dtype)
    pipe = new_editor(profile).to(device)
    rows = read_pairs(profile.pairs)[:128]
    unet = pipe.unet.train()
    empty = embed(pipe, [""])
    optimiser = torch.optim.AdamW(unet.parameters(), 1e-5)
    scale = pipe.vae.config.scaling_factor

    def encoded_anew(numbers: list[int]):
        chosen = [rows[k] for k in numbers]
        source, target = cache_latents(pipe, chosen)
        return source, target, embed(pipe, column(chosen, "edit_prompt"))

    def from_cache(numbers: list[int]):
        source, mean, std, text = cache.take(numbers, [False] * len(numbers))
        return source, (mean + std * torch.randn_like(std)) * scale, text

    def take_step(lessons: Callable, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        numbers = torch.randint(len(rows), (batch,), generator=generator).tolist()
        source, target, text = (x.to(device) for x in lessons(numbers))
        with mixed_precision(device, dtype):
            loss = edit_loss(unet, pipe.scheduler, source, target, text, empty, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        wait_for(device)

    plain = "pictures and texts encoded in every step"
    best = {plain: float("inf"), "from the cache": float("inf")}
    with TemporaryDirectory() as folder:
        cache = Cache(pipe, rows, Path(folder), profile.resolution)
        for step in range(steps):
            for name, lessons in zip(best, (encoded_anew, from_cache), strict=True):
                begin = time.perf_counter()
                take_step(lessons, step)
                best[name] = min(best[name], time.perf_counter() - begin)
    table = Table("A training step", "Images a second", "Times the stock way")
    for name, seconds in best.items():
        table.add(name, f"{batch / seconds:.0f}", f"{best[plain] / seconds:.2f}")
    return table


def bench_finetuning(n: int = 200, profile: str | Profile = "mini") -> Table:
    """One pass over the hand-written lessons with all weights and with adapters of rank 16 on all linear
    layers (LoRA) at two learning rates: weights that learn, and what n answers are worth."""
    from ip2p.backends import local
    from ip2p.instructions import finetune

    profile = get_profile(profile)
    device, dtype = profile.place()
    written = read_triplets(profile.triplets)
    rng = random.Random(0)
    lessons = [retell(triplet, rng) for triplet in written]
    captions = fresh_captions(n, written)
    table = Table("What learns", "Learning rate", "Weights, millions", "Well-formed", "Valid")
    for name, rank, learning_rate in (
        ("all weights", 0, 3e-4),
        ("adapters", 16, 1e-3),
        ("adapters", 16, 3e-3),
    ):
        model, tokenizer = local.load(profile.language_model, device)
        if rank:
            model = with_adapters(model, rank)
        learning = count_learning_weights(model)
        finetune(model, tokenizer, lessons, lr=learning_rate)
        if rank:
            model = model.merge_and_unload()
        answers = local.generate(model.to(dtype), tokenizer, captions, seed=1, max_new_tokens=128)
        worth = check_answers(captions, answers, written, profile.in_world)
        table.add(
            name,
            f"{learning_rate:g}",
            f"{learning / 1e6:.1f}",
            f"{worth['formed']:.2f}",
            f"{worth['valid']:.2f}",
        )
    return table


def with_adapters(model, rank: int):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))


def count_learning_weights(model) -> int:
    """Without embeddings."""
    learning = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "embed" not in name:
            learning += parameter.numel()
    return learning


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

MEMORY_OPTIONS = {
    "as it is": {},
    "--accumulate 4": {"accumulate": 4},
    "--checkpointing": {"checkpointing": True},
    "--dtype bfloat16": {"dtype": "bfloat16"},
    "--eight-bit": {"eight_bit": True},
    "--lora 16": {"lora": 16},
    "--lora 16 --accumulate 4 --checkpointing": {"lora": 16, "accumulate": 4, "checkpointing": True},
}


def bench_memory(profile: str | Profile = "mini") -> Table:
    """The peak of the memory (on a CPU: of the whole process) that training takes, three steps of the
    profile's batch with AdamW, for options of `ip2p train`; and that peak without what Python and the
    libraries hold before."""
    profile = get_profile(profile)
    choose_training_dtype(profile.dtype)  # a wrong one is refused before anything is trained
    place = {"device": profile.device, "dtype": profile.dtype}
    table = Table("Options", "Peak, GB", "Of which training, GB")
    for name, options in MEMORY_OPTIONS.items():
        before, peak = peak_memory(profile.name, place | options)
        table.add(name, f"{peak:.2f}", f"{peak - before:.2f}")
    return table


def peak_memory(profile: str, options: dict) -> tuple[float, float]:
    """The peak of the memory of a process of its own before it trains, and in the end, GB."""
    environment = dict(os.environ)
    if options.get("eight_bit"):
        extra = str(Path(sys.prefix) / "extra")  # where `make` puts bitsandbytes
        environment["PYTHONPATH"] = os.pathsep.join([extra, *sys.path])
    with TemporaryDirectory() as out:
        command = [sys.executable, "-c", PEAK, profile, out, json.dumps(options)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    before, peak = done.stdout.splitlines()[-1].split()
    return float(before), float(peak)


def bench_sd15(px: int = 256, profile: str | Profile = "mini") -> Table:
    """Seconds and peak memory of one step of each stage in the true architecture of Stable Diffusion 1.5 with
    random weights, pictures of px x px, each in a process of its own. Training is float32 everywhere."""
    profile = get_profile(profile)
    device, dtype = profile.place()
    table = Table(f"{px} px, {device.type}, {dtype_name(dtype)}", "Seconds", "Peak, GB", "Of it, weights, GB")
    for name in STEPS:
        of_step = "float32" if "training" in name else dtype_name(dtype)
        call = (
            f"from ip2p.study.true_size import report; report({name!r}, {px}, {str(device)!r}, {of_step!r})"
        )
        done = subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        table.add(name, *(f"{found[key]:.1f}" for key in ("seconds", "peak", "weights")))
    return table


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -------------------------------------------------------------------------------------------------- filter


def one_by_one(
    clip: ClipSimilarity, image_0: torch.Tensor, image_1: torch.Tensor, text_0: list[str], text_1: list[str]
) -> Similarities:
    """What `clip` gives, in the authors' way: each pair alone, its texts encoded every time."""

    def image_features(image: torch.Tensor) -> torch.Tensor:
        pixels = image[None].to(clip.mean.device)
        return F.normalize(clip.clip.encode_image((pixels - clip.mean) / clip.std), dim=-1)

    def text_features(text: str) -> torch.Tensor:
        tokens = clip.tokenizer([text]).to(clip.mean.device)
        return F.normalize(clip.clip.encode_text(tokens), dim=-1)

    found = []
    for first, second, before, after in zip(image_0, image_1, text_0, text_1, strict=True):
        i0 = image_features(first)
        i1 = image_features(second)
        t0 = text_features(before)
        t1 = text_features(after)
        cosines = [
            F.cosine_similarity(i0, t0),
            F.cosine_similarity(i1, t1),
            F.cosine_similarity(i1 - i0, t1 - t0),
            F.cosine_similarity(i0, i1),
        ]
        found.append(torch.cat(cosines))
    return Similarities(*torch.stack(found, 1))


@torch.no_grad()
def bench_filter(rounds: int = 5, profile: str | Profile = "mini", n: int = 144) -> Table:
    """For CLIP's ways, taken in turn, the best of `rounds`: pairs a second, how many times the authors' way
    that is, and the largest and the mean difference of the cosines."""
    profile = get_profile(profile)
    rows = read_pairs(profile.pairs)
    rows = sorted(rows, key=lambda row: row["original_prompt"])[:n]  # pairs of a caption side by side
    asked = (
        as_tensor(column(rows, "original_image")),
        as_tensor(column(rows, "edited_image")),
        column(rows, "original_prompt"),
        column(rows, "edited_prompt"),
    )
    plain = "one pair at a time"
    batched = ClipSimilarity.__call__
    ways = {plain: (one_by_one, "float32"), "in batches, texts remembered": (batched, "float32")}
    ways["the same, bfloat16"] = (batched, "bfloat16")
    best = dict.fromkeys(ways, float("inf"))
    cosines = {}
    for _ in range(rounds):
        for name, (function, dtype) in ways.items():
            clip = ClipSimilarity(profile.clip, profile.device, dtype)  # that remembers no text
            begin = time.perf_counter()
            cosines[name] = torch.stack(function(clip, *asked)).cpu()
            best[name] = min(best[name], time.perf_counter() - begin)
    table = Table("CLIP", "Pairs a second", "Times one at a time", "Largest, mean difference of a cosine")
    for name, seconds in best.items():
        apart = (cosines[name] - cosines[plain]).abs()
        table.add(
            name,
            f"{n / seconds:.0f}",
            f"{best[plain] / seconds:.2f}",
            f"{apart.max():.1g}, {apart.mean():.1g}",
        )
    return table


# ---------------------------------------------------------------------------------------------- ip2p bench

BENCHES: dict[str, Callable[..., Table]] = {
    "pairs": bench_pairs,
    "early": bench_early,
    "editing": bench_editing,
    "fast": bench_fast,
    "training": bench_training,
    "filter": bench_filter,
    "ray": bench_ray,
    "finetuning": bench_finetuning,
    "memory": bench_memory,
    "sd15": bench_sd15,
}


def run_benchmark(name: str, n: int | None = None, profile: str | Profile = "mini") -> None:
    """Run one of BENCHES and write its table into docs/benchmarks.md; of another profile than mini as we
    bring it, print it. n: caption pairs, rounds of edits, steps, or (sd15) pixels of a side.

    Raises ValueError for an unknown name, for an `n` that the benchmark has no use for, and for a device that
    there is not.
    """
    need_clone("ip2p bench")
    if name not in BENCHES:
        raise ValueError(f"there is no benchmark {name!r}; choose from {', '.join(BENCHES)}")
    if n is not None:
        refuse_outside("n", n, "count")
    bench = BENCHES[name]
    if n is not None and bench is bench_memory:
        raise ValueError("the benchmark memory always takes three steps; leave --n out")
    profile = get_profile(profile)
    profile.place()  # a device that there is not is refused before anything is loaded
    table = bench(profile=profile) if n is None else bench(n, profile=profile)
    if profile == MINI:
        fill_pages(ROOT, {f"bench_{name}": str(table)})
    else:
        print(table)
