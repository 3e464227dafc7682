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
import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("instructions", "prompt_to_prompt", "clip_filter", "training", "editing")

# From the roof to the ground: a floor uses those below it, never those above.
# Rooms on one floor stand side by side.
FLOORS = (
    ("cli",),
    ("teaching", "doctor"),
    ("study",),
    ("models",),
    ("factory",),
    ("distillation", "feedback", "region"),
    ("learning_on",),
    STAGES,
    ("backends",),
    ("dataset",),
    ("fast",),
    ("profiles", "options"),
    ("common", "miniworld"),
    ("paths",),
)
# The stages cannot run without all that they import. No stage imports the factory: stage 4 reads pairs from
# the disk, whoever made them. But who follows the data from caption to edit reads `factory.pairs`, too, so it
# counts. Not needed: the world that the profile mini is about, and what only
# takes the place of something else (a server that of the local language model, a Ray cluster that of this
# process, a distilled UNet that of the three predictions).
NEEDED = (*STAGES, "factory.pairs")
NOT_NEEDED = (
    "miniworld",
    "backends.openai",
    "backends.batch",
    "factory.on_ray",
    "fast",
)


def import_graph() -> grimp.ImportGraph:
    """Which module imports which, imports inside of functions included."""
    return grimp.build_graph("ip2p", cache_dir=None)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


def floor_of(module: str) -> int | None:
    """The number of a module's floor; None for the package itself."""
    room = module.split(".")[1] if "." in module else None
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    return None


def test_imports_run_one_way(graph):
    backwards = []
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            here = floor_of(importer)
            there = floor_of(imported)
            if here is not None and there is not None and there < here:
                backwards.append(f"{importer} -> {imported}")
    assert not backwards


def test_every_room_has_its_floor(graph):
    rooms = {module.split(".")[1] for module in graph.modules if "." in module}
    floors = {room for floor in FLOORS for room in floor}
    assert rooms == floors


def test_no_import_cycles(graph):
    circles = set()
    for module in graph.modules:
        needed = graph.find_upstream_modules(module)
        needed_by = graph.find_downstream_modules(module)
        both_ways = needed & needed_by
        if both_ways:
            circles.add(", ".join(sorted({module} | both_ways)))
    assert not circles, "each of these needs all the others"


class Counts(NamedTuple):
    """Of one file, or of several."""

    lines: int  # all of them
    code: int  # lines that hold code or documentation strings: neither blank nor a comment
    statements: int  # the same without documentation strings
    nodes: int  # expressions and statements
    comprehensions: int
    longest: int  # lines of the longest function


BLANK = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def count(path: Path) -> Counts:
    source = path.read_text(encoding="utf-8")
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in BLANK:
            code.update(range(token.start[0], token.end[0] + 1))
    nodes = list(ast.walk(ast.parse(source)))
    documentation: set[int] = set()
    for node in nodes:
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            documentation.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lengths = [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, FUNCTIONS)]
    return Counts(
        lines=len(source.splitlines()),
        code=len(code),
        statements=len(code - documentation),
        nodes=sum(isinstance(n, (ast.expr, ast.stmt)) for n in nodes),
        comprehensions=sum(isinstance(n, COMPREHENSIONS) for n in nodes),
        longest=max(lengths, default=0),
    )


def together(counts: list[Counts]) -> Counts:
    return Counts(
        lines=sum(c.lines for c in counts),
        code=sum(c.code for c in counts),
        statements=sum(c.statements for c in counts),
        nodes=sum(c.nodes for c in counts),
        comprehensions=sum(c.comprehensions for c in counts),
        longest=max(c.longest for c in counts),
    )


def files(*names: str) -> list[Path]:
    """The Python files of modules or packages of ip2p."""
    found = []
    for name in names:
        place = ROOT / "ip2p" / name.replace(".", "/")
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return found


def needed_files(graph: grimp.ImportGraph) -> list[Path]:
    """The files of the stages and of what they cannot run without."""
    needed = set()
    to_see = set(files(*NEEDED))
    while to_see:
        path = to_see.pop()
        needed.add(path)
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for imported in graph.find_modules_directly_imported_by(module):
            to_see.add(file_of(imported))
        to_see -= needed | set(files(*NOT_NEEDED))
    return sorted(needed)


def file_of(module: str) -> Path:
    """The one file of a module, or of the package of that name."""
    place = ROOT / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def test_the_stages_can_be_read_in_one_go():
    stages = together([count(path) for path in files(*STAGES)])
    # Counted alike: nanoGPT's model.py and train.py 5.7, CLIP's package 5.4, k-diffusion's sampling.py 7.9.
    assert stages.nodes / stages.code <= 5.4
    assert 100 * stages.comprehensions / stages.code <= 4
    assert stages.longest <= 60


def test_the_stages_and_what_they_need_are_short(graph):
    """Lines of code; blank ones, comments and documentation strings make them easier, not longer."""
    assert together([count(path) for path in needed_files(graph)]).statements < 3500


def describe(name: str | Path, c: Counts) -> str:
    code = max(c.code, 1)
    return (
        f"{name}: {c.lines} lines, {c.statements} of them code, {c.nodes / code:.1f} nodes a line and "
        f"{100 * c.comprehensions / code:.1f} comprehensions per 100 of {c.code} lines that are not blank, "
        f"longest function {c.longest} lines"
    )


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "ip2p").rglob("*.py")):
        print(describe(path, count(path)))
    if not sys.argv[1:]:
        print(describe("the stages", together([count(path) for path in files(*STAGES)])))
        needed = needed_files(import_graph())
        print(describe("the stages and what they need", together([count(path) for path in needed])))
        print(*(path.relative_to(ROOT) for path in needed))
