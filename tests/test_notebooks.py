"""The notebooks, executed with papermill on the bundled models. Each asserts itself what it claims.

Parameters make them as small as their claims allow; `make run` executes them at full size.
"""

import pytest

from ip2p import notebooks

SMALL = {
    "02_prompt_to_prompt_pairs": {"STEPS": 10, "EDITS": 3, "SHARES": [0.0, 0.9], "SCENES": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_and_its_claims_hold(name, tmp_path):
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
    assert SMALL[name].keys() <= notebooks.parameters(notebooks.read(path)).keys(), "a parameter that is not there"
    done = notebooks.read(notebooks.execute(path, tmp_path, SMALL[name]))
    assert notebooks.minutes(done) is not None and notebooks.picture(done) is not None
    assert not any(output.get("name") == "stderr" and "Traceback" in output.get("text", "")
                   for cell in done.cells for output in cell.get("outputs", ()))
