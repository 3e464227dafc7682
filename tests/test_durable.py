"""Files and folders that are written whole, and what lies beside them, which stays."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ip2p.common.durable import replacing
from ip2p.common.folders import MARK, fill_cache, fill_folder, refuse_foreign, temporary_folder

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
