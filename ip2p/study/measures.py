"""How well pictures are edited: the judge's measures, CLIP's, and their intervals."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.images import as_tensor
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor
from ip2p.miniworld import (
    EDIT_KINDS,
    Scene,
    caption,
    difference,
    edit_kind,
    edit_success,
    judge,
    parse,
    preservation,
    render,
    render_mask,
    valid_pair,
)
from ip2p.miniworld.held_out import Edit, held_out_edits
from ip2p.miniworld.judging import outside_distance
from ip2p.miniworld.scene import DEFAULTS
from ip2p.profiles import Profile

MEASURES = (
    "success",
    "preservation",
    "outside",
    "image",
    "direction",
    "caption",
    "l1",
    "l2",
    "valid",
    "red",
    "colour",
)


class Case(NamedTuple):
    """Something to edit: a picture, an instruction, captions of it before and after; in the miniature world the truth,
    too."""

    image: Image.Image
    instruction: str
    before: str
    after: str
    kind: str
    truth: Edit | None = None


def as_case(e: Edit) -> Case:
    return Case(render(e.before), e.instruction, caption(e.before), caption(e.after), e.kind, e)


def held_out_cases(profile: Profile, n: int) -> list[Case]:
    """n renders of scenes that nothing was trained on; outside of the miniature world pairs, one each of n captions,
    which the editors that a figure trains itself have seen."""
    if profile.in_world:
        return [as_case(e) for e in held_out_edits(n, profile.edit_kinds)]
    return [
        Case(r["original_image"], r["edit_prompt"], r["original_prompt"], r["edited_prompt"], "any")
        for r in hold_out(read_pairs(profile.pairs), n)[1]
    ]


def measure(clip: ClipSimilarity, cases: list[Case], outputs: list[Image.Image]) -> list[dict]:
    """The MEASURES of each output, and its kind of edit: CLIP's similarity of output and input ("image"), of the change
    and the captions' change ("direction") and of output and new caption ("caption"); the mean absolute ("l1") and
    squared ("l2") change of a pixel; in the miniature world what `score` says."""
    inputs = [c.image.resize(o.size) for c, o in zip(cases, outputs, strict=True)]
    a, b = as_tensor(inputs), as_tensor(outputs)
    sim = clip(a, b, [c.before for c in cases], [c.after for c in cases])
    rows = [
        {"kind": c.kind, "image": i, "direction": d, "caption": t, "l1": m, "l2": s}
        for c, i, d, t, m, s in zip(
            cases,
            *(
                x.tolist()
                for x in (
                    sim.sim_image,
                    sim.sim_direction,
                    sim.sim_1,
                    (a - b).abs().mean((1, 2, 3)),
                    (a - b).square().mean((1, 2, 3)),
                )
            ),
            strict=True,
        )
    ]
    if cases[0].truth:
        verdicts = score([c.truth for c in cases], inputs, outputs)
        rows = [verdict | row for row, verdict in zip(rows, verdicts, strict=True)]  # the kind is the case's
    return rows


def interval(values: Iterable[float], draws: int = 2000) -> tuple[float, float]:
    """The 95% interval of the mean: by bootstrap, and of a share (values 0 and 1) by Wilson's formula, which is not
    empty where all values are the same."""
    values = np.asarray(list(values), float)
    if np.isin(values, (0, 1)).all():
        p, n, z = float(values.mean()), len(values), 1.96
        middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        return max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n))
    means = values[np.random.default_rng(0).integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


BATCH = 16


# ------------------------------------------------------------------------------------------------- edits


def run_editor(
    editor, edits: list[Edit], inputs: list[Image.Image] | None = None, batch: int = BATCH, **scales
) -> list[Image.Image]:
    """The editor's answers to all edits, in batches; picture i has seed i. inputs: None means renders."""
    inputs = inputs or [render(e.before) for e in edits]
    out = []
    for i in tqdm(range(0, len(edits), batch), desc="editing", mininterval=2.0, delay=2, leave=False):
        todo = range(i, min(i + batch, len(edits)))
        out += editor.many(
            [inputs[k] for k in todo], [edits[k].instruction for k in todo], seeds=todo, **scales
        )
    return out


def score(edits: list[Edit], inputs: list[Image.Image], outputs: list[Image.Image]) -> list[dict]:
    """The judge's verdict on each edit: kind, success (bool), preservation (share of the other attributes of the
    input that the output keeps) and outside (mean absolute pixel change, [0, 1], where a true edit changes nothing)."""
    rows = []
    for e, a, b, seen_a, seen_b in zip(edits, inputs, outputs, judge(inputs), judge(outputs), strict=True):
        rows.append(
            {
                "kind": e.kind,
                "success": edit_success(e.before, e.after, seen_b),
                "preservation": preservation(seen_a, seen_b, difference(e.before, e.after)),
                "outside": outside_distance(a, b, render_mask(e.before, e.after)),
            }
        )
    return rows


def summary(rows: list[dict]) -> dict:
    """Means of `score`'s rows."""
    return {
        name: float(np.mean([row[name] for row in rows])) for name in ("success", "preservation", "outside")
    } | {"n": len(rows)}


def by_kind(rows: list[dict]) -> dict[str, dict]:
    """`summary` of each kind of edit."""
    return {
        kind: summary(some) for kind in EDIT_KINDS if (some := [row for row in rows if row["kind"] == kind])
    }


