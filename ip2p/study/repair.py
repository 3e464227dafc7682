"""Truth mends what the lessons lack, and memory what truth costs: the figure `repair`.

First the shipped editor learns on, half of its lessons being true pairs of the hard kinds. That costs
ordinary edits: of the pairs that it was made of, few are bundled and go with it. But it can tell what they
taught. So then it learns without forgetting (Li and Hoiem, arXiv 1606.09282): on ordinary edits to predict
what the shipped editor, eps_0, predicts, on the hard kinds the truth as before,

    L = 1/2 E_true || eps - eps_theta(z_t, t, E(c_I), c_T) ||^2
      + 1/2 E_own  || eps_0(z_t, t, E(c_I), c_T) - eps_theta(z_t, t, E(c_I), c_T) ||^2

The own lessons are the shipped editor's own pairs, and its own answers to scenes and sentences that are cheap
to make up. No truth is in these.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch

from ip2p.common.diffusion import embed, velocity
from ip2p.common.durable import name_of_model
from ip2p.dataset.lessons import Cache, Lessons
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor, load_editor
from ip2p.learning_on import learn_on
from ip2p.miniworld import edit_kind, instruction, parse
from ip2p.miniworld.held_out import Edit, possible_edits
from ip2p.profiles import Profile, load_edit_pipeline
from ip2p.study.ablations import Arm, edit_function, random_pairs, trained_editor
from ip2p.study.feedback_figures import answered_pair, paint_sheets, pictures_of_sheet, sheet
from ip2p.study.limits import (
    AS_SHIPPED,
    SPACE,
    hard_cases,
    hard_edits,
    ordinary_cases,
    true_outputs,
)
from ip2p.study.measures import score
from ip2p.study.plots import save_comparison
from ip2p.study.points import (
    Case,
    Point,
    alone,
    as_case,
    images_of,
    model_folder,
    place,
    true_pair,
    truths_of,
)
from ip2p.training import Draws, checksum_of_pairs, edit_loss

REPAIRED, REMEMBERING = "learning on, with true pairs", "and then remembering"

# ------------------------------------------------------------------------------------ learning on

REPAIR_STEPS = 2000  # AURORA (Krojer et al., 2024) takes thousands of small ones, too
REPAIR_LR = 1 / 2  # of the learning rate with which the editor was trained
TRUE_SHARE = 1 / 2  # of the lessons; the others are the editor's own
ROUNDS = 2  # own pairs are told so often, so that as many different true ones go with them
UNTAUGHT = {"swap": 3, "relation": 3}  # in no lesson of the editor's: so many times as many true ones


def true_pairs(n: int) -> list[dict]:
    """n rendered pairs of each of SPACE, of UNTAUGHT more, as rows of `read_pairs`."""
    pairs = []
    for kind in SPACE:
        pairs += [true_pair(hard_edit) for hard_edit in hard_edits(kind, UNTAUGHT.get(kind, 1) * n, 0)]
    return pairs


def own_and_true_pairs(profile: Profile) -> list[dict]:
    """The profile's pairs, ROUNDS times, and so many true ones of SPACE that they are TRUE_SHARE of all."""
    own = random_pairs(profile) * ROUNDS
    wanted = len(own) * TRUE_SHARE / (1 - TRUE_SHARE)
    shares = sum(UNTAUGHT.get(kind, 1) for kind in SPACE)
    return own + true_pairs(max(1, round(wanted / shares)))


def repaired_arm(profile: Profile) -> Arm:
    """The shipped editor learns on, from its own pairs and from true ones."""
    options = {"steps": REPAIR_STEPS, "lr": profile.train_lr * REPAIR_LR}
    return Arm(REPAIRED, partial(own_and_true_pairs, profile), options, start=lambda: profile.editor)


@cache  # to see that it is trained means to render its true pairs again
def repaired_editor(profile: Profile) -> Editor:
    return trained_editor(profile, repaired_arm(profile))


# ------------------------------------------------------------------------------------ remembering

REMEMBERING_STEPS = 1200
REMEMBERING_LR = 1 / 2  # of the learning rate with which the editor was trained
TRUE_PAIRS = 200  # of each of SPACE, of UNTAUGHT more
ANSWERS = 2000  # of the shipped editor's, to scenes of its own


def ordinary_kinds(profile: Profile) -> list[str]:
    return [kind for kind in profile.edit_kinds if kind not in SPACE]


def own_pairs(profile: Profile) -> list[dict]:
    """Those of the profile's pairs that are ordinary edits."""
    kinds = ordinary_kinds(profile)
    rows = []
    for row in read_pairs(profile.pairs):
        if edit_kind(parse(row["original_prompt"]), parse(row["edited_prompt"])) in kinds:
            rows.append(row)
    return rows


def answered_pairs(profile: Profile, n: int) -> list[dict]:
    """n renders and sentences of ordinary kinds, and what the shipped fast editor makes of them, as rows of
    `read_pairs`. They lie in out/figures/answers; those that are there are not made again."""
    cases = []
    for before, after, kind, rng in islice(possible_edits(0, ordinary_kinds(profile)), n):
        cases.append(as_case(Edit(before, after, instruction(before, after, rng), kind)))
    folder = place("answers")
    paint_sheets(profile, cases, 1, folder)
    rows = []
    for number, case in enumerate(cases):
        (answer,) = pictures_of_sheet(sheet(folder, number))
        rows.append(answered_pair(case, answer))
    return rows


