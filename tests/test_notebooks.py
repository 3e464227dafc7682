"""The notebooks, executed with papermill on the bundled models. Each asserts itself what it claims.

Parameters make them as small as their claims allow; `make run` executes them at full size.
"""

import pytest

from ip2p import notebooks

SMALL = {
    "00_quickstart": {},
    "01_instruction_generation": {"CAPTIONS": 24, "TRIPLETS": 6},
    "02_prompt_to_prompt_pairs": {"EDITS": 4, "SHARES": [0.0, 0.9]},
    "03_clip_filtering": {},
    "04_training": {},  # its claims are about learning, and need all of it
    "05_guided_editing": {"EDITS": 6},
    "06_evaluation": {"EDITS": 12, "LAYER_STEPS": 30},
    "90_scaling_out": {"TRIPLETS": 4, "ON_THE_CLUSTER": 4},
}


def test_every_notebook_is_here():
    assert SMALL.keys() == {path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_and_its_claims_hold(name, tmp_path):
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
    assert SMALL[name].keys() <= notebooks.parameters(notebooks.read(path)).keys(), "a parameter that is not there"
    done = notebooks.read(notebooks.execute(path, tmp_path, SMALL[name]))
    assert notebooks.minutes(done) is not None and notebooks.picture(done) is not None
    assert not any(output.get("name") == "stderr" and "Traceback" in output.get("text", "")
                   for cell in done.cells for output in cell.get("outputs", ()))
