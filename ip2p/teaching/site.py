"""A static site of the executed notebooks, the README and a glossary: `make site`, best after `make run`.

The pages are made by Sphinx from a copy of the files they link to, laid out as in the repository, so that the same
links work. A warning, such as a link that leads nowhere, is an error. Notebooks that were not executed yet are.
A folder OUT/site that this command did not make is left alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ip2p.common.folders import fill_folder, refuse_foreign, temporary_folder
from ip2p.paths import ROOT
from ip2p.teaching import run_notebooks as notebooks

LINKED = (
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "data/README.md",
    "data/models/*/README.md",
    "data/images/*",
    "data/eval/*.csv",
    "ip2p/profiles.py",
    "ip2p/miniworld/samples.py",
)

MAKER = "ip2p site"  # whose folders may be filled again
WIDGET = (
    "application/vnd.jupyter.widget-view+json"  # needs a kernel; each leaves a still picture or a text, too
)


def collect(executed: Path, source: Path) -> None:
    """Copy what the site is made of to the new folder `source`; executed notebooks are in `executed`."""
    import nbformat

    shutil.copytree(ROOT / "site", source)
    for pattern in LINKED:
        for path in ROOT.glob(pattern):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (source / "notebooks").mkdir()
    for path in sorted(notebooks.NOTEBOOKS.glob("[0-9]*.ipynb")):
        if not (executed / path.name).is_file():
            notebooks.execute(path, executed)
        nb = notebooks.read(executed / path.name)
        nb.metadata.pop("widgets", None)
        for output in (
            o for cell in nb.cells for o in cell.get("outputs", ()) if WIDGET in o.get("data", {})
        ):
            del output["data"][WIDGET]
        nbformat.write(nb, source / "notebooks" / path.name)


def build(out: Path, executed: Path | None = None) -> Path:
    """Make the site in `out`/site from the notebooks executed in `executed` (None: `out`); returns its first page.
    Raises ValueError if a page has a warning, or if `out`/site is not a site that was made here."""
    refuse_foreign(out / "site", MAKER)
    with temporary_folder(out) as temporary:
        source, site = temporary / "source", temporary / "site"
        collect(executed or out, source)
        options = ["-W", "--keep-going", "-q", "-b", "html"]
        command = [sys.executable, "-m", "sphinx", *options, str(source), str(site)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise ValueError(f"the site was not made, because of these warnings:\n{made.stderr}")
        fill_folder(out / "site", site, MAKER)
    return out / "site" / "index.html"
