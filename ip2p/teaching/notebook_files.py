"""What a notebook's file says: its question, its parameters, how long it ran, its first picture."""

from __future__ import annotations

import ast
import base64
import copy
import re
from pathlib import Path

from ip2p.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"

# An output that needs a kernel; each such cell leaves a still picture or a text, too.
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"^[^|]*\d+%\|.*\| *[\d.]+\w*/[\d.?]+\w* ")  # tqdm's
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds


def number_of(path: Path) -> str:
    """`01b` of `notebooks/01b_diffusion_primer.ipynb`."""
    return path.stem.partition("_")[0]


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


def as_read(nb):
    """The executed notebook `nb` as a page shows it: its parameters cell says what it ran with, and there are
    neither live widgets nor progress bars."""
    nb = copy.deepcopy(nb)
    nb.metadata.pop("widgets", None)
    given = {}
    for cell in nb.cells:
        if INJECTED in cell.metadata.get("tags", ()):
            given = assignments(cell.source)
    given.pop("OUT", None)  # a folder of this machine
    nb.cells = [cell for cell in nb.cells if INJECTED not in cell.metadata.get("tags", ())]
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = with_values(cell.source, given)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
    return nb


def with_values(source: str, given: dict[str, str]) -> str:
    """The parameters cell `source` with other values; `given`: a line `NAME = value` for each name."""
    for name, line in assignments(source).items():
        if name in given:
            value = given[name].partition("=")[2].strip()
            before, comment = line.split("  # ", 1)
            source = source.replace(line, f"{before.partition('=')[0]}= {value}  # {comment}")
    return source


def is_progress_bar(output) -> bool:
    """Whether an output holds nothing but tqdm's bars, as text or as a widget without its kernel."""
    if output.output_type == "stream":
        lines = re.split(r"[\r\n]+", output.text.strip())
        return output.name == "stderr" and all(BAR.search(line) for line in lines)
    data = output.get("data", {})
    return WIDGET in data and bool(BAR.search(data.get("text/plain", "")))


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
