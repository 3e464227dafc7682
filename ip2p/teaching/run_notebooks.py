"""Executes the notebooks with papermill and makes pages with an index of them: `ip2p notebooks`."""

from __future__ import annotations

import ast
import base64
import html
import io
import os
import re
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ip2p.common.markdown import fill
from ip2p.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"

STAGES = ("00", "01", "02", "03", "04", "05")  # what `make run` executes: the paper's five stages


def read(path: Path):
    """The notebook at `path`, as nbformat's version 4."""
    import nbformat

    return nbformat.read(path, as_version=4)


def title(nb) -> tuple[str, str]:
    """Name and question of a notebook, from its heading: `# 03 CLIP filtering: which pairs count?`."""
    heads = [c.source for c in nb.cells if c.cell_type == "markdown" and c.source.startswith("# ")]
    name, _, question = heads[0].split("\n")[0].lstrip("# ").partition(":") if heads else ("", "", "")
    return name.strip(), question.strip()


def parameters(nb) -> dict[str, str]:
    """The names of the cell tagged `parameters`, each with the line that sets it."""
    cells = [c.source for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    out = {}
    for node in ast.parse(cells[0]).body if cells else ():
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name):
            out[target.id] = cells[0].split("\n")[node.lineno - 1]
    return out


def minutes(nb) -> float | None:
    """How long the notebook ran; None if it did not, or not to its end."""
    run = nb.metadata.get("papermill", {})
    return None if run.get("exception") or not run.get("duration") else run["duration"] / 60


def picture(nb) -> bytes | None:
    """The first picture that the notebook put out (PNG or JPEG)."""
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    return base64.b64decode(output["data"][kind])


# ---------------------------------------------------------------------------------------------- execution


def use_own_kernel() -> None:
    """Let "python3" mean the kernel beside this Python, whatever kernels the user has installed elsewhere."""
    from jupyter_client.kernelspec import KernelSpecManager

    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    found = Path(KernelSpecManager().get_kernel_spec("python3").resource_dir).resolve()
    if not found.is_relative_to(Path(sys.prefix).resolve()):
        raise RuntimeError(f"the kernel python3 is in {found}, not in {sys.prefix}: install ipykernel there")


def refuse_foreign_results(path: Path, out: Path) -> None:
    """Raises ValueError if running the notebook at `path` would overwrite, in `out`, what no earlier run left there."""
    target = out / path.name
    pages = {
        target.with_suffix(".html"): f"<title>{path.stem}</title>",
        out / "index.html": "<title>ip2p</title>",
    }
    for file, sign in {target: '"papermill": {', **pages}.items():
        if (
            file.exists()
            and file.stat().st_size
            and sign not in file.read_text(encoding="utf-8", errors="replace")
        ):
            raise ValueError(
                f"{file} is not the result of a run and would be overwritten; choose another folder"
            )


def execute(path: Path, out: Path, values: dict | None = None) -> Path:
    """Run a notebook in its own folder with the parameters `values`; returns the executed one, in `out`.

    Its page (.html) lies beside it, what it writes itself (its parameter OUT) in the folder `out`/NAME.
    Raises papermill's PapermillExecutionError if a cell fails; the two files show how far it came. Raises ValueError
    if they would take the place of files that no run left there.
    """
    import nbformat
    import papermill

    refuse_foreign_results(path, out)
    use_own_kernel()
    for name, value in {
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "20000",
    }.items():
        os.environ.setdefault(name, value)
    path, folder = path.resolve(), out.resolve() / path.stem
    target = out / path.name
    folder.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    values = {"OUT": os.path.relpath(folder, path.parent), **(values or {})}
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            values,
            kernel_name="python3",
            language="python",
            cwd=str(path.parent),
            progress_bar={"desc": path.stem},
            start_timeout=300,
            extra_arguments=["--log-level=ERROR"],
        )
    except BaseException:
        if target.exists():  # papermill notes a failing cell, but not a kernel that died
            nb = read(target)
            nb.metadata.setdefault("papermill", {})["exception"] = True
            nbformat.write(nb, target)
        raise
    finally:
        if target.exists():
            write_page(target, path.parent)
        write_index(out)
    return target


def write_page(path: Path, folder: Path) -> None:
    """The notebook at `path` as one HTML file beside it; `folder`: where its text finds its pictures."""
    from nbconvert import HTMLExporter

    resources = {"metadata": {"name": path.stem, "path": str(folder)}}
    nb = read(path)
    nb.metadata.pop(
        "widgets", None
    )  # with their state the page would fetch live widgets and hide the still picture
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(nb, resources=resources)
    path.with_suffix(".html").write_text(page, encoding="utf-8")


def explain(error: Exception, name: str) -> str:
    """What went wrong in a notebook, for a person: the error, the cell's source, the end of the traceback."""
    if not hasattr(error, "cell_index"):
        hint = " (a kernel that dies has most often run out of memory)" if "died" in str(error) else ""
        return f"{name} could not be run: {error}{hint}"
    trace = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in "\n".join(error.traceback).split("\n")]
    shown = textwrap.indent("\n".join(trace[-25:]), "    ")
    return (
        f"{name} failed at In [{error.exec_count}] with {error.ename}: {error.evalue}\n\n"
        f"{textwrap.indent(error.source.strip(), '    ')}\n\n{shown}\n"
    )


