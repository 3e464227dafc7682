"""A region beside the sentence: what says it, what learns it, and what it is measured on."""

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p import learning_on
from ip2p.editing import load_editor
from ip2p.miniworld import Scene, difference, judging, render
from ip2p.miniworld.render import layout
from ip2p.region import WHOLE, edit_region, region_channel, takes_region, train_region
from ip2p.study import figures, plots, points, region_figures
from ip2p.study.region_figures import (
    AS_INPUT,
    COLOUR,
    KIND,
    MASKED,
    ORDINARY,
    TWINS,
    box_of,
    read_twins,
    region_edits,
    verdict_on_twins,
)
from ip2p.training import new_editor


def test_a_region_says_how_much_of_each_place_lies_in_the_box():
    channel = region_channel([[0.0, 0.25, 0.375, 1.0], WHOLE], 4, 4)
    rows = torch.tensor([[0.0] * 4, *[[1.0, 0.5, 0.0, 0.0]] * 3])
    assert torch.equal(channel[0, 0], rows) and torch.equal(channel[1, 0], torch.ones(4, 4))
    for box in ([0.5, 0.0, 0.5, 1.0], [-0.1, 0.0, 0.5, 1.0], [0.0, 0.8, 1.0, 0.2]):
        with pytest.raises(ValueError, match="is no box"):
            region_channel([box], 4, 4)


def pairs_of_halves(n: int = 8) -> list[dict]:
    """What lies in the region, one half of the picture, turns red, whatever the sentence."""
    rows = []
    for k in range(n):
        original = Image.fromarray(np.random.default_rng(k).integers(256, size=(32, 32, 3), dtype=np.uint8))
        left = k % 2 == 0
        edited = original.copy()
        edited.paste((220, 30, 30), (0, 0, 16, 32) if left else (16, 0, 32, 32))
        row = {"original_image": original, "edited_image": edited, "edit_prompt": "make this one red"}
        row |= {"original_prompt": f"a cat {k}", "edited_prompt": "a red cat"}
        rows.append(row | {"region": [0.0, 0.0, 0.5, 1.0] if left else [0.5, 0.0, 1.0, 1.0]})
    return rows


@pytest.fixture(scope="module")
def learner(tiny_profile, tmp_path_factory):
    """A tiny profile whose editor a training begins with, and the folder of one that learned regions."""
    folder = tmp_path_factory.mktemp("region")
    new_editor(tiny_profile).save_pretrained(folder / "start")
    profile = replace(tiny_profile, editor=str(folder / "start"), train_batch=4, muon=False)
    train_region(pairs_of_halves(), folder / "whole", profile, steps=12, lr=2e-3)
    return profile, folder


def test_before_training_a_region_changes_nothing_and_afterwards_it_does(learner):
    profile, folder = learner
    train_region(pairs_of_halves(), folder / "one", profile, steps=1, lr=0.0)
    first, trained = (load_editor(str(folder / name), profile=profile) for name in ("one", "whole"))
    shipped = load_editor(profile.editor, profile=profile)
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    boxes = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    asked = [image] * 2, ["make this one red"] * 2
    options = {"seeds": [0, 0], "num_inference_steps": 2}
    same = edit_region(first, *asked, boxes, **options)
    assert same[0].tobytes() == same[1].tobytes() == shipped.many(*asked, **options)[0].tobytes()
    left, right = edit_region(trained, *asked, boxes, **options)
    assert left.tobytes() != right.tobytes()
    weight = trained.pipe.unet.conv_in.weight
    assert weight[:, -1].abs().max() > 0 and weight.shape[1] == 9


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(learner, monkeypatch):
    profile, folder = learner
    rows = pairs_of_halves()
    whole_loop = learning_on.train_loop

    def stopped(*args, **options):
        whole_loop(*args, **options, stop_after=5)
        raise KeyboardInterrupt

    monkeypatch.setattr(learning_on, "train_loop", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_region(rows, folder / "stopped", profile, steps=12, lr=2e-3)
    monkeypatch.setattr(learning_on, "train_loop", whole_loop)
    with pytest.raises(ValueError, match="another run, with other lr"):
        train_region(rows, folder / "stopped", profile, steps=12, lr=1e-3)
    pipe, log = train_region(rows, folder / "stopped", profile, steps=12, lr=2e-3)
    whole = load_editor(str(folder / "whole"), profile=profile).pipe.unet.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in pipe.unet.state_dict().items())
    assert log[-1]["step"] == 12


