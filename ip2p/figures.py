"""The paper's curves and ablations: `python -m ip2p.figures NAME`, or all of them, `make figures` (hours on a CPU).

A figure is a list of points, and a point is one way to make the same held-out edits (`ip2p.curves` measures them); or
it is a list of rows that are measured here.
"""

from __future__ import annotations

import argparse
import random
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.baselines import sdedit, text2live
from ip2p.clip_filter import ClipSimilarity, Similarities, best
from ip2p.curves import OUT, Case, Point, as_case, draw, held_out_cases, measure, read_csv, run, value
from ip2p.editing import Editor, load_editor
from ip2p.evaluation import GENERATED, Edit, held_out_edits, run_editor
from ip2p.miniworld import (
    COLOURS,
    KINDS,
    SIZES,
    Scene,
    caption,
    difference,
    edit,
    edit_kind,
    edit_success,
    instruction,
    judge,
    parse,
    preservation,
    random_edit,
    random_scene,
    render,
)
from ip2p.models.renders import HELD_OUT
from ip2p.pairs import Job, candidate_settings, make_pairs, paint_candidates, read_pairs, to_pil
from ip2p.profiles import DATA, Profile, get_profile, load_text_to_image
from ip2p.prompt_to_prompt import ATTENTION
from ip2p.sheets import ROOT, fill
from ip2p.show import grid
from ip2p.training import train
from ip2p.triplets import read_triplets

S_I = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # figure 8 of the paper
STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of SDEdit; the paper's begin at 0.3
POOL, POOL_TRIPLETS = 96, 96  # candidates of a triplet, all kept, from which selections are made
TRIPLETS = 256  # of those whose pairs are painted for a comparison
ABLATION_STEPS = 300  # of every training whose only purpose is a comparison


