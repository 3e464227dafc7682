"""Pictures and masks of every kind that people have, on their way to the models."""

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ip2p.common.grids import as_array
from ip2p.common.images import (
    as_tensor,
    as_uint8,
    decode_image,
    encode_image,
    fit,
    open_image,
    open_mask,
    to_float,
    to_mask,
    to_pil,
    to_rgb,
    to_uint8,
)
from ip2p.miniworld.judging import pixels

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def greys(dtype, low, high):
    if np.issubdtype(dtype, np.floating):
        values = st.floats(low, high, width=32, allow_nan=False)
    else:
        values = st.integers(low, high)
    return arrays(dtype, SHAPES, elements=values)


def red_of(image):
    return np.asarray(to_rgb(image))[..., 0].astype(float)


# ------------------------------------------------------------------------------------------- pictures


@given(arrays(np.uint8, SHAPES.map(lambda shape: (*shape, 3))))
def test_an_rgb_picture_keeps_every_bit(array):
    image = Image.fromarray(array)
    assert np.array_equal(to_rgb(image), array)
    assert np.array_equal(as_array(image), array)
    assert np.array_equal(as_uint8([image])[0].permute(1, 2, 0), array)
    assert to_pil(as_tensor([image])[0]) == image
    assert torch.equal(to_uint8(to_float(as_uint8([image]))), as_uint8([image]))


COLOUR = (200, 100, 50)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA", "I", "F"]
)
def test_an_opaque_picture_of_any_mode_looks_as_pillow_says(mode):
    rgb = Image.new("RGB", (3, 2), COLOUR)
    if mode in ("L", "LA", "PA", "I", "F"):
        rgb = rgb.convert("L")
    seen = to_rgb(rgb.convert(mode))
    assert seen.mode == "RGB" and seen.size == (3, 2)
    wanted = rgb.convert("1") if mode == "1" else rgb
    far = np.abs(np.asarray(seen, int) - np.asarray(wanted.convert("RGB"), int)).max()
    assert far <= (60 if mode == "P" else 4), "at most a rounding, and of a palette its nearest colour"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode):
    if mode in ("P", "L", "RGB"):  # one colour of the file stands for transparent
        image = Image.new(mode, (2, 2), 0)
        image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    else:
        image = Image.new(mode, (2, 2), (0,) * len(Image.new(mode, (1, 1)).getbands()))
    assert (np.asarray(to_rgb(image)) == 255).all()


@given(greys(np.int32, 0, 65535))
def test_grey_of_more_than_8_bits_is_scaled(values):
    largest = 65535 if values.max() > 255 else 255
    wanted = values * (255 / largest)
    assert np.abs(red_of(Image.fromarray(values)) - wanted).max() <= 0.5
    assert np.abs(red_of(Image.fromarray(values.astype(np.uint16))) - wanted).max() <= 0.5  # mode I;16
    big_endian = Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes())
    assert np.abs(red_of(big_endian) - wanted).max() <= 0.5


@given(greys(np.float32, 0, 1))
def test_grey_floats_from_0_to_1_are_scaled(values):
    assert np.abs(red_of(Image.fromarray(values)) - 255 * values).max() <= 0.51


@given(st.one_of(greys(np.int32, -(2**31), 2**31 - 1), greys(np.float32, -1e9, 1e9)))
def test_any_other_range_is_stretched_and_keeps_the_order(values):
    low, high = values.min(), values.max()
    if low >= 0 and high <= 65535:
        return
    seen = red_of(Image.fromarray(values))
    assert seen.min() == 0
    if float(high) - float(low) > 1e-3:
        assert seen.max() == 255, "never a picture that is black all over"
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(seen.reshape(-1)[order]) >= 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(value, tmp_path):
    image = Image.fromarray(np.array([[0, value]], np.float32))
    with pytest.raises(ValueError, match="no numbers"):
        to_rgb(image)
    image.save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="x.tif cannot be read as an image .*no numbers"):
        open_image(tmp_path / "x.tif")


