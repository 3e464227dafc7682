"""The same triplet told of another scene."""

from __future__ import annotations

import re
from dataclasses import replace

from ip2p.miniworld.asking import disagreement, mentions
from ip2p.miniworld.language import STYLE_IN, STYLE_OF, TIME_AT, WEATHER_IN, choose_wording
from ip2p.miniworld.parsing import parse
from ip2p.miniworld.scene import ATTRIBUTES, DEFAULTS, difference


def retell(triplet: dict, rng) -> dict:
    """The same instruction in another scene of the miniature world: what neither changes nor is named
    (colour, kind, time, weather, style) is drawn anew, in the same words in both captions. So a few hundred
    hand-written instructions teach to copy captions of every length. `rng`: a `random.Random`."""
    try:
        before, after = parse(triplet["input"]), parse(triplet["output"])
    except ValueError:  # not of this world
        return triplet
    reason = disagreement(triplet["edit"], before, after)
    fixed = set(difference(before, after)) | {slot for slot, _ in mentions(triplet["edit"])}
    texts = [triplet["input"], triplet["output"]]
    texts, object_change = with_other_object(texts, before, after, fixed, rng)
    texts, scene_change = with_other_surroundings(texts, before, fixed, rng)
    change = object_change | scene_change
    texts = [with_articles(text) for text in texts]
    retold = triplet | {"input": texts[0], "output": texts[1]}
    try:
        meant = [replace(scene, **change) for scene in (before, after)]
        fits = [parse(text) for text in texts] == meant and disagreement(triplet["edit"], *meant) == reason
    except ValueError:  # there is no such scene, or no such sentence
        fits = False
    return retold if fits else triplet  # as it was written


def with_other_object(texts: list[str], before, after, fixed: set[str], rng) -> tuple[list[str], dict]:
    """Texts in which a single object mostly has another colour and kind, and these, unless they are
    `fixed`."""
    change = {}
    taken = (before.second or ()) + (after.second or ())
    for name in ("colour", "kind"):
        old = getattr(before, name)
        new = rng.choice(ATTRIBUTES[name])
        if name in fixed or new in taken or before.count != 1 or after.count != 1:
            continue
        if rng.random() < 0.7:
            change[name] = new
            texts = [re.sub(rf"\b{old}\b", new, text, count=1) for text in texts]
    return texts, change


def with_other_surroundings(texts: list[str], before, fixed: set[str], rng) -> tuple[list[str], dict]:
    """Texts that also say a time, weather and style, each half of the time, and these, unless they are
    `fixed`."""
    change = {}
    for name, wordings in (("time", TIME_AT), ("weather", WEATHER_IN), ("style", STYLE_IN)):
        if name in fixed or getattr(before, name) != DEFAULTS[name] or rng.random() < 0.5:
            continue
        value = rng.choice([value for value in ATTRIBUTES[name] if value != DEFAULTS[name]])
        change[name] = value
        said = choose_wording(wordings[value], rng)
        in_front = rng.random() < 0.3
        if name == "style":
            start = choose_wording(STYLE_OF[value], rng)
            texts = [f"{start} {text}" if in_front else f"{text}, {said}" for text in texts]
        else:
            texts = [f"{said}, {text}" if in_front else f"{text} {said}" for text in texts]
    return texts, change


def with_articles(text: str) -> str:
    """A text with "an" before vowels and "a" elsewhere."""
    return re.sub(r"\b(a|an) (?=([aeiou])|.)", lambda match: "an " if match[2] else "a ", text)
