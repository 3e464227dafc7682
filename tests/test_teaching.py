"""What a reader and a teacher get: pages without noise or network, notebooks without solutions."""

import re

import nbformat
import pytest
from nbformat import v4

from ip2p.teaching.assignments import CHECK, write_assignments
from ip2p.teaching.formulas import mathml
from ip2p.teaching.notebook_files import NOTEBOOKS, as_read, parameters, read
from ip2p.teaching.pages import write_page
from ip2p.teaching.run_notebooks import STAGES, choose_notebooks

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$]+)\$(?!\$)", re.DOTALL)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_a_notebook_can_be_shown(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            for block, inline in FORMULA.findall(text):
                assert mathml(block or inline).startswith("<math ")


def test_what_is_no_formula_is_refused():
    assert "<mfrac>" in mathml(r"\frac{a}{b}") and 'display="block"' in mathml("a < b", display=True)
    assert "&#92;n##" in mathml(r"\texttt{\textbackslash n\#\#}") and "&#x2016;" in mathml(r"\big\lVert x")
    for wrong in (r"\nosuchcommand x", r"\left( x"):
        with pytest.raises(ValueError, match="cannot be converted"):
            mathml(wrong)


def executed():
    """A tiny notebook as papermill leaves it: another seed and folder, bars, a widget."""
    bar = "Loading weights: 100%|██████████| 52/52 [00:00<00:00, 410.33it/s]\n"
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    outputs = [
        v4.new_output("stream", name="stderr", text="\r" + bar),
        v4.new_output(
            "display_data", data=widget | {"text/plain": "edits:   0%|          | 0/5 [00:00<?, ?it/s]"}
        ),
        v4.new_output("stream", name="stderr", text="a warning: half of it is 50% | done\n"),
        v4.new_output("display_data", data=widget | {"text/plain": "EditExplorer()", "image/png": "aGk="}),
        v4.new_output("stream", name="stdout", text="the answer\n"),
    ]
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell(
                "# 00 Tiny: is it $x^2$?\n\n$$\\sqrt{y}$$ and $\\nosuchcommand$, in code `$5`"
            ),
            v4.new_code_cell(
                'SEED: int = 0  # any\nOUT: str = "out"  # folder', metadata={"tags": ["parameters"]}
            ),
            v4.new_code_cell(
                '# Parameters\nOUT = "/tmp/there"\nSEED = 7\n', metadata={"tags": ["injected-parameters"]}
            ),
            v4.new_code_cell("work()", outputs=outputs),
        ],
        metadata={"widgets": {}, "kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


def test_a_page_says_what_it_ran_with_and_has_no_bars():
    given = executed()
    before = nbformat.writes(given)
    nb = as_read(given)
    nbformat.validate(nb)
    assert nbformat.writes(given) == before, "what was given stays as it was"
    assert parameters(nb) == {"SEED": "SEED: int = 7  # any", "OUT": 'OUT: str = "out"  # folder'}
    assert len(nb.cells) == 3 and "widgets" not in nb.metadata
    warning, explorer, answer = nb.cells[-1].outputs
    assert warning.text.startswith("a warning") and answer.text == "the answer\n"
    assert explorer.data.keys() == {"text/plain", "image/png"}


def test_a_page_fetches_nothing_and_shows_formulas(tmp_path):
    nbformat.write(executed(), tmp_path / "00_tiny.ipynb")
    write_page(tmp_path / "00_tiny.ipynb", tmp_path)
    page = (tmp_path / "00_tiny.html").read_text(encoding="utf-8")
    assert page.count("<math ") == 2 and "<code>\\nosuchcommand</code>" in page and "<code>$5</code>" in page
    assert not re.search(r"<script[^>]* src=|<link[^>]* href=.http|@import", page)


def test_assignments_have_exercises_but_no_solutions(tmp_path):
    written = write_assignments(tmp_path / "class")
    assert [path.name for path in written] == sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    for path in written:
        nb = read(path)
        nbformat.validate(nb)
        exercises = [cell for cell in nb.cells if cell.cell_type == "code" and CHECK.search(cell.source)]
        grades = [cell.metadata["nbgrader"]["grade_id"] for cell in exercises]
        assert len(grades) >= 2 and len(set(grades)) == len(grades)
        text = "".join(cell.source for cell in nb.cells)
        assert "Solution</summary>" not in text
    with pytest.raises(ValueError, match="class is not an empty folder"):
        write_assignments(tmp_path / "class")


def test_a_whole_number_means_one_notebook_and_a_beginning_all_that_begin_so():
    def chosen(*names):
        return [path.stem.partition("_")[0] for path in choose_notebooks(NOTEBOOKS, names)]

    assert chosen("01") == ["01"] and chosen("01b") == ["01b"] and chosen("01_inst") == ["01"]
    assert chosen(*STAGES) == list(STAGES)
    assert chosen("0", "9") == [path.stem.partition("_")[0] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
