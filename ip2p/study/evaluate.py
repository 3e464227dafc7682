"""`ip2p evaluate`: what the models reach on held-out scenes, part by part.

If asked to, it also renews the README, docs/*.md and the model cards.

The judge (`ip2p.miniworld.judge`) decides what a picture shows. It measures only: it chooses no data, no
threshold and no checkpoint.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import append_line, write_atomically
from ip2p.common.images import quantise
from ip2p.common.markdown import fill, fill_pages
from ip2p.dataset.triplets import GENERATED_TRIPLETS, read_triplets
from ip2p.editing import Editor, load_editor
from ip2p.factory.candidates import Job
from ip2p.factory.pairs import paint_and_filter
from ip2p.miniworld import (
    ATTRIBUTES,
    COLOURS,
    MIXES,
    STYLES,
    TIMES,
    WEATHERS,
    caption,
    edit_kind,
    judge,
    parse,
    random_scene,
    render,
)
from ip2p.miniworld.held_out import HELD_OUT, Edit, held_out_edits, reworded_edits
from ip2p.options import refuse_outside
from ip2p.paths import DATA, ROOT
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.study.answers import language_model_figures
from ip2p.study.measures import (
    clip_of_edits,
    judge_pairs,
    paint,
    paired_rise,
    run_editor,
    score,
    summary,
    summary_by_kind,
    validity_by_p,
)
from ip2p.study.progress import begin_or_resume, model_checksums
from ip2p.study.tables import data_facts, markdown_table, short_table

FIGURES = DATA / "eval" / "figures.json"  # numbers; the paper's figures are those of `ip2p figures`


def quiet_painter(profile: Profile):
    """The profile's text-to-image pipeline, without progress bars."""
    pipe = load_text_to_image(profile)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_vae(profile: Profile):
    """The profile's autoencoder, float32."""
    return load_text_to_image(profile, dtype="float32").vae


# -------------------------------------------------------------------------- text to image, and the filter


def text_to_image_figures(profile: Profile, n: int = 500) -> dict:
    """How well the text-to-image model paints what n held-out captions say, by the judge: shares of right
    attributes, in the "mean", of each of "attributes", and of pictures with "all" of them right. And how much
    it varies what they leave open: "spread", see `spread`."""
    captions = [caption(random_scene(random.Random(HELD_OUT + i)), i) for i in range(n)]
    pictures = paint(
        quiet_painter(profile),
        captions,
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=HELD_OUT,
    )
    readings = judge(pictures)
    said_by = [parse(words) for words in captions]
    said: Counter = Counter()
    right: Counter = Counter()
    all_right = 0
    for attributes, reading in zip(said_by, readings, strict=True):
        hits = [name for name, value in attributes.items() if reading[name] == value]
        said.update(attributes.keys())
        right.update(hits)
        all_right += len(hits) == len(attributes)
    return {
        "n": n,
        "mean": right.total() / said.total(),
        "all": all_right / n,
        "attributes": {name: right[name] / said[name] for name in ATTRIBUTES if said[name]},
        "spread": {name: spread(name, said_by, readings) for name in TRAINING_SHARES},
    }


def even_shares(values: tuple) -> dict:
    return dict.fromkeys(values, 1 / len(values))


WILD = MIXES["wild"]

# How often each value comes in the pictures that the text-to-image model learns from.
TRAINING_SHARES = {
    "time": dict(zip(TIMES, WILD.time, strict=True)),
    "weather": dict(zip(WEATHERS, WILD.weather, strict=True)),
    "style": dict(zip(STYLES, WILD.style, strict=True)),
    "colour": even_shares(COLOURS),
}


def spread(name: str, said_by: list[dict], readings: list[dict]) -> dict:
    """Of the pictures whose captions do not say an attribute, how often each of its values comes, as a
    multiple of its share in training; 0: it never comes, though nothing forbids it."""
    values = [reading[name] for said, reading in zip(said_by, readings, strict=True) if name not in said]
    shares = {}
    for value, expected in TRAINING_SHARES[name].items():
        shares[value] = values.count(value) / max(1, len(values)) / expected
    return shares


