"""What is measured: held-out edits, the judge's verdicts, what counts as rising; and `ip2p evaluate`."""

import json
import math
import random
import shutil
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from kills import results, survive

from ip2p.common.durable import digest, write_atomically
from ip2p.common.markdown import fill, pages_of
from ip2p.miniworld import (
    EDIT_KINDS,
    Scene,
    agrees,
    caption_pair,
    edit,
    edit_kind,
    judging,
    parse,
    random_scene,
    render,
)
from ip2p.miniworld.held_out import Edit, caption_pairs, held_out_edits, reworded_edits, scenes
from ip2p.models.autoencoder import decode, encode, psnr, sharpness
from ip2p.models.renders import draw
from ip2p.paths import DATA, ROOT
from ip2p.profiles import MINI
from ip2p.study import evaluate as evaluation
from ip2p.study import factory_figures, measures
from ip2p.study.evaluate import FIGURES, autoencoder_figures, evaluate
from ip2p.study.factory_figures import (
    CANDIDATES,
    SHARES,
    chance_of_some,
    filter_figures,
    partial_triplets,
    sharing_figures,
    spread,
    summary_of_filter,
    summary_of_sharing,
    text_to_image_figures,
)
from ip2p.study.measures import (
    SURVIVORS,
    judge_pairs,
    paired_rise,
    score,
    summary,
    summary_by_kind,
    surviving,
    validity_by_p,
)
from ip2p.study.progress import Notes
from ip2p.study.tables import markdown_table, row, row_of_share, short_table, weakest_kinds

CAT = Scene("cat", "red", "beach", size="large", extras=("hat",), seed=3)


@pytest.fixture
def judged_by_nobody(monkeypatch, tiny_judge):
    """An untrained judge instead of the bundled one."""
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)


@pytest.fixture
def judged_as(monkeypatch):
    """A function of the readings that the judge gives from now on, one list for each time it is asked."""

    def set_readings(*readings):
        answers = iter(readings)
        monkeypatch.setattr(measures, "judge", lambda images: next(answers))

    return set_readings


def test_held_out_edits_are_of_every_kind_and_never_trained_on():
    edits = held_out_edits(44)
    assert [e.kind for e in edits] == list(EDIT_KINDS) * 4 and held_out_edits(44) == edits
    trained = {s.seed for seed in (1, 2, 3) for s in scenes(300, seed)}
    assert not trained & {e.before.seed for e in edits}
    assert {e.kind for e in held_out_edits(6, kinds=("time", "style"))} == {"time", "style"}


def test_reworded_edits_are_at_least_100_and_have_a_truth():
    edits = reworded_edits()
    assert len(edits) >= 100 and all(e.before != e.after and e.kind in EDIT_KINDS for e in edits)


def test_the_truth_scores_full_marks_and_doing_nothing_none():
    edits = held_out_edits(44, kinds=("time", "style", "weather", "place"))
    before = [render(e.before) for e in edits]
    after = [render(e.after) for e in edits]
    true = summary(score(edits, before, after))
    idle = summary(score(edits, before, before))
    assert true["success"] > 0.95 and true["preservation"] > 0.97 and true["n"] == 44
    assert idle["success"] < 0.05 and idle["preservation"] == 1 and idle["outside"] == 0
    assert set(summary_by_kind(score(edits, before, after))) == {"time", "style", "weather", "place"}


def test_the_public_names_of_outside_checks():
    from ip2p.study.measures import Edit, run_editor, score

    assert Edit is type(held_out_edits(1)[0]) and callable(run_editor) and callable(score)


def test_an_edit_is_right_if_it_succeeds_and_nine_tenths_of_the_rest_stay(judged_as):
    night = edit(CAT, time="night")
    cases = [Edit(CAT, night, "make it night", "time")] * 4
    read = night.attributes()
    after = [
        read,
        read | {"place": "city"},  # 14 of 15
        read | {"place": "city", "kind": "dog"},  # 13 of 15
        CAT.attributes(),  # nothing was done
    ]
    judged_as([CAT.attributes()] * 4, after)
    picture = render(CAT, 32)
    rows = score(cases, [picture] * 4, [picture] * 4)
    assert [row["success"] for row in rows] == [True, True, True, False]
    assert [row["right"] for row in rows] == [True, True, False, False]
    assert [row["preservation"] for row in rows] == [1, 14 / 15, 13 / 15, 1]
    means = summary(rows)
    assert means["success"] == 0.75 and means["right"] == 0.5 and means["n"] == 4
    assert means["survives"] == {"kind": 0.75, "colour": 1, "size": 1, "place": 0.5, "style": 1}


