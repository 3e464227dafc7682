"""The miniature world in words: captions, which say a part of a scene and leave the rest open, as people's
do.

What a caption is silent about is *unknown*: "a cat at night" may be any cat, anywhere, in any style. Kind and
number are always said, the rest now and then (`what_to_say`). `attributes_said` (in `parsing.py`) reads
one back.

Wordings are templates: "(a|b|)" stands for one of its alternatives (the first one where nothing is
random). Every part of a caption draws its wording from a seed of its own, so the two captions of an edit
(`caption_pair`) are worded alike but for what changes."""

from __future__ import annotations

import random
import re

from ip2p.miniworld.parsing import plurals
from ip2p.miniworld.scene import ATTRIBUTES, EXTRAS, Scene, difference

ALIVE = ("cat", "dog", "rabbit", "duck", "owl", "elephant", "robot")
NICKNAMES = {
    "cat": "(kitten|kitty)",
    "dog": "puppy",
    "rabbit": "bunny",
    "duck": "duckling",
    "rocket": "spaceship",
    "boat": "(sailboat|ship)",
    "house": "cottage",
    "mushroom": "toadstool",
}
NUMBERS = {1: "a", 2: "two", 3: "three"}
SIZES = {
    "small": "(small|tiny|little|small)",
    "medium": "(medium-sized|medium)",
    "large": "(large|big|huge|giant)",
}
PLACES = {  # {} is an adjective of the weather or the time, or nothing
    "meadow": "in (a|the) {}(meadow|meadow|grassy field|field)",
    "beach": "(on a {}beach|on the {}beach|by the {}sea|at the {}seaside|on the {}shore)",
    "desert": "(in the {}desert|in a {}desert|in the {}desert|among the {}dunes)",
    "mountains": "(in the {}mountains|up in the {}mountains|high in the {}mountains)",
    "city": "(in a {}city|in the {}city|in a {}town|on a {}city street)",
    "forest": "(in a {}forest|in the {}forest|in the {}woods|among the {}trees)",
    "farm": "(on a {}farm|on the {}farm|at a {}farm|in a {}farmyard)",
}
TIMES = {
    "day": "(by day|in daylight|during the day|in the daytime)",
    "sunset": "(at sunset|at sunset|at dusk|in the evening|at sundown|as the sun sets|in the evening light)",
    "night": "(at night|at night|by night|at night time|after dark|in the moonlight|under the stars)",
}
WEATHERS = {
    "clear": "(in clear weather|under a clear sky|in fine weather)",
    "rain": "(in the rain|in the rain|in the pouring rain|while it rains|in rainy weather)",
    "snow": "(in the snow|in falling snow|under falling snow|while it snows|in snowy weather)",
}
TIME_NOUNS = {"day": "day", "sunset": "evening", "night": "night"}
WEATHER_ADJECTIVES = {"clear": "clear", "rain": "rainy", "snow": "(snowy|wintry)"}
STYLES_FIRST = {
    "illustration": "(an illustration|a picture book illustration) of",
    "pencil sketch": "a pencil (sketch|sketch|drawing) of",
    "watercolour": "a (watercolour|watercolor|watercolour painting|watercolor painting) of",
    "mosaic": "a (mosaic|tile mosaic|mosaic) of",
    "comic": "a comic (picture|panel|strip|book picture) of",
}
STYLES_LAST = {
    "illustration": "(illustration|as an illustration)",
    "pencil sketch": "(in pencil|pencil sketch|as a pencil sketch|drawn in pencil)",
    "watercolour": "(in watercolour|in watercolor|watercolour painting|painted in watercolour)",
    "mosaic": "(as a mosaic|mosaic|mosaic style|made of tiles)",
    "comic": "(comic style|in comic style|as a comic|comic book style)",
}
POSITIONS = {
    "left": "(on the left|on the left|on the left side|to the left|at the left)",
    "centre": "(in the middle|in the centre|in the center)",
    "right": "(on the right|on the right|on the right side|to the right|at the right)",
}
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


def fill(template: str, rng: random.Random | None) -> str:
    """A template with one alternative of every "(a|b)" chosen, innermost first; blanks and articles
    tidied."""

    def choose(match: re.Match) -> str:
        alternatives = match[1].split("|")
        return rng.choice(alternatives) if rng else alternatives[0]

    while "(" in template:
        template = re.sub(r"\(([^()]*)\)", choose, template)
    text = re.sub(r" +(?=[ ,.?!])", "", template).strip()
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


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
    rng = random.Random(rng) if isinstance(rng, int) else rng
    if say is None:
        say = what_to_say(scene, rng) if rng else set(ATTRIBUTES)
    if unknown := say - set(ATTRIBUTES):
        raise ValueError(f"{sorted(unknown)[0]!r} is no attribute; choose from {', '.join(ATTRIBUTES)}")
    if rng and wording is None:
        wording = rng.randrange(2**62)
    return Words(scene, say, wording).caption()


