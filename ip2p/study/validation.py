"""Pairs that are kept away from training, and how an editor does on them while it learns (`ip2p train`,
`ip2p figures`)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from ip2p.clip_filter import ClipSimilarity
from ip2p.common.diffusion import embed
from ip2p.common.durable import append_line, whole_lines
from ip2p.common.grids import grid
from ip2p.common.images import as_tensor
from ip2p.dataset.lessons import encode_both_ways
from ip2p.editing import Editor
from ip2p.profiles import Profile
from ip2p.study.measures import column
from ip2p.training import Draws, edit_loss


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


# ------------------------------------------------------------------------------------- the loss on them

HELD_OUT_LOSS = "held_out_loss.jsonl"  # in an editor's folder
LAST, FLAT = 1 / 3, 0.02  # flat: over the last third of the steps the loss fell by less than 2%
AT_ONCE = 32  # pairs


class HeldOutLoss:
    """For `train(sample=...)`: adds a line {"step", "loss"} to a file, the loss on `pairs` (rows of
    `read_pairs`), none of which is trained on. All lines have the same noise and timesteps, so they differ by
    the weights alone. size: px, of training."""

    def __init__(self, pairs: list[dict], size: int, path: Path):
        self.pairs, self.size, self.path = pairs, size, path
        self.encoded: dict[str, torch.Tensor] = {}  # once there is an autoencoder

    @torch.no_grad()
    def __call__(self, pipe, step: int) -> None:
        if not self.encoded:
            self.encoded = encode_both_ways(pipe, self.pairs, self.size)
            whole_lines(self.path, cut=True)  # a killed run may have left half a one
        device = pipe.unet.device
        text = self.encoded["text"].to(device)
        source = self.encoded["source"][:, 0].to(device)  # as they are, not mirrored
        target = self.encoded["mean"][:, 0].to(device) * pipe.vae.config.scaling_factor
        empty = embed(pipe, [""])  # nothing is dropped
        timesteps = len(pipe.scheduler.alphas_cumprod)
        draws = Draws.sample(target.shape, torch.Generator().manual_seed(0), timesteps, dropout=0.0)
        total = 0.0
        for start in range(0, len(target), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            own = draws.part(part)
            lessons = source[part], target[part], text[part]
            loss = edit_loss(pipe.unet, pipe.scheduler, *lessons, empty, own)
            total += loss.item() * len(own.t)
        append_line(self.path, {"step": step, "loss": round(total / len(target), 6)})


def told_loss(path: Path) -> str:
    """How the loss ended, in words, from the file of a `HeldOutLoss`: "0.2041 at step 1500, 0.9% less than at
    step 1000: flat"."""
    losses = {}  # step -> loss; a killed run repeats some
    for line in whole_lines(path):
        row = json.loads(line)
        losses[row["step"]] = row["loss"]
    end = max(losses)
    before = min(losses, key=lambda step: abs(step - (1 - LAST) * end))
    fall = 1 - losses[end] / losses[before]
    verdict = "flat" if fall < FLAT else "still falling"
    change = f"{abs(fall):.1%} {'less' if fall >= 0 else 'more'} than at step {before}"
    return f"{losses[end]:.4f} at step {end}, {change}: {verdict}"
