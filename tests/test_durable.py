"""Files and folders that are written whole, and what lies beside them, which stays."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from ip2p.backends import local
from ip2p.common.durable import append_line, refuse_broken, replacing, save_tensors, write_atomically
from ip2p.common.folders import MARK, fill_cache, fill_folder, refuse_foreign, temporary_folder
from ip2p.profiles import load_edit_pipeline

MAKER = "ip2p test"


def result(parent, files):
    """A finished folder in `parent`, of these names and texts."""
    for name, text in files.items():
        (parent / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (parent / "new" / name).write_text(text)
    return parent / "new"


def fill(folder, files):
    with temporary_folder(folder) as temporary:
        fill_folder(folder, result(temporary, files), MAKER)


def names(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MARK
    )


def test_a_folder_is_filled_again_and_what_the_user_added_stays(tmp_path):
    folder = tmp_path / "results"
    fill(folder, {"a.txt": "1", "sub/b.txt": "1", "old.txt": "1"})
    (folder / "notes.txt").write_text("mine")
    (folder / "sub" / "mine.txt").write_text("mine")
    fill(folder, {"a.txt": "2", "sub/b.txt": "2"})
    assert names(folder) == ["a.txt", "notes.txt", "sub/b.txt", "sub/mine.txt"], "its own old file went"
    assert (folder / "a.txt").read_text() == "2" and (folder / "notes.txt").read_text() == "mine"


def test_a_foreign_folder_is_refused_and_an_empty_or_unfinished_one_is_not(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and was not made by `ip2p test`"):
        fill(tmp_path, {"a.txt": "1"})
    assert names(tmp_path) == ["mine.txt"]
    fill(tmp_path / "made", {"a.txt": "1"})
    with pytest.raises(ValueError, match="not made by `ip2p other`"):
        refuse_foreign(tmp_path / "made", "ip2p other")
    (tmp_path / "killed" / ".new.0123.ip2p-tmp").mkdir(parents=True)  # as after kill -9
    fill(tmp_path / "killed", {"a.txt": "1"})
    assert names(tmp_path / "killed") == ["a.txt"]


def test_a_mark_that_was_tampered_with_deletes_nothing_outside(tmp_path):
    fill(tmp_path / "made", {"a.txt": "1"})
    (tmp_path / "mine.txt").write_text("mine")
    mark = tmp_path / "made" / MARK
    mark.write_text(mark.read_text() + f"../mine.txt\n{tmp_path}/mine.txt\n")
    fill(tmp_path / "made", {"a.txt": "2"})
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("cache", [False, True])
def test_two_that_finish_together_do_not_collide(tmp_path, cache):
    together = Barrier(8)

    def job(number):
        with temporary_folder(tmp_path if cache else tmp_path / "made") as temporary:
            new = result(temporary, {"config.json": "{}", "weights": "same"})
            together.wait()
            if cache:
                fill_cache(tmp_path / "made", new, "config.json")
            else:
                fill_folder(tmp_path / "made", new, MAKER)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, range(8)))
    assert names(tmp_path / "made") == ["config.json", "weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "nothing unfinished is left"


def test_a_cache_entry_that_is_not_whole_is_replaced(tmp_path):
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "weights").write_text("half")
    with temporary_folder(tmp_path) as temporary:
        fill_cache(tmp_path / "entry", result(temporary, {"config.json": "{}"}), "config.json")
    assert names(tmp_path / "entry") == ["config.json"]


def test_a_full_disk_is_said_with_the_file(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_line(Path("/dev/full"), "a line")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*settings.json'"):
        write_atomically(tmp_path / "settings.json", "{}")
    assert not list(tmp_path.iterdir())


def test_a_broken_file_of_a_model_is_named(tmp_path):
    (tmp_path / "unet").mkdir()
    save_tensors({"a": torch.zeros(100)}, tmp_path / "unet" / "weights.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    refuse_broken(tmp_path)
    data = (tmp_path / "unet" / "weights.safetensors").read_bytes()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(data[:-20])
    with pytest.raises(ValueError, match="unet/weights.safetensors is broken"):
        refuse_broken(tmp_path)
    (tmp_path / "model_index.json").write_text("<html>not found</html>")
    for load in (load_edit_pipeline, local.load):
        with pytest.raises(ValueError, match="model_index.json is broken, no JSON"):
            load(str(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "file.tmp").write_text("mine")
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(tmp_path / "file.txt") as new:
        new.write_text("half")
        raise OSError("the disk is full")
    assert (tmp_path / "file.txt").read_text() == "old"
    with replacing(tmp_path / "file.txt") as new:
        new.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole" and names(tmp_path) == ["file.tmp", "file.txt"]