def test_what_an_edit_concerns_neither_survives_nor_dies():
    blue = edit(CAT, colour="blue")
    read = CAT.attributes()
    asked = Edit(CAT, blue, "make it blue", "colour")
    assert surviving(asked, read, read) == dict.fromkeys(("kind", "size", "place", "style"), True)
    odd = read | {"kind": "dog", "colour": "green"}
    assert surviving(asked, odd, odd | {"style": "comic"}) == {
        "kind": True,  # the same before and after, whatever it is
        "size": True,
        "place": True,
        "style": False,
    }
    rows = [{"success": True, "preservation": 1.0, "right": True, "outside": 0.0, "survives": {}}]
    assert summary(rows)["survives"] == {}, "a share of nothing is not told"
    of_every_kind = [surviving(e, read, read) for e in held_out_edits(22)]
    assert all(
        set(SURVIVORS) - survivors.keys() <= {e.kind}
        for e, survivors in zip(held_out_edits(22), of_every_kind, strict=True)
    )


def test_pairs_are_judged_by_what_their_captions_say(judged_as):
    night = edit(CAT, time="night")
    triplet = {"input": "a cat", "edit": "make it night", "output": "a cat at night"}
    seen_0, seen_1 = CAT.attributes(), night.attributes()
    moved = {"place": "city", "style": "comic"}  # unsaid, and kept all the same
    judged_as([seen_0] * 3, [seen_1, seen_0, seen_1 | moved])
    rows = judge_pairs([triplet] * 3, [None] * 3, [None] * 3)
    assert rows == [{"kind": "time", "valid": valid} for valid in (True, False, False)]


def test_pairs_are_judged_by_the_bundled_judge():
    scene = Scene("cat", "red", "beach", size="large", seed=3)
    night = edit(scene, time="night")
    before, after = caption_pair(scene, night, random.Random(0))
    triplet = {"input": before, "edit": "make it night", "output": after}
    rows = judge_pairs([triplet] * 2, [render(scene)] * 2, [render(night), render(scene)])
    assert rows == [{"kind": "time", "valid": True}, {"kind": "time", "valid": False}]


def test_captions_of_held_out_edits_say_a_part_and_the_change():
    edits = held_out_edits(44)
    pairs = caption_pairs(edits)
    assert pairs == caption_pairs(edits) and pairs[5:] != caption_pairs(edits[5:])
    said = []
    for e, (before, after) in zip(edits, pairs, strict=True):
        assert agrees(before, e.before.attributes()) and agrees(after, e.after.attributes())
        assert edit_kind(parse(before), parse(after)) == e.kind
        said.append(len(parse(before)))
    assert mean(said) < 8, "of 16 attributes, and those that are there alone"


# --------------------------------------------------------------------------------- the painter and its pairs


def test_spread_is_told_of_what_captions_leave_open():
    said_by = [{"time": "night"}] * 50 + [{}] * 100
    readings = [{"time": "night"}] * 50 + [{"time": "day"}] * 90 + [{"time": "sunset"}] * 10
    shares = spread("time", said_by, readings)
    assert shares == pytest.approx({"day": 0.9 / 0.45, "sunset": 0.1 / 0.25, "night": 0})


def test_what_a_caption_says_is_held_against_the_picture(monkeypatch, tiny_profile):
    truth = [random_scene(random.Random(10**9 + i)).attributes() for i in range(4)]
    monkeypatch.setattr(factory_figures, "judge", lambda pictures: truth)
    figures = text_to_image_figures(tiny_profile, 4)
    assert figures["mean"] == figures["all"] == 1 and set(figures["attributes"].values()) == {1}
    wrong = [reading | {"count": 4} for reading in truth[:1]] + truth[1:]
    monkeypatch.setattr(factory_figures, "judge", lambda pictures: wrong)
    figures = text_to_image_figures(tiny_profile, 4)
    assert figures["all"] == figures["attributes"]["count"] == 0.75 and figures["attributes"]["kind"] == 1
    assert figures["mean"] < 1


