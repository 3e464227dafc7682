"""Stage 5 on a tiny seeded editor."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from PIL import Image
from torch.testing import assert_close

from ip2p.common.diffusion import new_scheduler
from ip2p.common.images import fit, open_image
from ip2p.editing import Editor, guided_eps, load_editor
from ip2p.paths import DATA
from ip2p.teaching.history import EditHistory
from ip2p.training import widen_input


@pytest.fixture(scope="module")
def editor(tiny_pipe):
    unet = widen_input(copy.deepcopy(tiny_pipe.unet))
    torch.manual_seed(1)
    torch.nn.init.normal_(unet.conv_in.weight, std=0.1)
    return Editor(
        StableDiffusionInstructPix2PixPipeline(
            vae=tiny_pipe.vae,
            text_encoder=tiny_pipe.text_encoder,
            tokenizer=tiny_pipe.tokenizer,
            unet=unet,
            scheduler=copy.deepcopy(tiny_pipe.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        guidance_scale=3.0,
        image_guidance_scale=1.5,
        steps=4,
    )


def picture(seed=0, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


SCHEDULERS = [k.name for k in KarrasDiffusionSchedulers if k.name != "EDMEulerScheduler"]


def stock(editor, s_t, s_i, scheduler=None, seed=5):
    """The same edit by diffusers' pipeline."""
    pipe = copy.copy(editor.pipe)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = new_scheduler(pipe.scheduler, scheduler)
    if scheduler == "DPMSolverSDEScheduler":
        pipe.scheduler.noise_sampler_seed = [seed]
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, 8, 8, generator=generator)  # the generator goes on with the ancestral noise
    return pipe(
        "make it day",
        image=picture(),
        guidance_scale=s_t,
        image_guidance_scale=s_i,
        latents=latents,
        num_inference_steps=4,
        generator=generator,
    ).images[0]


@pytest.mark.parametrize("s_t, s_i", [(3.0, 1.5), (7.5, 1.0), (1.5, 2.5), (1.5, 1.5)])
def test_equals_the_stock_pipeline_at_equal_noise(editor, s_t, s_i):
    ours = editor(picture(), "make it day", guidance_scale=s_t, image_guidance_scale=s_i, seed=5)
    assert difference(ours, stock(editor, s_t, s_i)) <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_equals_the_stock_pipeline_and_keeps_noise_with_its_image(editor, scheduler):
    images, texts = [picture(1), picture()], ["at night", "make it day"]
    alone = editor(
        picture(), "make it day", guidance_scale=3.0, image_guidance_scale=1.5, seed=5, scheduler=scheduler
    )
    assert difference(alone, stock(editor, 3.0, 1.5, scheduler)) <= 1
    together = editor.many(
        images, texts, seeds=[9, 5], guidance_scale=3.0, image_guidance_scale=1.5, scheduler=scheduler
    )
    assert difference(alone, together[1]) <= 1
    assert difference(alone, picture()) > 5  # a picture, and not the input handed through


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_last_steps_predicted_latent_is_what_the_sampler_ends_with(editor, kind):
    pipe = copy.copy(editor.pipe)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    steps = list(Editor(pipe, 3.0, 1.5, 4).sample([picture()], ["make it day"]))
    assert_close(steps[-1].x0, steps[-1].z, atol=2e-3, rtol=1e-2)
    assert [step.index for step in steps] == [0, 1, 2, 3] and steps[0].of == 4


def test_what_cancels_in_eq_3_is_not_computed_and_changes_nothing(editor, monkeypatch):
    rows, forward = [], editor.pipe.unet.forward
    monkeypatch.setattr(
        editor.pipe.unet, "forward", lambda x, *a, **k: (rows.append(len(x)), forward(x, *a, **k))[1]
    )
    for (s_t, s_i), n in {
        (3, 1.5): 3,
        (3, 1): 2,
        (2, 2): 2,
        (0, 2): 2,
        (1, 1): 1,
        (0, 0): 1,
        (0, 1): 1,
    }.items():
        edit = {"guidance_scale": s_t, "image_guidance_scale": s_i, "num_inference_steps": 1}
        few = list(editor.sample([picture()], ["make it day"], **edit))[-1]
        everything = list(editor.sample([picture()], ["make it day"], **edit, all_predictions=True))[-1]
        assert rows == [n, 3], f"at s_T = {s_t}, s_I = {s_i}"
        assert_close(few.guided, everything.guided)
        assert (few.eps is None) == (s_i == 1) and (few.eps_both is None) == (s_t == 0)
        assert_close(
            everything.guided, guided_eps(everything.eps, everything.eps_image, everything.eps_both, s_t, s_i)
        )
        rows.clear()
    mixed = editor.many(
        [picture()] * 3,
        ["make it day"] * 3,
        guidance_scale=[3, 2, 1],
        image_guidance_scale=[1, 2, 1],
        seeds=[4] * 3,
    )
    for image, s_t, s_i in zip(mixed, (3, 2, 1), (1, 2, 1), strict=True):
        assert (
            difference(
                image, editor(picture(), "make it day", guidance_scale=s_t, image_guidance_scale=s_i, seed=4)
            )
            <= 1
        )


