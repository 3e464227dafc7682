"""Beyond the paper: a person compares edits, and a reward learns what pleases.

Two edits of one picture by one sentence are shown, and a person says which is better, or that neither is.
Bradley and Terry (Biometrika 39, 1952) give every edit a reward r such that

    P(left is better) = sigmoid(r_left - r_right)

and r, linear in seven numbers that CLIP and the pixels say of an edit (FEATURES), learns

    L = -log sigmoid(r_better - r_worse);

who says "neither" has said either with probability 1/2. The reward is used in three ways, the simplest first:

- `best_of_n`: edit n times, keep the best;
- `better_lessons`: learn from the pairs that please most;
- `lesson_weights` and `quality_words`: HIVE's two forms (Zhang et al., arXiv 2303.09618), a weight on the
  loss, and the quality of each pair in words of its instruction.

Comparisons tell only edits of one picture and sentence apart. How the reward ranks edits of different ones,
which the second and third way need, is what its features carry over.
"""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import name_of_model, read_json, save_tensors, write_atomically
from ip2p.common.fitting import largest_that_fits
from ip2p.common.images import as_tensor, fit
from ip2p.dataset.comparisons import TARGETS, Comparisons
from ip2p.editing import Editor
from ip2p.options import refuse_outside

# ------------------------------------------------------------------------------------ features


class Attempt(NamedTuple):
    """An edit, as the reward sees it. Captions belong to all attempts or to none."""

    image: Image.Image
    instruction: str
    output: Image.Image
    before: str = ""
    after: str = ""


FEATURES = (  # what a reward is told of an edit
    "likeness to the input",
    "change points the way that was asked",
    "likeness to what was asked",
    "size of the change, for CLIP",
    "mean change of a pixel",
    "share of pixels that change visibly",
    "more detail than the input",
)
DIRECTION = 1  # which of them CLIP's directional similarity is
VISIBLE = 0.1  # a change of a pixel, in [0, 1], that one sees


@torch.no_grad()
def features(clip: ClipSimilarity, attempts: Sequence[Attempt], batch: int = 64) -> torch.Tensor:
    """FEATURES of n attempts, (n, 7).

    "What was asked" is the change between the captions or, without them, the instruction, for which CLIP was
    not made: rewards that see captions choose better (`ip2p figures feedback`).
    """
    parts = []
    for start in range(0, len(attempts), batch):
        parts.append(features_of_batch(clip, attempts[start : start + batch]))
    return torch.cat(parts)


def features_of_batch(clip: ClipSimilarity, attempts: Sequence[Attempt]) -> torch.Tensor:
    square = (clip.size, clip.size)
    x_0 = as_tensor([fit(attempt.image, square) for attempt in attempts])
    x_1 = as_tensor([fit(attempt.output, square) for attempt in attempts])
    image_0, image_1 = clip.encode_image(torch.cat([x_0, x_1])).cpu().chunk(2)
    change = image_1 - image_0
    if has_captions(attempts):
        goal = clip.encode_text([attempt.after for attempt in attempts]).cpu()
        asked = F.normalize(goal - clip.encode_text([attempt.before for attempt in attempts]).cpu(), dim=-1)
    else:
        goal = asked = clip.encode_text([attempt.instruction for attempt in attempts]).cpu()
    moved = (x_1 - x_0).abs().mean(1)  # (n, H, W)
    of_each = [
        F.cosine_similarity(image_0, image_1),
        F.cosine_similarity(change, asked),
        F.cosine_similarity(image_1, goal),
        change.norm(dim=-1),
        moved.mean((1, 2)),
        (moved > VISIBLE).float().mean((1, 2)),
        detail(x_1) - detail(x_0),
    ]
    return torch.stack(of_each, 1)


def has_captions(attempts: Sequence[Attempt]) -> bool:
    """Raises ValueError if some attempts have captions and others have none."""
    told = {bool(attempt.after) for attempt in attempts}
    if len(told) > 1:
        raise ValueError(
            "some edits have captions and others have none; leave them out, or give them for all"
        )
    return told == {True}


def detail(x: torch.Tensor) -> torch.Tensor:
    """Mean difference of neighbouring pixels: (n, 3, H, W) -> (n,)."""
    return x.diff(dim=-1).abs().mean((1, 2, 3)) + x.diff(dim=-2).abs().mean((1, 2, 3))


# ------------------------------------------------------------------------------------ the reward


