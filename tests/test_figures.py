"""The figures' own pairs and edits: they are what they are called, and the pages say what came out."""

import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ip2p.common.markdown import pages_of
from ip2p.dataset.shards import IMAGES, TEXT
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.miniworld import COLOURS, SIZES, agrees, asked, edit_kind, edit_success, judge, judging, parse
from ip2p.paths import ROOT
from ip2p.profiles import MINI
from ip2p.study import figures, limits, plots, points
from ip2p.study.figures import by_partial_caption, make_figures, outcomes, unedited
from ip2p.study.limits import (
    AS_SHIPPED,
    BALANCED,
    CAMERA,
    INTO_A_HOUSE,
    LIMITS,
    ORDINARY,
    SKEWED,
    SPACE,
    about_houses,
    hard_edits,
    house_edits,
    house_pairs,
    house_triplets,
    rows_of_lessons,
)
from ip2p.study.plots import save_comparison
from ip2p.study.points import Point, held_out_cases, true_pair
from ip2p.study.repair import REMEMBERING, REPAIRED, UNTAUGHT, true_pairs


def test_a_partial_caption_says_the_edit_and_leaves_something_unsaid():
    shorter = 0
    for seed, case in enumerate(held_out_cases(MINI, 22)):
        words = by_partial_caption(case, seed)
        assert agrees(words, case.truth.after.attributes())
        wanted = {name: value for name, value in asked(case.truth.before, case.truth.after).items() if value}
        assert wanted.keys() <= parse(words).keys()
        shorter += len(parse(words)) < len(parse(case.after))
    assert shorter > 15


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
    assert {*TEXT, *IMAGES} <= rows[0].keys()
    told = Counter(edit_kind(parse(row["original_prompt"]), parse(row["edited_prompt"])) for row in rows)
    beside = UNTAUGHT["relation"] // 2  # of the relations: a new thing comes, the others are a kind of swap
    moved = UNTAUGHT["swap"] + UNTAUGHT["relation"] - beside
    viewpoint = 1
    assert told == {
        "swap": moved,
        "several": beside,
        "size": 1 + viewpoint,
        "count": 1,
        "position": 1,
        "add": 1,
    }


def test_a_named_thing_goes_or_comes_to_one_side_of_another():
    edits = hard_edits("relation", 40, 0)
    for number, edit in enumerate(edits):
        side = "left" if "left" in edit.instruction else "right"
        there = [edit.after.kind, edit.after.second[0]]
        first, second = sorted(there, key=edit.instruction.index)
        assert there == ([first, second] if side == "left" else [second, first]), edit.instruction
        assert (edit_kind(edit.before, edit.after) == "swap") == (number % 2 == 0)
        assert {edit.before.kind} <= set(there) and "hat" not in edit.before.extras
    assert len({edit.instruction for edit in edits}) > 35


def test_true_pairs_show_what_they_say():
    for kind in SPACE:
        row = true_pair(hard_edits(kind, 1, 0)[0])
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
    with pytest.raises(ValueError, match="no figure 'figure9'; choose from removal, figure8"):
        make_figures(["figure9"])


# ------------------------------------------------------------------------------------- what the pages say

