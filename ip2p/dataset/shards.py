"""Pairs on disk: Parquet shards with the public data set's columns, and the layout of the authors' scripts.

A shard holds the kept pairs of a stretch of triplets. It is written whole or not at all, and noted with its
checksum in the folder's manifest, so a killed job loses and repeats nothing, and a reader knows a broken
shard.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

from PIL import Image

from ip2p.common.durable import append_line, digest, remove_unfinished, whole_lines, write_atomically
from ip2p.common.images import decode_image

TEXT = ("original_prompt", "edit_prompt", "edited_prompt")

IMAGES = ("original_image", "edited_image")

NUMBERS = ("p", "guidance_scale", "clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")


def schema():
    """The columns of a shard; `datasets` shows the images as images."""
    import pyarrow as pa

    text = pa.string()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "original_prompt": text,
        "original_image": image,
        "edit_prompt": text,
        "edited_prompt": text,
        "edited_image": image,
        "seed": pa.int64(),
    }
    columns |= dict.fromkeys(NUMBERS, pa.float32())
    features = {}
    for name, kind in columns.items():
        features[name] = {"_type": "Image"} if kind == image else {"dtype": str(kind), "_type": "Value"}
    return pa.schema(columns.items(), {"huggingface": json.dumps({"info": {"features": features}})})


def shard_bytes(rows: list[dict]) -> bytes:
    """Rows (images encoded) as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema()), data, compression="zstd")
    return data.getvalue()


def write_shard(path: Path, rows: list[dict] | bytes) -> None:
    """Write rows, or a shard's bytes, whole or not at all."""
    write_atomically(path, rows if isinstance(rows, bytes) else shard_bytes(rows))


def is_of_manifest(line: bytes) -> bool:
    """Whether a line, or half of one, can be of a manifest."""
    return any(line.startswith(head) or head.startswith(line) for head in (b'{"job": ', b'{"shard": '))


class Manifest:
    """`manifest.jsonl` of a folder of pairs: a first line with what made them, then one for each finished
    shard with its name, SHA-256 and counts. A half line at its end, left by a killed job, does not count."""

    def __init__(self, folder: Path):
        self.path = folder / "manifest.jsonl"
        self.made_by: dict | None = None
        self.shards: dict[str, dict] = {}
        self.foreign = False  # whether the file is another program's
        if self.path.exists():
            self.foreign = not all(map(is_of_manifest, self.path.read_bytes().split(b"\n")))
        for text in [] if self.foreign else whole_lines(self.path):
            line = json.loads(text)
            if "shard" in line:
                self.shards[line["shard"]] = line
            else:
                self.made_by = line

    def refuse_foreign(self) -> None:
        """Raises ValueError if another program wrote the file of this name."""
        if self.foreign:
            raise ValueError(f"{self.path} is not a manifest of pairs; choose another folder")

    def begin(self, made_by: dict) -> None:
        """Start or go on. A shard that stands there unnoted (the job was killed in between) is made again."""
        self.refuse_foreign()
        made_by = json.loads(json.dumps(made_by))
        folder = self.path.parent
        unnoted = [path for path in folder.glob("pairs-*.parquet") if path.name not in self.shards]
        if self.made_by is None and unnoted:
            raise ValueError(
                f"{folder} holds pairs, but no manifest that says how they were made; choose another folder"
            )
        if not self.shards and not unnoted:  # a manifest without a shard binds nobody
            self.made_by = None
            self.path.unlink(missing_ok=True)
        if self.made_by not in (None, made_by):
            names = made_by | self.made_by
            differ = ", ".join(name for name in names if made_by.get(name) != self.made_by.get(name))
            raise ValueError(
                f"{folder} holds pairs that another job made ({differ} differ); choose another folder"
            )
        whole_lines(self.path, cut=True)
        if self.made_by is None:
            self.made_by = made_by
            append_line(self.path, made_by)
        remove_unfinished(folder, "pairs-*")

    def add(self, line: dict) -> None:
        """Note a shard, which is written already."""
        self.shards[line["shard"]] = line
        append_line(self.path, line)


