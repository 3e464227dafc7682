"""Pairs on disk: nothing is lost or repeated, others can read them, broken ones are named."""

import io
import json
import tracemalloc
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import results, survive
from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.diffusion import embed
from ip2p.common.durable import locked
from ip2p.common.images import decode_image, encode_image
from ip2p.dataset.export import write_author_layout
from ip2p.dataset.shards import IMAGES, TEXT, Manifest, read_pairs, write_shard
from ip2p.factory import pairs
from ip2p.factory.candidates import Job, Setting, candidate_settings, paint_candidates
from ip2p.factory.pairs import make_pairs, paint_and_filter
from ip2p.profiles import MINI

TINY = replace(
    MINI,
    batch=4,
    candidates=2,
    per_seed=2,
    keep=2,
    pair_steps=2,
    min_image=-1,
    min_caption=-1,
    min_direction=-1,
)
TRIPLETS = [
    {
        "input": f"a red {a} on the beach",
        "edit": "make it night",
        "output": f"a red {a} on the beach at night",
    }
    for a in ("cat", "dog", "owl", "duck", "boat")
]


small_shards = partial(make_pairs, shard=2)


@pytest.fixture(scope="module")
def clip():
    return ClipSimilarity(MINI.clip)


@pytest.fixture
def made(tiny_pipe, clip, tmp_path):
    small_shards(TRIPLETS, tmp_path / "a", TINY, pipe=tiny_pipe, clip=clip)
    return tmp_path / "a"