class Reward(nn.Module):
    """`features` (n, 7) -> rewards (n,), linear. about: what made it."""

    def __init__(self):
        super().__init__()
        self.about: dict = {"captions": False}
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("scale", torch.ones(len(FEATURES)))
        self.head = nn.Linear(len(FEATURES), 1, bias=False)  # a bias would say the same of left and right
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x - self.mean) / self.scale).squeeze(-1)

    def weights(self) -> dict[str, float]:
        """By how much the reward grows with one standard deviation more of each feature."""
        return dict(zip(FEATURES, self.head.weight[0].tolist(), strict=True))

    def of(self, clip: ClipSimilarity, attempts: Sequence[Attempt]) -> torch.Tensor:
        """Rewards of n attempts, (n,). Raises ValueError if they have captions and those that were compared
        had none, or the other way round."""
        if has_captions(attempts) != self.about["captions"]:
            there, here = ("with", "no") if self.about["captions"] else ("without", "their")
            raise ValueError(f"the reward was learned {there} captions, and these edits have {here} captions")
        with torch.no_grad():
            return self(features(clip, attempts))


class Compared(NamedTuple):
    """n comparisons, ready to learn from."""

    left: torch.Tensor  # (n, 7), see `features`
    right: torch.Tensor  # (n, 7)
    target: torch.Tensor  # (n,), see TARGETS
    group: list[Hashable]  # which picture and sentence: those of one are held out together
    captions: bool = False

    def rows(self, numbers: list[int]) -> Compared:
        group = [self.group[k] for k in numbers]
        return Compared(self.left[numbers], self.right[numbers], self.target[numbers], group, self.captions)


def compared(clip: ClipSimilarity, comparisons: Comparisons, captions: bool = False) -> Compared:
    """The features of all comparisons of a folder. captions: use theirs."""
    sides: dict[str, list[Attempt]] = {"left": [], "right": []}
    for row in comparisons.rows:
        image = comparisons.picture(row.image)
        words = (row.before, row.after) if captions else ("", "")
        for side, attempts in sides.items():
            output = comparisons.picture(getattr(row, side))
            attempts.append(Attempt(image, row.instruction, output, *words))
    if not comparisons.rows:
        raise ValueError(f"there are no comparisons in {comparisons.folder}; compare some edits first")
    target = torch.tensor([TARGETS[row.better] for row in comparisons.rows])
    group = [(row.image, row.instruction) for row in comparisons.rows]
    left, right = (features(clip, attempts) for attempts in sides.values())
    return Compared(left, right, target, group, captions)


def preference_loss(reward: Reward, c: Compared) -> torch.Tensor:
    """-log sigmoid(r_better - r_worse), for "neither" the mean of both ways. Returns a scalar."""
    return F.binary_cross_entropy_with_logits(reward(c.left) - reward(c.right), c.target)


FOLDS = 5
WEIGHT_DECAYS = (0.03, 0.3, 3.0, 30.0, 300.0)  # of all comparisons together


def learn_reward(c: Compared, seed: int = 0) -> Reward:
    """The reward of comparisons, with that of WEIGHT_DECAYS which best predicts the answers to pictures and
    sentences that were held out, FOLDS times a part of them.
    Raises ValueError for comparisons of fewer pictures and sentences than FOLDS."""
    groups = sorted(set(c.group), key=str)
    if len(groups) < FOLDS:
        raise ValueError(
            f"{len(c.group)} comparisons of {len(groups)} pictures and sentences are too few to learn from; "
            f"compare edits of {FOLDS} or more"
        )
    random.Random(seed).shuffle(groups)
    fold_of = {group: k % FOLDS for k, group in enumerate(groups)}
    folds = [fold_of[group] for group in c.group]
    losses = {decay: held_out_loss(c, folds, decay) for decay in WEIGHT_DECAYS}
    decay = min(losses, key=losses.__getitem__)
    reward = fit_reward(c, decay)
    reward.about |= {"comparisons": len(c.group), "weight_decay": decay, "held_out_loss": losses[decay]}
    return reward


def held_out_loss(c: Compared, folds: list[int], decay: float) -> float:
    """Mean `preference_loss` of comparisons by rewards that were learned without those of their fold. That of
    a reward which knows nothing is log 2."""
    total = 0.0
    for fold in range(FOLDS):
        held_out = c.rows([k for k, of in enumerate(folds) if of == fold])
        reward = fit_reward(c.rows([k for k, of in enumerate(folds) if of != fold]), decay)
        with torch.no_grad():
            total += preference_loss(reward, held_out).item() * len(held_out.group)
    return total / len(folds)


