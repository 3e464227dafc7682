"""The paper's curves and ablations: `ip2p figures NAME`, or all of them, `make figures` (hours on a CPU).

A figure is a list of points, and a point is one way to make the same held-out edits (`ip2p.study.points`
measures them); or it is a list of rows that its own function measures. What is called figures elsewhere,
as in data/eval/figures.json, are the numbers that `ip2p evaluate` measures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.devices import choose_training_dtype
from ip2p.common.markdown import fill_pages
from ip2p.editing import load_editor
from ip2p.fast import FAST
from ip2p.miniworld import render
from ip2p.miniworld.captions import caption_pair
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.profiles import MINI, Profile, get_profile, load_text_to_image
from ip2p.study.ablations import (
    ABLATION_STEPS,
    CANDIDATES,
    IMAGE_GUIDANCE_SCALES,
    SELECTION_TRIPLETS,
    attention,
    candidates,
    dropout,
    edit_function,
    figure_10,
    noise,
    responses,
    save_dropout_sheet,
    selection,
    sharing,
)
from ip2p.study.baselines import sdedit, text2live
from ip2p.study.feedback_figures import (
    ANSWERS_STEPS,
    TUNING_STEPS,
    feedback,
    feedback_tuning,
    gains_over_shipped,
)
from ip2p.study.forecast import Work, forecast
from ip2p.study.limits import (
    AS_SHIPPED,
    BALANCED,
    INTO_A_HOUSE,
    SKEWED,
    bias,
    hard_cases,
    limits,
)
from ip2p.study.plots import (
    plot_gains,
    plot_kinds,
    plot_planes,
    plot_scales,
    read_csv,
    row_of,
    save_picture,
)
from ip2p.study.points import EDITS, Case, Point, alone, held_out_cases, images_of, measure_figure
from ip2p.study.progress import model_checksums
from ip2p.study.region_figures import REGION_EDITS, REGION_STEPS, region
from ip2p.study.removal import removal, save_removal_sheet
from ip2p.study.repair import (
    REMEMBERING_STEPS,
    REPAIR_STEPS,
    hard_and_ordinary_cases,
    repair,
    save_repair_sheet,
)

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of SDEdit; the paper's begin at 0.3

TEXT2LIVE_EDITS = 96  # each of which trains a network of its own

# ----------------------------------------------------------------------------- figure 8, and both scales


def figure_8(profile: Profile) -> list[Point]:
    """Ours over s_I, and if there is one the fast editor; SDEdit over its strength, driven by the
    instruction, by a caption that says a part and by one that says everything; Text2LIVE, and the bounds."""
    editors = {"InstructPix2Pix": cache(lambda: load_editor(profile))}
    if (Path(profile.editor) / FAST / "distilled.json").exists():
        editors["fast InstructPix2Pix"] = cache(lambda: load_editor(profile, fast=True))
    points = []
    for name, editor in editors.items():
        for scale in IMAGE_GUIDANCE_SCALES:
            points.append(Point(name, scale, edit_function(editor, image_guidance_scale=scale)))
    points += points_of_sdedit(profile)
    points.append(Point("unedited", 0, unedited))
    if profile.in_world:
        points.append(Point("true edit", 0, true_edit))
    points.append(Point("Text2LIVE", 0, text2live_function(profile), n=TEXT2LIVE_EDITS))
    return points


def unedited(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    return images_of(cases)


def true_edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
    return [render(case.truth.after) for case in cases]


def points_of_sdedit(profile: Profile) -> list[Point]:
    """SDEdit at STRENGTHS, driven by different texts."""
    painter = cache(lambda: load_text_to_image(profile))
    prompts_of = {"instruction": by_instruction}
    if profile.in_world:
        prompts_of["partial caption"] = by_partial_caption
    prompts_of["full caption"] = by_full_caption
    points = []
    for name, prompt_of in prompts_of.items():
        for strength in STRENGTHS:
            edit = sdedit_function(painter, prompt_of, strength, profile.paint_guidance)
            points.append(Point(f"SDEdit, {name}", strength, edit))
    return points


def by_instruction(case: Case, seed: int) -> str:
    return case.instruction


def by_partial_caption(case: Case, seed: int) -> str:
    """The edited caption as those of stage 1 are: it says a part, and what the edit asks for."""
    _, after = caption_pair(case.truth.before, case.truth.after, random.Random(seed))
    return after


def by_full_caption(case: Case, seed: int) -> str:
    """The edited caption; in the miniature world it says everything."""
    return case.after


def sdedit_function(
    painter: Callable, prompt_of: Callable[[Case, int], str], strength: float, guidance_scale: float
) -> Callable:
    """A point's `edit` by SDEdit; `painter()` gives the pipeline when it is first needed."""

    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        images = images_of(cases)
        prompts = [prompt_of(case, seed) for case, seed in zip(cases, seeds, strict=True)]
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


