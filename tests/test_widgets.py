"""The sliders of notebooks 00 and 05, on a tiny seeded editor: its controls, its messages, its pictures; and
the widget that asks which of two edits is better."""

import asyncio
import base64
import io
import os
from datetime import datetime

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from PIL import Image

from ip2p.common.images import fit
from ip2p.dataset.comparisons import Comparisons
from ip2p.distillation import new_student
from ip2p.editing import Editor
from ip2p.fast import SKETCH_STEPS, STUDENT_PREDICTS, Distilled
from ip2p.profiles import get_profile
from ip2p.region import box_mask
from ip2p.teaching.compare import EditComparison, Question, TwoEdits
from ip2p.teaching.explorer import EditExplorer, enlarged
from ip2p.training import new_editor


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


@pytest.mark.parametrize(
    "control, value, argument",
    [
        ("guidance_scale", 9.0, "guidance_scale"),
        ("image_guidance_scale", 0.5, "image_guidance_scale"),
        ("seed", 7, "seed"),
        ("steps", 5, "num_inference_steps"),
        ("instruction", "make it night", "instruction"),
    ],
)
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


def test_a_newer_wish_replaces_the_one_that_is_painted(explorer, editor, image):
    painted, step = [], editor.pipe.unet.forward
    editor.pipe.unet.forward = lambda *a, **k: (painted.append(explorer.wish), step(*a, **k))[1]

    async def hand():
        explorer.seed.value = 1
        while not painted:
            await asyncio.sleep(0.001)
        explorer.seed.value, explorer.seed.value = 2, 3  # while seed 1 is being painted; 2 is never begun
        while not explorer.message.value.startswith("Done"):
            await asyncio.sleep(0.001)

    try:
        asyncio.run(hand())
    finally:
        del editor.pipe.unet.forward
    assert explorer.output == editor(image, "make it day", seed=3)
    assert painted.count(max(painted)) >= 3 and len(painted) < 3 + 3, (
        "the replaced wish was painted to its end"
    )


def test_undo_while_painting_and_editing_further_in_a_running_kernel(explorer):
    first, picture = explorer.output, explorer.after.value

    async def hand():
        explorer.seed.value = 1
        await asyncio.sleep(0)
        explorer.back.click()  # away from what is being painted
        await asyncio.sleep(0.5)
        assert explorer.output is first and explorer.seed.value == 0 and explorer.after.value == picture
        explorer.next.click()
        await asyncio.sleep(0.5)
        assert explorer.message.value.startswith("This is the input now") and explorer.instruction.value == ""

    asyncio.run(hand())


def test_undo_goes_back_with_controls_and_input(explorer, editor, image):
    first = explorer.output
    explorer.guidance_scale.value = 9.0
    second = explorer.output
    explorer.next.click()
    assert (
        opened(explorer.before.value) == opened(enlarged(second, 64))
    ).all() and explorer.instruction.value == ""
    explorer.instruction.value = "make it night"
    assert explorer.output == editor(second, "make it night", guidance_scale=9.0, seed=0)
    explorer.back.click()
    assert explorer.output is second and explorer.instruction.value == "make it day"
    assert (opened(explorer.before.value) == opened(enlarged(image, 64))).all()
    explorer.back.click()
    assert explorer.output is first and explorer.guidance_scale.value == 3.0
    explorer.back.click()
    assert "nothing to undo" in explorer.message.value and explorer.output is first


def test_the_code_paints_the_same_picture(explorer, editor, image, tmp_path, monkeypatch):
    image.save(tmp_path / "cat.png")
    explorer.upload.value = (
        {
            "name": "cat.png",
            "type": "image/png",
            "size": 1,
            "content": memoryview((tmp_path / "cat.png").read_bytes()),
            "last_modified": datetime.now(),
        },
    )
    explorer.next.click()
    explorer.instruction.value = "make it night"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ip2p.load_editor", lambda name: {"mini": editor}[name], raising=False)
    exec(explorer.code.value, {})
    assert Image.open("edited.png").convert("RGB") == explorer.output


def test_an_upload_that_is_no_picture_is_one_sentence(explorer):
    output = explorer.output
    explorer.upload.value = (
        {
            "name": "bad.png",
            "type": "image/png",
            "size": 3,
            "content": memoryview(b"abc"),
            "last_modified": datetime.now(),
        },
    )
    assert (
        explorer.message.value.startswith("Bad.png cannot be read as an image") and explorer.output is output
    )


