"""Executes the notebooks with papermill and makes pages with an index of them: `ip2p notebooks`."""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ip2p.common.errors import UserError
from ip2p.paths import ROOT, need_clone
from ip2p.teaching.notebook_files import NOTEBOOKS, number_of, parameters, read
from ip2p.teaching.pages import write_index, write_page

STAGES = ("00", "01", "01b", "02", "03", "04", "05")  # what `make run` executes: five stages and the primer

# Of a kernel's process; what the user has set wins. The Makefile says why threads should not spin.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}


def run_notebooks(
    names: Sequence[str] = STAGES,
    out: Path = ROOT / "out",
    values: Mapping[str, object] | None = None,
    folder: Path = NOTEBOOKS,
) -> bool:
    """Execute the notebooks of `folder` that begin with one of `names`; pages and an index go to `out`.

    values: parameters, each set in every notebook that has it. Returns whether all of them ran to their end;
    stops at the first that does not. Raises ValueError for a name or a parameter that no notebook has, and if
    `out` cannot be written.
    """
    if folder == NOTEBOOKS:
        need_clone("ip2p notebooks")
    chosen = choose_notebooks(folder, names)
    values_of = share_out(values or {}, chosen)
    refuse_unwritable(out)
    for path in chosen:
        refuse_foreign_results(path, out)

    begin = time.monotonic()
    for path in chosen:
        try:
            execute(path, out, values_of[path])
        except Exception as error:  # papermill's, nbclient's (a kernel that died) and the disk's
            print(f"\n{explain(error, path.name)}", file=sys.stderr)
            if (out / path.name).exists():
                print(f"How far it came: {out / path.stem}.html", file=sys.stderr)
            return False
    took = (time.monotonic() - begin) / 60
    count = "1 notebook" if len(chosen) == 1 else f"{len(chosen)} notebooks"
    print(f"\n{count} ran in {took:.1f} minutes. Open this in a browser: {out.resolve() / 'index.html'}")
    return True


def refuse_unwritable(folder: Path) -> None:
    """Raises ValueError if `folder` is a file or cannot be written; makes it if it is missing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder to write into")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None


def choose_notebooks(folder: Path, names: Sequence[str]) -> list[Path]:
    """The notebooks of `folder` whose names begin with one of `names`. Raises ValueError if there is none."""
    beginnings = [Path(name).stem for name in names]
    chosen = []
    for path in sorted(folder.glob("*.ipynb")):
        if any(is_meant(path, beginning) for beginning in beginnings):
            chosen.append(path)
    if not chosen:
        raise ValueError(f"no notebook in {folder} has a name that begins with {' or '.join(beginnings)}")
    return chosen


def is_meant(path: Path, beginning: str) -> bool:
    """Whether a notebook's name begins so; but 01 means notebook 01, not 01b."""
    number = number_of(path)
    if beginning == number[:2]:
        return beginning == number
    return path.stem.startswith(beginning)


def share_out(values: Mapping[str, object], chosen: Sequence[Path]) -> dict[Path, dict[str, object]]:
    """The parameters among `values` that each notebook has. Raises ValueError for one that none has."""
    values_of = {}
    unknown = set(values)
    for path in chosen:
        known = parameters(read(path))
        values_of[path] = {name: value for name, value in values.items() if name in known}
        unknown -= set(known)
    if unknown:
        names = ", ".join(path.stem for path in chosen)
        raise ValueError(f"none of {names} has a parameter {' or '.join(sorted(unknown))}")
    return values_of


def execute(path: Path, out: Path, values: Mapping[str, object] | None = None) -> Path:
    """Run a notebook in its own folder with the parameters `values`; returns the executed one, in `out`.

    Its page (.html) lies beside it, what it writes itself (its parameter OUT) in the folder `out`/NAME.
    Raises papermill's PapermillExecutionError if a cell fails; the two files show how far it came. Raises
    ValueError if they would take the place of files that no run left there.
    """
    import papermill

    refuse_foreign_results(path, out)
    use_own_kernel()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    path = path.resolve()
    folder = out.resolve() / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    target = out / path.name
    target.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            {"OUT": os.path.relpath(folder, path.parent), **(values or {})},
            kernel_name="python3",
            language="python",
            cwd=str(path.parent),
            progress_bar={"desc": path.stem},
            start_timeout=300,
            extra_arguments=["--log-level=ERROR"],
        )
    except BaseException:
        if target.exists():
            mark_as_failed(target)
        raise
    finally:
        if target.exists():
            write_page(target, path.parent)
        write_index(out)
    return target


def refuse_foreign_results(path: Path, out: Path) -> None:
    """Raises ValueError if running the notebook at `path` would overwrite in `out` what no run left there."""
    signs = {  # file name: a text that is in every result of a run
        path.name: '"papermill": {',
        f"{path.stem}.html": f"<title>{path.stem}</title>",
        "index.html": "<title>ip2p</title>",
    }
    for name, sign in signs.items():
        file = out / name
        if not file.exists() or file.stat().st_size == 0:
            continue
        if sign not in file.read_text(encoding="utf-8", errors="replace"):
            raise ValueError(
                f"{file} is not the result of a run and would be overwritten; choose another folder"
            )


def mark_as_failed(path: Path) -> None:
    """Note in an executed notebook that it failed: papermill notes a failing cell, but no dead kernel."""
    import nbformat

    nb = read(path)
    nb.metadata.setdefault("papermill", {})["exception"] = True
    nbformat.write(nb, path)


def use_own_kernel() -> None:
    """Let "python3" mean the kernel beside this Python, whatever kernels the user has installed elsewhere."""
    from jupyter_client.kernelspec import KernelSpecManager

    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    found = Path(KernelSpecManager().get_kernel_spec("python3").resource_dir).resolve()
    if not found.is_relative_to(Path(sys.prefix).resolve()):
        raise UserError(f"the kernel python3 is in {found}, not in {sys.prefix}: install ipykernel there")


def explain(error: Exception, name: str) -> str:
    """What went wrong in a notebook, for a person: the error, the cell's source, the end of the traceback."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        hint = " (a kernel that dies has most often run out of memory)" if "died" in str(error) else ""
        return f"{name} could not be run: {error}{hint}"
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    end = "\n".join(without_colours.split("\n")[-25:])
    return (
        f"{name} failed at In [{error.exec_count}] with {error.ename}: {error.evalue}\n\n"
        f"{textwrap.indent(error.source.strip(), '    ')}\n\n{textwrap.indent(end, '    ')}\n"
    )


def value_of(text: str) -> object:
    """A parameter from the command line: a Python value if it reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
