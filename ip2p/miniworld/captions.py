"""The miniature world in words: captions, which say a part of a scene and leave the rest open, as people's
do.

What a caption is silent about is *unknown*: "a cat at night" may be any cat, anywhere, in any style. Kind and
number are always said, the rest now and then (`what_to_say`). `parse` (in `parsing.py`) reads one back.

Wordings are templates: "(a|b|)" stands for one of its alternatives (the first one where nothing is
random). Every part of a caption draws its wording from a seed of its own, so the two captions of an edit
(`caption_pair`) are worded alike but for what changes."""

from __future__ import annotations

import random
from pathlib import Path

from ip2p.miniworld.language import (
    NICKNAMES,
    NUMBERS,
    PLACE_AT,
    POSITION_AT,
    SIZE_WORDS,
    STYLE_IN,
    STYLE_OF,
    TIME_AT,
    TIME_NOUN,
    WEATHER_ADJECTIVE,
    WEATHER_IN,
    choose_wording,
    extra_wording,
)
from ip2p.miniworld.parsing import plurals
from ip2p.miniworld.scene import ATTRIBUTES, EXTRAS, Scene, as_random, asked, edit_kind, random_scene

# "a picture of" would leave the style open; here it is said.
STYLE_FIRST = STYLE_OF | {"illustration": "(an illustration|a picture book illustration) of"}
BESIDE = "(next to|beside|and|near|with)"

# How often a caption says a thing that the scene has: of those by terse, ordinary and thorough writers.
WRITERS = (0.45, 0.45, 0.10)
CHANCES = {
    "colour": (0.45, 0.70, 1.0),
    "size": (0.10, 0.30, 1.0),
    "position": (0.15, 0.40, 1.0),
    "place": (0.35, 0.65, 1.0),
    "time": (0.15, 0.40, 1.0),
    "weather": (0.08, 0.30, 1.0),
    "style": (0.15, 0.35, 1.0),
    "extra": (0.40, 0.70, 1.0),
    "second_kind": (0.60, 0.85, 1.0),
    "second_colour": (0.50, 0.70, 1.0),
}
# What people expect anyway they say less often: so many times as often as the rest.
EXPECTED = {"medium": 0.3, "centre": 0.2, "day": 0.6, "clear": 0.6, "illustration": 0.6}
TAGS = 0.06  # the share of captions that are lists: "red cat, forest, night"


def what_to_say(scene: Scene, rng: random.Random) -> set[str]:
    """A random choice of the scene's attributes (names of `ATTRIBUTES`), as people's captions mention them.

    Kind and number always are; what is not there (no hat, no second object) never is.
    """
    writer = rng.choices((0, 1, 2), WRITERS)[0]
    attributes = scene.attributes()
    said = {"kind", "count"}
    for name in ATTRIBUTES:
        value = attributes[name]
        chance = CHANCES.get("extra" if name in EXTRAS else name)
        if chance is None or value in (None, False):
            continue
        if rng.random() < chance[writer] * EXPECTED.get(value, 1.0):
            said.add(name)
    if "second_kind" not in said:
        said.discard("second_colour")
    return said


def caption(
    scene: Scene,
    rng: random.Random | int | None = None,
    say: set[str] | None = None,
    wording: int | None = None,
) -> str:
    """Words for a scene.

    say: the names of the attributes to say, "kind" and "count" among them. None: a random part of them,
    as people do, or, without an `rng`, everything. rng: a `random.Random` or a seed; None takes the
    plain wording. wording: a seed for the wording alone. Raises ValueError for a name that is no
    attribute."""
    rng = None if rng is None else as_random(rng)
    if say is None:
        say = what_to_say(scene, rng) if rng else set(ATTRIBUTES)
    if unknown := say - set(ATTRIBUTES):
        raise ValueError(f"{sorted(unknown)[0]!r} is no attribute; choose from {', '.join(ATTRIBUTES)}")
    if rng and wording is None:
        wording = rng.randrange(2**62)
    return Words(scene, say, wording).caption()


def caption_pair(before: Scene, after: Scene, rng: random.Random) -> tuple[str, str]:
    """The captions of an edit, worded alike: the second says what the first one says, and all that changed.

    What is taken away has been said before, and of two objects that change places each; what else changes
    may or may not. Both are partial (see `what_to_say`).
    """
    changed = set(asked(before, after))
    taken_away = {name for name in changed if after.attributes()[name] in (None, False)}
    if edit_kind(before, after) == "swap":
        taken_away = changed
    say = what_to_say(before, rng) | taken_away
    wording = rng.randrange(2**62)
    return caption(before, say=say, wording=wording), caption(after, say=say | changed, wording=wording)


def write_captions(path: str | Path, n: int = 3000, seed: int = 0) -> None:
    """Write `n` distinct captions of random scenes, one a line (`data/captions/mini.txt` is made so)."""
    rng = random.Random(seed)
    captions: dict[str, None] = {}  # as keys: each once, in their order
    while len(captions) < n:
        captions[caption(random_scene(rng), rng)] = None
    Path(path).write_text("\n".join(captions) + "\n", encoding="utf-8")


