"""What a caption says of the miniature world, and no more: `parse`. What it is silent about is unknown.

It goes in three steps. For "a tiny red cat and a blue dog on the beach":

1. `concepts` finds the words of this world: size small, colour red, kind cat, "and", colour blue, kind dog,
   "on", place beach.
2. `what_is_said` puts them together from left to right (`CaptionReader`): a small red cat, a blue dog, a
   beach.
3. `parse` names each by its attribute: kind cat, colour red, size small, second_kind dog ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ip2p.miniworld.scene import ATTRIBUTES, KINDS

# slot -> value -> its names. `_lexicon` adds the plurals of kinds, `SPELLINGS` the American spelling.
NAMES: dict[str, dict] = {
    "kind": {
        "cat": "cat|kitten|kitty|pussycat",
        "dog": "dog|puppy|pup|doggy|doggie|hound|pooch",
        "rabbit": "rabbit|bunny|bunny rabbit|hare",
        "duck": "duck|duckling|ducky",
        "owl": "owl|owlet",
        "elephant": "elephant",
        "robot": "robot|bot|droid|android",
        "rocket": "rocket|rocket ship|rocketship|spaceship|space rocket",
        "car": "car|automobile|motor car|motorcar",
        "boat": "boat|sailboat|sailing boat|ship|sailing ship",
        "house": "house|cottage|home|hut",
        "castle": "castle|fortress|palace",
        "tent": "tent|camping tent",
        "mushroom": "mushroom|toadstool",
        "teapot": "teapot|tea pot",
        "umbrella": "umbrella|parasol|brolly",
    },
    "colour": {
        "red": "red|scarlet|crimson|bright red",
        "orange": "orange|tangerine|bright orange",
        "yellow": "yellow|lemon yellow|bright yellow",
        "green": "green|emerald|emerald green|bright green",
        "blue": "blue|azure|sky blue|bright blue",
        "purple": "purple|violet|lilac|bright purple",
        "pink": "pink|rosy|rose pink|bright pink",
        "white": "white|snow white|bright white",
    },
    "size": {
        "small": "small|tiny|little|wee|mini|miniature",
        "large": "large|big|huge|giant|enormous|massive|gigantic",
        "medium": "medium|medium size|medium sized|mid sized|average sized|normal sized",
    },
    "count": {
        1: "one|single|lone|1",
        2: "two|a pair of|pair of|a couple of|couple of|2",
        3: "three|a trio of|trio of|3",
    },
    "position": {
        "left": "left|left side|left hand side",
        "right": "right|right side|right hand side",
        "centre": "middle|centre|centred",
    },
    "place": {
        "meadow": "meadow|green meadow|grassy meadow|field|green field|grassy field|grass|green grass|"
        "grassland|pasture",
        "beach": "beach|sandy beach|seaside|shore|seashore|coast|sea|ocean|seafront|shoreline",
        "desert": "desert|sandy desert|dune|dunes|sand dunes|desert sand",
        "mountains": "mountains|mountain|peaks|mountain peaks|mountainside|alps",
        "city": "city|big city|city street|city streets|town|downtown|street|streets|cityscape|skyline",
        "forest": "forest|green forest|wood|woods|woodland|trees|tall trees",
        "farm": "farm|farmyard|barnyard|farmland|barn",
    },
    "time": {
        "day": "day|daytime|day time|daylight|sunlit|midday|noon|morning|afternoon|sunlight",
        "sunset": "sunset|dusk|sundown|evening|twilight|golden hour|setting sun|sun sets|sun goes down|"
        "nightfall",
        "night": "night|nighttime|night time|midnight|moonlit|moonlight|moon|starlit|stars|starry|"
        "after dark|starry sky|starry night|late night|darkness",
    },
    "weather": {
        "clear": "clear|clear weather|clear sky|clear skies|blue sky|blue skies|clear blue sky|"
        "fine weather|dry weather|cloudless|cloudless sky|sky is blue|good weather",
        "rain": "rain|rainy|raining|rains|rainfall|pouring|pouring rain|heavy rain|falling rain|rain falls|"
        "rain falling|drizzle|downpour|wet|wet weather|rain clouds|rainy weather|rain is falling|"
        "rainstorm",
        "snow": "snow|snowy|snowing|snows|snowfall|falling snow|snow falls|snow falling|heavy snow|"
        "snowflakes|wintry|snowy weather|winter|snow is falling|wintry weather|snowstorm",
    },
    "style": {
        "illustration": "illustration|storybook illustration|picture book illustration|illustrated",
        "pencil sketch": "pencil sketch|sketch|pencil drawing|drawing|pencil|sketched|"
        "black and white pencil sketch|grey pencil sketch|drawn in pencil|"
        "sketched in pencil|pencils",
        "watercolour": "watercolour|watercolours|watercolour painting|painting|painted|aquarelle|"
        "painted in watercolour|water colour|water colours",
        "mosaic": "mosaic|tile mosaic|mosaic tiles|tiles|tiled|coloured tiles|little tiles|small tiles",
        "comic": "comic|comic book|comic strip|comic panel|comics|comic book panel|cartoon",
    },
    "extra": {
        "hat": "hat|hats|party hat|top hat|cap",
        "balloon": "balloon|balloons",
        "flag": "flag|flags|flagpole",
        "flowers": "flowers|flower|blossoms|bunch of flowers|flowers all around|wildflowers",
        "birds": "birds|bird|flock of birds|flying birds|birds overhead|birds flying overhead|"
        "birds flying by|birds flying|birds above|birds flying above|birds flying past",
    },
    # How two objects stand. True: the one named first stands to the right of the other.
    "beside": {
        False: "next to|beside|alongside|near|close to|by|with|and|accompanied by|together with|"
        "to the left of|left of|on the left of|standing by|standing next to|as well as|to its right|"
        "on its right",
        True: "to the right of|right of|on the right of",
    },
    "sunny": {True: "sunny|sunshine|bright sunshine"},
}

FRAME = "picture|image|scene|view|frame|page|landscape"

LINKS = set(  # they end a run of adjectives
    "in on at under among amid up high front from during while as of to inside behind over against above "
    "before around surrounded wearing holding carrying flying through".split()
)

FILLERS = set(
    "a an the is are it its there this that s here standing stands sitting sits parked stood seen shown set "
    "placed style version weather sky background some few several coloured size very cute lovely pretty "
    "beautiful nice just all them their falling softly gently being made out time light far side hand".split()
) | set(FRAME.split("|"))

IGNORED = LINKS | FILLERS

SPELLINGS = {
    "watercolor": "watercolour",
    "watercolors": "watercolours",
    "center": "centre",
    "centered": "centred",
    "gray": "grey",
    "colored": "coloured",
}


def plurals(name: str) -> list[str]:
    """The plurals of a noun that people write: "bunny" -> ["bunnys", "bunnies"], the right one last."""
    if name.endswith("y"):
        return [name + "s", name[:-1] + "ies"]
    return [name + "s"]


def _lexicon() -> dict[tuple[str, ...], tuple[str, object]]:
    """{words of a phrase: (slot, value)}; the slot of a plural is "kinds"."""
    lexicon = {}

    def add(phrase: str, slot: str, value: object) -> None:
        lexicon[tuple(phrase.split())] = (slot, value)

    for slot, values in NAMES.items():
        for value, names in values.items():
            for name in names.split("|"):
                add(name, slot, value)
    for kind, names in NAMES["kind"].items():
        for name in names.split("|"):
            for plural in plurals(name):
                add(plural, "kinds", kind)
    for side in ("left", "right"):  # "on the right of the picture" is a position, not a neighbour
        for frame in FRAME.split("|"):
            for start in ("", "on the", "to the", "at the"):
                add(f"{start} {side} of the {frame}", "position", side)
    return lexicon


LEXICON = _lexicon()

LONGEST = max(map(len, LEXICON))  # words of the longest phrase


# --- words to concepts --------------------------------------------------------------------------------------


class Concept(NamedTuple):
    """A phrase that the world knows."""

    slot: str  # a key of NAMES, "kinds" (a plural), "comma" (any punctuation) or "filler" (a word of IGNORED)
    value: object  # of that slot; None for "comma" and "filler"
    words: str  # as they stand in the caption

    @property
    def first_word(self) -> str:
        """It tells whether the phrase begins with a link, as "on the right" does."""
        return self.words.split()[0]


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case and British spelling."""
    text = text.lower().replace("’", "'").replace("n't", " not")
    words = re.findall(r"[a-z0-9]+|[,.;:]", text)
    return [SPELLINGS.get(word, word) for word in words]


