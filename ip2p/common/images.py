"""The one place where files, PIL images and tensors meet.

A picture from outside may be of any kind: 16 bits a pixel, transparent, lying on its side. `to_rgb` and
`to_mask` make it what the models see, and everything that reads pictures goes through them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# ------------------------------------------------------------------------------------------- files

# Named wherever a file is opened: Pillow knows more, and runs Ghostscript on EPS.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")


def open_image(path: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """An image file, or an open one that is called `name`, as upright RGB; its `filename` is kept.

    Raises ValueError with one sentence if it is missing or no image.
    """
    return _read(path, name, to_rgb)


def open_mask(path: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """An image file as a mask (see `to_mask`). Raises ValueError as `open_image` does."""
    return _read(path, name, to_mask)


def _read(path: str | Path | BinaryIO, name: str | None, convert: Callable) -> Image.Image:
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise ValueError(f"there is no image {path}; check the path")
    if name is None:
        name = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=known_formats()) as opened:
                image = convert(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name} is too large an image; scale it down first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ValueError(f"{name} cannot be read as an image{why}; save it again as PNG or JPEG") from None
    image.filename = name
    return image


@cache
def known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def encode_image(image: torch.Tensor) -> dict:
    """(3, H, W), float in [0, 1] or uint8 -> {"bytes": WebP, "path": None}, a cell of a data set."""
    data = io.BytesIO()
    to_pil(image).save(data, "WEBP", quality=80, method=6)
    return {"bytes": data.getvalue(), "path": None}


def decode_image(cell: dict | bytes, name: str = "a picture of the data set") -> Image.Image:
    """A cell of a data set, {"bytes": an image file} or these bytes -> upright RGB. Raises ValueError as
    `open_image` does, with `name`."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise ValueError(f"{name} is no picture, but {str(cell)[:80]}")
    return open_image(io.BytesIO(data), name)


# ------------------------------------------------------------------------------------------- PIL to PIL


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as upright RGB, transparency over white.

    Raises ValueError if its pixels are no numbers or its colours none that Pillow can convert.
    """
    image = ImageOps.exif_transpose(image)
    return _over(_eight_bits(image), "white").convert("RGB")


def to_mask(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as an upright mask, mode L: 255 where a picture may change, 0 where it may not.

    What is transparent may not change, whether strokes are painted on it or it was cut away. A mask whose
    largest value is 1 is one of zeros and ones.
    """
    image = ImageOps.exif_transpose(image)
    grey = _over(_eight_bits(image), "black").convert("L")
    if grey.getextrema()[1] == 1:
        return grey.point(lambda value: 255 * value)
    return grey


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of more than 8 bits a pixel as 8 bits, which Pillow's convert() would cut off instead of
    scale.

    The pixels say what their range is: 0 to 1 (of floats), 0 to 255, 0 to 65535, or else from their least to
    their greatest value.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the picture has pixels that are no numbers")
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        values = values - low
        largest = max(high - low, 1e-9)
    elif high > 255:
        largest = 65535
    elif high > 1 or image.mode != "F":
        largest = 255
    else:
        largest = 1
    return Image.fromarray((values * (255 / largest)).round().astype(np.uint8))


def _over(image: Image.Image, colour: str) -> Image.Image:
    """A picture over one of a single colour, if parts of it are transparent."""
    if not image.has_transparency_data:
        return image
    if image.mode == "La":  # Pillow converts premultiplied grey to nothing but LA
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, upright RGB, scaled to `size`."""
    return ImageOps.fit(to_rgb(image), size, Image.Resampling.LANCZOS)


# ------------------------------------------------------------------------------------------- PIL to tensors


def as_uint8(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n, 3, H, W) uint8."""
    arrays = [np.asarray(to_rgb(image)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def as_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n, 3, H, W) in [0, 1]."""
    return as_uint8(images).float() / 255


def mask_tensor(masks: Sequence[Image.Image]) -> torch.Tensor:
    """Masks of mode L and one size -> (n, 1, H, W) in [0, 1]."""
    arrays = [np.asarray(mask) for mask in masks]
    return torch.from_numpy(np.stack(arrays))[:, None] / 255


# ------------------------------------------------------------------------------------------- tensors


def to_pil(image: torch.Tensor) -> Image.Image:
    """(3, H, W) or (4, H, W), float in [0, 1] or uint8 -> RGB or RGBA."""
    return Image.fromarray(quantise(image).permute(1, 2, 0).cpu().numpy())


def quantise(pictures: torch.Tensor) -> torch.Tensor:
    """float [0, 1] -> uint8 [0, 255], same shape; uint8 stays as it is."""
    if pictures.dtype == torch.uint8:
        return pictures
    return (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8)


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] -> float [-1, 1], same shape."""
    return pictures.float() / 127.5 - 1


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] -> uint8 [0, 255], same shape."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
