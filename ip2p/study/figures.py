"""The paper's curves and ablations: `ip2p figures NAME`, or all of them, `make figures` (hours on a CPU).

A figure is a list of points, and a point is one way to make the same held-out edits (`ip2p.study.points`
measures them); or it is a list of rows that its own function measures. What is called figures elsewhere,
as in data/eval/figures.json, are the numbers that `ip2p evaluate` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.devices import choose_training_dtype
from ip2p.common.markdown import fill_pages
from ip2p.editing import load_editor
from ip2p.miniworld import asked, caption, render
from ip2p.miniworld.held_out import Edit
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.study.ablations import (
    ABLATION_STEPS,
    IMAGE_GUIDANCE_SCALES,
    attention,
    candidates,
    dropout,
    edit_function,
    figure_10,
    noise,
    save_dropout_sheet,
    selection,
)
from ip2p.study.baselines import sdedit, text2live
from ip2p.study.feedback_figures import feedback, feedback_tuning
from ip2p.study.limits import BALANCED, INTO_A_HOUSE, SKEWED, bias, limits, repair
from ip2p.study.plots import plot_planes, read_csv, row_of
from ip2p.study.points import Case, Point, images_of, measure_figure

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of SDEdit; the paper's begin at 0.3

# ----------------------------------------------------------------------------- figure 8, and both scales


def figure_8(profile: Profile) -> list[Point]:
    """Ours over s_I, SDEdit over its strength, driven by the output caption, by a short one and by the
    instruction, Text2LIVE, and the bounds."""
    editor = cache(lambda: load_editor(profile))
    points = []
    for scale in IMAGE_GUIDANCE_SCALES:
        points.append(Point("InstructPix2Pix", scale, edit_function(editor, image_guidance_scale=scale)))
    points += points_of_sdedit(profile)
    points.append(Point("unedited", 0, unedited))
    if profile.in_world:
        points.append(Point("true edit", 0, true_edit))
    points.append(Point("Text2LIVE", 0, text2live_function(profile), n=100))
    return points


def unedited(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    return images_of(cases)


def true_edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    return [render(case.truth.after) for case in cases]


def points_of_sdedit(profile: Profile) -> list[Point]:
    """SDEdit at STRENGTHS, driven by different texts."""
    painter = cache(lambda: load_text_to_image(profile))
    prompts_of = {"output caption": prompt_of_output_caption, "instruction": prompt_of_instruction}
    if profile.in_world:
        prompts_of["short caption"] = prompt_of_short_caption
    points = []
    for name, prompt_of in prompts_of.items():
        for strength in STRENGTHS:
            edit = sdedit_function(painter, prompt_of, strength, profile.paint_guidance)
            points.append(Point(f"SDEdit, {name}", strength, edit))
    return points


def prompt_of_output_caption(case: Case) -> str:
    return case.after


def prompt_of_instruction(case: Case) -> str:
    return case.instruction


def prompt_of_short_caption(case: Case) -> str:
    return short_caption(case.truth)


def sdedit_function(
    painter: Callable, prompt_of: Callable[[Case], str], strength: float, guidance_scale: float
) -> Callable:
    """A point's `edit` by SDEdit; `painter()` gives the pipeline when it is first needed."""

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        images = images_of(cases)
        prompts = [prompt_of(case) for case in cases]
        return sdedit(painter(), images, prompts, strength, guidance_scale=guidance_scale, seeds=seeds)

    return edit


def text2live_function(profile: Profile) -> Callable:
    """A point's `edit` by Text2LIVE, which trains a network for each case."""
    clip = cache(lambda: ClipSimilarity(profile.clip, profile.device))

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        outputs = []
        for case, seed in zip(cases, seeds, strict=True):
            layered = text2live(clip(), case.image, case.before, case.after, seed=seed, progress=False)
            outputs.append(layered.image)
        return outputs

    return edit


def short_caption(edit: Edit) -> str:
    """The edited scene as a caption of the wild would tell it: object, colour, place, and what the edit asks
    for."""
    return caption(edit.after, say={"kind", "count", "colour", "place", *asked(edit.before, edit.after)})


def plane(profile: Profile) -> list[Point]:
    """s_T against s_I."""
    editor = cache(lambda: load_editor(profile))
    points = []
    for s_t in (1.0, 2.0, 4.0, 7.5):
        for s_i in (0.5, 1.0, 1.5, 2.0, 2.5):
            edit = edit_function(editor, guidance_scale=s_t, image_guidance_scale=s_i)
            points.append(Point(f"s_T {s_t:g}", s_i, edit))
    return points


# ----------------------------------------------------------------------------------------------- registry


class Figure(NamedTuple):
    """How a figure comes about."""

    content: Callable[[Profile], list[Point] | list[dict]]  # points to be measured, or rows that are
    trains: bool  # whether editors are trained for it, ABLATION_STEPS each
    save_sheet: Callable[[Profile], None] | None = None  # called at the end
    on_a_page: str = ""  # what docs/results.md shows in both planes, in words; the others it does not show