def test_who_stops_asking_stops_the_work(editor):
    steps = editor.sample([picture()], ["make it day"])
    next(steps)
    steps.close()  # and another edit is not disturbed by the half one
    assert (
        difference(editor(picture(), "make it day", seed=5, guidance_scale=3.0), stock(editor, 3.0, 1.5)) <= 1
    )


def test_outside_of_the_mask_every_pixel_stays(editor):
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    free, kept = (np.asarray(editor(picture(), "make it day", seed=5, mask=m)) for m in (None, mask))
    assert (kept[:, 16:] == np.asarray(picture())[:, 16:]).all()
    assert np.abs(kept[:, :16].astype(int) - np.asarray(picture())[:, :16]).mean() > 5
    everything = editor(picture(), "make it day", seed=5, mask=Image.new("L", (32, 32), 255))
    assert difference(everything, free) <= 1


def test_other_sizes(editor):
    assert editor(picture(size=(64, 32)), "make it day", size=(48, 32)).size == (48, 32)
    assert editor(picture(size=(300, 100)), "make it day", size="keep").size == (56, 16)
    batch = [picture(1, (64, 32)), picture(2, (128, 64))]
    assert [x.size for x in editor.many(batch, ["make it day"] * 2, size="keep")] == [(48, 24)] * 2
    for size, message in (((50, 32), "multiples of 8"), ((0, 32), "multiples of 8"), ("keep", "too long")):
        with pytest.raises(ValueError, match=message):
            editor(picture(size=(200, 20)), "make it day", size=size)
    with pytest.raises(ValueError, match="one size"):
        editor.many([picture(), picture(size=(64, 32))], ["make it day"] * 2, size="keep")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 8), (3, 5000)])
def test_absurd_sizes_get_an_answer(editor, size):
    assert editor(Image.new("RGB", size, "red"), "make it day", num_inference_steps=1).size == (32, 32)


def test_edits_of_edits_can_be_taken_back(editor):
    history = EditHistory(editor, picture())
    first = history.edit("make it day", seed=1)
    second = history.edit("at night", seed=2)
    assert difference(second, editor(first, "at night", seed=2)) == 0
    assert history.undo() is first
    assert history.undo() == picture() and history.undo() == picture(), "the input picture stays"
    history.add({"instruction": "make it day", "seed": 1}, first)
    assert history.picture is first and history.here.settings["seed"] == 1


def test_what_does_not_belong_together_is_said_before_painting(editor):
    for wrong in ({"seeds": [1, 2, 3]}, {"masks": [Image.new("L", (8, 8))] * 2}):
        with pytest.raises(ValueError, match="for 1 images"):
            editor.many([picture()], ["make it day"], **wrong)


def test_an_unknown_scheduler_is_said_so(editor):
    with pytest.raises(ValueError, match="EulerAncestralDiscreteScheduler"):
        editor(picture(), "make it day", scheduler="fast")


def test_any_pair_of_scales_is_valid_and_never_silently_off(editor):
    a, b, c = torch.randn(3, 2, 4, 8, 8)
    assert_close(guided_eps(a, b, c, 0.0, 0.0), a)
    assert_close(guided_eps(a, b, c, 0.0, 1.0), b)
    assert_close(guided_eps(a, b, c, 1.0, 1.0), c)
    assert_close(guided_eps(a, b, c, 0.5, -2.0), a - 2 * (b - a) + 0.5 * (c - b))
    pictures = [
        editor(picture(), "make it day", guidance_scale=s_t, image_guidance_scale=s_i)
        for s_t, s_i in ((0.5, 0.5), (0.5, 0.9), (0.9, 0.5), (-1.0, 0.5), (3.0, 0.5))
    ]
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"instruction": " "}, "instruction is empty"),
        ({"num_inference_steps": 0}, "at least 1"),
    ],
)
def test_bad_arguments(editor, arguments, message):
    with pytest.raises(ValueError, match=message):
        editor(picture(), **{"instruction": "make it day", **arguments})


