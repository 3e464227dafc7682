"""What the models reach, on held-out scenes: the measures, and `ip2p evaluate`, which prints and writes them all.

The judge (`ip2p.miniworld.judge`) decides what a picture shows. It measures only: it chooses no data, no threshold
and no checkpoint.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.markdown import fill
from ip2p.dataset.checks import check, follows
from ip2p.dataset.shards import read_pairs
from ip2p.dataset.triplets import from_completion, read_captions, read_triplets
from ip2p.factory.candidates import Job
from ip2p.factory.pairs import paint_and_filter
from ip2p.miniworld import caption, edit_kind, judge, parse, random_scene, render
from ip2p.miniworld.held_out import HELD_OUT, held_out_edits, reworded_edits
from ip2p.models.autoencoder import held_out_psnr
from ip2p.models.files import CORES, minutes
from ip2p.paths import DATA, ROOT
from ip2p.profiles import Profile, get_profile, load_text_to_image
from ip2p.study.measures import (
    BATCH,
    best_p,
    by_kind,
    clip_of_edits,
    judge_pairs,
    paint,
    paired_rise,
    run_editor,
    score,
    stated,
    summary,
)

FIGURES = DATA / "eval" / "figures.json"

GENERATED = DATA / "triplets" / "generated.jsonl"  # by stage 1


def text_to_image(profile: Profile, n: int = 500, pipe=None) -> dict:
    """How well the text-to-image model paints what held-out captions state, by the judge."""
    pipe = pipe or load_text_to_image(profile)
    pipe.set_progress_bar_config(disable=True)
    scenes = [random_scene(random.Random(HELD_OUT + i)) for i in range(n)]
    pictures = paint(
        pipe,
        [caption(s, i) for i, s in enumerate(scenes)],
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=HELD_OUT,
    )
    right, total, whole = Counter(), Counter(), 0
    for scene, seen in zip(scenes, judge(pictures), strict=True):
        hits = {name: seen[name] == value for name, value in stated(scene).items()}
        right.update(name for name, hit in hits.items() if hit)
        total.update(hits.keys())
        whole += all(hits.values())
    return {
        "n": n,
        "mean": sum(right.values()) / sum(total.values()),
        "all": whole / n,
        "attributes": {name: right[name] / total[name] for name in total},
    }


def filter_effect(profile: Profile, n: int = 32, seed: int = 1) -> dict:
    """The share of invalid pairs before and after the filter (thresholds, then the best few of a caption pair), and
    the valid share of each kind of edit among unfiltered candidates at the best p. Painted afresh, with another seed
    than the shipped pairs, from n random ones of stage 1's triplets of each kind of edit (all, if there are fewer)."""
    of_kind: dict[str, list[dict]] = {}
    for triplet in read_triplets(GENERATED):
        of_kind.setdefault(edit_kind(parse(triplet["input"]), parse(triplet["output"])), []).append(triplet)
    rng, rows = random.Random(seed), []
    triplets = [t for some in of_kind.values() for t in rng.sample(some, min(n, len(some)))]
    pipe, clip, job = (
        load_text_to_image(profile),
        ClipSimilarity(profile.clip),
        Job.of(profile, seed, enough=False),
    )

    def seen(asked, settings, pictures, _):
        verdicts = judge_pairs(asked, *[(x * 255).round().to(torch.uint8) for x in pictures])
        rows.extend(
            {"kind": v["kind"], "p": s.p, "valid": v["valid"], "key": (t["input"], s), "kept": False}
            for v, s, t in zip(verdicts, settings, asked, strict=True)
        )

    at_once = job.batch // job.per_seed
    for k in tqdm(range(0, len(triplets), at_once), desc="painting pairs", mininterval=2.0, leave=False):
        start = len(rows)
        kept, _ = paint_and_filter(pipe, clip, job, triplets, range(k, min(k + at_once, len(triplets))), seen)
        chosen = {(triplets[number]["input"], setting) for number, _, setting, *_ in kept}
        for row in rows[start:]:
            row["kept"] = row.pop("key") in chosen
    kept = [row["valid"] for row in rows if row["kept"]]
    before, after = (1 - float(np.mean(x)) if x else float("nan") for x in ([r["valid"] for r in rows], kept))
    return {
        "n": len(rows),
        "kept": len(kept),
        "invalid_before": before,
        "invalid_after": after,
        "kinds": {kind: best_p([r for r in rows if r["kind"] == kind]) for kind in of_kind},
    }


