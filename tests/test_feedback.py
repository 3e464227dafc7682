"""Comparisons of a person, the reward that learns from them, and what it is used for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.diffusion import diffusion_loss
from ip2p.dataset.comparisons import Comparisons
from ip2p.dataset.lessons import Lessons
from ip2p.editing import load_editor
from ip2p.feedback import (
    FEATURES,
    Attempt,
    Compared,
    best_of_n,
    better_lessons,
    compared,
    features,
    fit_reward,
    learn_reward,
    lesson_rewards,
    lesson_weights,
    load_reward,
    preference_loss,
    quality_words,
    save_reward,
    with_quality,
)
from ip2p.options import TrainOptions
from ip2p.profiles import MINI, load_edit_pipeline
from ip2p.study import feedback_figures, plots, points
from ip2p.study.feedback_figures import (
    LESSONS,
    Pool,
    answers,
    best_of,
    feedback_tuning,
    gains_over_shipped,
    own_answers,
    pictures_of_sheet,
    rows_of_scores,
    sheet,
    taste,
    tuned_arms,
)
from ip2p.study.plots import curve, read_csv
from ip2p.study.points import held_out_cases
from ip2p.training import set_up_processes, step_losses


def plain(colour, side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def some_answers(folder) -> Comparisons:
    """Six answers; redder is better."""
    kept = Comparisons(folder)
    for k in range(6):
        sides = {"left": plain((200 + k, 0, 0)), "right": plain((0, 0, 200 + k))}
        kept.add(plain((k, k, k)), "make it red", **sides, better="left")
    return kept


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return ClipSimilarity(str(tiny_clip))


# ------------------------------------------------------------------------------------ the comparisons


def test_answers_are_there_when_the_folder_is_opened_again(tmp_path):
    kept = some_answers(tmp_path)
    again = Comparisons(tmp_path)
    assert again.rows == kept.rows and len(again.rows) == 6
    row = again.rows[2]
    assert (row.instruction, row.better) == ("make it red", "left")
    assert again.picture(row.left).getpixel((0, 0)) == (202, 0, 0)
    assert again.picture(row.image).getpixel((0, 0)) == (2, 2, 2)


def test_undo_takes_back_one_answer_after_the_other_and_the_file_only_grows(tmp_path):
    kept = some_answers(tmp_path)
    before = kept.path.read_bytes()
    last = kept.rows[-1]
    assert kept.undo() == last
    kept.undo()
    assert kept.path.read_bytes().startswith(before) and len(kept.rows) == 4
    kept.add(plain("white"), "make it night", plain("black"), plain("navy"), "neither")
    assert Comparisons(tmp_path).rows == kept.rows and len(kept.rows) == 5
    for _ in range(5):
        kept.undo()
    with pytest.raises(ValueError, match="nothing to undo"):
        kept.undo()
    assert Comparisons(tmp_path).rows == []


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_half_a_line_that_a_kill_left_is_lost_and_nothing_else(tmp_path, cut):
    kept = some_answers(tmp_path)
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole[:-cut])
    again = Comparisons(tmp_path)
    assert again.rows == kept.rows[:5]
    again.add(plain("white"), "make it night", plain("black"), plain("navy"), "right")
    assert Comparisons(tmp_path).rows == again.rows and len(again.rows) == 6


def test_what_is_no_comparison_is_refused_in_one_sentence(tmp_path):
    kept = some_answers(tmp_path)
    with pytest.raises(ValueError, match="better one is 'both'; it must be one of left, neither, right"):
        kept.add(plain("red"), "x", plain("red"), plain("red"), "both")
    for line in ("[1]", '{"image": "a"}', "eggs", "3"):
        kept.path.write_text(line + "\n")
        with pytest.raises(ValueError, match="comparisons.jsonl, line 1 is no comparison; delete that line"):
            Comparisons(tmp_path)


# ------------------------------------------------------------------------------------ the reward


def of_taste(n: int, wrong: float = 0.0, seed: int = 0) -> Compared:
    """n answers of somebody who looks at the first feature alone."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, n, len(FEATURES), generator=generator)
    target = (left[:, 0] > right[:, 0]).float()
    flipped = torch.rand(n, generator=generator) < wrong
    return Compared(left, right, torch.where(flipped, 1 - target, target), list(range(n)))


