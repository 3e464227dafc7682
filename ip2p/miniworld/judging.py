"""The judge: a small network that reads every attribute of a scene off its picture, and what follows.

It knows nothing of CLIP and never selects anything: it is the independent witness that says, for a picture
made by any model here, whether the edit happened and whether everything else stayed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ip2p.common.images import to_float, to_pil, to_rgb
from ip2p.miniworld.scene import ATTRIBUTES, Said, Scene, asked, difference
from ip2p.paths import DATA

FOLDER = DATA / "models" / "mini-judge"

SIZE = 128  # pixels a side of the pictures that the bundled judge reads

FOLD = 4  # pixels a side that the judge first lays side by side as channels

VALID = 0.9  # share of the attributes that a valid pair keeps


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them: (B, c_in, h, w) -> (B, c_out, h / stride, w / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.around = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)
        if stride > 1:
            self.around = nn.Sequential(nn.AvgPool2d(stride), self.around)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.around(x))


class Judge(nn.Module):
    """A convolutional network with one linear head an attribute.

    channels: of the first convolution, and of the blocks at each further halving of the picture; squeeze:
    channels that keep where things are; width: features that all heads share; size: pixels a side of its
    pictures, a multiple of FOLD * 2 ** (len(channels) - 1).
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 48, 96, 112),
        squeeze: int = 64,
        width: int = 128,
        size: int = SIZE,
    ):
        super().__init__()
        self.size = size
        self.config = {
            "channels": list(channels),
            "squeeze": squeeze,
            "width": width,
            "attributes": class_names(),
        }
        if size != SIZE:
            self.config["size"] = size
        first, last = channels[0], channels[-1]
        layers = [
            nn.PixelUnshuffle(FOLD),  # (B, 3, size, size) -> (B, 48, size / 4, size / 4)
            nn.Conv2d(3 * FOLD**2, first, 3, 1, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        for c_in, c_out in pairwise(channels):
            layers += [Block(c_in, c_out, 2), Block(c_out, c_out)]
        self.features = nn.Sequential(*layers)
        side = size // FOLD // 2 ** (len(channels) - 1)  # of the last feature map: 4 at 128 px
        self.squeeze = nn.Conv2d(last, squeeze, 1)  # keeps where things are ...
        self.readout = nn.Linear(squeeze * side**2 + last, width)  # ... beside the average over all places
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in ATTRIBUTES.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, size, size) in [-1, 1] -> {attribute: (B, classes) logits}."""
        h = self.features(x)  # (B, channels[-1], side, side)
        places = self.squeeze(h).flatten(1)
        h = torch.cat([places, h.mean((2, 3))], 1)
        h = F.relu(self.readout(h))
        return {name: head(h) for name, head in self.heads.items()}


def class_names() -> dict[str, list]:
    """What the classes of each head mean."""
    return {name: list(values) for name, values in ATTRIBUTES.items()}


@lru_cache(maxsize=4)
def load_judge(path: str | Path | None = None) -> Judge:
    """The judge in a folder (None: the bundled one), float32, ready to read; the same object for the same
    folder.

    Raises ValueError if it was trained for other attributes than this world's.
    """
    folder = FOLDER if path is None else Path(path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.pop("attributes") != class_names():
        raise ValueError(f"the judge in {folder} was trained for other attributes; run `ip2p models build`")
    model = Judge(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"))  # from fp16 into float32
    return model.eval()


def pixels(images, size: int = SIZE) -> torch.Tensor:
    """A PIL image, a list of them, or a uint8 tensor (B, 3, h, w) -> (B, 3, size, size) in [-1, 1].

    Raises ValueError for any other tensor.
    """
    if isinstance(images, torch.Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"give a uint8 tensor (B, 3, h, w), not {images.dtype} {tuple(images.shape)}")
        if images.shape[-2:] == (size, size):
            return to_float(images)
        images = [to_pil(image) for image in images]
    if isinstance(images, Image.Image):
        images = [images]
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        resized[i] = _scaled(image, (size, size))
    return to_float(torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous())


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole image, upright RGB, scaled to (width, height), in whatever shape."""
    image = to_rgb(image)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def readings(logits: dict[str, torch.Tensor]) -> list[dict]:
    """Logits -> attribute dicts. A second object has kind and colour or neither, as is likelier."""
    best = {name: out.argmax(-1) for name, out in logits.items()}
    kind = logits["second_kind"].log_softmax(-1)  # (B, classes); class 0: there is none
    colour = logits["second_colour"].log_softmax(-1)
    there = kind[:, 1:].amax(-1) + colour[:, 1:].amax(-1) > kind[:, 0] + colour[:, 0]
    for name in ("second_kind", "second_colour"):
        likeliest = logits[name][:, 1:].argmax(-1) + 1
        best[name] = torch.where(there, likeliest, 0)
    rows = []
    for classes in torch.stack([best[name] for name in ATTRIBUTES], 1).tolist():
        row = {}
        for (name, values), number in zip(ATTRIBUTES.items(), classes, strict=True):
            row[name] = values[number]
        rows.append(row)
    return rows


@torch.no_grad()
def judge(images, model: Judge | None = None, batch: int = 256) -> list[dict]:
    """What a picture shows: one dict an image, in the form of `Scene.attributes()`.

    `images`: a PIL image, a list of them, or a uint8 tensor (B, 3, h, w); any size, read at the judge's own
    (128 px). `model`: None for the bundled judge.
    """
    model = model or load_judge()
    device = next(model.parameters()).device
    out = []
    for x in pixels(images, model.size).split(batch):
        if len(x):
            out += readings(model(x.to(device)))
    return out


def edit_success(before: Scene | Said, after: Scene | Said, reading: dict) -> bool:
    """Whether every attribute that the edit asks for is read as asked in the output. An edit is two scenes,
    or what two captions say.

    Raises ValueError for an edit that changes nothing.
    """
    return all(reading[name] == value for name, value in asked(before, after).items())


def concerned(before: Scene | Said, after: Scene | Said) -> set[str]:
    """The attributes that an edit changes, or may: a new object has some colour, a row stands in the
    middle."""
    names = set(difference(before, after))
    if "second_kind" in names:
        names.add("second_colour")
    if "second_kind" in names or "count" in names:
        names.add("position")
    return names


def preservation(before: dict | Scene, after: dict, changed: Iterable[str]) -> float:
    """Share of the attributes not in `changed` that are the same before (a reading or a scene) and after."""
    if isinstance(before, Scene):
        before = before.attributes()
    changed = set(changed)
    others = [name for name in ATTRIBUTES if name not in changed]
    return sum(before[name] == after[name] for name in others) / len(others)


def valid_pair(before: Scene | Said, after: Scene | Said, reading_0: dict, reading_1: dict) -> bool:
    """The edit succeeded in the second picture, and at least 90% of what it does not concern is read the same
    in both, whether the captions say it or not."""
    if not edit_success(before, after, reading_1):
        return False
    return preservation(reading_0, reading_1, concerned(before, after)) >= VALID


def outside_distance(image_0: Image.Image, image_1: Image.Image, mask: np.ndarray) -> float:
    """Mean absolute difference, in [0, 1], of the pixels outside `mask`; 0 where nothing lies outside.

    mask: (h, w), true where the edit changes something (`render_mask`); the images are scaled to its size.
    """
    height, width = mask.shape
    a = np.asarray(_scaled(image_0, (width, height)), np.float32)
    b = np.asarray(_scaled(image_1, (width, height)), np.float32)
    outside = ~np.asarray(mask, bool)
    if not outside.any():
        return 0.0
    return float(np.abs(a - b)[outside].mean() / 255)