# -------------------------------------------------------------------------------------------- stage 1


def stage_1(profile: Profile, n: int = 1000, n_shown: int = 100, seed: int = 1) -> dict:
    """The profile's fine-tuned language model on n held-out captions (fresh ones, or the last of its file), one answer
    each, and on n_shown of them the same model not fine-tuned, but shown eight examples. Values: see `judge_answers`.
    """
    from ip2p.backends.local import generate
    from ip2p.instructions import load_finetuned, load_language_model

    lessons, own = (read_triplets(path) if path else [] for path in (profile.triplets, profile.own_triplets))
    captions = fresh_captions(n, lessons + own) if profile.in_world else read_captions(profile.captions)[-n:]
    examples, out = lessons[:: len(lessons) // 8][:8], {"lessons": len(lessons)}
    for name, (model, tokenizer), some, shown in (
        ("few-shot", load_language_model(profile.language_model), captions[-n_shown:], examples),
        (
            "fine-tuned",
            load_finetuned(profile.language_model, lessons, world=profile.in_world, own=own),
            captions,
            (),
        ),
    ):
        answers = generate(model, tokenizer, some, shown, seed=seed, max_new_tokens=128)
        out[name] = judge_answers(some, answers, lessons, profile.in_world)
    return out


def fresh_captions(n: int, known: list[dict]) -> list[str]:
    """n captions of random scenes that are the input of none of the triplets `known`."""
    rng, out, known = random.Random(HELD_OUT * 3), {}, {t["input"] for t in known}
    while len(out) < n:
        words = caption(random_scene(rng), rng)
        if words not in known:
            out[words] = None
    return list(out)


def kind_of_edit(triplet: dict) -> str:
    return edit_kind(parse(triplet["input"]), parse(triplet["output"]))


def judge_answers(captions: list[str], answers: list[str], lessons: list[dict], world: bool) -> dict:
    """Shares of answers: "formed" (the authors' format, and a change), "follows" (by words alone, see `follows`) and,
    with `world`, "valid" (of the world, and just the edit that was asked for). Of the instructions of formed answers,
    the share of "distinct" ones and of "new" ones (in no lesson). "missing": kinds of edit that the lessons have
    and no valid answer has."""
    formed = []
    for asked, answer in zip(captions, answers, strict=True):
        try:
            triplet = from_completion(asked, answer)
        except ValueError:
            continue
        if check(triplet, world=False) is None:
            formed.append(triplet)
    said, taught = {t["edit"].casefold() for t in formed}, {t["edit"].casefold() for t in lessons}
    out = {
        "n": len(captions),
        "formed": len(formed) / len(captions),
        "follows": sum(map(follows, formed)) / len(captions),
        "distinct": len(said) / max(1, len(formed)),
        "new": len(said - taught) / max(1, len(said)),
    }
    if world:
        valid = [t for t in formed if check(t) is None]
        out |= {
            "valid": len(valid) / len(captions),
            "missing": sorted(set(map(kind_of_edit, lessons)) - set(map(kind_of_edit, valid))),
        }
    return out


# ------------------------------------------------------------------------------------------ ip2p evaluate


def evaluate_editor(editor, profile: Profile, n: int = 300) -> dict:
    """Edit success and preservation on renders and on the text-to-image model's own pictures, on reworded
    instructions, and CLIP's curves over s_I and s_T."""
    kinds = profile.edit_kinds
    edits, figures = held_out_edits(n, kinds), {"kinds": list(kinds)}
    inputs = [render(e.before) for e in edits]
    begin = time.perf_counter()
    outputs = run_editor(editor, edits, inputs)
    figures["seconds_an_edit"] = (time.perf_counter() - begin) / n
    rows = score(edits, inputs, outputs)
    figures |= {"renders": summary(rows), "by_kind": by_kind(rows)}

    pipe = load_text_to_image(profile)
    pipe.set_progress_bar_config(disable=True)
    painted = paint(
        pipe,
        [caption(e.before, i) for i, e in enumerate(edits)],
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=2 * HELD_OUT,
    )
    figures["samples"] = summary(score(edits, painted, run_editor(editor, edits, painted)))

    worded = [e for e in reworded_edits() if e.kind in kinds]
    inputs_worded = [render(e.before) for e in worded]
    figures["reworded"] = summary(score(worded, inputs_worded, run_editor(editor, worded, inputs_worded)))

    clip = ClipSimilarity(profile.clip)
    sweeps = {
        "image_guidance_scale": ("image", (0.5, 0.75, 1, 1.5, 2)),
        "guidance_scale": ("direction", (0.1, 0.2, 0.3, 0.4, 0.6, 1)),
    }  # the rise, and where it levels off
    for name, (measure, factors) in sweeps.items():
        values = [getattr(profile, name) * f for f in factors]
        curves = [
            clip_of_edits(
                clip,
                edits,
                inputs,
                outputs
                if f == 1
                # 1: the default, painted above
                else run_editor(editor, edits, inputs, **{name: v}),
            )[measure]
            for f, v in zip(factors, values, strict=True)
        ]
        figures[name] = {
            "values": values,
            "mean": [float(c.mean()) for c in curves],
            "rises": paired_rise(curves),
        }
    return figures


def evaluate(
    model: str | Path | None = None,
    out: str | Path | None = None,
    profile: str | Profile = "mini",
    n: int = 300,
    only: list[str] | None = None,
) -> dict:
    """`ip2p evaluate`. With `model`: that editor alone. Without: every bundled model, or those parts of PARTS that
    `only` names; each part's figures are kept in data/eval/figures.json as soon as they are there, and written into
    README.md and the model cards. Returns and prints the figures; `out`: also a folder for figures.json."""
    from ip2p.editing import load_editor

    profile = get_profile(profile)
    if unknown := set(only or ()) - set(PARTS):
        raise ValueError(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if model:
        figures = {"editor": evaluate_editor(load_editor(str(model), profile=profile.name), profile, n)}
    else:
        figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
        for part in only or PARTS:
            figures[part] = PARTS[part](profile, n)
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        fill(ROOT / "README.md", {"results": table(figures), **counts(profile, figures)})
        for name, parts in (("mini-sd", ("autoencoder", "mini-sd")), ("mini-ip2p", ("filter", "mini-ip2p"))):
            fill(
                DATA / "models" / name / "README.md",
                {"results": table({part: figures[part] for part in parts})},
            )
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    return figures


def _judge(profile: Profile, _) -> dict:
    from ip2p.miniworld.judging import load_judge
    from ip2p.models.judge import measure

    with TemporaryDirectory() as work:
        return measure(load_judge(), Path(work), load_text_to_image(profile).vae)


def _clip(profile: Profile, _) -> dict:
    from ip2p.models import clip

    with TemporaryDirectory() as work:
        return clip.measure(*clip.load(profile.clip), Path(work), load_text_to_image(profile).vae)


def _editor(profile: Profile, n: int) -> dict:
    from ip2p.editing import load_editor

    return evaluate_editor(load_editor(profile.name), profile, n)


PARTS = {  # what `ip2p evaluate` measures: name -> function of (profile, number of edits)
    "instructions": lambda profile, n: stage_1(profile),
    "open-instructions": lambda profile, n: stage_1(get_profile("sd15")),
    "autoencoder": lambda profile, n: held_out_psnr(load_text_to_image(profile).vae),
    "judge": _judge,
    "mini-clip": _clip,
    "mini-sd": lambda profile, n: text_to_image(profile, max(n, 500)),
    "filter": lambda profile, n: filter_effect(profile),
    "mini-ip2p": _editor,
}


def counts(profile: Profile, figures: dict) -> dict[str, str]:
    """What the README's table says of the bundled data."""
    editor, log = (
        figures["mini-ip2p"],
        (Path(profile.editor) / "training_log.jsonl").read_text(encoding="utf-8"),
    )
    spent = minutes([json.loads(line) for line in log.splitlines()])
    return {
        "triplets": f"{len(read_triplets(GENERATED)):,}",
        "pairs": f"{len(read_pairs(profile.pairs, decode=False)):,}",
        "train_time": f"{spent:.0f} minutes on {CORES}",
        "edit_time": f"{editor['seconds_an_edit']:.2f} s on {CORES}, in a batch of {BATCH}",
    }


def table(figures: dict) -> str:
    """The figures as a Markdown table: what was aimed at, and what came out."""
    editor = figures.get("mini-ip2p") or figures.get("editor")
    rows = ["| What | Aim | Measured |", "|---|---:|---:|"]

    def row(what: str, aim: str, value: float, spec: str = ".3f"):
        rows.append(f"| {what} | {aim} | {value:{spec}} |")

    for part, what in (
        ("instructions", "captions of the miniature world"),
        ("open-instructions", "open captions"),
    ):
        if stage := figures.get(part):
            for how, aim in (("few-shot", ""), ("fine-tuned", "0.950")):
                row(
                    f"SmolLM2, {how}, {stage[how]['n']:,} {what}: well-formed, and a change",
                    aim,
                    stage[how]["formed"],
                )
            if part == "instructions":
                for how, aim in (("few-shot", ""), ("fine-tuned", "0.850")):
                    row(
                        f"SmolLM2, {how}: of the world, and just the edit asked for", aim, stage[how]["valid"]
                    )
            row(
                f"SmolLM2, fine-tuned, {what}: distinct instructions",
                "0.600",
                stage["fine-tuned"]["distinct"],
            )
    if "autoencoder" in figures:
        row("Autoencoder of mini-sd: PSNR on 500 held-out renders, dB", "27.0", figures["autoencoder"], ".1f")
    if "judge" in figures:
        judged = figures["judge"]
        for name, aim, what in (
            ("renders", "0.985", "held-out renders"),
            ("after_autoencoder", "0.970", "the same after the autoencoder"),
        ):
            worst = min(judged[name], key=judged[name].get)
            row(
                f"Judge, {judged['held_out']:,} {what}: its weakest attribute ({worst})",
                aim,
                judged[name][worst],
            )
    if "mini-clip" in figures:
        row(
            "mini-clip: own caption found among 100 scenes",
            "0.800",
            figures["mini-clip"]["renders"]["image_to_text"],
        )
    if "mini-sd" in figures:
        sd = figures["mini-sd"]
        row(
            f"mini-sd, {sd['n']} held-out captions: mean accuracy of the stated attributes",
            "0.920",
            sd["mean"],
        )
        row("mini-sd: all stated attributes right", "0.650", sd["all"])
    if "filter" in figures:
        kept = figures["filter"]
        row(f"Invalid share of {kept['n']:,} candidates, before the filter", "", kept["invalid_before"])
        row(
            f"Invalid share of the {kept['kept']:,} that it keeps",
            f"{0.6 * kept['invalid_before']:.3f}",
            kept["invalid_after"],
        )
    lines = "\n".join(rows + (editor_rows(editor) if editor else []))
    if editor:
        kinds = [
            f"| {kind} | {f['success']:.2f} | {f['preservation']:.2f} | {f['n']} |"
            for kind, f in editor["by_kind"].items()
        ]
        lines += "\n\n| Kind of edit | Success | Preservation | Edits |\n|---|---:|---:|---:|\n" + "\n".join(
            kinds
        )
    if "filter" in figures:
        kinds = [
            f"| {kind} | {f['valid']:.2f} | {f['best']:.2f} | {f['p']:.2f} |"
            for kind, f in figures["filter"]["kinds"].items()
        ]
        lines += (
            "\n\n| Unfiltered candidates | Valid | Valid at the best p | Best p |\n|---|---:|---:|---:|\n"
            + "\n".join(kinds)
        )
    return lines


def editor_rows(editor: dict) -> list[str]:
    """Rows of `table` on an editor, from `evaluate_editor`."""
    rows = []
    for name, aim, what in (
        ("renders", ("0.800", "0.900"), "renders"),
        ("samples", ("0.800", "0.900"), "pictures by mini-sd"),
        ("reworded", ("0.650", ""), "renders, reworded by hand"),
    ):
        rows.append(
            f"| Edit success, {editor[name]['n']} {what} | {aim[0]} | {editor[name]['success']:.3f} |"
        )
        rows.append(f"| Preservation, {what} | {aim[1]} | {editor[name]['preservation']:.3f} |")
    for name, what in (
        ("image_guidance_scale", "s_I raises CLIP image similarity"),
        ("guidance_scale", "s_T raises directional similarity"),
    ):
        curve = editor[name]
        means, values = (
            ", ".join(f"{m:.3f}" for m in curve["mean"]),
            ", ".join(f"{v:g}" for v in curve["values"]),
        )
        sure = ", ".join(f"{share:.2f}" for share in curve["rises"])
        rows.append(f"| {what}: at {values} | rising | {means} (each step, by bootstrap: {sure}) |")
    return rows
