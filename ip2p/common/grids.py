"""Pictures for notebooks and pages: labelled grids in one style."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ip2p.common.images import quantise, to_rgb

TITLE_LINE = 0.17  # inches of a line above a cell
HEADING_LINE = 0.19
LETTER = 0.075  # inches of a letter of a row's label
PLAIN = {"parse_math": False}  # people's words are no formulas, whatever stands between dollar signs


def as_array(picture) -> np.ndarray:
    """A PIL image, a tensor (3, H, W), float in [0, 1] or uint8, or an array (H, W, 3) -> (H, W, 3) uint8."""
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(picture))
    if isinstance(picture, torch.Tensor):
        return quantise(picture.detach()).permute(1, 2, 0).cpu().numpy()
    return np.asarray(picture)


def grid(
    pictures: Sequence,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    titles: Sequence = (),
    below: Sequence[str] = (),
    heading: str = "",
    size: float = 1.3,
):
    """Pictures as a labelled grid; returns the matplotlib figure.

    pictures: a list of rows, or one list for a single row; None leaves a cell empty. rows, columns: labels.
    titles: a text for each cell, in the shape of `pictures`. below: a text under each column. size: inches of
    a cell.
    """
    from matplotlib import pyplot as plt

    if not is_nested(pictures):
        pictures = [pictures]
        titles = [titles] if titles else []
    left = LETTER * longest_line(rows)
    width = left + size * max(len(row) for row in pictures)
    heading = textwrap.fill(heading, max(12, int(width / 0.085)))
    top = heading_height(heading) + TITLE_LINE * most_lines(columns)
    above = [0.0] * len(pictures)  # inches for the titles of each row
    for y, of_row in enumerate(titles):
        above[y] = TITLE_LINE * most_lines(of_row)
    height = top + sum(above) + size * len(pictures) + TITLE_LINE * most_lines(below)
    figure = plt.figure(figsize=(width, height), dpi=110, facecolor="white")
    for y, row in enumerate(pictures):
        bottom = top + sum(above[: y + 1]) + (y + 1) * size
        for x, picture in enumerate(row):
            x_0 = left + x * size
            box = (x_0 / width, 1 - bottom / height, 0.96 * size / width, 0.96 * size / height)
            axes = figure.add_axes(box)
            axes.axis("off")
            if picture is not None:
                axes.imshow(as_array(picture), interpolation="lanczos")
            if y == 0 and x < len(columns):
                write_column(axes, columns[x], 1.03 + above[0] / size)
            if x == 0 and y < len(rows):
                write_row(axes, rows[y])
            if y == len(pictures) - 1 and x < len(below):
                place = {"xytext": (0, -4), "textcoords": "offset points", "ha": "center", "va": "top"}
                axes.annotate(below[x], (0.5, 0), xycoords="axes fraction", fontsize=7, **place, **PLAIN)
            if y < len(titles) and x < len(titles[y]):
                axes.set_title(titles[y][x], fontsize=7, pad=2, **PLAIN)
    if heading:
        place = {"x": left / width, "y": 1 - 0.02 / height, "ha": "left", "va": "top"}
        figure.suptitle(heading, fontsize=10, fontweight="bold", **place, **PLAIN)
    plt.close(figure)  # shown once, as the value of a cell
    return figure


def is_nested(pictures: Sequence) -> bool:
    """Rows of pictures, not pictures."""
    first = pictures[0]
    return isinstance(first, list | tuple) or getattr(first, "ndim", 0) == 4


def most_lines(texts: Sequence) -> int:
    """How many lines the tallest of them has; empty texts have none."""
    most = 0
    for text in map(str, texts):
        if text:
            most = max(most, 1 + text.count("\n"))
    return most


def longest_line(texts: Sequence) -> int:
    """Letters of the longest line of all."""
    lines = "\n".join(map(str, texts)).split("\n")
    return max(map(len, lines))


def heading_height(heading: str) -> float:
    """Inches of a heading, and of the space below it."""
    return HEADING_LINE * most_lines([heading]) + 0.11 if heading else 0.0


def write_column(axes, label: str, y: float) -> None:
    place = {"ha": "center", "va": "bottom", "transform": axes.transAxes}
    axes.text(0.5, y, label, fontsize=8, fontweight="bold", **place, **PLAIN)


def write_row(axes, label: str) -> None:
    axes.text(-0.05, 0.5, label, fontsize=8, ha="right", va="center", transform=axes.transAxes, **PLAIN)
