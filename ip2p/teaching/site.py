"""A static site: the executed notebooks, and a reference of the module. `make site`, after `make run`.

The pages are made by Sphinx from a copy of the files they link to, laid out as in the repository, so that the
same links work. A warning, such as a link that leads nowhere, is an error. Notebooks that were not executed
yet are executed now. A folder OUT/site that this command did not make is left alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from ip2p.common.folders import fill_folder, refuse_foreign, temporary_folder
from ip2p.paths import ROOT, need_clone
from ip2p.teaching.notebook_files import NOTEBOOKS, as_read, read
from ip2p.teaching.run_notebooks import execute

LINKED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "tests/slow.py",
    "LICENSE",
    "data/README.md",
    "data/models/*/README.md",
    "data/models/*/*.jpg",
    "data/images/*",
    "data/eval/*.csv",
    "ip2p/*.py",
    "ip2p/common/diffusion.py",
    "ip2p/miniworld/samples.py",
)

MAKER = "ip2p site"  # whose folders may be filled again


def build_site(out: Path, executed: Path | None = None) -> Path:
    """Make the site in `out`/site from the notebooks executed in `executed` (None: in `out`).

    Returns its first page. Raises ValueError with Sphinx's warnings, or if `out`/site was not made here.
    """
    need_clone(MAKER)
    refuse_foreign(out / "site", MAKER)
    with temporary_folder(out) as temporary:
        source = temporary / "source"
        site = temporary / "site"
        collect_sources(executed or out, source)
        options = ["-W", "--keep-going", "-q", "-b", "html"]
        command = [sys.executable, "-m", "sphinx", *options, str(source), str(site)]
        sphinx = subprocess.run(command, capture_output=True, text=True)
        if sphinx.returncode:
            raise ValueError(f"the site was not made, because of these warnings:\n{sphinx.stderr}")
        for page in site.rglob("*.html"):
            page.write_text(mended(page.read_text(encoding="utf-8")), encoding="utf-8")
        fill_folder(out / "site", site, MAKER)
    return out / "site" / "index.html"


def mended(page: str) -> str:
    """Sphinx's page with what readers need who use a keyboard or a screen reader: what scrolls can be
    focused, captions have a level, and lists of parameters do not pretend to define terms."""
    page = page.replace("<pre>", '<pre tabindex="0">')
    page = page.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    page = page.replace('class="caption" role="heading">', 'class="caption" role="heading" aria-level="2">')

    def parameters(found: re.Match) -> str:
        items = found[1].replace("<dd>", '<div class="parameter">').replace("</dd>", "</div>")
        return f"<div>{items}</div>"

    return re.sub(r"<dl>\s*(<dd>.*?)</dl>", parameters, page, flags=re.DOTALL)


def collect_sources(executed: Path, source: Path) -> None:
    """Copy what the site is made of to the new folder `source`; executed notebooks are in `executed`."""
    shutil.copytree(ROOT / "site", source)
    for pattern in LINKED:
        for path in ROOT.glob(pattern):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (source / "notebooks").mkdir()
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        done = executed / path.name
        if not done.is_file():
            done = execute(path, executed)
        copy_as_read(done, source / "notebooks" / path.name)


def copy_as_read(path: Path, target: Path) -> None:
    """Copy the notebook at `path` to `target`, as a page shows it."""
    import nbformat

    nbformat.write(as_read(read(path)), target)
