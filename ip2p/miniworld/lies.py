"""What an instruction of the miniature world asks for, held against what its two captions say.

An instruction must name exactly the change between its captions. A language model's answers often do not:
"daytime, and no rabbit", and the rabbit stays; "I'd like to see an owl too", and the duck becomes one. Such
lessons teach an editor to change what nobody asked for, so they are found here, by the words that a
change must and must not have beside it."""

from __future__ import annotations

import re
from typing import NamedTuple

from ip2p.miniworld.parsing import LEXICON, phrases, split_words
from ip2p.miniworld.scene import ATTRIBUTES, EXTRAS, SIZES, Said

Fact = tuple[str, object]  # ("kind", "cat"), ("extra", "hat"): a slot of the lexicon and its value

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

# What an instruction names of these must be in one of the two captions; the rest is said freely.
STRICT = ("kind", "colour", "place", "time", "weather", "style", "extra")

BIGGER = RELATIVE["bigger"] + "|gigant|inflat"
SMALLER = RELATIVE["smaller"] + "|shrunk"
GONE = RELATIVE["gone"] + r"|pick|chuck|thaw|melt|turn(ed|ing)? (\w+ ){0,2}off|mow"
# Words that name a thing of the world elsewhere, but not here.
NOT_MEANT = r"time of day|^clear (?!sk|weather)|\bclear (the|away|up)\b|wet brush|\bpainted (?!in water)"
# Words directly before a thing that shall not be there any more: "no rabbit", "take away the old flag".
UNWANTED = (
    r"(\bno|(?<!could )(?<!would )(?<!can )(?<!why )\bnot|without|remove|delete|erase|drop|lose|rid of|scrap|"
    r"ditch|take away|take off|take out|instead of|"
    r"rather than|out with)( more| any| a| an| the| its| his| her| their| that| this| those| these| old)*$"
)
KEPT = (
    r"\bkeep( it| the| its| his| her| their| that| this| those| as| a| an)*( \w+)?( on the| at the| in the)?$"
)
ADDED = r"\btoo\b|\balso\b|as well\b|\badd\b|next to|beside|alongside|\bjoin|company|along\b"
REPLACED = (
    r"instead|\binto\b|\bswap|\breplac|\btrade|\bexchang|rather than|turn (it|him|her|them|the)|\bbecome"
)
ALONE = r"\bonly\b|\bjust\b|\balone\b|by (it|him|her)self|on (its|his|her) own"
PRONOUN = r"\b(its?|it's|him|his|her|them|their|they|ones?|things?|everything|this|that|these|those|you)\b"


class Mention(NamedTuple):
    """A thing of the world that an instruction names."""

    fact: Fact
    before: str  # the words before it in its clause
    owner: bool  # whether something of its own follows: "the owl's hat"


def mentions(text: str) -> list[Mention]:
    """What a text names, in its order; unlike `parse`, this skips all other words."""
    text = re.sub(NOT_MEANT, "", text.lower().replace("’", "'"))
    found = []
    for clause in re.split(r"[,.;:!?]|\band\b|\bbut\b", text):
        words = split_words(clause)
        passed = 0
        for phrase in phrases(words):
            end = passed + len(phrase)
            if phrase in LEXICON:
                slot, value = LEXICON[phrase]
                slot = "kind" if slot == "kinds" else slot
                owner = words[end : end + 1] == ["s"]
                found.append(Mention((slot, value), " ".join(words[:passed]), owner))
            passed = end
    return found


def facts(said: Said) -> set[Fact]:
    """What a caption says (`parse`), as facts."""
    found: set[Fact] = set()
    for name, value in said.items():
        found.add(("extra", name) if name in EXTRAS else (name.removeprefix("second_"), value))
    return found


def changes(before: Said, after: Said) -> dict[str, tuple[object, object]]:
    """{attribute: (value said before, value said after)} of what two captions say differently; None: unsaid.

    That a row or a second object moves a single one to the middle, and that a second object has a
    colour, goes without saying and is left out."""
    changed = {}
    for name in ATTRIBUTES:
        if before.get(name) != after.get(name):
            changed[name] = (before.get(name), after.get(name))
    if changed.keys() & {"count", "second_kind"} and "position" not in after:
        changed.pop("position", None)
    if "second_kind" in changed and None in changed["second_kind"]:
        changed.pop("second_colour", None)
    return changed


def asks_for(text: str, name: str, old: object, new: object, named: set[Fact]) -> bool:
    """Whether an instruction asks for this change of one attribute: it names the new value, or, where a thing
    goes, the old one and that it goes; sizes and numbers may be relative."""
    slot = "extra" if name in EXTRAS else name.removeprefix("second_")
    if name in EXTRAS:
        old, new = name, new and name
    if (slot, new) in named:
        return True
    if new == "clear" and ("weather", old) in named and begins(text, GONE):
        return True
    if new is None:
        return (slot, old) in named and begins(text, GONE) or bool(re.search(ALONE, text))
    if slot == "size":
        grows = old is None or SIZES.index(new) > SIZES.index(old)
        shrinks = old is None or SIZES.index(new) < SIZES.index(old)
        return grows and begins(text, BIGGER) or shrinks and begins(text, SMALLER)
    if slot == "count":
        return begins(text, RELATIVE["more" if new > old else "fewer"])
    return False


