"""Beyond the paper: a region beside the sentence.

"Make this one blue" says which one only together with a gesture. What the paper did for the input image is
done once more for the region: the UNet's first convolution gets one more channel, widened by zeros, and
learns from pairs whose rows say where the change is,

    L = E || eps - eps_theta(z_t, t, [E(c_I), r], c_T) ||^2

with r in [0, 1] the share of each place of the latent that lies in the region. Conditioning dropout takes the
region away together with the image, so Eq. 3 of the paper guides by both as it did by one.

A box is [left, top, right, bottom] in shares of the picture's sides, as `RegionPicture.box`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageOps

from ip2p.common.diffusion import embed
from ip2p.dataset.lessons import Cache, Lessons
from ip2p.editing import Editor
from ip2p.learning_on import learn_on
from ip2p.profiles import Profile
from ip2p.training import checksum_of_pairs, edit_loss, widen_input

Box = Sequence[float]

WHOLE = (0.0, 0.0, 1.0, 1.0)  # the region of an edit that may change anything


def region_channel(boxes: Sequence[Box], height: int, width: int) -> torch.Tensor:
    """r: (n, 1, height, width), how much of each place of a latent lies in a box. Raises ValueError for a box
    with nothing in it."""
    channel = torch.empty(len(boxes), 1, height, width)
    for k, (left, top, right, bottom) in enumerate(boxes):
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"{[left, top, right, bottom]} is no box; give [left, top, right, bottom] in 0 to 1"
            )
        channel[k, 0] = covered(top, bottom, height)[:, None] * covered(left, right, width)
    return channel


def covered(start: float, end: float, places: int) -> torch.Tensor:
    """How much of each of so many places in a row lies between start and end, shares of the row."""
    edges = torch.arange(places + 1) / places
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0) * places


def box_mask(image: Image.Image, box: list[float]) -> Image.Image:
    """White in a box of the square in the middle of an image, black elsewhere; of the image's shape.

    box: left, top, right, bottom as shares of the square's sides."""
    width, height = ImageOps.exif_transpose(image).size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    corners = [left + box[0] * side, top + box[1] * side, left + box[2] * side, top + box[3] * side]
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle([round(corner) for corner in corners], fill=255)
    return mask


def takes_region(editor: Editor) -> bool:
    """Whether an editor was trained with regions."""
    unet = editor.pipe.unet
    return unet.config.in_channels == 2 * unet.config.out_channels + 1


def edit_region(
    editor: Editor, images: list[Image.Image], instructions: list[str], boxes: Sequence[Box], **options
) -> list[Image.Image]:
    """Edit n images by n sentences and n boxes. options: of `Editor.many`, without masks and size. Raises
    ValueError for an editor that was trained without regions, and what `region_channel` and `Editor`
    raise."""
    if not takes_region(editor):
        raise ValueError("this editor was trained without regions; train one with `train_region`")
    latents = editor.encode(images)
    regions = region_channel(boxes, *latents.shape[2:]).to(latents.device)
    encoded = torch.cat([latents, regions], 1), embed(editor.pipe, instructions)
    return editor.many(images, instructions, encoded=encoded, **options)


def train_region(rows: list[dict], out: Path, profile: Profile, *, steps: int, lr: float, seed: int = 0):
    """Teach the profile's editor to take regions, from rows as of `read_pairs` that have a "region" each; see
    `learn_on`. Returns (pipeline, log of `train_loop`)."""
    settings = {"pairs": checksum_of_pairs(rows)}
    losses = partial(region_losses, rows, profile)
    widen = partial(widen_input, channels=1)
    return learn_on(
        profile.editor, out, profile, settings, losses, steps=steps, lr=lr, seed=seed, alter=widen
    )


def region_losses(rows: list[dict], profile: Profile, pipe, cache: Path):
    """For `train_loop`: the loss of one step."""
    lessons = Lessons(pipe, rows, profile.resolution, Cache(pipe, rows, cache, profile.resolution))
    lessons.mirrorable = [False] * len(rows)  # a region lies where it lies
    side = profile.resolution // pipe.vae_scale_factor
    regions = region_channel([row["region"] for row in rows], side, side)
    empty = embed(pipe, [""])

    def losses(model, generator: torch.Generator, step: int) -> torch.Tensor:
        numbers = torch.randint(len(rows), (profile.train_batch,), generator=generator).tolist()
        seeds = torch.randint(2**62, (profile.train_batch,), generator=generator).tolist()
        source, target, text = lessons.batch(numbers, seeds)
        source = torch.cat([source, regions[numbers].to(source.device)], 1)
        return edit_loss(model, pipe.scheduler, source, target, text, empty, generator)

    return losses
