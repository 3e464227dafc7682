"""Stage 3: CLIP chooses the good pairs among the candidates (section 3.1.2 of InstructPix2Pix).

Four cosine similarities: each image with its caption, the two images with each other, and the directional similarity
of Gal et al. (arXiv 2108.00946): does the change between the images point the way of the change between the captions?
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Similarities(NamedTuple):
    """Cosines, (n,) each."""

    sim_0: torch.Tensor  # image 0 with caption 0
    sim_1: torch.Tensor  # image 1 with caption 1
    sim_direction: torch.Tensor  # image 1 - image 0 with caption 1 - caption 0
    sim_image: torch.Tensor  # image 0 with image 1


class ClipSimilarity(nn.Module):
    """The four similarities by an open_clip model. `model`: "NAME/PRETRAINED" ("ViT-L-14/openai") or a folder."""

    def __init__(self, model: str, device: str = "cpu"):
        super().__init__()
        import open_clip

        if Path(model).exists():
            if not (Path(model) / "open_clip_config.json").is_file():
                raise ValueError(f"{model} is no open_clip model: it has no open_clip_config.json")
            name, pretrained = f"local-dir:{model}", None
        else:
            name, _, pretrained = model.partition("/")
        self.clip, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained or None, device=device)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.clip.eval().requires_grad_(False)
        size = self.clip.visual.image_size
        self.size = size if isinstance(size, int) else size[0]
        mean, std = self.clip.visual.image_mean, self.clip.visual.image_std
        self.register_buffer("mean", torch.tensor(mean or (0.5,) * 3, device=device)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std or (0.5,) * 3, device=device)[:, None, None], persistent=False)

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) in [0, 1] -> (n, d) of unit length. Raises ValueError for another range or shape."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be float (n, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if images.min() < 0 or images.max() > 1:
            raise ValueError("images must lie in [0, 1]; these reach from "
                             f"{images.min():.2f} to {images.max():.2f} (a diffusion model's [-1, 1]?)")
        images = images.to(self.mean.device)
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return F.normalize(self.clip.encode_image((images - self.mean) / self.std), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Texts -> (n, d) of unit length."""
        return F.normalize(self.clip.encode_text(self.tokenizer(texts).to(self.mean.device)), dim=-1)

    def forward(self, image_0: torch.Tensor, image_1: torch.Tensor, text_0: list[str],
                text_1: list[str]) -> Similarities:
        """Images (n, 3, H, W) in [0, 1] and their captions -> the four similarities, (n,) each."""
        i0, i1, t0, t1 = *map(self.encode_image, (image_0, image_1)), *map(self.encode_text, (text_0, text_1))
        cos = F.cosine_similarity
        return Similarities(cos(i0, t0), cos(i1, t1), cos(i1 - i0, t1 - t0), cos(i0, i1))


def passes(sim: Similarities, *, min_image: float, min_caption: float, min_direction: float) -> torch.Tensor:
    """Which pairs meet all thresholds, (n,) bool."""
    return ((sim.sim_image >= min_image) & (sim.sim_0 >= min_caption) & (sim.sim_1 >= min_caption)
            & (sim.sim_direction >= min_direction))


def best(sim: Similarities, keep: int, **thresholds: float) -> list[int]:
    """Indices of at most `keep` candidates of one caption pair that pass, by directional similarity, best first."""
    good = passes(sim, **thresholds).nonzero().flatten()
    return good[sim.sim_direction[good].argsort(descending=True)][:keep].tolist()
