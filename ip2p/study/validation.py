"""Pairs that are kept away from training, and how an editor does on them while it learns (`ip2p train`)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.durable import append_line
from ip2p.common.grids import grid
from ip2p.common.images import as_tensor
from ip2p.editing import Editor
from ip2p.profiles import Profile
from ip2p.study.measures import column


def hold_out(rows: list[dict], n: int = 8) -> tuple[list[dict], list[dict]]:
    """Pairs to train on, and one of each of n captions, none of whose pairs is among those. rows: of
    `read_pairs`."""
    captions = sorted({row["original_prompt"] for row in rows})
    every = max(1, len(captions) // n)
    held_out = captions[::every][:n]
    training = [row for row in rows if row["original_prompt"] not in held_out]
    first_of: dict[str, dict] = {}
    for row in rows:
        first_of.setdefault(row["original_prompt"], row)
    return training, [first_of[caption] for caption in held_out]


def validation(rows: list[dict], profile: Profile, folder: Path) -> Callable:
    """For `train(sample=...)`: a function of (pipeline, step) that edits the pairs `rows`, none of which is
    trained on, and leaves a sheet FOLDER/STEP.png and a line in FOLDER/figures.jsonl: CLIP's image and
    directional similarity, means over the pairs."""
    clip = ClipSimilarity(profile.clip)
    inputs = column(rows, "original_image")
    instructions = column(rows, "edit_prompt")
    captions_before = column(rows, "original_prompt")
    captions_after = column(rows, "edited_prompt")
    folder.mkdir(parents=True, exist_ok=True)

    def validate(pipe, step: int) -> None:
        editor = Editor(pipe, profile.guidance_scale, profile.image_guidance_scale, profile.steps)
        outputs = editor.many(inputs, instructions)
        clip.to(pipe.device)
        validation_sheet(rows, outputs, step).savefig(folder / f"{step:06}.png")
        sim = clip(as_tensor(inputs), as_tensor(outputs), captions_before, captions_after)
        image = round(sim.sim_image.mean().item(), 4)
        direction = round(sim.sim_direction.mean().item(), 4)
        append_line(folder / "figures.jsonl", {"step": step, "image": image, "direction": direction})

    return validate


def validation_sheet(rows: list[dict], outputs: list[Image.Image], step: int):
    """Inputs, outputs and the pairs' own edited pictures, below each other: a matplotlib figure."""
    return grid(
        [column(rows, "original_image"), outputs, column(rows, "edited_image")],
        rows=["input", f"step {step}", "the pair's own"],
        columns=[textwrap.fill(row["edit_prompt"], 17) for row in rows],
    )
