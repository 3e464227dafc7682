"""Stages 2 and 3 for many triplets: paint candidates, filter them, write shards. `ip2p pairs`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.common.checkpoints import load_checkpoint, save_checkpoint
from ip2p.common.devices import choose_dtype, kind_of_device
from ip2p.common.diffusion import cut_off
from ip2p.common.durable import digest, locked, name_of_model
from ip2p.common.images import encode_image, quantise
from ip2p.dataset.shards import Manifest, shard_bytes, write_shard
from ip2p.factory.candidates import Setting, candidate_settings, padded, paint_candidates
from ip2p.options import Job
from ip2p.profiles import Profile, get_profile, load_text_to_image


class Kept(NamedTuple):
    """A pair that passed the filter."""

    number: int  # of the triplet
    setting: Setting
    image_0: torch.Tensor  # uint8 (3, H, W)
    image_1: torch.Tensor
    similarities: Similarities  # of floats


class Unfinished:
    """What is painted of an unfinished shard: in a folder, for each triplet, how many of its candidates and
    the best of them. Without a folder nothing is noted."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def load(self, number: int) -> tuple[int, list[Kept]]:
        state, rest = load_checkpoint(self.folder / str(number)) if self.folder else ({}, {})
        pairs = []
        for i, (setting, values) in enumerate(rest.get("pairs", [])):
            images = state[f"image_0.{i}"], state[f"image_1.{i}"]
            pairs.append(Kept(number, Setting(*setting), *images, Similarities(*values)))
        return rest.get("step", 0), pairs

    def save(self, number: int, painted: int, pairs: list[Kept]) -> None:
        if self.folder is None:
            return
        (self.folder / str(number)).mkdir(parents=True, exist_ok=True)
        images = {
            "image_0": {i: pair.image_0 for i, pair in enumerate(pairs)},
            "image_1": {i: pair.image_1 for i, pair in enumerate(pairs)},
        }
        about = [(pair.setting, pair.similarities) for pair in pairs]
        save_checkpoint(self.folder / str(number), painted, 1, images, pairs=about)


class Batch(NamedTuple):
    """Candidates that were painted at once, and what CLIP says of them."""

    asked: list[dict]  # the triplet of each
    settings: list[Setting]
    pictures: list[torch.Tensor]  # the first and the second images, (n, 3, H, W) each, in [0, 1]
    similarities: Similarities  # (n,) each


def paint_and_compare(
    pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], group: list[int], which: slice, at_once: int
) -> Batch:
    """The candidates `which` of each triplet in `group`, of whose numbers there are `at_once` or fewer."""
    asked, settings = [], []
    for number in padded(group, at_once):
        chosen = candidate_settings(job, number)[which]
        settings += chosen
        asked += [triplets[number]] * len(chosen)
    pictures = paint_candidates(pipe, job, asked, settings)
    texts_0 = [triplet["input"] for triplet in asked]
    texts_1 = [triplet["output"] for triplet in asked]
    similarities = clip(*pictures, texts_0, texts_1)
    real = len(asked) // at_once * len(group)  # the rest is padding
    return Batch(
        asked[:real],
        settings[:real],
        [images[:real] for images in pictures],
        Similarities(*(values[:real] for values in similarities)),
    )