def read_pairs(folder: str | Path, decode: bool = True, broken: str = "raise") -> list[dict]:
    """All pairs of a folder, images as PIL (or, with decode=False, as {"bytes": ...}).

    Reads Parquet shards (verified, if there is a manifest) and the authors' layout (a folder a prompt with
    prompt.json and SEED_0.jpg, SEED_1.jpg). Raises ValueError with one sentence if there are none or a shard
    is missing or broken; with broken="skip" such a shard is left out with a warning.
    """
    folder = Path(folder)
    rows = []
    noted = Manifest(folder).shards
    paths = [folder / name for name in noted] if noted else folder.glob("*.parquet")
    for path in sorted(paths):
        try:
            rows += read_shard(path, noted.get(path.name))
        except ValueError as error:
            if broken != "skip":
                raise ValueError(f"{error}; delete it and make the pairs again") from None
            warnings.warn(f"{error}; going on without it", stacklevel=2)
    if not rows:
        rows = read_author_layout(folder)
    if not rows:
        raise ValueError(
            f"there are no pairs in {folder}; make some with `ip2p pairs --triplets FILE --out {folder}`"
        )
    missing = {*TEXT, *IMAGES} - rows[0].keys()
    if missing:
        raise ValueError(f"the pairs in {folder} lack the column {min(missing)!r}")
    if decode:
        for row in rows:
            row.update({name: decode_image(row[name]) for name in IMAGES})
    return rows


def read_shard(path: Path, noted: dict | None) -> list[dict]:
    """The rows of a shard; `noted`: its line in the manifest. Raises ValueError if it is missing or
    broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if noted and digest(path) != noted["sha256"]:
            raise pa.ArrowInvalid("its checksum is not that of the manifest")
        return pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is broken ({str(error).splitlines()[0]})") from None


def read_author_layout(folder: Path) -> list[dict]:
    """The rows, with images encoded; see `write_author_layout`."""
    rows = []
    for prompt_path in sorted(folder.glob("*/prompt.json")):
        place = prompt_path.parent
        prompt = json.loads(prompt_path.read_text(encoding="utf-8"))
        texts = {
            "original_prompt": prompt["input"] if "input" in prompt else prompt["caption"],
            "edit_prompt": prompt["edit"],
            "edited_prompt": prompt["output"],
        }
        for line in (place / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
            numbers = json.loads(line)
            images = {}
            for i, name in enumerate(IMAGES):
                data = (place / f"{numbers['seed']}_{i}.jpg").read_bytes()
                images[name] = {"bytes": data, "path": None}
            rows.append(texts | images | numbers)
    return rows


def write_author_layout(folder: str | Path, rows: list[dict]) -> None:
    """The layout of the authors' scripts: seeds.json, and a folder a triplet with prompt.json, images,
    metadata."""
    folder = Path(folder)
    of_triplet: dict[tuple, list[dict]] = {}
    for row in rows:
        of_triplet.setdefault(tuple(row[name] for name in TEXT), []).append(row)
    index = []
    for number, ((caption, edit, output), members) in enumerate(of_triplet.items()):
        place = folder / f"{number:07d}"
        place.mkdir(parents=True, exist_ok=True)
        prompt = {"caption": caption, "edit": edit, "output": output}
        (place / "prompt.json").write_text(json.dumps(prompt))
        metadata = []
        for row in members:
            metadata.append(json.dumps({name: row[name] for name in ("seed", *NUMBERS)}) + "\n")
            for i, name in enumerate(IMAGES):
                image = row[name] if isinstance(row[name], Image.Image) else decode_image(row[name])
                image.save(place / f"{row['seed']}_{i}.jpg", quality=100)
        (place / "metadata.jsonl").write_text("".join(metadata))
        index.append([place.name, [str(row["seed"]) for row in members]])
    (folder / "seeds.json").write_text(json.dumps(index))