def plane(profile: Profile) -> list[Point]:
    """s_T against s_I, in the paper's ranges and around them."""
    editor = cache(lambda: load_editor(profile))
    points = []
    for s_t in (1.0, 2.0, 4.0, 5.0, 7.5, 10.0):
        for s_i in (1.0, 1.25, 1.5, 2.0, 2.5):
            edit = edit_function(editor, guidance_scale=s_t, image_guidance_scale=s_i)
            points.append(Point(f"s_T {s_t:g}", s_i, edit))
    return points


FAST_GUIDANCE = (1.0, 2.0, 4.0, 5.0, 7.5)  # of those in `plane`, what the fast editor knows
FAST_IMAGE_GUIDANCE = (1.0, 1.25, 1.5, 2.0, 2.5)


def fast(profile: Profile) -> list[Point]:
    """The fast editor over each scale, the other one at its default: the same edits as in `plane`."""
    editor = cache(lambda: load_editor(profile, fast=True))
    points = []
    for s_t in FAST_GUIDANCE:
        points.append(Point("fast, over s_T", s_t, edit_function(editor, guidance_scale=s_t)))
    for s_i in FAST_IMAGE_GUIDANCE:
        points.append(Point("fast, over s_I", s_i, edit_function(editor, image_guidance_scale=s_i)))
    return points


# ----------------------------------------------------------------------------------------------- registry


class Figure(NamedTuple):
    """How a figure comes about."""

    content: Callable[[Profile], list[Point] | list[dict]]  # points to be measured, or rows that are
    trainings: tuple[int, ...] = ()  # the steps of each
    work: Work = Work()  # what else it costs; edits of points are counted
    cases_of: Callable[[Profile, int], list[Case]] = held_out_cases  # that points edit
    more_rows: Callable[[list[dict]], list[dict]] | None = None  # that follow from those of the points
    draw: Callable | None = plot_planes  # data/images/NAME.png, from the CSV
    save_sheet: Callable[[Profile], None] | None = None  # called at the end
    on_a_page: str = ""  # what docs/results.md shows, in words; the others it does not show


REMOVAL = "One stage removed at a time: eight edits by six editors, and their numbers"
FIGURE_8 = "InstructPix2Pix, SDEdit and Text2LIVE in CLIP's plane and in the judge's"
FIGURE_10 = "Trained on all, a tenth and a hundredth of the pairs, and on unfiltered ones"

POOL = Work(candidates=SELECTION_TRIPLETS * CANDIDATES)

ABLATION = (ABLATION_STEPS,)  # a training; 4 * ABLATION are four

FIGURES = {
    "removal": Figure(
        removal, 6 * ABLATION, work=Work(sets=3), draw=None, save_sheet=save_removal_sheet, on_a_page=REMOVAL
    ),
    "figure8": Figure(figure_8, on_a_page=FIGURE_8),
    "figure10": Figure(figure_10, 4 * ABLATION, on_a_page=FIGURE_10),
    "plane": Figure(plane, draw=plot_scales),
    "fast": Figure(fast, draw=None),
    "attention": Figure(attention, 4 * ABLATION, work=Work(sets=4)),
    "sharing": Figure(sharing, 4 * ABLATION, work=Work(sets=4)),
    "noise": Figure(noise, 3 * ABLATION, work=Work(sets=1)),
    "dropout": Figure(
        dropout, 2 * ABLATION, work=Work(sets=1), more_rows=responses, save_sheet=save_dropout_sheet
    ),
    "candidates": Figure(candidates, 4 * ABLATION, work=POOL),
    "selection": Figure(selection, work=POOL, draw=None),
    "limits": Figure(limits, cases_of=hard_cases, draw=plot_kinds),
    "repair": Figure(
        repair,
        (REPAIR_STEPS, REMEMBERING_STEPS),
        cases_of=hard_and_ordinary_cases,
        draw=None,
        save_sheet=save_repair_sheet,
    ),
    "bias": Figure(bias, 2 * ABLATION, work=Work(edits=3 * EDITS), draw=None),
    "region": Figure(region, (REGION_STEPS,), work=Work(edits=3 * REGION_EDITS), draw=None),
    "feedback": Figure(feedback, draw=plot_gains),
    "feedback-tuning": Figure(
        feedback_tuning, 4 * (TUNING_STEPS,) + 2 * (ANSWERS_STEPS,), more_rows=gains_over_shipped, draw=None
    ),
}

