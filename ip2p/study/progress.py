"""What lets a long measurement go on after a kill: lines on the disk, headed by what they were measured
with."""

from __future__ import annotations

import json
from pathlib import Path

from ip2p.common.durable import append_line, name_of_model, whole_lines
from ip2p.miniworld.judging import FOLDER as JUDGE
from ip2p.profiles import Profile


def model_checksums(profile: Profile) -> dict[str, str]:
    """Name and checksum of each model that measures, or is measured; of a model of the hub, its name
    alone."""
    paths = {
        "text_to_image": profile.text_to_image,
        "editor": profile.editor,
        "clip": profile.clip,
        "judge": JUDGE,
    }
    return {name: name_of_model(path) for name, path in paths.items()}


class Notes:
    """The rows of a long measurement, in their order. With a path each is on the disk as soon as it is added,
    and those that an earlier run left there come first; see `begin_or_resume`."""

    def __init__(self, path: Path | None = None, made_by: dict | None = None):
        self.path = path
        self.rows: list[dict] = begin_or_resume(path, made_by or {}) if path else []

    def add(self, rows: list[dict]) -> None:
        for row in rows:
            if self.path:
                append_line(self.path, row)
            self.rows.append(row)


def begin_or_resume(path: Path, made_by: dict) -> list[dict]:
    """What an earlier run left in a file of JSON lines, whose first line is `made_by`; a new file gets that
    line. A half line at the end, left by a kill, is cut off.

    Raises ValueError, and leaves the file as it is, if it was begun with something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size == 0:
        append_line(path, made_by)
        return []
    try:
        first, *rows = [json.loads(line) for line in whole_lines(path)]
        changed = [name for name in made_by if made_by[name] != first.get(name)]
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is no list of measurements; move it away") from None
    if first != made_by:
        raise ValueError(f"{path} was begun with other {', '.join(changed)}; delete it, or move it away")
    whole_lines(path, cut=True)
    return rows
