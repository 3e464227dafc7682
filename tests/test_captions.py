"""Captions that leave things unsaid, what they say, and instructions that name exactly the change
between two."""

import json
import random
from collections import Counter

import pytest
from ip2p.dataset.lies import lie
from ip2p.dataset.retell import retell

from ip2p.miniworld.captions import caption, caption_pair, what_to_say
from ip2p.miniworld.parsing import agrees, attributes_said
from ip2p.miniworld.scene import ATTRIBUTES, difference, random_edit, random_scene
from ip2p.paths import DATA


def triplets(path):
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def reason(triplet):
    before, after = attributes_said(triplet["input"]), attributes_said(triplet["output"])
    return lie(triplet["edit"], before, after)


@pytest.mark.parametrize("mix", ["wild", "even"])
def test_a_caption_says_what_was_chosen_and_no_more(mix):
    for seed in range(1500):
        rng = random.Random(seed)
        scene = random_scene(rng, mix)
        say = what_to_say(scene, rng)
        words = caption(scene, rng, say)
        attributes = scene.attributes()
        assert attributes_said(words) == {name: attributes[name] for name in ATTRIBUTES if name in say}, words
        assert agrees(words, attributes)


def test_short_captions_are_common_and_everything_said_is_rare():
    rng = random.Random(0)
    said = Counter()
    n = 3000
    for _ in range(n):
        scene = random_scene(rng, "wild")
        said[len(what_to_say(scene, rng)) - 2] += 1  # beside kind and number
    assert sum(said[k] for k in (0, 1, 2)) > 0.4 * n
    assert sum(count for k, count in said.items() if k >= 6) < 0.2 * n
    plain = attributes_said(caption(random_scene(1, "wild")))
    assert {"colour", "size", "position", "place", "time", "weather", "style"} <= set(plain), (
        "without a rng: all"
    )


def test_the_captions_of_an_edit_differ_by_the_edit_alone():
    for seed in range(800):
        rng = random.Random(seed)
        before = random_scene(rng, "wild")
        after = random_edit(before, rng)
        first, second = (attributes_said(words) for words in caption_pair(before, after, rng))
        changed = {name for name in ATTRIBUTES if first.get(name) != second.get(name)}
        assert changed <= set(difference(before, after)) | {"position"}
        assert any(first.get(name) != second.get(name) for name in difference(before, after))


def test_a_picture_agrees_with_its_caption_or_not():
    scene = random_scene(3, "wild")
    attributes = scene.attributes()
    other = next(kind for kind in ATTRIBUTES["kind"] if kind != scene.kind)
    assert agrees(f"a {scene.kind}", attributes | {"count": 1})
    assert not agrees(f"a {other}", attributes | {"count": 1})
    assert not agrees(f"two {scene.kind}s", attributes | {"count": 1})


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("on the beach at night", "no object is named"),
        ("a cat, a dog and a boat", "at most two"),
        ("a red blue cat", "both red and blue"),
        ("a cat in a volcano", "'volcano'"),
    ],
)
def test_what_is_no_caption_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        attributes_said(words)


def test_lies_are_found():
    """30 lies written by hand: 27 at least must be found."""
    lies = triplets("eval/lies.jsonl")
    found = [reason(triplet) for triplet in lies]
    assert len(lies) == 30 and sum(why is not None for why in found) >= 27


def test_truths_are_believed():
    """Hand-written triplets; unusual wordings are harder."""
    written = triplets("triplets/mini2.jsonl")
    unusual = triplets("eval/truths.jsonl")
    assert sum(reason(triplet) is None for triplet in written) >= 0.95 * len(written)
    assert sum(reason(triplet) is None for triplet in unusual) >= 0.8 * len(unusual)


def test_what_is_forgotten_is_named():
    triplet = {"input": "a cat at night", "edit": "make it day", "output": "a cat"}
    assert reason(triplet) == "forgotten"
    assert reason(triplet | {"output": "a cat by day"}) is None


def test_a_triplet_is_retold_in_other_captions():
    """The instruction stays, and stays true."""
    rng = random.Random(0)
    told = [(triplet, retell(triplet, rng)) for triplet in triplets("triplets/mini2.jsonl")]
    assert all(new["edit"] == old["edit"] and reason(new) == reason(old) for old, new in told)
    assert sum(new["input"] != old["input"] for old, new in told) > 0.9 * len(told)
    foreign = {"input": "a girl riding a horse", "edit": "a dragon", "output": "a girl riding a dragon"}
    assert retell(foreign, rng) == foreign