class Words:
    """The parts of one caption. Each draws its wording from (seed, name of the part); seed None: the
    plain one."""

    def __init__(self, scene: Scene, say: set[str], seed: int | None):
        self.scene = scene
        self.say = say
        self.seed = seed

    def chance(self, part: str) -> float:
        """A number in [0, 1) that belongs to the part; the plain caption's is so high that nothing rare
        is done."""
        return 0.99 if self.seed is None else random.Random(f"{self.seed} {part}").random()

    def fill(self, part: str, template: str) -> str:
        """A template in the part's own wording."""
        rng = None if self.seed is None else random.Random(f"{self.seed} {part} words")
        return choose_wording(template, rng)

    def caption(self) -> str:
        if self.chance("form") < TAGS:
            return self.tags()
        style_first = "style" in self.say and (self.seed is None or self.chance("style") < 0.6)
        start = self.fill("style", STYLE_FIRST[self.scene.style]) + " " if style_first else ""
        things = [word for word in (self.objects(), *self.additions()) if word]
        where = self.circumstances()
        if not style_first and where and self.chance("front") < 0.15:
            start = where.pop(0) + ", "
        comma = "," if self.chance("comma") < 0.2 else ""
        text = start + " ".join(things)
        for phrase in where:
            text += f"{comma} {phrase}"
        if "style" in self.say and not style_first:
            text += ", " + self.fill("style", STYLE_IN[self.scene.style])
        return choose_wording(text, None)

    def objects(self) -> str:
        """ "three tiny blue owls"."""
        scene = self.scene
        noun = scene.kind
        if noun in NICKNAMES and self.chance("nickname") < 0.1:
            noun = self.fill("nickname", f"({NICKNAMES[noun]})")
        number = "a"
        if scene.count > 1:
            noun = plurals(noun)[-1]
            number = NUMBERS[scene.count]
        size = self.fill("size", SIZE_WORDS[scene.size]) if "size" in self.say else ""
        colour = scene.colour if "colour" in self.say else ""
        return " ".join(word for word in (number, size, colour, noun) if word)

    def additions(self) -> list[str]:
        """What is with the object: extras, and the second object."""
        said = [name for name in self.scene.extras if name in self.say]
        phrases = [self.fill(name, extra_wording(self.scene, name)) for name in said]
        if self.scene.second and "second_kind" in self.say:
            kind, colour = self.scene.second
            colour = f"{colour} " if "second_colour" in self.say else ""
            second = f"{self.fill('second', BESIDE)} a {colour}{kind}"
            phrases.insert(0 if self.chance("second") < 0.7 else len(phrases), second)
        *listed, last = phrases or [""]
        return [", ".join(listed), "and", last] if listed else [last]

    def circumstances(self) -> list[str]:
        """Position, place, time and weather, each in words of its own, or two in one: "on a rainy beach"."""
        scene, say = self.scene, self.say
        adjective = ""
        merged: set[str] = set()
        if {"place", "weather"} <= say and scene.weather != "clear" and self.chance("weather") < 0.35:
            adjective = self.fill("weather", WEATHER_ADJECTIVE[scene.weather])
            merged.add("weather")
        elif {"place", "time"} <= say and scene.time == "night" and self.chance("time") < 0.15:
            adjective = "moonlit"
            merged.add("time")
        elif {"time", "weather"} <= say and self.chance("weather") < 0.6:
            merged.add("weather")  # "on a rainy evening"
        phrases = {}
        if "position" in say:
            phrases["position"] = self.fill("position", POSITION_AT[scene.position])
        if "place" in say:
            place = PLACE_AT[scene.place].replace("{}", adjective + " " if adjective else "")
            phrases["place"] = self.fill("place", place)
        if "time" in say and "time" not in merged:
            phrases["time"] = self.fill("time", TIME_AT[scene.time])
            if "weather" in merged and not adjective:
                weather = self.fill("weather", WEATHER_ADJECTIVE[scene.weather])
                phrases["time"] = f"on a {weather} {TIME_NOUN[scene.time]}"
        if "weather" in say and "weather" not in merged:
            phrases["weather"] = self.fill("weather", WEATHER_IN[scene.weather])
        if self.chance("order") < 0.2:
            return [phrases[part] for part in sorted(phrases, key=self.chance)]
        return list(phrases.values())

    def tags(self) -> str:
        """A caption as a list: "red cat, forest, night, watercolour"."""
        scene, say = self.scene, self.say
        article = self.chance("article") < 0.5
        head = self.objects()
        if scene.count == 1 and not article:
            head = head.removeprefix("a ")
        tags = {name: getattr(scene, name) for name in ("place", "time", "weather", "style") if name in say}
        if "position" in say:
            tags["position"] = choose_wording(POSITION_AT[scene.position], None)
        tags |= {name: name for name in scene.extras if name in say}
        if scene.second and "second_kind" in say:
            kind, colour = scene.second
            head += f", {colour} {kind}" if "second_colour" in say else f", {kind}"
        listed = [tags[part] for part in sorted(tags, key=self.chance)]
        return choose_wording(", ".join([head, *listed]), None)
