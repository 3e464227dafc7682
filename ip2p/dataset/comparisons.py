"""What a person said of edits: comparisons on disk, a line each, none lost and each to be taken back."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ip2p.common.durable import append_line, whole_lines, write_atomically
from ip2p.common.images import open_image

TARGETS = {"left": 1.0, "neither": 0.5, "right": 0.0}  # answer -> P(left is better), as a reward learns it


class Comparison(NamedTuple):
    """What a person said of two edits. Pictures are names of files in the folder of the comparisons."""

    image: str
    instruction: str
    left: str
    right: str
    better: str  # of TARGETS
    before: str = ""  # captions of the picture and of what the edit should make of it, if anybody wrote them
    after: str = ""


class Comparisons:
    """A folder with `comparisons.jsonl`, a file that only grows, and the pictures that were compared.

    A line is a comparison, or {"undo": true}, which takes the one before it back. Each is on the disk when
    `add` or `undo` returns; half a line, left by a kill, never counts. rows: what holds. Raises ValueError
    that names the line if one is no comparison.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "comparisons.jsonl"
        self.rows: list[Comparison] = []
        for number, line in enumerate(whole_lines(self.path), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, LookupError):
                raise ValueError(f"{self.path}, line {number} is no comparison; delete that line") from None

    def add(
        self,
        image: Image.Image,
        instruction: str,
        left: Image.Image,
        right: Image.Image,
        better: str,
        before: str = "",
        after: str = "",
    ) -> Comparison:
        """better: "left", "right" or "neither"; anything else is a ValueError."""
        if better not in TARGETS:
            raise ValueError(f"the better one is {better!r}; it must be one of {', '.join(TARGETS)}")
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [self._keep(picture) for picture in (image, left, right)]
        row = Comparison(names[0], instruction, names[1], names[2], better, before, after)
        self._append(row._asdict())
        return row

    def undo(self) -> Comparison:
        """Take the last comparison back, and return it. Raises ValueError if there is none."""
        if not self.rows:
            raise ValueError("there is nothing to undo")
        last = self.rows[-1]
        self._append({"undo": True})
        return last

    def picture(self, name: str) -> Image.Image:
        return open_image(self.folder / name)

    def _keep(self, picture: Image.Image) -> str:
        """Save a picture, unless it is there. Its name follows from its pixels."""
        data = io.BytesIO()
        picture.save(data, "PNG")
        name = hashlib.sha256(data.getvalue()).hexdigest()[:16] + ".png"
        if not (self.folder / name).exists():
            write_atomically(self.folder / name, data.getvalue())
        return name

    def _append(self, line: dict) -> None:
        whole_lines(self.path, cut=True)
        append_line(self.path, line)
        self._take(line)

    def _take(self, line: dict) -> None:
        if line == {"undo": True}:
            self.rows.pop()
            return
        row = Comparison(**line)
        TARGETS[row.better]  # an unknown answer is a KeyError
        self.rows.append(row)
