"""What comparisons buy: the judge plays annotators of known taste and known carelessness.

Edits are painted once, by the fast editor, CANDIDATES of each evaluated case and COMPARED_CANDIDATES of each
other one, and kept in out/figures/feedback, a sheet a case; a killed run goes on. All curves are subsets of
them: annotators compare the candidates of the other cases, a reward learns from their answers, and the judge
says what the best of n by that reward is worth, on cases that nobody compared.

Here, and here alone, the judge chooses: it stands for people. It then measures its own taste, so these curves
say what clean answers can buy, not what the taste of people is.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import append_line, name_of_model, write_atomically
from ip2p.common.images import open_image
from ip2p.editing import load_editor
from ip2p.feedback import (
    DIRECTION,
    QUALITY,
    Attempt,
    Compared,
    Reward,
    better_lessons,
    features,
    learn_reward,
    lesson_rewards,
    lesson_weights,
    quality_words,
    with_quality,
)
from ip2p.miniworld import difference, edit_success, judge, preservation
from ip2p.miniworld.held_out import held_out_edits
from ip2p.miniworld.judging import VALID
from ip2p.paths import DATA
from ip2p.profiles import Profile
from ip2p.study.ablations import Arm, edit_function, random_pairs, trained_editor
from ip2p.study.limits import AS_SHIPPED
from ip2p.study.measures import BATCH
from ip2p.study.points import OUT, Case, Point, as_case, held_out_cases
from ip2p.study.progress import begin_or_resume

EVALUATED = 300  # cases on which the best of n is judged ...
CANDIDATES = 16  # ... and edits of each
COMPARED = 1000  # other cases, whose edits are compared ...
COMPARED_CANDIDATES = 4  # ... and edits of each

COMPARISONS = (50, 200, 1000, 3000)
WRONG_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
SIZES = (1, 2, 4, 8, 16)
USUAL = 1000  # comparisons, where their number is not the question
BEST_OF = 4  # edits, likewise
DRAWS = 5  # sets of comparisons over which a point is averaged

TUNING_STEPS = 1000
TUNING_LR = 1 / 2  # of the learning rate with which the editor was trained
ANSWERS_STEPS = 500  # where the lessons are the editor's own answers
ANSWERS_LR = 1 / 10  # likewise

# ------------------------------------------------------------------------------------ edits, kept on disk


class Pool(NamedTuple):
    """All edits of some cases, and what there is to know of them: (cases, candidates, ...) each."""

    cases: list[Case]
    features: torch.Tensor  # as whoever edits a photograph has them: without captions
    told: torch.Tensor  # features with the captions before and after, which stage 1 wrote
    success: np.ndarray
    preservation: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.success & (self.preservation >= VALID)


def seeds_of(case: int, candidates: int) -> list[int]:
    """The first candidate of case k has seed k, as in all other figures."""
    return [case + 10_000 * k for k in range(candidates)]


def paint_sheets(profile: Profile, cases: list[Case], candidates: int, folder: Path) -> None:
    """For each case a PNG in `folder` with its candidates side by side; those that an earlier run noted are
    there. Raises ValueError if another editor began it."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "sheets.jsonl"
    made_by = {"candidates": candidates, "fast": True, "editor": name_of_model(profile.editor)}
    done = {row["case"] for row in begin_or_resume(notes, made_by)}
    todo = [k for k in range(len(cases)) if k not in done]
    if not todo:
        return
    edit = edit_function(cache(partial(load_editor, profile, fast=True)))
    at_once = max(1, BATCH // candidates)
    for start in tqdm(range(0, len(todo), at_once), desc=folder.name, mininterval=2.0):
        numbers = todo[start : start + at_once]
        pictures = paint_cases(edit, cases, numbers, candidates)
        for k, number in enumerate(numbers):
            write_atomically(sheet(folder, number), side_by_side(pictures[k * candidates :][:candidates]))
            append_line(notes, {"case": number})


def paint_cases(edit: Callable, cases: list[Case], numbers: list[int], candidates: int) -> list[Image.Image]:
    """All candidates of the cases of these numbers, one case after the other."""
    wanted = []
    seeds = []
    for number in numbers:
        wanted += [cases[number]] * candidates
        seeds += seeds_of(number, candidates)
    pictures = []
    for start in range(0, len(wanted), BATCH):
        pictures += edit(wanted[start : start + BATCH], seeds[start : start + BATCH])
    return pictures


def sheet(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.png"


def side_by_side(pictures: list[Image.Image]) -> bytes:
    width, height = pictures[0].size
    whole = Image.new("RGB", (width * len(pictures), height))
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k * width, 0))
    data = io.BytesIO()
    whole.save(data, "PNG")
    return data.getvalue()


