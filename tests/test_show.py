"""Labelled grids, and exercises that check themselves."""

import numpy as np
import torch
from PIL import Image

from ip2p.common.grids import as_array, grid
from ip2p.teaching.exercises import check, differs


def test_pictures_of_every_kind_become_arrays():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    for picture in (red, Image.fromarray(red), torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4)):
        assert np.array_equal(as_array(picture), red)


def test_a_grid_shows_each_picture_and_label(tmp_path):
    pictures = [
        [Image.new("RGB", (8, 8), c) for c in ("red", "green")],
        [Image.new("RGB", (8, 8), "blue"), None],
    ]
    figure = grid(pictures, rows=["a", "b"], columns=["x", "y"], titles=[["1", "2"]], heading="h")
    figure.savefig(tmp_path / "grid.png")
    words = {t.get_text() for axes in figure.axes for t in (*axes.texts, axes.title)} | {
        figure.get_suptitle()
    }
    assert {"a", "b", "x", "y", "1", "2", "h"} <= words
    assert len([axes for axes in figure.axes if axes.images]) == 3
    seen = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).reshape(-1, 3)
    for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 255)):
        assert (seen == colour).all(1).any()
    assert len(grid([Image.new("RGB", (8, 8))] * 3).axes) == 3


def test_dollar_signs_are_no_formulas(tmp_path):
    price = "make it cost $\\frac$"
    picture = [[Image.new("RGB", (8, 8))]]
    figure = grid(picture, rows=[price], columns=[price], titles=[[price]], heading=price)
    figure.savefig(tmp_path / "grid.png")


def test_exercises_say_what_differs(capsys):
    assert check("A", 2.0, 2.00001) is True and "right" in capsys.readouterr().out
    assert check("A", ..., 2) is None and "not answered" in capsys.readouterr().out
    assert check("A", 3, 2, hint="count again") is False
    assert "off by 1" in (said := capsys.readouterr().out) and "count again" in said
    assert check("A", lambda x: x + 1, lambda x: x * 2, cases=[(1,), (2,)]) is False
    assert "case 2 of 2" in capsys.readouterr().out
    assert check("A", lambda x: 1 / 0, lambda x: x, cases=[(1,)]) is False
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert "shape" in differs(torch.zeros(2), torch.zeros(3)) and differs("x", "x") is None
    assert "str came back" in differs("x", 1.0)
