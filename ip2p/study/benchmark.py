"""`ip2p benchmark`: 400 frozen edits of the miniature world with truth, for any editor.

The set is defined by code and one seed, and its checksum stands here (FROZEN), so that nobody changes it
unawares. An editor sees a picture and a sentence; the judge reads its answer. Rows are appended as they are
measured, and a killed run goes on. Which editors there are: `ip2p.study.editors`; photographs:
`ip2p.study.photos`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ip2p.common.durable import append_line, locked, name_of_model, replacing, whole_lines, write_atomically
from ip2p.common.folders import fill_folder, refuse_foreign, temporary_folder
from ip2p.common.markdown import fill_pages
from ip2p.miniworld import EDIT_KINDS, asked, difference, instruction, render
from ip2p.miniworld.held_out import HELD_OUT, Edit, possible_edits, reworded_edits
from ip2p.miniworld.judging import FOLDER as JUDGE
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.study.editors import Answers, AnyEditor, NotDone, Question
from ip2p.study.measures import column, interval, score
from ip2p.study.progress import begin_or_resume

FIRST_SEED = 13 * HELD_OUT  # of the set's scenes; no other part of this project draws from here on
KINDS = (*EDIT_KINDS, "swap")
IN_RANDOM_WORDS = 280  # edits that the world words itself; the others were worded by hand
BY_HAND = DATA / "eval" / "reworded2.jsonl"
FROZEN = "55a5574bdac02dbe"  # see `checksum`

BOARD = DATA / "eval" / "leaderboard.jsonl"
MAKER = "ip2p benchmark --export"
MEASURES = ("success", "preservation", "right")
PATIENCE = 5  # edits that may fail before the first one is done


class Task(NamedTuple):
    """One of the edits."""

    id: str  # "000" to "399"
    edit: Edit
    words: str  # whose the instruction's are: "random", or "by hand"


# ---------------------------------------------------------------------------------------------- the set


@cache
def tasks() -> tuple[Task, ...]:
    """All 400: every kind of edit in turn, then those that were worded by hand."""
    chosen = []
    for before, after, kind, rng in possible_edits(FIRST_SEED, KINDS):
        if len(chosen) == IN_RANDOM_WORDS:
            break
        edit = Edit(before, after, instruction(before, after, rng), kind)
        chosen.append(Task(f"{len(chosen):03}", edit, "random"))
    for edit in reworded_edits(BY_HAND):
        chosen.append(Task(f"{len(chosen):03}", edit, "by hand"))
    return tuple(chosen)


def truth(task: Task) -> dict:
    """All that is known of an edit, as JSON: the scenes, what is asked for, and what changes by it."""
    before, after = task.edit.before, task.edit.after
    return {
        "id": task.id,
        "kind": task.edit.kind,
        "words": task.words,
        "before": asdict(before),
        "after": asdict(after),
        "asked": asked(before, after),
        "changed": difference(before, after),
    }


def checksum(of: Sequence[Task]) -> str:
    """The first digits of SHA-256 over scenes and instructions."""
    sha256 = hashlib.sha256()
    for task in of:
        row = [asdict(task.edit.before), asdict(task.edit.after), task.edit.instruction, task.edit.kind]
        sha256.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return sha256.hexdigest()[:16]


def frozen(n: int | None = None) -> tuple[Task, ...]:
    """The set, or the first n of it. Raises ValueError if the world's code makes other edits of it now."""
    if n is not None:
        refuse_outside("n", n, (1, len(tasks())))
    found = checksum(tasks())
    if found != FROZEN:
        raise ValueError(
            f"the benchmark's edits are not the frozen ones ({found} instead of {FROZEN}), as scenes or "
            "instructions are made otherwise here; take an unchanged ip2p"
        )
    return tasks()[:n]


def export(folder: Path, n: int | None = None) -> int:
    """Write the inputs as inputs/ID.png, tasks.jsonl ("id", "file", "instruction") for editors outside of
    Python, and apart from it truth.jsonl. Returns how many edits there are.

    Raises ValueError for a folder that holds anything else.
    """
    refuse_foreign(folder, MAKER)
    chosen = frozen(n)
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as new:
        (new / "inputs").mkdir()
        asked_for = []
        truths = []
        for task in chosen:
            file = f"inputs/{task.id}.png"
            render(task.edit.before).save(new / file)
            asked_for.append({"id": task.id, "file": file, "instruction": task.edit.instruction})
            truths.append(truth(task))
        write_atomically(new / "tasks.jsonl", json_lines(asked_for))
        write_atomically(new / "truth.jsonl", json_lines(truths))
        fill_folder(folder, new, MAKER)
    return len(chosen)


