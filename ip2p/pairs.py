"""Pairs on disk: Parquet shards with the public data set's columns, and the factory that fills them (stages 2 and 3).

A shard holds the kept pairs of a stretch of triplets. It is written whole or not at all, and noted with its checksum in
the folder's manifest, so a killed job loses and repeats nothing, and a reader knows a broken shard.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity, Similarities, passes
from ip2p.durable import TEMPORARY, whole_file
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.prompt_to_prompt import sample_families, sample_pairs

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
    """(3, H, W), float in [0, 1] or uint8 -> {"bytes": WebP, "path": None}."""
    data = io.BytesIO()
    to_pil(image).save(data, "WEBP", quality=92, method=6)
    return {"bytes": data.getvalue(), "path": None}


def to_pil(image: torch.Tensor) -> Image.Image:
    """(3, H, W), float in [0, 1] or uint8 -> PIL."""
    image = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def decode_image(cell: dict) -> Image.Image:
    return Image.open(io.BytesIO(cell["bytes"])).convert("RGB")


def shard_bytes(rows: list[dict]) -> bytes:
    """Rows (images encoded) as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema()), data, compression="zstd")
    return data.getvalue()


def write_shard(path: Path, rows: list[dict] | bytes) -> None:
    """Write rows, or a shard's bytes, whole or not at all."""
    with whole_file(path) as new:
        new.write_bytes(rows if isinstance(rows, bytes) else shard_bytes(rows))


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_ours(line: bytes) -> bool:
    """Whether a line, or half of one, can be of a manifest."""
    return any(line.startswith(head) or head.startswith(line) for head in (b'{"job": ', b'{"shard": '))


class Manifest:
    """`manifest.jsonl` of a folder of pairs: a first line with what made them, then one for each finished shard with
    its name, SHA-256 and counts. A half line at its end, left by a killed job, does not count."""

    def __init__(self, folder: Path):
        self.path, self.made_by, self.shards = folder / "manifest.jsonl", None, {}
        self.whole, self.foreign = 0, False  # bytes of whole lines; whether it is another program's
        if self.path.exists():
            data = self.path.read_bytes()
            self.whole = data.rfind(b"\n") + 1
            self.foreign = not all(map(_is_ours, data.split(b"\n")))
            for line in map(json.loads, () if self.foreign else data[:self.whole].splitlines()):
                if "shard" in line:
                    self.shards[line["shard"]] = line
                else:
                    self.made_by = line

    def begin(self, made_by: dict) -> None:
        """Start or go on. A shard that stands there unnoted (the job was killed in between) is made again."""
        if self.foreign:
            raise ValueError(f"{self.path} is not a manifest of pairs; choose another folder")
        made_by = json.loads(json.dumps(made_by))
        unnoted = [path for path in self.path.parent.glob("pairs-*.parquet") if path.name not in self.shards]
        if self.made_by is None and unnoted:
            raise ValueError(f"{self.path.parent} holds pairs, but no manifest that says how they were made; "
                             "choose another folder")
        if not self.shards and not unnoted:  # a manifest without a shard binds nobody
            self.made_by, self.whole = None, 0
        if self.made_by not in (None, made_by):
            changed = [name for name in made_by if made_by[name] != self.made_by.get(name)]
            raise ValueError(f"{self.path.parent} holds pairs that another job made ({', '.join(changed)} differ); "
                             "choose another folder")
        if self.path.exists():
            os.truncate(self.path, self.whole)
        if self.made_by is None:
            self.made_by = made_by
            self._write(made_by)
        for path in self.path.parent.glob(f".pairs-*{TEMPORARY}"):  # left by a killed job of ours
            path.unlink()

    def add(self, line: dict) -> None:
        self.shards[line["shard"]] = line
        self._write(line)

    def _write(self, line: dict) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_pairs(folder: str | Path, decode: bool = True, broken: str = "raise") -> list[dict]:
    """All pairs of a folder, images as PIL (or, with decode=False, as {"bytes": ...}).

    Reads Parquet shards (verified, if there is a manifest) and the authors' layout (a folder a prompt with prompt.json
    and SEED_0.jpg, SEED_1.jpg). Raises ValueError with one sentence if there are none or a shard is missing or broken;
    with broken="skip" such a shard is left out with a warning.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rows = Path(folder), []
    noted = Manifest(folder).shards
    for path in sorted(folder / name for name in noted) or sorted(folder.glob("*.parquet")):
        try:
            if noted and digest(path) != noted[path.name]["sha256"]:
                raise pa.ArrowInvalid("its checksum is not that of the manifest")
            rows += pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            problem = f"{path} is broken ({str(error).splitlines()[0]})"
            if broken != "skip":
                raise ValueError(f"{problem}; delete it and make the pairs again") from None
            warnings.warn(f"{problem}; going on without it", stacklevel=2)
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


# ------------------------------------------------------------------------------------------- the factory


class Setting(NamedTuple):
    """What makes a candidate of a triplet."""

    seed: int
    p: float
    guidance_scale: float


@dataclass(frozen=True)
class Job:
    """What a folder of pairs is made by; from a profile by `Job.of`. Two jobs that are equal make equal bytes."""

    candidates: int
    keep: int
    steps: int
    attention: str
    share: tuple[float, float]
    pair_guidance: tuple[float, float]
    per_seed: int  # candidates of one seed, which differ by p alone and share what they have in common; 1: none do
    enough: bool  # stop painting for a triplet that has `keep` good ones
    min_image: float
    min_caption: float
    min_direction: float
    batch: int
    threads: int = 0  # of PyTorch on a CPU, whose last bits depend on them (0: as many as it likes)
    seed: int = 0

    @classmethod
    def of(cls, profile: Profile, seed: int = 0, **changes) -> Job:
        """The profile's job, with those of `changes` that are not None."""
        names = cls.__dataclass_fields__.keys() - {"seed", "steps", "threads"}
        values = {name: getattr(profile, name) for name in names} | {"steps": profile.pair_steps, "seed": seed}
        job = cls(**values | {name: value for name, value in changes.items() if value is not None})
        if min(job.candidates, job.keep, job.steps, job.per_seed, job.batch) < 1 or job.candidates % job.per_seed:
            raise ValueError(f"{job.candidates} candidates, {job.per_seed} of each seed, {job.keep} kept, {job.steps} "
                             "steps: each must be 1 or more, and the first a multiple of the second")
        return job

    @property
    def thresholds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("min_image", "min_caption", "min_direction")}