def train_remembering(
    true: list[dict], own: list[dict], start: str, out: Path, profile: Profile, *, steps: int, lr: float
):
    """Teach the editor in the folder `start` from true pairs and from what the profile's editor predicts on
    its own ones, both as rows of `read_pairs`; see `learn_on`. Returns (pipeline, log of `train_loop`)."""
    settings = {"pairs": checksum_of_pairs(true), "own pairs": checksum_of_pairs(own)}
    settings |= {"teacher": name_of_model(profile.editor)}
    losses = partial(remembering_losses, true, own, profile)
    return learn_on(start, out, profile, settings, losses, steps=steps, lr=lr)


def remembering_losses(true: list[dict], own: list[dict], profile: Profile, pipe, cache: Path):
    """For `train_loop`: the loss of one step, half of its lessons true, half own ones."""
    rows = true + own
    lessons = Lessons(pipe, rows, profile.resolution, Cache(pipe, rows, cache, profile.resolution))
    teacher = load_edit_pipeline(profile.editor).unet.to(pipe.device).requires_grad_(False)
    empty = embed(pipe, [""])
    half = profile.train_batch // 2

    def losses(model, generator: torch.Generator, step: int) -> torch.Tensor:
        seeds = torch.randint(2**62, (2 * half,), generator=generator).tolist()
        some_true = torch.randint(len(true), (half,), generator=generator).tolist()
        some_own = torch.randint(len(true), len(rows), (half,), generator=generator).tolist()
        lesson = lessons.batch(some_true, seeds[:half])
        learned = edit_loss(model, pipe.scheduler, *lesson, empty, generator)
        lesson = lessons.batch(some_own, seeds[half:])
        kept = memory_loss(model, teacher, pipe.scheduler, *lesson, empty, generator)
        return (learned + kept) / 2

    return losses


def memory_loss(
    model,
    teacher,
    scheduler,
    source: torch.Tensor,
    target: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """`edit_loss` with the teacher's prediction in the place of what it should be by the noise."""
    draws = Draws.sample(target.shape, generator)
    by_the_noise = draws.noise.to(target.device)
    if scheduler.config.prediction_type == "v_prediction":
        alpha_bar = scheduler.alphas_cumprod[draws.t].to(target.device)
        by_the_noise = velocity(target, by_the_noise, alpha_bar)

    def off_the_teacher(*inputs) -> SimpleNamespace:
        with torch.no_grad():
            by_the_teacher = teacher(*inputs).sample
        return SimpleNamespace(sample=model(*inputs).sample - by_the_teacher + by_the_noise)

    return edit_loss(off_the_teacher, scheduler, source, target, text, empty, draws)


@cache
def remembering_editor(profile: Profile) -> Editor:
    """The repaired editor, after REMEMBERING_STEPS more; a training that was stopped goes on."""
    folder = model_folder(REMEMBERING)
    repaired_editor(profile)
    with alone("editor-remembering", "training"):
        own = own_pairs(profile) + answered_pairs(profile, ANSWERS)
        start = str(model_folder(repaired_arm(profile).name))
        options = {"steps": REMEMBERING_STEPS, "lr": profile.train_lr * REMEMBERING_LR}
        train_remembering(true_pairs(TRUE_PAIRS), own, start, folder, profile, **options)
    return load_editor(str(folder), profile=profile)


# ------------------------------------------------------------------------------------ the figure

ORDINARY_CASES = 5


def hard_and_ordinary_cases(profile: Profile, n: int) -> list[Case]:
    """n of each of SPACE, and ORDINARY_CASES times as many of all other kinds together."""
    return hard_cases(profile, n, SPACE) + ordinary_cases(profile, ORDINARY_CASES * n)


def repair(profile: Profile) -> list[Point]:
    """Does truth repair the limits, and do ordinary edits suffer? The shipped editor, what it learns on to,
    and what that one remembers."""
    editors = {
        AS_SHIPPED: cache(partial(load_editor, profile)),
        REPAIRED: partial(repaired_editor, profile),
        REMEMBERING: partial(remembering_editor, profile),
    }
    points = []
    for name, editor in editors.items():
        trained = "" if name == AS_SHIPPED else name
        points.append(Point(name, profile.image_guidance_scale, edit_function(editor), editor=trained))
    return points


def save_repair_sheet(profile: Profile) -> None:
    """data/images/repair.jpg: what the editors make of one edit of each of SPACE, and the truth."""
    cases = hard_cases(profile, 1, SPACE)
    outputs, titles = {}, []
    for point in repair(profile):
        outputs[point.method] = point.edit(cases, list(range(len(cases))))
        verdicts = score(truths_of(cases), images_of(cases), outputs[point.method])
        titles.append([title_of_row(row) for row in verdicts])
    outputs["the truth"] = true_outputs(cases, [])
    save_comparison("repair", cases, outputs, range(len(cases)), titles)


def title_of_row(row: dict) -> str:
    mark = "✓" if row["success"] else "✗"
    return f"{mark}  {row['preservation']:.0%} kept"
