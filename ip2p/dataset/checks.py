"""What is wrong with a triplet, and the same triplet told of another scene."""

from __future__ import annotations

import re

from ip2p.dataset.triplets import FIELDS

# Idioms in which a word of the world's language does not mean what it names.
NOT_MEANT = r"time of day|^clear (?!sk|weather)|\bclear (the|away|up)\b|wet brush"


def mentions(text: str) -> set[tuple[str, object]]:
    """What of the miniature world a text names, as (slot, value); unlike `parse`, it skips other words."""
    from ip2p.miniworld.parsing import LEXICON, SPELLINGS, phrases

    text = re.sub(NOT_MEANT, "", text.lower())
    words = [SPELLINGS.get(word, word) for word in re.findall(r"[a-z0-9]+", text)]
    named = set()
    for phrase in phrases(words):
        if phrase in LEXICON:
            slot, value = LEXICON[phrase]
            named.add(("kind" if slot == "kinds" else slot, value))
    return named


# Words that ask for a change without naming the new value, by the start of the word where no \b ends it.
RELATIVE = {
    "bigger": r"bigg|large|enlarg|grow|scale (it |them )?up|blow|huge|giant|increas|expand|zoom in",
    "smaller": r"small|shrink|scale (it |them )?down|tiny|little|reduc|mini|decreas|zoom out|far",
    "more": r"another|second|third|doubl|tripl|twin|clone|cop[yi]|more|again|friend|one extra",
    "fewer": r"alone|single|only|just|less|fewer|remov|away|keep|lone|leav",
    "gone": r"no\b|not|never|none|dont|\w+n't|without|remov|delet|eras|drop|los[et]|rid|ditch|tak(e|en|ing)|"
    r"away|off|out|leave|disappear|vanish|go\b|goes|gone|clear|stop|end\b|over|pop|pick|bye|scare|"
    r"fl[ey]w?|lower|scrap|skip|kill|hide|less|back|instead|cut|st[eo]le?|forget|pull",
}


def slot_of(name: str) -> str:
    """The slot of an attribute of a scene, as `mentions` names it."""
    from ip2p.miniworld import EXTRAS

    return "extra" if name in EXTRAS else name.removeprefix("second_")


def asks_for(text: str, name: str, old, new) -> bool:
    """Whether an instruction asks for this change of one attribute: it names the new value, or, where
    something goes, the old one and that it goes; sizes and numbers may be relative."""
    from ip2p.miniworld import EXTRAS, SIZES
    from ip2p.miniworld.scene import DEFAULTS

    named = mentions(text)
    slot = slot_of(name)
    if name in EXTRAS:
        old, new = old and name, new and name

    def is_relative(key: str) -> bool:
        return bool(re.search(rf"\b({RELATIVE[key]})", text.lower()))

    if slot == "size" and is_relative("bigger" if SIZES.index(new) > SIZES.index(old) else "smaller"):
        return True
    if slot == "count" and is_relative("more" if new > old else "fewer"):
        return True
    goes = new in (None, False, DEFAULTS.get(slot))
    if goes and (slot, old) in named and is_relative("gone"):
        return True
    return (slot, new) in named


def facts(scene) -> set[tuple[str, object]]:
    """What a scene holds, as (slot, value) like `mentions`."""
    held = set()
    for name, value in scene.attributes().items():
        if value in (False, None):
            continue
        slot = slot_of(name)
        held.add((slot, name if slot == "extra" else value))
    return held


# What an instruction names of these must be in one of the two scenes; the rest is said freely.
STRICT = ("kind", "colour", "place", "time", "weather", "style", "extra")


def disagreement(instruction: str, before, after) -> str | None:
    """Why an instruction cannot mean this edit: "inconsistent", it names what neither scene holds, or does
    not ask for all that changed; "unsaid", it asks for nothing of what changed. None if it may."""
    from ip2p.miniworld import difference

    old = before.attributes()
    changed = difference(before, after)
    if "count" in changed or "second_kind" in changed:  # a single object moves to the middle
        changed.pop("position", None)
    if "second_kind" in changed:  # its colour goes without saying
        changed.pop("second_colour", None)
    in_neither = mentions(instruction) - facts(before) - facts(after)
    if any(slot in STRICT for slot, _ in in_neither):
        return "inconsistent"
    asked = [asks_for(instruction, name, old[name], new) for name, new in changed.items()]
    if all(asked):
        return None
    return "inconsistent" if any(asked) else "unsaid"


def check(triplet: dict, world: bool = True) -> str | None:
    """None for a good triplet, else why it is not: "malformed", "no-op" and, with `world` (captions of the
    miniature world), "out-of-world" (nobody can paint the edited caption), "inconsistent" (not the edit that
    was asked for) or "unsaid" (the instruction asks for nothing that changes: it may be a subtle one, or
    nonsense)."""
    before, edit, after = (" ".join(re.findall(r"\w+", triplet[name].lower())) for name in FIELDS)
    if not (before and edit and after) or len(triplet["edit"]) > 200 or edit in (before, after):
        return "malformed"
    if before == after:
        return "no-op"
    if world:
        from ip2p.miniworld import parse

        try:
            before, after = parse(triplet["input"]), parse(triplet["output"])
        except ValueError:
            return "out-of-world"
        if before == after:
            return "no-op"
        return disagreement(triplet["edit"], before, after)
    return None


def retell(triplet: dict, rng) -> dict:
    """The same instruction in another scene of the miniature world: what neither changes nor is named
    (colour, kind, time, weather, style) is drawn anew, in the same words in both captions. So a few hundred
    hand-written instructions teach to copy captions of every length. `rng`: a `random.Random`."""
    from dataclasses import replace

    from ip2p.miniworld import difference, parse

    try:
        before, after = parse(triplet["input"]), parse(triplet["output"])
    except ValueError:  # not of this world
        return triplet
    fixed = set(difference(before, after)) | {slot for slot, _ in mentions(triplet["edit"])}
    texts = [triplet["input"], triplet["output"]]
    texts, object_change = with_other_object(texts, before, after, fixed, rng)
    texts, scene_change = with_other_surroundings(texts, before, fixed, rng)
    change = object_change | scene_change
    texts = [with_articles(text) for text in texts]
    retold = triplet | {"input": texts[0], "output": texts[1]}
    try:
        meant = [replace(scene, **change) for scene in (before, after)]
        fits = [parse(text) for text in texts] == meant and check(retold) == check(triplet)
    except ValueError:  # there is no such scene, or no such sentence
        fits = False
    return retold if fits else triplet  # as it was written


def with_other_object(texts: list[str], before, after, fixed: set[str], rng) -> tuple[list[str], dict]:
    """Texts in which a single object mostly has another colour and kind, and these, unless they are
    `fixed`."""
    from ip2p.miniworld.scene import ATTRIBUTES

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
    from ip2p.miniworld.language import STYLE_IN, STYLE_OF, TIME_AT, WEATHER_IN, choose_wording
    from ip2p.miniworld.scene import ATTRIBUTES, DEFAULTS

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