def triplets_by_kind() -> dict[str, list[dict]]:
    """Stage 1's triplets of each kind of edit."""
    by_kind: dict[str, list[dict]] = {}
    for triplet in read_triplets(GENERATED_TRIPLETS):
        kind = edit_kind(parse(triplet["input"]), parse(triplet["output"]))
        by_kind.setdefault(kind, []).append(triplet)
    return by_kind


def invalid_share(rows: list[dict]) -> float:
    """NaN if there are no rows."""
    if not rows:
        return float("nan")
    return 1 - sum(row["valid"] for row in rows) / len(rows)


def filter_figures(profile: Profile, n: int = 32, seed: int = 1) -> dict:
    """The share of invalid pairs before and after the filter (thresholds, then the best few of a caption
    pair), and the valid share of each kind of edit among unfiltered candidates at the best p. Painted afresh,
    with another seed than the shipped pairs, from n random ones of stage 1's triplets of each kind of edit
    (all, if there are fewer)."""
    rng = random.Random(seed)
    by_kind = triplets_by_kind()
    triplets = []
    for of_kind in by_kind.values():
        triplets += rng.sample(of_kind, min(n, len(of_kind)))
    rows = judged_candidates(profile, triplets, seed)
    kept = [row for row in rows if row["kept"]]
    kinds = {}
    for kind in by_kind:
        kinds[kind] = validity_by_p([row for row in rows if row["kind"] == kind])
    return {
        "n": len(rows),
        "kept": len(kept),
        "invalid_before": invalid_share(rows),
        "invalid_after": invalid_share(kept),
        "kinds": kinds,
    }


def judged_candidates(profile: Profile, triplets: list[dict], seed: int) -> list[dict]:
    """All candidates of triplets: "kind" of edit, "p", whether they are "valid", by the judge, and whether
    the filter has "kept" them."""
    pipe = quiet_painter(profile)
    clip = ClipSimilarity(profile.clip, profile.device)
    job = Job.of(profile, seed, enough=False)
    rows: list[dict] = []
    candidates: list[tuple] = []  # of each row: its input caption and its setting

    def note(asked, settings, pictures, similarities) -> None:
        first, second = (quantise(side) for side in pictures)
        verdicts = judge_pairs(asked, first, second)
        for triplet, setting, verdict in zip(asked, settings, verdicts, strict=True):
            rows.append({"kind": verdict["kind"], "p": setting.p, "valid": verdict["valid"]})
            candidates.append((triplet["input"], setting))

    at_once = job.batch // job.per_seed
    for start in tqdm(range(0, len(triplets), at_once), desc="painting pairs", mininterval=2.0, leave=False):
        numbers = range(start, min(start + at_once, len(triplets)))
        first_row = len(rows)
        kept_pairs, _ = paint_and_filter(pipe, clip, job, triplets, numbers, note)
        kept = {(triplets[pair.number]["input"], pair.setting) for pair in kept_pairs}
        for k in range(first_row, len(rows)):
            rows[k]["kept"] = candidates[k] in kept
    return rows


# ---------------------------------------------------------------------------------------------- the editor

# Multiples of the profile's scale -> which of CLIP's similarities must rise with it, until it levels off.
IMAGE_GUIDANCE_FACTORS = (0.5, 0.75, 1, 1.5, 2)
GUIDANCE_FACTORS = (0.1, 0.2, 0.3, 0.4, 0.6, 1)


