"""The judge: what it hands out, what follows from its readings, and that the bundled one reads well."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ip2p.miniworld
from ip2p.miniworld import (
    ATTRIBUTES,
    Scene,
    difference,
    edit,
    edit_success,
    judge,
    parse,
    preservation,
    random_edit,
    random_scene,
    render,
    render_mask,
    valid_pair,
)
from ip2p.miniworld.judging import FOLDER, Judge, asked, load_judge, outside_distance, pixels, readings
from ip2p.models import judge as judge_model

CAT = Scene("cat", "red", "beach", size="large", position="left", extras=("hat",), seed=3)
PAIR = Scene("cat", "red", "beach", second=("dog", "blue"), seed=3)


@pytest.fixture(scope="module")
def untrained() -> Judge:
    torch.manual_seed(0)
    return Judge().eval()


def test_one_head_an_attribute(untrained):
    out = untrained(torch.zeros(2, 3, 128, 128))
    assert list(out) == list(ATTRIBUTES)
    for name, values in ATTRIBUTES.items():
        assert out[name].shape == (2, len(values))


def test_takes_an_image_a_list_or_a_tensor(untrained):
    images = [render(CAT), render(PAIR)]
    tensor = torch.from_numpy(np.stack([np.asarray(i).transpose(2, 0, 1) for i in images]))
    torch.testing.assert_close(pixels(images), pixels(tensor))
    assert pixels(images).min() >= -1 and pixels(images).max() <= 1
    both = judge(images, untrained)
    assert both == judge(tensor, untrained) == judge(images, untrained, batch=1)
    assert judge(images[0], untrained) == both[:1] and judge([], untrained) == []
    assert all(reading[name] in ATTRIBUTES[name] for reading in both for name in reading)
    with pytest.raises(ValueError, match="uint8"):
        judge(tensor.float(), untrained)


def test_other_sizes_and_modes_are_read_too(untrained):
    assert pixels([Image.new("RGBA", (200, 100)), Image.new("L", (32, 32))]).shape == (2, 3, 128, 128)
    assert pixels(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 3, 128, 128)


def test_a_judge_of_another_size_reads_at_its_own(tiny_judge):
    assert tiny_judge.size == tiny_judge.config["size"] == 32
    picture = render(CAT, 32)
    assert judge([picture], tiny_judge) == judge(
        torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].copy()), tiny_judge
    )
    assert len(judge([render(CAT, 128), Image.new("L", (40, 20))], tiny_judge)) == 2


def test_a_second_object_has_kind_and_colour_or_neither(untrained):
    logits = untrained(pixels([render(CAT)]))
    for kind, colour in ((9.0, -3.0), (-3.0, 9.0), (5.0, 5.0), (-5.0, -5.0)):
        logits["second_kind"][:, 0], logits["second_colour"][:, 0] = kind, colour
        reading = readings(logits)[0]
        assert (reading["second_kind"] is None) == (reading["second_colour"] is None)
    assert reading["second_kind"] is not None


def test_success_is_what_the_edit_asks_for():
    night = edit(CAT, time="night")
    assert edit_success(CAT, night, night.attributes())
    assert not edit_success(CAT, night, CAT.attributes())
    assert edit_success(CAT, night, night.attributes() | {"colour": "blue"})  # preservation sees to that
    both = edit(CAT, time="night", colour="blue")
    assert edit_success(CAT, both, both.attributes())
    assert not edit_success(CAT, both, night.attributes())
    bare = edit(CAT, remove="hat")
    assert edit_success(CAT, bare, bare.attributes()) and not edit_success(CAT, bare, CAT.attributes())
    with pytest.raises(ValueError, match="nothing"):
        asked(CAT, CAT)


def test_what_goes_without_saying_is_not_asked_for():
    three = edit(CAT, count=3)
    assert asked(CAT, three) == {"count": 3} and "position" in difference(CAT, three)
    assert edit_success(CAT, three, three.attributes() | {"position": "left"})
    company = edit(CAT, add=("dog", "blue"))
    assert asked(CAT, company) == {"second_kind": "dog", "second_colour": "blue"}
    assert not edit_success(CAT, company, company.attributes() | {"second_colour": "red"})
    alone = edit(PAIR, remove="dog")
    assert asked(PAIR, alone) == {"second_kind": None}
    assert asked(CAT, edit(CAT, position="centre")) == {"position": "centre"}


def test_preservation_counts_the_others():
    night = edit(CAT, time="night").attributes()
    others = len(ATTRIBUTES) - 1
    assert preservation(CAT, night, ["time"]) == preservation(CAT.attributes(), night, ["time"]) == 1
    assert preservation(CAT, night | {"place": "city"}, ["time"]) == (others - 1) / others
    assert preservation(CAT, night, []) == others / len(ATTRIBUTES)
    three = edit(CAT, count=3)
    assert preservation(CAT, three.attributes(), difference(CAT, three)) == 1


def test_valid_pair():
    night = edit(CAT, time="night")
    seen_0, seen_1 = CAT.attributes(), night.attributes()
    assert valid_pair(CAT, night, seen_0, seen_1)
    assert valid_pair(CAT, night, seen_0, seen_1 | {"place": "city"})  # 14 of 15
    assert not valid_pair(CAT, night, seen_0, seen_1 | {"place": "city", "kind": "dog"})  # 13 of 15
    assert not valid_pair(CAT, night, seen_0, seen_0)
    wrong = {"place": "city", "kind": "dog"}
    assert valid_pair(CAT, night, seen_0 | wrong, seen_1 | wrong)  # kept, whatever it is


def test_pairs_are_judged_by_what_captions_say_and_by_what_they_leave_open():
    before, after = parse("a cat with a hat"), parse("a cat with a hat at night")
    seen_0 = CAT.attributes()
    seen_1 = seen_0 | {"time": "night"}
    assert valid_pair(before, after, seen_0, seen_1)
    assert not valid_pair(before, after, seen_0, seen_0)
    unsaid = {"place": "city", "style": "comic"}
    assert not valid_pair(before, after, seen_0, seen_1 | unsaid), "unsaid, but it has to stay"
    gone = parse("a cat")
    assert valid_pair(before, gone, seen_0, seen_0 | {"hat": False})


def right_but_for(pictures, scenes, wrong: dict) -> list[dict]:
    """Readings of the pictures of scenes; those of every second one have some `wrong` values."""
    return [scene.attributes() | (wrong if k % 2 else {}) for k, scene in enumerate(scenes)]


def test_second_objects_are_measured_on_scenes_that_have_one(monkeypatch, tiny_judge, tiny_pipe, tmp_path):
    of_two = judge_model.scenes_of_two(6, 10**9)
    assert len(of_two) == 6 and all(scene.second for scene in of_two)
    assert of_two == judge_model.scenes_of_two(6, 10**9)
    scenes = judge_model.cached_renders(tmp_path, 4, 10**9, size=32)[0]
    wrong = {"second_colour": "none of them"}

    def read(pictures, model):
        return right_but_for(pictures, scenes if len(pictures) == 4 else of_two, wrong)

    monkeypatch.setattr(judge_model, "judge", read)
    figures = judge_model.measure(tiny_judge, tmp_path, tiny_pipe.vae, 4, 6)
    assert (
        figures["held_out"] == 4 and figures["renders"]["kind"] == figures["after_autoencoder"]["kind"] == 1
    )
    right = {"second_kind": 1, "second_colour": 0.5}
    assert figures["seconds"] == {"n": 6, "renders": right, "after_autoencoder": right}
    card = judge_model.model_card(figures, 7, [{"step": 50, "seconds": 60}], judge_model.SETS, "one core")
    assert "Of 6 other held-out scenes" in card and "read right in 100.00% and its colour in 50.00%" in card
    assert "plain" not in card


def test_outside_distance():
    black, grey = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), (51, 51, 51))
    mask = np.zeros((64, 64), bool)
    assert outside_distance(black, grey, mask) == pytest.approx(0.2)
    assert outside_distance(black, grey, ~mask) == 0
    mask[:, :32] = True
    half = grey.copy()
    half.paste(0, (32, 0, 64, 64))
    assert outside_distance(black, half, mask) == 0
    blue = edit(CAT, colour="blue")
    assert outside_distance(render(CAT), render(blue), render_mask(CAT, blue)) < 0.002


def test_miniworld_imports_without_torch_and_hands_out_functions():
    code = "import sys, ip2p.miniworld; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert callable(ip2p.miniworld.judge) and callable(ip2p.miniworld.valid_pair)


def test_the_bundled_judge_reads_renders():
    model = load_judge()
    assert load_judge() is model and (FOLDER / "model.safetensors").stat().st_size < 2.5e6
    scenes = [random_scene(10**7 + i) for i in range(100)]
    seen = judge([render(scene) for scene in scenes])
    right = dict.fromkeys(ATTRIBUTES, 0.0)
    for reading, scene in zip(seen, scenes, strict=True):
        for name, value in scene.attributes().items():
            right[name] += (reading[name] == value) / len(scenes)
    assert np.mean(list(right.values())) > 0.95 and min(right.values()) > 0.9, right


def test_the_bundled_judge_reads_second_objects():
    of_two = judge_model.scenes_of_two(60, 10**7)
    seen = judge([render(scene) for scene in of_two])
    read = [(reading["second_kind"], reading["second_colour"]) for reading in seen]
    assert np.mean([pair == scene.second for pair, scene in zip(read, of_two, strict=True)]) > 0.9


def test_the_bundled_judge_knows_edited_renders_from_others():
    scenes = [random_scene(10**7 + i) for i in range(40)]
    edits = [random_edit(scene, i) for i, scene in enumerate(scenes)]
    seen_0, seen_1 = judge([render(s) for s in scenes]), judge([render(s) for s in edits])
    pairs = list(zip(scenes, edits, seen_0, seen_1, strict=True))
    assert np.mean([valid_pair(*pair) for pair in pairs]) > 0.85
    assert np.mean([valid_pair(a, b, seen, seen) for a, b, seen, _ in pairs]) < 0.1  # nothing was done