CONDITIONS = ("100% of the data", "10% of the data", "1% of the data", "no CLIP filter")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Figures are looked for in this folder, where none was measured."""
    for module in (figures, plots, points):
        monkeypatch.setattr(module, "DATA", tmp_path)
    for name in ("eval", "images"):
        (tmp_path / name).mkdir()
    return tmp_path


def rows_of(method: str, kind: str, setting: float, **measures: float) -> dict:
    return {"method": method, "setting": setting, "kind": kind} | measures


def some_figures() -> dict[str, list[dict]]:
    """What some figures could have measured, of one edit each."""
    less = []
    for k, method in enumerate(CONDITIONS):
        less.append(rows_of(method, "time", 1.6, image=0.6 - k / 10, direction=0.5 - k / 10))
    hard = []
    for kind in ("count", "position", "swap", "viewpoint"):
        hard.append(rows_of("InstructPix2Pix", kind, 0, right=kind == "count"))
    mended = []
    for k, method in enumerate((AS_SHIPPED, REPAIRED, REMEMBERING)):
        mended += [rows_of(method, kind, 1.5, right=k / 2) for kind in (*SPACE, ORDINARY)]
    red = [rows_of(name, INTO_A_HOUSE, 0, red=name == SKEWED) for name in (SKEWED, BALANCED)]
    return {"figure10": less, "limits": hard, "repair": mended, "bias": red}


def test_what_was_measured_is_told_and_of_the_rest_the_command(elsewhere):
    said = outcomes()
    assert said["curves"] == "`ip2p figures removal figure8 figure10` measures them"
    assert said["limits"] == "`ip2p figures limits` measures it"
    assert said["less_data"] == said["no_filter"] == "`ip2p figures figure10` measures it"
    for name, rows in some_figures().items():
        points.write_csv(name, rows, {"command": "none"})
        (elsewhere / "images" / f"{name}.png").touch()
    said = outcomes()
    assert said["less_data"] == "likeness 0.60, 0.50, 0.40; direction 0.50, 0.40, 0.30"
    assert said["no_filter"] == "likeness 0.30 instead of 0.60"
    assert said["limits"] == "count 1.00, position 0.00, swap 0.00, viewpoint 0.00"
    assert said["repair"].startswith(
        "| Kind of edit | as shipped | learning on, with true pairs | and then remembering |\n"
    )
    for column, mean in enumerate(("0.00", "0.50", "1.00"), start=1):
        assert [line.split(" | ")[column][:4] for line in said["repair"].splitlines()[2:]] == [mean] * 8
    assert said["bias"] == "1.00 of the outputs red, unasked; balanced: 0.00"
    assert re.fullmatch(r"!\[Trained on all.*\]\(\.\./data/images/figure10\.png\)", said["curves"])


def test_a_figure_is_written_with_its_picture_and_into_the_pages(
    elsewhere, monkeypatch, tmp_path, tiny_profile, tiny_judge
):
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)
    monkeypatch.setattr(points, "OUT", tmp_path / "out")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    small = figures.FIGURES["figure8"]._replace(content=lambda profile: [Point("unedited", 0, unedited)])
    monkeypatch.setitem(figures.FIGURES, "figure8", small)
    (tmp_path / "docs").mkdir()
    for path in pages_of(ROOT):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    make_figures(["figure8"], tiny_profile, n=2)
    assert (tmp_path / "eval" / "figure8.csv").is_file() and (tmp_path / "images" / "figure8.png").is_file()
    assert "(../data/images/figure8.png)" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")


def test_a_csv_says_how_long_each_of_its_editors_was_trained():
    assert figures.told_steps((1500, 1500)) == "1500 steps each"
    assert figures.told_steps((2000, 1200)) == "2000, 1200 steps"
    for name, figure in figures.FIGURES.items():
        if name not in figures.ROWS:
            trained = {point.editor for point in figure.content(MINI) if point.editor}
            assert len(trained) == len(figure.trainings), name


def test_a_page_names_the_figures_that_were_measured_with_earlier_models(elsewhere, monkeypatch):
    monkeypatch.setattr(figures, "model_checksums", lambda profile: {"editor": "ours 1", "judge": "judge 2"})
    rows = some_figures()["limits"]
    points.write_csv("limits", rows, {"command": "none", "editor": "ours 1", "judge": "judge 2"})
    assert figures.measured_before() == "all were measured with the models that are bundled now."
    points.write_csv("limits", rows, {"command": "none", "editor": "ours 1", "judge": "judge 1"})
    named = "some were measured with earlier models: `limits` with judge 1."
    assert figures.measured_before() == named


def test_the_pages_say_what_the_figures_say():
    pages = "".join(path.read_text(encoding="utf-8") for path in pages_of(ROOT))
    for name, text in outcomes().items():
        parts = re.findall(f"<!-- figures:{name} -->(.*?)<!-- /figures -->", pages, re.DOTALL)
        assert parts and {part.strip() for part in parts} == {text}, f"{name}: run ip2p figures"


def test_gains_are_drawn_over_comparisons_wrong_answers_and_edits():
    figure = plots.plot_gains("feedback")
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == list(plots.GAINS)
    assert all(axes.get_legend().get_texts() for axes in figure.axes), "each has its curves"


def test_the_fast_editors_sliders_do_what_the_full_ones_do():
    fast, full = plots.read_csv("fast"), plots.read_csv("plane")

    def over(scale, measure):
        return [row["mean"] for row in plots.curve(fast, f"fast, over {scale}", measure)]

    assert over("s_I", "image") == sorted(over("s_I", "image")), "s_I keeps to the picture"
    assert over("s_T", "image") == sorted(over("s_T", "image"), reverse=True)
    first, *_, before_last, last = over("s_T", "direction")
    assert first < before_last - 0.05 and last > before_last - 0.01, (
        "s_T follows the sentence, and levels off"
    )
    usual = plots.row_of(fast, "fast, over s_T", "right", setting=MINI.guidance_scale)["mean"]
    assert usual >= plots.row_of(full, "s_T 4", "right", setting=MINI.image_guidance_scale)["mean"] - 0.03
    assert int(re.search(r"(\d+) of the 20 means", outcomes()["fast_plane"])[1]) >= 18
