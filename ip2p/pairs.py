"""Pairs on disk: Parquet shards with the public data set's columns, and the job that fills them (stages 2 and 3).

A shard holds the kept pairs of a stretch of triplets. It is written whole or not at all, so a killed job goes on with
the first shard that is missing and loses or repeats nothing.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity, Similarities, best
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.prompt_to_prompt import sample_pairs

TEXT = ("original_prompt", "edit_prompt", "edited_prompt")
IMAGES = ("original_image", "edited_image")
NUMBERS = ("p", "guidance_scale", "clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
TRIPLETS_A_SHARD = 64


def schema():
    """The columns of a shard; `datasets` shows the images as images."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    order = ("original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image")
    fields = [(name, image if name in IMAGES else pa.string()) for name in order]
    fields += [("seed", pa.int64()), *((name, pa.float32()) for name in NUMBERS)]
    features = {name: {"_type": "Image"} if name in IMAGES else {"dtype": str(kind), "_type": "Value"}
                for name, kind in fields}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def encode_image(image: torch.Tensor) -> dict:
    """(3, H, W) in [0, 1] -> {"bytes": WebP, "path": None}."""
    data = io.BytesIO()
    to_pil(image).save(data, "WEBP", quality=92, method=6)
    return {"bytes": data.getvalue(), "path": None}


def to_pil(image: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> PIL."""
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def decode_image(cell: dict) -> Image.Image:
    return Image.open(io.BytesIO(cell["bytes"])).convert("RGB")


def write_shard(path: Path, rows: list[dict]) -> None:
    """Write rows (images encoded) as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tmp = path.with_suffix(".tmp")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema()), tmp, compression="zstd")
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def read_pairs(folder: str | Path, decode: bool = True) -> list[dict]:
    """All pairs of a folder, images as PIL (or, with decode=False, as {"bytes": ...}).

    Reads our shards and the authors' layout (a folder a prompt with prompt.json and SEED_0.jpg, SEED_1.jpg).
    Raises ValueError with one sentence if there are none or a file is broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rows = Path(folder), []
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows += pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is broken ({str(error).splitlines()[0]}); delete it and make the pairs again"
                             ) from None
    if rows and (missing := {*TEXT, *IMAGES} - rows[0].keys()):
        raise ValueError(f"the pairs in {folder} lack the column {sorted(missing)[0]!r}")
    rows = rows or read_author_layout(folder)
    if not rows:
        raise ValueError(f"there are no pairs in {folder}; make some with `ip2p pairs --triplets FILE --out {folder}`")
    if decode:
        rows = [{**row, **{name: decode_image(row[name]) for name in IMAGES}} for row in rows]
    return rows


def read_author_layout(folder: Path) -> list[dict]:
    rows = []
    for prompt_path in sorted(folder.glob("*/prompt.json")):
        prompt = json.loads(prompt_path.read_text(encoding="utf-8"))
        caption = prompt["input"] if "input" in prompt else prompt["caption"]
        metadata = [json.loads(line) for line in
                    (prompt_path.parent / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        for meta in metadata:
            cells = [{"bytes": (prompt_path.parent / f"{meta['seed']}_{i}.jpg").read_bytes(), "path": None}
                     for i in (0, 1)]
            rows.append({"original_prompt": caption, "edit_prompt": prompt["edit"], "edited_prompt": prompt["output"],
                         "original_image": cells[0], "edited_image": cells[1], **meta})
    return rows


def write_author_layout(folder: str | Path, rows: list[dict]) -> None:
    """The layout of the authors' scripts: seeds.json, and a folder a triplet with prompt.json, images, metadata."""
    folder, prompts = Path(folder), {}
    for row in rows:
        prompts.setdefault(tuple(row[name] for name in TEXT), []).append(row)
    index = []
    for number, (texts, members) in enumerate(prompts.items()):
        place = folder / f"{number:07d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "prompt.json").write_text(json.dumps(dict(zip(("caption", "edit", "output"), texts, strict=True))))
        with open(place / "metadata.jsonl", "w") as file:
            for row in members:
                file.write(json.dumps({name: row[name] for name in ("seed", *NUMBERS)}) + "\n")
                for i, name in enumerate(IMAGES):
                    image = row[name] if isinstance(row[name], Image.Image) else decode_image(row[name])
                    image.save(place / f"{row['seed']}_{i}.jpg", quality=100)
        index.append([place.name, [str(row["seed"]) for row in members]])
    (folder / "seeds.json").write_text(json.dumps(index))


def candidate_settings(profile: Profile, number: int, seed: int, candidates: int) -> list[tuple[int, float, float]]:
    """(seed, p, guidance) of each candidate of triplet `number`: they depend on nothing else."""
    rng = random.Random(seed * 1_000_003 + number)
    return [(rng.randrange(2**31), rng.uniform(*profile.share), rng.uniform(*profile.pair_guidance))
            for _ in range(candidates)]


