"""What true pairs teach, and how an editor keeps what it could do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p import learning_on
from ip2p.common.diffusion import embed
from ip2p.editing import load_editor
from ip2p.miniworld import edit_kind, judging, parse
from ip2p.profiles import MINI, load_edit_pipeline
from ip2p.study import feedback_figures, plots, points, repair
from ip2p.study.limits import AS_SHIPPED, ORDINARY, SPACE
from ip2p.study.repair import (
    REMEMBERING,
    REPAIRED,
    answered_pairs,
    memory_loss,
    ordinary_kinds,
    own_and_true_pairs,
    own_pairs,
    train_remembering,
)
from ip2p.training import edit_loss, new_editor


def kind_of(row: dict) -> str:
    return edit_kind(parse(row["original_prompt"]), parse(row["edited_prompt"]))


def test_half_of_the_lessons_of_repair_are_true_and_most_of_these_of_new_kinds(monkeypatch):
    own = [{"original_prompt": "own"}] * 22
    monkeypatch.setattr(repair, "random_pairs", lambda profile: own)
    rows = own_and_true_pairs(MINI)
    told = own * repair.ROUNDS
    true = rows[len(told) :]
    assert rows[: len(told)] == told and len(true) == len(told)
    swaps = [kind_of(row) == "swap" for row in true]
    assert sum(swaps) == 18, "12 swaps, and of 12 relations those that move what is there"


def test_remembered_are_ordinary_edits_alone():
    kinds = {kind_of(row) for row in own_pairs(MINI)}
    assert kinds == set(ordinary_kinds(MINI)) and not kinds & set(SPACE)


# ---------------------------------------------------------------------------------------------- learning


@pytest.fixture
def learner(tiny_profile, tmp_path, monkeypatch):
    """A tiny profile with an untrained editor, and a folder of its own for what a figure writes."""
    new_editor(tiny_profile).save_pretrained(tmp_path / "shipped")
    for module in (points, plots):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(points, "OUT", tmp_path / "out")
    # the tiny editor has no student
    monkeypatch.setattr(feedback_figures, "load_editor", lambda profile, fast: load_editor(profile))
    (tmp_path / "eval").mkdir()
    (tmp_path / "images").mkdir()
    return replace(tiny_profile, editor=str(tmp_path / "shipped"), train_batch=4, muon=False)


def pairs_in(colour: tuple[int, int, int], n: int = 8) -> list[dict]:
    """Everything takes one colour, whatever the sentence."""
    rows = []
    for k in range(n):
        noise = np.random.default_rng(k).integers(256, size=(32, 32, 3), dtype=np.uint8)
        row = {"original_image": Image.fromarray(noise), "edited_image": Image.new("RGB", (32, 32), colour)}
        rows.append(row | {"edit_prompt": "go", "original_prompt": f"a cat {k}", "edited_prompt": "a cat"})
    return rows


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_whoever_predicts_what_the_teacher_does_has_forgotten_nothing(learner, kind):
    pipe = load_edit_pipeline(learner.editor)
    pipe.scheduler.register_to_config(prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 6, *latent_shape(pipe), generator=generator)
    text = embed(pipe, ["go"] * 6)
    lesson = source, target, text, embed(pipe, [""])
    with torch.no_grad():
        same = memory_loss(pipe.unet, pipe.unet, pipe.scheduler, *lesson, torch.Generator().manual_seed(1))
        by_noise = edit_loss(pipe.unet, pipe.scheduler, *lesson, torch.Generator().manual_seed(1))
        pipe_of_other = new_editor(learner)
        pipe_of_other.unet.conv_out.bias += 0.1
        other = memory_loss(
            pipe_of_other.unet, pipe.unet, pipe.scheduler, *lesson, torch.Generator().manual_seed(1)
        )
    assert same < 1e-9 < other < by_noise


def latent_shape(pipe) -> tuple[int, int, int]:
    return pipe.unet.config.out_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size


def test_remembering_that_was_stopped_goes_on_to_the_same_weights(learner, tmp_path, monkeypatch):
    lessons = pairs_in((220, 30, 30)), pairs_in((30, 30, 220))
    start = learner.editor
    whole, _ = train_remembering(*lessons, start, tmp_path / "whole", learner, steps=6, lr=1e-3)
    whole_loop = learning_on.train_loop

    def stopped(*args, **options):
        whole_loop(*args, **options, stop_after=3)
        raise KeyboardInterrupt

    monkeypatch.setattr(learning_on, "train_loop", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_remembering(*lessons, start, tmp_path / "stopped", learner, steps=6, lr=1e-3)
    monkeypatch.setattr(learning_on, "train_loop", whole_loop)
    with pytest.raises(ValueError, match="another run, with other own pairs"):
        others = pairs_in((30, 220, 30))
        train_remembering(lessons[0], others, start, tmp_path / "stopped", learner, steps=6, lr=1e-3)
    again, log = train_remembering(*lessons, start, tmp_path / "stopped", learner, steps=6, lr=1e-3)
    weights = whole.unet.state_dict()
    assert log[-1]["step"] == 6
    assert all(torch.equal(value, weights[name]) for name, value in again.unet.state_dict().items())


def test_answers_are_the_editors_own_and_kept(learner, monkeypatch):
    rows = answered_pairs(learner, 3)
    assert {kind_of(row) for row in rows} <= set(ordinary_kinds(learner))
    assert all(row["edited_image"].size == row["original_image"].size == (32, 32) for row in rows)
    monkeypatch.setattr(feedback_figures, "paint_cases", lambda *args: pytest.fail("painted again"))
    again = answered_pairs(learner, 3)
    for first, second in zip(rows, again, strict=True):
        assert first["edited_image"].tobytes() == second["edited_image"].tobytes()


def test_the_figure_trains_and_measures_all_three(learner, tiny_judge, monkeypatch):
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)
    monkeypatch.setattr("ip2p.study.ablations.held_out_pairs", lambda profile: pairs_in((0, 0, 0), 4))
    sizes = {"REPAIR_STEPS": 2, "REMEMBERING_STEPS": 2, "TRUE_PAIRS": 1, "ANSWERS": 2, "ORDINARY_CASES": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(repair, name, value)
    monkeypatch.setattr(repair, "own_pairs", lambda profile: pairs_in((30, 30, 220), 2))
    monkeypatch.setattr(repair, "random_pairs", lambda profile: pairs_in((30, 30, 220), 6))
    figure = repair.repair(learner)
    path = points.measure_figure("repair", figure, learner, 1, repair.hard_and_ordinary_cases)
    rows = plots.read_csv("repair")
    kinds = {(row["method"], row["kind"]) for row in rows if row["measure"] == "right"}
    wanted = {(name, kind) for name in (AS_SHIPPED, REPAIRED, REMEMBERING) for kind in (*SPACE, ORDINARY)}
    assert wanted <= kinds
    assert f"held-out loss, {REPAIRED}" in path.read_text()