def paint_and_filter(
    pipe,
    clip: ClipSimilarity,
    job: Job,
    triplets: list[dict],
    numbers: Sequence[int],
    on_batch: Callable | None = None,
    unfinished: Unfinished | None = None,
) -> tuple[list[Kept], Counter]:
    """Stages 2 and 3 for `triplets[k]`, k in `numbers`: the pairs to keep, and counts.
    `on_batch(asked triplets, settings, pictures, similarities)` is told of every batch. `unfinished`: to go
    on from, and to note each batch in."""
    unfinished = unfinished or Unfinished()
    good: dict[int, list[Kept]] = {}
    painted: dict[int, int] = {}  # candidates
    for number in numbers:
        painted[number], good[number] = unfinished.load(number)
    counts = Counter(triplets=len(numbers))
    one_family = job.enough or job.per_seed > 1
    # candidates of a triplet that are painted at once
    together = job.per_seed if one_family else job.candidates
    at_once = max(1, job.batch // together)  # triplets
    for start in range(0, job.candidates, together):
        which = slice(start, start + together)
        wanting = [number for number in numbers if painted[number] <= start]
        if job.enough:
            wanting = [number for number in wanting if len(good[number]) < job.keep]
        for i in range(0, len(wanting), at_once):
            group = wanting[i : i + at_once]
            batch = paint_and_compare(pipe, clip, job, triplets, group, which, at_once)
            if on_batch:
                on_batch(*batch)
            passing = passes(batch.similarities, **job.thresholds).nonzero().flatten()
            for n in passing.tolist():
                number = group[n // together]
                good[number].append(kept_pair(number, batch, n))
            for number in group:
                good[number] = best_by_direction(good[number], job.keep)
                painted[number] = start + together
                unfinished.save(number, painted[number], good[number])
    counts["candidates"] = sum(painted.values())
    kept = []
    for number in numbers:
        kept += good[number]
    counts["kept"] = len(kept)
    return kept, counts


def kept_pair(number: int, batch: Batch, n: int) -> Kept:
    """The n-th candidate of a batch, which is of the triplet `number`."""
    image_0, image_1 = (quantise(images[n]) for images in batch.pictures)
    similarities = Similarities(*(values[n].item() for values in batch.similarities))
    return Kept(number, batch.settings[n], image_0, image_1, similarities)


def best_by_direction(pairs: list[Kept], keep: int) -> list[Kept]:
    """As `clip_filter.best` has it."""
    return sorted(pairs, key=lambda pair: -pair.similarities.sim_direction)[:keep]


def make_shard(
    pipe,
    clip: ClipSimilarity,
    job: Job,
    triplets: list[dict],
    start: int,
    unfinished: Unfinished | None = None,
) -> tuple[bytes, dict]:
    """The shard of the triplets from `start` on: its bytes, and counts."""
    end = min(start + job.shard, len(triplets))
    numbers = range(start, end)
    kept, counts = paint_and_filter(pipe, clip, job, triplets, numbers, unfinished=unfinished)
    rows = [row(triplets[pair.number], pair) for pair in kept]
    return shard_bytes(rows), dict(counts)


def row(triplet: dict, pair: Kept) -> dict:
    """One pair as a row of a shard."""
    sim = pair.similarities
    return {
        "original_prompt": triplet["input"],
        "edit_prompt": triplet["edit"],
        "edited_prompt": triplet["output"],
        "original_image": encode_image(pair.image_0),
        "edited_image": encode_image(pair.image_1),
        **pair.setting._asdict(),
        "clip_sim_0": sim.sim_0,
        "clip_sim_1": sim.sim_1,
        "clip_sim_dir": sim.sim_direction,
        "clip_sim_image": sim.sim_image,
    }


def make_pairs(
    triplets: list[dict],
    out: str | Path,
    profile: str | Profile = "mini",
    *,
    pipe=None,
    clip: ClipSimilarity | None = None,
    executor: str = "local",
    workers: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **options,
) -> Counter:
    """Stages 2 and 3: candidates for each triplet, filtered, the best `keep` written to shards in `out`.

    options: of `Job`; defaults come from the profile. pipe, clip: the profile's models, if they are loaded
    already. Each shard is written whole and then noted in `out`/manifest.jsonl with its checksum; started
    again, after whatever end, the job goes on with the shards that are not noted, and within such a shard
    with the triplets that are not painted, and in the end the folder holds the same bytes. executor "ray"
    spreads the shards over `workers` actors of a Ray cluster (`ip2p.factory.on_ray`), which load the models
    themselves and run with `threads` (1) threads each; a shard is painted anew there if its actor is lost.
    device, dtype: see `choose_device` and `choose_dtype`; None: the profile's. On Ray, dtype "auto" is
    float32, whatever the machines. Returns the counts of this call. Raises ValueError if `out` was made by
    another job.
    """
    profile = get_profile(profile)
    out = Path(out)
    if executor not in ("local", "ray"):
        raise ValueError(f"there is no executor {executor!r}; choose local or ray")
    if not triplets:
        raise ValueError("there are no triplets to paint")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more")
    if executor == "local":
        device, dtype = profile.place(device, dtype)
    else:
        device, dtype = place_of_workers(profile, device, dtype)
        if options.get("threads") is None:
            options["threads"] = 1
    job = Job.of(profile, **options)
    out.mkdir(parents=True, exist_ok=True)
    Manifest(out).refuse_foreign()  # before the lock, which is a file, too
    with locked(out, "making pairs in"):
        manifest = Manifest(out)
        manifest.begin(origin(triplets, profile, job, dtype))
        starts = [start for start in range(0, len(triplets), job.shard) if not is_done(manifest, job, start)]
        if not starts:
            return Counter()
        if executor == "local":
            pipe = pipe or load_text_to_image(profile, device, dtype)
            clip = clip or ClipSimilarity(profile.clip, device)
            refuse_equal(pipe.tokenizer, triplets)
            shards = make_shards(pipe, clip, job, triplets, starts, manifest)
        else:
            shards = make_shards_on_ray(profile, job, triplets, starts, workers, device, dtype)
        return write_all(shards, manifest, job, len(starts))


def refuse_equal(tokenizer, triplets: list[dict]) -> None:
    """Raises ValueError for captions that differ only behind what the text encoder reads."""
    for triplet in triplets:
        texts = [triplet["input"], triplet["output"]]
        if texts[0] == texts[1] or not any(cut_off(tokenizer, text) for text in texts):
            continue
        first, second = tokenizer(texts, truncation=True, max_length=tokenizer.model_max_length).input_ids
        if first == second:
            raise ValueError(
                f"the captions {texts[0]!r} and {texts[1]!r} are equal in the first "
                f"{tokenizer.model_max_length} tokens, which is all that the model reads; shorten them"
            )


def place_of_workers(
    profile: Profile, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[str | torch.device, torch.dtype]:
    """As `Profile.place`, for machines that are not this one: which devices are there, they know alone, and
    "auto" is one number format for all."""
    device = profile.device if device is None else device
    kind_of_device(device)
    dtype = profile.dtype if dtype is None else dtype
    return device, choose_dtype("float32" if dtype == "auto" else dtype)


def origin(triplets: list[dict], profile: Profile, job: Job, dtype: torch.dtype) -> dict:
    """What the bytes of a folder depend on: the first line of its manifest."""
    texts = json.dumps([[t["input"], t["edit"], t["output"]] for t in triplets])
    made_by = {
        "job": asdict(job),
        "triplets": hashlib.sha256(texts.encode()).hexdigest(),
        "text_to_image": name_of_model(profile.text_to_image),
        "clip": name_of_model(profile.clip),
    }
    if dtype != torch.float32:
        made_by["dtype"] = str(dtype).removeprefix("torch.")
    return made_by


def shard_name(job: Job, start: int) -> str:
    return f"pairs-{start // job.shard:05d}.parquet"


def is_done(manifest: Manifest, job: Job, start: int) -> bool:
    """Whether the shard from triplet `start` on is noted, and there, whole."""
    noted = manifest.shards.get(shard_name(job, start))
    path = manifest.path.with_name(shard_name(job, start))
    return noted is not None and path.exists() and digest(path) == noted["sha256"]


def make_shards(
    pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], starts: list[int], manifest: Manifest
) -> Iterator[tuple[int, bytes, dict]]:
    """(start, bytes, counts) of each shard, in this process."""
    if job.threads:
        torch.set_num_threads(job.threads)
    for start in starts:
        unfinished = Unfinished(manifest.unfinished(shard_name(job, start)))
        yield start, *make_shard(pipe, clip, job, triplets, start, unfinished)


def make_shards_on_ray(
    profile: Profile,
    job: Job,
    triplets: list[dict],
    starts: list[int],
    workers: int | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, bytes, dict]]:
    """The same on a Ray cluster; see `ip2p.factory.on_ray.spread`."""
    from ip2p.factory.on_ray import spread

    def load(device: str) -> tuple:
        return load_text_to_image(profile, device, dtype), ClipSimilarity(profile.clip, device)

    def make(models: tuple, start: int) -> tuple[bytes, dict]:
        refuse_equal(models[0].tokenizer, triplets[start : start + job.shard])
        return make_shard(*models, job, triplets, start)

    return spread(load, make, starts, max(1, job.threads), workers, str(device))


def write_all(shards: Iterator[tuple[int, bytes, dict]], manifest: Manifest, job: Job, total: int) -> Counter:
    """Write shards and note them; returns the counts of all."""
    all_counts = Counter()
    for start, data, counts in tqdm(shards, total=total, desc="pairs", unit="shard"):
        name = shard_name(job, start)
        write_shard(manifest.path.with_name(name), data)
        manifest.add({"shard": name, "sha256": hashlib.sha256(data).hexdigest(), **counts})
        all_counts.update(counts)
    return all_counts
