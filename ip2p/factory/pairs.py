"""Stages 2 and 3 for many triplets: paint candidates, filter them, write shards. `ip2p pairs`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.common.durable import digest, locked
from ip2p.common.images import encode_image, quantise
from ip2p.dataset.shards import Manifest, shard_bytes, write_shard
from ip2p.factory.candidates import Job, Setting, candidate_settings, paint_candidates
from ip2p.profiles import Profile, get_profile, load_text_to_image


def paint_and_filter(
    pipe,
    clip: ClipSimilarity,
    job: Job,
    triplets: list[dict],
    numbers: Sequence[int],
    seen: Callable | None = None,
) -> tuple[list[tuple], Counter]:
    """Stages 2 and 3 for `triplets[k]`, k in `numbers`: the pairs to keep, as (number, index of the candidate, setting,
    the two pictures as uint8 (3, H, W), similarities), and counts. `seen(asked, settings, pictures, similarities)` is
    told of every batch."""
    settings = {k: candidate_settings(job, k) for k in numbers}
    good: dict[int, list[tuple]] = {k: [] for k in numbers}
    counts = Counter(triplets=len(numbers))
    a_round = (
        job.per_seed if job.enough or job.per_seed > 1 else job.candidates
    )  # candidates painted together
    at_once = max(1, job.batch // a_round)  # triplets
    for start in range(0, job.candidates, a_round):
        open_ = [k for k in numbers if not job.enough or len(good[k]) < job.keep]
        for i in range(0, len(open_), at_once):
            group = open_[i : i + at_once]
            full = group + group[-1:] * (
                at_once - len(group)
            )  # always the same batch, so neighbours change no bit
            which = [(k, c) for k in full for c in range(start, start + a_round)]
            asked, chosen = [triplets[k] for k, _ in which], [settings[k][c] for k, c in which]
            pictures = paint_candidates(pipe, job, asked, chosen)
            sim = clip(*pictures, [t["input"] for t in asked], [t["output"] for t in asked])
            real = len(group) * a_round
            which, asked, chosen = which[:real], asked[:real], chosen[:real]
            pictures, sim = [x[:real] for x in pictures], Similarities(*(x[:real] for x in sim))
            if seen:
                seen(asked, chosen, pictures, sim)
            counts["candidates"] += real
            ok = passes(sim, **job.thresholds).tolist()
            small = [quantise(x) for x in pictures]
            for n, (k, c) in enumerate(which):
                if ok[n]:
                    values = Similarities(*(x[n].item() for x in sim))
                    good[k].append((k, c, chosen[n], small[0][n].clone(), small[1][n].clone(), values))
            for k in {k for k, _ in which}:  # the best so far, by direction, as `clip_filter.best` has it
                good[k] = sorted(good[k], key=lambda x: -x[-1].sim_direction)[: job.keep]
    kept = [pair for k in numbers for pair in good[k]]
    counts["kept"] = len(kept)
    return kept, counts


def make_shard(pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], start: int) -> tuple[bytes, dict]:
    """The shard of the triplets from `start` on: its bytes, and counts."""
    numbers = range(start, min(start + job.shard, len(triplets)))
    kept, counts = paint_and_filter(pipe, clip, job, triplets, numbers)
    rows = [row(triplets[k], setting, first, second, sim) for k, _, setting, first, second, sim in kept]
    return shard_bytes(rows), dict(counts)


def make_pairs(
    triplets: list[dict],
    out: str | Path,
    profile: str | Profile = "mini",
    *,
    seed: int = 0,
    pipe=None,
    clip: ClipSimilarity | None = None,
    executor: str = "local",
    workers: int | None = None,
    **changes,
) -> Counter:
    """Stages 2 and 3: candidates for each triplet, filtered, the best `keep` written to shards in `out`.

    Defaults come from the profile; `changes` are fields of `Job`. Each shard is written whole and then noted in
    `out`/manifest.jsonl with its checksum; started again, after whatever end, the job goes on with the shards that are
    noted, and in the end the folder holds the same bytes. executor "ray" spreads the shards over `workers` actors of a
    Ray cluster (`ip2p.factory.on_ray`), which load the profile's models themselves and run with `threads` (1) threads
    each. Returns the counts of this call. Raises ValueError if `out` was made by another job.
    """
    profile, out = get_profile(profile), Path(out)
    if executor not in ("local", "ray"):
        raise ValueError(f"there is no executor {executor!r}; choose local or ray")
    if not triplets:
        raise ValueError("there are no triplets to paint")
    job = Job.of(profile, seed, **{"threads": 1 if executor == "ray" else None} | changes)
    out.mkdir(parents=True, exist_ok=True)
    texts = json.dumps([[t["input"], t["edit"], t["output"]] for t in triplets])
    made_by = {
        "job": asdict(job),
        "triplets": hashlib.sha256(texts.encode()).hexdigest(),
        **{name: Path(getattr(profile, name)).name for name in ("text_to_image", "clip")},
    }
    Manifest(out).refuse_foreign()  # before the lock, which is a file, too
    with locked(out, "making pairs in"):
        return _make_pairs(triplets, out, profile, job, made_by, executor, workers, pipe, clip)


def _make_pairs(
    triplets: list[dict],
    out: Path,
    profile: Profile,
    job: Job,
    made_by: dict,
    executor: str,
    workers: int | None,
    pipe,
    clip,
) -> Counter:
    manifest = Manifest(out)
    manifest.begin(made_by)
    names = {start: f"pairs-{start // job.shard:05d}.parquet" for start in range(0, len(triplets), job.shard)}
    todo = [
        start
        for start, name in names.items()
        if name not in manifest.shards
        or not (out / name).exists()
        or digest(out / name) != manifest.shards[name]["sha256"]
    ]
    if not todo:
        return Counter()
    if executor == "local":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        pipe = pipe or load_text_to_image(profile).to(device)
        clip = clip or ClipSimilarity(profile.clip, device)
        if job.threads:
            torch.set_num_threads(job.threads)
        shards = ((start, *make_shard(pipe, clip, job, triplets, start)) for start in todo)
    else:
        from ip2p.factory.on_ray import make_shards

        shards = make_shards(profile, job, triplets, todo, workers)
    counts = Counter()
    for start, data, of_shard in tqdm(shards, total=len(todo), desc="pairs", unit="shard"):
        write_shard(out / names[start], data)
        manifest.add({"shard": names[start], "sha256": hashlib.sha256(data).hexdigest(), **of_shard})
        counts.update(of_shard)
    return counts


def row(
    triplet: dict, setting: Setting, image_0: torch.Tensor, image_1: torch.Tensor, sim: Similarities
) -> dict:
    """One pair as a row of a shard."""
    return {
        "original_prompt": triplet["input"],
        "edit_prompt": triplet["edit"],
        "edited_prompt": triplet["output"],
        "original_image": encode_image(image_0),
        "edited_image": encode_image(image_1),
        **setting._asdict(),
        "clip_sim_0": sim.sim_0,
        "clip_sim_1": sim.sim_1,
        "clip_sim_dir": sim.sim_direction,
        "clip_sim_image": sim.sim_image,
    }
