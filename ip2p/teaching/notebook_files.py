"""What a notebook's file says: its question, its parameters, how long it ran, its first picture."""

from __future__ import annotations

import ast
import base64
from pathlib import Path

from ip2p.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"


def read(path: Path):
    """The notebook at `path`, as nbformat's version 4."""
    import nbformat

    return nbformat.read(path, as_version=4)


def name_and_question(nb) -> tuple[str, str]:
    """The parts of a notebook's heading, `# 03 CLIP filtering: which pairs count?`; empty without one."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            heading = cell.source.split("\n")[0].lstrip("# ")
            name, _, question = heading.partition(":")
            return name.strip(), question.strip()
    return "", ""


def parameters(nb) -> dict[str, str]:
    """The names that the cell tagged `parameters` sets, each with its line; empty without such a cell."""
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            return assignments(cell.source)
    return {}


def assignments(source: str) -> dict[str, str]:
    """The names that `source` assigns, `x: int = 1` or `x = 1`, each with its line."""
    lines = source.split("\n")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            target = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        else:
            continue
        if isinstance(target, ast.Name):
            found[target.id] = lines[node.lineno - 1]
    return found


def minutes(nb) -> float | None:
    """How long the notebook ran; None if it did not, or not to its end."""
    papermill = nb.metadata.get("papermill", {})
    if papermill.get("exception") or not papermill.get("duration"):
        return None
    return papermill["duration"] / 60


def first_picture(nb) -> bytes | None:
    """The first picture that the notebook put out (PNG or JPEG); None if there is none."""
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            picture = data.get("image/png") or data.get("image/jpeg")
            if picture:
                return base64.b64decode(picture)
    return None