def begins(text: str, words: str) -> bool:
    """Whether a word of the text begins like one of `words`."""
    return re.search(rf"\b({words})", text) is not None


def lie(instruction: str, before: Said, after: Said) -> str | None:
    """Why an instruction does not name exactly the change between two captions (what `parse`
    finds in each); None if it may.

    "forgotten": the second caption is silent about something that the first one says. "unsaid": the
    instruction asks for nothing of what changed. "inconsistent": it asks for some of it only, names what
    neither caption has, or says the opposite."""
    text = instruction.lower().replace("’", "'")
    changed = changes(before, after)
    for name, (_, new) in changed.items():
        if new is None and name not in EXTRAS and not name.startswith("second"):
            return "forgotten"
    found = mentions(text)
    named = {mention.fact for mention in found}
    asked = [asks_for(text, name, old, new, named) for name, (old, new) in changed.items()]
    if not any(asked):
        return "unsaid"
    if not all(asked):
        return "inconsistent"
    contradicted = (
        names_what_is_not_there(named, before, after)
        or says_the_opposite(found, after)
        or both_directions(text, named, changed)
        or wrong_number(text, changed)
        or added_or_replaced(text, changed)
        or wrong_subject(text, named, changed, before)
        or glued_words(text)
    )
    return "inconsistent" if contradicted else None


def names_what_is_not_there(named: set[Fact], before: dict, after: dict) -> bool:
    """It names a thing that neither caption has. Sizes, numbers and sides are said freely."""
    return any(slot in STRICT for slot, _ in named - facts(before) - facts(after))


def says_the_opposite(found: list[Mention], after: dict) -> bool:
    """ "no rabbit", and it is there afterwards; "keep it on the left", and it is not."""
    there = facts(after)
    for fact, words, owner in found:
        if fact[0] in STRICT and not owner and re.search(UNWANTED, words) and fact in there:
            return True
        if re.search(KEPT, words) and fact not in there:
            return True
    return False


def both_directions(text: str, named: set[Fact], changed: dict) -> bool:
    """ "bigger, smaller than it is now", or "bigger" where it gets smaller."""
    if "size" not in changed:
        return False
    old, new = changed["size"]
    up, down = begins(text, BIGGER), begins(text, SMALLER)
    if re.search(r"bigger\W+(\w+ )?smaller|smaller\W+(\w+ )?bigger", text):
        return True
    if old is None or up == down or ("size", new) in named:
        return False
    return up != (SIZES.index(new) > SIZES.index(old))


def wrong_number(text: str, changed: dict) -> bool:
    """ "one more" where two come; "only one" where three are left."""
    if "count" not in changed:
        return False
    old, new = changed["count"]
    numbers = {"one": 1, "another": 1, "two": 2, "three": 3}
    more = re.search(r"\b(one|two|another)\b( \w+)? (more|extra|again)\b|\b(another)\b", text)
    if more:
        return new - old != numbers[more[1] or more[4]] and not re.search(rf"\b{_word(new)}\b", text)
    only = re.search(r"\b(?:only|just) (one|two|three)\b", text)
    return only is not None and numbers[only[1]] != new


def _word(number: int) -> str:
    return ("one", "two", "three")[number - 1]


def added_or_replaced(text: str, changed: dict) -> bool:
    """ "an owl too", and the duck becomes one; "an owl instead", and it comes beside the duck."""
    adds, replaces = re.search(ADDED, text), re.search(REPLACED, text)
    old, new = changed.get("kind", (None, None))
    if old and new and "second_kind" not in changed:
        return bool(adds and not replaces)
    came = changed.get("second_kind", (0, None))[0] is None
    return bool(came and replaces and not adds)


def wrong_subject(text: str, named: set[Fact], changed: dict, before: dict) -> bool:
    """ "the trees should be white", and the mushroom turns white; or the other of two objects changes."""
    kinds = {value for slot, value in named if slot == "kind"}
    for prefix, other in (("", "second_"), ("second_", "")):
        own = {before.get(f"{prefix}kind"), changed.get(f"{prefix}kind", (None, None))[1]}
        for name in (f"{prefix}colour", f"{prefix}kind"):
            old, new = changed.get(name, (None, None))
            if (
                not new
                or name == "second_kind"
                and old is None
                or name == "second_colour"
                and "second_kind" in changed
            ):
                continue
            if before.get(f"{other}kind") in kinds and not kinds & own:
                return True
            elsewhere = any(slot in ("place", "extra") for slot, _ in named)
            if name.endswith("colour") and elsewhere and not kinds and not re.search(PRONOUN, text):
                return True
    return False


def glued_words(text: str) -> bool:
    """ "tinypink": two words of the world in one."""
    short = {phrase[0] for phrase in LEXICON if len(phrase) == 1}
    for word in re.findall(r"[a-z]{6,}", text):
        if word in short:
            continue
        for cut in range(3, len(word) - 2):
            if word[:cut] in short and word[cut:] in short:
                return True
    return False