def candidate_settings(job: Job, number: int) -> list[Setting]:
    """The candidates of triplet `number`, those of one seed side by side. Seed, guidance and, at one candidate a seed,
    p are random; the p of one seed's candidates are spread evenly over their range, alike for all triplets (so that
    whole batches branch at the same steps), and lie between those of the next seed's."""
    rng, k = random.Random(job.seed * 1_000_003 + number), job.per_seed
    if k == 1:
        return [Setting(rng.randrange(2**31), rng.uniform(*job.share), rng.uniform(*job.pair_guidance))
                for _ in range(job.candidates)]
    low, high = job.share
    out, rounds = [], job.candidates // k
    for r in range(rounds):
        seed, guidance = rng.randrange(2**31), rng.uniform(*job.pair_guidance)
        out += [Setting(seed, low + (high - low) * (i + (r + 0.5) / rounds) / k, guidance) for i in range(k)]
    return out


def paint_candidates(pipe, job: Job, triplets: list[dict], settings: list[Setting]
                     ) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair for each (triplet, setting), in batches of about `job.batch`; with `job.per_seed` > 1, that many
    neighbours are of one triplet and seed. Two tensors (n, 3, H, W) in [0, 1]."""
    k, out = job.per_seed, []
    families = [(t, settings[i * k:i * k + k]) for i, t in enumerate(triplets[::k])]
    at_once = max(1, job.batch // k)
    for i in range(0, len(families), at_once):
        some = families[i:i + at_once]
        if k > 1 and len({tuple(s.p for s in settings) for _, settings in some}) > 1:
            raise ValueError("families that are painted together must branch at the same p")
        missing = at_once - len(some)  # always the same batch, so neighbours change no bit
        some = some + some[-1:] * missing
        asked = dict(prompts_0=[t["input"] for t, _ in some], prompts_1=[t["output"] for t, _ in some],
                     seeds=[s[0].seed for _, s in some], guidance_scale=[s[0].guidance_scale for _, s in some],
                     num_inference_steps=job.steps, attention=job.attention)
        if k == 1:
            first, second = sample_pairs(pipe, p=[s[0].p for _, s in some], **asked)
        else:
            first, second = sample_families(pipe, p=[s.p for s in some[0][1]], **asked)
            first, second = first.repeat_interleave(k, 0), second.flatten(0, 1)
        out.append([x[:len(x) - missing * k].cpu() for x in (first, second)])
    return tuple(torch.cat(x) for x in zip(*out, strict=True))


def paint_and_filter(pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], numbers: Sequence[int],
                     seen: Callable | None = None) -> tuple[list[tuple], Counter]:
    """Stages 2 and 3 for `triplets[k]`, k in `numbers`: the pairs to keep, as (number, index of the candidate, setting,
    the two pictures as uint8 (3, H, W), similarities), and counts. `seen(asked, settings, pictures, similarities)` is
    told of every batch."""
    settings = {k: candidate_settings(job, k) for k in numbers}
    good: dict[int, list[tuple]] = {k: [] for k in numbers}
    counts = Counter(triplets=len(numbers))
    a_round = job.per_seed if job.enough or job.per_seed > 1 else job.candidates  # candidates painted together
    at_once = max(1, job.batch // a_round)  # triplets
    for start in range(0, job.candidates, a_round):
        open_ = [k for k in numbers if not job.enough or len(good[k]) < job.keep]
        for i in range(0, len(open_), at_once):
            group = open_[i:i + at_once]
            full = group + group[-1:] * (at_once - len(group))  # always the same batch, so neighbours change no bit
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
            small = [(x * 255).round().to(torch.uint8) for x in pictures]
            for n, (k, c) in enumerate(which):
                if ok[n]:
                    values = Similarities(*(x[n].item() for x in sim))
                    good[k].append((k, c, chosen[n], small[0][n].clone(), small[1][n].clone(), values))
            for k in {k for k, _ in which}:  # the best so far, by direction, as `clip_filter.best` has it
                good[k] = sorted(good[k], key=lambda x: -x[-1].sim_direction)[:job.keep]
    kept = [pair for k in numbers for pair in good[k]]
    counts["kept"] = len(kept)
    return kept, counts


def make_shard(pipe, clip: ClipSimilarity, job: Job, triplets: list[dict], start: int) -> tuple[bytes, dict]:
    """The shard of the triplets from `start` on: its bytes, and counts."""
    numbers = range(start, min(start + TRIPLETS_A_SHARD, len(triplets)))
    kept, counts = paint_and_filter(pipe, clip, job, triplets, numbers)
    rows = [row(triplets[k], setting, first, second, sim) for k, _, setting, first, second, sim in kept]
    return shard_bytes(rows), dict(counts)


def make_pairs(triplets: list[dict], out: str | Path, profile: str | Profile = "mini", *, seed: int = 0, pipe=None,
               clip: ClipSimilarity | None = None, executor: str = "local", workers: int | None = None,
               **changes) -> Counter:
    """Stages 2 and 3: candidates for each triplet, filtered, the best `keep` written to shards in `out`.

    Defaults come from the profile; `changes` are fields of `Job`. Each shard is written whole and then noted in
    `out`/manifest.jsonl with its checksum; started again, after whatever end, the job goes on with the shards that are
    noted, and in the end the folder holds the same bytes. executor "ray" spreads the shards over `workers` actors of a
    Ray cluster (`ip2p.ray_executor`), which load the profile's models themselves and run with `threads` (1) threads
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
    made_by = {"job": asdict(job), "triplets": hashlib.sha256(texts.encode()).hexdigest(),
               "triplets_a_shard": TRIPLETS_A_SHARD,
               **{name: Path(getattr(profile, name)).name for name in ("text_to_image", "clip")}}
    with locked(out / "manifest.lock"):
        return _make_pairs(triplets, out, profile, job, made_by, executor, workers, pipe, clip)


