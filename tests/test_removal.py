"""Editors that lack one thing each: what they learn from, that they are trained alike, and what is told of
them."""

import json
import re
import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ip2p.dataset.shards import Manifest, read_pairs
from ip2p.dataset.triplets import DELIMITER, STOP
from ip2p.editing import load_editor
from ip2p.fast import FAST
from ip2p.miniworld import judging
from ip2p.profiles import MINI
from ip2p.study import ablations, figures, forecast, plots, points, removal
from ip2p.study.ablations import (
    SLIDERS,
    Arm,
    complete,
    mixed_up_pairs,
    painted_pairs,
    responses,
    trained_editor,
    triplets_to_paint,
    unfiltered_pairs,
)
from ip2p.study.figures import figure_8, make_figures
from ip2p.study.forecast import Work
from ip2p.study.limits import LIMITS
from ip2p.study.plots import read_csv, row_of
from ip2p.study.points import alone, model_folder
from ip2p.study.removal import arms, few_shot_triplets, table_of_editors, with_random_input_weights
from ip2p.study.validation import HELD_OUT_LOSS, HeldOutLoss, told_loss
from ip2p.training import new_editor

PAIRS = 5


@pytest.fixture
def workshop(monkeypatch, tmp_path, tiny_profile):
    """A profile of tiny models of which every candidate passes, and comparisons of few pairs and steps, in a
    folder of their own."""
    monkeypatch.setattr(points, "OUT", tmp_path / "out")
    for module in (figures, plots, points):
        monkeypatch.setattr(module, "DATA", tmp_path)
    for name, value in (("PART", 3), ("COMPARED_PAIRS", PAIRS), ("ABLATION_STEPS", 2), ("HELD_OUT_PAIRS", 2)):
        monkeypatch.setattr(ablations, name, value)
    (tmp_path / "eval").mkdir()
    all_pass = {"min_image": -1.0, "min_caption": -1.0, "min_direction": -1.0}
    return replace(tiny_profile, candidates=2, keep=1, batch=2, train_batch=2, **all_pass)


class Answers:
    """Who answers every caption with one edit, but some of them in no form at all."""

    cost = 0.0

    def __init__(self, profile):
        self.asked = 0

    def answers(self, ask):
        while question := ask():
            caption, _ = question
            self.asked += 1
            good = f"make it odd{DELIMITER}odd {caption}{STOP}"
            yield caption, good if self.asked % 3 else "no idea"


def jobs_of(name: str) -> list[dict]:
    folders = sorted((points.OUT / "pairs" / name).iterdir())
    return [Manifest(folder).made_by["job"] for folder in folders]


# --------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_painted_until_there_are_enough_each_with_its_own_seed(workshop):
    rows = painted_pairs(workshop, "some")
    assert len(rows) == PAIRS
    asked = [row["original_prompt"] for row in rows]
    assert asked == [triplet["input"] for triplet in triplets_to_paint(workshop, PAIRS)]
    assert len({row["seed"] for row in rows}) == PAIRS
    assert [job["per_seed"] for job in jobs_of("some")] == [1, 1]
    files = {path: path.stat().st_mtime_ns for path in points.OUT.rglob("*.parquet")}
    assert painted_pairs(workshop, "some")[-1]["seed"] == rows[-1]["seed"]
    assert files == {path: path.stat().st_mtime_ns for path in points.OUT.rglob("*.parquet")}


def test_where_triplets_run_out_there_are_fewer_pairs(workshop):
    two = lambda profile, n: triplets_to_paint(profile, min(n, 2))  # noqa: E731
    assert len(painted_pairs(workshop, "few", triplets=two)) == 2


def test_nothing_that_passes_is_no_error(workshop):
    strict = replace(workshop, min_direction=1.0)
    three = lambda profile, n: triplets_to_paint(profile, min(n, 3))  # noqa: E731
    assert painted_pairs(strict, "none", triplets=three) == []


def test_unfiltered_pairs_are_one_random_candidate_of_each_triplet(workshop):
    strict = replace(workshop, min_direction=1.0)
    rows = unfiltered_pairs(strict, 4)
    assert [r["original_prompt"] for r in rows] == [t["input"] for t in triplets_to_paint(strict, 4)]


