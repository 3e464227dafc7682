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