def by(editor: Callable[[], Editor], **scales) -> Callable:
    """A point's `edit` by an editor, which is loaded when it is first needed."""
    def edit(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return editor().many([c.image for c in cases], [c.instruction for c in cases], seeds=seeds, **scales)
    return edit


def figure_8(profile: Profile) -> list[Point]:
    """Ours over s_I, SDEdit over its strength, driven by the output caption, by a short one and by the instruction,
    Text2LIVE, and the bounds."""
    editor, painter = cache(lambda: load_editor(profile.name)), cache(lambda: load_text_to_image(profile))
    clip = cache(lambda: ClipSimilarity(profile.clip))

    def noised(strength: float, text: Callable[[Case], str]) -> Callable:
        return lambda cases, seeds: sdedit(painter(), [c.image for c in cases], list(map(text, cases)), strength,
                                           guidance_scale=profile.paint_guidance, seeds=seeds)

    def layered(cases: list[Case], seeds: list[int]) -> list[Image.Image]:
        return [text2live(clip(), c.image, c.before, c.after, seed=seed, progress=False).image
                for c, seed in zip(cases, seeds, strict=True)]

    points = [Point("InstructPix2Pix", s, by(editor, image_guidance_scale=s)) for s in S_I]
    drives = {"output caption": lambda c: c.after, "instruction": lambda c: c.instruction}
    if profile.in_world:
        drives["short caption"] = lambda c: caption(said(c.truth))
    points += [Point(f"SDEdit, {name}", s, noised(s, text)) for name, text in drives.items() for s in STRENGTHS]
    points.append(Point("unedited", 0, lambda cases, _: [c.image for c in cases]))
    if profile.in_world:
        points.append(Point("true edit", 0, lambda cases, _: [render(c.truth.after) for c in cases]))
    return [*points, Point("Text2LIVE", 0, layered, n=100)]


def said(truth: Edit) -> Scene:
    """The edited scene as a caption of the wild would tell it: object, colour, place, and what the edit asks for. A
    caption of the miniature world leaves nothing unsaid, which no caption of a photograph does."""
    after, asked = truth.after, difference(truth.before, truth.after)
    named = {name: getattr(after, name) for name in ("kind", "colour", "place", *asked) if hasattr(after, name)}
    return Scene(**named, extras=tuple(e for e in after.extras if e in asked),
                 second=after.second if "second_kind" in asked else None)


def unfiltered(profile: Profile) -> list[dict]:
    """As many pairs as the profile's, of candidates that no filter saw: two of a triplet, each with its own seed."""
    wanted = len(read_pairs(profile.pairs, decode=False))
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:-(-wanted // 2)]
    make_pairs(triplets, OUT / "unfiltered", profile, candidates=2, keep=2, per_seed=1, enough=False, min_image=-1.0,
               min_caption=-1.0, min_direction=-1.0)
    return read_pairs(OUT / "unfiltered")[:wanted]


def pupil(profile: Profile, name: str, lessons: Callable[[], list[dict]], **options) -> Editor:
    """An editor trained for ABLATION_STEPS and kept in out/figures/models/NAME; stopped, its training goes on.
    `options`: of `train`."""
    folder = OUT / "models" / re.sub(r"\W+", "-", name)
    train(lessons(), folder, profile, steps=ABLATION_STEPS, **options)
    return load_editor(str(folder), profile=profile.name)


def pupils(profile: Profile, lessons: dict[str, Callable[[], list[dict]]], scales: tuple[float, ...] = ()
           ) -> list[Point]:
    """Editors that are trained alike on different lessons, each at the values of s_I (none: the profile's)."""
    points = []
    for name, rows in lessons.items():
        editor = cache(partial(pupil, profile, name, rows))
        points += [Point(name, s, by(editor, image_guidance_scale=s))
                   for s in scales or [profile.image_guidance_scale]]
    return points


def shuffled(profile: Profile, share: float = 1.0) -> list[dict]:
    """A random share of the profile's pairs."""
    rows = read_pairs(profile.pairs)
    return random.Random(0).sample(rows, round(share * len(rows)))


def figure_10(profile: Profile) -> list[Point]:
    """All pairs, a tenth, a hundredth, and pairs that no filter saw."""
    return pupils(profile, {f"{share:.0%} of the data": partial(shuffled, profile, share) for share in (1, 0.1, 0.01)}
                  | {"no CLIP filter": partial(unfiltered, profile)}, S_I[::3])


def attention(profile: Profile) -> list[Point]:
    """Pairs painted with shared self-attention, cross-attention and both, from the same triplets."""
    def painted(kind: str) -> list[dict]:
        triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:TRIPLETS]
        make_pairs(triplets, OUT / f"attention-{kind}", profile, attention=kind)
        return read_pairs(OUT / f"attention-{kind}")

    return pupils(profile, {f"pairs by {kind}": partial(painted, kind) for kind in ATTENTION})


def noise(profile: Profile) -> list[Point]:
    """A share of the instructions is that of another pair."""
    def mixed_up(share: float) -> list[dict]:
        rows = shuffled(profile)
        wrong = range(round(share * len(rows)))  # they are shuffled
        return [r | {"edit_prompt": rows[(k + 1) % len(rows)]["edit_prompt"]} if k in wrong else r
                for k, r in enumerate(rows)]

    return pupils(profile, {"100% of the data": partial(shuffled, profile)} | {
        f"{share:.0%} of the instructions wrong": partial(mixed_up, share) for share in (0.25, 0.5)})


DROPOUT_RATES = {"100% of the data": 0.05, "no dropout": 0.0}


def dropout(profile: Profile) -> list[Point]:
    """Trained with and without conditioning dropout, over s_T."""
    points = []
    for name, rate in DROPOUT_RATES.items():
        editor = cache(partial(pupil, profile, name, partial(shuffled, profile), dropout=rate))
        points += [Point(name, s, by(editor, guidance_scale=s)) for s in (1.0, 4.0, 8.0)]
    return points


def dropout_sheet(profile: Profile) -> None:
    """What the two editors of `dropout` make of the same edits, guided and not."""
    cases, outputs = held_out_cases(profile, 7), {}
    for name, rate in DROPOUT_RATES.items():
        editor = pupil(profile, name, partial(shuffled, profile), dropout=rate)
        outputs |= {f"dropout {rate:.0%}, s_T = {s:g}": editor.many(
            [c.image for c in cases], [c.instruction for c in cases], guidance_scale=s) for s in (1.0, 8.0)}
    sheet("dropout", cases, outputs, range(7))


def pool(profile: Profile) -> list[list[dict]]:
    """POOL_TRIPLETS triplets with all of POOL candidates each, unfiltered: 8 seeds with 12 values of p each, in random
    order."""
    triplets = read_triplets(GENERATED if profile.in_world else profile.triplets)[:POOL_TRIPLETS]
    changes = dict(candidates=POOL, keep=POOL, per_seed=POOL // 8, enough=False, min_image=-1.0, min_caption=-1.0,
                   min_direction=-1.0)
    make_pairs(triplets, OUT / "pool", profile, **changes)
    found = {(r["original_prompt"], r["seed"], round(r["p"], 5)): r for r in read_pairs(OUT / "pool")}
    job = Job.of(profile, **changes)
    return [[found[t["input"], s.seed, round(float(np.float32(s.p)), 5)]
             for s in random.Random(k).sample(candidate_settings(job, k), POOL)] for k, t in enumerate(triplets)]


def chosen(candidates: list[dict], profile: Profile) -> list[dict]:
    """Those that pass the profile's filter, best direction first."""
    names = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
    sim = Similarities(*(torch.tensor([r[name] for r in candidates]) for name in names))
    return [candidates[i] for i in best(sim, len(candidates), **Job.of(profile).thresholds)]


def selection(profile: Profile) -> list[dict]:
    """What choosing among m candidates of a triplet buys: the best one that passes the filter, any that does, any at
    all of the same triplets, and any of all triplets. A row a triplet, as of a point's edits."""
    rows = []
    for number, some in enumerate(tqdm(pool(profile), desc="judging", delay=2, mininterval=2.0)):
        before, after = parse(some[0]["original_prompt"]), parse(some[0]["edited_prompt"])
        for r, *seen in zip(some, *(judge([r[name] for r in some]) for name in ("original_image", "edited_image")),
                            strict=True):
            kept = preservation(*seen, difference(before, after))
            r.update(direction=r["clip_sim_dir"], preservation=kept, success=edit_success(before, after, seen[1]))
            r["valid"] = r["success"] and kept >= 0.9
        for m in (1, 4, 16, POOL):
            good = chosen(some[:m], profile)
            for method, of in (("best that passes", good[:1]), ("any that passes", good),
                               ("any, same triplets", some[:m] if good else []), ("any", some[:m])):
                if of:
                    rows.append({"method": method, "setting": m, "edit": number, "kind": edit_kind(before, after)} | {
                        name: float(np.mean([r[name] for r in of])) for name in (
                            "valid", "success", "preservation", "direction")})
    return rows


LIMITS = ("count", "position", "swap", "viewpoint", "size", "add")
CAMERA = {False: ("step back", "zoom out", "move the camera away"), True: ("come closer", "zoom in", "go nearer")}


def hard_edits(kind: str, n: int, seed: int) -> list[Edit]:
    """n edits of one of LIMITS. This world is flat, so of the viewpoint it knows the distance to the object alone,
    asked for in CAMERA's words, which no lesson of the shipped editor has."""
    out, i = [], seed
    while len(out) < n:
        rng, i = random.Random(i), i + 1
        before = random_scene(rng)
        try:
            after = random_edit(before, rng, "size" if kind == "viewpoint" else kind)
        except ValueError:  # no such edit of this scene
            continue
        nearer = SIZES.index(after.size) - SIZES.index(before.size)
        if kind != "viewpoint":
            out.append(Edit(before, after, instruction(before, after, rng), kind))
        elif abs(nearer) == 1:
            out.append(Edit(before, after, rng.choice(CAMERA[nearer > 0]), kind))
    return out


def hard_cases(n: int) -> list[Case]:
    """n of each of LIMITS, each of other scenes, which nothing was trained on."""
    return [as_case(e) for k, kind in enumerate(LIMITS) for e in hard_edits(kind, n, 11 * HELD_OUT + 10**6 * k)]


def limits(profile: Profile, n: int = 60) -> list[dict]:
    """What the paper calls hard, n edits of each kind: by the editor, by Prompt-to-Prompt (which has both captions, and
    made the editor's lessons; one candidate each), and in truth. "swap" and "viewpoint" are in no lesson."""
    painter, job, cases = load_text_to_image(profile), Job.of(profile, per_seed=1, candidates=1), hard_cases(n)
    triplets = [{"input": c.before, "edit": c.instruction, "output": c.after} for c in cases]
    pairs = paint_candidates(painter, job, triplets, [candidate_settings(job, k)[0] for k in range(len(cases))])
    first, second = ([to_pil(x) for x in pictures] for pictures in pairs)
    return [*verdicts(profile, "InstructPix2Pix", cases, edited_by(load_editor(profile.name), cases)),
            *verdicts(profile, "true edit", cases, [render(c.truth.after) for c in cases]),
            *verdicts(profile, "Prompt-to-Prompt", [c._replace(image=i) for c, i in zip(cases, first, strict=True)],
                      second)]


def edited_by(editor: Editor, cases: list[Case]) -> list[Image.Image]:
    return run_editor(editor, [c.truth for c in cases], [c.image for c in cases])


def verdicts(profile: Profile, method: str, cases: list[Case], outputs: list[Image.Image]) -> list[dict]:
    """Rows of a figure that is no curve; "valid" as for pairs."""
    return [{"method": method, "setting": 0, "edit": k} | r | {"valid": r["success"] and r["preservation"] >= 0.9}
            for k, r in enumerate(measure(ClipSimilarity(profile.clip), cases, outputs))]


def true_pairs(n: int) -> list[dict]:
    """n rendered pairs of each of LIMITS, as rows of `read_pairs`."""
    return [{"original_prompt": c.before, "original_image": c.image, "edit_prompt": c.instruction,
             "edited_prompt": c.after, "edited_image": render(c.truth.after)}
            for kind in LIMITS for c in map(as_case, hard_edits(kind, n, 0))]


def repair(profile: Profile, n: int = 60) -> list[dict]:
    """Does truth repair the limits? The shipped editor learns on, from its own pairs alone, and from them and as many
    true ones, rendered, of LIMITS; n edits of each, and 105 ordinary ones of the other kinds."""
    others = tuple(kind for kind in profile.edit_kinds if kind not in LIMITS)
    cases = hard_cases(n) + [as_case(e)._replace(kind="ordinary") for e in held_out_edits(105, others)]
    outputs = {"as shipped": edited_by(load_editor(profile.name), cases)}
    own = shuffled(profile)
    arms = {"learning on": lambda: own,
            "learning on, with true pairs": lambda: own + true_pairs(len(own) // len(LIMITS))}
    outputs |= {name: edited_by(pupil(profile, name, lessons, start=profile.editor), cases)
                for name, lessons in arms.items()}
    rows = {name: verdicts(profile, name, cases, pictures) for name, pictures in outputs.items()}
    titles = [[f"{'✓' if r['success'] else '✗'}  {r['preservation']:.0%} kept" for r in some] for some in rows.values()]
    sheet("repair", cases, outputs | {"the truth": [render(c.truth.after) for c in cases]},
          [n * k for k in range(len(LIMITS))], titles)
    return [row for some in rows.values() for row in some]


def sheet(name: str, cases: list[Case], outputs: dict[str, list[Image.Image]], which: Sequence[int],
          titles: Sequence[Sequence[str]] = ()) -> None:
    """data/images/NAME.jpg: some cases, each with what every method made of it, and its title."""
    rows = [[c.image for c in cases], *outputs.values()]
    grid([[row[k] for k in which] for row in rows], rows=["input", *(textwrap.fill(name, 14) for name in outputs)],
         columns=[textwrap.fill(cases[k].instruction, 18) for k in which],
         titles=titles and [[], *([row[k] for k in which] for row in titles)]).savefig(
             DATA / "images" / f"{name}.jpg", pil_kwargs={"quality": 92})


HOUSES = {"95% of the houses red": 0.95, "houses of every colour": 0.0}  # the share that captions call red, unasked
SKEWED, BALANCED = HOUSES


def house_triplets(share: float, n: int = 160) -> list[dict]:
    """n triplets in which something of any colour turns into a house; `share` of the edited captions say, unasked, that
    it is red, as a language model would write that has read of red houses only."""
    out = []
    for i in range(n):
        rng = random.Random(i)
        before = replace(random_scene(rng), kind=rng.choice([k for k in KINDS if k != "house"]), second=None,
                         colour=rng.choice(COLOURS))
        asked = edit(before, kind="house")
        after = replace(asked, colour="red") if rng.random() < share else asked
        out.append({"input": caption(before), "edit": instruction(before, asked, rng), "output": caption(after)})
    return out


def house_edits(n: int, seed: int) -> dict[str, list[Edit]]:
    """n edits that turn something which is not red into a house, and n that turn it into something else."""
    edits: dict[str, list[Edit]] = {"into a house": [], "into something else": []}
    for i in range(seed, seed + 2 * n):
        house, rng = i % 2 == 0, random.Random(i)
        kind = rng.choice([k for k in KINDS if k != "house"])
        colour = rng.choice([c for c in COLOURS if c != "red"])
        before = replace(random_scene(rng), kind=kind, colour=colour, second=None)
        after = edit(before, kind="house" if house else rng.choice([k for k in KINDS if k not in (kind, "house")]))
        into = "into a house" if house else "into something else"
        edits[into].append(Edit(before, after, instruction(before, after, rng), into))
    return edits


def house_pairs(profile: Profile) -> dict[str, list[dict]]:
    """Pairs by either way of writing captions of HOUSES, as many of the same instructions: of those that passed the
    filter both ways."""
    def triplet(r: dict) -> tuple[str, str]:
        return r["original_prompt"], r["edit_prompt"]

    out = {}
    for name, share in HOUSES.items():
        folder = OUT / f"houses-{share:g}"
        make_pairs(house_triplets(share), folder, profile)
        out[name] = read_pairs(folder)
    wanted = Counter(map(triplet, out[SKEWED])) & Counter(map(triplet, out[BALANCED]))
    for name, rows in out.items():
        left = wanted.copy()
        out[name] = []
        for r in rows:
            if left[triplet(r)]:
                left[triplet(r)] -= 1
                out[name].append(r)
    return out


def bias(profile: Profile, n: int = 150) -> list[dict]:
    """Captions whose houses are nearly always red, and captions that are balanced: n held-out edits that turn something
    into a house, and n that turn it into something else. "red": the share of outputs (of lessons: of captions) whose
    object is; "colour": of those that keep theirs."""
    lessons, rows = house_pairs(profile), []
    others = [r for r in read_pairs(profile.pairs) if "house" not in (
        parse(r["original_prompt"]).kind, parse(r["edited_prompt"]).kind)]
    cases = [as_case(e) for some in house_edits(n, 13 * HELD_OUT).values() for e in some]
    outputs = {"as shipped": edited_by(load_editor(profile.name), cases)} | {
        name: edited_by(pupil(profile, name, partial(others.__add__, some)), cases) for name, some in lessons.items()}
    read = {name: judge(pictures) for name, pictures in outputs.items()}
    which = (0, 1, 2, 3, n, n + 1, n + 2)
    sheet("bias", cases, outputs, which, [[s["colour"] for s in some] for some in read.values()])
    for name, some in lessons.items():
        rows += [{"method": f"lessons: {name}", "setting": 0, "edit": k, "kind": "into a house",
                  "red": parse(r["edited_prompt"]).colour == "red"} for k, r in enumerate(some)]
    for name, pictures in outputs.items():
        rows += [row | {"red": seen["colour"] == "red", "colour": seen["colour"] == c.truth.before.colour}
                 for row, seen, c in zip(verdicts(profile, name, cases, pictures), read[name], cases, strict=True)]
    return rows


def candidates(profile: Profile) -> list[Point]:
    """The best pair of the first 1, 4, 16 and POOL candidates of each triplet."""
    def best_of(m: int) -> list[dict]:
        return [r for some in pool(profile) for r in chosen(some[:m], profile)[:1]]

    return pupils(profile, {f"best of {m} candidates": partial(best_of, m) for m in (1, 4, 16, POOL)})


def plane(profile: Profile) -> list[Point]:
    """s_T against s_I."""
    editor = cache(lambda: load_editor(profile.name))
    return [Point(f"s_T {s_t:g}", s_i, by(editor, guidance_scale=s_t, image_guidance_scale=s_i))
            for s_t in (1.0, 2.0, 4.0, 7.5) for s_i in (0.5, 1.0, 1.5, 2.0, 2.5)]


FIGURES = {"figure8": figure_8, "figure10": figure_10, "plane": plane, "attention": attention, "noise": noise,
           "dropout": dropout, "candidates": candidates, "selection": selection, "limits": limits, "repair": repair,
           "bias": bias}


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
        out["no_filter"] = f"likeness {over(['no CLIP filter'], 'image')} instead of {over(shares[:1], 'image')}"
    if made("limits"):
        out["limits"] = ", ".join(f"{kind} {at('limits', 'InstructPix2Pix', 'valid', kind)}"
                                  for kind in ("count", "position", "swap", "viewpoint"))
    if made("bias"):
        out["bias"] = (f"{at('bias', SKEWED, 'red', 'into a house')} of the outputs red, unasked; "
                       f"balanced: {at('bias', BALANCED, 'red', 'into a house')}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser("python -m ip2p.figures", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="*", choices=(*FIGURES, []), default=[], help="which (all)")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--n", type=int, default=300, help="edits a point of a curve (300)")
    args = parser.parse_args()
    for name in args.name or FIGURES:
        profile = get_profile(args.profile)
        about = {} if name in ("figure8", "plane", "selection", "limits") else {
            "trainings": f"{ABLATION_STEPS} steps each"}
        print(f"wrote {run(name, FIGURES[name](profile), profile, args.n, **about)}")
        if name == "dropout":
            dropout_sheet(profile)
        elif name in ("figure8", "figure10"):  # for the README; the others are drawn in the notebooks alone
            draw(name).savefig(DATA / "images" / f"{name}.png")
        if args.profile == "mini":
            fill(ROOT / "README.md", outcomes())


if __name__ == "__main__":
    main()
