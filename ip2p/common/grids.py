"""Pictures for notebooks and pages: labelled grids in one style."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ip2p.common.images import as_array


def grid(
    pictures: Sequence,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    titles: Sequence = (),
    heading: str = "",
    size: float = 1.3,
):
    """Pictures as a labelled grid; returns the matplotlib figure.

    pictures: a list of rows, or one list for a single row; None leaves a cell empty. rows, columns: labels of rows and
    columns. titles: a text for each cell, in the shape of `pictures`. size: inches of a cell.
    """
    from matplotlib import pyplot as plt

    nested = isinstance(pictures[0], list | tuple) or getattr(pictures[0], "ndim", 0) == 4
    table = pictures if nested else [pictures]
    titles = titles if nested or not titles else [titles]
    across = max(map(len, table))
    above = [
        0.17 * max((1 + str(t).count("\n") for t in row if str(t)), default=0) for row in titles
    ]  # inches
    above += [0.0] * (len(table) - len(above))
    left = 0.075 * max((len(line) for r in rows for line in str(r).split("\n")), default=0)
    width = left + size * across
    heading = textwrap.fill(heading, max(12, int(width / 0.085)))
    top = 0.19 * (1 + heading.count("\n")) + 0.11 if heading else 0
    top += 0.17 * (1 + max((str(c).count("\n") for c in columns), default=-1))
    height = top + sum(above) + size * len(table)
    figure = plt.figure(figsize=(width, height), dpi=110, facecolor="white")
    for y, row in enumerate(table):
        bottom = top + sum(above[: y + 1]) + (y + 1) * size
        for x, picture in enumerate(row):
            box = [(left + x * size) / width, 1 - bottom / height, 0.96 * size / width, 0.96 * size / height]
            axes = figure.add_axes(box)
            axes.axis("off")
            if picture is not None:
                axes.imshow(as_array(picture), interpolation="lanczos")
            if y == 0 and x < len(columns):
                axes.text(
                    0.5,
                    1.03 + above[0] / size,
                    columns[x],
                    transform=axes.transAxes,
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    fontweight="bold",
                )
            if x == 0 and y < len(rows):
                axes.text(-0.05, 0.5, rows[y], transform=axes.transAxes, ha="right", va="center", fontsize=8)
            if y < len(titles) and x < len(titles[y]):
                axes.set_title(titles[y][x], fontsize=7, pad=2)
    if heading:
        figure.suptitle(
            heading, x=left / width, y=1 - 0.02 / height, ha="left", va="top", fontsize=10, fontweight="bold"
        )
    plt.close(figure)  # shown once, as the value of a cell
    return figure