def paint_candidates(pipe, profile: Profile, triplets: list[dict], settings: list[tuple], *, steps: int,
                     attention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair for each (triplet, setting), in batches of `profile.batch`. Two tensors (n, 3, H, W) in [0, 1]."""
    out = []
    for i in range(0, len(triplets), profile.batch):
        t, s = triplets[i:i + profile.batch], settings[i:i + profile.batch]
        missing = profile.batch - len(t)  # always the same batch, so neighbours change no bit
        t, s = t + t[-1:] * missing, s + s[-1:] * missing
        pair = sample_pairs(pipe, [x["input"] for x in t], [x["output"] for x in t], seeds=[x[0] for x in s],
                            p=[x[1] for x in s], guidance_scale=[x[2] for x in s], num_inference_steps=steps,
                            attention=attention)
        out.append([x[:profile.batch - missing].cpu() for x in pair])
    return tuple(torch.cat(x) for x in zip(*out, strict=True))


def make_pairs(triplets: list[dict], out: str | Path, profile: str | Profile = "mini", *, candidates: int | None = None,
               keep: int | None = None, steps: int | None = None, attention: str | None = None, seed: int = 0,
               pipe=None, clip: ClipSimilarity | None = None) -> Counter:
    """Stages 2 and 3: candidates for each triplet, filtered, the best `keep` written to shards in `out`.

    Defaults come from the profile. Finished shards are kept when the job is started again. Returns counts.
    """
    profile = get_profile(profile)
    candidates, keep = candidates or profile.candidates, keep or profile.keep
    steps, attention = steps or profile.pair_steps, attention or profile.attention
    out, counts = Path(out), Counter()
    out.mkdir(parents=True, exist_ok=True)
    pipe = pipe or load_text_to_image(profile)
    clip = clip or ClipSimilarity(profile.clip)
    starts = range(0, len(triplets), TRIPLETS_A_SHARD)
    for start in tqdm(starts, desc="pairs", unit="shard"):
        path = out / f"pairs-{start // TRIPLETS_A_SHARD:05d}.parquet"
        if path.exists():
            continue
        rows, numbers = [], range(start, min(start + TRIPLETS_A_SHARD, len(triplets)))
        for asked, settings, pictures, sim, chosen in filtered_candidates(
                pipe, clip, profile, triplets, numbers, candidates=candidates, keep=keep, steps=steps,
                attention=attention, seed=seed):
            counts.update(triplets=len(asked) // candidates, candidates=len(asked), kept=len(chosen))
            rows += [row(asked[k], settings[k], pictures[0][k], pictures[1][k],
                         Similarities(*(x[k].item() for x in sim))) for k in chosen]
        write_shard(path, rows)
    return counts


def filtered_candidates(pipe, clip: ClipSimilarity, profile: Profile, triplets: list[dict], numbers: range, *,
                        candidates: int, keep: int, steps: int, attention: str, seed: int):
    """Paint the candidates of `triplets[k]` for k in `numbers`, as many triplets at once as fill a batch, and filter.

    Yields for each batch of n candidates: their triplets (n), settings (n), pictures (two tensors (n, 3, H, W) in
    [0, 1]), similarities (n) and the indices of those that the filter keeps.
    """
    at_once = max(1, profile.batch // candidates)  # triplets
    for first in range(0, len(numbers), at_once):
        some = numbers[first:first + at_once]
        settings = [s for k in some for s in candidate_settings(profile, k, seed, candidates)]
        asked = [triplets[k] for k in some for _ in range(candidates)]
        pictures = paint_candidates(pipe, profile, asked, settings, steps=steps, attention=attention)
        sim = clip(*pictures, [t["input"] for t in asked], [t["output"] for t in asked])
        chosen = [i + k for i in range(0, len(asked), candidates)
                  for k in best(Similarities(*(x[i:i + candidates] for x in sim)), keep, min_image=profile.min_image,
                                min_caption=profile.min_caption, min_direction=profile.min_direction)]
        yield asked, settings, pictures, sim, chosen


def row(triplet: dict, setting: tuple[int, float, float], image_0: torch.Tensor, image_1: torch.Tensor,
        sim: Similarities) -> dict:
    """One pair as a row of a shard."""
    seed, p, guidance_scale = setting
    return {"original_prompt": triplet["input"], "edit_prompt": triplet["edit"], "edited_prompt": triplet["output"],
            "original_image": encode_image(image_0), "edited_image": encode_image(image_1), "seed": seed, "p": p,
            "guidance_scale": guidance_scale, "clip_sim_0": sim.sim_0, "clip_sim_1": sim.sim_1,
            "clip_sim_dir": sim.sim_direction, "clip_sim_image": sim.sim_image}


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255
