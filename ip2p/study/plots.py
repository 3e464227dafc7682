"""The measured figures, read from their CSV files and drawn."""

from __future__ import annotations

import csv

from ip2p.paths import DATA, ROOT

OUT = ROOT / "out" / "figures"


def read_csv(name: str) -> list[dict]:
    """The lines of data/eval/NAME.csv, numbers as numbers. Raises ValueError if it was never made."""
    path = DATA / "eval" / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"there is no {path}; make it with `ip2p figures {name}`")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        {k: v if k in ("method", "kind", "measure") else float(v) for k, v in row.items()}
        for row in csv.DictReader(lines)
    ]


def curve(rows: list[dict], method: str, measure: str, kind: str = "all") -> list[dict]:
    """The lines of one method and measure, in the order of the settings."""
    some = [r for r in rows if (r["method"], r["measure"], r["kind"]) == (method, measure, kind)]
    return sorted(some, key=lambda r: r["setting"])


def value(
    rows: list[dict], method: str, measure: str, kind: str = "all", setting: float | None = None
) -> dict:
    """The one line of a method and measure (at a setting). Raises ValueError if there is none, or more than one."""
    (line,) = (r for r in curve(rows, method, measure, kind) if setting in (None, r["setting"]))
    return line


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


def draw(name: str, heading: str = ""):
    """The curves of a figure in both PLANES, from its CSV: a matplotlib figure. Bars are 95% intervals; the settings at
    a curve's ends stand beside them."""
    from matplotlib import pyplot as plt

    rows = read_csv(name)
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), dpi=110, layout="constrained")
    for axes, (title, (x, y)) in zip(panels, PLANES.items(), strict=True):
        for method, colour in zip(methods, PALETTE, strict=False):
            xs, ys = curve(rows, method, x), curve(rows, method, y)
            if not xs:
                continue
            spread = [
                [[r["mean"] - r["low"] for r in c], [r["high"] - r["mean"] for r in c]] for c in (xs, ys)
            ]
            means = [[r["mean"] for r in c] for c in (xs, ys)]
            axes.errorbar(
                *means,
                xerr=spread[0],
                yerr=spread[1],
                fmt="o-" if len(xs) > 1 else "D",
                color=colour,
                ms=4,
                lw=1.5,
                elinewidth=0.6,
                label=method if axes is panels[0] else None,
            )
            for k in (0, -1) if len(xs) > 1 else ():
                axes.annotate(
                    f"{xs[k]['setting']:g}",
                    (means[0][k], means[1][k]),
                    xytext=(4, 4),
                    fontsize=7,
                    textcoords="offset points",
                    color=colour,
                )
        axes.set(xlabel=AXES[x], ylabel=AXES[y], title=title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(heading, fontsize=11)
    plt.close(figure)  # shown once, as the value of a cell
    return figure
