"""Pictures in and out: files, PIL images and tensors."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError


def open_image(path: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """An image file, or an open one that is called `name`, as upright RGB; its `filename` is kept.

    Raises ValueError with one sentence if it is missing or no image."""
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise ValueError(f"there is no image {path}; check the path")
    name = name or str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = to_rgb(opened)
                image.filename = name
                return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name} is too large an image; scale it down first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ValueError(f"{name} cannot be read as an image{why}; save it again as PNG or JPEG") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, transparency over white, RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: to 8, which convert() would cut off instead
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, upright RGB, scaled to `size`."""
    return ImageOps.fit(to_rgb(image), size, Image.Resampling.LANCZOS)


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float [-1, 1], same shape."""
    return pictures.float() / 127.5 - 1


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] -> uint8 [0, 255], same shape."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def encode_image(image: torch.Tensor) -> dict:
    """(3, H, W), float in [0, 1] or uint8 -> {"bytes": WebP, "path": None}."""
    data = io.BytesIO()
    to_pil(image).save(data, "WEBP", quality=92, method=6)
    return {"bytes": data.getvalue(), "path": None}


def to_pil(image: torch.Tensor) -> Image.Image:
    """(3, H, W), float in [0, 1] or uint8 -> PIL."""
    image = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def decode_image(cell: dict) -> Image.Image:
    return Image.open(io.BytesIO(cell["bytes"])).convert("RGB")


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255


def as_array(picture) -> np.ndarray:
    """A PIL image, a float tensor (3, h, w) in [0, 1] or an array (h, w, 3) -> (h, w, 3) uint8."""
    if hasattr(picture, "convert"):
        return np.asarray(picture.convert("RGB"))
    if hasattr(picture, "detach"):
        return (picture.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return np.asarray(picture)
