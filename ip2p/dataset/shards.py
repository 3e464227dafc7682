"""Pairs on disk: Parquet shards with the public data set's columns; the layout of the authors' scripts is
read, too.

A shard holds the kept pairs of a stretch of triplets. It is written whole or not at all, and noted with its
checksum in the folder's manifest, so a killed job loses and repeats nothing, and a reader knows a broken
shard.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache, partial
from pathlib import Path

from ip2p.common.durable import append_line, digest, remove_unfinished, whole_lines, write_atomically
from ip2p.common.images import decode_image
from ip2p.dataset.triplets import FIELDS, decoded, json_rows, one_triplet, shortened

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
            line = self.parse(text)
            if "shard" in line:
                self.shards[line["shard"]] = line
            else:
                self.made_by = line

    def parse(self, line: str) -> dict:
        try:
            return json.loads(line)
        except ValueError:
            raise ValueError(f"{self.path} is broken; delete that line: {shortened(line)}") from None

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
        begun = list(folder.glob(".pairs-*.parquet.unfinished"))
        if self.made_by is None and unnoted:
            raise ValueError(
                f"{folder} holds pairs, but no manifest that says how they were made; choose another folder"
            )
        if not self.shards and not unnoted and not begun:  # a manifest without a shard binds nobody
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
        for name in self.shards:
            self.forget(name)

    def unfinished(self, shard: str) -> Path:
        """A folder for what is done of a shard that is not finished."""
        return self.path.with_name(f".{shard}.unfinished")

    def forget(self, shard: str) -> None:
        shutil.rmtree(self.unfinished(shard), ignore_errors=True)

    def add(self, line: dict) -> None:
        """Note a shard, which is written already."""
        self.shards[line["shard"]] = line
        append_line(self.path, line)
        self.forget(line["shard"])


class Pair(MutableMapping):
    """A row of a data set: texts and numbers, and two pictures, which are read and decoded each time that
    they are asked for, so that a set may be larger than the memory."""

    def __init__(self, values: dict, cell: Callable[[str], dict | bytes], where: str):
        self.values_of = dict.fromkeys(IMAGES) | values  # a picture that is None is on disk
        self.cell = cell  # of a column: the encoded picture
        self.where = where

    def __getitem__(self, name: str):
        value = self.values_of[name]
        if value is None and name in IMAGES:
            return decode_image(self.cell(name), f"{self.where}, {name},")
        return value

    def __setitem__(self, name: str, value) -> None:
        self.values_of[name] = value

    def __delitem__(self, name: str) -> None:
        del self.values_of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)

    def __or__(self, other: dict) -> Pair:
        return Pair(self.values_of | other, self.cell, self.where)


def picture_bytes(row: dict | Pair, name: str) -> bytes:
    """What tells a picture of a row from others: of one on disk it is what is there, else its pixels."""
    if isinstance(row, Pair) and row.values_of[name] is None:
        cell = row.cell(name)
        encoded = cell["bytes"] if isinstance(cell, dict) else cell
        if isinstance(encoded, bytes):
            return encoded
    image = row[name]
    return f"{image.mode} {image.size}".encode() + image.tobytes()


def read_pairs(folder: str | Path, broken: str = "raise") -> list[Pair]:
    """All pairs of a folder. Texts and numbers are read at once, a picture when it is asked for (see `Pair`).

    Reads Parquet shards (verified, if there is a manifest), also in the hub's layout (`data`/*.parquet), and
    the authors' layout (a folder a prompt with prompt.json and SEED_0.jpg, SEED_1.jpg). Raises ValueError
    with one sentence if there are none, a shard is missing or broken, or a row is wrong; with broken="skip" a
    broken shard is left out with a warning.
    """
    folder = Path(folder)
    rows = []
    noted = Manifest(folder).shards
    paths = [folder / name for name in noted] or [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]
    for path in sorted(paths):
        try:
            rows += read_shard(path, noted.get(path.name))
        except BrokenShard as error:
            if broken != "skip":
                raise ValueError(f"{error}; delete it and make the pairs again") from None
            warnings.warn(f"{error}; going on without it", stacklevel=2)
    if not rows:
        rows = read_author_layout(folder)
    if not rows:
        raise ValueError(
            f"there are no pairs in {folder}; make some with `ip2p pairs --triplets FILE --out {folder}`"
        )
    return rows


class BrokenShard(Exception):
    """A file that is missing or no Parquet."""


def read_shard(path: Path, noted: dict | None) -> list[Pair]:
    """The rows of a shard; `noted`: its line in the manifest. Raises BrokenShard, and ValueError for a column
    or a text that is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    try:
        if noted and digest(path) != noted["sha256"]:
            raise pa.ArrowInvalid("its checksum is not that of the manifest")
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            missing = {*TEXT, *IMAGES} - set(columns)
            if missing:
                raise ValueError(f"the pairs in {path} lack the column {min(missing)!r}")
            written = path.stat().st_mtime_ns
            light = [name for name in columns if name not in IMAGES]
            for group in range(file.num_row_groups):
                for i, values in enumerate(file.read_row_group(group, light).to_pylist()):
                    where = f"{path}, row {len(rows)}"
                    for name in TEXT:
                        if not isinstance(values[name], str):
                            raise ValueError(f"{where}: {name} is {shortened(values[name])}, not a text")
                    rows.append(Pair(values, partial(picture_cell, path, written, group, i), where))
    except (pa.ArrowInvalid, OSError) as error:
        raise BrokenShard(f"{path} is broken ({str(error).splitlines()[0]})") from None
    return rows


