"""Pairs on disk: nothing is lost or repeated, others can read them, broken ones are named."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from ip2p import pairs
from ip2p.clip_filter import ClipSimilarity
from ip2p.pairs import make_pairs, paint_candidates, read_pairs, write_author_layout, write_shard
from ip2p.profiles import MINI

TINY = replace(MINI, batch=4, candidates=2, keep=2, pair_steps=2, min_image=-1, min_caption=-1, min_direction=-1)
TRIPLETS = [{"input": f"a red {a} on the beach", "edit": "make it night", "output": f"a red {a} on the beach at night"}
            for a in ("cat", "dog", "owl", "duck", "boat")]


@pytest.fixture(scope="module")
def clip():
    return ClipSimilarity(MINI.clip)


@pytest.fixture
def made(tiny_pipe, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TRIPLETS_A_SHARD", 2)
    make_pairs(TRIPLETS, tmp_path / "a", TINY, pipe=tiny_pipe, clip=clip)
    return tmp_path / "a"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_missing_shard_is_made_again_bit_for_bit(made, tiny_pipe, clip):
    whole = contents(made)
    assert len(whole) == 3
    (made / "pairs-00001.parquet").unlink()
    counts = make_pairs(TRIPLETS, made, TINY, pipe=tiny_pipe, clip=clip)
    assert counts == {"triplets": 2, "candidates": 4, "kept": 4} and contents(made) == whole


def test_rows_hold_the_settings_that_made_them(made, tiny_pipe):
    rows = read_pairs(made)
    assert len(rows) == 10 and rows[0]["edit_prompt"] == "make it night"
    row = rows[5]
    triplet = {"input": row["original_prompt"], "output": row["edited_prompt"]}
    again = paint_candidates(tiny_pipe, TINY, [triplet], [(row["seed"], row["p"], row["guidance_scale"])],
                             steps=TINY.pair_steps, attention=TINY.attention)
    for name, image in zip(("original_image", "edited_image"), again, strict=True):
        assert pairs.decode_image(pairs.encode_image(image[0])) == row[name]


def test_the_authors_layout_there_and_back(made, tmp_path):
    rows = read_pairs(made)
    write_author_layout(tmp_path / "theirs", rows)
    again = read_pairs(tmp_path / "theirs")
    for name in ("original_prompt", "edit_prompt", "edited_prompt", "seed", "p", "clip_sim_dir"):
        assert [r[name] for r in again] == [r[name] for r in rows]
    seeds = json.loads((tmp_path / "theirs" / "seeds.json").read_text())
    assert [len(s) for _, s in seeds] == [2] * 5


def test_a_broken_shard_is_named(made):
    path = made / "pairs-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="pairs-00001.parquet is broken"):
        read_pairs(made)


def test_a_missing_column_and_an_empty_folder_are_said_so(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(ValueError, match="there are no pairs"):
        read_pairs(tmp_path)
    pq.write_table(pa.table({"edit_prompt": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="lack the column"):
        read_pairs(tmp_path)


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    def full(table, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "pairs-00000.parquet", [])
    assert not list(tmp_path.iterdir())


JOB = """
import sys, torch
sys.path.insert(0, {tests!r})
from ip2p import pairs
from ip2p.clip_filter import ClipSimilarity
import test_pairs as t
pairs.TRIPLETS_A_SHARD = 1
torch.set_num_threads(1)
pipe = torch.load({pipe!r}, weights_only=False)
clip = ClipSimilarity(t.MINI.clip)
print("ready", flush=True)
pairs.make_pairs(t.TRIPLETS, {out!r}, t.TINY, pipe=pipe, clip=clip)
"""


def test_killed_at_any_moment_it_goes_on(tiny_pipe, tmp_path):
    """kill -9 in the middle of the job; then the folder holds the same bytes as after an undisturbed run."""
    torch.save(tiny_pipe, tmp_path / "pipe.pt")
    calls = {name: JOB.format(tests=os.path.dirname(__file__), pipe=str(tmp_path / "pipe.pt"), out=str(tmp_path / name))
             for name in ("undisturbed", "killed")}
    subprocess.run([sys.executable, "-c", calls["undisturbed"]], check=True, capture_output=True)
    job = subprocess.Popen([sys.executable, "-c", calls["killed"]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    job.stdout.readline()
    while not list((tmp_path / "killed").glob("*.parquet")) and job.poll() is None:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert len(list((tmp_path / "killed").glob("*.parquet"))) < len(TRIPLETS), "killed too late to prove anything"
    subprocess.run([sys.executable, "-c", calls["killed"]], check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
