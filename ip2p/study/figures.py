"""The paper's curves and ablations: `ip2p figures NAME`, or all of them, `make figures` (hours on a CPU).

A figure is a list of points, and a point is one way to make the same held-out edits (`ip2p.study.curves` measures them); or
it is a list of rows that are measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.markdown import fill
from ip2p.editing import load_editor
from ip2p.miniworld import Scene, caption, difference, render
from ip2p.miniworld.held_out import Edit
from ip2p.paths import DATA, ROOT, need_clone
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.study.ablations import (
    ABLATION_STEPS,
    S_I,
    attention,
    by,
    candidates,
    dropout,
    dropout_sheet,
    figure_10,
    noise,
    selection,
)
from ip2p.study.baselines import sdedit, text2live
from ip2p.study.curves import Point, run
from ip2p.study.limits import BALANCED, SKEWED, bias, limits, repair
from ip2p.study.measures import Case
from ip2p.study.plots import draw, read_csv, value

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of SDEdit; the paper's begin at 0.3

POOL, POOL_TRIPLETS = 96, 96  # candidates of a triplet, all kept, from which selections are made


def figure_8(profile: Profile) -> list[Point]:
    """Ours over s_I, SDEdit over its strength, driven by the output caption, by a short one and by the instruction,
    Text2LIVE, and the bounds."""
    editor, painter = cache(lambda: load_editor(profile.name)), cache(lambda: load_text_to_image(profile))
    clip = cache(lambda: ClipSimilarity(profile.clip))

    def noised(strength: float, text: Callable[[Case], str]) -> Callable:
        return lambda cases, seeds: sdedit(
            painter(),
            [c.image for c in cases],
            list(map(text, cases)),
            strength,
            guidance_scale=profile.paint_guidance,
            seeds=seeds,
        )

    def layered(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return [
            text2live(clip(), c.image, c.before, c.after, seed=seed, progress=False).image
            for c, seed in zip(cases, seeds, strict=True)
        ]

    points = [Point("InstructPix2Pix", s, by(editor, image_guidance_scale=s)) for s in S_I]
    drives = {"output caption": lambda c: c.after, "instruction": lambda c: c.instruction}
    if profile.in_world:
        drives["short caption"] = lambda c: caption(said(c.truth))
    points += [
        Point(f"SDEdit, {name}", s, noised(s, text)) for name, text in drives.items() for s in STRENGTHS
    ]
    points.append(Point("unedited", 0, lambda cases, _: [c.image for c in cases]))
    if profile.in_world:
        points.append(Point("true edit", 0, lambda cases, _: [render(c.truth.after) for c in cases]))
    return [*points, Point("Text2LIVE", 0, layered, n=100)]


def said(truth: Edit) -> Scene:
    """The edited scene as a caption of the wild would tell it: object, colour, place, and what the edit asks for. A
    caption of the miniature world leaves nothing unsaid, which no caption of a photograph does."""
    after, asked = truth.after, difference(truth.before, truth.after)
    named = {
        name: getattr(after, name) for name in ("kind", "colour", "place", *asked) if hasattr(after, name)
    }
    return Scene(
        **named,
        extras=tuple(e for e in after.extras if e in asked),
        second=after.second if "second_kind" in asked else None,
    )


def plane(profile: Profile) -> list[Point]:
    """s_T against s_I."""
    editor = cache(lambda: load_editor(profile.name))
    return [
        Point(f"s_T {s_t:g}", s_i, by(editor, guidance_scale=s_t, image_guidance_scale=s_i))
        for s_t in (1.0, 2.0, 4.0, 7.5)
        for s_i in (0.5, 1.0, 1.5, 2.0, 2.5)
    ]


FIGURES = {
    "figure8": figure_8,
    "figure10": figure_10,
    "plane": plane,
    "attention": attention,
    "noise": noise,
    "dropout": dropout,
    "candidates": candidates,
    "selection": selection,
    "limits": limits,
    "repair": repair,
    "bias": bias,
}


def outcomes() -> dict[str, str]:
    """What the README's table says of the figures that there are."""

    def at(name: str, method: str, measure: str, kind: str = "all", setting: float | None = None) -> str:
        return f"{value(read_csv(name), method, measure, kind, setting)['mean']:.2f}"

    def over(shares: Iterable[str], measure: str) -> str:
        return ", ".join(at("figure10", name, measure, setting=1.6) for name in shares)

    def made(name: str) -> bool:
        return (DATA / "eval" / f"{name}.csv").is_file()

    out, shares = {}, [f"{share:.0%} of the data" for share in (1, 0.1, 0.01)]
    if made("figure10"):
        out["less_data"] = f"likeness {over(shares, 'image')}; direction {over(shares, 'direction')}"
        out["no_filter"] = (
            f"likeness {over(['no CLIP filter'], 'image')} instead of {over(shares[:1], 'image')}"
        )
    if made("limits"):
        out["limits"] = ", ".join(
            f"{kind} {at('limits', 'InstructPix2Pix', 'valid', kind)}"
            for kind in ("count", "position", "swap", "viewpoint")
        )
    if made("bias"):
        out["bias"] = (
            f"{at('bias', SKEWED, 'red', 'into a house')} of the outputs red, unasked; "
            f"balanced: {at('bias', BALANCED, 'red', 'into a house')}"
        )
    return out


def make_figures(names: Iterable[str], profile: str | Profile = "mini", n: int = 300) -> None:
    """Measure figures (by name; none: all), `n` edits a point of a curve, and write their CSV files and pictures."""
    need_clone("ip2p figures")
    profile = get_profile(profile)
    for name in names or FIGURES:
        trained = name not in ("figure8", "plane", "selection", "limits")
        about = {"trainings": f"{ABLATION_STEPS} steps each"} if trained else {}
        print(f"wrote {run(name, FIGURES[name](profile), profile, n, **about)}")
        if name == "dropout":
            dropout_sheet(profile)
        elif name in ("figure8", "figure10"):  # for the README; the others are drawn in the notebooks alone
            draw(name).savefig(DATA / "images" / f"{name}.png")
        if profile.name == "mini":
            fill(ROOT / "README.md", outcomes())