FIGURE_8 = "InstructPix2Pix, SDEdit and Text2LIVE in CLIP's plane and in the judge's"
FIGURE_10 = "Trained on all, a tenth and a hundredth of the pairs, and on unfiltered ones"

FIGURES = {
    "figure8": Figure(figure_8, trains=False, on_a_page=FIGURE_8),
    "figure10": Figure(figure_10, trains=True, on_a_page=FIGURE_10),
    "plane": Figure(plane, trains=False),
    "attention": Figure(attention, trains=True),
    "noise": Figure(noise, trains=True),
    "dropout": Figure(dropout, trains=True, save_sheet=save_dropout_sheet),
    "candidates": Figure(candidates, trains=True),
    "selection": Figure(selection, trains=False),
    "limits": Figure(limits, trains=False),
    "repair": Figure(repair, trains=True),
    "bias": Figure(bias, trains=True),
    "feedback": Figure(feedback, trains=False),
    "feedback-tuning": Figure(feedback_tuning, trains=True),
}


def make_figures(names: Iterable[str], profile: str | Profile = "mini", n: int = 300) -> None:
    """Measure figures (by name; none: all), `n` edits a point of a curve, and write their CSV files and
    pictures.

    Raises ValueError for a name that is not one of FIGURES, and for a device or a number format that there is
    not, or in which editors that a figure needs cannot be trained.
    """
    need_clone("ip2p figures")
    refuse_outside("n", n, "count")
    profile = get_profile(profile)
    names = list(names) or list(FIGURES)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; choose from {', '.join(FIGURES)}")
    profile.place()  # what there is not is refused before anything is measured
    if any(FIGURES[name].trains for name in names):
        choose_training_dtype(profile.dtype)
    for name in names:
        figure = FIGURES[name]
        about = {"trainings": f"{ABLATION_STEPS} steps each"} if figure.trains else {}
        path = measure_figure(name, figure.content(profile), profile, n, **about)
        print(f"wrote {path}")
        if figure.save_sheet:
            figure.save_sheet(profile)
        if figure.on_a_page:
            plot_planes(name).savefig(DATA / "images" / f"{name}.png")
        if profile.name == "mini":
            fill_pages(ROOT, outcomes())


# --------------------------------------------------------------------------------------------- the pages


def outcomes() -> dict[str, str]:
    """What the pages say of the figures: what came out of those that were measured, and which command
    measures the others."""
    said = {"curves": curves() or "`ip2p figures figure8 figure10` measures them"}
    for part, (name, told) in TOLD.items():
        said[part] = told() if is_measured(name) else f"`ip2p figures {name}` measures it"
    return said


def curves() -> str:
    """The pictures of those that docs/results.md shows, if there are any."""
    pictures = []
    for name, figure in FIGURES.items():
        if figure.on_a_page and is_measured(name):
            pictures.append(f"![{figure.on_a_page}](../data/images/{name}.png)")
    return "\n\n".join(pictures)


def less_data() -> str:
    shares = [f"{share:.0%} of the data" for share in (1, 0.1, 0.01)]
    likeness = [mean_of("figure10", share, "image", setting=1.6) for share in shares]
    direction = [mean_of("figure10", share, "direction", setting=1.6) for share in shares]
    return f"likeness {', '.join(likeness)}; direction {', '.join(direction)}"


def no_filter() -> str:
    without = mean_of("figure10", "no CLIP filter", "image", setting=1.6)
    return f"likeness {without} instead of {mean_of('figure10', '100% of the data', 'image', setting=1.6)}"


def hard_kinds() -> str:
    valid = []
    for kind in ("count", "position", "swap", "viewpoint"):
        valid.append(f"{kind} {mean_of('limits', 'InstructPix2Pix', 'valid', kind)}")
    return ", ".join(valid)


def red_houses() -> str:
    skewed = mean_of("bias", SKEWED, "red", INTO_A_HOUSE)
    balanced = mean_of("bias", BALANCED, "red", INTO_A_HOUSE)
    return f"{skewed} of the outputs red, unasked; balanced: {balanced}"


TOLD = {  # part of a page -> the figure that it tells of, and what it tells
    "less_data": ("figure10", less_data),
    "no_filter": ("figure10", no_filter),
    "limits": ("limits", hard_kinds),
    "bias": ("bias", red_houses),
}


def is_measured(name: str) -> bool:
    return (DATA / "eval" / f"{name}.csv").is_file()


def mean_of(name: str, method: str, measure: str, kind: str = "all", setting: float | None = None) -> str:
    """A mean from a figure's CSV, with two decimals."""
    return f"{row_of(read_csv(name), method, measure, kind, setting)['mean']:.2f}"
