"""Captions and instructions of the miniature world: right, varied, and nothing out of the world passes."""

import random
from dataclasses import replace

import pytest

from ip2p.miniworld import (
    EDIT_KINDS,
    Scene,
    caption,
    difference,
    edit,
    edit_kind,
    instruction,
    parse,
    random_edit,
    random_scene,
)
from ip2p.miniworld.held_out import held_out_edits
from ip2p.miniworld.parsing import Said, what_is_said

CAT = Scene(
    "cat", "red", "forest", time="night", weather="rain", style="watercolour", extras=("hat",), seed=5
)


@pytest.mark.parametrize("mix", ["wild", "even"])
def test_every_caption_is_understood(mix):
    """One that says everything, and one that leaves things unsaid."""
    rng = random.Random(0)
    for _ in range(1000):
        scene = random_scene(rng, mix)
        there = {name: value for name, value in scene.attributes().items() if value not in (None, False)}
        assert parse(caption(scene)) == there
        text = caption(scene, rng)
        assert parse(text).items() <= there.items(), text


def test_plain_caption():
    everything = (
        "a watercolour of a medium-sized red cat with a hat in the middle in a forest at night in the rain"
    )
    assert caption(CAT) == everything
    assert caption(CAT, say={"kind", "count", "colour", "hat"}) == "a red cat with a hat"
    assert caption(CAT, 7) == caption(CAT, random.Random(7))


def test_captions_vary():
    assert len({caption(CAT, seed) for seed in range(500)}) > 300
    assert len({caption(Scene("owl", "blue", "farm"), seed) for seed in range(500)}) > 40


@pytest.mark.parametrize(
    "text, said",
    [
        ("a cat", {"kind": "cat", "count": 1}),
        (
            "A tiny crimson kitty in the woods after dark.",
            {"kind": "cat", "colour": "red", "size": "small", "count": 1, "place": "forest", "time": "night"},
        ),
        (
            "It's snowing. Three big violet bunnies on a farm!",
            {
                "kind": "rabbit",
                "colour": "purple",
                "size": "large",
                "count": 3,
                "place": "farm",
                "weather": "snow",
            },
        ),
        (
            "by the seaside at dusk, an orange puppy wearing a hat",
            {
                "kind": "dog",
                "colour": "orange",
                "count": 1,
                "place": "beach",
                "time": "sunset",
                "hat": True,
            },
        ),
        (
            "a cat that is red, in the center of town",
            {"kind": "cat", "colour": "red", "count": 1, "position": "centre", "place": "city"},
        ),
        (
            "a green tent to the right of a white owl",
            {
                "kind": "owl",
                "colour": "white",
                "count": 1,
                "second_kind": "tent",
                "second_colour": "green",
            },
        ),
        ("a tent and an owl", {"kind": "tent", "count": 1, "second_kind": "owl"}),
        (
            "a sunny beach with a yellow parasol",
            {
                "kind": "umbrella",
                "colour": "yellow",
                "count": 1,
                "place": "beach",
                "time": "day",
                "weather": "clear",
            },
        ),
        (
            "a pink car on the right of the picture, in the desert",
            {"kind": "car", "colour": "pink", "count": 1, "position": "right", "place": "desert"},
        ),
    ],
)
def test_other_peoples_wording(text, said):
    assert parse(text) == said


def test_what_is_said_holds_no_default():
    cat, dog = {"size": "small", "colour": "red", "kind": "cat"}, {"colour": "blue", "kind": "dog"}
    assert what_is_said("a tiny red cat and a blue dog on the beach") == Said([cat, dog], {"place": "beach"})
    assert what_is_said("a cat by day, with a hat") == Said([{"kind": "cat"}], {"time": "day"}, ["hat"])
    assert what_is_said("a cat to the right of a dog").first_is_right


@pytest.mark.parametrize(
    "british, american",
    [
        ("a watercolour of a red cat in a forest", "a watercolor of a red cat in a forest"),
        ("a blue-coloured duck in the centre, on a farm", "a blue-colored duck in the center, on a farm"),
        ("a grey pencil sketch of a pink car in the city", "a gray pencil sketch of a pink car in the city"),
    ],
)
def test_british_and_american_spelling(british, american):
    assert parse(british) == parse(american)