def foretold(reward, c: Compared) -> float:
    return ((reward(c.left) > reward(c.right)) == (c.target == 1)).float().mean().item()


def test_a_taste_is_learned_and_better_from_more_answers_and_cleaner_ones():
    unseen = of_taste(500, seed=99)
    many = foretold(learn_reward(of_taste(400)), unseen)
    few = foretold(learn_reward(of_taste(20)), unseen)
    careless = foretold(learn_reward(of_taste(400, wrong=0.4)), unseen)
    assert many > 0.93 and many > few > 0.55 and many > careless > 0.55


def test_a_reward_says_by_name_what_it_looks_at():
    weights = learn_reward(of_taste(400)).weights()
    assert list(weights) == list(FEATURES)
    assert max(weights, key=lambda name: abs(weights[name])) == FEATURES[0] and weights[FEATURES[0]] > 0


def test_the_loss_is_bradley_and_terrys():
    c = of_taste(3)._replace(target=torch.tensor([1.0, 0.5, 0.0]))
    reward = fit_reward(of_taste(50), 1.0)
    d = (reward(c.left) - reward(c.right)).tolist()
    log_sigmoid = [-math.log(1 + math.exp(-x)) for x in (d[0], d[1], -d[1], -d[2])]
    by_hand = -(log_sigmoid[0] + (log_sigmoid[1] + log_sigmoid[2]) / 2 + log_sigmoid[3]) / 3
    assert abs(preference_loss(reward, c).item() - by_hand) < 1e-5


def test_who_always_says_neither_teaches_that_all_are_alike():
    c = of_taste(60)
    reward = learn_reward(c._replace(target=torch.full((60,), 0.5)))
    assert reward(c.left).abs().max() < 1e-3


def test_answers_at_random_teach_nothing_that_is_told_as_knowledge():
    reward = learn_reward(of_taste(200, wrong=0.5))
    assert reward.about["held_out_loss"] > 0.65, "log 2 = 0.69 is what chance reaches"
    assert learn_reward(of_taste(200)).about["held_out_loss"] < 0.4


def test_too_few_comparisons_are_refused(tmp_path, clip):
    with pytest.raises(ValueError, match="3 comparisons of 3 pictures and sentences are too few"):
        learn_reward(of_taste(3))
    with pytest.raises(ValueError, match="no comparisons in .*; compare some edits first"):
        compared(clip, Comparisons(tmp_path))


def test_features_do_not_depend_on_neighbours_and_know_an_unchanged_picture(clip):
    attempts = [Attempt(plain("red"), "make it blue", plain(colour)) for colour in ("red", "blue", "navy")]
    told = features(clip, attempts)
    assert told.shape == (3, len(FEATURES))
    torch.testing.assert_close(features(clip, attempts[1:2]), told[1:2], atol=1e-5, rtol=1e-4)
    assert abs(told[0, 0] - 1) < 1e-5 and told[0, 3] < 1e-5
    assert told[0, 5] == 0 and told[1, 5] == 1, "the share of pixels that change"


def test_captions_take_the_place_of_the_instruction_and_belong_to_all(clip):
    bare = Attempt(plain("red"), "make it night", plain("navy"))
    told = bare._replace(before="a red cat", after="a blue dog")
    assert not torch.equal(features(clip, [bare]), features(clip, [told]))
    with pytest.raises(ValueError, match="some edits have captions"):
        features(clip, [bare, told])
    with pytest.raises(ValueError, match="learned without captions"):
        fit_reward(of_taste(20), 1.0).of(clip, [told])


def test_a_saved_reward_says_the_same_and_wants_its_own_clip(tmp_path, clip, tiny_clip):
    reward = learn_reward(compared(clip, some_answers(tmp_path / "answers")))
    save_reward(reward, tmp_path / "reward", str(tiny_clip))
    again = load_reward(tmp_path / "reward", str(tiny_clip))
    colours = (210, 0, 0), (0, 0, 210)
    attempts = [Attempt(plain("black"), "make it red", plain(colour)) for colour in colours]
    red, blue = again.of(clip, attempts)
    assert red > blue, "redder is better"
    assert torch.equal(reward.of(clip, attempts), again.of(clip, attempts))
    assert again.about["comparisons"] == 6
    with pytest.raises(ValueError, match="was learned with clip.*, not another/model"):
        load_reward(tmp_path / "reward", "another/model")
    with pytest.raises(ValueError, match="there is no reward in"):
        load_reward(tmp_path, str(tiny_clip))