def test_pictures_to_choose_from(editor, image, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    explorer = EditExplorer(
        editor,
        image,
        "make it day",
        size=64,
        pictures={"red": tmp_path / "red.png", "gone": tmp_path / "gone.png"},
    )
    explorer.picker.value = "red"
    assert (opened(explorer.before.value) == (255, 0, 0)).all()
    assert explorer.output == editor(Image.new("RGB", (20, 20), "red"), "make it day")
    explorer.picker.value = "gone"
    assert "There is no image" in explorer.message.value


def test_before_and_after_in_one_frame(explorer):
    after = opened(explorer.after.value)
    explorer.wipe.value = 0.5
    mixed = opened(explorer.after.value)
    assert (mixed[:, :32] == opened(explorer.before.value)[:, :32]).all() and (
        mixed[:, 32:] == after[:, 32:]
    ).all()


def test_both_scales_and_save(explorer, tmp_path, monkeypatch):
    explorer.both.click()
    assert opened(explorer.sweep.value).shape[0] > 400 and explorer.more.selected_index == 1
    monkeypatch.chdir(tmp_path)
    explorer.save.click()
    explorer.save.click()
    assert all(Image.open(f"edited-{k}.png").convert("RGB") == explorer.output for k in (1, 2))


def test_frames_follow_the_slider_and_leave_a_labelled_sheet():
    from ip2p.teaching.explorer import Frames

    frames = Frames({f"p = {i}": Image.new("RGB", (40, 20), (i, 0, 0)) for i in range(3)}, "at")
    first = frames.picture.value
    frames.slider.value = 2
    assert frames.picture.value != first
    assert Image.open(io.BytesIO(frames.picture.value)).getpixel((0, 0)) == (2, 0, 0)
    sheet = Image.open(io.BytesIO(base64.b64decode(frames._repr_mimebundle_()["image/png"])))
    assert sheet.size == (40 + 96, 60) and sheet.getpixel((100, 25)) == (1, 0, 0)


# ------------------------------------------------------------------------------ branches, boxes, real time


def test_any_earlier_picture_can_be_gone_on_from(explorer, editor, image):
    explorer.next.click()
    night = explorer.image
    explorer.instruction.value = "make it night"
    explorer.next.click()
    labels = [label for label, _ in explorer.turns.options]
    assert labels == ["as given", "1 make it day", "1.1 make it night"]
    explorer.turns.value = explorer.history.given.after[0]
    assert explorer.image is night
    explorer.instruction.value = "a blue dog"
    explorer.next.click()
    labels = [label for label, _ in explorer.turns.options]
    assert labels == ["as given", "1 make it day", "1.1 make it night", "1.2 a blue dog"]
    explorer.turns.value = explorer.history.given
    assert explorer.image is image and explorer.history.here.after, "nothing of the branches is lost"


def test_only_in_a_drawn_box_does_the_picture_change(explorer, tmp_path, monkeypatch, editor, image):
    explorer.before.box = [0.5, 0.25, 1.0, 1.0]
    seen = np.asarray(fit(image, (32, 32)), int)
    changed = np.abs(np.asarray(explorer.output, int) - seen).max(2) > 0
    assert changed[8:, 16:].any() and not changed[:, :12].any() and not changed[:4].any()
    image.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ip2p.load_editor", lambda name: {"mini": editor}[name], raising=False)
    exec(explorer.code.value, {})
    assert Image.open("edited.png").convert("RGB") == explorer.output
    explorer.before.box = []
    assert explorer.output == editor(image, "make it day", seed=0)


def test_a_box_lies_on_the_square_that_is_edited():
    mask = box_mask(Image.new("RGB", (200, 100)), [0.0, 0.5, 0.5, 1.0])
    assert mask.size == (200, 100) and mask.getbbox() == (50, 50, 101, 100)


@pytest.fixture
def live(editor, image):
    """An explorer with a fast editor, as good as untaught."""
    torch.manual_seed(0)
    unet = new_student(editor.pipe.unet).eval()
    scheduler = LCMScheduler.from_config(editor.pipe.scheduler.config, prediction_type=STUDENT_PREDICTS)
    ranges = {"guidance_scale": (0.0, 12.0), "image_guidance_scale": (0.0, 3.0)}
    quick = Editor(editor.pipe, 3.0, 1.5, 3)
    quick.fast = Distilled(unet, scheduler, {"steps": 2, **ranges})
    return EditExplorer(quick, image, "make it day", size=64)


def test_a_sketch_follows_every_step_of_the_slider_and_then_the_full_editor_paints(live, editor, image):
    sketches, pictures = [], []
    live.sketch.observe(lambda change: sketches.append(change["new"]), "value")
    live.after.observe(lambda change: pictures.append(change["new"]), "value")
    encoded = []
    encode = live.editor.encode
    live.editor.encode = lambda *a: (encoded.append(1), encode(*a))[1]

    async def drag():
        for seed in range(1, 6):
            live.seed.value = seed
            await asyncio.sleep(0.3)
        assert len(sketches) == 5 and not pictures, "only sketches while it is dragged"
        while not live.message.value.startswith("Done"):
            await asyncio.sleep(0.01)

    asyncio.run(drag())
    assert live.output == editor(image, "make it day", seed=5)
    last = Image.open(io.BytesIO(sketches[-1])).convert("RGB")
    of_one_step = live.editor(image, "make it day", num_inference_steps=SKETCH_STEPS, seed=5)
    assert last == of_one_step, "the last value wins"
    assert len(encoded) == 1, "but for the last line, picture and sentence were known"


@pytest.mark.filterwarnings("error")
def test_a_sketch_is_at_the_nearest_scales_that_the_fast_editor_has_learned(live, image):
    live.editor.fast.scales = (1.0, 8.0), (1.0, 2.5)
    live.guidance_scale.value = 11.0
    shown = Image.open(io.BytesIO(live.sketch.value)).convert("RGB")
    at_8 = live.editor(image, "make it day", guidance_scale=8.0, num_inference_steps=SKETCH_STEPS, seed=0)
    assert shown == at_8


def test_hundreds_of_events_leave_nothing_behind(live):
    async def drag():
        for i in range(500):
            live.guidance_scale.value = 1 + (i % 40) / 4
            if i % 100 == 0:
                await asyncio.sleep(0.05)
        while not live.message.value.startswith("Done"):
            await asyncio.sleep(0.01)

    files = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    asyncio.run(drag())
    assert len(live.past) <= 2
    if files:
        assert len(os.listdir("/proc/self/fd")) <= len(files) + 1


# ------------------------------------------------------------------------------------ which edit is better


@pytest.fixture
def questions():
    """Three questions of plain pictures."""
    colours = (("red", "blue"), ("green", "white"), ("black", "grey"))
    said = []
    for k, (left, right) in enumerate(colours):
        said.append(Question(plain("yellow"), f"edit <{k}>", plain(left), plain(right)))
    return said


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (32, 32), colour)