def caption_pair(before: Scene, after: Scene, rng: random.Random) -> tuple[str, str]:
    """The captions of an edit, worded alike: the second says what the first one says, and all that changed.

    What is taken away has been said before; what else changes may or may not. Both are partial (see
    `what_to_say`).
    """
    changed = set(difference(before, after))
    if changed & {"count", "second_kind"}:
        changed.discard("position")  # a row or a second object moves a single one to the middle: unsaid
    taken_away = {name for name in changed if after.attributes()[name] in (None, False)}
    say = what_to_say(before, rng) | taken_away
    wording = rng.randrange(2**62)
    return caption(before, say=say, wording=wording), caption(after, say=say | changed, wording=wording)


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
        return fill(template, None if self.seed is None else random.Random(f"{self.seed} {part} words"))

    def caption(self) -> str:
        if self.chance("form") < TAGS:
            return self.tags()
        style_first = "style" in self.say and (self.seed is None or self.chance("style") < 0.6)
        start = self.fill("style", STYLES_FIRST[self.scene.style]) + " " if style_first else ""
        things = [word for word in (self.objects(), *self.additions()) if word]
        where = self.circumstances()
        if not style_first and where and self.chance("front") < 0.15:
            start = where.pop(0) + ", "
        comma = "," if self.chance("comma") < 0.2 else ""
        text = start + " ".join(things)
        for phrase in where:
            text += f"{comma} {phrase}"
        if "style" in self.say and not style_first:
            text += ", " + self.fill("style", STYLES_LAST[self.scene.style])
        return fill(text, None)

    def objects(self) -> str:
        """ "three tiny blue owls"."""
        scene = self.scene
        noun = scene.kind
        if noun in NICKNAMES and self.chance("nickname") < 0.1:
            noun = self.fill("nickname", NICKNAMES[noun])
        if scene.count > 1:
            noun = plurals(noun)[-1]
        size = self.fill("size", SIZES[scene.size]) if "size" in self.say else ""
        colour = scene.colour if "colour" in self.say else ""
        return " ".join(word for word in (NUMBERS[scene.count], size, colour, noun) if word)

    def additions(self) -> list[str]:
        """What is with the object: extras, and the second object."""
        phrases = [self.extra(name) for name in self.scene.extras if name in self.say]
        if self.scene.second and "second_kind" in self.say:
            kind, colour = self.scene.second
            colour = f"{colour} " if "second_colour" in self.say else ""
            second = f"{self.fill('second', BESIDE)} a {colour}{kind}"
            phrases.insert(0 if self.chance("second") < 0.7 else len(phrases), second)
        *listed, last = phrases or [""]
        return [", ".join(listed), "and", last] if listed else [last]

    def extra(self, name: str) -> str:
        """An extra, as it is said after the object: "wearing a hat"."""
        many = self.scene.count > 1
        hat = "hats" if many else "a hat"
        balloon = "balloons" if many else "a balloon"
        holding = f"(with {balloon}|holding {balloon})" if self.scene.kind in ALIVE else f"with {balloon}"
        templates = {
            "hat": f"(with {hat}|wearing {hat}|with {hat} on|in {hat})",
            "flag": "(with a flag|next to a flag|by a flag)",
            "balloon": holding,
            "flowers": "(with flowers|among flowers|surrounded by flowers|with some flowers)",
            "birds": "(with birds|with birds overhead|with birds in the sky|with some birds)",
        }
        return self.fill(name, templates[name])

    def circumstances(self) -> list[str]:
        """Position, place, time and weather, each in words of its own, or two in one: "on a rainy beach"."""
        scene, say = self.scene, self.say
        adjective = ""
        merged: set[str] = set()
        if {"place", "weather"} <= say and scene.weather != "clear" and self.chance("weather") < 0.35:
            adjective = self.fill("weather", WEATHER_ADJECTIVES[scene.weather])
            merged.add("weather")
        elif {"place", "time"} <= say and scene.time == "night" and self.chance("time") < 0.15:
            adjective = "moonlit"
            merged.add("time")
        elif {"time", "weather"} <= say and self.chance("weather") < 0.6:
            merged.add("weather")  # "on a rainy evening"
        phrases = {}
        if "position" in say:
            phrases["position"] = self.fill("position", POSITIONS[scene.position])
        if "place" in say:
            place = PLACES[scene.place].replace("{}", adjective + " " if adjective else "")
            phrases["place"] = self.fill("place", place)
        if "time" in say and "time" not in merged:
            phrases["time"] = self.fill("time", TIMES[scene.time])
            if "weather" in merged and not adjective:
                weather = self.fill("weather", WEATHER_ADJECTIVES[scene.weather])
                phrases["time"] = f"on a {weather} {TIME_NOUNS[scene.time]}"
        if "weather" in say and "weather" not in merged:
            phrases["weather"] = self.fill("weather", WEATHERS[scene.weather])
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
            tags["position"] = POSITIONS[scene.position].split("|")[0].lstrip("(")
        tags |= {name: name for name in scene.extras if name in say}
        if scene.second and "second_kind" in say:
            kind, colour = scene.second
            head += f", {colour} {kind}" if "second_colour" in say else f", {kind}"
        listed = [tags[part] for part in sorted(tags, key=self.chance)]
        return fill(", ".join([head, *listed]), None)
