"""`ip2p docs`: the parts of the README, docs/*.md and data/README.md that follow from files and settings."""

from __future__ import annotations

import re
from pathlib import Path

from ip2p.common.durable import digest
from ip2p.common.markdown import fill, fill_pages, pages_of
from ip2p.paths import ROOT, need_clone
from ip2p.profiles import PROFILES
from ip2p.study import eye

# Files that do not count: hidden ones, those of a folder `work`, temporary ones and an editor's copies.
PASSING = re.compile(r"(^|/)(\.|work/)|\.tmp$|~$")


def checksums(data: Path) -> str:
    """A Markdown table of every file below `data` except its README: name, size, SHA-256."""
    rows = ["| File | Bytes | SHA-256 |", "|---|---:|---|"]
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data).as_posix()
        if path.is_dir() or name == "README.md" or PASSING.search(name):
            continue
        size = path.stat().st_size
        rows.append(f"| {name} | {size:,} | `{digest(path)}` |")
    return "\n".join(rows)


def settings(page: str) -> dict[str, str]:
    """The values of the parts of `page` called after a profile's setting, such as `mini.candidates`."""
    values = {}
    for name in re.findall(r"<!-- figures:(\w+\.\w+) -->", page):
        profile, setting = name.split(".")
        values[name] = in_words(getattr(PROFILES[profile], setting))
    return values


def in_words(value: object) -> str:
    """A setting as the pages show it: `0.1 to 0.9`, `3,200`, `both`."""
    if isinstance(value, tuple):
        return " to ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def renew(root: Path = ROOT) -> None:
    """Write checksums, settings, numbers of lessons and an eye's verdicts again in the files below `root`."""
    if root == ROOT:
        need_clone("ip2p docs")
    fill(root / "data" / "README.md", {"checksums": checksums(root / "data")})
    for path in pages_of(root):
        fill(path, settings(path.read_text(encoding="utf-8")))
    for name in ("mini", "open"):
        lessons = root / "data" / "triplets" / f"{name}.jsonl"
        count = len(lessons.read_text(encoding="utf-8").splitlines())
        fill_pages(root, {f"lessons_{name}": str(count)})
    fill_pages(root, {f"eye_{what}": words for what, words in eye.in_sentences().items()})