def pictures_of_sheet(path: Path) -> list[Image.Image]:
    whole = open_image(path)
    side = whole.height
    return [whole.crop((x, 0, x + side, side)) for x in range(0, whole.width, side)]


def pool(profile: Profile, clip: ClipSimilarity, cases: list[Case], candidates: int, name: str) -> Pool:
    """The edits of the cases, painted where they are missing, and what CLIP and the judge say of them."""
    folder = OUT / "feedback" / name
    paint_sheets(profile, cases, candidates, folder)
    bare, told, success, kept = [], [], [], []
    for number, case in enumerate(tqdm(cases, desc=f"judging {name}", delay=2, mininterval=2.0)):
        outputs = pictures_of_sheet(sheet(folder, number))
        attempts = [Attempt(case.image, case.instruction, output) for output in outputs]
        bare.append(features(clip, attempts))
        told.append(features(clip, [a._replace(before=case.before, after=case.after) for a in attempts]))
        before, *after = judge([case.image, *outputs])
        changed = difference(case.truth.before, case.truth.after)
        success.append([edit_success(case.truth.before, case.truth.after, reading) for reading in after])
        kept.append([preservation(before, reading, changed) for reading in after])
    return Pool(cases, torch.stack(bare), torch.stack(told), np.array(success), np.array(kept))


def answered_pair(case: Case, answer: Image.Image) -> dict:
    """An editor's answer to a case as a row of `read_pairs`, both pictures as large as the answer."""
    return {
        "original_prompt": case.before,
        "original_image": case.image.resize(answer.size),
        "edit_prompt": case.instruction,
        "edited_prompt": case.after,
        "edited_image": answer,
    }


def need_truth(profile: Profile) -> None:
    """Raises ValueError outside of the miniature world, where nobody knows what an annotator would say."""
    if not profile.in_world:
        raise ValueError(
            "only in the miniature world can the judge play annotators; compare edits yourself with "
            "ip2p.teaching.compare, or take --profile mini"
        )


def compared_cases(profile: Profile) -> list[Case]:
    return [as_case(edit) for edit in held_out_edits(COMPARED, profile.edit_kinds, seed=1)]


def pools(profile: Profile, clip: ClipSimilarity) -> tuple[Pool, Pool]:
    """The edits that annotators compare, and those on which rewards are judged. Raises ValueError as
    `need_truth` does."""
    need_truth(profile)
    compared = pool(profile, clip, compared_cases(profile), COMPARED_CANDIDATES, "compared")
    evaluated = pool(profile, clip, held_out_cases(profile, EVALUATED), CANDIDATES, "evaluated")
    return compared, evaluated


def save_compared(pool: Pool) -> None:
    """data/eval/feedback.npz: all that `answers` asks of the pool whose edits annotators compare."""
    np.savez_compressed(
        DATA / "eval" / "feedback.npz",
        features=pool.features.numpy().astype(np.float16),
        told=pool.told.numpy().astype(np.float16),
        success=pool.success,
        preservation=pool.preservation.astype(np.float16),
    )


def load_compared() -> Pool:
    """That pool, without its cases. Raises FileNotFoundError if `ip2p figures feedback` never ran."""
    with np.load(DATA / "eval" / "feedback.npz") as arrays:
        told = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in ("features", "told")}
        success, preservation = arrays["success"], arrays["preservation"].astype(np.float64)
    return Pool([], told["features"], told["told"], success, preservation)


# ------------------------------------------------------------------------------------ annotators


def taste(pool: Pool) -> np.ndarray:
    """How much an annotator likes each edit, (cases, candidates): right ones first, then those that do what
    was asked, then by how much they keep."""
    return 100.0 * pool.right + 10.0 * pool.success + pool.preservation


