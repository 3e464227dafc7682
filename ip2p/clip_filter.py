"""Stage 3: CLIP chooses the good pairs among the candidates (section 3.1.2 of InstructPix2Pix).

Four cosine similarities: each image with its caption, the two images with each other, and the directional
similarity of Gal et al. (arXiv 2108.00946): does the change between the images point the way of the change
between the captions?
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ip2p.common.devices import choose_device, choose_dtype
from ip2p.common.durable import refuse_broken

TEXTS_AT_ONCE = 16
TEXTS_REMEMBERED = 100_000


class Similarities(NamedTuple):
    """Cosines, (n,) each."""

    sim_0: torch.Tensor  # image 0 with caption 0
    sim_1: torch.Tensor  # image 1 with caption 1
    sim_direction: torch.Tensor  # image 1 - image 0 with caption 1 - caption 0
    sim_image: torch.Tensor  # image 0 with image 1


class ClipSimilarity(nn.Module):
    """The four similarities by an open_clip model.

    model: "NAME/PRETRAINED" ("ViT-L-14-quickgelu/openai") or a folder. device, dtype: see `choose_device` and
    `choose_dtype`; below float32 the image tower runs under autocast, and the cosines are a little rougher.
    batch: images that go through the model at once. A text that was seen before is remembered.
    Raises ValueError for a folder without such a model or with a broken file, and for a NAME without weights
    or with another activation than they want.
    """

    def __init__(
        self,
        model: str,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        batch: int = 256,
    ):
        super().__init__()
        device = choose_device(device)
        self.dtype = choose_dtype(dtype, device)
        self.batch = batch
        self.clip, self.tokenizer = load_open_clip(model, device)
        self.known_texts: dict[str, torch.Tensor] = {}
        visual = self.clip.visual
        self.size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        self.register_buffer("mean", one_a_channel(visual.image_mean, device), persistent=False)
        self.register_buffer("std", one_a_channel(visual.image_std, device), persistent=False)

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) in [0, 1] -> (n, d) of unit length. Raises ValueError for another range or shape."""
        check_images(images)
        images = images.to(self.mean.device)
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, size=(self.size, self.size), mode="bicubic", antialias=True)
            images = images.clamp(0, 1)
        features = []
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for part in images.split(self.batch):
                features.append(self.clip.encode_image((part - self.mean) / self.std))
        return F.normalize(torch.cat(features).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Texts -> (n, d) of unit length."""
        distinct = list(dict.fromkeys(texts))
        new = [text for text in distinct if text not in self.known_texts]
        if len(self.known_texts) + len(new) > TEXTS_REMEMBERED:
            self.known_texts = {}
            new = distinct
        for start in range(0, len(new), TEXTS_AT_ONCE):
            part = new[start : start + TEXTS_AT_ONCE]
            missing = TEXTS_AT_ONCE - len(part)
            full = part + missing * part[-1:]  # always the same batch: what was asked before changes no bit
            features = self.clip.encode_text(self.tokenizer(full).to(self.mean.device))
            features = F.normalize(features, dim=-1)
            for i, text in enumerate(part):
                self.known_texts[text] = features[i].clone()
        return torch.stack([self.known_texts[text] for text in texts])

    def forward(
        self, image_0: torch.Tensor, image_1: torch.Tensor, text_0: list[str], text_1: list[str]
    ) -> Similarities:
        """Images (n, 3, H, W) in [0, 1] and their captions -> the four similarities, (n,) each."""
        i0, i1 = self.encode_image(torch.cat([image_0, image_1])).chunk(2)
        t0 = self.encode_text(text_0)
        t1 = self.encode_text(text_1)
        cos = F.cosine_similarity
        return Similarities(cos(i0, t0), cos(i1, t1), cos(i1 - i0, t1 - t0), cos(i0, i1))


def load_open_clip(model: str, device: torch.device):
    """An open_clip model for inference and its tokenizer; see `ClipSimilarity`."""
    import open_clip

    if Path(model).exists():
        if not (Path(model) / "open_clip_config.json").is_file():
            raise ValueError(f"{model} is no open_clip model: it has no open_clip_config.json")
        refuse_broken(model)
        name, pretrained = f"local-dir:{model}", None
    else:
        name, _, pretrained = model.partition("/")
        pretrained = pretrained or None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "QuickGELU mismatch")
        try:
            clip = open_clip.create_model(name, pretrained, device=device, require_pretrained=True)
        except (UserWarning, RuntimeError) as error:  # a wrong activation, or no weights
            why = str(error).splitlines()[0]
            raise ValueError(f"cannot load {model}: {why} (sd15's is ViT-L-14-quickgelu/openai)") from None
    return clip.eval().requires_grad_(False), open_clip.get_tokenizer(name)


def one_a_channel(values, device: torch.device) -> torch.Tensor:
    """A model's mean or standard deviation of the channels (None: a half each) as (3, 1, 1)."""
    if values is None:
        values = (0.5, 0.5, 0.5)
    return torch.tensor(values, device=device)[:, None, None]


def check_images(images: torch.Tensor) -> None:
    """Raise ValueError unless they are float (n, 3, H, W) in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images must be float (n, 3, H, W), not {images.dtype} {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise ValueError(
            f"images must lie in [0, 1]; these reach from {low:.2f} to {high:.2f} "
            "(a diffusion model's [-1, 1]?)"
        )


# ------------------------------------------------------------------------------------------- the filter


# Thresholds stand in `ip2p.profiles`: sd15's are the paper's (the released code has min_image 0.70), mini's
# what 80% of held-out true edits reach, each criterion on its own
# (`ip2p.models.clip.calibrate`).
def passes(sim: Similarities, *, min_image: float, min_caption: float, min_direction: float) -> torch.Tensor:
    """Which pairs meet all thresholds, (n,) bool."""
    return (
        (sim.sim_image >= min_image)
        & (sim.sim_0 >= min_caption)
        & (sim.sim_1 >= min_caption)
        & (sim.sim_direction >= min_direction)
    )


def best(sim: Similarities, keep: int, **thresholds: float) -> list[int]:
    """The pairs of one caption pair that are kept: those that pass, at most `keep`, best direction first.

    This is for all candidates at once; `best_by_direction` in `ip2p.factory.pairs` does the same as they are
    painted, part by part.
    """
    good = passes(sim, **thresholds).nonzero().flatten()
    order = sim.sim_direction[good].argsort(descending=True)
    return good[order][:keep].tolist()