ROWS = ("selection", "bias", "region", "feedback")  # whose content is rows, and takes as long as it takes


def make_figures(names: Iterable[str], profile: str | Profile = "mini", n: int = EDITS) -> None:
    """Measure figures (by name; none: all), `n` edits a point of a curve (of limits and repair: of a kind),
    and write their CSV files and pictures. What they will cost is printed first.

    Raises ValueError for a name that is not one of FIGURES, for a device or a number format that there is
    not, or in which editors that a figure needs cannot be trained, and for a figure that another process is
    at.
    """
    need_clone("ip2p figures")
    refuse_outside("n", n, "count")
    profile = get_profile(profile)
    names = list(names) or list(FIGURES)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; choose from {', '.join(FIGURES)}")
    profile.place()  # what there is not is refused before anything is measured
    if any(FIGURES[name].trainings for name in names):
        choose_training_dtype(profile.dtype)
    print(forecast({name: work_of(name, profile, n) for name in names}, profile), flush=True)
    for name in names:
        with alone(name, "measuring", wait=False):
            make_figure(name, profile, n)


def work_of(name: str, profile: Profile, n: int) -> Work:
    """What a figure costs; of Text2LIVE, which trains a network an edit, it knows nothing."""
    figure = FIGURES[name]
    work = figure.work._replace(steps=sum(figure.trainings))
    if name in ROWS:
        return work
    kinds = len(figure.cases_of(profile, 1))
    return work._replace(edits=len(figure.content(profile)) * n * kinds)


def make_figure(name: str, profile: Profile, n: int) -> None:
    """One of FIGURES."""
    figure = FIGURES[name]
    about = {"trainings": told_steps(figure.trainings)} if figure.trainings else {}
    path = measure_figure(
        name, figure.content(profile), profile, n, figure.cases_of, figure.more_rows, **about
    )
    print(f"wrote {path}")
    if figure.draw:
        save_picture(name, figure.draw(name))
    if figure.save_sheet:
        figure.save_sheet(profile)
    if profile.name == "mini":
        with alone("pages", "renewing"):
            fill_pages(ROOT, outcomes())


def told_steps(trainings: tuple[int, ...]) -> str:
    """ "1500 steps each", or "2000, 1200 steps"."""
    alike = len(set(trainings)) == 1
    return f"{trainings[0]} steps each" if alike else f"{', '.join(map(str, trainings))} steps"


# --------------------------------------------------------------------------------------------- the pages


def outcomes() -> dict[str, str]:
    """What the pages say of the figures: what came out of those that were measured, and which command
    measures the others."""
    shown = [name for name, figure in FIGURES.items() if figure.on_a_page]
    said = {"measured_before": measured_before()}
    said |= {"curves": curves() or f"`ip2p figures {' '.join(shown)}` measures them"}
    for part, (name, told) in TOLD.items():
        said[part] = told() if is_measured(name) else f"`ip2p figures {name}` measures it"
    return said


def measured_before() -> str:
    """Which figures were measured with other models than those that are bundled now, by the heads of their
    CSVs."""
    now = model_checksums(MINI)
    figures_of: dict[str, list[str]] = {}  # an earlier model -> the figures that it stands in
    for name in filter(is_measured, FIGURES):
        then = head_of_csv(name)
        for model, bundled in now.items():
            if then.get(model, bundled) != bundled:
                figures_of.setdefault(then[model], []).append(f"`{name}`")
    if not figures_of:
        return "all were measured with the models that are bundled now."
    told = [f"{', '.join(names)} with {model}" for model, names in figures_of.items()]
    return f"some were measured with earlier models: {'; '.join(told)}."