def answers(pool: Pool, n: int, wrong: float, seed: int, captions: bool = False) -> Compared:
    """n comparisons of two candidates of a case, each case once before any comes again. `wrong`: the share of
    answers, among those that prefer one, that say the other. Edits that are liked alike are answered
    "neither". captions: the features see them."""
    rng = random.Random(seed)
    liked = taste(pool)
    seen = pool.told if captions else pool.features
    n_cases, candidates = liked.shape
    cases, left, right, target = [], [], [], []
    while len(cases) < n:
        cases += rng.sample(range(n_cases), min(n_cases, n - len(cases)))
    for case in cases:
        i, j = rng.sample(range(candidates), 2)
        better = 0.5 + 0.5 * float(np.sign(liked[case, i] - liked[case, j]))
        left.append(seen[case, i])
        right.append(seen[case, j])
        target.append(1 - better if rng.random() < wrong else better)
    return Compared(torch.stack(left), torch.stack(right), torch.tensor(target), cases, captions)


# ------------------------------------------------------------------------------------ the best of n


def best_of(pool: Pool, scores: np.ndarray, n: int) -> np.ndarray:
    """The candidates with the largest scores of each n that follow each other, (cases, candidates // n)."""
    n_cases, candidates = scores.shape
    groups = scores.reshape(n_cases, candidates // n, n)
    return groups.argmax(2) + n * np.arange(candidates // n)


def rows_of_scores(method: str, setting: float, pool: Pool, scores: list[np.ndarray], n: int) -> list[dict]:
    """A row a case: the means over all groups of n candidates, and over several `scores` of the candidates.
    "gain": the right edits of the best of n above those of any; "reward": of the chosen ones, in standard
    deviations of all candidates' from their mean."""
    chosen = [best_of(pool, score, n) for score in scores]

    def means(values: list[np.ndarray]) -> np.ndarray:
        taken = [np.take_along_axis(v, c, 1).mean(1) for v, c in zip(values, chosen, strict=True)]
        return np.mean(taken, 0)

    measures = {
        "success": means([pool.success] * len(scores)),
        "preservation": means([pool.preservation] * len(scores)),
        "right": means([pool.right] * len(scores)),
        "reward": means([(score - score.mean()) / (score.std() + 1e-9) for score in scores]),
    }
    measures["gain"] = measures["right"] - pool.right.mean(1)
    rows = []
    for k in range(len(pool.cases)):
        row = {"method": method, "setting": setting, "edit": k, "kind": "all"}
        rows.append(row | {name: float(values[k]) for name, values in measures.items()})
    return rows


def scores_of_rewards(
    compared: Pool, evaluated: Pool, n: int, wrong: float = 0.0, captions: bool = True
) -> list[np.ndarray]:
    """What DRAWS rewards, each learned from n comparisons of its own, say of the evaluated edits."""
    seen = evaluated.told if captions else evaluated.features
    scores = []
    for seed in range(DRAWS):
        reward = learn_reward(answers(compared, n, wrong, seed, captions))
        scores.append(reward(seen).numpy())
    return scores


def feedback(profile: Profile) -> list[dict]:
    """The right edits among the best of BEST_OF, over the number of comparisons, by rewards that see captions
    and by such that do not, and over the share of wrong answers; among the best of n, over n, by rewards of
    few and of many comparisons, by CLIP's direction alone, and by the judge, which is the bound."""
    clip = ClipSimilarity(profile.clip, profile.device)
    compared, evaluated = pools(profile, clip)
    save_compared(compared)
    rows = []

    def measure(method: str, setting: float, scores: list[np.ndarray], n: int) -> None:
        rows.extend(rows_of_scores(method, setting, evaluated, scores, n))

    learned = {}
    for words, captions in (("with captions", True), ("without captions", False)):
        for n in COMPARISONS:
            learned[n, captions] = scores_of_rewards(compared, evaluated, n, captions=captions)
            measure(f"{words}, over the comparisons", n, learned[n, captions], BEST_OF)
    for share in WRONG_SHARES:
        for n in COMPARISONS[-2:]:
            scores = scores_of_rewards(compared, evaluated, n, share) if share else learned[n, True]
            measure(f"by {n} comparisons, over the wrong share", share, scores, BEST_OF)
    judged_by = {f"best of n by {n} comparisons": learned[n, True] for n in (COMPARISONS[0], USUAL)}
    judged_by[f"best of n by {USUAL} comparisons, without captions"] = learned[USUAL, False]
    judged_by["best of n by CLIP's direction"] = [evaluated.told[..., DIRECTION].numpy()]
    judged_by["best of n by the judge"] = [taste(evaluated)]
    for method, scores in judged_by.items():
        for n in SIZES:
            measure(method, n, scores, n)
    return rows


# ------------------------------------------------------------------------------------ the tuned editor


def all_alike(rows: list[dict], rewards: list[float]) -> list[dict]:
    return rows


LESSONS = {  # how an editor learns on -> the lessons, of pairs and their rewards
    "learning on": all_alike,
    "better half of the lessons": better_lessons,
    "weights on the loss": lesson_weights,
    "quality in words": quality_words,
}

OWN_ANSWERS = {"any own answer": False, "best own answer of four": True}  # -> whether the reward chooses


def feedback_tuning(profile: Profile) -> list[Point]:
    """The shipped editor, and what it becomes if it learns on: from its own pairs, alike but for what the
    reward of USUAL clean comparisons makes of them (LESSONS); and, more gently, from its own answers, of
    which that reward chooses one for each sentence, or chance (OWN_ANSWERS). Raises ValueError as
    `need_truth` does."""
    need_truth(profile)
    points = [Point(AS_SHIPPED, 0, edit_function(cache(partial(load_editor, profile))))]
    for name, arm in tuned_arms(profile).items():
        edit = edit_function(cache(partial(trained_editor, profile, arm)))
        if LESSONS.get(name) is quality_words:
            edit = partial(ask_for_quality, edit)
        points.append(Point(name, 0, edit, editor=arm.name))
    return points


def tuned_arms(profile: Profile) -> dict[str, Arm]:
    pairs = cache(partial(rewarded_pairs, profile))
    arms = {}

    def add(name: str, lessons: Callable[[], list[dict]], steps: int, lr: float) -> None:
        options = {"steps": steps, "lr": profile.train_lr * lr}
        arms[name] = Arm(f"feedback, {name}", lessons, options, start=lambda: profile.editor)

    for name, lessons in LESSONS.items():
        add(name, partial(lessons_of, lessons, pairs), TUNING_STEPS, TUNING_LR)
    for name, by_reward in OWN_ANSWERS.items():
        add(name, partial(own_answers, profile, by_reward), ANSWERS_STEPS, ANSWERS_LR)
    return arms


def usual_reward() -> Reward:
    """Learned from USUAL clean comparisons."""
    return learn_reward(answers(load_compared(), USUAL, 0.0, seed=0, captions=True))


def own_answers(profile: Profile, by_reward: bool) -> list[dict]:
    """One of the fast editor's answers to each compared case, as rows of `read_pairs`: that with the largest
    reward, or any."""
    cases = compared_cases(profile)
    folder = OUT / "feedback" / "compared"
    paint_sheets(profile, cases, COMPARED_CANDIDATES, folder)
    rewards = usual_reward()(load_compared().told).numpy()  # (cases, candidates)
    rng = random.Random(0)
    rows = []
    for number, case in enumerate(cases):
        of_four = pictures_of_sheet(sheet(folder, number))
        chosen = rewards[number].argmax() if by_reward else rng.randrange(COMPARED_CANDIDATES)
        rows.append(answered_pair(case, of_four[chosen]))
    return rows


def rewarded_pairs(profile: Profile) -> tuple[list[dict], list[float]]:
    """The profile's pairs, and their rewards."""
    reward = usual_reward()
    rows = random_pairs(profile)
    return rows, lesson_rewards(reward, ClipSimilarity(profile.clip, profile.device), rows)


def lessons_of(lessons: Callable, pairs: Callable[[], tuple[list[dict], list[float]]]) -> list[dict]:
    return lessons(*pairs())


def ask_for_quality(edit: Callable, cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    """A point's `edit`, with the words for the best quality after each instruction."""
    asked = [case._replace(instruction=with_quality(case.instruction, QUALITY[-1])) for case in cases]
    return edit(asked, seeds)


def gains_over_shipped(rows: list[dict]) -> list[dict]:
    """ "gain": how many more of an editor's edits are right than of the shipped one's, edit by edit."""
    shipped = {row["edit"]: row["right"] for row in rows if row["method"] == AS_SHIPPED}
    gains = []
    for row in rows:
        if row["method"] != AS_SHIPPED:
            about = {name: row[name] for name in ("method", "setting", "edit", "kind")}
            gains.append(about | {"gain": float(row["right"]) - shipped[row["edit"]]})
    return gains
