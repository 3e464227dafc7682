"""Learning without forgetting: the editor that true pairs have repaired gets back what it lost meanwhile.

What true pairs cost ordinary edits (`ip2p figures repair`) comes from learning on: of the lessons that made the
shipped editor, only few go with it. It can tell those that are missing itself. On ordinary edits the repaired
editor learns to predict what the shipped one, eps_0, predicts (Li and Hoiem, arXiv 1606.09282), on edits of the
hard kinds the truth as before,

    L = 1/2 E_true || eps - eps_theta(z_t, t, E(c_I), c_T) ||^2
      + 1/2 E_own  || eps_0(z_t, t, E(c_I), c_T) - eps_theta(z_t, t, E(c_I), c_T) ||^2

The other half are the shipped editor's own pairs, and its own answers to scenes and sentences that are cheap to
make up. No truth is in these.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch

from ip2p.common.diffusion import embed, velocity
from ip2p.common.durable import locked, name_of_model
from ip2p.common.train_loop import train_loop
from ip2p.dataset.lessons import Cache, Lessons
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor, load_editor
from ip2p.miniworld import edit_kind, instruction, parse
from ip2p.miniworld.held_out import Edit, possible_edits
from ip2p.profiles import Profile, load_edit_pipeline
from ip2p.study.ablations import edit_function, trained_editor
from ip2p.study.feedback_figures import paint_sheets, pictures_of_sheet, sheet
from ip2p.study.limits import SPACE, repaired_arm, true_pairs
from ip2p.study.points import Case, Point, alone, as_case, model_folder, place
from ip2p.training import Draws, checksum_of_pairs, edit_loss, same_run

REMEMBERING = "and then remembering"

REMEMBERING_STEPS = 1200
REMEMBERING_LR = 1 / 2  # of the learning rate with which the editor was trained
TRUE_PAIRS = 200  # of each of SPACE, of UNTAUGHT three times as many
ANSWERS = 2000  # of the shipped editor's, to scenes of its own

# ------------------------------------------------------------------------------------------------ lessons


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
    return [answered_pair(case, sheet(folder, number)) for number, case in enumerate(cases)]


def answered_pair(case: Case, path: Path) -> dict:
    (answer,) = pictures_of_sheet(path)
    return {
        "original_prompt": case.before,
        "original_image": case.image,
        "edit_prompt": case.instruction,
        "edited_prompt": case.after,
        "edited_image": answer,
    }


# ----------------------------------------------------------------------------------------------- training


def train_remembering(
    true: list[dict], own: list[dict], start: str, out: Path, profile: Profile, *, steps: int, lr: float
):
    """Teach the editor in the folder `start` from true pairs and from what the profile's editor predicts on
    its own ones, both as rows of `read_pairs`, and save it as a pipeline folder. An interrupted run goes on;
    one with other settings is a ValueError. Returns (pipeline, log of `train_loop`)."""
    settings = {"pairs": checksum_of_pairs(true), "own pairs": checksum_of_pairs(own)}
    settings |= {"start": name_of_model(start), "teacher": name_of_model(profile.editor)}
    settings |= {"steps": steps, "lr": lr, "batch": profile.train_batch}
    done = out / "model_index.json"
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "training in"):
        same_run(out / "work", settings, done)
        pipe = load_edit_pipeline(start)
        pipe.vae.requires_grad_(False)
        pipe.text_encoder.requires_grad_(False)
        pipe.to(profile.place()[0])
        losses = remembering_losses(pipe, true, own, out / "work" / "cache", profile)
        options = {"muon": profile.muon, "ema_decay": 0.999, "decay": 0.5, "desc": "remembering"}
        log = train_loop(losses, pipe.unet, out / "work", steps=steps, lr=lr, **options)
        if not done.exists():  # it is written last
            pipe.save_pretrained(out)
    return pipe, log


def remembering_losses(pipe, true: list[dict], own: list[dict], cache: Path, profile: Profile):
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
    """`edit_loss` with the teacher's prediction in the place of what it should be by the noise. Both models
    predict the velocity."""
    draws = Draws.sample(target.shape, generator)
    alpha_bar = scheduler.alphas_cumprod[draws.t].to(target.device)
    by_the_noise = velocity(target, draws.noise.to(target.device), alpha_bar)

    def off_the_teacher(*inputs) -> SimpleNamespace:
        with torch.no_grad():
            by_the_teacher = teacher(*inputs).sample
        return SimpleNamespace(sample=model(*inputs).sample - by_the_teacher + by_the_noise)

    return edit_loss(off_the_teacher, scheduler, source, target, text, empty, draws)


def remembering_editor(profile: Profile) -> Editor:
    """The repaired editor, after REMEMBERING_STEPS more; a training that was stopped goes on."""
    folder = model_folder(REMEMBERING)
    trained_editor(profile, repaired_arm(profile))
    with alone("editor-remembering", "training"):
        own = own_pairs(profile) + answered_pairs(profile, ANSWERS)
        start = str(model_folder(repaired_arm(profile).name))
        options = {"steps": REMEMBERING_STEPS, "lr": profile.train_lr * REMEMBERING_LR}
        train_remembering(true_pairs(TRUE_PAIRS), own, start, folder, profile, **options)
    return load_editor(str(folder), profile=profile)


def point_of_remembering(profile: Profile) -> Point:
    editor = cache(partial(remembering_editor, profile))
    return Point(REMEMBERING, profile.image_guidance_scale, edit_function(editor), editor=REMEMBERING)