# ------------------------------------------------------------------------------------ what it is for


def test_the_best_of_n_is_one_of_the_editors_own_edits(clip, tiny_profile):
    editor = load_editor(tiny_profile)
    reward = fit_reward(of_taste(30), 1.0)
    best = best_of_n(editor, reward, clip, plain("red"), "make it blue", 3, seed=5)
    assert best.rewards[best.seed - 5] == max(best.rewards) and len(best.pictures) == 3
    alone = editor(plain("red"), "make it blue", seed=best.seed)
    assert np.abs(np.asarray(alone, int) - np.asarray(best.picture, int)).max() <= 1
    with pytest.raises(ValueError, match="n is 0"):
        best_of_n(editor, reward, clip, plain("red"), "make it blue", 0)


def lessons(n: int) -> list[dict]:
    rows = []
    for k in range(n):
        texts = {"original_prompt": "a cat", "edit_prompt": f"edit {k}", "edited_prompt": "a dog"}
        rows.append(texts | {"original_image": plain("red"), "edited_image": plain((0, 0, 20 * k))})
    return rows


def test_rewards_of_lessons_choose_weigh_and_name_them(clip):
    rows = lessons(10)
    rewards = lesson_rewards(fit_reward(of_taste(30), 1.0), clip, rows)
    assert len(rewards) == 10
    rewards = [float(k % 5) for k in range(10)]
    chosen = better_lessons(rows, rewards, 0.4)
    assert [row["edit_prompt"] for row in chosen] == ["edit 3", "edit 4", "edit 8", "edit 9"]
    weights = [row["weight"] for row in lesson_weights(rows, rewards, beta=2.0)]
    assert abs(np.mean(weights) - 1) < 1e-5 and abs(weights[4] / weights[2] - math.e) < 1e-4
    alike = [row["weight"] for row in lesson_weights(rows, rewards, beta=math.inf)]
    assert alike == pytest.approx([1] * 10)
    told = [row["edit_prompt"] for row in quality_words(rows, rewards)]
    assert told[0] == "edit 0, image quality is one out of five"
    assert told[9] == with_quality("edit 9") == "edit 9, image quality is five out of five"
    assert [sum(word in text for text in told) for word in ("one", "two", "three", "four")] == [2] * 4
    assert rows[0]["edit_prompt"] == "edit 0" and "weight" not in rows[0], "the pairs themselves stay"
    with pytest.raises(ValueError, match="beta is 0"):
        lesson_weights(rows, rewards, beta=0)


def test_a_weight_multiplies_the_loss_of_its_lesson():
    generator = torch.Generator().manual_seed(0)
    prediction, z, noise = torch.randn(3, 4, 2, 2, 2, generator=generator)
    a = torch.tensor([0.9, 0.5, 0.2, 0.1])
    each = [diffusion_loss(*(x[k : k + 1] for x in (prediction, z, noise, a))).item() for k in range(4)]
    weight = torch.tensor([2.0, 0.0, 1.0, 0.5])
    weighted = diffusion_loss(prediction, z, noise, a, weight=weight).item()
    assert weighted == pytest.approx(np.mean(weight.numpy() * each), rel=1e-5)
    assert torch.equal(
        diffusion_loss(prediction, z, noise, a), diffusion_loss(prediction, z, noise, a, weight=torch.ones(4))
    )


def test_stage_4_multiplies_the_loss_of_a_lesson_by_its_weight(tiny_profile, tmp_path):
    options = TrainOptions.of(tiny_profile, batch=2)
    accelerator, _ = set_up_processes("cpu", options)
    pipe = load_edit_pipeline(tiny_profile.editor)

    def loss(weight: float) -> float:
        rows = [row | {"weight": weight} for row in lessons(2)]
        losses = step_losses(Lessons(pipe, rows, 32, None), options, accelerator, torch.float32)
        with torch.no_grad():
            return next(losses(pipe.unet, torch.Generator().manual_seed(0), 0)).item()

    assert loss(0.0) == 0 and loss(2.0) == pytest.approx(2 * loss(1.0), rel=1e-4)