# ---------------------------------------------------------------------------------------------- index

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 3em auto; max-width: 66em; padding: 0 1em; color: #233;
       background: #fbf8f1 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(19em, 1fr)); gap: 1.5em }
a { color: inherit; text-decoration: none }
.card { background: #fff; border-radius: 12px; overflow: hidden; box-shadow: 0 1px 6px #0002; display: block }
.card:hover { box-shadow: 0 4px 16px #0003 }
.card div { height: 11em; background: #eef3f2 center/contain no-repeat }
.card h2 { font-size: 1.1em; margin: .8em 1em 0 }
.card p { margin: .2em 1.1em 1em; color: #566 }
"""


def thumbnail(data: bytes) -> str:
    """A picture as a data URL of at most 640 x 400 pixels."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image.thumbnail((640, 400))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_index(out: Path) -> Path:
    """`out`/index.html: a card for each executed notebook, with its first picture, question and minutes."""
    cards = []
    for path in sorted(out.glob("[0-9]*.ipynb")):
        nb = read(path)
        (name, question), took, shown = title(nb), minutes(nb), picture(nb)
        background = f' style="background-image:url({thumbnail(shown)})"' if shown else ""
        cards.append(
            f'<a class="card" href="{path.stem}.html"><div{background}></div>'
            f"<h2>{html.escape(name or path.stem)}</h2><p>{html.escape(question)}<br>"
            f"{'not finished' if took is None else f'{took:.1f} minutes'}</p></a>"
        )
    index = out / "index.html"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ip2p</title><style>{STYLE}</style>'
        "<h1>InstructPix2Pix, run by yourself</h1>"
        "<p>What your machine has just computed, notebook by notebook.</p>"
        f"<main>{''.join(cards)}</main></html>\n"
    )
    index.write_text(page, encoding="utf-8")
    return index


def table(out: Path) -> str:
    """The README's table of notebooks, with the minutes of the last run in `out`."""
    rows = ["| Notebook | Its question | Minutes |", "|---|---|---:|"]
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        name, question = title(read(path))
        took = minutes(read(out / path.name)) if (out / path.name).exists() else None
        shown = "not measured yet" if took is None else f"{took:.1f}"
        rows.append(f"| [{name}](notebooks/{path.name}) | {question} | {shown} |")
    return "\n".join(rows)


# ---------------------------------------------------------------------------------------------- Colab

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


def for_colab(path: Path, repository: str, host: str = "https://github.com") -> None:
    """Give the notebook at `path` Colab's badge, and a first code cell that fetches there what is missing.
    repository: OWNER/NAME. An earlier badge and cell are replaced."""
    import nbformat

    nb = read(path)
    head, *rest = [c for c in nb.cells if "fetch" not in c.metadata.get("tags", ())]
    title, *lines = [line for line in head.source.split("\n") if "colab-badge.svg" not in line]
    head.source = "\n".join([title, "", BADGE.format(repository=repository, name=path.name), "", *lines])
    head.source = re.sub(r"\n{3,}", "\n\n", head.source)
    cell = nbformat.v4.new_code_cell(
        FETCH.replace("{address}", f"{host}/{repository}"), id="fetch", metadata={"tags": ["fetch"]}
    )
    nb.cells = [head, cell, *rest]
    nbformat.write(nb, path)


# ---------------------------------------------------------------------------------------------- command line


def value_of(text: str):
    """A parameter from the command line: a Python value if it reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def renew_table(out: Path = ROOT / "out") -> None:
    """Write the README's table of the notebooks, with the minutes of the run in `out`."""
    fill(ROOT / "README.md", {"notebooks": table(out)})


def run_notebooks(
    names: Sequence[str] = STAGES,
    out: Path = ROOT / "out",
    values: Mapping[str, object] | None = None,
    folder: Path = NOTEBOOKS,
) -> bool:
    """Execute the notebooks of `folder` whose names begin with one of `names`, and make pages and an index in `out`.

    values: parameters, each set in every notebook that has it. Returns whether all of them ran to their end; stops at
    the first that does not. Raises ValueError for a name or a parameter that no notebook has.
    """
    names, values = [Path(name).stem for name in names], values or {}
    chosen = [p for p in sorted(folder.glob("*.ipynb")) if p.stem.startswith(tuple(names))]
    if not chosen:
        raise ValueError(f"no notebook in {folder} has a name that begins with {' or '.join(names)}")
    known = {path: parameters(read(path)) for path in chosen}
    for name in values:
        if not any(name in of_one for of_one in known.values()):
            raise ValueError(f"none of {', '.join(p.stem for p in chosen)} has a parameter {name}")

    for path in chosen:
        refuse_foreign_results(path, out)
    begin = time.monotonic()
    for path in chosen:
        try:
            execute(path, out, {name: value for name, value in values.items() if name in known[path]})
        except Exception as error:  # papermill's, nbclient's (a kernel that died) and the disk's
            print(f"\n{explain(error, path.name)}", file=sys.stderr)
            if (out / path.name).exists():
                print(f"How far it came: {out / path.stem}.html", file=sys.stderr)
            return False
    took = (time.monotonic() - begin) / 60
    count = "1 notebook" if len(chosen) == 1 else f"{len(chosen)} notebooks"
    print(f"\n{count} ran in {took:.1f} minutes. Open this in a browser: {out.resolve() / 'index.html'}")
    return True