def file_of(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def odd_files():
    """name -> (file, the colour of its upper left corner), 20 px wide and 10 high once it is upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    half = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (10, 0, 20, 10))
    return {
        "16 bits": (file_of(Image.new("I;16", (20, 10), 257 * 100), "PNG"), (100, 100, 100)),
        "transparent": (file_of(half, "PNG"), (255, 255, 255)),
        "on its side": (file_of(Image.new("RGB", (10, 20), "blue"), "PNG", exif=exif), (0, 0, 255)),
    }


@pytest.mark.parametrize("kind", odd_files())
def test_everybody_sees_the_same_of_an_odd_file(kind):
    """The editor, the reader of data sets, the grids and the judge."""
    data, colour = odd_files()[kind]
    upright = open_image(io.BytesIO(data), kind)
    assert upright.size == (20, 10) and upright.getpixel((0, 0)) == colour
    assert decode_image({"bytes": data}) == upright
    raw = Image.open(io.BytesIO(data))
    assert np.array_equal(as_array(raw), upright)
    assert torch.equal(as_uint8([raw]), as_uint8([upright]))
    assert fit(raw, (8, 8)) == fit(upright, (8, 8))
    assert torch.equal(pixels(raw), pixels(upright))


def test_a_cell_of_a_data_set_comes_back():
    picture = torch.linspace(0, 1, 3 * 16 * 16).reshape(3, 16, 16)
    back = as_tensor([decode_image(encode_image(picture))])[0]
    assert (back - picture).abs().mean() < 0.03


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_is_never_run(tmp_path):
    """Pillow would hand it to Ghostscript, whatever the file's name says."""
    assert Image.open(io.BytesIO(EPS)).format == "EPS"
    (tmp_path / "cat.png").write_bytes(EPS)
    for read in (open_image, open_mask):
        with pytest.raises(ValueError, match="cat.png cannot be read as an image; save"):
            read(tmp_path / "cat.png")
    with pytest.raises(ValueError, match="row 3 cannot be read as an image; save"):
        decode_image({"bytes": EPS}, "row 3")


def test_a_bomb_in_a_data_set_does_not_go_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="row 3 is too large an image"):
        decode_image({"bytes": file_of(Image.new("RGB", (20, 10)), "PNG")}, "row 3")


def frames_of(kind, colours=("red", "blue")):
    """A picture of several frames, or pages."""
    first, *others = [Image.new("RGB", (20, 10), colour) for colour in colours]
    return file_of(first, kind, save_all=True, append_images=others)


def turned(number):
    """A red picture with a blue corner, written so that it is upright again if its EXIF is obeyed."""
    upright = Image.new("RGB", (20, 10), "red")
    upright.paste("blue", (0, 0, 8, 8))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of the ways back
    exif = Image.Exif()
    exif[0x0112] = number
    return file_of(upright.transpose(Image.Transpose(back[number])), "PNG", exif=exif)


def sixteen_bits_of_three():
    """A PNG of 16 bits a colour, red, 2 x 1, which Pillow cannot write."""
    rows = b"\0" + 2 * b"\xff\xff\0\0\0\0"
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


RED = (255, 0, 0)
SEEN = {
    "a moving GIF": (lambda: frames_of("GIF"), RED),
    "a moving PNG": (lambda: frames_of("PNG"), RED),
    "a moving WebP": (lambda: frames_of("WEBP"), RED),
    "pages of a TIFF": (lambda: frames_of("TIFF"), RED),
    "an icon of several sizes": (lambda: file_of(Image.new("RGB", (64, 64), "red"), "ICO"), RED),
    "inks": (lambda: file_of(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG"), RED),
    "lines in between": (lambda: file_of(Image.new("RGB", (20, 10), "red"), "JPEG", progressive=True), RED),
    "one pixel": (lambda: file_of(Image.new("RGB", (1, 1), "red"), "PNG"), RED),
    "a line": (lambda: file_of(Image.new("RGB", (3000, 1), "red"), "PNG"), RED),
    "16 bits a colour": (sixteen_bits_of_three, RED),
    "a bitmap": (lambda: file_of(Image.new("RGB", (20, 10), "red"), "BMP"), RED),
    "a portable map": (lambda: file_of(Image.new("RGB", (20, 10), "red"), "PPM"), RED),
    "two bits": (lambda: file_of(Image.new("P", (20, 10)), "PNG", bits=2), (0, 0, 0)),
} | {f"turned, {number}": (partial(turned, number), (0, 0, 255)) for number in range(2, 9)}


@pytest.mark.parametrize("name", SEEN)
def test_a_file_that_people_have_is_seen_as_they_see_it(name):
    make, colour = SEEN[name]
    image = open_image(io.BytesIO(make()), name)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image.getpixel((0, 0)), int) - colour).max() <= 2