def test_the_few_shot_model_is_asked_the_same_captions_and_goes_on(workshop, monkeypatch):
    monkeypatch.setattr(removal, "few_shot_model", Answers)
    triplets = few_shot_triplets(workshop, 4)
    captions = [triplet["input"] for triplet in triplets_to_paint(workshop, 40)]
    assert len(triplets) == 4 and {t["edit"] for t in triplets} == {"make it odd"}
    assert {t["input"] for t in triplets} <= set(captions)
    assert few_shot_triplets(workshop, 6)[:4] == triplets
    monkeypatch.setattr(removal, "few_shot_model", None)  # not needed again
    assert len(few_shot_triplets(workshop, 6)) == 6


def test_captions_that_differ_behind_what_the_painter_reads_are_left_out(workshop, monkeypatch):
    class Wordy(Answers):
        def answers(self, ask):
            while question := ask():
                long = question[0] + 40 * " at night"
                yield question[0], f"longer{DELIMITER}{long} on a farm{STOP}"

    monkeypatch.setattr(removal, "few_shot_model", Wordy)
    long = {"input": 60 * "a red cat ", "edit": "go", "output": 60 * "a red cat " + "on a farm"}
    short = {"input": "a red cat", "edit": "go", "output": "a red cat on a farm"}
    tokenizer = removal.tokenizer_of_painter(workshop)
    assert [removal.are_told_apart(tokenizer, triplet) for triplet in (long, short)] == [False, True]


def test_a_share_of_the_instructions_is_that_of_another_pair():
    rows = [{"original_prompt": str(k), "edit_prompt": str(k)} for k in range(8)]
    for share, wrong in ((0.25, 2), (0.5, 4)):
        mixed_up = mixed_up_pairs(lambda: list(rows), share)
        assert sum(row["edit_prompt"] != row["original_prompt"] for row in mixed_up) == wrong
        assert sorted(row["original_prompt"] for row in mixed_up) == [str(k) for k in range(8)]


# ------------------------------------------------------------------------------------------------- trainings


def test_new_input_weights_are_random_and_the_old_ones_kept(workshop):
    random_one = load_editor(with_random_input_weights(workshop), profile=workshop).pipe.unet.conv_in
    zero = new_editor(workshop).unet.conv_in
    new = zero.in_channels // 2
    assert torch.equal(random_one.weight[:, :new], zero.weight[:, :new])
    assert torch.equal(random_one.bias, zero.bias)
    assert zero.weight[:, new:].abs().max() == 0 and random_one.weight[:, new:].std() > 0.01
    folder = model_folder("random-weights-untrained")
    written = (folder / "model_index.json").stat().st_mtime_ns
    assert with_random_input_weights(workshop) == str(folder)
    assert (folder / "model_index.json").stat().st_mtime_ns == written


def test_a_trained_editor_is_kept_with_its_loss_on_pairs_it_never_saw(workshop):
    pairs = read_pairs(MINI.pairs)[:4]
    arm = Arm("some arm", lambda: pairs)
    trained_editor(workshop, arm)
    folder = model_folder("some arm")
    assert folder.name == "some-arm"
    assert re.fullmatch(r"\d\.\d{4} at step 2, .*: (flat|still falling)", told_loss(folder / HELD_OUT_LOSS))
    weights = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    lines = (folder / HELD_OUT_LOSS).read_text()
    trained_editor(
        workshop, arm
    )  # neither trained again nor written again: another process may be reading it
    assert weights == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert lines == (folder / HELD_OUT_LOSS).read_text()
    with pytest.raises(ValueError, match="holds another run, with other dropout"):
        trained_editor(workshop, replace(arm, options={"dropout": 0.0}))


def test_held_out_pairs_are_kept_away_from_training(workshop, monkeypatch):
    pairs = read_pairs(MINI.pairs)[:6]
    taught = []
    monkeypatch.setattr(ablations, "held_out_pairs", lambda profile: pairs[:1])
    monkeypatch.setattr(ablations, "train", lambda rows, *_, **__: taught.extend(rows))
    monkeypatch.setattr(ablations, "load_editor", lambda *_, **__: None)
    trained_editor(workshop, Arm("kept away", lambda: pairs))
    assert pairs[0]["original_prompt"] not in {row["original_prompt"] for row in taught} and taught