@contextmanager
def locked(path: Path):
    """Only one job at a time; the lock ends with its process, however that ends."""
    with open(path, "a") as file:  # a file of that name that is not ours keeps what it holds
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another job is making pairs in {path.parent}; wait for it") from None
        yield
        if not path.stat().st_size:
            path.unlink()


def _make_pairs(triplets: list[dict], out: Path, profile: Profile, job: Job, made_by: dict, executor: str,
                workers: int | None, pipe, clip) -> Counter:
    manifest = Manifest(out)
    manifest.begin(made_by)
    names = {start: f"pairs-{start // TRIPLETS_A_SHARD:05d}.parquet"
             for start in range(0, len(triplets), TRIPLETS_A_SHARD)}
    todo = [start for start, name in names.items() if name not in manifest.shards or not (out / name).exists()
            or digest(out / name) != manifest.shards[name]["sha256"]]
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
        from ip2p.ray_executor import make_shards

        shards = make_shards(profile, job, triplets, todo, workers)
    counts = Counter()
    for start, data, of_shard in tqdm(shards, total=len(todo), desc="pairs", unit="shard"):
        write_shard(out / names[start], data)
        manifest.add({"shard": names[start], "sha256": hashlib.sha256(data).hexdigest(), **of_shard})
        counts.update(of_shard)
    return counts


def row(triplet: dict, setting: Setting, image_0: torch.Tensor, image_1: torch.Tensor, sim: Similarities) -> dict:
    """One pair as a row of a shard."""
    return {"original_prompt": triplet["input"], "edit_prompt": triplet["edit"], "edited_prompt": triplet["output"],
            "original_image": encode_image(image_0), "edited_image": encode_image(image_1), **setting._asdict(),
            "clip_sim_0": sim.sim_0, "clip_sim_1": sim.sim_1, "clip_sim_dir": sim.sim_direction,
            "clip_sim_image": sim.sim_image}


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255
