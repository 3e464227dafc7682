"""The miniature world in words: `caption` describes a scene, `instruction` asks for an edit as people type
it; `parse` (in `parsing.py`) understands a caption.

Wordings are templates: "(a|b|)" stands for one of its alternatives (the first one where there is no `rng`).
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from pathlib import Path

from ip2p.miniworld.parsing import parse, plurals
from ip2p.miniworld.scene import ATTRIBUTES, EXTRAS, SIZES, Scene, difference, edit_kind, random_scene

__all__ = ["caption", "instruction", "parse", "write_captions"]

# ------------------------------------------------------------------------------------- captions
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

WEATHER_CLAUSE = {
    "clear": "the sky is clear",
    "rain": "(it is raining|it's raining|rain is falling)",
    "snow": "(it is snowing|it's snowing|snow is falling)",
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
    side: f"(on the {side}|on the {side}|on the {side} side|to the {side}|at the {side})"
    for side in ("left", "right")
} | {"centre": "in the (middle|centre|center)"}


def fill(template: str, rng: random.Random | None) -> str:
    """Choose among every "(a|b)", innermost first; tidy blanks and articles."""
    while "(" in template:
        template = re.sub(
            r"\(([^()]*)\)",
            lambda m: (rng.choice if rng else lambda parts: parts[0])(m[1].split("|")),
            template,
        )
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", re.sub(r" +(?=[ ,.?!])", "", template).strip())


def _random(rng: random.Random | int | None) -> random.Random | None:
    return random.Random(rng) if isinstance(rng, int) else rng


def _objects(scene: Scene, rng: random.Random | None) -> str:
    """ "three tiny blue owls"."""
    noun = scene.kind
    if rng and noun in NICKNAMES and rng.random() < 0.1:
        noun = rng.choice(NICKNAMES[noun].split("|"))
    noun = plurals(noun)[-1] if scene.count > 1 else noun
    number = "a" if scene.count == 1 else NUMBERS[scene.count]
    size = SIZE_WORDS[scene.size] if scene.size != "medium" or rng and rng.random() < 0.06 else ""
    return f"{number} {size} {scene.colour} {noun}"


def _extra(scene: Scene, extra: str) -> str:
    """A template that says the extra after the object: "wearing a hat"."""
    many, alive = scene.count > 1, scene.kind in ALIVE
    hat, balloon = ("hats", "balloons") if many else ("a hat", "a balloon")
    return {
        "hat": f"(with {hat}|wearing {hat}|with {hat} on|in {hat})",
        "flag": "(with a flag|next to a flag|by a flag)",
        "balloon": f"(with {balloon}|holding {balloon})" if alive else f"with {balloon}",
        "flowers": "(with flowers|among flowers|surrounded by flowers|with some flowers)",
        "birds": "(with birds|with birds overhead|with birds in the sky|with some birds)",
    }[extra]


def _extras(scene: Scene, rng: random.Random | None) -> str:
    if len(scene.extras) < 2:
        return "".join(_extra(scene, e) for e in scene.extras)
    if rng and rng.random() < 0.4:
        return " and ".join(_extra(scene, e) for e in rng.sample(scene.extras, len(scene.extras)))
    names = {"hat": "a hat", "balloon": "a balloon", "flag": "a flag"}
    things = [names.get(e, e) for e in (rng.sample(scene.extras, len(scene.extras)) if rng else scene.extras)]
    return f"with {', '.join(things[:-1])} and {things[-1]}"


def caption(scene: Scene, rng: random.Random | int | None = None) -> str:
    """Words for all about the scene but its seed: `parse(caption(scene, rng))` is the scene with seed 0.

    Kind, colour and place are always said; what is at its default (size medium, count 1, centre, day,
    clear weather, illustration) mostly is not. `rng` (a `random.Random` or a seed) varies the wording;
    None gives the plain one.
    """
    rng = _random(rng)
    chance = rng.random if rng else lambda: 0.5  # at 0.5, every choice below is the plain one
    if chance() < 0.06:
        return fill(_tags(scene, rng), rng)
    second = "(next to|beside|and|near|with) a {1} {0}".format(*scene.second) if scene.second else ""
    after = [_extras(scene, rng), second]
    where, clause = _setting(scene, rng)
    style = scene.style != "illustration" or chance() < 0.12
    style_first = style and chance() < 0.6
    front = ""
    if not style_first and chance() < 0.2:
        front = where.pop(rng.randrange(len(where))) + ", "
    if scene.position != "centre" or chance() < 0.05:
        where.insert(0 if chance() < 0.7 else len(where), POSITION_AT[scene.position])
    if rng:
        rng.shuffle(after)
        if chance() < 0.2:
            rng.shuffle(where)
    start = f"{STYLE_OF[scene.style]} " if style_first else front
    where = ("(|||,) " if rng else " ").join(where)
    end = clause + (f", {STYLE_IN[scene.style]}" if style and not style_first else "")
    return fill(f"{start}{_objects(scene, rng)} {' '.join(filter(None, after))} {where}{end}", rng)


def _setting(scene: Scene, rng: random.Random | None) -> tuple[list[str], str]:
    """Templates for place, time and weather (merged: "on a rainy beach"), and a clause ", it is raining"."""
    chance = rng.random if rng else lambda: 0.5
    time = TIME_AT[scene.time] if scene.time != "day" or chance() < 0.1 else ""
    weather = WEATHER_IN[scene.weather] if scene.weather != "clear" or chance() < 0.08 else ""
    adjective = clause = ""
    if rng and weather and time and chance() < 0.3:
        time, weather = f"on a {WEATHER_ADJECTIVE[scene.weather]} {TIME_NOUN[scene.time]}", ""
    elif rng and weather and scene.weather != "clear" and chance() < 0.35:
        adjective, weather = WEATHER_ADJECTIVE[scene.weather] + " ", ""
    elif rng and scene.time == "night" and chance() < 0.3:
        adjective, time = "moonlit ", ""
    elif rng and weather and chance() < 0.3:
        weather, clause = "", ", " + WEATHER_CLAUSE[scene.weather]
    return [s for s in (PLACE_AT[scene.place].replace("{}", adjective), time, weather) if s], clause


def _tags(scene: Scene, rng: random.Random) -> str:
    """ "red cat, forest, night, watercolour": a caption as a list."""
    tags = [
        *(
            ["(watercolour|watercolor)" if scene.style == "watercolour" else scene.style]
            if scene.style != "illustration"
            else []
        ),
        *scene.extras,
        *([scene.time] if scene.time != "day" else []),
        *([scene.weather] if scene.weather != "clear" else []),
        *([f"on the {scene.position}"] if scene.position != "centre" else []),
    ]
    rng.shuffle(tags)
    second = [f"{scene.second[1]} {scene.second[0]}"] if scene.second else []
    return ", ".join([_objects(scene, rng).removeprefix("a "), *second, scene.place, *tags])


def write_captions(path: str | Path, n: int = 3000, seed: int = 0) -> None:
    """Write `n` distinct captions of random scenes, one a line (`data/captions/mini.txt` is made so)."""
    rng, captions = random.Random(seed), {}
    while len(captions) < n:
        captions[caption(random_scene(rng, "plain"), rng)] = None
    Path(path).write_text("\n".join(captions) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------- instructions
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
# Edit -> templates for: imperatives; "subject ~ predicate"; what is wanted.
# {it}, {they}: the object ("it", "the cats"); {the}: by name; {v}: the new value; {n}: the same as a noun.
DROP = (
    "(remove|delete|erase|drop|lose) {v}|take away {v}|get rid of {v}|take {v} (away|out|"
    "out of the picture)|leave out {v}|make {v} (disappear|vanish|go away)"
)

WORDINGS = {
    "colour": (
        "(make|turn|paint|paint|colour|color|dye) {it} {v}|change {it} to {v}|"
        "(repaint|recolour|recolor) {it} (in |){v}|"
        "(change|switch|set) (the colour|the color|{its} colour|{its} color) to {v}|"
        "give {it} a {v} colour|make {it} {v} instead (of {old}|)|"
        "(swap|change|switch|replace) the {old} (for|with) {v}",
        "{they} ~ {v}",
        "{v}|{a} {v} {one}|{a} {v} {thing}|{v} instead of {old}|something {v}",
    ),
    "kind": (
        "(swap|trade|exchange|switch) {the} for {v}|(replace|swap) {the} with {v}|"
        "(turn|transform|change) {it} into {v}|(change|switch) {the} to {v}|make {it} {v}|"
        "(put|draw) {v} instead of {the}",
        "{they} ~ {v}",
        "{v}|{v}|{v} instead of {the}|{v} rather than {the}|{v}, not {the}",
    ),
    "place": (
        "(move|take|bring|send|transport) {it} to {v}|(put|place|set|show) {it} {at}|set the scene {at}|"
        "go to {v}|(change|switch|set) the (place|background|scene|setting|location) to {v}|"
        "make the background {v}|(swap|change|replace|switch) the (background|{old}) (for|with) {v}|"
        "turn the (background|{old}) into {v}",
        "{they} ~ {at}",
        "{v}|{v} in the background|{v} as the background|{v} behind {it}|{at}",
    ),
    "time": (
        "make it {v}|turn it (in|)to {v}|(change|switch|set) the time (of day |)to {v}|"
        "turn {old} into {v}|show {it} {at}|set (it|the scene) {at}|turn (this|it) into a {n} scene",
        "it ~ {v}",
        "{v}|a {n} scene|a {n} sky|the same {at}|{at}",
    ),
    "time day": (
        "let the sun come up|bring (back |)the daylight|make the sun rise|turn on the daylight|"
        "make the sky bright",
        "",
        "",
    ),
    "time sunset": (
        "let the sun (set|go down)|add a sunset (sky|)|make the sun (set|go down)|paint a sunset sky|"
        "give it a sunset sky",
        "",
        "",
    ),
    "time night": (
        "let (night fall|it get dark)|make it dark (out|outside|)|turn off the daylight|make the sky dark|"
        "put the moon in the sky|bring on the night",
        "it ~ dark",
        "",
    ),
    "weather": ("change the weather to {n}|make the weather {adjective}", "it ~ {v}|the weather ~ {v}", ""),
    "weather clear": (
        "(stop|end|remove|take away|get rid of|turn off) the {old}|make it stop {old}ing|"
        "clear (up |)the (weather|sky)|let (the sky|the weather|it) clear up|make the {old} stop|"
        "make the weather (clear|fine|dry)",
        "the {old} ~ gone",
        "no (more |){old}|clear weather|a clear sky",
    ),
    "weather rain": (
        "(make|have|let) it (rain|rain|pour)|add (some |a little |)rain|start the rain|make the rain fall|"
        "bring (on |in )the rain|make it a rainy scene|put {it} in the rain|let the rain fall",
        "it ~ pouring",
        "(some |a bit of |)rain|rainy weather|a rainy sky",
    ),
    "weather snow": (
        "(make|have|let) it (snow|snow)|add (some |a little |)snow|start the snow|make the snow fall|"
        "bring (on |in )the snow|make it a snowy scene|put {it} in the snow|let the snow fall",
        "it ~ winter",
        "(some |a bit of |)snow|snowy weather|a snowy sky",
    ),
    "style": (
        "(paint|draw|render|redraw|repaint|do) (it|this) as {v}|turn (it|this|the picture) into {v}|"
        "make (it|this) {v}|(change|convert) (it|this|the picture|the style) to {v}|make it look like {v}|"
        "give it the look of {v}|change the style to {n}|use a {n} style|make it {n} style",
        "(it|this|the picture) ~ {v}",
        "{v}|as {v}|in the style of {v}|{n} style|like {v}",
    ),
    "size up": (
        "make {it} {v}|enlarge {it} {far}|scale {it} up {far}|let {it} grow {far}|"
        "change {its} size to {n}|increase {its} size {far}|blow {it} up {far}",
        "{they} ~ {v}",
        "{v}|{a} {v} {thing}|{a} {v} {one}",
    ),
    "size down": (
        "make {it} {v}|(shrink|reduce) {it} {far}|scale {it} down {far}|let {it} shrink {far}|"
        "change {its} size to {n}|(reduce|decrease) {its} size {far}",
        "{they} ~ {v}",
        "{v}|{a} {v} {thing}|{a} {v} {one}",
    ),
    "add": (
        "add {v}|(put in|include|bring in|draw|paint) {v}|add {v} to (it|the picture|the scene)|"
        "give {it} {v}",
        "there ~ {v}",
        "{v}|{v} too|{v} as well|also {v}|(it|the same|{the}) with {v}",
    ),
    "add hat": (
        "put {v} on {it}|let {it} wear {v}|have {it} wear {v}|dress {it} in {v}",
        "{they} ~ wearing {v}",
        "",
    ),
    "add balloon": ("tie {v} to {it}|hand {it} {v}|let {it} have {v}", "", "{v} for {it}"),
    "add flag": (
        "put (up |){v} (beside {it}|next to {it}|)|plant {v} (by {it}|)|raise {v}",
        "",
        "{v} beside {it}",
    ),
    "add flowers": (
        "(plant|put) {v} (around|near|by) {it}|let flowers grow (around {it}|)|surround {it} with flowers",
        "",
        "{v} around {it}",
    ),
    "add birds": (
        "put {v} in the sky|let {v} fly (by|past|overhead)|fill the sky with birds",
        "there ~ {v} overhead",
        "{v} overhead|{v} in the sky",
    ),
    "add second": (
        "(add|put|place|draw|include) {v} (next to|beside|by) {it}|add {v}|give {it} {v} for company|"
        "bring in {v}|have {v} stand (next to|beside) {it}|put {v} (on|to) the right of {it}",
        "there ~ {v} (next to|beside) {it}|{they} ~ next to {v}",
        "{v} (next to|beside) {it}|{v} too|also {v}",
    ),
    "remove": (DROP, "{v} ~ gone", "no {n}|no more {n}|it without {v}|the same without {v}"),
    "remove hat": (
        "take off the hat|take the hat off (of |){it}|make {it} take off the hat",
        "",
        "no hat on {it}",
    ),
    "remove balloon": ("let go of the balloon|let the balloon (fly away|go)|pop the balloon", "", ""),
    "remove flag": ("take down the flag|lower the flag", "", ""),
    "remove flowers": ("pick the flowers", "", ""),
    "remove birds": (
        "clear the birds from the sky|let the birds fly (away|off)|scare (off|away) the birds",
        "",
        "",
    ),
    "count up": (
        "add {gap} more(| of them)|make it {v}|make it {n} {things}|(have|draw|show) {n} {things}|"
        "change the number (of {things} |)to {n}|put {gap} more {more} in|make {n} of (them|it)|"
        "add {gap} more {more}",
        "there ~ {n} (of them|{things})",
        "{n} {things}|{n} of them|{n} {things} in all|{gap} more|{gap} more {more}",
    ),
    "count down": (
        "(remove|take away|delete|drop|erase) {gap} of (them|{the})|take out {gap} of {the}|"
        "(keep|leave|have|draw|show) (only|just) {n} {things}|make it (only |just |){n}|"
        "(keep|leave) (only|just) {n}|change the number (of {many} |)to {n}",
        "there ~ (only|just) {n} (of them|{things})",
        "(just|only) {n} (of them|{things})|{n} {things}|{gap} less|{gap} fewer",
    ),
    "position side": (
        "(move|shift|slide|bring|push) {it} to the {v}|(put|place|set) {it} on the {v}|"
        "(move|shift) {it} {v}|(put|place) {it} on the {v} side|have {it} stand on the {v}|"
        "let {it} (go|move) to the {v}|move {it} over to the {v} side",
        "{they} ~ on the {v} (side|)",
        "on the {v}|further {v}|more to the {v}|on the {v} side|{a} {thing} on the {v}",
    ),
    "position centre": (
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


def _changes(before: Scene, after: Scene) -> list[tuple[str, str, dict]]:
    """The changes between two scenes: (key of `WORDINGS`, key of its special case, names for its text)."""
    was, changed, out = before.attributes(), difference(before, after), []
    if changed.keys() & {"count", "second_kind"} and after.position == "centre":
        changed.pop("position", None)  # a row, or a second object, moves a single object to the middle
    for name, v in changed.items():
        old = was[name]
        if name in EXTRAS:
            verb, said = ("add", EXTRA_IS[name]) if v else ("remove", f"the {name}")
            out.append((verb, f"{verb} {name}", {"v": said, "n": name}))
        elif name.startswith("second"):
            out += _second_changes(before, after, name)
        else:
            values = ATTRIBUTES[name]
            up = values.index(v) > values.index(old)
            key = {
                "size": "size up" if up else "size down",
                "count": "count up" if up else "count down",
                "position": "position centre" if v == "centre" else "position side",
            }.get(name, name)
            out.append((key, f"{name} {v}", {"v": v, "n": v, "old": old} | _names(before, after, name)))
    return out


def _second_changes(before: Scene, after: Scene, name: str) -> list[tuple[str, str, dict]]:
    """`_changes` of the second object: it comes, goes, or gets another kind or colour."""
    if before.second is None or after.second is None:
        if name == "second_colour":  # said along with its kind
            return []
        if after.second is None:
            return [("remove", "", {"v": f"the {before.second[0]}", "n": before.second[0]})]
        return [("add second", "", {"v": f"a {after.second[1]} {after.second[0]}"})]
    kind, was = before.second
    own = {
        "it": f"the {kind}",
        "they": f"the {kind}",
        "the": f"the {kind}",
        "its": "its",
        "a": "a",
        "one": "one",
        "thing": kind,
        "old": was,
    }
    if name == "second_kind":
        return [("kind", "", own | {"v": f"a {after.second[0]}"})]
    return [("colour", "", own | {"v": after.second[1]})]


def _names(before: Scene, after: Scene, name: str) -> dict:
    """How the templates call the new value of an attribute."""
    v, old, many = getattr(after, name), getattr(before, name), before.count > 1
    if name == "kind":
        return {"v": plurals(v)[-1] if many else f"a {v}"}
    if name == "place":
        return {"v": PLACE_TO[v], "at": PLACE_AT[v].replace("{}", "")}
    if name == "time":
        return {"v": TIME_IS[v], "at": TIME_AT[v]}
    if name == "weather":
        return {"v": WEATHER_IS[v], "adjective": WEATHER_ADJECTIVE[v]}
    if name == "style":
        return {"v": STYLE_IS[v]}
    if name == "size":
        far = SIZE_FAR.get((old, v), "")
        more = f"{far} {'(bigger|larger)' if SIZES.index(v) > SIZES.index(old) else 'smaller'}"
        return {"v": f"({more}|{more}|{SIZE_PLAIN[v]})", "far": far}
    if name == "count":
        gap, one, several = abs(v - old), after.kind, plurals(after.kind)[-1]
        return {
            "v": NUMBERS[v],
            "n": NUMBERS[v],
            "gap": NUMBERS[gap],
            "things": several if v > 1 else one,
            "more": several if gap > 1 else one,
            "many": plurals(before.kind)[-1],
        }
    if name == "position":
        return {"v": "(middle|centre|center)" if v == "centre" else v}
    return {}


def _references(before: Scene, after: Scene, many_changes: bool) -> dict:
    """How to speak of the first object: by name, or "it" where nothing else could be meant."""
    many, alone = before.count > 1, before.second is None and after.second is None
    thing = plurals(before.kind)[-1] if many else before.kind
    named = f"(the {thing}|the {thing}|{'these' if many else 'this'} {thing}|the {before.colour} {thing})"
    if before.colour != after.colour:
        named = f"the {thing}"
    it, they = ("them", "they") if many else ("it", "it")
    if many_changes and before.kind != after.kind:  # said after the new kind
        named = f"the {plurals(after.kind)[-1] if many else after.kind}"
    return {
        "it": f"({named}|{it})" if alone else named,
        "they": f"({named}|{they})" if alone else named,
        "the": f"the {thing}",
        "its": "their" if many else "its",
        "thing": thing,
        "a": "" if many else "a",
        "one": "ones" if many else "one",
    }


def _request(change: tuple[str, str, dict], names: dict, rng: random.Random | None, only_do=False) -> str:
    """One change in words, as an imperative or in one of the frames."""
    name, special, own = change
    do, be, want = (
        "|".join(filter(None, parts))
        for parts in zip(WORDINGS[name], WORDINGS.get(special, ("", "", "")), strict=True)
    )
    frame = "do"
    if rng and not only_do:
        frame = rng.choices(("do", "politely", "be", "want"), (50, 18, 15, 17))[0]
    words = names | own

    def choose(templates: str) -> str:
        parts = _alternatives(templates)
        return (rng.choice(parts) if rng else parts[0]).format(**words)

    if frame == "be":
        s, p = choose(be).split(" ~ ")
        s = fill(s, rng)
        o = "them" if s == "they" else s
        return fill(BE.format(s=s, o=o, p=p), rng)
    if frame == "want":
        np = choose(want)
        return fill((FRAGMENT if np.split()[0] in BARE else WANT).format(np=np), rng)
    return fill((DO_POLITELY if frame == "politely" else DO).format(do=choose(do)), rng)


@lru_cache
def _alternatives(templates: str) -> tuple[str, ...]:
    """Split at every "|" outside of brackets."""
    depth, parts = 0, [""]
    for c in templates:
        depth += (c == "(") - (c == ")")
        if c == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return tuple(parts)


SWAP = (
    "((swap|switch|exchange) the {a} and the {b}|let the {a} and the {b} (change|swap|trade) places|"
    "(swap|switch) (the positions of the {a} and the {b}|the {a} with the {b})|put the {a} where the {b} is)"
)


def instruction(before: Scene, after: Scene, rng: random.Random | int | None = None) -> str:
    """An instruction that turns `before` into `after`, as a person would type it; None: in the plain wording.

    Several changes are joined by "and". Raises ValueError if nothing changes.
    """
    rng = _random(rng)
    changes = _changes(before, after)
    if not changes:
        raise ValueError("nothing changes between these two scenes")
    if edit_kind(before, after) == "swap":
        return _typed(fill(SWAP.format(a=before.kind, b=before.second[0]), rng), rng)
    names = _references(before, after, len(changes) > 1)
    if len(changes) == 1:
        return _typed(_request(changes[0], names, rng), rng)
    if rng and before.kind == after.kind:  # else the new kind comes first, and the rest speaks of it
        rng.shuffle(changes)
    one = _references(before, after, False)
    parts = [_request(c, one if c[0] == "kind" else names, rng, only_do=True) for c in changes]
    joint = rng.choice((" and ", " and ", ", and ", ", then ", " and also ")) if rng else " and "
    do = ", ".join(parts[:-1]) + joint + parts[-1]
    return _typed(fill(DO_POLITELY.format(do=do), rng) if rng and rng.random() < 0.25 else do, rng)


def _typed(text: str, rng: random.Random | None) -> str:
    """Case and final punctuation as people type them."""
    text = re.sub(r" +", " ", text)
    if rng is None:
        return text
    if text.endswith("?"):
        text = text if rng.random() < 0.75 else text[:-1]
    else:
        text += rng.choices(("", ".", "!"), (70, 24, 6))[0]
    text = re.sub(r"\bi\b", "I", text) if rng.random() < 0.6 else text
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text
