"""The house: imports run one way, and the stages can be read in one go.

`python tests/test_house.py` prints the counts of every file.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
STAGES = ("instructions", "prompt_to_prompt", "clip_filter", "training", "editing")

# From the roof to the ground: a floor uses those below it, never those above. Rooms on one floor stand side by side.
FLOORS = (
    ("cli",),
    ("teaching",),
    ("study",),
    ("models",),
    ("factory",),
    STAGES,
    ("backends",),
    ("dataset",),
    ("profiles", "options"),
    ("common", "miniworld"),
    ("paths",),
)
# What the stages cannot run without, beside themselves.
NEEDED = (
    "profiles",
    "options",
    "paths",
    "backends.protocol",
    "backends.local",
    "dataset",
    "factory.candidates",
    "factory.pairs",
    "common",
)


def floor_of(module: str) -> int | None:
    """The number of a module's floor; None for the package itself."""
    room = module.split(".")[1] if "." in module else None
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    return None


def test_imports_run_one_way():
    graph = grimp.build_graph("ip2p")
    backwards = []
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            here, there = floor_of(importer), floor_of(imported)
            if here is not None and there is not None and there < here:
                backwards.append(f"{importer} -> {imported}")
    assert not backwards
    rooms = {module.split(".")[1] for module in graph.modules if "." in module}
    assert rooms == {room for rooms in FLOORS for room in rooms}, "every room has its floor"


def test_no_module_needs_itself():
    graph = grimp.build_graph("ip2p")
    circles = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if imported in graph.find_downstream_modules(module)
    ]
    assert not circles


class Counts(NamedTuple):
    """Of one file, or of several."""

    lines: int  # all of them
    code: int  # lines that hold code or documentation strings: neither blank nor a comment
    nodes: int  # expressions and statements
    comprehensions: int
    longest: int  # lines of the longest function


def count(path: Path) -> Counts:
    source = path.read_text(encoding="utf-8")
    empty = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            code |= set(range(token.start[0], token.end[0] + 1))
    nodes = list(ast.walk(ast.parse(source)))
    comprehension = (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    return Counts(
        lines=source.count("\n"),
        code=len(code),
        nodes=sum(isinstance(n, (ast.expr, ast.stmt)) for n in nodes),
        comprehensions=sum(isinstance(n, comprehension) for n in nodes),
        longest=max((f.end_lineno - f.lineno + 1 for f in functions), default=0),
    )


def together(counts: list[Counts]) -> Counts:
    lines, code, nodes, comprehensions, longest = zip(*counts, strict=True)
    return Counts(sum(lines), sum(code), sum(nodes), sum(comprehensions), max(longest))


def files(*names: str) -> list[Path]:
    """The Python files of modules or packages of ip2p."""
    found = []
    for name in names:
        place = ROOT / "ip2p" / name.replace(".", "/")
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return found


def test_the_stages_can_be_read_in_one_go():
    stages = together([count(path) for path in files(*STAGES)])
    assert stages.nodes / stages.code <= 5.4  # counted alike: nanoGPT 5.7, CLIP 5.6, k-diffusion 7.9
    assert 100 * stages.comprehensions / stages.code <= 4
    assert stages.longest <= 60


def test_the_stages_and_what_they_need_are_short():
    assert together([count(path) for path in files(*STAGES, *NEEDED)]).lines < 3500


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or files("."):
        c = count(path)
        print(
            f"{path}: {c.lines} lines, {c.nodes / max(c.code, 1):.1f} nodes and "
            f"{100 * c.comprehensions / max(c.code, 1):.1f} comprehensions per 100 of {c.code} lines, "
            f"longest function {c.longest}"
        )