def test_the_held_out_loss_depends_on_the_weights_alone(workshop, tmp_path):
    pairs = ablations.held_out_pairs(workshop)
    path = tmp_path / "loss.jsonl"
    path.write_text('{"step": 1, "lo')  # half a line, of a killed run
    editor = new_editor(workshop)
    watch = HeldOutLoss(pairs, 32, path)
    watch(editor, 1)
    watch(editor, 2)
    HeldOutLoss(pairs, 32, path)(editor, 3)
    with torch.no_grad():
        editor.unet.conv_out.weight.add_(0.1)
    watch(editor, 4)
    losses = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    assert losses[0] == losses[1] == losses[2] != losses[3]


@pytest.mark.parametrize(
    "end, told",
    [
        (0.995, "0.9950 at step 300, 0.5% less than at step 200: flat"),
        (0.9, "0.9000 at step 300, 10.0% less than at step 200: still falling"),
        (1.1, "1.1000 at step 300, 10.0% more than at step 200: flat"),
    ],
)
def test_a_loss_is_flat_if_it_hardly_fell_in_the_last_third(tmp_path, end, told):
    path = tmp_path / "loss.jsonl"
    lines = [(100, 1.5), (200, 7), (200, 1.0), (300, end)]  # what a killed run measured again counts once
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in lines))
    assert told_loss(path) == told


def test_two_that_need_the_same_wait_for_each_other(workshop):
    order = []

    def other():
        with alone("shared", "making"):
            order.append("other")

    with alone("shared", "making"):
        with pytest.raises(ValueError, match="another job is measuring"), alone("shared", "measuring", False):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


# --------------------------------------------------------------------------------------------- the figures


def test_six_editors_of_which_five_lack_one_thing(workshop, monkeypatch, tmp_path, tiny_judge, capsys):
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)
    monkeypatch.setattr(removal, "few_shot_model", Answers)
    monkeypatch.setattr(removal, "SHOWN", 2)
    profile = replace(workshop, name="tiny")
    make_figures(["removal"], profile, n=2)
    assert "removal: about" in capsys.readouterr().out

    settings = {}
    for name, arm in arms(profile).items():
        settings[name] = json.loads((model_folder(arm.name) / "work" / "settings.json").read_text())
    whole = settings["complete"]
    differ = {name: {key for key in whole if of_arm[key] != whole[key]} for name, of_arm in settings.items()}
    differ["no filter"].add("pairs")  # of two candidates that tie, both ways take the first
    assert differ == {
        "complete": set(),
        "few-shot language model": {"pairs"},
        "no Prompt-to-Prompt": {"pairs"},
        "no filter": {"pairs"},
        "no conditioning dropout": {"dropout"},
        "new input weights random": {"start"},
    }
    assert {len(arm.pairs()) for arm in arms(profile).values()} == {PAIRS}
    assert {tuple(job["share"]) for job in jobs_of("no-sharing")} == {(0.0, 0.0)}
    assert {(job["candidates"], job["min_direction"]) for job in jobs_of("unfiltered-1")} == {(1, -1.0)}
    assert {tuple(job["share"]) for job in jobs_of("complete")} == {profile.share}

    head = (tmp_path / "eval" / "removal.csv").read_text().splitlines()[:20]
    assert any(line.startswith("# trainings: ") for line in head)
    assert sum(line.startswith("# held-out loss, ") for line in head) == 6
    rows = read_csv("removal")
    assert list(dict.fromkeys(row["method"] for row in rows)) == list(arms(profile))
    told = table_of_editors().splitlines()[2:]
    assert [line.split(" | ")[0] for line in told] == [f"| {name}" for name in arms(profile)]
    for name in arms(profile):
        for measure in ("right", "survival of kind", "survival of colour", "image", "direction"):
            assert row_of(rows, name, measure)["n"] <= 2
    with Image.open(tmp_path / "images" / "removal.jpg") as picture:
        assert picture.width > 900 and picture.height > 400


