"""Folders of results that never take away what is not ours: refused before any work, filled whole or not at
all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ip2p.common.durable import TEMPORARY, replacing, temporary

# In a folder of results: the command that made it, then the files that it left, one a line.
MARK = ".made-by-ip2p"


@contextmanager
def temporary_folder(parent: str | Path) -> Iterator[Path]:
    """A folder in `parent`, on the same disk, for unfinished files; it is gone in the end."""
    folder = temporary(Path(parent).resolve() / "new")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_foreign(folder: str | Path, maker: str) -> None:
    """Raises ValueError if `folder` holds anything and was not made by the command `maker`, or cannot be
    written."""
    where = Path(folder).resolve()
    if os.path.lexists(where) and not where.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder that is new, empty, or made by `{maker}`")
    there = next(path for path in (where, *where.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"{folder} cannot be written; choose another folder")
    if there == where and _inhabited(where) and _made_by(where)[0] != maker:
        raise ValueError(
            f"{folder} is not empty and was not made by `{maker}`; choose a folder that is new or empty"
        )


def _inhabited(folder: Path) -> bool:
    """Whether it holds more than what an unfinished job of ours left."""
    return any(not path.name.endswith(TEMPORARY) for path in folder.iterdir())


def _made_by(folder: Path) -> tuple[str, set[str]]:
    """The command that made a folder, and the files that it left there."""
    try:
        maker, *names = (folder / MARK).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "", set()
    return maker, {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}


def _mark(folder: Path, maker: str, names: set[str]) -> None:
    with replacing(folder / MARK) as new:
        new.write_text("\n".join([maker, *sorted(names)]) + "\n", encoding="utf-8")


def fill_folder(folder: Path, new: Path, maker: str) -> None:
    """Move the files of `new`, on the same disk, into `folder`. Those that `maker` left there earlier go;
    whatever else lies there stays. Raises ValueError if `folder` is somebody else's."""
    refuse_foreign(folder, maker)
    earlier = _made_by(folder)[1]
    names = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
    folder.mkdir(parents=True, exist_ok=True)
    _mark(folder, maker, earlier | names)
    for name in sorted(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    for name in earlier - names:
        (folder / name).unlink(missing_ok=True)
    _mark(folder, maker, names)


def fill_cache(folder: Path, new: Path, proof: str) -> None:
    """Make the folder `new` the entry `folder` of a cache that is ours alone. Where another job was first,
    its entry stays. `proof`: a file that a finished entry has."""
    if folder.exists() and not (folder / proof).exists():  # rubble: it goes with the temporary folder
        with suppress(FileNotFoundError):
            folder.rename(new.with_name("rubble"))
    try:
        new.rename(folder)
    except OSError:
        if not (folder / proof).exists():
            raise
