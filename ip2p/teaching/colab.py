"""Notebooks that open in Colab: `ip2p notebooks --colab OWNER/NAME`."""

from __future__ import annotations

import re
from pathlib import Path

from ip2p.teaching.notebook_files import read

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)

FETCH = """\
# On Colab this fetches ip2p and installs what it needs; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("ip2p") is None:
    import os
    import subprocess
    import sys
    import tomllib

    if not os.path.isdir("ip2p-clone"):  # there already, after a restart
        subprocess.run(["git", "clone", "--depth", "1", "{address}", "ip2p-clone"], check=True)
    with open("ip2p-clone/pyproject.toml", "rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed], check=True)
    sys.path.insert(0, os.path.abspath("ip2p-clone"))
    os.chdir("ip2p-clone/notebooks")"""


def prepare_for_colab(path: Path, repository: str, host: str = "https://github.com") -> None:
    """Give the notebook at `path` Colab's badge, and a first code cell that fetches there what is missing.

    repository: OWNER/NAME. An earlier badge and cell are replaced.
    """
    import nbformat

    nb = read(path)
    heading, *others = [cell for cell in nb.cells if "fetch" not in cell.metadata.get("tags", ())]
    heading.source = with_badge(heading.source, BADGE.format(repository=repository, name=path.name))
    fetch = nbformat.v4.new_code_cell(FETCH.replace("{address}", f"{host}/{repository}"))
    fetch.id = "fetch"
    fetch.metadata["tags"] = ["fetch"]
    nb.cells = [heading, fetch, *others]
    nbformat.write(nb, path)


def with_badge(source: str, badge: str) -> str:
    """The Markdown of a notebook's first cell with `badge` below its title, instead of an earlier one."""
    title, *lines = [line for line in source.split("\n") if "colab-badge.svg" not in line]
    source = "\n".join([title, "", badge, "", *lines])
    return re.sub(r"\n{3,}", "\n\n", source)
