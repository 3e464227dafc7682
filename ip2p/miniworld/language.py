"""The miniature world in words: the wordings of captions (`captions.py` puts them together), and
`instruction`, which asks for an edit as people type it.

Wordings are templates: "(a|b|)" stands for one of its alternatives. Everywhere `rng` is a `random.Random`,
which varies the wording, or None for the plain one: then the first alternative is taken, and nothing rare is
said.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import NamedTuple

from ip2p.miniworld.parsing import plurals
from ip2p.miniworld.scene import EXTRAS, SIZES, Scene, as_random, asked, edit_kind

# --- captions -----------------------------------------------------------------------------------------------

ALIVE = ("cat", "dog", "rabbit", "duck", "owl", "elephant", "robot")

NICKNAMES = {
    "cat": "kitten|kitty",
    "dog": "puppy",
    "rabbit": "bunny",
    "duck": "duckling",
    "rocket": "spaceship",
    "boat": "sailboat|ship",
    "house": "cottage",
    "mushroom": "toadstool",
}

NUMBERS = {1: "one", 2: "two", 3: "three"}

SIZE_WORDS = {
    "small": "(small|tiny|little|small)",
    "medium": "(medium-sized|medium)",
    "large": "(large|big|huge|giant)",
}

PLACE_AT = {
    "meadow": "in (a|the) {}(meadow|meadow|grassy field|field)",
    "beach": "(on a {}beach|on the {}beach|by the {}sea|at the {}seaside|on the {}shore)",
    "desert": "(in the {}desert|in a {}desert|in the {}desert|among the {}dunes)",
    "mountains": "(in the {}mountains|up in the {}mountains|high in the {}mountains)",
    "city": "(in a {}city|in the {}city|in a {}town|on a {}city street)",
    "forest": "(in a {}forest|in the {}forest|in the {}woods|among the {}trees)",
    "farm": "(on a {}farm|on the {}farm|at a {}farm|in a {}farmyard)",
}

TIME_AT = {
    "day": "(by day|in daylight|during the day|in the daytime)",
    "sunset": "(at sunset|at sunset|at dusk|in the evening|at sundown|as the sun sets|in the evening light)",
    "night": "(at night|at night|by night|at night time|after dark|in the moonlight|under the stars)",
}

TIME_NOUN = {"day": "day", "sunset": "evening", "night": "night"}

WEATHER_ADJECTIVE = {"clear": "clear", "rain": "rainy", "snow": "(snowy|wintry)"}

WEATHER_IN = {
    "clear": "(in clear weather|under a clear sky|in fine weather)",
    "rain": "(in the rain|in the rain|in the pouring rain|while it rains|in rainy weather)",
    "snow": "(in the snow|in falling snow|under falling snow|while it snows|in snowy weather)",
}

STYLE_OF = {
    "illustration": "(an illustration|a picture) of",
    "pencil sketch": "a pencil (sketch|sketch|drawing) of",
    "watercolour": "a (watercolour|watercolor|watercolour painting|watercolor painting) of",
    "mosaic": "a (mosaic|tile mosaic|mosaic) of",
    "comic": "a comic (picture|panel|strip|book picture) of",
}

STYLE_IN = {
    "illustration": "illustration",
    "pencil sketch": "(in pencil|pencil sketch|as a pencil sketch|drawn in pencil)",
    "watercolour": "(in watercolour|in watercolor|watercolour painting|painted in watercolour)",
    "mosaic": "(as a mosaic|mosaic|mosaic style|made of tiles)",
    "comic": "(comic style|in comic style|as a comic|comic book style)",
}

POSITION_AT = {
    "left": "(on the left|on the left|on the left side|to the left|at the left)",
    "right": "(on the right|on the right|on the right side|to the right|at the right)",
    "centre": "in the (middle|centre|center)",
}


def choose_wording(template: str, rng: random.Random | None) -> str:
    """Choose among every "(a|b)", innermost first; tidy blanks and articles ("a owl" -> "an owl")."""

    def choose(brackets: re.Match) -> str:
        alternatives = brackets[1].split("|")
        return rng.choice(alternatives) if rng else alternatives[0]

    while "(" in template:
        template = re.sub(r"\(([^()]*)\)", choose, template)
    text = re.sub(r" +(?=[ ,.?!])", "", template).strip()
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _generator(rng: random.Random | int | None) -> random.Random | None:
    return None if rng is None else as_random(rng)


def _chance(rng: random.Random | None) -> float:
    """A random number in [0, 1), to be compared with how often something rare is said; without `rng`
    never."""
    return rng.random() if rng else 1.0


def extra_wording(scene: Scene, extra: str) -> str:
    """A template that says the extra after the object: "wearing a hat"."""
    hat, balloon = ("hats", "balloons") if scene.count > 1 else ("a hat", "a balloon")
    templates = {
        "hat": f"(with {hat}|wearing {hat}|with {hat} on|in {hat})",
        "flag": "(with a flag|next to a flag|by a flag)",
        "balloon": f"with {balloon}",
        "flowers": "(with flowers|among flowers|surrounded by flowers|with some flowers)",
        "birds": "(with birds|with birds overhead|with birds in the sky|with some birds)",
    }
    if scene.kind in ALIVE:
        templates["balloon"] = f"(with {balloon}|holding {balloon})"
    return templates[extra]


# --- instructions -------------------------------------------------------------------------------------------

# How a request is put. {do}: an imperative ("make it night"); {s}, {p}: subject and predicate ("it",
# "night"), {o}: the subject as an object ("them"); {np}: what is wanted ("a night scene").
DO = "{do}"

DO_POLITELY = (
    "(please {do}|{do} please|{do}, please|(could|can|would) you (please |){do}?|"
    "i('d like| want) you to {do}|let's {do}|(now|next|ok, now|then) {do}|just {do}|"
    "why not {do}?|(go ahead and|try to) {do}|we should {do}|you could {do}|"
    "would you mind if we {do}?|i think you should {do})"
)

BE = (
    "(what if {s} were {p}?|{s} should be {p}|imagine {s} were {p}|i wish {s} were {p}|let {o} be {p}|"
    "have {o} be {p}|i('d like| want) {o} to be {p}|could {s} be {p}?|can {s} be {p}?|"
    "suppose {s} were {p}|{s} (must|ought to) be {p}|it would (be|look) (better|nicer) if {s} were {p}|"
    "how would it look if {s} were {p}?|pretend {s} were {p}|what would it look like if {s} were {p}?|"
    "{s} should really be {p}|i'd prefer {o} to be {p})"
)

BARE = (
    "as",
    "in",
    "on",
    "at",
    "like",
    "also",
    "just",
    "only",
    "further",
    "back",
    "right",
    "no",
    "(at",
    "(by",
    "(in",
    "(on",
    "(just|only)",
)  # what starts so is no object of "I want": it stands alone

FRAGMENT = "({np} please|{np}, please|{np}|{np}|how about {np}?|what about {np}?|maybe {np}|now {np})"

WANT = (
    "({np} please|{np}, please|{np} instead|{np}|how about {np}?|what about {np}?|maybe {np}|"
    "i'd (like|prefer) {np}|give me {np}|let's have {np}|let me see {np}|now {np}|i want {np}|"
    "can i have {np}?|show me {np})"
)

PLACE_TO = {
    "meadow": "(a|the) (meadow|meadow|grassy field)",
    "beach": "(a beach|the beach|the seaside)",
    "desert": "(a|the|the) desert",
    "mountains": "the mountains",
    "city": "(a|the) (city|city|town)",
    "forest": "(a forest|the forest|the woods)",
    "farm": "(a|the) farm",
}

TIME_IS = {
    "day": "(day|daytime|day time)",
    "sunset": "(sunset|sunset|dusk|evening)",
    "night": "(night|night|night time)",
}

WEATHER_IS = {
    "clear": "(clear|dry|dry again)",
    "rain": "(raining|raining|rainy)",
    "snow": "(snowing|snowing|snowy)",
}

STYLE_IS = {
    "illustration": "(an illustration|a plain illustration)",
    "pencil sketch": "a pencil (sketch|sketch|drawing)",
    "watercolour": "a (watercolour|watercolor) (|painting)",
    "mosaic": "a (mosaic|tile mosaic)",
    "comic": "a comic (|strip|book|panel)",
}

EXTRA_IS = {
    "hat": "a hat",
    "balloon": "a balloon",
    "flag": "a flag",
    "flowers": "(some |)flowers",
    "birds": "(some |a few |)birds",
}
SWAP = (
    "((swap|switch|exchange) the {a} and the {b}|let the {a} and the {b} (change|swap|trade) places|"
    "(swap|switch) (the positions of the {a} and the {b}|the {a} with the {b})|put the {a} where the {b} is)"
)

DROP = (
    "(remove|delete|erase|drop|lose) {v}|take away {v}|get rid of {v}|take {v} (away|out|"
    "out of the picture)|leave out {v}|make {v} (disappear|vanish|go away)"
)


class Wording(NamedTuple):
    """How one kind of change is asked for: templates, separated by "|" (outside of brackets).

    {it}, {they}: the object ("it", "the cats"); {the}: by name; {v}: the new value; {n}: the same as a noun.
    """

    do: str  # imperatives
    be: str  # "subject ~ predicate"
    want: str  # what is wanted


NO_WORDING = Wording("", "", "")

# Kind of change -> its wording; with the new value behind it ("time day"), what can be said of this one
# besides.
WORDINGS: dict[str, Wording] = {
    "colour": Wording(
        "(make|turn|paint|paint|colour|color|dye) {it} {v}|change {it} to {v}|"
        "(repaint|recolour|recolor) {it} (in |){v}|"
        "(change|switch|set) (the colour|the color|{its} colour|{its} color) to {v}|"
        "give {it} a {v} colour|make {it} {v} instead (of {old}|)|"
        "(swap|change|switch|replace) the {old} (for|with) {v}",
        "{they} ~ {v}",
        "{v}|{a} {v} {one}|{a} {v} {thing}|{v} instead of {old}|something {v}",
    ),
    "kind": Wording(
        "(swap|trade|exchange|switch) {the} for {v}|(replace|swap) {the} with {v}|"
        "(turn|transform|change) {it} into {v}|(change|switch) {the} to {v}|make {it} {v}|"
        "(put|draw) {v} instead of {the}",
        "{they} ~ {v}",
        "{v}|{v}|{v} instead of {the}|{v} rather than {the}|{v}, not {the}",
    ),
    "place": Wording(
        "(move|take|bring|send|transport) {it} to {v}|(put|place|set|show) {it} {at}|set the scene {at}|"
        "go to {v}|(change|switch|set) the (place|background|scene|setting|location) to {v}|"
        "make the background {v}|(swap|change|replace|switch) the (background|{old}) (for|with) {v}|"
        "turn the (background|{old}) into {v}",
        "{they} ~ {at}",
        "{v}|{v} in the background|{v} as the background|{v} behind {it}|{at}",
    ),
    "time": Wording(
        "make it {v}|turn it (in|)to {v}|(change|switch|set) the time (of day |)to {v}|"
        "turn {old} into {v}|show {it} {at}|set (it|the scene) {at}|turn (this|it) into a {n} scene",
        "it ~ {v}",
        "{v}|a {n} scene|a {n} sky|the same {at}|{at}",
    ),
    "time day": Wording(
        "let the sun come up|bring (back |)the daylight|make the sun rise|turn on the daylight|"
        "make the sky bright",
        "",
        "",
    ),
    "time sunset": Wording(
        "let the sun (set|go down)|add a sunset (sky|)|make the sun (set|go down)|paint a sunset sky|"
        "give it a sunset sky",
        "",
        "",
    ),
    "time night": Wording(
        "let (night fall|it get dark)|make it dark (out|outside|)|turn off the daylight|make the sky dark|"
        "put the moon in the sky|bring on the night",
        "it ~ dark",
        "",
    ),
    "weather": Wording(
        "change the weather to {n}|make the weather {adjective}", "it ~ {v}|the weather ~ {v}", ""
    ),
    "weather clear": Wording(
        "(stop|end|remove|take away|get rid of|turn off) the {old}|make it stop {old}ing|"
        "clear (up |)the (weather|sky)|let (the sky|the weather|it) clear up|make the {old} stop|"
        "make the weather (clear|fine|dry)",
        "the {old} ~ gone",
        "no (more |){old}|clear weather|a clear sky",
    ),
    "weather rain": Wording(
        "(make|have|let) it (rain|rain|pour)|add (some |a little |)rain|start the rain|make the rain fall|"
        "bring (on |in )the rain|make it a rainy scene|put {it} in the rain|let the rain fall",
        "it ~ pouring",
        "(some |a bit of |)rain|rainy weather|a rainy sky",
    ),
    "weather snow": Wording(
        "(make|have|let) it (snow|snow)|add (some |a little |)snow|start the snow|make the snow fall|"
        "bring (on |in )the snow|make it a snowy scene|put {it} in the snow|let the snow fall",
        "it ~ winter",
        "(some |a bit of |)snow|snowy weather|a snowy sky",
    ),
    "style": Wording(
        "(paint|draw|render|redraw|repaint|do) (it|this) as {v}|turn (it|this|the picture) into {v}|"
        "make (it|this) {v}|(change|convert) (it|this|the picture|the style) to {v}|make it look like {v}|"
        "give it the look of {v}|change the style to {n}|use a {n} style|make it {n} style",
        "(it|this|the picture) ~ {v}",
        "{v}|as {v}|in the style of {v}|{n} style|like {v}",
    ),
    "size up": Wording(
        "make {it} {v}|enlarge {it} {far}|scale {it} up {far}|let {it} grow {far}|"
        "change {its} size to {n}|increase {its} size {far}|blow {it} up {far}",
        "{they} ~ {v}",
        "{v}|{a} {v} {thing}|{a} {v} {one}",
    ),
    "size down": Wording(
        "make {it} {v}|(shrink|reduce) {it} {far}|scale {it} down {far}|let {it} shrink {far}|"
        "change {its} size to {n}|(reduce|decrease) {its} size {far}",
        "{they} ~ {v}",
        "{v}|{a} {v} {thing}|{a} {v} {one}",
    ),
    "add": Wording(
        "add {v}|(put in|include|bring in|draw|paint) {v}|add {v} to (it|the picture|the scene)|"
        "give {it} {v}",
        "there ~ {v}",
        "{v}|{v} too|{v} as well|also {v}|(it|the same|{the}) with {v}",
    ),
    "add hat": Wording(
        "put {v} on {it}|let {it} wear {v}|have {it} wear {v}|dress {it} in {v}",
        "{they} ~ wearing {v}",
        "",
    ),
    "add balloon": Wording("tie {v} to {it}|hand {it} {v}|let {it} have {v}", "", "{v} for {it}"),
    "add flag": Wording(
        "put (up |){v} (beside {it}|next to {it}|)|plant {v} (by {it}|)|raise {v}",
        "",
        "{v} beside {it}",
    ),
    "add flowers": Wording(
        "(plant|put) {v} (around|near|by) {it}|let flowers grow (around {it}|)|surround {it} with flowers",
        "",
        "{v} around {it}",
    ),
    "add birds": Wording(
        "put {v} in the sky|let {v} fly (by|past|overhead)|fill the sky with birds",
        "there ~ {v} overhead",
        "{v} overhead|{v} in the sky",
    ),
    "add second": Wording(
        "(add|put|place|draw|include) {v} (next to|beside|by) {it}|add {v}|give {it} {v} for company|"
        "bring in {v}|have {v} stand (next to|beside) {it}|put {v} (on|to) the right of {it}",
        "there ~ {v} (next to|beside) {it}|{they} ~ next to {v}",
        "{v} (next to|beside) {it}|{v} too|also {v}",
    ),
    "remove": Wording(DROP, "{v} ~ gone", "no {n}|no more {n}|it without {v}|the same without {v}"),
    "remove hat": Wording(
        "take off the hat|take the hat off (of |){it}|make {it} take off the hat",
        "",
        "no hat on {it}",
    ),
    "remove balloon": Wording("let go of the balloon|let the balloon (fly away|go)|pop the balloon", "", ""),
    "remove flag": Wording("take down the flag|lower the flag", "", ""),
    "remove flowers": Wording("pick the flowers", "", ""),
    "remove birds": Wording(
        "clear the birds from the sky|let the birds fly (away|off)|scare (off|away) the birds",
        "",
        "",
    ),
    "count up": Wording(
        "add {gap} more(| of them)|make it {v}|make it {n} {things}|(have|draw|show) {n} {things}|"
        "change the number (of {things} |)to {n}|put {gap} more {more} in|make {n} of (them|it)|"
        "add {gap} more {more}",
        "there ~ {n} (of them|{things})",
        "{n} {things}|{n} of them|{n} {things} in all|{gap} more|{gap} more {more}",
    ),
    "count down": Wording(
        "(remove|take away|delete|drop|erase) {gap} of (them|{the})|take out {gap} of {the}|"
        "(keep|leave|have|draw|show) (only|just) {n} {things}|make it (only |just |){n}|"
        "(keep|leave) (only|just) {n}|change the number (of {many} |)to {n}",
        "there ~ (only|just) {n} (of them|{things})",
        "(just|only) {n} (of them|{things})|{n} {things}|{gap} less|{gap} fewer",
    ),
    "position side": Wording(
        "(move|shift|slide|bring|push) {it} to the {v}|(put|place|set) {it} on the {v}|"
        "(move|shift) {it} {v}|(put|place) {it} on the {v} side|have {it} stand on the {v}|"
        "let {it} (go|move) to the {v}|move {it} over to the {v} side",
        "{they} ~ on the {v} (side|)",
        "on the {v}|further {v}|more to the {v}|on the {v} side|{a} {thing} on the {v}",
    ),
    "position centre": Wording(
        "(move|shift|slide|bring|push) {it} to the {v}|(put|place|set) {it} in the {v}|"
        "(centre|center) {it}|have {it} stand in the {v}|bring {it} (back |)to the {v}",
        "{they} ~ in the {v}|{they} ~ centred",
        "in the {v}|{a} {thing} in the {v}|back to the {v}|right in the {v}",
    ),
}

SIZE_FAR = {
    ("small", "medium"): "a (bit|little)",
    ("large", "medium"): "a (bit|little)",
    ("small", "large"): "a lot",
    ("large", "small"): "a lot",
}

SIZE_PLAIN = {
    "small": "(small|tiny|little|really small)",
    "medium": "(medium-sized|normal-sized)",
    "large": "(big|large|huge|really big)",
}


# --- parts of an instruction --------------------------------------------------------------------------------


class Change(NamedTuple):
    """One thing that an instruction asks for."""

    wording: str  # key of `WORDINGS`
    special: str  # key of what else can be said, if it is in `WORDINGS`
    words: dict  # for the names in the templates


def _changes(before: Scene, after: Scene) -> list[Change]:
    """What an instruction has to say; what follows from something else by itself is left out."""
    changed = asked(before, after)
    if before.second is None:
        changed.pop("second_colour", None)  # said along with its kind
    return [_change(before, after, name) for name in changed]


def _change(before: Scene, after: Scene, name: str) -> Change:
    """The change of one attribute."""
    if name in EXTRAS:
        if name in after.extras:
            return Change("add", f"add {name}", {"v": EXTRA_IS[name], "n": name})
        return Change("remove", f"remove {name}", {"v": f"the {name}", "n": name})
    if name.startswith("second"):
        return _second_change(before, after, name)
    value = getattr(after, name)
    words = {"v": value, "n": value, "old": getattr(before, name)}
    words |= _value_names(before, after, name)
    return Change(_wording_key(before, after, name), f"{name} {value}", words)


def _wording_key(before: Scene, after: Scene, name: str) -> str:
    """The key of `WORDINGS` for the change of an attribute of the first object or of the setting."""
    if name == "size":
        return "size up" if SIZES.index(after.size) > SIZES.index(before.size) else "size down"
    if name == "count":
        return "count up" if after.count > before.count else "count down"
    if name == "position":
        return "position centre" if after.position == "centre" else "position side"
    return name


def _second_change(before: Scene, after: Scene, name: str) -> Change:
    """The second object comes, goes, or gets another kind or colour."""
    if after.second is None:
        kind = before.second[0]
        return Change("remove", "", {"v": f"the {kind}", "n": kind})
    new_kind, new_colour = after.second
    if before.second is None:
        return Change("add second", "", {"v": f"a {new_colour} {new_kind}"})
    kind, colour = before.second
    named = f"the {kind}"
    words = {
        "it": named,
        "they": named,
        "the": named,
        "its": "its",
        "a": "a",
        "one": "one",
        "thing": kind,
        "old": colour,
    }
    if name == "second_kind":
        return Change("kind", "", words | {"v": f"a {new_kind}"})
    return Change("colour", "", words | {"v": new_colour})


def _value_names(before: Scene, after: Scene, name: str) -> dict:
    """How the templates call the new value of an attribute, where it is not called by its own name."""
    value = getattr(after, name)
    if name == "kind":
        return {"v": plurals(value)[-1] if before.count > 1 else f"a {value}"}
    if name == "place":
        return {"v": PLACE_TO[value], "at": PLACE_AT[value].replace("{}", "")}
    if name == "time":
        return {"v": TIME_IS[value], "at": TIME_AT[value]}
    if name == "weather":
        return {"v": WEATHER_IS[value], "adjective": WEATHER_ADJECTIVE[value]}
    if name == "style":
        return {"v": STYLE_IS[value]}
    if name == "size":
        return _size_names(before.size, after.size)
    if name == "count":
        return _count_names(before, after)
    if name == "position" and value == "centre":
        return {"v": "(middle|centre|center)"}
    return {}


def _size_names(old: str, new: str) -> dict:
    far = SIZE_FAR.get((old, new), "")
    bigger = "(bigger|larger)" if SIZES.index(new) > SIZES.index(old) else "smaller"
    return {"v": f"({far} {bigger}|{far} {bigger}|{SIZE_PLAIN[new]})", "far": far}


def _count_names(before: Scene, after: Scene) -> dict:
    gap = abs(after.count - before.count)
    one = after.kind
    several = plurals(after.kind)[-1]
    return {
        "v": NUMBERS[after.count],
        "n": NUMBERS[after.count],
        "gap": NUMBERS[gap],
        "things": several if after.count > 1 else one,
        "more": several if gap > 1 else one,
        "many": plurals(before.kind)[-1],
    }


def _references(before: Scene, after: Scene, after_new_kind: bool) -> dict:
    """How to speak of the first object: by name, or "it" where nothing else could be meant.

    after_new_kind: the instruction has said the object's new kind already.
    """
    many = before.count > 1
    thing = plurals(before.kind)[-1] if many else before.kind
    this = "these" if many else "this"
    pronoun, subject_pronoun = ("them", "they") if many else ("it", "it")
    if after_new_kind:
        named = f"the {plurals(after.kind)[-1] if many else after.kind}"
    elif before.colour != after.colour:
        named = f"the {thing}"
    else:
        named = f"(the {thing}|the {thing}|{this} {thing}|the {before.colour} {thing})"
    alone = before.second is None and after.second is None
    return {
        "it": f"({named}|{pronoun})" if alone else named,
        "they": f"({named}|{subject_pronoun})" if alone else named,
        "the": f"the {thing}",
        "its": "their" if many else "its",
        "thing": thing,
        "a": "" if many else "a",
        "one": "ones" if many else "one",
    }


@lru_cache
def _alternatives(templates: str) -> tuple[str, ...]:
    """Split at every "|" outside of brackets."""
    depth = 0
    parts = [""]
    for character in templates:
        if character == "|" and depth == 0:
            parts.append("")
            continue
        depth += {"(": 1, ")": -1}.get(character, 0)
        parts[-1] += character
    return tuple(parts)


class Speaker:
    """Chooses wordings: at random, or, without `rng`, the first of each."""

    def __init__(self, rng: random.Random | None):
        self.rng = rng

    def template(self, change: Change, frame: str, references: dict) -> str:
        """One of the templates of a change for a frame of `Wording`, with its names filled in."""
        general = getattr(WORDINGS[change.wording], frame)
        special = getattr(WORDINGS.get(change.special, NO_WORDING), frame)
        templates = _alternatives("|".join(filter(None, (general, special))))
        template = self.rng.choice(templates) if self.rng else templates[0]
        return template.format(**references | change.words)

    def imperative(self, change: Change, references: dict) -> str:
        """ "make the cat red"."""
        return choose_wording(self.template(change, "do", references), self.rng)

    def request(self, change: Change, references: dict) -> str:
        """One change in words: as an imperative, or, with `rng`, in one of the frames."""
        frame = "do"
        if self.rng:
            frame = self.rng.choices(("do", "politely", "be", "want"), (50, 18, 15, 17))[0]
        if frame == "do":
            return self.imperative(change, references)
        if frame == "politely":
            return choose_wording(DO_POLITELY.format(do=self.template(change, "do", references)), self.rng)
        if frame == "be":
            subject, predicate = self.template(change, "be", references).split(" ~ ")
            subject = choose_wording(subject, self.rng)
            as_object = "them" if subject == "they" else subject
            return choose_wording(BE.format(s=subject, o=as_object, p=predicate), self.rng)
        wanted = self.template(change, "want", references)
        stands_alone = wanted.split()[0] in BARE
        return choose_wording((FRAGMENT if stands_alone else WANT).format(np=wanted), self.rng)


def instruction(before: Scene, after: Scene, rng: random.Random | int | None = None) -> str:
    """An instruction that turns `before` into `after`, as a person would type it; None: in the plain wording.

    Several changes are joined by "and". Raises ValueError if nothing changes.
    """
    rng = _generator(rng)
    changes = _changes(before, after)
    if edit_kind(before, after) == "swap":
        text = choose_wording(SWAP.format(a=before.kind, b=before.second[0]), rng)
    elif len(changes) == 1:
        text = Speaker(rng).request(changes[0], _references(before, after, after_new_kind=False))
    else:
        text = _several(before, after, changes, rng)
    return _typed(text, rng)


def _several(before: Scene, after: Scene, changes: list[Change], rng: random.Random | None) -> str:
    """Several changes in one sentence."""
    new_kind = before.kind != after.kind
    if rng and not new_kind:  # else the new kind comes first, and the rest speaks of it
        rng.shuffle(changes)
    speaker = Speaker(rng)
    parts = []
    for change in changes:
        after_new_kind = new_kind and change.wording != "kind"
        parts.append(speaker.imperative(change, _references(before, after, after_new_kind)))
    joint = " and "
    if rng:
        joint = rng.choice((" and ", " and ", ", and ", ", then ", " and also "))
    text = ", ".join(parts[:-1]) + joint + parts[-1]
    if _chance(rng) < 0.25:
        text = choose_wording(DO_POLITELY.format(do=text), rng)
    return text


def _typed(text: str, rng: random.Random | None) -> str:
    """Case and final punctuation as people type them; without `rng` none."""
    text = re.sub(r" +", " ", text)
    if rng is None:
        return text
    if not text.endswith("?"):
        text += rng.choices(("", ".", "!"), (70, 24, 6))[0]
    elif rng.random() >= 0.75:
        text = text[:-1]
    if rng.random() < 0.6:
        text = re.sub(r"\bi\b", "I", text)
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    return text
