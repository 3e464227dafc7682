"""The parts of Markdown files that commands write.

A part stands between `<!-- figures:NAME -->` and `<!-- /figures -->`, on lines of its own or in a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ip2p.common.durable import write_atomically

END = "<!-- /figures -->"


def fill(path: str | Path, parts: Mapping[str, str]) -> None:
    """Put each text of `parts` into the part of that name, and leave the rest of the file as it is.

    A text of several lines gets an empty line before and after it. Raises KeyError for a part not there.
    """
    path = Path(path)
    page = path.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = with_part(page, name, text, path)
    write_atomically(path, page)


def pages_of(root: Path) -> list[Path]:
    """The pages that tell of the whole project: the README, and those that it links to."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def fill_pages(root: Path, parts: Mapping[str, str]) -> None:
    """Put each text of `parts` into every part of that name in the pages of the folder `root`.

    Raises KeyError for a part that no page has.
    """
    missing = set(parts)
    for path in pages_of(root):
        page = path.read_text(encoding="utf-8")
        there = {name: text for name, text in parts.items() if f"<!-- figures:{name} -->" in page}
        if there:
            fill(path, there)
        missing -= set(there)
    if missing:
        raise KeyError(f"no page has a part called {', '.join(sorted(missing))}")


def with_part(page: str, name: str, text: str, path: Path) -> str:
    """`page` with `text` in every part called `name`; `path` is for the error."""
    begin = f"<!-- figures:{name} -->"
    if begin not in page:
        raise KeyError(f"{path} has no part marked {begin}")
    if "\n" in text:
        text = f"\n\n{text.strip()}\n\n"
    part = re.escape(begin) + ".*?" + re.escape(END)
    # A function, since a backslash in a replacement that is a string would have a meaning.
    return re.sub(part, lambda _: begin + text + END, page, flags=re.DOTALL)
