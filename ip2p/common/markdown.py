"""The parts of Markdown files that commands write.

A part stands between `<!-- figures:NAME -->` and `<!-- /figures -->`, on lines of its own or in a line.
"""

from __future__ import annotations

import re
from pathlib import Path


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