@pytest.mark.parametrize(
    "text, why",
    [
        ("a photo of a horse in Paris", "'photo', 'horse', 'paris'"),
        ("a red dragon in a forest", "'dragon'"),
        ("an oil painting of a red car on a beach", "'oil'"),
        ("", "no object"),
        ("red", "no object"),
        ("a red cat in a forest on a beach", "both forest and beach"),
        ("a red cat on a farm at night at sunset", "both night and sunset"),
        ("a red and white cat on a farm", "both red and white"),
        ("red cats on a farm", "how many cats"),
        ("three red cats on the left on a farm", "left or right"),
        ("a red cat with a blue hat on a farm", "'hat'"),
        ("a blue cat in a red house on a farm", "side by side"),
        ("a red cat and a red cat on a farm", "named twice"),
        ("a red cat, a blue dog and a pink owl on a farm", "at most two"),
        ("four red cats on a farm", "'four'"),
        ("a red cat without a hat on a farm", "'without'"),
        ("a red cat in a big forest", "'forest'"),
        ("a red cat and two blue dogs on a farm", "only one of each"),
    ],
)
def test_out_of_world_is_refused_with_a_reason(text, why):
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_instructions_vary(kind):
    rng, texts, n = random.Random(0), set(), 0
    while n < 300:
        scene = random_scene(rng, "even")
        try:
            texts.add(instruction(scene, random_edit(scene, rng, kind), rng).lower().strip(".!?"))
            n += 1
        except ValueError:  # this scene has nothing to remove, or cannot move
            continue
    assert len(texts) > 150
    assert all("{" not in t and "(" not in t and "|" not in t and "  " not in t for t in texts)


def test_instruction_of_one_edit_varies():
    assert len({instruction(CAT, edit(CAT, time="day"), seed) for seed in range(200)}) > 20


@pytest.mark.parametrize(
    "change, text",
    [
        ({"colour": "blue"}, "make the cat blue"),
        ({"kind": "dog"}, "swap the cat for a dog"),
        ({"place": "beach"}, "move the cat to a beach"),
        ({"time": "day"}, "make it day"),
        ({"weather": "clear"}, "change the weather to clear"),
        ({"style": "mosaic"}, "paint it as a mosaic"),
        ({"size": "large"}, "make the cat bigger"),
        ({"add": "flag"}, "add a flag"),
        ({"remove": "hat"}, "remove the hat"),
        ({"count": 3}, "add two more"),
        ({"position": "left"}, "move the cat to the left"),
        ({"add": ("dog", "green")}, "add a green dog next to the cat"),
        ({"colour": "blue", "time": "day"}, "make the cat blue and make it day"),
    ],
)
def test_plain_instructions(change, text):
    assert instruction(CAT, edit(CAT, **change)) == text


def test_several_changes_are_all_said():
    after = edit(CAT, kind="owl", weather="clear", remove="hat")
    for seed in range(50):
        text = instruction(CAT, after, seed).lower()
        assert "owl" in text and "hat" in text


def test_an_unknown_kind_of_edit_is_refused():
    with pytest.raises(ValueError, match="no edit of kind 'flavour'"):
        held_out_edits(3, ("colour", "flavour"))


def test_no_change_is_an_error():
    assert not difference(CAT, replace(CAT, seed=1))
    with pytest.raises(ValueError, match="changes nothing"):
        instruction(CAT, replace(CAT, seed=1))


def test_two_objects_change_places():
    scene = Scene("cat", "red", "farm", second=("owl", "blue"), seed=3)
    after = edit(scene, swap=True)
    assert (
        after == Scene("owl", "blue", "farm", second=("cat", "red"), seed=3)
        and edit(after, swap=True) == scene
    )
    assert edit_kind(scene, after) == "swap" and random_edit(scene, 0, "swap") == after
    asked = {instruction(scene, after, seed) for seed in range(60)}
    assert len(asked) > 8 and all("cat" in text and "owl" in text for text in map(str.lower, asked))
    with pytest.raises(ValueError, match="no two objects"):
        edit(CAT, swap=True)