# ------------------------------------------------------------------------------------ annotators


@pytest.fixture
def some_edits(tiny_profile):
    """Edits of 40 cases, 8 each, of which the first feature says how much they keep."""
    rng = np.random.default_rng(0)
    success, kept = rng.random((40, 8)) < 0.5, rng.random((40, 8))
    told = torch.randn(40, 8, len(FEATURES), generator=torch.Generator().manual_seed(0))
    told[..., 0] = torch.from_numpy(kept)
    case = held_out_cases(tiny_profile, 1)[0]
    return Pool([case] * 40, told, told, success, kept)


def test_annotators_prefer_right_edits_then_success_then_what_is_kept(some_edits):
    some = some_edits._replace(
        success=np.array([[True, True, False, False, False]]),
        preservation=np.array([[0.9, 0.8, 1.0, 0.5, 0.5]]),
    )
    assert some.right.tolist() == [[True, False, False, False, False]]
    liked = taste(some)[0].tolist()
    assert liked[0] > liked[1] > liked[2] > liked[3] == liked[4]


def test_careless_annotators_are_wrong_as_often_as_said(some_edits):
    clean = answers(some_edits, 2000, 0.0, seed=1)
    for wrong in (0.1, 0.4):
        said = answers(some_edits, 2000, wrong, seed=1)
        assert len(said.group) == 2000 and set(said.group) == set(range(40))
    first = clean.left[:, 0] - clean.right[:, 0]
    right_of = ((first > 0) == (clean.target > 0.5)).float().mean()
    careless = answers(some_edits, 2000, 0.5, seed=1)
    by_chance = ((careless.left[:, 0] > careless.right[:, 0]) == (careless.target > 0.5)).float().mean()
    assert right_of > by_chance + 0.1


def test_the_best_of_all_by_the_judge_is_the_bound_and_of_one_is_any(some_edits):
    liked = taste(some_edits)
    assert best_of(some_edits, liked, 8).tolist() == liked.argmax(1)[:, None].tolist()
    any_edit = rows_of_scores("any", 1, some_edits, [liked], 1)
    best = rows_of_scores("best", 8, some_edits, [liked], 8)
    assert all(row["gain"] == 0 for row in any_edit)
    for k, row in enumerate(best):
        assert row["right"] == some_edits.right[k].any()
        assert row["gain"] == pytest.approx(row["right"] - some_edits.right[k].mean())


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_judge):
    """The figure with few edits, in a folder of its own."""
    from ip2p.miniworld import judging

    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)
    for module in (points, plots, feedback_figures):
        monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(feedback_figures, "OUT", tmp_path / "out")
    # the tiny editor has no student
    monkeypatch.setattr(feedback_figures, "load_editor", lambda profile, fast: load_editor(profile))
    sizes = {"EVALUATED": 3, "CANDIDATES": 4, "COMPARED": 6, "COMPARED_CANDIDATES": 2, "DRAWS": 1}
    sizes |= {"COMPARISONS": (10, 20), "WRONG_SHARES": (0.0,), "SIZES": (1, 4), "USUAL": 10}
    for name, value in sizes.items():
        monkeypatch.setattr(feedback_figures, name, value)
    monkeypatch.setattr("ip2p.feedback.WEIGHT_DECAYS", (3.0,))
    (tmp_path / "eval").mkdir()
    return tmp_path