def test_an_editor_without_regions_is_refused_in_words(learner):
    profile, _ = learner
    editor = load_editor(profile.editor, profile=profile)
    assert not takes_region(editor)
    with pytest.raises(ValueError, match="trained without regions"):
        edit_region(editor, [Image.new("RGB", (32, 32))], ["make this one red"], [WHOLE])


# ------------------------------------------------------------------------------------------------- the edits


def test_one_of_two_things_changes_and_the_sentence_says_neither_which_nor_what_it_is():
    edits = list(islice(region_edits(0), 60))
    assert [edit.kind for edit in edits[:3]] == [COLOUR, KIND, TWINS]
    for edit in edits:
        before, after = edit.before, edit.after
        changed = difference(before, after)
        assert len(changed) == 1 and list(changed)[0] in ("kind", "colour", "second_kind", "second_colour")
        assert (before.kind == before.second[0]) == (edit.kind == TWINS)
        named = [kind for kind in (before.kind, before.second[0]) if kind in edit.instruction.split()]
        assert not named and str(list(changed.values())[0]) in edit.instruction
    sides = [edit.before.second != edit.after.second for edit in edits]
    assert 15 < sum(sides) < 45


def test_a_box_lies_around_what_changes():
    for number, edit in enumerate(islice(region_edits(5), 30)):
        left, top, right, bottom = box_of(edit)
        which = int(edit.before.second != edit.after.second)
        _, _, x, side = layout(edit.before)[which]
        assert left < x < right and bottom - top == pytest.approx(side, abs=0.05)
        loose = box_of(edit, random.Random(number))
        assert loose != [left, top, right, bottom] and all(0 <= edge <= 1 for edge in loose)
        assert loose[0] < x < loose[2]


def test_colours_of_two_things_alike_are_read_off_renders():
    twins = [edit for edit in islice(region_edits(9), 15) if edit.kind == TWINS]
    for edit in twins:
        assert read_twins(edit.before, render(edit.before)) == [edit.before.colour, edit.before.second[1]]
        done, undone = verdict_on_twins(edit, render(edit.after)), verdict_on_twins(edit, render(edit.before))
        assert done == {"success": True, "preservation": 1.0, "right": True}
        assert undone == {"success": False, "preservation": 1.0, "right": False}


def test_two_things_may_differ_in_colour_alone():
    scene = Scene("cat", "red", "meadow", second=("cat", "blue"))
    assert [thing[:2] for thing in layout(scene)] == [("cat", "red"), ("cat", "blue")]
    with pytest.raises(ValueError, match="not both as of the first"):
        Scene("cat", "red", "meadow", second=("cat", "red"))


def test_the_three_ways_are_measured_on_the_same_edits(learner, tiny_judge, monkeypatch, tmp_path):
    profile, _ = learner
    monkeypatch.setattr(judging, "load_judge", lambda path=None: tiny_judge)
    monkeypatch.setattr(points, "OUT", tmp_path / "out")
    for module in (figures, plots, points):
        monkeypatch.setattr(module, "DATA", tmp_path)
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(region_figures, "REGION_STEPS", 2)
    monkeypatch.setattr(region_figures, "random_pairs", lambda profile: pairs_of_halves(4))
    rows = region_figures.region(profile, 12)
    assert [row["kind"] for row in rows[:12]] == [COLOUR, KIND, TWINS] * 3 + [ORDINARY] * 3
    assert list(dict.fromkeys(row["method"] for row in rows))[1:] == [MASKED, AS_INPUT]
    assert len(rows) == 36 and all(row["right"] in (True, False) for row in rows)
    assert (tmp_path / "images" / "region.jpg").stat().st_size > 1000