def test_buttons_and_keys_answer_and_the_next_question_comes(questions, tmp_path):
    widget = EditComparison(questions, tmp_path, size=64, pause=0)
    assert "edit &lt;0&gt;" in widget.heading.value and "Question 1 of 3" in widget.message.value
    assert (opened(widget.pictures[1].value) == (255, 0, 0)).all()
    widget.left.click()
    assert (opened(widget.pictures[2].value) == 255).all()
    widget.keyboard.pressed = ["ArrowRight", 1]
    widget.keyboard.pressed = ["ArrowDown", 2]
    assert [row.better for row in Comparisons(tmp_path).rows] == ["left", "right", "neither"]
    assert widget.message.value.startswith("All 3 are answered") and widget.progress.value == 3
    widget.left.click()
    assert len(Comparisons(tmp_path).rows) == 3, "nothing is asked any more"


def test_undo_asks_again_and_an_opened_folder_goes_on(questions, tmp_path):
    widget = EditComparison(questions, tmp_path, size=64, pause=0)
    widget.left.click()
    widget.right.click()
    widget.back.click()
    assert "Question 2 of 3" in widget.message.value
    again = EditComparison(questions, tmp_path, size=64, pause=0)
    assert again.question is questions[1]
    again.keyboard.pressed = ["Backspace", 1]
    assert again.question is questions[0]
    again.keyboard.pressed = ["Backspace", 2]
    assert "othing to undo" in again.message.value and again.question is questions[0]


def test_a_second_click_on_the_same_question_counts_for_no_other(questions, tmp_path):
    widget = EditComparison(questions, tmp_path, size=64, pause=60)
    widget.asked -= 61
    widget.left.click()
    widget.left.click()
    assert len(widget.comparisons.rows) == 1 and widget.question is questions[1]


def test_a_question_leaves_a_picture_for_pages_without_a_kernel(questions, tmp_path):
    widget = EditComparison(questions, tmp_path, size=64, pause=0)
    shown = opened(base64.b64decode(widget._repr_mimebundle_()["image/png"]))
    assert shown.shape[1] > 300 and shown[..., :3].std() > 1
    for _ in questions:
        widget.neither.click()
    assert "image/png" in widget._repr_mimebundle_()


def test_two_edits_are_painted_when_they_are_asked_and_always_alike(editor, image):
    asked = TwoEdits(editor, [image], ["make it day"], rounds=2)
    assert len(asked) == 2
    question = asked[1]
    assert question.left == editor.many([image] * 2, ["make it day"] * 2, seeds=[2, 3])[0]
    assert question == asked[1] and question.left != question.right


def test_an_editor_that_fails_is_told_in_one_sentence(image, editor, tmp_path):
    widget = EditComparison(TwoEdits(editor, [image], [""]), tmp_path, size=64)
    assert widget.message.value.startswith("The instruction is empty;") and widget.question is None
    assert "image/png" in widget._repr_mimebundle_()
