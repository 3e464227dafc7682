"""The measured figures, read from their CSV files and drawn; and sheets of what methods made of the same
cases."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence

from PIL import Image

from ip2p.common.grids import grid
from ip2p.paths import DATA
from ip2p.study.measures import column
from ip2p.study.points import Case

TEXT_COLUMNS = ("method", "kind", "measure")


def read_csv(name: str) -> list[dict]:
    """The lines of data/eval/NAME.csv, numbers as numbers. Raises ValueError if it was never made."""
    path = DATA / "eval" / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"there is no {path}; make it with `ip2p figures {name}`")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = []
    for cells in csv.DictReader(lines):
        rows.append({name: text if name in TEXT_COLUMNS else float(text) for name, text in cells.items()})
    return rows


def curve(rows: list[dict], method: str, measure: str, kind: str = "all") -> list[dict]:
    """The lines of one method and measure, in the order of the settings."""
    wanted = (method, measure, kind)
    of_curve = [row for row in rows if (row["method"], row["measure"], row["kind"]) == wanted]
    return sorted(of_curve, key=lambda row: row["setting"])


def row_of(
    rows: list[dict], method: str, measure: str, kind: str = "all", setting: float | None = None
) -> dict:
    """The one line of a method and measure (at a setting). Raises ValueError if there is none, or more than
    one."""
    found = [row for row in curve(rows, method, measure, kind) if setting in (None, row["setting"])]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} lines tell {measure!r} of {method!r}, kind {kind!r}, setting {setting}"
        )
    return found[0]


def differ(a: dict, b: dict) -> bool:
    """Whether the intervals of two lines have nothing in common."""
    return a["high"] < b["low"] or b["high"] < a["low"]


PLANES = {"CLIP's plane": ("direction", "image"), "the judge's plane": ("success", "preservation")}

PALETTE = ("#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#000000", "#8A8A8A")

AXES = {
    "direction": "CLIP: the change goes the caption's way",
    "image": "CLIP: output resembles the input",
    "success": "edit success, by the judge",
    "preservation": "share of the rest kept, by the judge",
}


def plot_planes(name: str, heading: str = ""):
    """The curves of a figure in both PLANES, from its CSV: a matplotlib figure. Bars are 95% intervals; the
    settings at a curve's ends stand beside them."""
    from matplotlib import pyplot as plt

    rows = read_csv(name)
    methods = dict.fromkeys(row["method"] for row in rows)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), dpi=110, layout="constrained")
    for axes, (title, (x, y)) in zip(panels, PLANES.items(), strict=True):
        for method, colour in zip(methods, PALETTE, strict=False):
            xs = curve(rows, method, x)
            ys = curve(rows, method, y)
            if xs:
                plot_curve(axes, xs, ys, method if axes is panels[0] else None, colour)
        axes.set(xlabel=AXES[x], ylabel=AXES[y], title=title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(heading, fontsize=11)
    plt.close(figure)  # shown once, as the value of a cell
    return figure


def plot_curve(axes, xs: list[dict], ys: list[dict], label: str | None, colour: str) -> None:
    """One curve, lines of a CSV for either axis, onto matplotlib axes."""
    is_curve = len(xs) > 1
    axes.errorbar(
        column(xs, "mean"),
        column(ys, "mean"),
        xerr=error_bars(xs),
        yerr=error_bars(ys),
        fmt="o-" if is_curve else "D",
        color=colour,
        ms=4,
        lw=1.5,
        elinewidth=0.6,
        label=label,
    )
    for end in (0, -1) if is_curve else ():
        axes.annotate(
            f"{xs[end]['setting']:g}",
            (xs[end]["mean"], ys[end]["mean"]),
            xytext=(4, 4),
            fontsize=7,
            textcoords="offset points",
            color=colour,
        )


def error_bars(rows: list[dict]) -> list[list[float]]:
    """How far the intervals reach below and above the means, as matplotlib wants it."""
    below = [row["mean"] - row["low"] for row in rows]
    above = [row["high"] - row["mean"] for row in rows]
    return [below, above]


def save_comparison(
    name: str,
    cases: list[Case],
    outputs: dict[str, list[Image.Image]],
    shown: Sequence[int],
    titles: Sequence[Sequence[str]] = (),
) -> None:
    """data/images/NAME.jpg: some cases in columns, and below each what every method made of it.

    outputs: method -> its pictures of all cases. shown: the numbers of the cases. titles: for each method,
    those of the pictures of all cases.
    """
    rows = [[cases[k].image for k in shown]]
    for pictures in outputs.values():
        rows.append([pictures[k] for k in shown])
    titles_shown = []
    for titles_of_method in titles:
        titles_shown.append([titles_of_method[k] for k in shown])
    figure = grid(
        rows,
        rows=["input", *(textwrap.fill(method, 14) for method in outputs)],
        columns=[textwrap.fill(cases[k].instruction, 18) for k in shown],
        titles=[[], *titles_shown] if titles else (),
    )
    figure.savefig(DATA / "images" / f"{name}.jpg", pil_kwargs={"quality": 92})
