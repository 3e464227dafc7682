"""Notebooks to hand out in a class: without solutions, and with nbgrader's marks. `ip2p notebooks
--assignments DIR`."""

from __future__ import annotations

import re
from pathlib import Path

from ip2p.teaching.notebook_files import NOTEBOOKS, read

CHECK = re.compile(r'^(?:\w+ = )?(?:exercises\.)?check\("', re.MULTILINE)  # what makes a cell an exercise
SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\s*", re.DOTALL)


def write_assignments(out: Path, folder: Path = NOTEBOOKS) -> list[Path]:
    """Copy the notebooks of `folder` to `out`/NAME/NAME.ipynb, nbgrader's source layout; returns the copies.

    Raises ValueError if `out` holds anything.
    """
    import nbformat

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder; choose a new one")
    written = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        target = out / path.stem / path.name
        target.parent.mkdir(parents=True)
        nbformat.write(as_assignment(read(path)), target)
        written.append(target)
    return written


def as_assignment(nb):
    """`nb` without its folded solutions; each exercise is marked as an answer that is graded by hand."""
    exercises = 0
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).strip()
            if not cell.source:
                continue
        elif CHECK.search(cell.source):
            exercises += 1
            cell.metadata["nbgrader"] = {
                "schema_version": 3,
                "cell_type": "code",
                "grade_id": f"exercise-{exercises}",
                "grade": True,
                "solution": True,
                "locked": False,
                "task": False,
                "points": 1,
            }
        cells.append(cell)
    nb.cells = cells
    return nb