def picture_cell(path: Path, written: int, group: int, i: int, column: str) -> dict | bytes:
    return pictures_of(path, written, group)[column][i].as_py()


@lru_cache(maxsize=16)
def pictures_of(path: Path, written: int, group: int):
    """The pictures of a row group, of 30 MB or so, as they are encoded: a pyarrow table. written: when the
    file was, so that another one of its name is read anew."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, IMAGES)


def read_author_layout(folder: Path) -> list[Pair]:
    """The rows; see `ip2p.dataset.export`. Where there is no metadata, all pictures count, without numbers.
    Raises ValueError that names the file if one is wrong."""
    rows = []
    for path in sorted(folder.glob("*/prompt.json")):
        try:
            triplet = one_triplet(decoded(path.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        texts = dict(zip(TEXT, (triplet[name] for name in FIELDS), strict=True))
        for name, numbers in named_pairs(path.parent):
            start = path.with_name(name)
            for ending in ("_0.jpg", "_1.jpg"):
                if not start.with_name(name + ending).is_file():
                    raise ValueError(f"{start}{ending} is missing")
            rows.append(Pair(texts | numbers, partial(jpeg_cell, start), f"{start}_0.jpg or _1.jpg"))
    return rows


def jpeg_cell(start: Path, column: str) -> bytes:
    return start.with_name(f"{start.name}_{IMAGES.index(column)}.jpg").read_bytes()


NAME = re.compile(r"[\w-]+")  # of two pictures, up to _0.jpg and _1.jpg: nothing that leads to another folder


def named_pairs(place: Path) -> Iterator[tuple[str, dict]]:
    """(name of the pictures, seed and other numbers) of the pairs of one triplet's folder."""
    metadata = place / "metadata.jsonl"
    if not metadata.exists():
        for path in sorted(place.glob("*_0.jpg")):
            name = path.name.removesuffix("_0.jpg")
            yield name, {"seed": int(name) if name.isdecimal() else None} | dict.fromkeys(NUMBERS)
        return
    for line, numbers in json_rows(metadata):
        name = str(numbers.get("name", numbers.get("seed")))
        if not NAME.fullmatch(name):
            raise ValueError(f"{metadata}, line {line}: {shortened(name)} is no name of a picture")
        yield name, {column: numbers.get(column) for column in ("seed", *NUMBERS)}
