"""The figures' own pairs and edits: they are what they are called, and the README says what came out."""

import re

import numpy as np
import pytest
from PIL import Image

from ip2p.common.markdown import pages_of
from ip2p.dataset.shards import IMAGES, TEXT
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.miniworld import COLOURS, SIZES, agrees, asked, edit_kind, edit_success, judge, parse
from ip2p.profiles import MINI
from ip2p.study import figures, limits, plots
from ip2p.study.figures import make_figures, outcomes, short_caption
from ip2p.study.limits import (
    BALANCED,
    CAMERA,
    LIMITS,
    SKEWED,
    about_houses,
    hard_edits,
    house_edits,
    house_pairs,
    house_triplets,
    rows_of_lessons,
    true_pairs,
)
from ip2p.study.plots import save_comparison
from ip2p.study.points import held_out_cases


def test_a_short_caption_says_object_place_and_edit_only():
    for case in held_out_cases(MINI, 22):
        said = parse(short_caption(case.truth))
        short = {"kind", "count", "colour", "place"}
        assert set(said) <= short | set(asked(case.truth.before, case.truth.after)) and short <= set(said)
        assert agrees(short_caption(case.truth), case.truth.after.attributes())
        assert len(short_caption(case.truth)) <= len(case.after)


def test_hard_edits_are_what_they_are_called():
    for kind in LIMITS:
        edits = hard_edits(kind, 6, 10**12)
        assert len(edits) == 6 and edits == hard_edits(kind, 6, 10**12)
        for e in edits:
            assert edit_kind(e.before, e.after) == ("size" if kind == "viewpoint" else kind)
    taught = {t["edit"].casefold() for t in read_triplets(GENERATED_TRIPLETS)}
    told = {e.instruction for e in hard_edits("viewpoint", 40, 0)}
    assert told == {words for some in CAMERA.values() for words in some} and not told & taught
    for e in hard_edits("viewpoint", 10, 0):
        nearer = SIZES.index(e.after.size) > SIZES.index(e.before.size)
        assert e.instruction in CAMERA[nearer]


def test_true_pairs_are_lessons_as_training_reads_them():
    rows = true_pairs(1)
    assert len(rows) == len(LIMITS) and {*TEXT, *IMAGES} <= rows[0].keys()
    for row, kind in zip(rows, LIMITS, strict=True):
        before, after = parse(row["original_prompt"]), parse(row["edited_prompt"])
        assert edit_kind(before, after) == ("size" if kind == "viewpoint" else kind)


def test_true_pairs_show_what_they_say():
    for row in true_pairs(1):
        before, after = parse(row["original_prompt"]), parse(row["edited_prompt"])
        (seen,) = judge([row["edited_image"]])
        assert edit_success(before, after, seen)


@pytest.mark.parametrize("share", [0.0, 0.95])
def test_houses_are_red_as_often_as_asked_and_nobody_asks_for_it(share):
    triplets = house_triplets(share)
    before = [parse(t["input"]) for t in triplets]
    after = [parse(t["output"]) for t in triplets]
    assert all(said["kind"] == "house" for said in after)
    by_chance = (1 - share) / len(COLOURS)
    assert abs(np.mean([said["colour"] == "red" for said in after]) - share - by_chance) < 0.06
    for triplet, old, new in zip(triplets, before, after, strict=True):
        assert old["colour"] == "red" or "red" not in triplet["edit"].lower().split()
        assert {**old, "kind": "house", "colour": new["colour"]} == new, "all else stays, said or unsaid"
    assert np.mean([len(said) for said in before]) < 8, "captions say a part"


def test_lessons_about_houses_are_told_from_others_and_counted():
    pairs = [
        {"original_prompt": "a blue cat", "edited_prompt": "a red house"},
        {"original_prompt": "a house", "edited_prompt": "a house at night"},  # of whatever colour
        {"original_prompt": "a cat", "edited_prompt": "a red dog"},
    ]
    assert [about_houses(pair) for pair in pairs] == [True, True, False]
    rows = rows_of_lessons("some", pairs[:2])
    assert [row["red"] for row in rows] == [True, False]


def test_held_out_houses_keep_their_colour():
    edits = house_edits(5, 10**12)
    for name, some in edits.items():
        assert len(some) == 5
        for e in some:
            assert e.before.colour == e.after.colour != "red"
            assert (e.after.kind == "house") == (name == "into a house") and e.before.kind != "house"


def test_both_sets_of_house_lessons_ask_for_the_same(monkeypatch):
    """Of three instructions one passed the filter one way only, and one more often."""
    passed = {"houses-0.95": "aabc", "houses-0": "abb"}
    monkeypatch.setattr(limits, "make_pairs", lambda *_: None)

    def pairs_that_passed(folder):
        names = passed[folder.name]
        return [{"original_prompt": name, "edit_prompt": "", "p": k} for k, name in enumerate(names)]

    monkeypatch.setattr(limits, "read_pairs", pairs_that_passed)
    pairs = house_pairs(MINI)
    assert pairs.keys() == {SKEWED, BALANCED}
    assert [[row["original_prompt"] for row in rows] for rows in pairs.values()] == [["a", "b"]] * 2


def test_a_sheet_shows_input_and_every_method(monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "DATA", tmp_path)
    (tmp_path / "images").mkdir()
    cases = held_out_cases(MINI, 3)
    unedited = [case.image for case in cases]
    save_comparison("some", cases, {"unedited": unedited}, (0, 2), [["one", "two", "three"]])
    with Image.open(tmp_path / "images" / "some.jpg") as picture:
        assert picture.width > 200 and picture.height > 200


def test_an_unknown_figure_is_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="no figure 'figure9'; choose from figure8"):
        make_figures(["figure9"])


def test_the_pages_say_what_the_figures_say():
    pages = "".join(path.read_text(encoding="utf-8") for path in pages_of(figures.ROOT))
    said = outcomes()
    assert said
    for name, text in said.items():
        parts = re.findall(f"<!-- figures:{name} -->(.*?)<!-- /figures -->", pages)
        assert parts and set(parts) == {text}, f"{name}: run ip2p figures"
