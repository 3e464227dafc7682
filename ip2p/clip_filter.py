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


# Thresholds of the filter: the paper's, the released code's (ViT-L/14), and what `ip2p.models.clip.calibrate` finds for
# mini-clip: what 95% of held-out true edits reach, each criterion on its own.
PRESETS = {
    "paper": {"min_image": 0.75, "min_caption": 0.2, "min_direction": 0.2},
    "code": {"min_image": 0.70, "min_caption": 0.2, "min_direction": 0.2},
    "mini": {"min_image": 0.57, "min_caption": 0.89, "min_direction": 0.53},
}


class ClipSimilarity(nn.Module):
    """The four similarities by an open_clip model. `model`: "NAME/PRETRAINED" ("ViT-L-14/openai") or a folder.

    Images and texts go through the model in batches of `batch`; a text that was seen before is remembered. With
    `bf16` the image tower runs under bfloat16 autocast, and the cosines are a little rougher.
    """

    def __init__(self, model: str, device: str = "cpu", batch: int = 256, bf16: bool = False):
        super().__init__()
        import open_clip

        if Path(model).exists():
            if not (Path(model) / "open_clip_config.json").is_file():
                raise ValueError(f"{model} is no open_clip model: it has no open_clip_config.json")
            name, pretrained = f"local-dir:{model}", None
        else:
            name, _, pretrained = model.partition("/")
        self.clip, _, _ = open_clip.create_model_and_transforms(
            name, pretrained=pretrained or None, device=device
        )
        self.tokenizer = open_clip.get_tokenizer(name)
        self.clip.eval().requires_grad_(False)
        self.batch, self.bf16, self._texts = batch, bf16, {}
        size = self.clip.visual.image_size
        self.size = size if isinstance(size, int) else size[0]
        mean, std = self.clip.visual.image_mean, self.clip.visual.image_std
        self.register_buffer(
            "mean", torch.tensor(mean or (0.5,) * 3, device=device)[:, None, None], persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std or (0.5,) * 3, device=device)[:, None, None], persistent=False
        )

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) in [0, 1] -> (n, d) of unit length. Raises ValueError for another range or shape."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be float (n, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if images.min() < 0 or images.max() > 1:
            raise ValueError(
                "images must lie in [0, 1]; these reach from "
                f"{images.min():.2f} to {images.max():.2f} (a diffusion model's [-1, 1]?)"
            )
        images = images.to(self.mean.device)
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(
                0, 1
            )
        with torch.autocast(self.mean.device.type, torch.bfloat16, enabled=self.bf16):
            features = torch.cat(
                [self.clip.encode_image((x - self.mean) / self.std) for x in images.split(self.batch)]
            )
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Texts -> (n, d) of unit length."""
        new = list(dict.fromkeys(text for text in texts if text not in self._texts))
        if len(self._texts) + len(new) > 100_000:
            self._texts, new = {}, list(dict.fromkeys(texts))
        for i in range(0, len(new), 16):
            some = new[i : i + 16]
            full = some + some[-1:] * (
                16 - len(some)
            )  # always the same batch: what was asked before changes no bit
            features = F.normalize(self.clip.encode_text(self.tokenizer(full).to(self.mean.device)), dim=-1)
            self._texts.update(zip(some, features[: len(some)].clone(), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def forward(
        self, image_0: torch.Tensor, image_1: torch.Tensor, text_0: list[str], text_1: list[str]
    ) -> Similarities:
        """Images (n, 3, H, W) in [0, 1] and their captions -> the four similarities, (n,) each."""
        i0, i1 = self.encode_image(torch.cat([image_0, image_1])).chunk(2)
        t0, t1 = map(self.encode_text, (text_0, text_1))
        cos = F.cosine_similarity
        return Similarities(cos(i0, t0), cos(i1, t1), cos(i1 - i0, t1 - t0), cos(i0, i1))


def passes(sim: Similarities, *, min_image: float, min_caption: float, min_direction: float) -> torch.Tensor:
    """Which pairs meet all thresholds, (n,) bool."""
    return (
        (sim.sim_image >= min_image)
        & (sim.sim_0 >= min_caption)
        & (sim.sim_1 >= min_caption)
        & (sim.sim_direction >= min_direction)
    )


def pass_rates(
    sim: Similarities, *, min_image: float, min_caption: float, min_direction: float
) -> dict[str, float]:
    """The share of pairs that meet each criterion on its own, and all of them."""
    met = {
        "image": sim.sim_image >= min_image,
        "caption 0": sim.sim_0 >= min_caption,
        "caption 1": sim.sim_1 >= min_caption,
        "direction": sim.sim_direction >= min_direction,
    }
    met["all"] = torch.stack(list(met.values())).all(0)
    return {name: x.float().mean().item() for name, x in met.items()}


def best(sim: Similarities, keep: int, **thresholds: float) -> list[int]:
    """Indices of at most `keep` candidates of one caption pair that pass, by directional similarity, best first."""
    good = passes(sim, **thresholds).nonzero().flatten()
    return good[sim.sim_direction[good].argsort(descending=True)][:keep].tolist()
