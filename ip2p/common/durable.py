"""Files that a kill or a full disk cannot leave half-written, lists that only grow, and one job at a time.

- `write_atomically`, `save_tensors`: the whole file, or the old one, and on the disk when the call returns.
- `append_line`, `whole_lines`: a list of lines that a killed job goes on with; a half line at its end does
  not count.
- `locked`: a second job on the same file or folder is refused in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch

TEMPORARY = ".ip2p-tmp"  # how the names of unfinished files and folders end


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody else has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where an error of the block, such as a full disk, names no file, it gets this one."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from None
    except OSError as error:
        named = error.filename is not None and not str(error.filename).endswith(TEMPORARY)
        if named or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there replaces `path` if the block ends without an
    error. Raises OSError that names `path`."""
    new = temporary(path)
    try:
        with naming(path):
            yield new
            with open(new, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def remove_unfinished(folder: Path, pattern: str) -> None:
    """Delete what killed jobs left of files called `pattern`. For a job that has the folder to itself."""
    for path in folder.glob(f".{pattern}.*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all; a text as UTF-8."""
    with replacing(path) as new:
        new.write_bytes(data.encode() if isinstance(data, str) else data)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, about: str = "") -> None:
    """Write a safetensors file, with a text in its header, whole or not at all."""
    from safetensors.torch import save_file  # imports torch, which lists of lines can do without

    seen: set[int] = set()
    own = {}
    for name, x in tensors.items():  # the format wants no two names for one memory
        x = x.detach().contiguous()
        own[name] = x.clone() if x.data_ptr() in seen else x
        seen.add(x.data_ptr())
    with replacing(path) as new:
        save_file(own, new, {"about": about})


def append_line(path: Path, line: str | dict) -> None:
    """Add a line (a dict as JSON) to the end of a file; it is on the disk when this returns."""
    text = json.dumps(line, ensure_ascii=False) if isinstance(line, dict) else line
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path, cut: bool = False) -> list[str]:
    """The lines of a file (none, if there is no file) without a half one at its end, which a killed job left.
    cut: also take the half line away, so that the next one begins on a line of its own."""
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if cut and end < len(data):
        os.truncate(path, end)
    return data[:end].decode("utf-8").split("\n")[:-1]


def read_json(path: Path) -> dict:
    """A file that we wrote. Raises ValueError that names it if it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is broken, no JSON; delete it, or get it again") from None


def refuse_broken(model: str | Path) -> None:
    """Raises ValueError that names the file if one of a model's folder cannot be read; of no folder, nothing
    is known."""
    for path in sorted(Path(model).glob("**/*.json")):
        read_json(path)
    for path in sorted(Path(model).glob("**/*.safetensors")):
        if "work" in path.relative_to(model).parts:  # the checkpoints of `ip2p train`
            continue
        try:
            safe_open(path, "np")
        except SafetensorError as error:
            raise ValueError(f"{path} is broken ({error}); get the model again") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of_weights(folder: Path) -> str:
    """The first digits of SHA-256 over all safetensors files of a model's folder, in the order of their
    paths."""
    sha256 = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        if path.relative_to(folder).parts[0] != "work":  # where `ip2p train` has its checkpoints
            with open(path, "rb") as file:
                hashlib.file_digest(file, lambda: sha256)  # adds to it, a part of the file at a time
    return sha256.hexdigest()[:12]


def name_of_model(model: str | Path) -> str:
    """Name and checksum of a model in a folder, "mini-sd 0123456789ab"; of a model of the hub, its name
    alone."""
    folder = Path(model)
    return f"{folder.name} {checksum_of_weights(folder)}" if folder.is_dir() else str(model)


@contextmanager
def locked(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Only one job at a time works on the file or folder `path`; the lock ends with its process, however that
    ends.

    doing: what another job would be doing, such as "making pairs in". If there is one, ValueError, or with
    `wait` a word on stderr, and this one waits. The lock is a hidden file beside `path` (or inside, if it is
    a folder) and stays there: a file that is unlinked could be locked twice.
    """
    lock = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        if not wait:
            raise ValueError(f"another job is {doing} {path}; wait for it, or choose another place") from None
        print(f"another job is {doing} {path}; this one waits for it", file=sys.stderr, flush=True)
        held.acquire(timeout=-1)
    try:
        yield
    finally:
        held.release()