def test_compiled_edits_are_the_same_edits(editor):
    fast = Editor(copy.copy(editor.pipe), *editor.defaults)
    plain = editor(picture(), "make it day", seed=5)
    assert difference(fast.compile()(picture(), "make it day", seed=5), plain) <= 1
    assert fast.compiled is not None
    two = fast.many(
        [picture(), picture(1)], ["make it day"] * 2, seeds=[5, 6]
    )  # another batch runs as before
    assert difference(two[0], plain) <= 1


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 101, -1e30])
@pytest.mark.parametrize("name", ["guidance_scale", "image_guidance_scale"])
def test_a_scale_that_would_paint_nothing_is_refused(editor, name, scale):
    with pytest.raises(ValueError, match=f"^{name} is .*; take a number from -100 to 100$"):
        editor(picture(), "make it day", **{name: scale})
    with pytest.raises(ValueError, match="take a number"):
        editor.many([picture()] * 2, ["make it day"] * 2, **{name: [1.0, scale]})


@pytest.mark.parametrize("scale", [-100, 100])
def test_the_largest_scales_still_paint(editor, scale):
    extreme = editor(picture(), "make it day", guidance_scale=scale, image_guidance_scale=scale)
    assert np.asarray(extreme).std() > 1


def left(mode="L", size=(32, 32), free=255, kept=0):
    mask = Image.new(mode, size, kept)
    mask.paste(free, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        left("RGBA", free=(255, 255, 255, 255), kept=(0, 0, 0, 0)),
        left("L", free=1),
        left("1", free=1),
        left("L", size=(128, 128)),
    ],
    ids=["white strokes on nothing", "zeros and ones", "one bit", "of another resolution"],
)
def test_masks_of_all_kinds_mean_the_same(editor, mask):
    usual = editor(picture(), "make it day", seed=5, mask=left())
    seen = editor(picture(), "make it day", seed=5, mask=mask)
    assert (np.asarray(seen)[:, 16:] == np.asarray(picture())[:, 16:]).all()
    assert difference(seen, usual) == 0


def test_a_mask_is_cut_as_its_picture_is(editor):
    wide = picture(size=(64, 32))
    mask = left(size=(64, 32))  # the left half of the square in the middle
    kept = np.asarray(editor(wide, "make it day", mask=mask))
    assert (kept[:, 16:] == np.asarray(wide)[:, 32:48]).all()
    upright = Image.Exif()
    upright[0x0112] = 6
    lying = picture(size=(32, 64))
    lying.info["exif"] = upright.tobytes()
    assert editor(lying, "make it day", mask=mask, size="keep").size == (48, 24)


@pytest.mark.parametrize(
    "mask, message",
    [
        (left(size=(64, 32)), "the mask is 64 x 32 and the image 32 x 32; give a mask of the same shape"),
        (Image.new("L", (32, 32)), "lets nothing change"),
        (Image.new("RGBA", (32, 32)), "lets nothing change"),
        (left("RGBA", free=(0, 0, 0, 255), kept=(0, 0, 0, 0)), "lets nothing change"),
    ],
    ids=["another shape", "black", "nothing painted", "black strokes on nothing"],
)
def test_a_mask_that_cannot_be_meant_is_refused(editor, mask, message):
    with pytest.raises(ValueError, match=message):
        editor(picture(), "make it day", mask=mask)


# ------------------------------------------------------------------------------------------- number formats


def test_an_editor_is_loaded_where_and_in_what_format_it_is_asked_for():
    with pytest.raises(ValueError, match="no device 'tpu'"):
        load_editor("mini", "tpu")
    with pytest.raises(ValueError, match="no number format 'int8'"):
        load_editor("mini", "cpu", "int8")
    plain = load_editor("mini", "cpu")
    assert plain.pipe.device.type == "cpu"
    assert {plain.pipe.unet.dtype, plain.pipe.vae.dtype, plain.pipe.text_encoder.dtype} == {torch.float32}


def test_bfloat16_paints_nearly_the_same_picture():
    """Measured on the bundled editor: a mean difference of 0.27 to 0.66 of 255, the largest 7."""
    cat = open_image(DATA / "images" / "cat.png")
    plain, rough = (load_editor("mini", "cpu", dtype) for dtype in ("float32", "bfloat16"))
    assert {rough.pipe.unet.dtype, rough.pipe.vae.dtype} == {torch.bfloat16}
    mask = left(size=cat.size)
    for options in ({}, {"mask": mask}, {"scheduler": "EulerDiscreteScheduler"}):
        asked = {"num_inference_steps": 6, **options}
        a, b = (np.asarray(e(cat, "make it night", **asked), float) for e in (plain, rough))
        assert 0 < np.abs(a - b).mean() < 2
        assert np.abs(a - np.asarray(fit(cat, (a.shape[1], a.shape[0])))).mean() > 10, "night fell"
    latents = next(rough.sample([cat], ["make it night"]))
    assert {latents.z.dtype, latents.x0.dtype, latents.guided.dtype} == {torch.float32}