def contents(folder):
    """Files and their bytes; the lock, which is hidden, does not count."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


def test_a_missing_shard_is_made_again_bit_for_bit(made, tiny_pipe, clip):
    whole = contents(made)
    assert len(whole) == 4 and len(Manifest(made).shards) == 3
    (made / "pairs-00001.parquet").write_bytes(b"")  # as after a crash of the machine
    counts = small_shards(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip)
    assert counts == {"triplets": 2, "candidates": 4, "kept": 4}
    assert {name: data for name, data in contents(made).items() if name != "manifest.jsonl"} == {
        name: data for name, data in whole.items() if name != "manifest.jsonl"
    }
    assert small_shards(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip) == {} and len(read_pairs(made)) == 10


def test_another_job_keeps_out(made, tiny_pipe, clip):
    with pytest.raises(ValueError, match="another job made .job differ"):
        small_shards(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip, keep=1)
    with pytest.raises(ValueError, match="there are no triplets"):
        small_shards([], made, TINY, pipe=tiny_pipe, clip=clip)
    with locked(made, "making pairs in"), pytest.raises(ValueError, match="another job is making pairs"):
        small_shards(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip)
    with pytest.raises(ValueError, match="another job made .triplets differ"):
        small_shards(TRIPLETS[:4], made, TINY, pipe=tiny_pipe, clip=clip)
    (made / "manifest.jsonl").unlink()
    with pytest.raises(ValueError, match="no manifest"):
        small_shards(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip)
    assert len(read_pairs(made)) == 10, "a folder without a manifest can still be read"


def test_other_weights_at_the_same_path_are_another_job(tiny_pipe, clip, tmp_path):
    tiny_pipe.unet.save_pretrained(tmp_path / "sd" / "unet")
    profile = replace(TINY, text_to_image=str(tmp_path / "sd"))
    small_shards(TRIPLETS[:2], tmp_path / "a", profile, pipe=tiny_pipe, clip=clip)
    assert small_shards(TRIPLETS[:2], tmp_path / "a", profile, pipe=tiny_pipe, clip=clip) == {}
    tiny_pipe.vae.save_pretrained(tmp_path / "sd" / "unet")
    with pytest.raises(ValueError, match="another job made .text_to_image differ"):
        small_shards(TRIPLETS[:2], tmp_path / "a", profile, pipe=tiny_pipe, clip=clip)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("per_seed", [1, 2])
def test_rows_hold_the_settings_that_made_them(tiny_pipe, clip, tmp_path, per_seed, two_threads):
    """Each pair is what `sample_pairs` paints for its seed, p and guidance, alone or in a family."""
    small_shards(
        TRIPLETS, tmp_path / "a", TINY, pipe=tiny_pipe, clip=clip, per_seed=per_seed, candidates=4, keep=4
    )
    rows = read_pairs(tmp_path / "a")
    assert len(rows) == 20 and rows[0]["edit_prompt"] == "make it night"
    assert len({row["seed"] for row in rows}) == 20 // per_seed
    for row in rows[4:12]:
        triplet = {"input": row["original_prompt"], "output": row["edited_prompt"]}
        setting = Setting(row["seed"], row["p"], row["guidance_scale"])
        again = paint_candidates(tiny_pipe, Job.of(TINY, per_seed=1), [triplet], [setting])
        for name, image in zip(("original_image", "edited_image"), again, strict=True):
            seen, true = (
                torch.tensor(np.asarray(x), dtype=torch.int)
                for x in (row[name], decode_image(encode_image(image[0])))
            )
            assert (seen - true).abs().max() <= (0 if per_seed == 1 else 3), "the WebP of 1/255 more or less"


def test_settings_depend_on_nothing_but_seed_and_number():
    one, family = (Job.of(MINI, seed=5, candidates=6, per_seed=k) for k in (1, 3))
    for job in (one, family):
        low, high = job.share
        some = candidate_settings(job, 7)
        assert some == candidate_settings(job, 7) != candidate_settings(job, 8) and len(set(some)) == 6
        assert all(low <= s.p <= high for s in some)
        assert all(job.pair_guidance[0] <= s.guidance_scale <= job.pair_guidance[1] for s in some)
    assert len({s.seed for s in candidate_settings(one, 7)}) == 6
    assert [s.seed for s in candidate_settings(family, 7)[:3]] == [candidate_settings(family, 7)[0].seed] * 3
    assert len({s.p for s in candidate_settings(family, 7)}) == 6, "two families fill each other's gaps"
    with pytest.raises(ValueError, match="candidates is 6; it must be a multiple of per_seed, 4"):
        Job.of(MINI, candidates=6, per_seed=4)


def test_neighbours_and_order_change_no_bit(tiny_pipe, clip):
    job = Job.of(TINY)
    together, _ = paint_and_filter(tiny_pipe, clip, job, TRIPLETS, range(5))
    for k in (4, 1):
        alone, _ = paint_and_filter(tiny_pipe, clip, job, TRIPLETS, [k])
        theirs = [pair for pair in together if pair[0] == k]
        assert len(alone) == len(theirs) == 2
        for a, b in zip(alone, theirs, strict=True):
            assert a.setting == b.setting and a.similarities == b.similarities
            assert torch.equal(a.image_0, b.image_0) and torch.equal(a.image_1, b.image_1)


def test_enough_is_enough(tiny_pipe, clip):
    asked = []

    def seen(some, *_):
        asked.append(len(some))

    job = Job.of(TINY, candidates=6, keep=2)  # everything passes the thresholds of TINY
    full, counts = paint_and_filter(tiny_pipe, clip, job, TRIPLETS[:2], range(2), seen)
    assert sum(asked) == counts["candidates"] == 12 and counts["kept"] == len(full) == 4
    few, counts = paint_and_filter(
        tiny_pipe, clip, Job.of(TINY, candidates=6, keep=2, enough=True), TRIPLETS[:2], range(2)
    )
    assert counts == {"triplets": 2, "candidates": 4, "kept": 4}
    assert all(pair.setting in candidate_settings(job, pair.number)[:2] for pair in few)
    best = [max(pair[-1].sim_direction for pair in full if pair[0] == k) for k in range(2)]
    assert all(pair[-1].sim_direction <= best[pair[0]] for pair in few)


def test_the_authors_layout_there_and_back(made, tmp_path):
    rows = read_pairs(made)
    write_author_layout(tmp_path / "theirs", rows)
    again = read_pairs(tmp_path / "theirs")
    for name in ("original_prompt", "edit_prompt", "edited_prompt", "seed", "p", "clip_sim_dir"):
        assert [r[name] for r in again] == [r[name] for r in rows]
    seeds = json.loads((tmp_path / "theirs" / "seeds.json").read_text())
    assert [len(s) for _, s in seeds] == [2] * 5


def test_pairs_of_one_seed_are_all_there_in_the_authors_layout(tiny_pipe, clip, tmp_path):
    small_shards(TRIPLETS, tmp_path / "a", TINY, pipe=tiny_pipe, clip=clip, candidates=4, per_seed=4, keep=4)
    rows = read_pairs(tmp_path / "a")
    write_author_layout(tmp_path / "theirs", rows)
    seed = rows[0]["seed"]
    names = sorted(path.name for path in (tmp_path / "theirs" / "0000000").glob("*_1.jpg"))
    assert names == sorted(f"{seed}{more}_1.jpg" for more in ("", "-2", "-3", "-4"))
    again = read_pairs(tmp_path / "theirs")
    for name in ("seed", "p", "clip_sim_dir"):
        assert [row[name] for row in again] == [row[name] for row in rows]
    for row, other in zip(rows, again, strict=True):
        difference = np.subtract(row["edited_image"], other["edited_image"], dtype=float)
        assert np.abs(difference).mean() < 8, "JPEG"


PROMPT = json.dumps({"caption": "a cat", "edit": "make it night", "output": "a cat at night"})


def folder_of(place, metadata=None, pictures=()):
    place.mkdir(parents=True)
    (place / "prompt.json").write_text(PROMPT)
    if metadata is not None:
        (place / "metadata.jsonl").write_text(metadata)
    for name in pictures:
        Image.new("RGB", (8, 8)).save(place / name)


def test_folders_of_others_are_read(tmp_path):
    folder_of(tmp_path / "0000000")  # as their script leaves it where nothing survived
    with pytest.raises(ValueError, match="there are no pairs"):
        read_pairs(tmp_path)
    folder_of(tmp_path / "0000001", pictures=["7_0.jpg", "7_1.jpg", "mine_0.jpg", "mine_1.jpg"])
    rows = read_pairs(tmp_path)
    assert [(row["edit_prompt"], row["seed"], row["p"]) for row in rows] == [
        ("make it night", 7, None),
        ("make it night", None, None),
    ]
    assert rows[0]["edited_image"].size == (8, 8)


@pytest.mark.parametrize("seed", ["../../secret", "/etc/passwd", "..", "a/b", None, ["x"]])
def test_nobodys_metadata_reads_or_writes_outside_of_the_folder(tmp_path, seed):
    for name in ("secret_0.jpg", "secret_1.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    folder_of(tmp_path / "set" / "0000000", json.dumps({"seed": seed}) + "\n")
    with pytest.raises(ValueError, match="0000000.*(is no name of a picture|None_0.jpg is missing)"):
        read_pairs(tmp_path / "set")
    picture = Image.new("RGB", (8, 8))
    row = dict(zip(TEXT, "abc", strict=True)) | dict.fromkeys(IMAGES, picture) | {"seed": seed}
    if seed is not None:
        with pytest.raises(ValueError, match="the seed .* is no whole number"):
            write_author_layout(tmp_path / "out", [row])
    assert not list(tmp_path.glob("out/**/*.jpg"))


def test_a_broken_folder_of_the_authors_is_named(tmp_path):
    folder_of(tmp_path / "0000000", "{half\n")
    with pytest.raises(ValueError, match="metadata.jsonl, line 1: it is not JSON"):
        read_pairs(tmp_path)
    (tmp_path / "0000000" / "prompt.json").write_text('{"caption": "a cat"}')
    with pytest.raises(ValueError, match="prompt.json: 'edit' is missing"):
        read_pairs(tmp_path)


def test_other_peoples_tools_read_it(made, tmp_path):
    """`datasets` shows images, and the columns are those that diffusers' training script is told by its
    options."""
    from datasets import load_dataset

    table = load_dataset(
        "parquet", data_files=str(made / "*.parquet"), cache_dir=str(tmp_path / "c"), split="train"
    )
    assert table.column_names[:5] == [
        "original_prompt",
        "original_image",
        "edit_prompt",
        "edited_prompt",
        "edited_image",
    ]
    ours = read_pairs(made)
    assert len(table) == len(ours)
    for theirs, row in zip(table, ours, strict=True):
        assert theirs["edit_prompt"] == row["edit_prompt"] and theirs["seed"] == row["seed"]
        for column in ("original_image", "edited_image"):  # --original_image_column, --edited_image_column
            assert theirs[column].convert("RGB").tobytes() == row[column].tobytes()


def test_a_broken_shard_is_named(made):
    path = made / "pairs-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="pairs-00001.parquet is broken .its checksum"):
        read_pairs(made)
    with pytest.warns(UserWarning, match="going on without it"):
        assert len(read_pairs(made, broken="skip")) == 6
    path.unlink()
    with pytest.raises(ValueError, match="pairs-00001.parquet is broken .*No such file"):
        read_pairs(made)


def test_a_missing_column_and_an_empty_folder_are_said_so(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(ValueError, match="there are no pairs"):
        read_pairs(tmp_path)
    pq.write_table(pa.table({"edit_prompt": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="lack the column"):
        read_pairs(tmp_path)


def table_of(folder, rows, name="train-00000.parquet"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name, row_group_size=2)


def a_row(**changes):
    cell = encode_image(torch.zeros(3, 8, 8))
    return dict(zip(TEXT, "abc", strict=True)) | dict.fromkeys(IMAGES, cell) | changes


def test_the_hubs_layout_and_plain_bytes_are_read(tmp_path):
    data = encode_image(torch.ones(3, 8, 8))["bytes"]
    table_of(tmp_path / "data", [a_row(**dict.fromkeys(IMAGES, data)) for _ in range(3)])
    rows = read_pairs(tmp_path)
    assert len(rows) == 3 and all(row["edited_image"].getpixel((0, 0)) == (255, 255, 255) for row in rows)


def test_a_wrong_row_is_named_by_file_and_row(tmp_path):
    def pictures(**changes):
        table_of(tmp_path, [a_row(), a_row(), a_row(**changes)])
        return [row["edited_image"] for row in read_pairs(tmp_path)]

    assert len(pictures()) == 3
    for wrong in ({"bytes": None, "path": "x.jpg"}, None):
        with pytest.raises(ValueError, match="train-00000.parquet, row 2, edited_image, is no picture"):
            pictures(edited_image=wrong)
    for data in (b"", b"junk"):
        with pytest.raises(ValueError, match="row 2, edited_image, cannot be read as an image"):
            pictures(edited_image={"bytes": data, "path": None})
    with pytest.raises(ValueError, match="row 2: edit_prompt is None, not a text"):
        pictures(edit_prompt=None)


def arrow(**columns):
    """Three rows as an Arrow table, with other types of some columns."""
    import pyarrow as pa

    table = pa.Table.from_pylist([a_row() for _ in range(3)])
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def odd_columns() -> dict:
    """Of texts and pictures, as other tools write them."""
    import pyarrow as pa

    data = encode_image(torch.zeros(3, 8, 8))["bytes"]
    png = io.BytesIO()
    Image.new("LA", (8, 8)).save(png, "PNG")
    more = pa.array([{"bytes": data, "path": "a.webp", "width": 8}] * 3)
    return {
        "long texts": {"edit_prompt": pa.array(["b"] * 3, pa.large_string())},
        "categories": {"edit_prompt": pa.array(["b"] * 3).dictionary_encode()},
        "chunks": {"edit_prompt": pa.chunked_array([["b"], ["b", "b"]])},
        "long bytes": {"edited_image": pa.array([data] * 3, pa.large_binary())},
        "bytes of one size": {"edited_image": pa.array([data] * 3, pa.binary(len(data)))},
        "more about a picture": {"edited_image": more},
        "grey and transparent": {"edited_image": pa.array([png.getvalue()] * 3)},
    }


@pytest.mark.parametrize("name", odd_columns())
def test_columns_as_other_tools_write_them_are_read(tmp_path, name):
    import pyarrow.parquet as pq

    pq.write_table(arrow(**odd_columns()[name]), tmp_path / "x.parquet")
    for row in read_pairs(tmp_path):
        assert row["edit_prompt"] == "b" and row["edited_image"].size == (8, 8)


def wrong_columns() -> dict:
    """Columns, and what is said of them."""
    import pyarrow as pa

    no_picture = "x.parquet, row 0, edited_image, is no picture"
    return {
        "numbers": ({"edit_prompt": pa.array([1, 2, 3])}, "row 0: edit_prompt is 1, not a text"),
        "nothing": ({"edit_prompt": pa.nulls(3)}, "row 0: edit_prompt is None, not a text"),
        "bytes as texts": ({"edit_prompt": pa.array([b"b"] * 3)}, "row 0: edit_prompt is b'b', not a text"),
        "lists": ({"edit_prompt": pa.array([["b"]] * 3)}, "edit_prompt is .'b'., not a text"),
        "base64": ({"edited_image": pa.array(["UklGR"] * 3)}, no_picture),
        "pixels": ({"edited_image": pa.array([[[0, 0, 0]]] * 3)}, no_picture),
        "a path alone": ({"edited_image": pa.array([{"path": "a.png"}] * 3)}, no_picture),
        "no pictures": ({"edited_image": pa.nulls(3)}, no_picture),
    }


@pytest.mark.parametrize("name", wrong_columns())
def test_columns_of_something_else_are_refused_by_file_and_row(tmp_path, name):
    import pyarrow.parquet as pq

    columns, sentence = wrong_columns()[name]
    pq.write_table(arrow(**columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=sentence) as error:
        [row["edited_image"] for row in read_pairs(tmp_path)]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"a,b\n1,2\n", b"<html>", b'{"a": 1}', b"\0" * 5000]
)
def test_a_file_that_is_no_parquet_is_named(tmp_path, data):
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(
        ValueError, match="x.parquet is broken .*; delete it and make the pairs again"
    ) as error:
        read_pairs(tmp_path)
    assert "\n" not in str(error.value)


def test_a_table_without_rows_is_no_set_of_pairs(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(arrow()[:0], tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="there are no pairs in"):
        read_pairs(tmp_path)


def test_reading_pairs_holds_no_pictures(tmp_path):
    """300,000 pairs must fit into 4 GB, pictures of any size."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    big = encode_image(torch.from_numpy(noise).permute(2, 0, 1))
    table_of(tmp_path, [a_row(original_image=big, edited_image=big) for _ in range(40)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 50_000
    tracemalloc.start()
    rows = read_pairs(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 40 and held / 40 * 300_000 < 3e9
    assert rows[39]["original_image"].size == (400, 400)
    copy = dict(rows[39] | {"seed": 7})
    assert copy["seed"] == 7 and copy["edited_image"].size == (400, 400)
    rows[39]["edited_image"] = Image.new("RGB", (3, 3))
    assert {**rows[39]}["edited_image"].size == (3, 3)


def test_captions_that_differ_only_behind_what_the_model_reads_are_refused(tiny_pipe, clip, tmp_path):
    long = "a red cat on the beach " * 12
    triplet = {"input": long + "at night", "edit": "make it day", "output": long + "by day"}
    with pytest.raises(ValueError, match="are equal in the first 40 tokens"):
        small_shards([*TRIPLETS, triplet], tmp_path, TINY, pipe=tiny_pipe, clip=clip)
    assert not list(tmp_path.glob("*.parquet")), "refused before anything is painted"
    with pytest.warns(UserWarning, match="is too long for the model, which does not read '.*by day'"):
        embed(tiny_pipe, [triplet["output"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        embed(tiny_pipe, [TRIPLETS[0]["output"]])


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "pairs-00000.parquet", [])
    assert not list(tmp_path.iterdir())


def many(n):
    """n triplets, all different."""
    return [{**TRIPLETS[i % 5], "input": f"{TRIPLETS[i % 5]['input']} {i}"} for i in range(n)]


def a_job(pipe: str, n: int, **options):
    """The pairs of n triplets; for `survive`."""
    pipe = torch.load(pipe, weights_only=False)
    clip = ClipSimilarity(MINI.clip)

    def job(folder: Path) -> None:
        make_pairs(many(n), folder, TINY, pipe=pipe, clip=clip, **options)

    return job


def killed_often(pipe, tmp_path, kills: int, n: int, parts: int, **options) -> str:
    """The job killed at random moments; then the folder holds the same bytes as after an undisturbed run.
    parts: how many the job notes. Returns what the kills left."""
    tmp_path.mkdir(exist_ok=True)
    torch.save(pipe, tmp_path / "pipe.pt")
    arguments = {"pipe": str(tmp_path / "pipe.pt"), "n": n, **options}
    done = survive(tmp_path, a_job, kills, 1.5 / parts, **arguments)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        assert contents(folder) == contents(undisturbed)
        assert not list(folder.glob("*.unfinished")), "nothing unfinished is left"
    return done.stdout


def test_ten_kills_change_no_byte(tiny_pipe, tmp_path):
    killed_often(tiny_pipe, tmp_path, kills=10, n=16, parts=16, shard=1)
    assert len(Manifest(tmp_path / "killed-0").shards) == 16


def test_kills_within_a_shard_change_no_byte(tiny_pipe, tmp_path):
    left = killed_often(tiny_pipe, tmp_path, kills=6, n=8, parts=3, shard=8, candidates=6)
    assert ".pairs-00000.parquet.unfinished" in left.split(), "some were killed within the shard"


@pytest.mark.soak
def test_50_kills_change_no_byte(tiny_pipe, tmp_path):
    killed_often(tiny_pipe, tmp_path / "a", kills=50, n=80, parts=80, shard=1)
    killed_often(tiny_pipe, tmp_path / "b", kills=50, n=48, parts=72, shard=48, candidates=6)


@pytest.mark.parametrize("enough", [False, True])
def test_within_a_shard_nothing_is_painted_twice(tiny_pipe, clip, tmp_path, monkeypatch, enough):
    asked = []

    def paint(pipe, job, triplets, settings):
        asked.append(settings)
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return paint_candidates(pipe, job, triplets, settings)

    monkeypatch.setattr(pairs, "paint_candidates", paint)
    job = partial(
        make_pairs, TRIPLETS[:3], profile=TINY, pipe=tiny_pipe, clip=clip, candidates=6, enough=enough
    )
    stop_at = None
    counts = job(tmp_path / "undisturbed")
    undisturbed = len(asked)
    stop_at = undisturbed + 2
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "stopped")
    with pytest.raises(ValueError, match="another job made .job differ"):
        job(tmp_path / "stopped", seed=1)
    assert job(tmp_path / "stopped") == counts
    assert len(asked) == 2 * undisturbed + 1, "the batch in which it was stopped once more, and no other"
    assert contents(tmp_path / "stopped") == contents(tmp_path / "undisturbed")