def editor_figures(editor: Editor, profile: Profile, n: int = 300) -> dict:
    """Edit success and preservation on renders and on the text-to-image model's own pictures, on reworded
    instructions, and CLIP's curves over s_I and s_T."""
    edits = held_out_edits(n, profile.edit_kinds)
    inputs = [render(edit.before) for edit in edits]
    begin = time.perf_counter()
    outputs = run_editor(editor, edits, inputs)
    seconds = time.perf_counter() - begin
    rows = score(edits, inputs, outputs)
    clip = ClipSimilarity(profile.clip, profile.device)
    sweep = Sweep(editor, clip, edits, inputs, outputs)
    return {
        "kinds": list(profile.edit_kinds),
        "seconds_an_edit": seconds / n,
        "renders": summary(rows),
        "by_kind": summary_by_kind(rows),
        "samples": figures_on_samples(editor, profile, edits),
        "reworded": figures_on_reworded(editor, profile),
        "image_guidance_scale": sweep.figures(
            "image_guidance_scale", profile.image_guidance_scale, IMAGE_GUIDANCE_FACTORS, "image"
        ),
        "guidance_scale": sweep.figures(
            "guidance_scale", profile.guidance_scale, GUIDANCE_FACTORS, "direction"
        ),
    }


def figures_on_samples(editor: Editor, profile: Profile, edits: list[Edit]) -> dict:
    """`summary` of edits of pictures that the text-to-image model painted, instead of renders."""
    painted = paint(
        quiet_painter(profile),
        [caption(edit.before, i) for i, edit in enumerate(edits)],
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=2 * HELD_OUT,
    )
    return summary(score(edits, painted, run_editor(editor, edits, painted)))


def figures_on_reworded(editor: Editor, profile: Profile) -> dict:
    """`summary` of the edits whose instructions were worded by hand."""
    edits = [edit for edit in reworded_edits() if edit.kind in profile.edit_kinds]
    inputs = [render(edit.before) for edit in edits]
    return summary(score(edits, inputs, run_editor(editor, edits, inputs)))


class Sweep(NamedTuple):
    """An editor, and edits that it made at its default scales."""

    editor: Editor
    clip: ClipSimilarity
    edits: list[Edit]
    inputs: list
    outputs: list

    def figures(self, scale: str, default: float, factors: tuple[float, ...], similarity: str) -> dict:
        """CLIP's mean `similarity` ("image" or "direction") at factors of a scale's default, and the share of
        bootstrap resamples in which it rises from each to the next."""
        values = [default * factor for factor in factors]
        curves = []
        for factor, value in zip(factors, values, strict=True):
            outputs = self.outputs
            if factor != 1:
                outputs = run_editor(self.editor, self.edits, self.inputs, **{scale: value})
            curves.append(clip_of_edits(self.clip, self.edits, self.inputs, outputs)[similarity])
        means = [float(curve.mean()) for curve in curves]
        return {"values": values, "mean": means, "rises": paired_rise(curves)}


# ----------------------------------------------------------------------------------------- the parts

FULL = 300  # edits, of which the README tells; the other parts' numbers fall with them


def in_proportion(full: int, n: int) -> int:
    """As many of `full` as n are of FULL edits, at least one."""
    return max(1, round(full * n / FULL))


def measure_instructions(profile: Profile, n: int) -> dict:
    return language_model_figures(profile)


def measure_open_instructions(profile: Profile, n: int) -> dict:
    return language_model_figures(get_profile("sd15", device=profile.device, dtype=profile.dtype))


def measure_autoencoder(profile: Profile, n: int) -> float:
    from ip2p.models.autoencoder import held_out_psnr

    return held_out_psnr(load_vae(profile))


def measure_judge(profile: Profile, n: int) -> dict:
    from ip2p.miniworld.judging import load_judge
    from ip2p.models.judge import measure

    with TemporaryDirectory() as work:
        return measure(load_judge(), Path(work), load_vae(profile))


def measure_clip(profile: Profile, n: int) -> dict:
    from ip2p.models import clip

    model, tokenizer = clip.load(profile.clip)
    with TemporaryDirectory() as work:
        return clip.measure(model, tokenizer, Path(work), load_vae(profile))


def measure_text_to_image(profile: Profile, n: int) -> dict:
    return text_to_image_figures(profile, in_proportion(500, n))


def measure_filter(profile: Profile, n: int) -> dict:
    return filter_figures(profile, in_proportion(32, n))


def measure_editor(profile: Profile, n: int) -> dict:
    editor = load_editor(profile.editor, profile.device, profile.dtype, profile)
    return editor_figures(editor, profile, n)


