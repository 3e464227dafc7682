"""Continuous integration that others run: its files are valid, and its versions are those tested here."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_workflows_fit_their_schema():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [path.stem for path in workflows] == ["lint", "test", "weekly"]
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run([checker, "--builtin-schema", "vendor.github-workflows", *workflows], check=True)


def test_workflows_call_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for target in re.findall(r"\bmake (\w+)", path.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name} calls make {target}"


def test_pre_commit_checks_with_the_same_versions():
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {Path(repository["repo"]).name: repository["rev"].lstrip("v") for repository in hooks}
    assert versions == {"ruff-pre-commit": pinned["ruff"], "nbstripout": pinned["nbstripout"]}
