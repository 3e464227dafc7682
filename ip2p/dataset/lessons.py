"""What stage 4 learns from: latents and texts of pairs, encoded once and kept on disk, or augmented and
encoded anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from tqdm.auto import tqdm

from ip2p.common.diffusion import embed
from ip2p.common.durable import remove_unfinished, save_tensors
from ip2p.common.images import as_tensor, fit

SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


def may_mirror(pair: dict) -> bool:
    """Nothing in the words of a pair speaks of left or right."""
    words = " ".join([pair["edit_prompt"], pair["original_prompt"], pair["edited_prompt"]])
    return SIDES.search(words) is None


@torch.no_grad()
def posteriors(pipe, images: torch.Tensor, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (which is the mode) and standard deviation of the latents, (n, c, h, w) each, of images (n, 3, H,
    W) in [0, 1]."""
    means = []
    stds = []
    for part in images.split(batch):
        pictures = part.to(pipe.vae.device) * 2 - 1
        posterior = pipe.vae.encode(pictures).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds)


class Encoded(NamedTuple):
    """What the frozen encoders make of n pairs."""

    source: torch.Tensor  # (n, c, h, w): the mode of the original image's latents
    mean: torch.Tensor  # (n, c, h, w): of the edited image's latents
    std: torch.Tensor  # (n, c, h, w)
    text: torch.Tensor  # (n, T, d): features of the instruction