def clip_of_edits(
    clip: ClipSimilarity, edits: list[Edit], inputs: list, outputs: list
) -> dict[str, np.ndarray]:
    """CLIP's image similarity and directional similarity of each edit, (n,) each."""
    sim = clip(
        as_tensor(inputs),
        as_tensor(outputs),
        *([caption(s) for s in scenes] for scenes in ([e.before for e in edits], [e.after for e in edits])),
    )
    return {"image": sim.sim_image.cpu().numpy(), "direction": sim.sim_direction.cpu().numpy()}


def paired_rise(curves: list[np.ndarray], draws: int = 1000) -> list[float]:
    """For each step along `curves` (one array of n values a scale, same edits), the share of bootstrap draws of the
    edits in which the mean rises. All above 0.95: rising, by paired bootstrap."""
    picks = np.random.default_rng(0).integers(len(curves[0]), size=(draws, len(curves[0])))
    means = np.stack([curve[picks].mean(1) for curve in curves])  # (scales, draws)
    return [float((b > a).mean()) for a, b in zip(means, means[1:], strict=False)]


# ------------------------------------------------------------------------------- text to image, and pairs


def stated(scene: Scene) -> dict:
    """The attributes that a caption states: kind, colour and place always, the others where not at their default."""
    return {
        name: value
        for name, value in scene.attributes().items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def paint(
    pipe, prompts: list[str], *, guidance_scale: float, steps: int, seed: int = 0, batch: int = BATCH
) -> list[Image.Image]:
    """Pictures of prompts by a text-to-image model; picture i has seed `seed` + i, whatever the batch."""
    out = []
    for i in tqdm(range(0, len(prompts), batch), desc="painting", mininterval=2.0, delay=2, leave=False):
        some = prompts[i : i + batch]
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(some))]
        out += pipe(
            some, guidance_scale=guidance_scale, num_inference_steps=steps, generator=generators
        ).images
    return out


def judge_pairs(triplets: list[dict], images_0, images_1) -> list[dict]:
    """For each pair (images: PIL, or uint8 (n, 3, H, W)): the kind of edit its captions ask for, and whether the judge
    finds the pair valid."""
    seen = zip(judge(images_0), judge(images_1), strict=True)
    out = []
    for triplet, (seen_0, seen_1) in zip(triplets, seen, strict=True):
        before, after = parse(triplet["input"]), parse(triplet["output"])
        out.append({"kind": edit_kind(before, after), "valid": valid_pair(before, after, seen_0, seen_1)})
    return out


def best_p(rows: list[dict], parts: int = 4) -> dict:
    """The valid share of all rows, and the curve of (mean p, valid share) over `parts` equal parts of the values of
    p, with its best point."""
    parts = [part for part in np.array_split(sorted({r["p"] for r in rows}), parts) if len(part)]
    curve = [
        np.mean([(r["p"], r["valid"]) for r in rows if part[0] <= r["p"] <= part[-1]], 0).tolist()
        for part in parts
    ]
    p, valid = max(curve, key=lambda point: point[1])
    return {
        "valid": float(np.mean([r["valid"] for r in rows])),
        "best": valid,
        "p": p,
        "n": len(rows),
        "curve": curve,
    }


def hold_out(rows: list[dict], n: int = 8) -> tuple[list[dict], list[dict]]:
    """Pairs to train on, and one of each of n captions, none of whose pairs is among those."""
    captions = sorted({r["original_prompt"] for r in rows})
    aside = captions[:: max(1, len(captions) // n)][:n]
    return (
        [r for r in rows if r["original_prompt"] not in aside],
        [next(r for r in rows if r["original_prompt"] == caption) for caption in aside],
    )


def validation(rows: list[dict], profile: Profile, folder: Path):
    """For `train(sample=...)`: a function that edits the pairs `rows`, none of which is trained on, and leaves a sheet
    FOLDER/STEP.png and a line in FOLDER/figures.jsonl: CLIP's image and directional similarity, means of all."""
    from ip2p.common.grids import grid

    clip, inputs = ClipSimilarity(profile.clip), [r["original_image"] for r in rows]
    folder.mkdir(parents=True, exist_ok=True)

    def look(pipe, step: int) -> None:
        editor = Editor(pipe, profile.guidance_scale, profile.image_guidance_scale, profile.steps)
        outputs = editor.many(inputs, [r["edit_prompt"] for r in rows])
        sim = clip(
            as_tensor(inputs),
            as_tensor(outputs),
            *([r[name] for r in rows] for name in ("original_prompt", "edited_prompt")),
        )
        grid(
            [inputs, outputs, [r["edited_image"] for r in rows]],
            rows=["input", f"step {step}", "the pair's own"],
            columns=[textwrap.fill(r["edit_prompt"], 17) for r in rows],
        ).savefig(folder / f"{step:06}.png")
        with open(folder / "figures.jsonl", "a", encoding="utf-8") as file:
            file.write(
                json.dumps(
                    {
                        "step": step,
                        "image": round(sim.sim_image.mean().item(), 4),
                        "direction": round(sim.sim_direction.mean().item(), 4),
                    }
                )
                + "\n"
            )

    return look