PARTS: dict[str, Callable] = {  # what `ip2p evaluate` measures, by (profile, number of edits)
    "instructions": measure_instructions,
    "open-instructions": measure_open_instructions,
    "autoencoder": measure_autoencoder,
    "judge": measure_judge,
    "mini-clip": measure_clip,
    "mini-sd": measure_text_to_image,
    "filter": measure_filter,
    "mini-ip2p": measure_editor,
}

CARDS = {
    "mini-sd": ("autoencoder", "mini-sd"),
    "mini-ip2p": ("filter", "mini-ip2p"),
}  # model -> parts on its card


def evaluate(
    model: str | Path | None = None,
    out: str | Path | None = None,
    profile: str | Profile = "mini",
    n: int = FULL,
    only: list[str] | None = None,
    *,
    write: bool = False,
    device: str | None = None,
    dtype: str | None = None,
) -> dict:
    """`ip2p evaluate`: measure, print a Markdown table, and return the figures, by part.

    model: that editor alone (a folder or a hub name; its figures are the part "editor"). Without it every
    bundled model, or those parts of PARTS that `only` names. n: edits; what else is painted falls with it.
    out: a folder for figures.json, in which a stopped evaluation goes on with the parts that are missing.
    write: also renew data/eval/figures.json, the README, docs/*.md and the model cards. device, dtype: see
    `choose_device`, `choose_dtype`; None: the profile's. CLIP and the judge are float32 everywhere. Raises
    ValueError for an unknown part, for `write` with a model, and if `out` holds the figures of other models
    or settings.
    """
    refuse_outside("n", n, "count")
    profile = get_profile(profile)
    profile = replace(profile, device=device or profile.device, dtype=dtype or profile.dtype)
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise ValueError(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if model and write:
        raise ValueError("the README tells of the bundled models; leave out --write, or --model")
    profile.place()  # a device that there is not is refused before anything is measured
    if model:
        measures = {"editor": measure_editor}
        profile = replace(profile, editor=str(model))
    else:
        measures = {part: PARTS[part] for part in only or PARTS}
    figures = {}
    for part, of_part in measured_parts(measures, profile, n, Path(out) if out else None):
        figures[part] = of_part
        if write:
            renew_figures(figures)
    if out:
        write_atomically(Path(out) / "figures.json", as_json(figures))
    if write:
        figures = renew_figures(figures)
        renew_pages(figures, profile)
    print(markdown_table(figures))
    return figures


def measured_parts(
    measures: dict[str, Callable], profile: Profile, n: int, out: Path | None
) -> Iterator[tuple[str, Any]]:
    """The name and figures of each part; with `out`, first those that lie there already, which are not
    measured again."""
    there = set()
    if out:
        path = out / "parts.jsonl"
        device, dtype = profile.place()
        settings = {"profile": profile.name, "n": n, "device": device.type, "dtype": str(dtype)}
        for line in begin_or_resume(path, settings | model_checksums(profile)):
            there.add(line["part"])
            yield line["part"], line["figures"]
    for part, measure in measures.items():
        if part in there:
            continue
        figures = measure(profile, n)
        if out:
            append_line(path, {"part": part, "figures": figures})
        yield part, figures


def as_json(figures: dict) -> str:
    return json.dumps(figures, indent=1) + "\n"


def renew_figures(figures: dict) -> dict:
    """Put parts into data/eval/figures.json; returns all that are there then."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) | figures if FIGURES.exists() else figures
    write_atomically(FIGURES, as_json(figures))
    return figures


def renew_pages(figures: dict, profile: Profile) -> None:
    """Put all parts of data/eval/figures.json into the pages, and those of a model into its card."""
    tables = {"results": markdown_table(figures), "reaches": short_table(figures)}
    fill_pages(ROOT, tables | data_facts(profile, figures))
    for name, parts in CARDS.items():
        of_model = {part: figures[part] for part in parts}
        fill(DATA / "models" / name / "README.md", {"results": markdown_table(of_model)})