def test_the_autoencoder_is_measured_on_both_mixes(tiny_pipe):
    figures = autoencoder_figures(tiny_pipe.vae, 4)
    todo = scenes(2, 10**9, "wild") + scenes(2, 10**9, "even")
    pictures = torch.from_numpy(draw(todo, 32))
    again = decode(tiny_pipe.vae, encode(tiny_pipe.vae, pictures))
    assert figures == {"n": 4, "psnr": psnr(again, pictures), "sharpness": sharpness(again, pictures)}


def test_the_best_p_of_each_kind():
    rows = [
        {"kind": "time", "valid": [False] * 4 + [True] * 5},
        {"kind": "time", "valid": [False] * 8 + [True]},
        {"kind": "count", "valid": [True] * 3 + [False] * 6},
    ]
    figures = summary_of_sharing(rows)
    assert figures["p"] == list(SHARES) == [k / 8 for k in range(9)]
    assert figures["kinds"]["time"] == {
        "n": 2,
        "valid": [0] * 4 + [0.5] * 4 + [1],
        "p_best": 1,
        "best": 1,
    }
    assert figures["kinds"]["count"]["p_best"] == 0, "the smallest of several"
    assert figures["valid"][0] == pytest.approx(1 / 3) and figures["n"] == 3
    assert figures["p_best"] == 1 and figures["best"] == pytest.approx(2 / 3) and figures["each"] == 1


def test_sharing_is_painted_with_one_seed_a_pair_at_every_p(monkeypatch, tiny_profile):
    asked = []

    def paint_nothing(pipe, job, triplets, settings):
        asked.extend(zip(triplets, settings, strict=True))
        assert job.per_seed == 9 and len(settings) <= job.batch
        return (torch.zeros(len(triplets), 3, 4, 4),) * 2

    def by_its_p(triplets, first, second):
        settings = [setting for _, setting in asked[-len(triplets) :]]
        return [{"kind": "any", "valid": setting.p >= 0.5} for setting in settings]

    monkeypatch.setattr(factory_figures, "paint_candidates", paint_nothing)
    monkeypatch.setattr(factory_figures, "judge_pairs", by_its_p)
    figures = sharing_figures(tiny_profile, 5)
    assert figures["valid"] == [0] * 4 + [1] * 5 and figures["n"] == 5 and figures["p_best"] == 0.5
    assert list(figures["kinds"]) == list(EDIT_KINDS[:5])
    assert len({setting.seed for _, setting in asked}) == 5 and len(asked) == 45
    middle = mean(tiny_profile.pair_guidance)
    assert {setting.guidance_scale for _, setting in asked} == {middle}, "of the profile's range"
    assert [triplet for triplet, _ in asked[::9]] == partial_triplets(held_out_edits(5, seed=2))


def test_the_chance_that_something_passes_is_that_over_all_choices():
    for n, passing, drawn in ((7, 0, 3), (7, 1, 3), (7, 2, 4), (6, 4, 3), (6, 6, 1)):
        choices = list(combinations(range(n), drawn))
        share = mean(any(k < passing for k in choice) for choice in choices)
        assert chance_of_some(passing, n, drawn) == pytest.approx(share)


def test_what_the_filter_buys():
    few = {"kind": "time", "p": [0.1 * k for k in range(24)], "valid": [True] * 12 + [False] * 12}
    few |= {"passes": [True] + [False] * 22 + [True], "kept": [True] + [False] * 23}
    none = {"kind": "count", "p": few["p"], "valid": [False] * 24, "passes": [False] * 24}
    none["kept"] = none["passes"]
    figures = summary_of_filter([few, none], keep=1)
    assert (figures["n"], figures["triplets"], figures["passing"], figures["kept"]) == (48, 2, 2, 1)
    assert figures["invalid_before"] == 0.75
    assert figures["invalid_passing"] == 0.5 and figures["invalid_after"] == 0
    assert figures["something_of_all"] == 0.5
    assert figures["something_of_few"] == pytest.approx((1 - 20 * 19 / (24 * 23)) / 2)
    assert figures["kinds"]["time"]["best"] == 1 and figures["kinds"]["count"]["valid"] == 0
    assert math.isnan(summary_of_filter([none], keep=1)["invalid_after"])


