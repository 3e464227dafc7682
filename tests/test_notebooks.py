"""The notebooks, executed with papermill on the bundled models. Each asserts itself what it claims.

Parameters make them as small as their claims allow; `make run` executes them at full size. Each exercise
is run as it stands, unanswered, and then once more with its folded solution."""

import re

import nbformat
import pytest

from ip2p.paths import ROOT
from ip2p.teaching.notebook_files import NOTEBOOKS, first_picture, minutes, parameters, read
from ip2p.teaching.run_notebooks import execute

SMALL = {
    "00_quickstart": {},
    "01_instruction_generation": {"CAPTIONS": 24, "TRIPLETS": 6},
    "01b_diffusion_primer": {"CAPTIONS": 4},
    "02_prompt_to_prompt_pairs": {"EDITS": 4, "SHARES": [0.0, 0.9]},
    "03_clip_filtering": {},
    "04_training": {"STEPS": 40},  # too few for its claims about learning: see `TestFrom04`
    "05_guided_editing": {"EDITS": 6},
    "06_evaluation": {"EDITS": 12, "LAYER_STEPS": 30},
    "07_limits_and_bias": {},
    "08_beyond_the_paper": {},
    "90_scaling_out": {"TRIPLETS": 4, "ON_THE_CLUSTER": 4},
}


def test_every_notebook_is_here():
    assert SMALL.keys() == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


def with_solutions(nb):
    """`nb` with a copy of each exercise behind it, in which the solution that the next cell folds stands
    before the check; and how many there are."""
    cells = []
    for cell, following in zip(nb.cells, [*nb.cells[1:], None], strict=True):
        cells.append(cell)
        check = re.search(r"^(?:\w+ = )?(?:exercises\.)?check\(\"", cell.source, re.MULTILINE)
        if cell.cell_type == "code" and check:
            solution = re.search(
                r"<summary>Solution</summary>\s*```python\n(.*?)```", following.source, re.DOTALL
            )[1]
            source = cell.source[: check.start()] + solution + cell.source[check.start() :]
            cells.append(nbformat.v4.new_code_cell(source))
    solved = nbformat.from_dict(nb | {"cells": cells})
    return solved, len(cells) - len(nb.cells)


def run_unanswered_and_solved(name, tmp_path, small):
    nb = read(NOTEBOOKS / f"{name}.ipynb")
    assert small.keys() <= parameters(nb).keys(), "a parameter that is not there"
    solved, exercises = with_solutions(nb)
    assert exercises >= 2, "two exercises, each with a folded solution in the cell behind it"
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    nbformat.write(solved, tmp_path / "notebooks" / f"{name}.ipynb")
    done = read(execute(tmp_path / "notebooks" / f"{name}.ipynb", tmp_path / "out", small))
    assert minutes(done) is not None and first_picture(done) is not None
    said = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", ()))
    assert "Traceback" not in said
    assert said.count("not answered yet") == exercises, "as it stands, an exercise waits for its answer"
    assert said.count(": right!") == exercises and "not yet" not in said, (
        "a solution does not pass its own check"
    )


# Two classes, of which each has a core of its own in `make test`.


class TestUpTo03:
    @pytest.mark.parametrize("name", [name for name in SMALL if name < "04"])
    def test_notebook_runs_and_its_claims_and_solutions_hold(self, name, tmp_path):
        run_unanswered_and_solved(name, tmp_path, SMALL[name])


class TestFrom04:
    @pytest.mark.parametrize("name", [name for name in SMALL if name >= "04"])
    def test_notebook_runs_and_its_claims_and_solutions_hold(self, name, tmp_path):
        run_unanswered_and_solved(name, tmp_path, SMALL[name])

    def test_notebook_04_learns_as_much_as_it_claims(self, tmp_path):
        run_unanswered_and_solved("04_training", tmp_path, {})
