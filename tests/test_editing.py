"""Stage 5 on a tiny seeded editor."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from torch.testing import assert_close

from ip2p.editing import Editor, guided_eps, open_image
from ip2p.training import widen_input


@pytest.fixture(scope="module")
def editor(tiny_pipe):
    unet = widen_input(copy.deepcopy(tiny_pipe.unet))
    torch.manual_seed(1)
    torch.nn.init.normal_(unet.conv_in.weight, std=0.1)
    return Editor(StableDiffusionInstructPix2PixPipeline(
        vae=tiny_pipe.vae, text_encoder=tiny_pipe.text_encoder, tokenizer=tiny_pipe.tokenizer, unet=unet,
        scheduler=copy.deepcopy(tiny_pipe.scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False), guidance_scale=3.0, image_guidance_scale=1.5, steps=4)


def picture(seed=0, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.mark.parametrize("s_t, s_i", [(3.0, 1.5), (7.5, 1.0), (1.5, 2.5)])
def test_equals_the_stock_pipeline_at_equal_noise(editor, s_t, s_i):
    pipe = editor.pipe
    pipe.set_progress_bar_config(disable=True)
    ours = editor(picture(), "make it day", guidance_scale=s_t, image_guidance_scale=s_i, seed=5)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 8, 8, generator=generator)  # the generator goes on with the ancestral noise
    stock = pipe("make it day", image=picture(), guidance_scale=s_t, image_guidance_scale=s_i, latents=latents,
                 num_inference_steps=4, generator=generator).images[0]
    assert difference(ours, stock) <= 1


def test_any_pair_of_scales_is_valid_and_never_silently_off(editor):
    a, b, c = torch.randn(3, 2, 4, 8, 8)
    assert_close(guided_eps(a, b, c, 0.0, 0.0), a)
    assert_close(guided_eps(a, b, c, 0.0, 1.0), b)
    assert_close(guided_eps(a, b, c, 1.0, 1.0), c)
    assert_close(guided_eps(a, b, c, 0.5, -2.0), a - 2 * (b - a) + 0.5 * (c - b))
    pictures = [editor(picture(), "make it day", guidance_scale=s_t, image_guidance_scale=s_i)
                for s_t, s_i in ((0.5, 0.5), (0.5, 0.9), (0.9, 0.5), (-1.0, 0.5), (3.0, 0.5))]
    for i, one in enumerate(pictures):
        assert all(difference(one, other) > 0 for other in pictures[:i])


def test_noise_belongs_to_the_image_and_not_to_the_batch(editor):
    images, texts = [picture(i) for i in range(3)], ["make it day", "a blue dog", "at night"]
    together = editor.many(images, texts, seeds=[7, 8, 9], guidance_scale=[1.0, 2.0, 3.0])
    for i in range(3):
        alone = editor(images[i], texts[i], seed=7 + i, guidance_scale=[1.0, 2.0, 3.0][i])
        assert difference(alone, together[i]) <= 1


def test_callback_sees_every_step(editor):
    seen = []
    editor(picture(), "make it day", callback=lambda step, image: seen.append((step, image.size)))
    assert seen == [(i, (32, 32)) for i in range(4)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_pictures_of_every_mode_and_shape(editor, tmp_path, mode):
    image = Image.new("I;16", (50, 20), 30000) if mode == "I;16" else picture(size=(50, 20)).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    image.save(path)
    opened = open_image(path)
    assert opened.mode == "RGB" and opened.size == (50, 20)
    if mode == "I;16":  # scaled, not cut off at 255
        assert abs(opened.getpixel((0, 0))[0] - 30000 / 257) <= 1
    assert editor(opened, "make it day", num_inference_steps=1).size == (32, 32)


def test_rotated_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(size=(40, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (20, 40)


def test_what_is_no_image_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(tmp_path / "x.png")
    with pytest.raises(ValueError, match="there is no image"):
        open_image(tmp_path / "y.png")
    picture(size=(100, 100)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ValueError, match="too large"):
        open_image(tmp_path / "big.png")


@pytest.mark.parametrize("arguments, message", [({"instruction": " "}, "instruction is empty"),
                                                ({"num_inference_steps": 0}, "at least 1")])
def test_bad_arguments(editor, arguments, message):
    with pytest.raises(ValueError, match=message):
        editor(picture(), **{"instruction": "make it day", **arguments})