def test_the_curves_are_measured_and_a_killed_run_paints_only_what_is_missing(
    small, tiny_profile, monkeypatch
):
    monkeypatch.setattr(feedback_figures, "BATCH", 4)  # a case at a time, also what is missing
    first = points.measure_figure("feedback", feedback_figures.feedback(tiny_profile), tiny_profile)
    text = first.read_text()
    rows = read_csv("feedback")
    assert [row["setting"] for row in curve(rows, "with captions, over the comparisons", "gain")] == [10, 20]
    assert [row["setting"] for row in curve(rows, "best of n by the judge", "right")] == [1, 4]
    assert all(row["mean"] == 0 for row in curve(rows, "best of n by 10 comparisons", "gain")[:1])
    pool = feedback_figures.load_compared()
    assert pool.told.shape == (6, 2, len(FEATURES)) and not torch.equal(pool.told, pool.features)
    painted = []
    paint = feedback_figures.paint_cases
    monkeypatch.setattr(
        feedback_figures,
        "paint_cases",
        lambda edit, cases, numbers, n: painted.extend(numbers) or paint(edit, cases, numbers, n),
    )
    notes = small / "out" / "feedback" / "evaluated" / "sheets.jsonl"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:4])
    again = points.measure_figure("feedback", feedback_figures.feedback(tiny_profile), tiny_profile)
    assert painted == [2] and again.read_text() == text


def test_outside_of_the_miniature_world_nobody_plays_annotators(tiny_profile, clip):
    outside = replace(tiny_profile, in_world=False)
    with pytest.raises(ValueError, match="only in the miniature world can the judge play annotators"):
        feedback_figures.pools(outside, clip)
    with pytest.raises(ValueError, match="only in the miniature world"):
        feedback_tuning(outside)


# ------------------------------------------------------------------------------------ the tuned editor


def test_of_an_editors_own_answers_the_reward_chooses_or_chance_does(small, tiny_profile, clip):
    compared, _ = feedback_figures.pools(tiny_profile, clip)
    feedback_figures.save_compared(compared)
    rewards = feedback_figures.usual_reward()(feedback_figures.load_compared().told)
    best, any_one = (own_answers(tiny_profile, by_reward) for by_reward in (True, False))
    for number, row in enumerate(best):
        answers_there = pictures_of_sheet(sheet(small / "out" / "feedback" / "compared", number))
        assert row["edited_image"].tobytes() == answers_there[rewards[number].argmax()].tobytes()
        assert any_one[number]["edited_image"].tobytes() in [answer.tobytes() for answer in answers_there]
        assert row["edit_prompt"] == compared.cases[number].instruction == any_one[number]["edit_prompt"]


def test_editors_learn_on_from_all_the_best_the_weighted_and_the_graded_lessons(monkeypatch):
    rows = [{"edit_prompt": f"edit {k}"} for k in range(10)]
    rewards = [float(k) for k in range(10)]
    monkeypatch.setattr(feedback_figures, "rewarded_pairs", lambda profile: (rows, rewards))
    pairs = {name: arm.pairs() for name, arm in tuned_arms(MINI).items() if name in LESSONS}
    assert pairs["learning on"] == rows
    assert pairs["better half of the lessons"] == rows[5:]
    weights = [row["weight"] for row in pairs["weights on the loss"]]
    assert weights == sorted(weights) and np.mean(weights) == pytest.approx(1)
    assert pairs["quality in words"][9]["edit_prompt"].endswith("five out of five")
    assert {arm.start() for arm in tuned_arms(MINI).values()} == {MINI.editor}


def test_only_the_editor_that_knows_the_words_is_asked_for_quality(monkeypatch):
    asked = []

    def edit(cases, seeds):
        asked.append(cases[0].instruction)
        return [case.image for case in cases]

    monkeypatch.setattr(feedback_figures, "edit_function", lambda editor: edit)
    case = held_out_cases(MINI, 1)[0]
    for point in feedback_tuning(MINI):
        point.edit([case], [0])
    graded = asked.pop(4)  # the shipped editor is the first one
    assert graded == with_quality(case.instruction, "image quality is five out of five")
    assert asked == [case.instruction] * 6


def test_the_gain_of_a_tuned_editor_is_told_edit_by_edit():
    rows = []
    for method, rights in {"as shipped": (True, False), "learning on": (True, True)}.items():
        rows += [
            {"method": method, "setting": 0, "edit": k, "kind": "time", "right": right}
            for k, right in enumerate(rights)
        ]
    gains = gains_over_shipped(rows)
    assert [(row["method"], row["gain"]) for row in gains] == [("learning on", 0), ("learning on", 1)]
