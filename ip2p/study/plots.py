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


def plot_kinds(name: str, measure: str = "right"):
    """A measure of each method on each kind of edit, from a figure's CSV, with 95% intervals: a matplotlib
    figure."""
    from matplotlib import pyplot as plt

    rows = [row for row in read_csv(name) if row["measure"] == measure and row["kind"] != "all"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plt.subplots(figsize=(1.2 + 1.1 * len(kinds), 3.6), dpi=110, layout="constrained")
    for k, (method, colour) in enumerate(zip(methods, PALETTE, strict=False)):
        of_method = [row for row in rows if row["method"] == method]
        places = [kinds.index(row["kind"]) + 0.15 * (k - (len(methods) - 1) / 2) for row in of_method]
        means = column(of_method, "mean")
        axes.errorbar(places, means, error_bars(of_method), fmt="o", color=colour, ms=5, label=method)
    axes.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel=f"{measure}, by the judge", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    plt.close(figure)
    return figure


GAINS = {  # along the axis -> what the methods' names begin with, or hold
    "comparisons": "over the comparisons",
    "share of wrong answers": "over the wrong share",
    "edits, of which the best is taken": "best of n by",
}


def plot_gains(name: str):
    """How many more edits are right if the best of several is taken, from the CSV of `feedback`, with 95%
    intervals: a matplotlib figure."""
    from matplotlib import pyplot as plt

    rows = [row for row in read_csv(name) if row["measure"] == "gain"]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), dpi=110, layout="constrained", sharey=True)
    for axes, (along, words) in zip(panels, GAINS.items(), strict=True):
        methods = dict.fromkeys(row["method"] for row in rows if words in row["method"])
        for method, colour in zip(methods, PALETTE, strict=False):
            line = curve(rows, method, "gain")
            settings, means = column(line, "setting"), column(line, "mean")
            axes.errorbar(settings, means, error_bars(line), fmt="o-", color=colour, ms=4, label=method)
        if along != "share of wrong answers":
            axes.set_xscale("log")
        axes.axhline(0, color="#bbbbbb", lw=0.8)
        axes.set(xlabel=along)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("more right edits than by any one")
    plt.close(figure)
    return figure


PAPERS_RANGES = {"s_T": (5, 10), "s_I": (1, 1.5)}  # that typically work best, section 4.3 of the paper
OVER_BOTH_SCALES = {"right": "right edits, by the judge"} | {
    name: AXES[name] for name in ("direction", "image")
}


def plot_scales(name: str):
    """Three measures over s_T and s_I, from the CSV of a figure whose methods are called "s_T 4" and whose
    settings are s_I; the paper's ranges are framed: a matplotlib figure."""
    from matplotlib import pyplot as plt

    rows = read_csv(name)
    there = [measure for measure in OVER_BOTH_SCALES if any(row["measure"] == measure for row in rows)]
    methods = dict.fromkeys(row["method"] for row in rows)
    s_t = [float(method.removeprefix("s_T ")) for method in methods]
    size = (4.2 * len(there), 3.8)
    figure, panels = plt.subplots(1, len(there), figsize=size, dpi=110, layout="constrained", squeeze=False)
    for axes, measure in zip(panels[0], there, strict=True):
        curves = [curve(rows, method, measure) for method in methods]
        s_i = column(curves[0], "setting")
        means = [column(of_method, "mean") for of_method in curves]
        low, high = min(map(min, means)), max(map(max, means))
        light = {"cmap": "Blues", "vmin": low, "vmax": 2 * high - low + 1e-6}  # so that numbers can be read
        axes.imshow(means, aspect="auto", origin="lower", **light)
        for y, of_method in enumerate(means):
            for x, mean in enumerate(of_method):
                axes.text(x, y, f"{mean:.2f}", ha="center", va="center", fontsize=7)
        frame(axes, s_i, s_t)
        axes.set(xlabel="$s_I$", ylabel="$s_T$", title=OVER_BOTH_SCALES[measure])
        axes.set(xticks=range(len(s_i)), xticklabels=[f"{value:g}" for value in s_i])
        axes.set(yticks=range(len(s_t)), yticklabels=[f"{value:g}" for value in s_t])
    figure.suptitle("framed: the ranges that the paper recommends", fontsize=9)
    plt.close(figure)
    return figure


def frame(axes, s_i: list[float], s_t: list[float]) -> None:
    """Draw PAPERS_RANGES around the cells that lie in them."""
    from matplotlib.patches import Rectangle

    corners = []
    for values, (low, high) in ((s_i, PAPERS_RANGES["s_I"]), (s_t, PAPERS_RANGES["s_T"])):
        inside = [k for k, value in enumerate(values) if low <= value <= high]
        corners.append((inside[0] - 0.5, len(inside)))
    (x, width), (y, height) = corners
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#D55E00", lw=2.5))


def save_picture(name: str, figure, suffix: str = "png", **options) -> None:
    """data/images/NAME.SUFFIX; options: of matplotlib."""
    folder = DATA / "images"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.{suffix}", **options)


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
