"""The parts of Markdown files that commands write.

`python -m ip2p.sheets` renews the checksums in data/README.md, and in README.md the profiles' settings and the number
of lessons.
A part stands between `<!-- figures:NAME -->` and `<!-- /figures -->`, on lines of its own or in a line.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def fill(path: str | Path, blocks: dict[str, str]) -> None:
    """Put each text of `blocks` into the marked part of that name. Raises KeyError if it is missing."""
    page = Path(path).read_text(encoding="utf-8")
    for name, text in blocks.items():
        text = f"\n\n{text.strip()}\n\n" if "\n" in text else text
        pattern = rf"(<!-- figures:{re.escape(name)} -->).*?(<!-- /figures -->)"
        page, found = re.subn(pattern, lambda m, text=text: m[1] + text + m[2], page, flags=re.DOTALL)
        if not found:
            raise KeyError(f"{path} has no part marked <!-- figures:{name} -->")
    Path(path).write_text(page, encoding="utf-8")


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
    from ip2p.profiles import PROFILES

    out = {}
    for name in re.findall(r"<!-- figures:(\w+\.\w+) -->", page):
        profile, setting = name.split(".")
        value = getattr(PROFILES[profile], setting)
        out[name] = (" to ".join(map(str, value)) if isinstance(value, tuple)
                     else f"{value:,}" if isinstance(value, int) else str(value))
    return out


def renew(root: Path = ROOT) -> None:
    """Write checksums and settings again in the files below `root`."""
    readme = root / "README.md"
    fill(root / "data" / "README.md", {"checksums": checksums(root / "data")})
    fill(readme, settings(readme.read_text(encoding="utf-8")))
    for name in ("mini", "open"):
        lessons = (root / "data" / "triplets" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        fill(readme, {f"lessons_{name}": str(len(lessons))})


if __name__ == "__main__":
    renew()
