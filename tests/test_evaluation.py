"""The measures: held-out edits, the judge's verdicts, and what counts as rising."""

import numpy as np
import pytest

from ip2p.miniworld import EDIT_KINDS, Scene, caption, edit, parse, render
from ip2p.miniworld.held_out import scenes
from ip2p.study import evaluate as ev


def test_held_out_edits_are_of_every_kind_and_never_trained_on():
    edits = ev.held_out_edits(44)
    assert [e.kind for e in edits] == list(EDIT_KINDS) * 4 and ev.held_out_edits(44) == edits
    trained = {s.seed for seed in (1, 2, 3) for s in scenes(300, seed)}
    assert not trained & {e.before.seed for e in edits}
    assert {e.kind for e in ev.held_out_edits(6, kinds=("time", "style"))} == {"time", "style"}


def test_reworded_edits_are_at_least_100_and_have_a_truth():
    edits = ev.reworded_edits()
    assert len(edits) >= 100 and all(e.before != e.after and e.kind in EDIT_KINDS for e in edits)


def test_the_truth_scores_full_marks_and_doing_nothing_none():
    edits = ev.held_out_edits(44, kinds=("time", "style", "weather", "place"))
    before, after = ([render(getattr(e, name)) for e in edits] for name in ("before", "after"))
    true, idle = (ev.summary(ev.score(edits, before, x)) for x in (after, before))
    assert true["success"] > 0.95 and true["preservation"] > 0.97 and true["n"] == 44
    assert idle["success"] < 0.05 and idle["preservation"] == 1 and idle["outside"] == 0
    assert set(ev.by_kind(ev.score(edits, before, after))) == {"time", "style", "weather", "place"}


def test_stated_attributes():
    scene = Scene("cat", "red", "beach", time="night", extras=("hat",))
    assert ev.stated(scene) == {
        "kind": "cat",
        "colour": "red",
        "place": "beach",
        "time": "night",
        "hat": True,
    }


def test_pairs_are_judged_by_their_captions():
    scene = Scene("cat", "red", "beach", size="large", seed=3)
    night = edit(scene, time="night")
    triplet = {"input": caption(scene), "edit": "make it night", "output": caption(night)}
    rows = ev.judge_pairs([triplet] * 2, [render(scene)] * 2, [render(night), render(scene)])
    assert rows == [{"kind": "time", "valid": True}, {"kind": "time", "valid": False}]
    assert parse(triplet["output"]).time == "night"


def test_rising_curves():
    noise = np.random.default_rng(0).normal(size=(3, 200)) * 0.01
    assert min(ev.paired_rise(list(noise + [[0], [1], [2]]))) == 1
    assert min(ev.paired_rise(list(noise + [[0], [1], [0.5]]))) == 0
    assert 0 < ev.paired_rise(list(noise[:2]))[0] < 1


def test_the_valid_share_at_the_best_p():
    rows = [{"p": p, "valid": p > 0.75} for p in np.linspace(0, 1, 101)]
    best = ev.best_p(rows)
    assert best["best"] == 1 and best["p"] == pytest.approx(0.88) and best["valid"] == pytest.approx(25 / 101)
    few = [
        {"p": p, "valid": v} for p in (0.2, 0.5, 0.8) for v in (True, True, False, True)
    ]  # alike at every p
    assert [share for _, share in ev.best_p(few)["curve"]] == [0.75] * 3
