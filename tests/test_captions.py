"""Captions that leave things unsaid, what they say, and instructions that name exactly the change
between two."""

import json
import random
from collections import Counter

import pytest

from ip2p.dataset.checks import check
from ip2p.miniworld import (
    ATTRIBUTES,
    Scene,
    agrees,
    asked,
    caption,
    caption_pair,
    difference,
    edit,
    edit_kind,
    instruction,
    parse,
    random_edit,
    random_scene,
)
from ip2p.miniworld.captions import what_to_say
from ip2p.miniworld.judging import concerned, edit_success, valid_pair
from ip2p.miniworld.lies import LIES, explain, lie, read
from ip2p.miniworld.parsing import is_said, say_the_same
from ip2p.miniworld.retelling import retell
from ip2p.paths import DATA

CAT_AND_OWL = Scene("cat", "red", "farm", second=("owl", "blue"), seed=3)


def triplets(path):
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def reason(triplet):
    return lie(triplet["edit"], parse(triplet["input"]), parse(triplet["output"]))


# ---------------------------------------------------------------------------- what captions say


@pytest.mark.parametrize("mix", ["wild", "even"])
def test_a_caption_says_what_was_chosen_and_no_more(mix):
    for seed in range(1500):
        rng = random.Random(seed)
        scene = random_scene(rng, mix)
        say = what_to_say(scene, rng)
        words = caption(scene, rng, say)
        attributes = scene.attributes()
        assert parse(words) == {name: attributes[name] for name in ATTRIBUTES if name in say}, words
        assert agrees(words, attributes)


def test_short_captions_are_common_and_everything_said_is_rare():
    rng = random.Random(0)
    said = Counter()
    n = 3000
    for _ in range(n):
        said[len(what_to_say(random_scene(rng), rng)) - 2] += 1  # beside kind and number
    assert sum(said[k] for k in (0, 1, 2)) > 0.4 * n
    assert sum(count for k, count in said.items() if k >= 6) < 0.2 * n
    plain = parse(caption(random_scene(1)))
    assert {"colour", "size", "position", "place", "time", "weather", "style"} <= set(plain), "all of it"


def test_a_caption_says_only_what_is_an_attribute():
    with pytest.raises(ValueError, match="'flavour' is no attribute; choose from kind, colour"):
        caption(CAT_AND_OWL, say={"kind", "count", "flavour"})


def test_a_picture_agrees_with_its_caption_or_not():
    cat = Scene("cat", "red", "farm", time="night", extras=("hat",)).attributes()
    for words in ("a cat", "a red cat on a farm", "a kitten wearing a hat", "a cat at night", "one red cat"):
        assert agrees(words, cat), words
    for words in ("a dog", "two cats", "a blue cat", "a cat by day", "a cat with a flag", "a cat and a dog"):
        assert not agrees(words, cat), words
    with pytest.raises(ValueError, match="'dragon'"):
        agrees("a dragon", cat)


def test_what_is_a_caption_and_which_say_the_same():
    assert is_said("a red cat") and not is_said("a dragon") and not is_said("")
    assert say_the_same("a red kitten at night", "after dark, a crimson cat")
    assert not say_the_same("a red cat", "a cat"), "silence is no default"
    assert not say_the_same("a dragon", "a dragon")


# ---------------------------------------------------------------------------- edits, by what captions say


def test_an_edit_is_the_same_in_captions_as_in_scenes():
    """The second caption says all that changed; what the first one leaves unsaid has no value before."""
    for seed in range(2000):
        rng = random.Random(seed)
        before = random_scene(rng)
        after = random_edit(before, rng)
        first, second = map(parse, caption_pair(before, after, rng))
        wanted = asked(before, after)
        assert asked(first, second) == wanted
        assert difference(first, second).keys() <= difference(before, after).keys()
        assert edit_kind(first, second) == edit_kind(before, after)
        assert concerned(first, second) - {"position"} == concerned(before, after) - {"position"}
        shown, unchanged = after.attributes(), before.attributes()
        assert edit_success(first, second, shown) and not edit_success(first, second, unchanged)
        assert valid_pair(first, second, unchanged, shown) == valid_pair(before, after, unchanged, shown)


def test_the_captions_of_an_edit_differ_by_the_edit_alone():
    for seed in range(800):
        rng = random.Random(seed)
        before = random_scene(rng)
        after = random_edit(before, rng)
        first, second = map(parse, caption_pair(before, after, rng))
        changed = {name for name in ATTRIBUTES if first.get(name) != second.get(name)}
        assert changed <= set(difference(before, after)) | {"position"}
        assert changed & set(difference(before, after))


@pytest.mark.parametrize(
    "before, after, kind, wanted",
    [
        ("a cat", "a blue cat", "colour", {"colour": "blue"}),
        ("a cat on a farm", "a cat on a farm at night", "time", {"time": "night"}),
        ("a cat", "a cat and a dog", "add", {"second_kind": "dog"}),
        ("a cat", "a cat and a red dog", "add", {"second_kind": "dog", "second_colour": "red"}),
        ("a cat and a red dog", "a cat", "remove", {"second_kind": None}),
        ("a cat and a dog", "a cat", "remove", {"second_kind": None}),
        ("a cat and a dog", "a cat and a red dog", "colour", {"second_colour": "red"}),
        ("a cat and a red dog", "a cat and a red owl", "kind", {"second_kind": "owl"}),
        ("a cat with a hat", "a cat", "remove", {"hat": False}),
        ("a cat on the left", "three cats", "count", {"count": 3}),
        ("a cat on the left", "a cat and a dog", "add", {"second_kind": "dog"}),
        ("a red cat and a blue dog", "a blue dog and a red cat", "swap", None),
        ("a cat and a dog", "a dog and a cat", "swap", None),
        ("a red cat and a dog", "a dog and a red cat", "swap", None),
        ("a cat at night", "a red cat by day", "several", {"colour": "red", "time": "day"}),
    ],
)
def test_what_two_captions_ask_for(before, after, kind, wanted):
    first, second = parse(before), parse(after)
    assert edit_kind(first, second) == kind
    if wanted:
        assert asked(first, second) == wanted


