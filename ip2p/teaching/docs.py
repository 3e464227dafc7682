"""`ip2p docs`: the parts of README.md and data/README.md that follow from files and settings."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ip2p.common.markdown import fill
from ip2p.paths import ROOT
from ip2p.profiles import PROFILES


def checksums(data: Path) -> str:
    """A Markdown table of every file below `data` except its README: name, size, SHA-256."""
    rows = ["| File | Bytes | SHA-256 |", "|---|---:|---|"]
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data).as_posix()
        if path.is_file() and name != "README.md" and not re.search(r"(^|/)(\.|work/)|\.tmp$|~$", name):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(f"| {name} | {path.stat().st_size:,} | `{digest}` |")
    return "\n".join(rows)


def settings(page: str) -> dict[str, str]:
    """The values of the parts of `page` that are called after a profile's setting: `mini.candidates`."""
    out = {}
    for name in re.findall(r"<!-- figures:(\w+\.\w+) -->", page):
        profile, setting = name.split(".")
        value = getattr(PROFILES[profile], setting)
        out[name] = (
            " to ".join(map(str, value))
            if isinstance(value, tuple)
            else f"{value:,}"
            if isinstance(value, int)
            else str(value)
        )
    return out


def renew(root: Path = ROOT) -> None:
    """Write checksums and settings again in the files below `root`."""
    readme = root / "README.md"
    fill(root / "data" / "README.md", {"checksums": checksums(root / "data")})
    fill(readme, settings(readme.read_text(encoding="utf-8")))
    for name in ("mini", "open"):
        lessons = (root / "data" / "triplets" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        fill(readme, {f"lessons_{name}": str(len(lessons))})