def cut(data, share=0.6):
    return data[: int(len(data) * share)]


NOISE = Image.effect_noise((64, 64), 90).convert("RGB")
REFUSED = {
    "nothing": lambda: b"",
    "a page": lambda: b"<!doctype html><html>404</html>",
    "a drawing": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "a document": lambda: b"%PDF-1.4\n%%EOF\n",
    "a film": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0",
    "a picture of a phone": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "half a JPEG": lambda: cut(file_of(NOISE, "JPEG")),
    "half a PNG": lambda: cut(file_of(NOISE, "PNG")),
    "half a WebP": lambda: cut(file_of(NOISE, "WEBP")),
    "half a GIF": lambda: cut(file_of(NOISE, "GIF")),
    "half a TIFF": lambda: cut(file_of(NOISE, "TIFF")),
    "a head alone": lambda: file_of(NOISE, "PNG")[:33],
    "a turned bit": lambda: file_of(NOISE, "PNG").replace(b"IDAT", b"IDAT\xff", 1),
    "a size of nothing": lambda: file_of(NOISE, "BMP")[:18] + bytes(8) + file_of(NOISE, "BMP")[26:],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_whole_picture_is_one_sentence(name):
    with pytest.raises(ValueError, match=f"^{name} cannot be read as an image") as error:
        open_image(io.BytesIO(REFUSED[name]()), name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["", ".", "no/such.png", "https://example.org/cat.png"])
def test_a_path_without_a_picture_is_one_sentence(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for read in (open_image, open_mask):
        with pytest.raises(ValueError, match="there is no image .*; check the path"):
            read(path)


# ------------------------------------------------------------------------------------------- masks


def left_half(mode, black, white):
    mask = Image.new(mode, (8, 4), black)
    mask.paste(white, (0, 0, 4, 4))
    return mask


HALVES = {
    "black and white": left_half("L", 0, 255),
    "one bit": left_half("1", 0, 1),
    "zeros and ones": left_half("L", 0, 1),
    "zeros and ones of 16 bits": Image.fromarray(np.asarray(left_half("L", 0, 1)).astype(np.uint16)),
    "zeros and ones of 32 bits": left_half("I", 0, 1),
    "zeros and ones of floats": left_half("F", 0, 1),
    "16 bits": Image.fromarray(257 * np.asarray(left_half("L", 0, 255)).astype(np.uint16)),
    "in colours": left_half("RGB", (0, 0, 0), (255, 255, 255)),
    "white strokes on nothing": left_half("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
    "white strokes on white nothing": left_half("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
    "white strokes on black": left_half("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    "grey and transparent": left_half("LA", (255, 0), (255, 255)),
}


@pytest.mark.parametrize("name", HALVES)
def test_a_mask_means_what_its_painter_means(name, tmp_path):
    seen = np.asarray(to_mask(HALVES[name]))
    assert (seen[:, :4] == 255).all() and (seen[:, 4:] == 0).all()
    path = tmp_path / ("mask.tif" if HALVES[name].mode in ("I", "F") else "mask.png")
    HALVES[name].save(path)
    assert np.array_equal(open_mask(path), seen)
    assert np.array_equal(to_mask(open_mask(path)), seen)


@given(greys(np.uint8, 0, 255))
def test_a_grey_mask_keeps_every_bit_unless_it_is_of_zeros_and_ones(values):
    wanted = 255 * values if values.max() == 1 else values
    assert np.array_equal(to_mask(Image.fromarray(values)), wanted)
