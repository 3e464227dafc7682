"""What an editor reaches on held-out edits: a part of `ip2p evaluate`."""

from __future__ import annotations

import time
from typing import NamedTuple

from ip2p.clip_filter import ClipSimilarity
from ip2p.editing import Editor, load_editor
from ip2p.miniworld import ATTRIBUTES, caption, render
from ip2p.miniworld.held_out import HELD_OUT, Edit, held_out_edits, reworded_edits
from ip2p.paths import DATA
from ip2p.profiles import Profile
from ip2p.study.factory_figures import quiet_painter
from ip2p.study.measures import (
    clip_of_edits,
    paint,
    paired_rise,
    run_editor,
    score,
    summary,
    summary_by_kind,
)

# The second instructions that were worded by hand: what the first ones showed has changed later editors.
REWORDED = DATA / "eval" / "reworded2.jsonl"

# Multiples of the profile's scale -> which of CLIP's similarities must rise with it, until it levels off.
IMAGE_GUIDANCE_FACTORS = (0.5, 0.75, 1, 1.5, 2)
GUIDANCE_FACTORS = (0.1, 0.2, 0.3, 0.4, 0.6, 1)


def editor_figures(editor: Editor, profile: Profile, n: int = 330) -> dict:
    """What `summary` says of edits of renders, also by kind, of edits of the text-to-image model's own
    pictures, and of reworded instructions; and CLIP's curves over s_I and s_T."""
    edits = held_out_edits(n, profile.edit_kinds)
    inputs = [render(edit.before, profile.resolution) for edit in edits]
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


def fast_editor_figures(profile: Profile, n: int = 330) -> dict:
    """What `summary` says of the same edits of renders by the editor's distilled UNet, also by kind, and its
    number of denoising steps."""
    editor = load_editor(profile, fast=True)
    edits = held_out_edits(n, profile.edit_kinds)
    inputs = [render(edit.before, profile.resolution) for edit in edits]
    rows = score(edits, inputs, run_editor(editor, edits, inputs))
    return {"steps": editor.fast.steps, "renders": summary(rows), "by_kind": summary_by_kind(rows)}


def figures_on_samples(editor: Editor, profile: Profile, edits: list[Edit]) -> dict:
    """`summary` of edits of pictures that the text-to-image model painted, instead of renders, by captions
    that say everything: an edit of what the picture does not show would mean nothing."""
    everything = set(ATTRIBUTES)
    painted = paint(
        quiet_painter(profile),
        [caption(edit.before, i, say=everything) for i, edit in enumerate(edits)],
        guidance_scale=profile.paint_guidance,
        steps=profile.steps,
        seed=2 * HELD_OUT,
    )
    return summary(score(edits, painted, run_editor(editor, edits, painted)))


def figures_on_reworded(editor: Editor, profile: Profile) -> dict:
    """`summary` of the edits whose instructions were worded by hand."""
    edits = [edit for edit in reworded_edits(REWORDED) if edit.kind in profile.edit_kinds]
    inputs = [render(edit.before, profile.resolution) for edit in edits]
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
