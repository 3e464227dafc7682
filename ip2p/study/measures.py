"""How well pictures are edited and painted: the judge's verdicts, CLIP's similarities, and their intervals.

    from ip2p.study.measures import Edit, run_editor, score, summary

The judge (`ip2p.miniworld.judge`) decides what a picture shows. It measures only: it chooses no data, no
threshold and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.fitting import largest_that_fits
from ip2p.common.images import as_tensor
from ip2p.editing import Editor
from ip2p.miniworld import (
    EDIT_KINDS,
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
from ip2p.miniworld.held_out import Edit, held_out_edits, reworded_edits
from ip2p.miniworld.judging import VALID, concerned, outside_distance

__all__ = [
    "BATCH",
    "SURVIVORS",
    "Edit",
    "bootstrap_interval",
    "clip_of_edits",
    "column",
    "held_out_edits",
    "interval",
    "judge_pairs",
    "paint",
    "paired_rise",
    "reworded_edits",
    "run_editor",
    "score",
    "summary",
    "summary_by_kind",
    "validity_by_p",
    "wilson_interval",
]

# Attributes of which is told whether they survive an edit of something else.
SURVIVORS = ("kind", "colour", "size", "place", "style")

BATCH = 16  # edits, or pictures, that are denoised together


def column(rows: Sequence[dict], name: str) -> list:
    """One value of each row."""
    return [row[name] for row in rows]


def batches(n: int, size: int, desc: str) -> Iterator[range]:
    """The numbers 0 to n - 1 in ranges of `size`, with a progress bar."""
    for start in tqdm(range(0, n, size), desc=desc, mininterval=2.0, delay=2, leave=False):
        yield range(start, min(start + size, n))


# ------------------------------------------------------------------------------------------------- edits


def run_editor(
    editor: Editor,
    edits: Sequence[Edit],
    inputs: Sequence[Image.Image] | None = None,
    batch: int = BATCH,
    **options,
) -> list[Image.Image]:
    """The editor's answers to all edits, in batches; picture i has seed i. inputs: the pictures to edit
    (None: renders of the scenes before). options: of `Editor.many`, such as guidance_scale."""
    if inputs is None:
        inputs = [render(edit.before) for edit in edits]
    outputs = []

    def edit(numbers: range) -> list[Image.Image]:
        pictures = [inputs[k] for k in numbers]
        instructions = [edits[k].instruction for k in numbers]
        return editor.many(pictures, instructions, seeds=numbers, **options)

    def edit_in_parts(numbers: range, size: int) -> list[Image.Image]:
        edited = []
        for start in range(0, len(numbers), size):
            edited += edit(numbers[start : start + size])
        return edited

    for numbers in batches(len(edits), batch, "editing"):
        edited, batch = largest_that_fits(partial(edit_in_parts, numbers), batch, "edits")
        outputs += edited
    return outputs


def score(edits: Sequence[Edit], inputs: Sequence[Image.Image], outputs: Sequence[Image.Image]) -> list[dict]:
    """The judge's verdict on each edit: kind, success (bool), preservation (share of the other attributes of
    the input that the output keeps), right (bool: success, and preservation of 0.9 or more), survives (see
    `surviving`) and outside (mean absolute pixel change, [0, 1], where a true edit changes nothing)."""
    read_before = judge(inputs)
    read_after = judge(outputs)
    rows = []
    for k, edit in enumerate(edits):
        changed = difference(edit.before, edit.after)
        success = edit_success(edit.before, edit.after, read_after[k])
        kept = preservation(read_before[k], read_after[k], changed)
        mask = render_mask(edit.before, edit.after)
        rows.append(
            {
                "kind": edit.kind,
                "success": success,
                "preservation": kept,
                "right": success and kept >= VALID,
                "survives": surviving(edit, read_before[k], read_after[k]),
                "outside": outside_distance(inputs[k], outputs[k], mask),
            }
        )
    return rows


def surviving(edit: Edit, before: dict, after: dict) -> dict[str, bool]:
    """For each of SURVIVORS that an edit does not concern, whether it reads the same before and after."""
    taken = concerned(edit.before, edit.after)
    return {name: before[name] == after[name] for name in SURVIVORS if name not in taken}


def summary(rows: Sequence[dict]) -> dict:
    """Means of `score`'s rows, and their number "n"; "survives": of each of SURVIVORS, over the edits that do
    not concern it."""
    means = {}
    for name in ("success", "preservation", "right", "outside"):
        means[name] = float(np.mean(column(rows, name)))
    survives = {}
    for name in SURVIVORS:
        verdicts = [row["survives"][name] for row in rows if name in row["survives"]]
        if verdicts:
            survives[name] = float(np.mean(verdicts))
    return means | {"survives": survives, "n": len(rows)}


def summary_by_kind(rows: Sequence[dict]) -> dict[str, dict]:
    """`summary` of each kind of edit that there is, in the order of EDIT_KINDS."""
    summaries = {}
    for kind in EDIT_KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            summaries[kind] = summary(of_kind)
    return summaries


def clip_of_edits(
    clip: ClipSimilarity, edits: Sequence[Edit], inputs: list, outputs: list
) -> dict[str, np.ndarray]:
    """CLIP's similarity of output and input ("image"), and of the change and the captions' change
    ("direction"), of each edit, (n,) each."""
    captions_before = [caption(edit.before) for edit in edits]
    captions_after = [caption(edit.after) for edit in edits]
    sim = clip(as_tensor(inputs), as_tensor(outputs), captions_before, captions_after)
    return {"image": sim.sim_image.cpu().numpy(), "direction": sim.sim_direction.cpu().numpy()}


# --------------------------------------------------------------------------------------------- intervals


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The 95% interval of the mean: by Wilson's formula for a share (values 0 and 1), else by bootstrap."""
    values = np.asarray(list(values), float)
    if np.isin(values, (0, 1)).all():
        return wilson_interval(values.mean(), len(values))
    return bootstrap_interval(values)


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n (E. B. Wilson, 1927): not empty where the share is 0 or 1."""
    share = float(share)
    middle = share + z**2 / (2 * n)
    half = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bootstrap_interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """The 95% percentile interval of the mean of values (n,), by bootstrap."""
    chosen = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    means = values[chosen].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def paired_rise(curves: Sequence[np.ndarray], resamples: int = 1000) -> list[float]:
    """For each step along `curves` (one array of n values a scale, same edits), the share of bootstrap
    resamples of the edits in which the mean rises. All above 0.95: rising, by paired bootstrap."""
    n = len(curves[0])
    chosen = np.random.default_rng(0).integers(n, size=(resamples, n))
    means = [curve[chosen].mean(1) for curve in curves]  # (resamples,) for each scale
    rises = []
    for lower, upper in zip(means, means[1:], strict=False):
        rises.append(float((upper > lower).mean()))
    return rises


# ------------------------------------------------------------------------------- text to image, and pairs


def paint(
    pipe, prompts: list[str], *, guidance_scale: float, steps: int, seed: int = 0, batch: int = BATCH
) -> list[Image.Image]:
    """Pictures of prompts by a text-to-image pipeline; picture i has seed `seed` + i, whatever the batch."""
    pictures = []
    for numbers in batches(len(prompts), batch, "painting"):
        generators = [torch.Generator().manual_seed(seed + k) for k in numbers]
        pictures += pipe(
            [prompts[k] for k in numbers],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=generators,
        ).images
    return pictures


def judge_pairs(triplets: Sequence[dict], images_0, images_1) -> list[dict]:
    """For each pair of images (PIL, or uint8 (n, 3, H, W)): the kind of edit that its captions ask for
    ("kind"), and whether the judge finds it valid ("valid"), as `valid_pair` says."""
    read_0 = judge(images_0)
    read_1 = judge(images_1)
    verdicts = []
    for triplet, first, second in zip(triplets, read_0, read_1, strict=True):
        before = parse(triplet["input"])
        after = parse(triplet["output"])
        valid = valid_pair(before, after, first, second)
        verdicts.append({"kind": edit_kind(before, after), "valid": valid})
    return verdicts


def validity_by_p(rows: Sequence[dict], parts: int = 4) -> dict:
    """How the valid share depends on p, the share of denoising steps with shared attention.

    rows: candidates with "p" and "valid". Returns the valid share of all ("valid"), the "curve" of (mean p,
    valid share) over `parts` equal parts of the values of p, its best point ("p", "best"), and the number of
    rows ("n").
    """
    values = sorted({row["p"] for row in rows})
    curve = []
    for part in np.array_split(values, parts):
        if len(part):
            of_part = [(row["p"], row["valid"]) for row in rows if part[0] <= row["p"] <= part[-1]]
            curve.append(np.mean(of_part, 0).tolist())
    best_p, best_share = max(curve, key=lambda point: point[1])
    share = float(np.mean(column(rows, "valid")))
    return {"valid": share, "best": best_share, "p": best_p, "n": len(rows), "curve": curve}