def test_what_a_slider_moves_is_told_edit_by_edit():
    rows = []
    for slider, (_, values, similarity) in SLIDERS.items():
        for number in (0, 1):
            for k, value in enumerate((values[0], values[-1])):
                row = {
                    "method": f"no dropout, over {slider}",
                    "setting": value,
                    "edit": number,
                    "kind": "time",
                }
                rows.append(row | {similarity: 0.1 * number + 0.25 * k})
    found = responses(rows)
    assert [row["method"] for row in found[::2]] == [
        "no dropout, over s_T, from 1 to 8",
        "no dropout, over s_I, from 1 to 2.5",
    ]
    assert [round(row["response"], 6) for row in found] == 4 * [0.25]


def test_figure_8_has_a_curve_of_the_fast_editor_where_there_is_one(tmp_path):
    def methods(profile):
        return {point.method for point in figure_8(profile)}

    bundled = replace(MINI, editor=str(tmp_path))
    without = methods(bundled)
    (tmp_path / FAST).mkdir()
    (tmp_path / FAST / "distilled.json").write_text("{}")
    assert methods(bundled) - without == {"fast InstructPix2Pix"}
    assert {f"SDEdit, {text}" for text in ("instruction", "partial caption", "full caption")} < without


def test_figures_share_the_editors_that_are_alike():
    content = {
        name: figures.FIGURES[name].content(MINI) for name in ("removal", "attention", "sharing", "noise")
    }
    of = {name: {point.editor for point in of_figure} for name, of_figure in content.items()}
    assert complete(MINI).name in set.intersection(*of.values())
    assert "no-sharing" in of["removal"] & of["attention"]
    assert {name: len(editors) for name, editors in of.items()} == {
        name: len(figures.FIGURES[name].trainings) for name in of
    }


def test_the_papers_ranges_are_framed_in_the_plane_of_both_scales(workshop):
    rows = []
    for s_t in (1, 5, 7.5, 10):
        for s_i in (1, 1.5, 2):
            row = {"method": f"s_T {s_t:g}", "setting": s_i, "edit": 0, "kind": "time"}
            rows.append(row | {"right": True, "image": 0.5, "direction": 0.1})
    points.write_csv("plane", rows, {"command": "none"})
    figure = plots.plot_scales("plane")
    assert len(figure.axes) == 3
    (box,) = figure.axes[0].patches
    assert (box.get_x(), box.get_width(), box.get_y(), box.get_height()) == (-0.5, 2, 0.5, 3)


def test_every_kind_of_edit_has_its_own_interval(workshop):
    rows = [
        {"method": method, "setting": 0, "edit": k, "kind": kind, "right": k % 2}
        for method in ("one", "two")
        for kind in LIMITS
        for k in range(4)
    ]
    points.write_csv("limits", rows, {"command": "none"})
    axes = plots.plot_kinds("limits").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(LIMITS)
    assert len(axes.containers) == 2


def test_hours_are_foretold_and_only_what_is_needed_is_timed(workshop, monkeypatch):
    monkeypatch.setattr(forecast, "of_a_step", lambda profile: 2.0)
    monkeypatch.setattr(forecast, "of_an_edit", lambda profile: 0.5)
    monkeypatch.setattr(forecast, "of_a_candidate", lambda profile: pytest.fail("nothing is painted"))
    told = forecast.forecast({"one": Work(steps=3600), "two": Work(steps=1800, edits=3600)}, workshop)
    assert told.splitlines() == [
        "one: about 2.0 hours from nothing (training 2.0: 3,600 steps of 2.00 s)",
        "two: about 1.5 hours from nothing (training 1.0: 1,800 steps of 2.00 s, "
        "editing 0.5: 3,600 edits of 0.50 s)",
    ]


def test_seconds_are_measured_by_doing(workshop):
    for measure in (forecast.of_a_step, forecast.of_a_candidate, forecast.of_an_edit):
        assert 0 < measure(workshop) < 60


def test_a_removed_stage_is_told_beside_the_complete_editor():
    """By the table that is shipped."""
    told = removal.beside_complete("complete").split(", complete ")
    assert len(told) == 2 and told[0] == told[1], "beside itself"
    assert not removal.is_missed("complete")
    assert removal.is_missed("few-shot language model"), "whose triplets are seldom right"