PAINTS_PAIRS = {"sharing": sharing_figures, "filter": filter_figures}


@pytest.mark.parametrize("part", PAINTS_PAIRS)
def test_a_long_part_goes_on_where_it_was_stopped(
    part, tiny_profile, judged_by_nobody, monkeypatch, tmp_path
):
    some = read_some_triplets()
    monkeypatch.setattr(factory_figures, "triplets_by_kind", lambda: {"any": some})
    profile = replace(tiny_profile, min_image=0.0, min_caption=-1.0, min_direction=-0.1)
    measure = PAINTS_PAIRS[part]
    path = tmp_path / "notes.jsonl"
    figures = measure(profile, 4, Notes(path, {"n": 4}))
    assert figures == measure(profile, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    path.write_bytes(b"".join(lines[:4]) + lines[4][:10])  # killed amid the last row
    notes = Notes(path, {"n": 4})
    assert len(notes.rows) == 3
    assert measure(profile, 4, notes) == figures and path.read_bytes() == b"".join(lines)
    with pytest.raises(ValueError, match="begun with other n"):
        Notes(path, {"n": 5})


def read_some_triplets() -> list[dict]:
    return partial_triplets(held_out_edits(4, seed=9))


def test_candidates_that_are_kept_pass_and_are_no_more_than_the_profile_says(
    tiny_profile, judged_by_nobody, monkeypatch
):
    some = read_some_triplets()
    monkeypatch.setattr(factory_figures, "triplets_by_kind", lambda: {"any": some})
    notes = Notes()
    profile = replace(tiny_profile, min_image=-1.0, min_caption=-1.0, min_direction=0.0)
    figures = filter_figures(profile, 3, notes)
    assert figures["triplets"] == 3 and figures["n"] == 3 * CANDIDATES
    for one in notes.rows:
        kept = [k for k in range(CANDIDATES) if one["kept"][k]]
        assert len(kept) == min(profile.keep, sum(one["passes"])) and all(one["passes"][k] for k in kept)
        low, high = profile.share
        assert len(set(one["p"])) == CANDIDATES and low < min(one["p"]) < max(one["p"]) < high


def test_rising_curves():
    noise = np.random.default_rng(0).normal(size=(3, 200)) * 0.01
    assert min(paired_rise(list(noise + [[0], [1], [2]]))) == 1
    assert min(paired_rise(list(noise + [[0], [1], [0.5]]))) == 0
    assert 0 < paired_rise(list(noise[:2]))[0] < 1


def test_the_valid_share_at_the_best_p():
    rows = [{"p": p, "valid": p > 0.75} for p in np.linspace(0, 1, 101)]
    best = validity_by_p(rows)
    assert best["best"] == 1 and best["p"] == pytest.approx(0.88) and best["valid"] == pytest.approx(25 / 101)
    few = []  # alike at every p
    for p in (0.2, 0.5, 0.8):
        few += [{"p": p, "valid": valid} for valid in (True, True, False, True)]
    assert [share for _, share in validity_by_p(few)["curve"]] == [0.75] * 3


# ------------------------------------------------------------------------------------------- ip2p evaluate

CHEAP = ["sharing", "mini-sd"]
CARDS = [DATA / "models" / name / "README.md" for name in ("mini-sd", "mini-ip2p")]
PUBLISHED = [*pages_of(ROOT), FIGURES, *CARDS]


@pytest.fixture
def evaluated(tmp_path_factory, tiny_profile, judged_by_nobody):
    """The figures of CHEAP parts, as few as with two edits, and the folder that was given as `out`."""
    out = tmp_path_factory.mktemp("evaluated")
    before = [digest(path) for path in PUBLISHED]
    figures = evaluate(out=out, profile=tiny_profile, n=2, only=CHEAP)
    assert [digest(path) for path in PUBLISHED] == before, "only `write` changes what is published"
    return figures, out


def test_evaluate_prints_the_same_on_every_run_and_writes_nothing(
    evaluated, tiny_profile, tmp_path, monkeypatch, capsys
):
    figures, _ = evaluated
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    before = [digest(path) for path in PUBLISHED]
    again = evaluate(profile=tiny_profile, n=2, only=["mini-sd"])
    assert again == {"mini-sd": figures["mini-sd"]}
    assert capsys.readouterr().out == markdown_table(again) + "\n"
    assert list(tmp_path.iterdir()) == [] and [digest(path) for path in PUBLISHED] == before


def test_the_table_says_what_was_aimed_at_and_what_came_out(evaluated):
    figures, _ = evaluated
    table = markdown_table(figures)
    assert "| mini-sd, 3 held-out captions: mean accuracy of what they say | 0.950 |" in table
    n = figures["sharing"]["n"]
    assert f"| Pairs of {n} partial caption pairs: valid without shared attention | at most 0.500 |" in table
    assert "| Valid pairs at p = | 0 | 0.125 |" in table and "Edit success" not in table


def test_the_pages_show_the_published_figures():
    published = json.loads(FIGURES.read_text())
    assert markdown_table(published) in (ROOT / "docs" / "results.md").read_text()
    assert short_table(published) in (ROOT / "README.md").read_text()


MEANS = {
    "success": 0.9,
    "preservation": 0.95,
    "right": 0.8,
    "survives": dict.fromkeys(SURVIVORS, 0.97),
    "outside": 0.1,
    "n": 330,
}
SWEEP = {"values": [1.0, 2.0, 3.0], "mean": [0.1, 0.2, 0.3], "rises": [1.0, 1.0]}
VALID = {"n": 300, "valid": [0.4] * 5 + [0.85] * 4, "p_best": 0.625, "best": 0.85}
SECONDS = {"second_kind": 0.98, "second_colour": 0.99}
ALL_FIGURES = {
    "instructions": {
        "few-shot": {"n": 100, "formed": 0.5, "valid": 0.1},
        "fine-tuned": {"n": 1000, "formed": 0.97, "valid": 0.87, "distinct": 0.8},
    },
    "autoencoder": {"n": 500, "psnr": 27.7, "sharpness": 0.97},
    "judge": {
        "held_out": 2000,
        "renders": {"kind": 0.99, "hat": 0.986},
        "after_autoencoder": {"kind": 0.98, "hat": 0.99},
        "seconds": {"n": 600, "renders": SECONDS, "after_autoencoder": SECONDS},
    },
    "mini-clip": {
        "renders": {"image_to_text": 0.96},
        "partial": {"excluded": 81.4, "text_to_image": 0.9},
        "edits": {"edits": 550, "own_caption_preferred": 0.94},
    },
    "mini-sd": {
        "n": 500,
        "mean": 0.99,
        "all": 0.96,
        "attributes": {"kind": 0.98, "time": 1.0, "second_kind": 0.9},
        "spread": {"time": {"day": 1.1, "night": 0.8}, "style": {"comic": 0.55, "mosaic": 1.2}},
    },
    "sharing": {"p": list(SHARES), **VALID, "each": 0.9, "kinds": {"time": VALID}},
    "filter": {
        "n": 4608,
        "triplets": 192,
        "passing": 1000,
        "kept": 300,
        "keep": 2,
        "invalid_before": 0.3,
        "invalid_passing": 0.06,
        "invalid_after": 0.04,
        "something_of_few": 0.7,
        "something_of_all": 0.95,
        "kinds": {"time": {"valid": 0.7, "best": 0.9, "p": 0.5}},
    },
    "mini-ip2p": {
        "renders": MEANS,
        "samples": MEANS,
        "reworded": MEANS,
        "by_kind": {"time": MEANS},
        "image_guidance_scale": SWEEP,
        "guidance_scale": SWEEP,
    },
}


def test_every_part_has_its_rows():
    table = markdown_table(ALL_FIGURES)
    for line in (
        "| Autoencoder of mini-sd: PSNR on 500 held-out renders, dB | 27.0 | 27.7 |",
        "| Autoencoder of mini-sd: sharpness, of the renders' | 0.92 to 1.05 | 0.97 |",
        "| Judge, 2,000 held-out renders: its weakest attribute (hat) | 0.985 | 0.986 |",
        "| Judge, 600 scenes with a second object: its kind | 0.970 | 0.980 |",
        "| Judge, 600 scenes with a second object: its colour, after the autoencoder | 0.970 | 0.990 |",
        "| mini-sd: second object right | 0.800 | 0.900 |",
        "the rarest value (style comic), of its share in training | 0.400 | 0.550 |",
        "valid with it, at the best p (0.625) | 0.800 | 0.850 (0.81 to 0.89) |",
        "| Invalid share of 4,608 candidates of 192 triplets, before the filter | 0.100 to 0.400 | 0.300 |",
        "| Invalid share of the 300 that it keeps, the best 2 of a triplet | at most 0.050 | 0.040 |",
        "| Triplets of which something passes, with 24 candidates | more | 0.950 |",
        "| Right: both, renders, reworded by hand | 0.700 | 0.800 (0.75 to 0.84) |",
        "| time | 0.90 | 0.95 | 0.80 | 330 |",
        "| size | 0.97 | 0.97 | 0.97 |",
        "| time | 1.000 | night 0.80 |",
        "| all | 0.40 | 0.40 | 0.40 | 0.40 | 0.40 | 0.85 | 0.85 | 0.85 | 0.85 | 0.625 | 300 |",
    ):
        assert line in table, line


def test_the_short_table_has_eight_rows():
    lines = short_table(ALL_FIGURES).splitlines()
    assert len(lines) == 10 and lines[4].endswith("(without: 0.400) | 0.800 | 0.850 |")
    assert "3. Invalid pairs after the filter (before: 0.300) | at most 0.050 | 0.040 |" in lines[5]


def test_the_weakest_kinds_are_those_of_which_least_is_right():
    right = {"colour": 0.9, "size": 0.3, "add": 0.5, "time": 0.95, "count": 0.25}
    by_kind = {kind: {**MEANS, "right": share} for kind, share in right.items()}
    assert weakest_kinds(by_kind) == "count 0.25, size 0.30, add 0.50"


def test_an_editor_of_ones_own(tiny_profile, judged_by_nobody, capsys):
    figures = evaluate(tiny_profile.editor, profile=replace(tiny_profile, steps=1), n=2)
    assert figures.keys() == {"editor"}
    editor = figures["editor"]
    assert editor["renders"]["n"] == editor["samples"]["n"] == 2 and editor["reworded"]["n"] == 120
    assert set(editor["by_kind"]) == set(MINI.edit_kinds[:2]) and editor["seconds_an_edit"] > 0
    assert set(editor["reworded"]["survives"]) == set(SURVIVORS)
    scale = editor["image_guidance_scale"]
    assert scale["values"] == [MINI.image_guidance_scale * factor for factor in (0.5, 0.75, 1, 1.5, 2)]
    assert len(scale["mean"]) == 5 and len(scale["rises"]) == 4
    printed = capsys.readouterr().out
    assert "| Edit success, 2 renders | 0.900 |" in printed and "| Kind of edit | Success |" in printed
    right = editor["samples"]["right"]
    assert row_of_share("Right: both, pictures by mini-sd", "0.800", right, 2) in printed
    assert "| Survives edits of something else (aim 0.95) | Renders |" in printed


def test_a_stopped_evaluation_goes_on_and_other_settings_are_refused(
    evaluated, tiny_profile, tmp_path, monkeypatch
):
    figures, out = evaluated
    assert json.loads((out / "figures.json").read_text()) == figures
    lines = (out / "parts.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "parts.jsonl").write_bytes(
        b"".join(lines[:2]) + lines[2][:30]
    )  # killed while it wrote "mini-sd"

    def broken(*_):
        raise AssertionError("this part was there already")

    monkeypatch.setitem(evaluation.PARTS, "sharing", broken)
    assert list(evaluate(out=tmp_path, profile=tiny_profile, n=2, only=CHEAP)) == CHEAP
    assert (tmp_path / "parts.jsonl").read_bytes() == b"".join(lines[:3])
    with pytest.raises(ValueError, match="begun with other n;"):
        evaluate(out=tmp_path, profile=tiny_profile, n=3, only=CHEAP)
    assert (out / "sharing.jsonl").is_file() and not (out / "mini-sd.jsonl").exists()


def an_evaluation():
    """Twenty parts that are quickly measured, written into a README as well; for `survive`."""
    models = evaluation.model_checksums(MINI)
    evaluation.model_checksums = lambda profile: models
    evaluation.markdown_table = lambda figures: ""
    evaluation.renew_pages = lambda figures, _: fill(evaluation.ROOT / "README.md", {"results": str(figures)})

    def measure(profile, n, notes):
        time.sleep(0.02)
        return {"n": n}

    evaluation.PARTS.update({f"part {k}": measure for k in range(20)})

    def job(folder: Path) -> None:
        evaluation.ROOT = folder
        evaluation.FIGURES = folder / "published.json"
        if not (folder / "README.md").exists():
            page = "# Mine\n<!-- figures:results -->\n<!-- /figures -->\n" + "words\n" * 20_000
            write_atomically(folder / "README.md", page)
        evaluate(out=folder, profile=MINI, n=2, only=[f"part {k}" for k in range(20)], write=True)

    return job


@pytest.mark.soak
def test_50_kills_of_an_evaluation_lose_and_repeat_no_part(tmp_path):
    survive(tmp_path, an_evaluation, kills=50)
    undisturbed, killed = results(tmp_path)
    for folder in killed:
        for name in ("parts.jsonl", "figures.json", "published.json", "README.md"):
            assert (folder / name).read_text() == (undisturbed / name).read_text()
    lines = (undisturbed / "parts.jsonl").read_text().splitlines()
    assert [json.loads(line)["part"] for line in lines[1:]] == [f"part {k}" for k in range(20)]
    assert (undisturbed / "README.md").read_text().count("words") == 20_000


def test_write_renews_the_readme_the_cards_and_the_figures(
    tiny_profile, judged_by_nobody, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    monkeypatch.setattr(evaluation, "DATA", tmp_path / "data")
    monkeypatch.setattr(evaluation, "FIGURES", tmp_path / "data" / "eval" / "figures.json")
    monkeypatch.setattr(evaluation, "data_facts", lambda *_: {})
    for path in PUBLISHED:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    evaluation.FIGURES.write_text(json.dumps(ALL_FIGURES))
    figures = evaluate(profile=tiny_profile, n=2, only=["mini-sd"], write=True)
    assert figures.keys() == ALL_FIGURES.keys() and figures["mini-sd"]["n"] == 3
    assert figures | {"mini-sd": 0} == ALL_FIGURES | {"mini-sd": 0}, "other parts stay as they are"
    assert json.loads(evaluation.FIGURES.read_text()) == figures
    line = row("mini-sd: all that a caption says is right", "0.800", figures["mini-sd"]["all"])
    assert line in (tmp_path / "docs" / "results.md").read_text()
    assert short_table(figures) in (tmp_path / "README.md").read_text()
    card = (tmp_path / "data" / "models" / "mini-sd" / "README.md").read_text()
    assert line in card and "| Valid pairs at p = |" in card and "| Attribute | Right, where said |" in card


def test_what_was_never_measured_leaves_its_pages_as_they_are(
    tiny_profile, judged_by_nobody, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    monkeypatch.setattr(evaluation, "DATA", tmp_path / "data")
    monkeypatch.setattr(evaluation, "FIGURES", tmp_path / "figures.json")
    page = "<!-- figures:results -->old<!-- /figures -->\n"
    (tmp_path / "README.md").write_text(page + "<!-- figures:reaches -->old<!-- /figures -->\n")
    card = tmp_path / "data" / "models" / "mini-sd" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text(page)
    figures = evaluate(profile=tiny_profile, n=2, only=["mini-sd"], write=True)
    assert markdown_table(figures) in (tmp_path / "README.md").read_text()
    assert "<!-- figures:reaches -->old" in (tmp_path / "README.md").read_text()
    assert markdown_table(figures) in card.read_text()


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"only": ["hat"]}, "there is no part hat; choose from instructions, "),
        ({"model": MINI.editor, "write": True}, "leave out --write, or --model"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
        ({"dtype": "int8"}, "there is no number format 'int8'"),
    ],
)
def test_what_evaluate_refuses(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(**wrong)
