"""What a caption says of the miniature world: `parse` turns words into a scene, or says why not."""

from __future__ import annotations

import re

from ip2p.miniworld.scene import COLOURS, KINDS, PLACES, Scene

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
    return [name + "s", *([name[:-1] + "ies"] if name.endswith("y") else [])]


def _lexicon() -> dict[tuple[str, ...], tuple[str, object]]:
    """{words of a phrase: (slot, value)}."""
    table = {
        tuple(name.split()): (slot, value)
        for slot, values in NAMES.items()
        for value, names in values.items()
        for name in names.split("|")
    }
    for kind, names in NAMES["kind"].items():
        table |= {tuple(many.split()): ("kinds", kind) for name in names.split("|") for many in plurals(name)}
    for side in ("left", "right"):  # "on the right of the picture" is a position, not a neighbour
        table |= {
            (*start.split(), side, "of", "the", frame): ("position", side)
            for frame in FRAME.split("|")
            for start in ("", "on the", "to the", "at the")
        }
    return table


LEXICON = _lexicon()

LONGEST = max(map(len, LEXICON))


def _concepts(text: str) -> list[tuple[str, object, str]]:
    """The text as (slot, value, words); longest phrase first; "comma" and "ignored" say nothing."""
    words = re.findall(r"[a-z0-9]+|[,.;:]", text.lower().replace("’", "'").replace("n't", " not"))
    words = [SPELLINGS.get(word, word) for word in words]
    out, unknown, i = [], [], 0
    while i < len(words):
        n = next((n for n in range(LONGEST, 0, -1) if tuple(words[i : i + n]) in LEXICON), 0)
        phrase = " ".join(words[i : i + max(n, 1)])
        if n:
            out.append((*LEXICON[tuple(words[i : i + n])], phrase))
        elif not phrase.isalnum():
            out.append(("comma", None, phrase))
        elif phrase in IGNORED:
            out.append(("ignored", None, phrase))
        else:
            unknown.append(repr(phrase))
        i += max(n, 1)
    if unknown:
        raise ValueError(f"not in the miniature world: {', '.join(dict.fromkeys(unknown))}")
    return out


def parse(text: str) -> Scene:
    """The scene (seed 0) that a caption describes. What it leaves unsaid is at its default.

    Raises ValueError, in one sentence, where a word is not of this world, where the kind, colour or place is
    missing, and where the caption contradicts itself or asks for what the world cannot hold.
    """
    objects: list[dict] = []  # {kind, colour, size, count} of the first and the second object
    said: dict = {}  # place, time, ...
    extras: list[str] = []
    waiting: dict = {}  # adjectives whose noun has not come yet
    links: set[str] = set()  # "in", "under", ... directly before the noun phrase
    open_phrase = False  # after an article: a comma may separate adjectives
    swap = False

    def put(target: dict, slot: str, value, of: str):
        if target.setdefault(slot, value) != value:
            raise ValueError(f"{of} is both {target[slot]} and {value}; say one {slot}")

    def settle():  # "the cat is red": adjectives belong to the noun before them
        if objects:
            for slot, value in waiting.items():
                put(objects[-1], slot, value, f"the {objects[-1]['kind']}")
            waiting.clear()

    for slot, value, words in _concepts(text):
        first = words.split()[0]
        if slot in ("colour", "size", "count"):
            put(waiting, slot, value, "one object")
            continue
        elif slot in ("kind", "kinds"):
            if objects and links & LINKS:
                raise ValueError(f"two objects stand side by side, not one {max(links & LINKS)} the other")
            if value in [o["kind"] for o in objects]:
                raise ValueError(f"the {value} is named twice; say how many there are instead")
            if slot == "kinds" and "count" not in waiting:
                raise ValueError(f"say how many {words} there are: two or three")
            objects.append({**waiting, "kind": value})
            waiting, open_phrase = {}, False
        elif slot == "comma":
            if not open_phrase:
                settle()
        elif slot == "ignored" or slot == "beside":
            article = first in ("a", "an", "the")
            if article or first in LINKS or slot == "beside" and first != "and":
                settle()
            open_phrase |= article
            swap |= slot == "beside" and value
            links = links | {first} if slot == "ignored" else {"beside"}
            continue
        else:
            if first in LINKS | {"after"}:
                settle()
            if waiting:
                raise ValueError(
                    f"{words!r} cannot be {' and '.join(map(str, waiting.values()))} here; "
                    "only objects have a colour, a size and a count"
                )
            if slot == "extra":
                extras.append(value)
            elif slot == "sunny":
                put(said, "time", "day", "the scene")
                put(said, "weather", "clear", "the scene")
            else:
                put(said, slot, value, "the scene")
            open_phrase = False
        links = set()
    settle()
    return _scene(objects, said, extras, waiting, swap)


def _scene(objects: list[dict], said: dict, extras: list[str], waiting: dict, swap: bool) -> Scene:
    """What `parse` understood, checked and put together."""
    if not objects or waiting:
        raise ValueError(f"no object is named; say one of {', '.join(KINDS)}")
    for o in objects:
        if "colour" not in o:
            raise ValueError(f"what colour is the {o['kind']}? Say one of {', '.join(COLOURS)}")
    if "place" not in said:
        raise ValueError(f"where is the {objects[0]['kind']}? Say one of {', '.join(PLACES)}")
    if len(objects) > 2:
        raise ValueError("more than two different objects; a scene holds at most two")
    first, second = (objects[::-1] if swap else objects) if len(objects) == 2 else (objects[0], None)
    if second and (second.get("count", 1) > 1 or first.get("count", 1) > 1):
        raise ValueError("beside a second object there is only one of each")
    if second and "size" in second:
        raise ValueError(f"only the first object has a size, not the {second['kind']} beside it")
    if said.get("position", "centre") != "centre" and (second or first.get("count", 1) > 1):
        raise ValueError("only a single object can stand left or right")
    return Scene(**first, **said, extras=tuple(extras), second=second and (second["kind"], second["colour"]))
