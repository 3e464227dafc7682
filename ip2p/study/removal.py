"""Each stage removed, and missed: six editors, trained alike, of which five lack one thing each.

The few-shot language model answers by eight examples instead of what it was taught by hundreds. Of its
triplets only the form is checked: the check of the miniature world refuses nearly all of them, and would take
the place of what was removed.
"""

from __future__ import annotations

import textwrap
from functools import cache, partial

import torch
from torch import nn

from ip2p.backends import local
from ip2p.common.grids import grid
from ip2p.dataset.triplets import read_triplets
from ip2p.factory.pairs import refuse_equal
from ip2p.instructions import distinct, evenly_spread, generate_triplets
from ip2p.profiles import Profile, load_text_to_image
from ip2p.study.ablations import (
    Arm,
    complete,
    no_dropout,
    no_filter,
    no_sharing,
    painted_pairs,
    points_of_arms,
    trained_editor,
    triplets_to_paint,
)
from ip2p.study.measures import column
from ip2p.study.plots import differ, read_csv, row_of, save_picture
from ip2p.study.points import Point, alone, held_out_cases, images_of, instructions_of, model_folder, place
from ip2p.training import new_editor

SHOTS = 8  # examples that the few-shot language model is shown
SHOWN = 8  # edits in the picture

NUMBERS = {  # under the columns of the picture: measure -> what it is called there
    "right": "right",
    "survival of kind": "kind kept",
    "survival of colour": "colour kept",
    "image": "CLIP image",
    "direction": "CLIP direction",
}


def arms(profile: Profile) -> dict[str, Arm]:
    """The six editors, by the names that the picture gives them. All learn from COMPARED_PAIRS pairs, made of
    the first triplets of one list; the few-shot model makes its own of the same captions."""
    few_shot = partial(painted_pairs, profile, "few-shot", triplets=few_shot_triplets)
    whole = complete(profile)
    random_start = partial(with_random_input_weights, profile)
    return {
        "complete": whole,
        "few-shot language model": Arm("few-shot", few_shot),
        "no Prompt-to-Prompt": no_sharing(profile),
        "no filter": no_filter(profile),
        "no conditioning dropout": no_dropout(profile),
        "new input weights random": Arm("random-weights", whole.pairs, start=random_start),
    }


def removal(profile: Profile) -> list[Point]:
    """The six editors on the same edits."""
    return points_of_arms(profile, arms(profile))


# -------------------------------------------------------------------------------- stage 1 without fine-tuning


def few_shot_triplets(profile: Profile, n: int) -> list[dict]:
    """The first n triplets, or a few less, by a language model that is not fine-tuned, but shown SHOTS of the
    hand-written ones; of the captions of `triplets_to_paint`. Those whose captions the painter's text encoder
    cannot tell apart are left out."""
    path = place("few-shot.jsonl")
    with alone("few-shot", "writing"):
        if not path.exists() or len(read_triplets(path)) < n:
            captions = distinct(column(triplets_to_paint(profile, ALL), "input"))
            made_by = {"model": profile.language_model, "shots": SHOTS}
            generate_triplets(captions, few_shot_model(profile), path, n, world=False, made_by=made_by)
        triplets = read_triplets(path)[:n]
    read_by = tokenizer_of_painter(profile)
    return [triplet for triplet in triplets if are_told_apart(read_by, triplet)]


ALL = 10**9  # triplets, or as many as there are


def few_shot_model(profile: Profile) -> local.LocalBackend:
    device, dtype = profile.place()
    model, tokenizer = local.load(profile.language_model, device)
    examples = evenly_spread(read_triplets(profile.triplets), SHOTS)
    return local.LocalBackend(model.to(dtype), tokenizer, examples=examples)


@cache
def tokenizer_of_painter(profile: Profile):
    return load_text_to_image(profile, "cpu", "float32").tokenizer


def are_told_apart(tokenizer, triplet: dict) -> bool:
    try:
        refuse_equal(tokenizer, [triplet])
    except ValueError:
        return False
    return True


# ----------------------------------------------------------------------------- stage 4 without zero weights


def with_random_input_weights(profile: Profile) -> str:
    """A new editor whose weights for the input image are as a fresh convolution has them, not zero: the
    folder that it is saved in, to be trained from there."""
    folder = model_folder("random-weights-untrained")
    if not (folder / "model_index.json").exists():  # which is written last
        editor = new_editor(profile)
        randomise_input_weights(editor.unet)
        editor.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def randomise_input_weights(unet, seed: int = 0) -> None:
    """Undo what `widen_input` does with zeros."""
    conv = unet.conv_in
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size)
    extra = unet.config.out_channels
    conv.weight[:, -extra:] = fresh.weight[:, -extra:]


# --------------------------------------------------------------------------------------------- the picture


def save_removal_sheet(profile: Profile) -> None:
    """data/images/removal.jpg: SHOWN of the edits that were measured, one a row with its sentence: the input
    and the six outputs, which have one seed. Under each column are its numbers, from data/eval/removal.csv.
    """
    cases = held_out_cases(profile, SHOWN)
    images, instructions = images_of(cases), instructions_of(cases)
    columns = {"input": images}
    for name, arm in arms(profile).items():
        editor = trained_editor(profile, arm)
        columns[name] = editor.many(images, instructions, seeds=range(SHOWN))
    measured = read_csv("removal")
    below = ["\n".join(NUMBERS.values()), *(numbers_of(measured, name) for name in arms(profile))]
    figure = grid(
        list(map(list, zip(*columns.values(), strict=True))),
        rows=[textwrap.fill(instruction, 22) for instruction in instructions],
        columns=[textwrap.fill(name, 16) for name in columns],
        below=below,
        size=1.45,
    )
    save_picture("removal", figure, "jpg", pil_kwargs={"quality": 72})


def numbers_of(measured: list[dict], method: str) -> str:
    """What a figure's CSV says of one editor, a line for each of NUMBERS with its 95% interval; "-" for what
    was not measured."""
    there = {row["measure"] for row in measured}
    lines = []
    for measure in NUMBERS:
        line = "-"
        if measure in there:
            row = row_of(measured, method, measure)
            line = f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(line)
    return "\n".join(lines)


def table_of_editors() -> str:
    """What data/eval/removal.csv says of every editor, as a Markdown table."""
    measured = read_csv("removal")
    lines = [f"| editor | {' | '.join(NUMBERS.values())} |", "|---|" + "---:|" * len(NUMBERS)]
    for method in dict.fromkeys(row["method"] for row in measured):
        lines.append(f"| {method} | {' | '.join(numbers_of(measured, method).splitlines())} |")
    return "\n".join(lines)


def beside_complete(method: str, measure: str = "right") -> str:
    """A removed stage's number and the complete editor's, in words: "0.51 [0.45, 0.56], complete 0.56 [0.51,
    0.61]", with 95% intervals, from data/eval/removal.csv."""
    told = []
    for name in (method, "complete"):
        row = row_of(read_csv("removal"), name, measure)
        told.append(f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
    return f"{told[0]}, complete {told[1]}"


def is_missed(method: str, measure: str = "right") -> bool:
    """Whether the two intervals have nothing in common."""
    measured = read_csv("removal")
    return differ(row_of(measured, method, measure), row_of(measured, "complete", measure))
