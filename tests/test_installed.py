"""ip2p installed from a wheel, in a folder where there is nothing of its repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.paths import DATA, ROOT
from ip2p.teaching.docs import checksums
from ip2p.teaching.quiz import QUIZZES

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
CAT = DATA / "images" / "cat.png"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the clone, in whose data a job has left files that should not travel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("ip2p", "data"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "work", ".*")
        )
    for name in ("models/mini-sd/work/half.txt", ".hidden", "pairs/.lock", "pairs/pairs-00000.parquet.tmp"):
        left = source / "data" / name
        left.parent.mkdir(exist_ok=True)
        left.touch()
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", out, source], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder into which the wheel is installed; dependencies come from this Python."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def call(installed: Path, cwd: Path, *command: str | Path) -> subprocess.CompletedProcess:
    threads = str(torch.get_num_threads())  # another number has other last bits
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": threads}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_data_and_nothing_that_a_job_left(wheel):
    with zipfile.ZipFile(wheel) as file:
        found = {name.removeprefix("ip2p/data/") for name in file.namelist() if name.startswith("ip2p/data/")}
    rows = checksums(DATA).split("\n")[2:]
    assert found == {"README.md"} | {row.split(" | ")[0].removeprefix("| ") for row in rows}


def test_the_wheel_holds_the_quizzes(wheel):
    with zipfile.ZipFile(wheel) as file:
        found = {Path(name).name for name in file.namelist() if name.startswith("ip2p/teaching/quizzes/")}
    assert found == {path.name for path in QUIZZES.glob("*.json")} and len(found) == 10


def test_a_picture_is_edited_as_in_the_clone(installed, tmp_path):
    shutil.copy(CAT, tmp_path / "cat.png")
    options = ["--steps", "2", "--out", "night.png"]
    ip2p = installed / "bin" / "ip2p"
    done = call(installed, tmp_path, sys.executable, ip2p, "edit", "cat.png", "make it night", *options)
    assert done.stdout == "saved night.png\n", done.stderr
    here = load_editor("mini")(open_image(CAT), "make it night", num_inference_steps=2, seed=0)
    with Image.open(tmp_path / "night.png") as there:
        assert np.array_equal(np.asarray(there), np.asarray(here))


def test_the_installed_module_and_its_data_are_used(installed, tmp_path):
    script = "import ip2p, ip2p.paths; print(ip2p.__file__); print(ip2p.paths.DATA)"
    module, data = call(installed, tmp_path, sys.executable, "-c", script).stdout.split()
    assert Path(module).parent == installed / "ip2p"
    assert Path(data) == installed / "ip2p" / "data"


def test_commands_that_need_the_clone_say_so(installed, tmp_path):
    commands = [
        ["notebooks"],
        ["notebooks", "--readme"],
        ["site"],
        ["docs"],
        ["figures"],
        ["bench", "filter"],
    ]
    script = f"from ip2p.cli import main\nfor command in {commands}: assert main(command) == 1"
    done = call(installed, tmp_path, sys.executable, "-c", script)
    said = done.stderr.strip().split("\n")
    assert done.returncode == 0 and len(said) == len(commands), done.stderr
    for command, sentence in zip(commands, said, strict=True):
        assert sentence.startswith(f"ip2p: `ip2p {command[0]}") and "clone the repository" in sentence
    assert not list(tmp_path.iterdir())
