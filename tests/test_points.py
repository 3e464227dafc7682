"""Points of figures: what is measured, that nothing is lost, and that a figure says what made it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from kills import results, survive

from ip2p.miniworld import judging, parse, render
from ip2p.profiles import MINI
from ip2p.study import plots, points
from ip2p.study.measures import interval
from ip2p.study.plots import curve, differ, read_csv, row_of
from ip2p.study.points import Point, held_out_cases, measure_figure, measure_outputs


class Small(NamedTuple):
    """A figure of two points, and the numbers of the edits that were asked for."""

    asked: list[int]
    points: list[Point]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small figure in a folder of its own."""
    asked = []

    def unedited(cases, seeds):
        asked.extend(seeds)
        return [c.image for c in cases]

    monkeypatch.setattr(points, "OUT", tmp_path / "out")
    monkeypatch.setattr(points, "DATA", tmp_path)
    monkeypatch.setattr(plots, "DATA", tmp_path)
    monkeypatch.setattr(points, "BATCH", 4)
    (tmp_path / "eval").mkdir()
    return Small(
        asked,
        [
            Point("unedited", 0, unedited),
            Point("true edit", 0, lambda cases, _: [render(c.truth.after) for c in cases], n=6),
        ],
    )


@pytest.fixture
def judged_by_nobody(monkeypatch, tiny_judge):
    """An untrained judge instead of the bundled one."""
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)


def test_bounds_are_what_they_must_be(small):
    measure_figure("small", small.points, MINI, 10)
    rows = read_csv("small")
    names = ("success", "preservation", "right", "outside", "l1", "image", "direction")
    same, true = (
        {name: row_of(rows, method, name) for name in names} for method in ("unedited", "true edit")
    )
    assert same["success"]["mean"] == 0 and same["preservation"]["mean"] == 1
    assert same["l1"]["mean"] == 0 and same["image"]["mean"] > 0.999
    assert same["right"]["mean"] == 0 and true["right"]["mean"] > 0.8
    assert true["success"]["mean"] > 0.8 and true["outside"]["mean"] < 0.02
    assert true["direction"]["mean"] > same["direction"]["mean"] + 0.3
    assert same["image"]["n"] == 10 and true["image"]["n"] == 6
    assert differ(same["success"], true["success"]) and differ(true["success"], same["success"])
    assert not differ(same["image"], same["image"])
    with pytest.raises(ValueError):
        row_of(rows, "unedited", "success", setting=7)
    assert len(curve(rows, "unedited", "success")) == 1 and {r["kind"] for r in rows} > {"all", "colour"}


def test_a_killed_run_goes_on_without_losing_or_repeating(small, tmp_path, tiny_profile, judged_by_nobody):
    measure_figure("small", small.points, tiny_profile, 10)
    whole, path = (tmp_path / "eval" / "small.csv").read_text(), tmp_path / "out" / "small.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # the first line says what made it
    small.asked.clear()
    measure_figure("small", small.points, tiny_profile, 10)
    assert (tmp_path / "eval" / "small.csv").read_text() == whole
    assert small.asked[2:] == [5, 6, 7, 8, 9]  # after the two that are timed
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert sorted((r["method"], r["edit"]) for r in rows) == sorted(
        [("unedited", k) for k in range(10)] + [("true edit", k) for k in range(6)]
    )
    small.asked.clear()
    measure_figure("small", small.points, tiny_profile, 10)
    assert small.asked == []


def a_figure():
    """Two points of twelve edits; for `survive`."""
    points.BATCH = 4
    models = points.model_checksums(MINI)
    points.model_checksums = lambda profile: models
    clip = points.ClipSimilarity(MINI.clip)
    points.ClipSimilarity = lambda *_: clip
    both = [
        Point("unedited", 0, lambda cases, _: [case.image for case in cases]),
        Point("true edit", 0, lambda cases, _: [render(case.truth.after) for case in cases]),
    ]

    def job(folder: Path) -> None:
        points.OUT = points.DATA = folder
        (folder / "eval").mkdir(exist_ok=True)
        measure_figure("small", both, MINI, 12)

    return job