class Cache:
    """All pairs encoded, computed once and kept in safetensors files of ROWS pairs each in `folder`, from
    which lessons are read when they are needed: "source", "mean" and "std" (n, 2, c, h, w), as they are and
    mirrored, and "text" (n, T, d). Stopped at any moment, it goes on with the next file."""

    ROWS = 256

    def __init__(self, pipe, pairs: list[dict], folder: Path, size: int):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder, "*.safetensors")
        self.files = []
        starts = range(0, len(pairs), self.ROWS)
        for start in tqdm(starts, desc="encoding lessons", delay=2, mininterval=2.0):
            path = folder / f"{start:08}.safetensors"
            if not path.exists():
                of_file = pairs[start : start + self.ROWS]
                save_tensors(encode_both_ways(pipe, of_file, size), path)
            self.files.append(safe_open(path, "pt"))

    def take(self, lessons: list[int], mirror: list[bool]) -> Encoded:
        return together(list(map(self.read, lessons, mirror)))

    def read(self, number: int, mirrored: bool) -> Encoded:
        """One lesson, n = 1."""
        file = self.files[number // self.ROWS]
        row = number % self.ROWS
        way = int(mirrored)
        tensors = {"text": file.get_slice("text")[row : row + 1]}
        for name in ("source", "mean", "std"):
            both_ways = file.get_slice(name)
            tensors[name] = both_ways[row : row + 1, way : way + 1].squeeze(1)
        return Encoded(**tensors)


def together(parts: list[Encoded]) -> Encoded:
    """One after the other."""
    columns = zip(*parts, strict=True)
    return Encoded(*map(torch.cat, columns))


def fitted(pair: dict, size: int) -> torch.Tensor:
    """The two pictures of a pair, (2, 3, size, size) in [0, 1]; of others the square in their middle. Raises
    ValueError if they differ in size."""
    original = pair["original_image"]
    edited = pair["edited_image"]
    if original.size != edited.size:
        name = getattr(original, "filename", "") or repr(pair["edit_prompt"])
        sizes = "{} x {} and {} x {}".format(*original.size, *edited.size)
        raise ValueError(f"{name} the two pictures of the pair differ in size, {sizes}")
    square = (size, size)
    return as_tensor([fit(original, square), fit(edited, square)])


def encode_both_ways(pipe, pairs: list[dict], size: int) -> dict[str, torch.Tensor]:
    """The tensors of a file of the Cache."""
    sources, means, stds = [], [], []
    for start in range(0, len(pairs), 32):  # at 512 px all of a file would take gigabytes
        pictures = [fitted(pair, size) for pair in pairs[start : start + 32]]
        original, edited = torch.stack(pictures, 1)  # (n, 3, size, size) each
        source, _ = posteriors(pipe, and_mirrored(original))
        mean, std = posteriors(pipe, and_mirrored(edited))
        sources.append(side_by_side(source))
        means.append(side_by_side(mean))
        stds.append(side_by_side(std))
    text = embed(pipe, [pair["edit_prompt"] for pair in pairs]).cpu()
    return {"source": torch.cat(sources), "mean": torch.cat(means), "std": torch.cat(stds), "text": text}


def and_mirrored(images: torch.Tensor) -> torch.Tensor:
    """(n, 3, H, W) -> (2n, 3, H, W): first as they are, then mirrored."""
    return torch.cat([images, images.flip(-1)])


def side_by_side(latents: torch.Tensor) -> torch.Tensor:
    """Latents of `and_mirrored`, (2n, c, h, w) -> (n, 2, c, h, w)."""
    return torch.stack(latents.chunk(2), 1).cpu()


def paired_augmentation(
    pair: torch.Tensor, generator: torch.Generator, size: int, larger: float = 1.125, flip: bool = True
) -> torch.Tensor:
    """A random size, crop and mirror image, the same for both pictures of a pair: (2, 3, H, H) in [0, 1] ->
    (2, 3, size, size). The side before cropping is between `size` and `larger` times that. No `flip` where
    the pair may not be mirrored (`may_mirror`)."""
    zoom, y, x, mirror = torch.rand(4, generator=generator).tolist()
    side = round(size * (1 + zoom * (larger - 1)))
    if side != pair.shape[-1]:
        pair = F.interpolate(pair, (side, side), mode="bicubic", antialias=True, align_corners=False)
        pair = pair.clamp(0, 1)
    top = int(y * (side - size + 1))
    left = int(x * (side - size + 1))
    pair = pair[..., top : top + size, left : left + size]
    return pair.flip(-1) if flip and mirror < 0.5 else pair


def forget_cache(folder: Path) -> None:
    """Delete the files of a Cache in `folder`, which knows pairs by their numbers alone."""
    for path in folder.glob(f"{8 * '[0-9]'}.safetensors"):
        path.unlink()


class Lessons:
    """Batches of pairs, ready for the loss. cache: None means that pictures are augmented, and so encoded
    anew."""

    def __init__(self, pipe, pairs: list[dict], size: int, cache: Cache | None):
        self.pipe, self.pairs, self.size, self.cache = pipe, pairs, size, cache
        self.mirrorable = list(map(may_mirror, pairs))
        self.weights = torch.tensor([pair.get("weight", 1.0) for pair in pairs])  # (n,)

    def batch(self, numbers: list[int], seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Conditioning latents (the mode, unscaled), target latents (a sample, scaled) and texts of pairs by
        their numbers. All chance of a lesson comes from its own seed, so that its batch does not matter."""
        device = self.pipe.device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        encode = self.augmented if self.cache is None else self.cached
        encoded = encode(numbers, generators)
        shape = encoded.mean.shape[1:]  # (c, h, w)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        source, mean, std, text = (x.to(device) for x in encoded)
        target = mean + std * noise.to(device)
        return source, target * self.pipe.vae.config.scaling_factor, text

    def cached(self, numbers: list[int], generators: list[torch.Generator]) -> Encoded:
        """Mirrored at random, where they may be."""
        mirror = []
        for number, generator in zip(numbers, generators, strict=True):
            heads = self.mirrorable[number] and torch.rand((), generator=generator).item() < 0.5
            mirror.append(heads)
        return self.cache.take(numbers, mirror)

    def augmented(self, numbers: list[int], generators: list[torch.Generator]) -> Encoded:
        """Resized, cropped and mirrored at random, to (B, 3, size, size) each, and encoded: latents (B, c, h,
        w), texts (B, T, d), for B numbers and as many generators."""
        pairs = [self.pairs[number] for number in numbers]
        pictures = []
        for number, pair, generator in zip(numbers, pairs, generators, strict=True):
            flip = self.mirrorable[number]
            pictures.append(paired_augmentation(fitted(pair, self.size), generator, self.size, flip=flip))
        original, edited = torch.stack(pictures, 1)  # (B, 3, H, W) each
        means, stds = posteriors(self.pipe, torch.cat([original, edited]))
        source, mean = means.chunk(2)
        _, std = stds.chunk(2)
        text = embed(self.pipe, [pair["edit_prompt"] for pair in pairs])
        return Encoded(source, mean, std, text)
