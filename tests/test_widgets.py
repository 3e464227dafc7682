"""The sliders of notebooks 00 and 05, on a tiny seeded editor: its controls, its messages, its pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p.editing import Editor
from ip2p.profiles import get_profile
from ip2p.training import new_editor
from ip2p.widgets import EditExplorer, enlarged


@pytest.fixture(scope="module")
def editor(tiny_pipe, tmp_path_factory):
    """Widened as stage 4 widens it, but the new channels are not zero, so that the input picture matters."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipe.save_pretrained(folder)
    pipe = new_editor(get_profile("mini", text_to_image=str(folder)))
    with torch.no_grad():
        pipe.unet.conv_in.weight[:, 4:].normal_(generator=torch.Generator().manual_seed(0))
    return Editor(pipe, guidance_scale=3.0, image_guidance_scale=1.5, steps=3)


@pytest.fixture
def image():
    return Image.radial_gradient("L").resize((48, 48)).convert("RGB")


@pytest.fixture
def explorer(editor, image):
    return EditExplorer(editor, image, "make it day", size=64)


def opened(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    return np.asarray(picture)


def test_it_starts_with_an_edit_at_the_editors_defaults(explorer, editor, image):
    assert explorer.output == editor(image, "make it day", seed=0)
    assert (opened(explorer.before.value) == opened(enlarged(image, 64))).all()
    assert (opened(explorer.after.value) == opened(enlarged(explorer.output, 64))).all()
    assert opened(explorer.after.value).shape == (64, 64, 3)


@pytest.mark.parametrize("control, value, argument", [
    ("guidance_scale", 9.0, "guidance_scale"), ("image_guidance_scale", 0.5, "image_guidance_scale"),
    ("seed", 7, "seed"), ("steps", 5, "num_inference_steps"),
    ("instruction", "make it night", "instruction")])
def test_moving_a_control_edits_with_it(explorer, editor, image, control, value, argument):
    before = explorer.after.value
    getattr(explorer, control).value = value
    asked = {"instruction": "make it day", "seed": 0} | {argument: value}
    assert explorer.output == editor(image, **asked)
    assert explorer.after.value != before
    assert explorer.progress.value == explorer.progress.max == asked.get("num_inference_steps", 3)
    assert not explorer.button.disabled


def test_the_picture_appears_while_it_is_painted(explorer):
    seen = []
    explorer.after.observe(lambda change: seen.append(change["new"]), "value")
    explorer.seed.value = 1
    assert len(set(seen)) >= explorer.steps.value  # a preview a step, the last one the picture itself


def test_an_empty_instruction_is_one_sentence_and_keeps_the_picture(explorer):
    output, picture = explorer.output, explorer.after.value
    explorer.instruction.value = "   "
    assert explorer.message.value.startswith("The instruction is empty;")
    assert "\n" not in explorer.message.value
    assert explorer.output is output and explorer.after.value == picture
    explorer.button.click()
    assert explorer.message.value.startswith("The instruction is empty;")
    explorer.instruction.value = "make it night"
    assert explorer.message.value.startswith("Done") and explorer.output is not output


def test_any_other_failure_is_told_too(explorer, editor, monkeypatch):
    picture = explorer.after.value
    monkeypatch.setattr(editor, "pipe", None)
    explorer.seed.value = 2
    assert "AttributeError" in explorer.message.value and explorer.after.value == picture
    assert not explorer.button.disabled


def test_the_same_settings_are_not_painted_twice(explorer):
    output = explorer.output
    explorer.button.click()
    assert explorer.output is output and "same" in explorer.message.value


def test_a_page_without_a_kernel_shows_a_picture(explorer, editor, image):
    data = explorer._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
    shown = opened(base64.b64decode(data["image/png"]))
    assert shown.shape[1] > 300 and shown[..., :3].std() > 1
    texts = [t.get_text() for axes in explorer.figure().axes for t in [axes.title, *axes.texts]]
    assert "s_T = 3, s_I = 1.5, seed 0, 3 steps" in texts
    empty = EditExplorer(editor, image, "", size=64)  # nothing to show but the input and the reason
    assert empty.output is None and empty.message.value.startswith("The instruction is empty;")
    assert "image/png" in empty._repr_mimebundle_()


def test_scales_outside_the_usual_range_are_valid(editor, image):
    scales = {"guidance_scale": -2.0, "image_guidance_scale": 9.0}
    explorer = EditExplorer(editor, image, "make it day", size=64, **scales)
    assert explorer.output == editor(image, "make it day", **scales)


def test_frames_follow_the_slider_and_leave_a_labelled_sheet():
    from ip2p.widgets import Frames

    frames = Frames({f"p = {i}": Image.new("RGB", (40, 20), (i, 0, 0)) for i in range(3)}, "at")
    first = frames.picture.value
    frames.slider.value = 2
    assert frames.picture.value != first
    assert Image.open(io.BytesIO(frames.picture.value)).getpixel((0, 0)) == (2, 0, 0)
    sheet = Image.open(io.BytesIO(base64.b64decode(frames._repr_mimebundle_()["image/png"])))
    assert sheet.size == (40 + 96, 60) and sheet.getpixel((100, 25)) == (1, 0, 0)