@pytest.mark.soak
def test_50_kills_of_a_figure_lose_and_repeat_no_edit(tmp_path):
    survive(tmp_path, a_figure, kills=50)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        assert (folder / "eval" / "small.csv").read_text() == (undisturbed / "eval" / "small.csv").read_text()
        rows = [json.loads(line) for line in (folder / "small.jsonl").read_text().splitlines()[1:]]
        edits = sorted((row["method"], row["edit"]) for row in rows)
        assert edits == [(method, k) for method in ("true edit", "unedited") for k in range(12)]


def test_a_figure_says_what_made_it_and_other_models_are_refused(
    small, tmp_path, monkeypatch, tiny_profile, judged_by_nobody
):
    measure_figure("small", small.points, tiny_profile, 4)
    head = (tmp_path / "eval" / "small.csv").read_text().splitlines()[:6]
    assert head[0] == "# command: ip2p figures small --profile mini --n 4"
    assert any(line.startswith("# editor: editor ") for line in head)
    monkeypatch.setattr(points, "model_checksums", lambda profile: {"editor": "another"})
    with pytest.raises(ValueError, match="begun with other editor"):
        measure_figure("small", small.points, tiny_profile, 4)


def test_a_file_of_others_is_refused_and_stays(small, tmp_path, tiny_profile, judged_by_nobody):
    foreign = tmp_path / "out" / "small.jsonl"
    foreign.parent.mkdir()
    for text in ("shopping list\neggs", '["a", "list"]\n{"half'):
        foreign.write_text(text)
        with pytest.raises(ValueError, match="no list of measurements; move it away"):
            measure_figure("small", small.points, tiny_profile, 4)
        assert foreign.read_text() == text


def test_what_it_will_cost_is_said_first(small, capsys, tiny_profile, judged_by_nobody):
    measure_figure("small", small.points, tiny_profile, 4)
    assert "unedited: 4 edits" in capsys.readouterr().out


def test_what_is_measured_does_not_wait_for_the_training_of_what_follows(
    small, tiny_profile, judged_by_nobody
):
    unedited = small.points[0]

    def still_learning(cases, seeds):
        raise KeyboardInterrupt

    trained_later = Point("trained later", 0, still_learning, editor="trained later")
    with pytest.raises(KeyboardInterrupt):
        measure_figure("small", [unedited, trained_later], tiny_profile, 10)
    lines = (points.OUT / "small.jsonl").read_text().splitlines()
    assert [json.loads(line)["edit"] for line in lines[1:]] == list(range(10))


def test_a_figure_that_was_never_made_is_said_so():
    with pytest.raises(ValueError, match="ip2p figures nothing"):
        read_csv("nothing")


def test_intervals_hold_the_mean_and_shrink():
    values = np.random.default_rng(0).normal(0.5, 0.2, 400)
    (low, high), (low_20, high_20) = interval(values), interval(values[:20])
    assert low < values.mean() < high and high - low < (high_20 - low_20) / 2
    assert 0.8 < (high - low) / (2 * 1.96 * 0.2 / 20) < 1.2  # as for the mean of a normal distribution
    low, high = interval([0] * 60)
    assert low == 0 and 0.04 < high < 0.08, "sixty failures do not prove that it never succeeds"
    low, high = interval([True] * 150 + [False] * 150)
    assert abs(low - 0.444) < 0.002 and abs(high - 0.556) < 0.002


def test_clip_reads_captions_of_cases_that_say_everything():
    for case in held_out_cases(MINI, 11):
        for words, scene in ((case.before, case.truth.before), (case.after, case.truth.after)):
            shown = {name: value for name, value in scene.attributes().items() if value not in (None, False)}
            assert parse(words) == shown


def test_measures_are_of_pictures_in_their_own_range(tiny_profile, judged_by_nobody):
    """The trap of the released metrics script, [-1, 1] where [0, 1] is due, would move every CLIP figure."""
    from ip2p.clip_filter import ClipSimilarity

    cases = held_out_cases(tiny_profile, 3)
    clip = ClipSimilarity(tiny_profile.clip)
    rows = measure_outputs(clip, cases, [c.image for c in cases])
    assert all(abs(r["image"] - 1) < 1e-5 and r["l2"] == 0 for r in rows)
    dark = [c.image.point(lambda x: x // 2) for c in cases]
    for row, case in zip(measure_outputs(clip, cases, dark), cases, strict=True):
        half = np.asarray(case.image, float) / 255
        assert abs(row["l1"] - (half / 2).mean()) < 0.01