def phrases(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Cut words into phrases of the lexicon, the longest that fits first; a word of none stands alone."""
    start = 0
    while start < len(words):
        length = 1
        for n in range(LONGEST, 1, -1):
            if tuple(words[start : start + n]) in LEXICON:
                length = n
                break
        phrase = tuple(words[start : start + length])
        yield phrase
        start += len(phrase)


def concepts(text: str) -> list[Concept]:
    """What a text names, in its order. Raises ValueError with all words that are not of this world."""
    found, unknown = [], []
    for phrase in phrases(split_words(text)):
        words = " ".join(phrase)
        if phrase in LEXICON:
            found.append(Concept(*LEXICON[phrase], words))
        elif not words.isalnum():
            found.append(Concept("comma", None, words))
        elif words in IGNORED:
            found.append(Concept("filler", None, words))
        elif repr(words) not in unknown:
            unknown.append(repr(words))
    if unknown:
        raise ValueError(f"not in the miniature world: {', '.join(unknown)}")
    return found


# --- concepts to what is said -------------------------------------------------------------------------------


@dataclass
class Said:
    """What a caption says, and nothing else: what is not in here was left unsaid."""

    # "kind" and, where said, "colour", "size" and "count" of each object, as they are named
    objects: list[dict] = field(default_factory=list)
    # Where said: "place", "time", "weather", "style", "position"
    setting: dict = field(default_factory=dict)
    # Those that are named, in any order
    extras: list[str] = field(default_factory=list)
    # The object named first stands to the right of the second
    first_is_right: bool = False


def _agree(target: dict, slot: str, value: object, owner: str) -> None:
    """Note one more thing about `owner`. Raises ValueError where something else has been said before."""
    before = target.setdefault(slot, value)
    if before != value:
        raise ValueError(f"{owner} is both {before} and {value}; say one {slot}")


class CaptionReader:
    """Takes concepts from left to right and gathers in `said` what they mean together.

    Adjectives (colour, size, count) wait for their noun: "a red cat". Where none follows, because an article,
    a link ("in"), a comma or the end comes first, they belong to the noun before them: "the cat is red".
    """

    def __init__(self):
        self.said = Said()
        self.adjectives: dict = {}  # those whose noun has not come yet
        self.links: set[str] = set()  # "in", "under", ... directly before the noun phrase
        self.after_article = False  # "a big, red cat": here a comma separates adjectives

    def read(self, concept: Concept) -> None:
        """Take the next concept. Raises ValueError where it contradicts what came before."""
        if concept.slot in ("colour", "size", "count"):
            _agree(self.adjectives, concept.slot, concept.value, "one object")
        elif concept.slot == "filler":
            self.read_filler(concept.words)
        elif concept.slot == "beside":
            self.read_beside(concept)
        else:
            if concept.slot in ("kind", "kinds"):
                self.read_noun(concept)
            elif concept.slot == "comma":
                self.read_comma()
            else:
                self.read_setting(concept)
            self.links = set()

    def read_noun(self, noun: Concept) -> None:
        """The next object, with the adjectives before it."""
        objects = self.said.objects
        if objects and self.links:
            raise ValueError(f"two objects stand side by side, not one {max(self.links)} the other")
        if noun.value in [known["kind"] for known in objects]:
            raise ValueError(f"the {noun.value} is named twice; say how many there are instead")
        if noun.slot == "kinds" and "count" not in self.adjectives:
            raise ValueError(f"say how many {noun.words} there are: two or three")
        objects.append({**self.adjectives, "kind": noun.value})
        self.adjectives = {}
        self.after_article = False

    def read_comma(self) -> None:
        """A comma ends a noun phrase, except among its adjectives."""
        if not self.after_article:
            self.settle_adjectives()

    def read_filler(self, word: str) -> None:
        """A word without a value: an article begins a noun phrase, a link ends the one before."""
        article = word in ("a", "an", "the")
        if article or word in LINKS:
            self.settle_adjectives()
        if article:
            self.after_article = True
        if word in LINKS:
            self.links.add(word)

    def read_beside(self, concept: Concept) -> None:
        """ "next to", "and": another object follows; "red and white" is still one run of adjectives."""
        if concept.words != "and":
            self.settle_adjectives()
        if concept.value:
            self.said.first_is_right = True
        self.links = set()

    def read_setting(self, concept: Concept) -> None:
        """Place, time, weather, style, position or an extra."""
        slot, value, words = concept
        if concept.first_word in LINKS or concept.first_word == "after":
            self.settle_adjectives()
        if self.adjectives:
            adjectives = " and ".join(map(str, self.adjectives.values()))
            raise ValueError(
                f"{words!r} cannot be {adjectives} here; only objects have a colour, a size and a count"
            )
        if slot == "extra":
            self.said.extras.append(value)
        elif slot == "sunny":
            _agree(self.said.setting, "time", "day", "the scene")
            _agree(self.said.setting, "weather", "clear", "the scene")
        else:
            _agree(self.said.setting, slot, value, "the scene")
        self.after_article = False

    def settle_adjectives(self) -> None:
        """Adjectives that no noun has followed belong to the noun before them, if there is one."""
        if not self.said.objects:
            return
        noun = self.said.objects[-1]
        for slot, value in self.adjectives.items():
            _agree(noun, slot, value, f"the {noun['kind']}")
        self.adjectives = {}


def what_is_said(text: str) -> Said:
    """What a caption says of objects, setting and extras, by object, setting and extra.

    Raises ValueError where a word is not of this world, where the caption contradicts itself, and where it
    puts one object into another.
    """
    reader = CaptionReader()
    for concept in concepts(text):
        reader.read(concept)
    reader.settle_adjectives()
    return reader.said


# --- what is said, by attribute -----------------------------------------------------------------------------


def parse(text: str) -> dict[str, object]:
    """What a caption says, and no more: {attribute: value}, keyed like `ATTRIBUTES`. Silent means unknown.

    "kind" and "count" are always there (a noun in the singular is one object); an extra, or a second object,
    is there where it is named. Raises ValueError, in one sentence, where a word is not of this world,
    where no object is named, and where the caption contradicts itself or asks for what the world cannot
    hold."""
    said = what_is_said(text)
    _check_objects_are_named(said)
    first, second = _in_order(said)
    _check_the_world_holds(first, second, said.setting)
    attributes = {"count": 1, **first, **said.setting}
    for extra in said.extras:
        attributes[extra] = True
    if second:
        attributes["second_kind"] = second["kind"]
        if "colour" in second:
            attributes["second_colour"] = second["colour"]
    return {name: attributes[name] for name in ATTRIBUTES if name in attributes}


def agrees(caption: str, attributes: dict[str, object]) -> bool:
    """Whether a picture with these attributes (a scene's, or as the judge reads them) shows what a caption
    says."""
    return all(attributes[name] == value for name, value in parse(caption).items())


def is_said(text: str) -> bool:
    """Whether a text is a caption of this world."""
    try:
        return bool(parse(text))
    except ValueError:
        return False


def say_the_same(text: str, other: str) -> bool:
    """Whether two texts are captions of this world, and say the same."""
    return is_said(text) and is_said(other) and parse(text) == parse(other)


def _check_objects_are_named(said: Said) -> None:
    """One or two objects; else ValueError."""
    if not said.objects:
        raise ValueError(f"no object is named; say one of {', '.join(KINDS)}")
    if len(said.objects) > 2:
        raise ValueError("more than two different objects; a scene holds at most two")


def _in_order(said: Said) -> tuple[dict, dict | None]:
    """The object on the left, or the only one, and the one to its right."""
    first, *others = said.objects
    if not others:
        return first, None
    return (others[0], first) if said.first_is_right else (first, others[0])


def _check_the_world_holds(first: dict, second: dict | None, setting: dict) -> None:
    """ValueError for a combination that no scene can hold."""
    several = first.get("count", 1) > 1
    if second and (second.get("count", 1) > 1 or several):
        raise ValueError("beside a second object there is only one of each")
    if second and "size" in second:
        raise ValueError(f"only the first object has a size, not the {second['kind']} beside it")
    if setting.get("position", "centre") != "centre" and (second or several):
        raise ValueError("only a single object can stand left or right")