def head_of_csv(name: str) -> dict[str, str]:
    """What a figure was made with."""
    lines = (DATA / "eval" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    about = [line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("#")]
    return dict(about)


def curves() -> str:
    """The pictures of those that docs/results.md shows, if there are any."""
    pictures = []
    for name, figure in FIGURES.items():
        if figure.on_a_page and is_measured(name):
            picture = next((DATA / "images").glob(f"{name}.*"))  # a PNG, of photographs a JPEG
            pictures.append(f"![{figure.on_a_page}](../data/images/{picture.name})")
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
    right = []
    for kind in ("count", "position", "swap", "viewpoint"):
        right.append(f"{kind} {mean_of('limits', 'InstructPix2Pix', 'right', kind)}")
    return ", ".join(right)


GAINS_OF_FOUR = {  # who chooses the best of four -> method and setting of the figure feedback
    "50 comparisons": ("with captions, over the comparisons", 50),
    "1,000 comparisons": ("with captions, over the comparisons", 1000),
    "1,000 comparisons, 40% of them wrong": ("by 1000 comparisons, over the wrong share", 0.4),
    "1,000 comparisons, without captions": ("without captions, over the comparisons", 1000),
    "CLIP's direction alone": ("best of n by CLIP's direction", 4),
    "the judge itself: the bound": ("best of n by the judge", 4),
}


def gains_of_four() -> str:
    """A table of how many more edits are right if one of GAINS_OF_FOUR chooses."""
    rows = read_csv("feedback")
    usual = row_of(rows, "best of n by the judge", "right", setting=1)["mean"]
    lines = [f"| Best of four by | right edits above {usual:.3f}, those of any |", "|---|---:|"]
    for name, (method, setting) in GAINS_OF_FOUR.items():
        row = row_of(rows, method, "gain", setting=setting)
        lines.append(f"| {name} | {row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) |")
    return "\n".join(lines)


def single_answers() -> str:
    """A table of the edits that are right and of what they keep, by editors that learned on from a reward."""
    rows = read_csv("feedback-tuning")
    lines = ["| Editor | right, above the shipped one's | right | preservation |", "|---|---:|---:|---:|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        gain = ""
        if method != AS_SHIPPED:
            row = row_of(rows, method, "gain")
            gain = f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        right, kept = (row_of(rows, method, measure)["mean"] for measure in ("right", "preservation"))
        lines.append(f"| {method} | {gain} | {right:.3f} | {kept:.3f} |")
    return "\n".join(lines)


def right_by_kind(name: str) -> str:
    """The right edits of a figure, with 95% intervals, as a Markdown table: a line a kind, a column a
    method."""
    rows = [row for row in read_csv(name) if row["measure"] == "right" and row["kind"] != "all"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lines = [f"| Kind of edit | {' | '.join(methods)} |", "|---" + "|---:" * len(methods) + "|"]
    for kind in kinds:
        cells = []
        for method in methods:
            row = row_of(rows, method, "right", kind)
            cells.append(f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def red_houses() -> str:
    skewed = mean_of("bias", SKEWED, "red", INTO_A_HOUSE)
    balanced = mean_of("bias", BALANCED, "red", INTO_A_HOUSE)
    return f"{skewed} of the outputs red, unasked; balanced: {balanced}"


def fast_beside_full() -> str:
    """A table of CLIP's similarities by the fast editor, and the full one's 95% intervals; how often the
    former lie in the latter."""
    lines = [
        "| s_T | s_I | Likeness, fast | full | Direction, fast | full | Right, fast | full |",
        "|---:" * 8 + "|",
    ]
    fast_rows, full_rows = read_csv("fast"), read_csv("plane")
    scales = [("fast, over s_T", s_t, (s_t, MINI.image_guidance_scale)) for s_t in FAST_GUIDANCE]
    scales += [("fast, over s_I", s_i, (MINI.guidance_scale, s_i)) for s_i in FAST_IMAGE_GUIDANCE]
    inside = []
    for method, setting, (s_t, s_i) in scales:
        cells = [f"{s_t:g}", f"{s_i:g}"]
        for measure in ("image", "direction", "right"):
            full = row_of(full_rows, f"s_T {s_t:g}", measure, setting=s_i)
            mean = row_of(fast_rows, method, measure, setting=setting)["mean"]
            cells += [f"{mean:.3f}", f"{full['low']:.3f} to {full['high']:.3f}"]
            if measure != "right":
                inside.append(full["low"] <= mean <= full["high"])
        lines.append(f"| {' | '.join(cells)} |")
    told = f"{sum(inside)} of the {len(inside)} means of CLIP's lie in the full editor's interval."
    return "\n".join([*lines, "", told])


TOLD = {  # part of a page -> the figure that it tells of, and what it tells
    "less_data": ("figure10", less_data),
    "no_filter": ("figure10", no_filter),
    "limits": ("limits", hard_kinds),
    "repair": ("repair", partial(right_by_kind, "repair")),
    "region": ("region", partial(right_by_kind, "region")),
    "bias": ("bias", red_houses),
    "feedback": ("feedback", gains_of_four),
    "tuning": ("feedback-tuning", single_answers),
    "fast_plane": ("fast", fast_beside_full),
}


def is_measured(name: str) -> bool:
    return (DATA / "eval" / f"{name}.csv").is_file()


def mean_of(name: str, method: str, measure: str, kind: str = "all", setting: float | None = None) -> str:
    """A mean from a figure's CSV, with two decimals."""
    return f"{row_of(read_csv(name), method, measure, kind, setting)['mean']:.2f}"
