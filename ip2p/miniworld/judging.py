"""The judge: a small network that reads every attribute of a scene off its picture, and what follows.

It knows nothing of CLIP and never selects anything: it is the independent witness that says, for a picture
made by any model here, whether the edit happened and whether everything else stayed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ip2p.common.images import as_uint8, to_float, to_pil, to_rgb
from ip2p.miniworld.scene import ATTRIBUTES, Scene, difference
from ip2p.paths import DATA

FOLDER = DATA / "models" / "mini-judge"

SIZE = 64


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        around = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)
        self.around = nn.Sequential(nn.AvgPool2d(stride), around) if stride > 1 else around

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.around(x))


class Judge(nn.Module):
    """A convolutional network with one linear head an attribute."""

    def __init__(self, channels: tuple[int, ...] = (32, 48, 96, 112), squeeze: int = 64, width: int = 128):
        super().__init__()
        self.config = {
            "channels": list(channels),
            "squeeze": squeeze,
            "width": width,
            "attributes": {name: list(values) for name, values in ATTRIBUTES.items()},
        }
        first, *rest = channels
        layers = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, first, 3, 1, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        for c_in, c_out in zip(channels, rest, strict=False):
            layers += [Block(c_in, c_out, 2), Block(c_out, c_out)]
        self.features = nn.Sequential(*layers)  # (B, 3, 64, 64) -> (B, c, 4, 4)
        last = channels[-1]
        self.squeeze = nn.Conv2d(last, squeeze, 1)  # keeps where things are ...
        self.readout = nn.Linear(squeeze * 16 + last, width)  # ... beside the average over all places
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in ATTRIBUTES.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, 64, 64) in [-1, 1] -> {attribute: (B, classes) logits}."""
        h = self.features(x)
        h = torch.cat([self.squeeze(h).flatten(1), h.mean((2, 3))], 1)
        h = F.relu(self.readout(h))
        return {name: head(h) for name, head in self.heads.items()}


@lru_cache(maxsize=4)
def load_judge(path: str | Path | None = None) -> Judge:
    """The judge in a folder (None: the bundled one), float32, ready to read."""
    from safetensors.torch import load_file

    folder = Path(path or FOLDER)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.pop("attributes") != {name: list(values) for name, values in ATTRIBUTES.items()}:
        raise ValueError(f"the judge in {folder} was trained for other attributes; run `ip2p models build`")
    model = Judge(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"))  # from fp16 into float32
    return model.eval()


def pixels(images) -> torch.Tensor:
    """A PIL image, a list of them, or a uint8 tensor (B, 3, h, w) -> (B, 3, 64, 64) in [-1, 1]."""
    if isinstance(images, torch.Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"give a uint8 tensor (B, 3, h, w), not {images.dtype} {tuple(images.shape)}")
        if images.shape[-2:] == (SIZE, SIZE):
            return to_float(images)
        images = [to_pil(image) for image in images]
    if isinstance(images, Image.Image):
        images = [images]
    if len(images) == 0:
        return torch.zeros(0, 3, SIZE, SIZE)
    squares = []
    for image in map(to_rgb, images):
        if image.size != (SIZE, SIZE):
            image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        squares.append(image)
    return to_float(as_uint8(squares)).contiguous()


def readings(logits: dict[str, torch.Tensor]) -> list[dict]:
    """Logits -> attribute dicts. A second object has kind and colour or neither, as is likelier."""
    best = {name: out.argmax(-1) for name, out in logits.items()}
    kind, colour = (logits[name].log_softmax(-1) for name in ("second_kind", "second_colour"))
    there = kind[:, 1:].amax(-1) + colour[:, 1:].amax(-1) > kind[:, 0] + colour[:, 0]
    for name in ("second_kind", "second_colour"):
        best[name] = torch.where(there, logits[name][:, 1:].argmax(-1) + 1, 0)
    rows = torch.stack([best[name] for name in ATTRIBUTES], 1).tolist()
    return [{name: ATTRIBUTES[name][i] for name, i in zip(ATTRIBUTES, row, strict=True)} for row in rows]


@torch.no_grad()
def judge(images, model: Judge | None = None, batch: int = 256) -> list[dict]:
    """What a picture shows: one dict an image, in the form of `Scene.attributes()`.

    `images`: a PIL image, a list of them, or a uint8 tensor (B, 3, h, w); any size, read at 64 px.
    """
    model = model or load_judge()
    device = next(model.parameters()).device
    return [row for x in pixels(images).split(batch) if len(x) for row in readings(model(x.to(device)))]


def asked(before: Scene, after: Scene) -> dict:
    """What an edit asks for: {attribute: value}. That a row or a second object moves a single one to the
    middle, and that an object taken away has no colour, goes without saying and is left out."""
    wanted = difference(before, after)
    if not wanted:
        raise ValueError("this edit changes nothing")
    if wanted.keys() & {"count", "second_kind"} and after.position == "centre":
        wanted.pop("position", None)
    if after.second is None:
        wanted.pop("second_colour", None)
    return wanted


def edit_success(before: Scene, after: Scene, reading: dict) -> bool:
    """Every attribute that the edit asks for is read as asked in the output."""
    return all(reading[name] == value for name, value in asked(before, after).items())


def preservation(before: dict | Scene, after: dict, changed: Iterable[str]) -> float:
    """Share of the attributes not in `changed` that are the same before (a reading or a scene) and after."""
    before = before.attributes() if isinstance(before, Scene) else before
    others = [name for name in ATTRIBUTES if name not in set(changed)]
    return sum(before[name] == after[name] for name in others) / len(others)


def valid_pair(before: Scene, after: Scene, reading_0: dict, reading_1: dict) -> bool:
    """The edit succeeded in the second picture, and at least 90% of the others are read the same in both."""
    return (
        edit_success(before, after, reading_1)
        and preservation(reading_0, reading_1, difference(before, after)) >= 0.9
    )


def outside_distance(image_0: Image.Image, image_1: Image.Image, mask: np.ndarray) -> float:
    """Mean absolute difference, in [0, 1], of the pixels outside `mask` (that of `render_mask`: what the edit
    changes); 0 where nothing lies outside."""
    height, width = mask.shape
    outside = ~np.asarray(mask, bool)
    if not outside.any():
        return 0.0
    images = [to_rgb(image).resize((width, height), Image.Resampling.LANCZOS) for image in (image_0, image_1)]
    first, second = as_uint8(images).permute(0, 2, 3, 1).float().numpy()
    return float(np.abs(first - second)[outside].mean() / 255)