def fit_reward(c: Compared, decay: float) -> Reward:
    """The reward of least loss, mean(preference_loss) + decay / (2 n) |weights|^2, by L-BFGS."""
    reward = Reward()
    reward.about["captions"] = c.captions
    seen = torch.cat([c.left, c.right])
    reward.mean.copy_(seen.mean(0))
    reward.scale.copy_(seen.std(0).clamp(min=1e-4))  # what hardly varied says little of other pictures
    optimiser = torch.optim.LBFGS(
        reward.parameters(), max_iter=60, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        size = reward.head.weight.square().sum()
        loss = preference_loss(reward, c) + decay / (2 * len(c.group)) * size
        loss.backward()
        return loss

    optimiser.step(closure)
    return reward.requires_grad_(False)


def save_reward(reward: Reward, folder: str | Path, clip: str) -> None:
    """reward.safetensors, and reward.json with what made it. clip: the model of the features."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(reward.state_dict(), folder / "reward.safetensors")
    about = reward.about | {"clip": name_of_model(clip)}
    write_atomically(folder / "reward.json", json.dumps(about, indent=1))


def load_reward(folder: str | Path, clip: str) -> Reward:
    """Raises ValueError if there is none, or another CLIP than `clip` made its features."""
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / "reward.json").is_file():
        raise ValueError(f"there is no reward in {folder}; save one there with save_reward")
    about = read_json(folder / "reward.json")
    if about["clip"] != name_of_model(clip):
        raise ValueError(
            f"the reward in {folder} was learned with {about['clip']}, not {name_of_model(clip)}"
        )
    reward = Reward()
    reward.load_state_dict(load_file(folder / "reward.safetensors"))
    reward.about = about
    return reward.requires_grad_(False)


# ------------------------------------------------------------------------------------ what it is for


class Best(NamedTuple):
    """The best of n edits, and all of them."""

    picture: Image.Image
    seed: int
    pictures: list[Image.Image]
    rewards: list[float]


def best_of_n(
    editor: Editor,
    reward: Reward,
    clip: ClipSimilarity,
    image: Image.Image,
    instruction: str,
    n: int = 4,
    *,
    seed: int = 0,
    before: str = "",
    after: str = "",
    **options,
) -> Best:
    """Edit with the seeds seed, ..., seed + n - 1, and hand out the edit of the largest reward. before,
    after: captions, for a reward that was learned with them. options: of `Editor.many`, such as
    guidance_scale. Raises ValueError for n below 1, and what `Editor` and `Reward.of` raise."""
    refuse_outside("n", n, "count")
    seeds = range(seed, seed + n)

    def edit(size: int) -> list[Image.Image]:
        pictures = []
        for start in range(0, n, size):
            part = seeds[start : start + size]
            pictures += editor.many([image] * len(part), [instruction] * len(part), seeds=part, **options)
        return pictures

    pictures, _ = largest_that_fits(edit, min(n, 16), "edits")
    rewards = reward.of(clip, [Attempt(image, instruction, picture, before, after) for picture in pictures])
    best = int(rewards.argmax())
    return Best(pictures[best], seeds[best], pictures, rewards.tolist())


def lesson_rewards(reward: Reward, clip: ClipSimilarity, rows: Sequence[dict]) -> list[float]:
    """The rewards of pairs, rows of `read_pairs`."""
    attempts = []
    for row in rows:
        words = (row["original_prompt"], row["edited_prompt"]) if reward.about["captions"] else ("", "")
        attempts.append(Attempt(row["original_image"], row["edit_prompt"], row["edited_image"], *words))
    return reward.of(clip, attempts).tolist()


def better_lessons(rows: Sequence[dict], rewards: Sequence[float], share: float = 0.5) -> list[dict]:
    """The share (0 to 1) of the pairs with the largest rewards, one at least, in the order of rows."""
    refuse_outside("share", share, "unit", "float")
    best_first = torch.tensor(rewards).argsort(descending=True, stable=True).tolist()
    chosen = best_first[: max(1, round(share * len(rows)))]
    return [rows[k] for k in sorted(chosen)]


def lesson_weights(rows: Sequence[dict], rewards: Sequence[float], beta: float = 1.0) -> list[dict]:
    """HIVE's weighted loss: pairs with "weight" exp(r / beta), by which stage 4 multiplies their losses. The
    mean weight is 1, so that the learning rate means what it did. The smaller beta, the more the best count;
    infinite, all count alike. Raises ValueError unless beta is above 0."""
    if not beta > 0:
        raise ValueError(f"beta is {beta}; it must be above 0")
    weights = len(rows) * (torch.tensor(rewards) / beta).softmax(0)
    return [row | {"weight": weight} for row, weight in zip(rows, weights.tolist(), strict=True)]


QUALITY = tuple(f"image quality is {level} out of five" for level in ("one", "two", "three", "four", "five"))


def quality_words(
    rows: Sequence[dict], rewards: Sequence[float], words: Sequence[str] = QUALITY
) -> list[dict]:
    """HIVE's conditional form: pairs whose instructions end in the quality of their reward, the worst of
    `words` for the worst, and so on in equal parts. Edits are then asked for with the last of them, see
    `with_quality`."""
    ranks = torch.tensor(rewards).argsort(stable=True).argsort().tolist()
    told = []
    for row, rank in zip(rows, ranks, strict=True):
        word = words[rank * len(words) // len(rows)]
        told.append(row | {"edit_prompt": with_quality(row["edit_prompt"], word)})
    return told


def with_quality(instruction: str, word: str = QUALITY[-1]) -> str:
    return f"{instruction}, {word}"
