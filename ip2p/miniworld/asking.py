"""What an instruction of the miniature world asks for, held against what its two scenes hold."""

from __future__ import annotations

import re

from ip2p.miniworld.parsing import LEXICON, SPELLINGS, phrases
from ip2p.miniworld.scene import DEFAULTS, EXTRAS, SIZES, difference

# Idioms in which a word of the world's language does not mean what it names.
NOT_MEANT = r"time of day|^clear (?!sk|weather)|\bclear (the|away|up)\b|wet brush"


def mentions(text: str) -> set[tuple[str, object]]:
    """What of the miniature world a text names, as (slot, value); unlike `parse`, it skips other words."""
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
    return "extra" if name in EXTRAS else name.removeprefix("second_")


def asks_for(text: str, name: str, old, new) -> bool:
    """Whether an instruction asks for this change of one attribute: it names the new value, or, where
    something goes, the old one and that it goes; sizes and numbers may be relative."""
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
