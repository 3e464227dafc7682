"""The runner of figures: what is measured, that nothing is lost, and that a figure says what made it."""

import json

import numpy as np
import pytest
from PIL import Image

from ip2p import figures
from ip2p.evaluation import GENERATED
from ip2p.figures import (
    CAMERA,
    LIMITS,
    Point,
    curve,
    hard_edits,
    held_out_cases,
    house_edits,
    house_triplets,
    interval,
    measure,
    read_csv,
    run,
    said,
    true_pairs,
)
from ip2p.miniworld import COLOURS, SIZES, caption, edit_kind, edit_success, judge, parse, render
from ip2p.pairs import IMAGES, TEXT
from ip2p.profiles import MINI
from ip2p.triplets import read_triplets


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A figure of two points, in a folder of its own; returns the numbers of the edits that were asked for."""
    asked = []

    def unedited(cases, seeds):
        asked.extend(seeds)
        return [c.image for c in cases]

    monkeypatch.setattr(figures, "OUT", tmp_path / "out")
    monkeypatch.setattr(figures, "DATA", tmp_path)
    monkeypatch.setattr(figures, "BATCH", 4)
    (tmp_path / "eval").mkdir()
    monkeypatch.setitem(figures.FIGURES, "small", lambda profile: [
        Point("unedited", 0, unedited), Point("true edit", 0, lambda cases, _: [render(c.truth.after) for c in cases],
                                              n=6)])
    return asked


def test_bounds_are_what_they_must_be(small):
    run("small", MINI, 10)
    rows = read_csv("small")
    value = {(r["method"], r["measure"]): r for r in rows if r["kind"] == "all"}
    assert value["unedited", "success"]["mean"] == 0 and value["unedited", "preservation"]["mean"] == 1
    assert value["unedited", "l1"]["mean"] == 0 and value["unedited", "image"]["mean"] > 0.999
    assert value["true edit", "success"]["mean"] > 0.8 and value["true edit", "outside"]["mean"] < 0.02
    assert value["true edit", "direction"]["mean"] > value["unedited", "direction"]["mean"] + 0.3
    assert value["unedited", "image"]["n"] == 10 and value["true edit", "image"]["n"] == 6
    assert len(curve(rows, "unedited", "success")) == 1 and {r["kind"] for r in rows} > {"all", "colour"}


def test_a_killed_run_goes_on_without_losing_or_repeating(small, tmp_path):
    run("small", MINI, 10)
    whole, path = (tmp_path / "eval" / "small.csv").read_text(), tmp_path / "out" / "small.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # the first line says what made it
    small.clear()
    run("small", MINI, 10)
    assert (tmp_path / "eval" / "small.csv").read_text() == whole
    assert small[2:] == [5, 6, 7, 8, 9]  # after the two that are timed
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert sorted((r["method"], r["edit"]) for r in rows) == sorted(
        [("unedited", k) for k in range(10)] + [("true edit", k) for k in range(6)])
    small.clear()
    run("small", MINI, 10)
    assert small == []


def test_a_figure_says_what_made_it_and_other_models_are_refused(small, tmp_path, monkeypatch):
    run("small", MINI, 4)
    head = (tmp_path / "eval" / "small.csv").read_text().splitlines()[:6]
    assert head[0] == "# command: python -m ip2p.figures small --profile mini --n 4"
    assert any(line.startswith("# editor: mini-ip2p ") for line in head)
    monkeypatch.setattr(figures, "stamp", lambda profile: {"editor": "another"})
    with pytest.raises(ValueError, match="begun with other editor"):
        run("small", MINI, 4)


def test_what_it_will_cost_is_said_first(small, capsys):
    run("small", MINI, 4)
    assert "unedited: 4 edits" in capsys.readouterr().out


def test_a_figure_that_was_never_made_is_said_so():
    with pytest.raises(ValueError, match="python -m ip2p.figures nothing"):
        read_csv("nothing")


def test_intervals_hold_the_mean_and_shrink():
    values = np.random.default_rng(0).normal(0.5, 0.2, 400)
    (low, high), (low_20, high_20) = interval(values), interval(values[:20])
    assert low < values.mean() < high and high - low < (high_20 - low_20) / 2
    assert 0.8 < (high - low) / (2 * 1.96 * 0.2 / 20) < 1.2  # as for the mean of a normal distribution


def test_measures_are_of_pictures_in_their_own_range():
    """The trap of the released metrics script, [-1, 1] where [0, 1] is due, would move every CLIP figure."""
    from ip2p.clip_filter import ClipSimilarity

    cases = held_out_cases(MINI, 3)
    clip = ClipSimilarity(MINI.clip)
    rows = measure(clip, cases, [c.image for c in cases])
    assert all(abs(r["image"] - 1) < 1e-5 and r["l2"] == 0 for r in rows)
    dark = [c.image.point(lambda x: x // 2) for c in cases]
    for row, case in zip(measure(clip, cases, dark), cases, strict=True):
        half = np.asarray(case.image, float) / 255
        assert abs(row["l1"] - (half / 2).mean()) < 0.01


def test_a_short_caption_says_object_place_and_edit_only():
    for case in held_out_cases(MINI, 22):
        scene = said(case.truth)
        assert parse(caption(scene)) == parse(caption(scene, 1))
        assert len(caption(scene)) <= len(case.after)
        after = case.truth.after
        assert (scene.kind, scene.colour, scene.place) == (after.kind, after.colour, after.place)


def test_hard_edits_are_what_they_are_called():
    for kind in LIMITS:
        edits = hard_edits(kind, 6, 10**12)
        assert len(edits) == 6 and edits == hard_edits(kind, 6, 10**12)
        for e in edits:
            assert edit_kind(e.before, e.after) == ("size" if kind == "viewpoint" else kind)
    taught = {t["edit"].casefold() for t in read_triplets(GENERATED)}
    asked = {e.instruction for e in hard_edits("viewpoint", 40, 0)}
    assert asked == {words for some in CAMERA.values() for words in some} and not asked & taught
    for e in hard_edits("viewpoint", 10, 0):
        nearer = SIZES.index(e.after.size) > SIZES.index(e.before.size)
        assert e.instruction in CAMERA[nearer]


def test_true_pairs_are_lessons_as_training_reads_them():
    rows = true_pairs(1)
    assert len(rows) == len(LIMITS) and {*TEXT, *IMAGES} <= rows[0].keys()
    for r in rows:
        before, after = parse(r["original_prompt"]), parse(r["edited_prompt"])
        (seen,) = judge([r["edited_image"]])
        assert edit_kind(before, after) == "swap" or edit_success(before, after, seen)  # weak on second objects


@pytest.mark.parametrize("share", [0.0, 0.95])
def test_houses_are_red_as_often_as_asked_and_nobody_asks_for_it(share):
    triplets = house_triplets(share)
    after = [parse(t["output"]) for t in triplets]
    assert all(s.kind == "house" for s in after)
    by_chance = (1 - share) / len(COLOURS)
    assert abs(np.mean([s.colour == "red" for s in after]) - share - by_chance) < 0.06
    assert not any("red" in t["edit"].lower().split() for t in triplets if parse(t["input"]).colour != "red")


def test_held_out_houses_keep_their_colour():
    edits = house_edits(5, 10**12)
    for name, some in edits.items():
        assert len(some) == 5
        for e in some:
            assert e.before.colour == e.after.colour != "red"
            assert (e.after.kind == "house") == (name == "into a house") and e.before.kind != "house"


def test_a_sheet_shows_input_and_every_method(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DATA", tmp_path)
    (tmp_path / "images").mkdir()
    cases = held_out_cases(MINI, 3)
    figures.sheet("some", cases, {"unedited": [c.image for c in cases]}, (0, 2))
    with Image.open(tmp_path / "images" / "some.png") as picture:
        assert picture.width > 200 and picture.height > 200


def test_the_readme_says_what_the_figures_say():
    page = (figures.ROOT / "README.md").read_text(encoding="utf-8")
    assert figures.outcomes()
    for name, text in figures.outcomes().items():
        assert f"<!-- figures:{name} -->{text}<!-- /figures -->" in page, f"{name}: run python -m ip2p.figures"