def test_captions_that_say_the_same_are_no_edit():
    with pytest.raises(ValueError, match="changes nothing"):
        asked(parse("a red cat"), parse("a crimson kitten"))


def test_an_object_that_comes_may_have_any_colour_unless_one_is_said():
    reading = edit(Scene("cat", "red", "farm"), add=("dog", "green")).attributes()
    assert edit_success(parse("a cat"), parse("a cat and a dog"), reading)
    assert edit_success(parse("a cat"), parse("a cat and a green dog"), reading)
    assert not edit_success(parse("a cat"), parse("a cat and a red dog"), reading)
    assert not edit_success(parse("a cat"), parse("a cat and an owl"), reading)
    assert {"second_kind", "second_colour", "position"} <= concerned(parse("a cat"), parse("a cat and a dog"))


def test_an_object_that_goes_takes_its_colour_along():
    before, after = parse("a cat and a dog"), parse("a cat")
    scene = Scene("cat", "red", "farm", second=("dog", "green"))
    assert edit_success(before, after, edit(scene, remove="dog").attributes())
    assert not edit_success(before, after, scene.attributes())


def test_two_objects_change_places_in_captions_too():
    swapped = edit(CAT_AND_OWL, swap=True)
    first, second = map(parse, caption_pair(CAT_AND_OWL, swapped, random.Random(0)))
    assert edit_kind(first, second) == edit_kind(CAT_AND_OWL, swapped) == "swap"
    assert edit_success(first, second, swapped.attributes())
    assert not edit_success(first, second, CAT_AND_OWL.attributes())


# ---------------------------------------------------------------------------- lies


def test_lies_are_found():
    """Written by hand, of the kinds that a language model writes: of each 30, 27 at least must be found."""
    lies = triplets("eval/lies.jsonl")
    found = [reason(triplet) for triplet in lies]
    assert len(lies) == 63 and sum(why is not None for why in found) >= 0.9 * len(lies)


@pytest.mark.parametrize("truth", triplets("eval/truths.jsonl"), ids=lambda truth: truth["edit"])
def test_truths_are_believed(truth):
    """As people really write: idioms, politeness, half sentences."""
    assert check(truth) is None, explain(truth["input"], truth["edit"], truth["output"])


def test_hand_written_triplets_are_believed():
    assert [triplet for triplet in triplets("triplets/mini.jsonl") if check(triplet)] == []


def test_the_instructions_of_scenes_are_mostly_believed():
    """They are made by templates and true; those that are refused cost lessons, but do no harm."""
    believed = 0
    for seed in range(500):
        rng = random.Random(seed)
        before = random_scene(rng)
        after = random_edit(before, rng)
        first, second = caption_pair(before, after, rng)
        believed += lie(instruction(before, after, rng), parse(first), parse(second)) is None
    assert believed >= 0.9 * 500


def test_each_rule_names_an_example_and_finds_a_lie():
    """Not one of the rules is there for nothing."""
    readings = []
    for triplet in triplets("eval/lies.jsonl") + EXAMPLES:
        readings.append(read(triplet["edit"], parse(triplet["input"]), parse(triplet["output"])))
    for words, rule in LIES.items():
        assert '"' in rule.__doc__
        assert any(rule(reading) for reading in readings), words


EXAMPLES = [
    {"input": before, "edit": instruction, "output": after}
    for before, instruction, after in (
        ("three rabbits", "two rabbits would be nicer than one", "two rabbits"),
        ("two rabbits", "three rabbits please, in red", "two red rabbits"),
        ("two rabbits", "make it night and the two of them disappear", "two rabbits at night"),
        ("a white dog", "make it tiny and move it to the left", "a white dog on the left"),
        ("a cat", "put a huge umbrella next to it", "a cat and an umbrella"),
        ("a red cat and an owl", "could they both be green", "a green cat and an owl"),
        ("an orange owl", "could you paint the house red", "a red house"),
        ("a small dog", "the dog is too large, medium is fine", "a medium-sized dog"),
        ("a boat in the middle", "put the sun on the right", "a boat on the right"),
        ("a duck in the forest", "swap it for a balloon", "a duck with a balloon in the forest"),
        ("a red tent on the left", "keep it on the left, in blue", "a blue tent on the right"),
        ("a cat in the middle", "the cat on the left, and in blue", "a blue cat in the middle"),
    )
]


@pytest.mark.parametrize("triplet", EXAMPLES, ids=lambda triplet: triplet["edit"])
def test_examples_of_the_rules_are_lies(triplet):
    assert check(triplet) == "inconsistent"


def test_what_is_forgotten_is_named():
    triplet = {"input": "a cat at night", "edit": "make it day", "output": "a cat"}
    assert reason(triplet) == "forgotten"
    assert reason(triplet | {"output": "a cat by day"}) is None


def test_a_triplet_is_retold_in_other_captions():
    """The instruction stays, and stays true."""
    rng = random.Random(0)
    told = [(triplet, retell(triplet, rng)) for triplet in triplets("triplets/mini.jsonl")]
    assert all(new["edit"] == old["edit"] and reason(new) == reason(old) for old, new in told)
    assert sum(new["input"] != old["input"] for old, new in told) > 0.9 * len(told)
    foreign = {"input": "a girl riding a horse", "edit": "a dragon", "output": "a girl riding a dragon"}
    assert retell(foreign, rng) == foreign