def json_lines(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---------------------------------------------------------------------------------------- the measurement


def benchmark(
    name: str,
    open_with: Callable[[Sequence[str]], AnyEditor],
    out: str | Path = "out/benchmark",
    n: int | None = None,
    *,
    write: bool = False,
) -> dict:
    """Measure an editor, print the table by kind of edit, and return the figures (see `figures_of`).

    name: what it is called. open_with: gives the editor, told the ids of all edits. out: pictures and rows
    are left in OUT/NAME/miniature, and a stopped run goes on there. n: only the first n edits. write: put it
    on the leaderboard. Raises ValueError if another editor, or another judge, began these rows.
    """
    if write:
        need_clone("ip2p benchmark --write")
        if n is not None:
            raise ValueError("the leaderboard is of the whole set; leave out --n, or --write")
    chosen = frozen(n)
    editor = open_with([task.id for task in chosen])
    made_by = {"benchmark": FROZEN, "judge": name_of_model(JUDGE), **editor.identity}
    if write:
        refuse_incomparable(read_board(), made_by)
    folder = Path(out) / as_file_name(name) / "miniature"
    rows = measure(editor, chosen, folder, made_by)
    figures = figures_of(rows)
    print(table_of_figures(figures))
    failed = count_failed(rows)
    if failed:
        print(f"\n{failed} of {len(rows)} edits were not done, and count as 0 in each column.")
    if write:
        add_to_board({"name": name, "failed": failed, "figures": figures, **made_by})
    return figures


def as_file_name(name: str) -> str:
    """A name of a model, such as one of the hub, as one of a folder. Raises ValueError for one without
    letters."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    if not safe:
        raise ValueError(f"{name!r} is no name; give one by --name")
    return safe


def count_failed(rows: Sequence[dict]) -> int:
    return sum("failed" in row for row in rows)


def begin_rows(folder: Path, made_by: dict) -> list[dict]:
    """The rows that an earlier run left in a folder of ours. Raises ValueError for a folder of somebody
    else's, or rows of another editor."""
    path = folder / "rows.jsonl"
    if not path.is_file() and any(folder.glob("[!.]*")):
        raise ValueError(f"{folder} holds other files; choose another --name or --out")
    return begin_or_resume(path, made_by)


def measure(editor: AnyEditor, chosen: Sequence[Task], folder: Path, made_by: dict) -> list[dict]:
    """A row of each task, in their order; those that lie in the folder are not asked for again. The answers
    are left there as ID.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "measuring in"):
        rows = {row["id"]: row for row in begin_rows(folder, made_by)}
        todo = [task for task in chosen if task.id not in rows]
        log = open_log(editor, folder, list(rows.values()))
        with tqdm(total=len(todo), desc="benchmark", unit="edit", mininterval=2.0, delay=2) as progress:
            for part in parts(todo, editor):
                for row in rows_of_part(editor, part, folder):
                    log.add(row)
                    rows[row["id"]] = row
                progress.update(len(part))
        log.close()
    return [rows[task.id] for task in chosen]


def parts(todo: Sequence[Task], editor: AnyEditor) -> Iterator[Sequence[Task]]:
    """As many at once as the editor likes, which may become fewer."""
    start = 0
    while start < len(todo):
        part = todo[start : start + editor.at_once]
        yield part
        start += len(part)


def open_log(editor: AnyEditor, folder: Path, rows: Sequence[dict]) -> Log:
    """Of a folder that holds `rows`. Pictures made elsewhere may lack any: those that there are, are looked
    for beforehand."""
    works = isinstance(editor, Answers) or count_failed(rows) < len(rows)
    return Log(folder / "rows.jsonl", works)


class Log:
    """Rows on the disk. Failures before the first success are held back: a command that never works is to be
    put right, and not to be counted."""

    def __init__(self, path: Path, any_done: bool):
        self.path = path
        self.any_done = any_done
        self.held_back: list[dict] = []

    def add(self, row: dict) -> None:
        """Append a row; one that failed is told. Raises ValueError if nothing but failures came."""
        if "failed" in row:
            tqdm.write(f"{row['id']}: not done ({row['failed']})", file=sys.stderr)
        else:
            self.any_done = True
        self.held_back.append(row)
        if self.any_done:
            self.close()
        elif len(self.held_back) == PATIENCE:
            raise ValueError(
                f"the first {PATIENCE} edits all failed, in the end since {row['failed']}; try the editor by "
                "hand, then run this again"
            )

    def close(self) -> None:
        for row in self.held_back:
            append_line(self.path, row)
        self.held_back = []


def rows_of_part(editor: AnyEditor, part: Sequence[Task], folder: Path) -> list[dict]:
    """Ask for some edits, keep the pictures, and let the judge read them: rows of `score`, and failures."""
    questions = [question_of(task) for task in part]
    answers = editor.answer(questions)
    done = []  # their numbers
    for k, answer in enumerate(answers):
        if not isinstance(answer, NotDone):
            done.append(k)
            save_picture(answer, folder / f"{part[k].id}.png")
    edits = [part[k].edit for k in done]
    verdicts = {}
    if done:
        scored = score(edits, [questions[k].image for k in done], [answers[k] for k in done])
        verdicts = dict(zip(done, scored, strict=True))
    rows = []
    for k, task in enumerate(part):
        row = {"id": task.id, "kind": task.edit.kind, "words": task.words}
        if k in verdicts:
            row |= verdicts[k]
        else:
            row |= {"success": False, "preservation": 0.0, "right": False, "failed": answers[k].why}
        rows.append(row)
    return rows


def question_of(task: Task) -> Question:
    """What an editor is asked; the seed is the number of the edit."""
    return Question(task.id, render(task.edit.before), task.edit.instruction, int(task.id))


def save_picture(picture, path: Path) -> None:
    """A PIL image as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        picture.save(new, "PNG")


# ---------------------------------------------------------------------------------------------- the tables


def figures_of(rows: Sequence[dict]) -> dict[str, dict]:
    """For "all" edits, each kind that there is, and those worded "by hand": their number "n", and mean, low
    and high end of the 95% interval of success, preservation and right."""
    groups = {"all": list(rows)}
    for kind in (*KINDS, "several"):
        groups[kind] = [row for row in rows if row["kind"] == kind]
    groups["by hand"] = [row for row in rows if row["words"] == "by hand"]
    figures = {}
    for name, group in groups.items():
        if group:
            figures[name] = {"n": len(group)} | means_of(group, MEASURES)
    return figures


def means_of(rows: Sequence[dict], names: Sequence[str]) -> dict[str, list[float]]:
    """[mean, low, high] of each column, with the 95% interval."""
    means = {}
    for name in names:
        values = [float(value) for value in column(rows, name)]
        three = (float(np.mean(values)), *interval(values))
        means[name] = [round(float(value), 4) for value in three]
    return means


def with_interval(three: Sequence[float], digits: int = 2) -> str:
    """[0.8213, 0.78, 0.86] -> "0.82 (0.78 to 0.86)"."""
    mean, low, high = three
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table_of_figures(figures: dict[str, dict]) -> str:
    """figures: of `figures_of`. A Markdown table."""
    lines = ["| Kind of edit | Success | Preservation | Right | Edits |", "|---|---:|---:|---:|---:|"]
    for name, of_kind in figures.items():
        name = "all, worded by hand" if name == "by hand" else name
        cells = [with_interval(of_kind[measure]) for measure in MEASURES]
        lines.append(f"| {name} | {' | '.join(cells)} | {of_kind['n']} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ the leaderboard


def read_board(path: Path | None = None) -> list[dict]:
    """Its rows; none if there is no file."""
    path = path or BOARD
    try:
        return [json.loads(line) for line in whole_lines(path)]
    except ValueError:
        raise ValueError(f"{path} is broken, no JSON; get it again, or delete it") from None


def refuse_incomparable(board: Sequence[dict], made_by: dict) -> None:
    """Raises ValueError if rows on the board were measured on other edits, or by another judge."""
    for row in board:
        for what in ("benchmark", "judge"):
            if row[what] != made_by[what]:
                raise ValueError(
                    f"{row['name']} on the leaderboard was measured by another {what} ({row[what]} instead "
                    f"of {made_by[what]}); move {BOARD} away, and measure its editors again"
                )


def add_to_board(row: dict) -> None:
    """Put an editor on the board, in the place of an earlier row of its name, and renew the pages' table."""
    board = read_board()
    refuse_incomparable(board, row)
    board = [other for other in board if other["name"] != row["name"]]
    board.append(row)
    board.sort(key=right_of, reverse=True)
    fill_pages(ROOT, {"leaderboard": table_of_board(board), "leaders": short_table_of_board(board)})
    write_atomically(BOARD, json_lines(board))


def right_of(row: dict) -> float:
    return row["figures"]["all"]["right"][0]


def table_of_board(board: Sequence[dict]) -> str:
    """The rows, sorted by right, as a Markdown table."""
    lines = [
        "| Editor | Right | Success | Preservation | Right, worded by hand | Right, swap | Asked with |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in sorted(board, key=right_of, reverse=True):
        figures = row["figures"]
        cells = [
            escaped(row["name"]),
            with_interval(figures["all"]["right"]),
            with_interval(figures["all"]["success"]),
            with_interval(figures["all"]["preservation"]),
            with_interval(figures["by hand"]["right"]),
            with_interval(figures["swap"]["right"]),
            escaped(how_asked(row)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short_table_of_board(board: Sequence[dict]) -> str:
    """What the README shows of it."""
    lines = [
        "| Editor | Right | Worded by hand | Swap |",
        "|---|---:|---:|---:|",
    ]
    for row in sorted(board, key=right_of, reverse=True):
        right = [f"{row['figures'][kind]['right'][0]:.2f}" for kind in ("all", "by hand", "swap")]
        lines.append(f"| {escaped(row['name'])} | {' | '.join(right)} |")
    return "\n".join(lines)


def how_asked(row: dict) -> str:
    """An editor's name with its checksum, and the options of its call."""
    options = row.get("options", {})
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{row['editor']}; {said}" if said else row["editor"]


def escaped(text: str) -> str:
    """As a cell of a Markdown table."""
    return re.sub(r"([|<\\`*_\[\]])", r"\\\1", " ".join(text.split()))
