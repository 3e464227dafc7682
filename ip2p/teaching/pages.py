"""What shows executed notebooks: a page for each, an index of them, and the README's table."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from ip2p.common.markdown import fill
from ip2p.paths import ROOT, need_clone
from ip2p.teaching.notebook_files import (
    NOTEBOOKS,
    as_read,
    first_picture,
    minutes,
    name_and_question,
    number_of,
    read,
)

STYLE = """
:focus-visible { outline: 3px solid #06c; outline-offset: 2px }
body { font: 16px/1.5 system-ui, sans-serif; margin: 3em auto; max-width: 66em; padding: 0 1em; color: #233;
       background: #fbf8f1 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19em, 100%), 1fr)); gap: 1.5em }
a { color: inherit; text-decoration: none }
.card { background: #fff; border-radius: 12px; overflow: hidden; box-shadow: 0 1px 6px #0002; display: block }
.card:hover { box-shadow: 0 4px 16px #0003 }
.card div { height: 11em; background: #eef3f2 center/contain no-repeat }
.card h2 { font-size: 1.1em; margin: .8em 1em 0 }
.card p { margin: .2em 1.1em 1em; color: #566 }
"""

# What each notebook reads: the five stages, one file each, and what those that paint have in common.
MODULES = {
    "01": "[ip2p/instructions.py](ip2p/instructions.py) (3.1.1)",
    "01b": "[ip2p/common/diffusion.py](ip2p/common/diffusion.py)",
    "02": "[ip2p/prompt_to_prompt.py](ip2p/prompt_to_prompt.py) (3.1.2)",
    "03": "[ip2p/clip_filter.py](ip2p/clip_filter.py) (3.1.2)",
    "04": "[ip2p/training.py](ip2p/training.py) (3.2)",
    "05": "[ip2p/editing.py](ip2p/editing.py) (3.2.1)",
}


def write_page(path: Path, folder: Path) -> None:
    """Write the notebook at `path` as one HTML file beside it, which needs no network; its text finds its
    pictures in `folder`."""
    from ip2p.teaching.formulas import OfflineExporter

    nb = as_read(read(path))
    resources = {"metadata": {"name": path.stem, "path": str(folder)}}
    page, _ = OfflineExporter(embed_images=True).from_notebook_node(nb, resources=resources)
    path.with_suffix(".html").write_text(page, encoding="utf-8")


def write_index(out: Path) -> Path:
    """Write `out`/index.html: a card for each executed notebook, with its picture, question and minutes."""
    cards = [card(path) for path in sorted(out.glob("[0-9]*.ipynb"))]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ip2p</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><main>"
        "<h1>InstructPix2Pix, run by yourself</h1>"
        "<p>What your machine has just computed, notebook by notebook.</p>"
        f'<div class="cards">{"".join(cards)}</div></main></html>\n'
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def card(path: Path) -> str:
    """The HTML of one executed notebook's card in the index."""
    nb = read(path)
    name, question = name_and_question(nb)
    took = minutes(nb)
    duration = "not finished" if took is None else f"{took:.1f} minutes"
    picture = first_picture(nb)
    background = f' style="background-image:url({thumbnail(picture)})"' if picture else ""
    return (
        f'<a class="card" href="{path.stem}.html"><div{background}></div>'
        f"<h2>{html.escape(name or path.stem)}</h2><p>{html.escape(question)}<br>{duration}</p></a>"
    )


def thumbnail(picture: bytes) -> str:
    """The bytes of a PNG or JPEG file as a data URL of at most 640 x 400 pixels."""
    from ip2p.common.images import open_image

    image = open_image(io.BytesIO(picture), "the picture of a notebook")
    image.thumbnail((640, 400))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def readme_table(out: Path, readme: str) -> str:
    """The README's table of notebooks and stages, with the minutes of the last runs in `out`; what did not
    run there keeps those that it has in `readme`, the text of the page."""
    rows = ["| Notebook | Its question | Module (section of the paper) | Minutes |", "|---|---|---|---:|"]
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        name, question = name_and_question(read(path))
        executed = out / path.name
        took = minutes(read(executed)) if executed.exists() else None
        duration = minutes_told(readme, path) if took is None else f"{took:.1f}"
        module = MODULES.get(number_of(path), "")
        rows.append(f"| [{name}](notebooks/{path.name}) | {question} | {module} | {duration} |")
    return "\n".join(rows)


def minutes_told(readme: str, path: Path) -> str:
    """The last cell of a notebook's row in the README."""
    for line in readme.splitlines():
        if line.startswith("| [") and f"(notebooks/{path.name})" in line:
            return line.split(" | ")[-1].removesuffix(" |")
    return "not measured yet"


def renew_readme_table(out: Path) -> None:
    """Write the README's table of notebooks again, with the minutes of the runs in `out`."""
    need_clone("ip2p notebooks --readme")
    page = ROOT / "README.md"
    fill(page, {"notebooks": readme_table(out, page.read_text(encoding="utf-8"))})
