"""The same instruction in other captions of the miniature world, so that a few hundred hand-written triplets
teach a language model to copy captions of every length."""

from __future__ import annotations

import random

from ip2p.miniworld.captions import caption, what_to_say
from ip2p.miniworld.lies import changes, lie, mentions
from ip2p.miniworld.parsing import parse
from ip2p.miniworld.scene import ATTRIBUTES, EXTRAS, Said, Scene, random_scene

REDRAWN = 0.7  # how often a value that the instruction does not concern is another one ...
KIND_REDRAWN = 0.35  # ... and the object, of which it may speak without its name ("row it over to the city")

REDRAWABLE = ("kind", "colour", "size", "place", "time", "weather", "style")
MAY_BE_UNSAID = ("colour", "place", "time", "weather", "style")


def scene_with(said: Said, other: Scene) -> Scene:
    """A scene of which a caption says `said`; what it leaves open is as in `other`. Raises ValueError if the
    world holds no such scene."""
    values = {}
    for name in ATTRIBUTES:
        if hasattr(other, name):
            values[name] = said.get(name, getattr(other, name))
    second = None
    if "second_kind" in said:
        second = (said["second_kind"], said.get("second_colour", "red"))
    if values["count"] > 1 or second:
        values["position"] = said.get("position", "centre")
    extras = tuple(name for name in EXTRAS if name in said)
    return Scene(**values, extras=extras, second=second)


def retell(triplet: dict, rng: random.Random) -> dict:
    """The triplet in other captions: what its edit neither changes nor names is drawn anew, said or left
    unsaid at random. Returns the triplet as it was where that fails, as for captions that are not of
    this world."""
    try:
        before = parse(triplet["input"])
        after = parse(triplet["output"])
    except ValueError:
        return triplet
    fixed = concerned(triplet["edit"], before, after)
    other = random_scene(rng)
    new_values = redrawn(before, after, fixed, other, rng)
    told_before = before | new_values
    told_after = after | new_values
    say = what_to_say(other, rng)
    for name in MAY_BE_UNSAID:
        if name in fixed:
            continue
        if name in before and name not in say:
            del told_before[name], told_after[name]
        elif name not in before and name in say:
            told_before[name] = told_after[name] = getattr(other, name)
    wording = rng.randrange(2**62)
    told = dict(triplet)
    try:
        told["input"] = caption(scene_with(told_before, other), say=set(told_before), wording=wording)
        told["output"] = caption(scene_with(told_after, other), say=set(told_after), wording=wording)
        understood_before = parse(told["input"]) == told_before
        understood_after = parse(told["output"]) == told_after
        as_true = lie(triplet["edit"], told_before, told_after) == lie(triplet["edit"], before, after)
    except ValueError:  # there is no such scene, or no such sentence
        return triplet
    return told if understood_before and understood_after and as_true else triplet


def concerned(edit: str, before: Said, after: Said) -> set[str]:
    """The attributes and extras that an edit changes, or of which its words speak."""
    names = set(changes(before, after))
    for mention in mentions(edit):
        slot, value = mention.fact
        if slot == "extra":
            names.add(value)
        else:
            names |= {slot, f"second_{slot}"}
    return names


def redrawn(before: Said, after: Said, fixed: set[str], other: Scene, rng: random.Random) -> Said:
    """New values, those of `other`, for some of the attributes that are said and not `fixed`."""
    second_kinds = (before.get("second_kind"), after.get("second_kind"))
    new_values = {}
    for name in REDRAWABLE:
        if name in fixed or name not in before:
            continue
        if rng.random() > (KIND_REDRAWN if name == "kind" else REDRAWN):
            continue
        value = getattr(other, name)
        if name == "kind" and value in second_kinds:  # two of a kind are no first and second object
            continue
        new_values[name] = value
    return new_values
