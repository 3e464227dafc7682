"""What an instruction of the miniature world asks for, held against what its two captions say.

An instruction must name exactly the change between its captions. A language model's answers often do not:
"daytime, and no rabbit", and the rabbit stays; "I'd like to see an owl too", and the duck becomes one. Such
lessons teach an editor to change what nobody asked for, so they are found here.

Two questions are asked. Is each change asked for (`asks_for`)? And does the instruction say anything that the
captions contradict? For this there is one function a kind of lie, each with an example; all are in `LIES`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ip2p.miniworld import sayings
from ip2p.miniworld.parsing import LEXICON, parse, phrases, split_words
from ip2p.miniworld.scene import ABSENT, ATTRIBUTES, EXTRAS, SIZES, Said, is_swap

Fact = tuple[str, object]  # ("kind", "cat"), ("extra", "hat"): a slot of the lexicon and its value

# What an instruction names of these must be in one of the two captions; the rest is said freely.
STRICT = ("kind", "colour", "place", "time", "weather", "style", "extra")
OF_AN_OBJECT = ("kind", "colour", "size", "position")


class Mention(NamedTuple):
    """A thing of the world that an instruction names."""

    fact: Fact
    before: str  # the words before it in its clause
    after: str  # the words behind it in its clause
    owner: bool  # whether something of its own follows: "the owl's hat"


class Reading(NamedTuple):
    """An instruction between two captions."""

    text: str
    found: list[Mention]
    named: set[Fact]
    before: Said
    after: Said
    changed: dict[str, tuple[object, object]]  # see `changes`


def plain(text: str) -> str:
    """Lower case, and without words that name a thing of the world elsewhere, but not here."""
    text = text.lower().replace("’", "'")
    for words, instead in sayings.NOT_MEANT:
        text = re.sub(words, instead, text)
    return text


def mentions(text: str) -> list[Mention]:
    """What a text names, in its order; unlike `parse`, this skips all other words."""
    found = []
    for clause in re.split(r"[,.;:!?]|\band\b|\bbut\b", plain(text)):
        words = split_words(clause)
        passed = 0
        for phrase in phrases(words):
            end = passed + len(phrase)
            if phrase in LEXICON:
                slot, value = LEXICON[phrase]
                slot = "kind" if slot == "kinds" else slot
                owner = words[end : end + 1] == ["s"]
                before, after = " ".join(words[:passed]), " ".join(words[end:])
                found.append(Mention((slot, value), before, after, owner))
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


def read(instruction: str, before: Said, after: Said) -> Reading:
    """Everything that the rules below look at."""
    found = mentions(instruction)
    named = {mention.fact for mention in found}
    return Reading(plain(instruction), found, named, before, after, changes(before, after))


def begins(text: str, words: str) -> bool:
    """Whether a word of the text begins like one of `words`."""
    return re.search(rf"\b({words})", text) is not None


def hinted(text: str, slot: str) -> set[object]:
    """The values that a text names in other words than captions do: "the colour of a lemon" is yellow."""
    found = set()
    for value, words in sayings.HINTS.get(slot, {}).items():
        if re.search(rf"\b({words})\b", text):
            found.add(value)
    return found


# --- is each change asked for? ------------------------------------------------------------------------------


def asks_for(edit: Reading, name: str) -> bool:
    """Whether an instruction asks for the change of one attribute: it names the new value, or, where a thing
    goes, the old one and that it goes; sizes, numbers and sides may be relative."""
    old, new = edit.changed[name]
    if name in EXTRAS:
        is_named = ("extra", name) in edit.named or name in hinted(edit.text, "extra")
        return is_named if new else goes(edit, is_named)
    slot = name.removeprefix("second_")
    if new is None:
        return goes(edit, (slot, old) in edit.named)
    if (slot, new) in edit.named or new in hinted(edit.text, slot):
        return True
    if new == "clear":
        return ("weather", old) in edit.named and begins(edit.text, sayings.GONE)
    if slot == "size":
        return asks_for_size(edit.text, old, new)
    if slot == "count":
        return begins(edit.text, sayings.MORE if new > old else sayings.FEWER)
    return slot == "position" and "other side" in edit.text


def goes(edit: Reading, is_named: bool) -> bool:
    """ "take the hat off", or "only the cat"."""
    if is_named and begins(edit.text, sayings.GONE):
        return True
    kind = edit.before["kind"]
    for mention in edit.found:
        if mention.fact == ("kind", kind) and re.search(sayings.ALONE, mention.before):
            return True
    return bool(re.search(r"\balone\b|\b(by|on) \w+ ?(self|own)\b", edit.text))


def asks_for_size(text: str, old: object, new: object) -> bool:
    """ "bigger" where it gets larger, "smaller" where it gets smaller; where the old size is unsaid, both may
    be, but nothing grows until it is small."""
    grows = new != SIZES[0] if old is None else SIZES.index(new) > SIZES.index(old)
    shrinks = new != SIZES[-1] if old is None else SIZES.index(new) < SIZES.index(old)
    return grows and begins(text, sayings.BIGGER) or shrinks and begins(text, sayings.SMALLER)


# --- does it say what the captions contradict? One function a kind of lie -----------------------------------


def names_what_is_not_there(edit: Reading) -> bool:
    """ "paint the car blue", and there is no car. Sizes, numbers and sides are said freely."""
    if re.search(sayings.FOREIGN, edit.text):
        return True
    return any(slot in STRICT for slot, _ in edit.named - facts(edit.before) - facts(edit.after))


def keeps_what_shall_go(edit: Reading) -> bool:
    """ "daytime, and no rabbit", and the rabbit stays; "the robot lost its hat", and it gets one."""
    there = facts(edit.after)
    for mention in edit.found:
        slot = mention.fact[0]
        if mention.owner or mention.fact not in there:
            continue
        if re.search(sayings.NOT_MADE, mention.before) or re.search(sayings.ALL, mention.before):
            return True
        if slot not in STRICT:
            continue
        if re.search(sayings.UNWANTED, mention.before) and not ("count" in edit.changed and slot == "kind"):
            return True
        if slot in ("kind", "extra") and not edit.changed.keys() & {"count", "place", "position"}:
            if re.search(sayings.DEPARTED, mention.after):
                return True
    return False


def keeps_all_that_shall_go(edit: Reading) -> bool:
    """ "make it night and the two of them disappear", and they are still there."""
    if not re.search(sayings.ALL_DEPARTED, edit.text):
        return False
    for name, (old, new) in edit.changed.items():
        if new is None or name in ("kind", "second_kind", "weather") or name == "count" and new < old:
            return False
    return True


def loses_what_shall_stay(edit: Reading) -> bool:
    """ "keep the castle on the left", and it stands on the right; "don't drop the flowers", and they go."""
    for fact, before, *_ in edit.found:
        if fact in facts(edit.after):
            continue
        if re.search(sayings.KEPT, before) or re.search(sayings.SPARED, before):
            return True
    return False


def goes_where_it_comes_from(edit: Reading) -> bool:
    """ "take it out of the forest", and the forest comes; "from right to left", and it goes right."""
    for mention in edit.found:
        stays = mention.fact == ("place", edit.after.get("place")) and "place" in edit.changed
        if stays and re.search(sayings.LEFT_BEHIND, mention.before):
            return True
    sides = re.search(sayings.SIDE_TO_SIDE, edit.text)
    if not sides or "position" not in edit.changed:
        return False
    old, new = edit.changed["position"]
    start, end = (side.replace("middle", "centre") for side in sides.groups())
    return end != new or old not in (None, start)


def names_another_side(edit: Reading) -> bool:
    """ "put the cat on the left", and it stays in the middle, or turns blue."""
    if edit.changed.keys() & {"second_kind", *EXTRAS}:
        return False  # it may be these that shall be there
    sides = set()
    for mention in edit.found:
        if mention.fact[0] == "position" and not re.search(sayings.ASIDE, mention.before):
            sides.add(mention.fact[1])
    if edit.after["count"] > 1 or "second_kind" in edit.after:
        sides.discard("centre")
    old, new = edit.changed.get("position", (None, edit.after.get("position")))
    if old is None and new in sides:
        return False
    return bool(sides - {old, new})


def asks_for_another_size(edit: Reading) -> bool:
    """ "make it small", and it is medium; "the size of a thumb, so large"."""
    if "size" not in edit.changed:
        return False
    old, new = edit.changed["size"]
    sizes = set()
    for mention in edit.found:
        if mention.fact[0] != "size":
            continue
        wanted = re.search(sayings.WANTED, mention.before) or re.search(sayings.ASKED, mention.before)
        if wanted and mention.fact[1] != new:
            return True  # "I've always wanted a giant duck, small"
        complaint = re.match(sayings.COMPLAINT, mention.after)
        if not complaint and not re.search(sayings.SIZE_MENTIONED, mention.before):
            sizes.add(mention.fact[1])
    if old is None and new in sizes:
        sizes.clear()  # "a giant umbrella is hard to carry, make it tiny"
    return bool((sizes | hinted(edit.text, "size")) - {old, new})


def had_another_size(edit: Reading) -> bool:
    """ "the dog is too large, medium is fine", and it was small."""
    old, new = edit.changed.get("size", (None, None))
    sizes = [mention for mention in edit.found if mention.fact[0] == "size"]
    if old is None or len(sizes) < 2:
        return False
    shrinks = SIZES.index(new) < SIZES.index(old)
    fitting = []
    for (_, value), before, *_ in sizes:
        if re.search(sayings.IT_IS_TOO, before):
            fitting.append(shrinks == (value != "small"))
        elif re.search(sayings.IT_IS, before):
            fitting.append(value == old)
    return bool(fitting) and not any(fitting)


def keeps_its_size(edit: Reading) -> bool:
    """ "make it tiny and move it to the left", and it is as huge as before."""
    if edit.changed.keys() & {"size", "count", "second_kind"}:
        return bool("size" not in edit.changed and re.search(sayings.SIZED_ONE, edit.text))
    for mention in edit.found:
        slot, value = mention.fact
        if slot == "size" and value != edit.after.get("size") and re.search(sayings.MADE, mention.before):
            return True
    return bool(re.search(sayings.RESIZED, edit.text))


def says_both_directions(edit: Reading) -> bool:
    """ "bigger, smaller than it is now", or "bigger" where it gets smaller."""
    if "size" not in edit.changed:
        return False
    old, new = edit.changed["size"]
    if re.search(sayings.BIGGER_AND_SMALLER, edit.text):
        return True
    if re.search(sayings.SHALL_SHRINK, edit.text) and SIZES.index(new) > SIZES.index(old or "small"):
        return old is not None
    up, down = begins(edit.text, sayings.BIGGER), begins(edit.text, sayings.SMALLER)
    known = ("size", new) in edit.named or new in hinted(edit.text, "size")
    if old is None or up == down or known:
        return False
    return up != (SIZES.index(new) > SIZES.index(old))


def counts_wrong(edit: Reading) -> bool:
    """ "one more" where two come; "two less" of three, and two are left; "one dog is fine, so two"."""
    old, new = edit.before["count"], edit.after["count"]
    if old == new:
        return "all but" in edit.text
    wanted = ((sayings.COME, new - old), (sayings.GO, old - new), (sayings.STAY, new), (sayings.WERE, old))
    for patterns, number in wanted:
        for pattern in patterns:
            for match in re.finditer(pattern, edit.text):
                if sayings.NUMBERS[match[1]] != number:
                    return True
    return False


def counts_from_elsewhere(edit: Reading) -> bool:
    """ "two bunnies would be nicer than one", and there were three."""
    old, new = edit.before["count"], edit.after["count"]
    numbers = set()
    for match in re.finditer(sayings.COUNTED, edit.text):
        numbers.add(sayings.NUMBERS[match[1]])
    if old == new or new not in numbers:
        return False
    others = numbers - {old, new}
    if begins(edit.text, sayings.MORE if new > old else sayings.FEWER):
        others.discard(abs(new - old))
    return bool(others)


def names_a_number_of_nothing(edit: Reading) -> bool:
    """ "three tents please, in blue", and there are two."""
    old, new = edit.before["count"], edit.after["count"]
    fitting = {1, old, new, abs(new - old)}
    if {"second_kind", *EXTRAS} & (edit.before.keys() | edit.after.keys()):
        fitting.add(2)
    for mention in edit.found:
        slot, value = mention.fact
        of_the_object = not re.search(sayings.OF_AN_EXTRA, mention.after)
        if slot == "count" and of_the_object and value not in fitting:
            return True
    return False


def means_one_and_changes_all(edit: Reading) -> bool:
    """ "paint one of the tents blue", and all three turn blue, or only one is left."""
    all_change = edit.changed.keys() & set(OF_AN_OBJECT)
    return bool(all_change) and bool(re.search(sayings.ONE_OF_THEM, edit.text))


def adds_what_takes_the_place(edit: Reading) -> bool:
    """ "I'd like to see an owl too", and the duck becomes one; "a red tent next to the tent", and it turns
    red."""
    if "second_kind" in edit.changed or "count" in edit.changed:
        return False
    if any(name in EXTRAS for name in edit.changed):
        return False
    if re.search(sayings.REPLACED, edit.text):
        return False
    if "kind" in edit.changed and edit.changed["kind"][1]:
        return bool(re.search(sayings.ADDED, edit.text)) or stands_by_itself(edit)
    alone = "second_kind" not in edit.before
    of_it = edit.changed.keys() & {"colour", "size"}
    if not (alone and of_it):
        return False
    return bool(re.search(sayings.STRONGLY_ADDED, edit.text)) or stands_by_itself(edit)


def stands_by_itself(edit: Reading) -> bool:
    """ "a red tent next to the tent"."""
    kind = ("kind", edit.before["kind"])
    return any(mention.fact == kind and re.search(sayings.NEXT_TO, mention.before) for mention in edit.found)


def replaces_and_leaves_it(edit: Reading) -> bool:
    """ "swap it for a balloon", and the duck has one now; "a dog instead", and it comes beside the duck."""
    came = gone = False
    for name, (old, new) in edit.changed.items():
        if name in EXTRAS or name == "second_kind":
            came |= old is None
            gone |= new is None
        elif name == "kind":
            return False
    company = edit.changed.get("second_kind", (0, None))[0] is None
    if company and not gone:
        if re.search(sayings.REPLACED, edit.text) and not re.search(sayings.ADDED, edit.text):
            return True
        kind = ("kind", edit.after["second_kind"])
        return any(m.fact == kind and re.search(sayings.MADE_OF_IT, m.before) for m in edit.found)
    return came and not gone and bool(re.search(sayings.SWAPPED, edit.text))


def sizes_the_second_object(edit: Reading) -> bool:
    """ "put a huge umbrella next to it": what stands beside has no size of its own."""
    second = edit.after.get("second_kind", edit.before.get("second_kind"))
    sizes = [mention for mention in edit.found if mention.fact[0] == "size"]
    return any(second in mention.after.split()[:2] for mention in sizes)


def means_both_and_changes_one(edit: Reading) -> bool:
    """ "could they both be green", and only the owl turns green."""
    if "second_kind" not in edit.before or not re.search(sayings.BOTH, edit.text):
        return False
    new = edit.changed.get("colour", edit.changed.get("second_colour", (None, None)))[1]
    return new is not None and {edit.after.get("colour"), edit.after.get("second_colour")} != {new}


def swaps_for_nothing(edit: Reading) -> bool:
    """ "swap the cat", and something goes, but nothing comes in its place."""
    if not re.search(sayings.SWAPPED, edit.text):
        return False
    return all(new is None for _, new in edit.changed.values())


def changes_the_other_object(edit: Reading) -> bool:
    """ "make the duck green", and the rocket beside it turns green."""
    kinds = {value for slot, value in edit.named if slot == "kind"}
    for prefix, other in (("", "second_"), ("second_", "")):
        own = {edit.before.get(f"{prefix}kind"), edit.changed.get(f"{prefix}kind", (None, None))[1]}
        if edit.before.get(f"{other}kind") not in kinds or kinds & own:
            continue
        for name in ("colour", "kind", "size"):
            old, new = edit.changed.get(f"{prefix}{name}", (None, None))
            came = prefix and (old is None and name == "kind" or "second_kind" in edit.changed)
            if new and not came:
                return True
    return False


def changes_another_thing(edit: Reading) -> bool:
    """ "the trees should be white", and the mushroom turns white; "shrink the flag", and the car shrinks."""
    if not edit.changed.keys() & {*OF_AN_OBJECT, "weather"}:
        return False
    for mention in edit.found:
        if mention.owner or concerns(mention, edit):
            continue
        if re.search(sayings.DONE_TO, mention.before) or re.search(sayings.CHANGED, mention.after):
            return True
    return False


def changes_what_is_not_there_yet(edit: Reading) -> bool:
    """ "paint the house red", and an owl turns into a red house; "shrink the pink one", and it turns pink."""
    colour = edit.changed.get("colour", (None, None))[1]
    new = edit.changed.get("kind", (None, None))[1]
    for fact, before, after, owner in edit.found:
        if fact == ("colour", colour) and re.search(sayings.DONE_TO, before):
            return True
        if fact != ("kind", new) or owner or new == edit.before.get("second_kind"):
            continue
        the_subject = re.search(r"\bthe$", before) and re.search(sayings.CHANGED, after)
        if the_subject or re.search(sayings.DONE_TO, before):
            return True
    return False


def concerns(mention: Mention, edit: Reading) -> bool:
    """Whether a thing that is named may be the subject of what changed."""
    slot, value = mention.fact
    if slot == "extra":
        return value in edit.changed
    if slot == "place":
        return bool(edit.changed.keys() & {"place", "weather", "time"})
    if slot == "kind" and value == edit.before.get("second_kind"):
        return any(name.startswith("second") for name in edit.changed)
    if slot == "kind" and value == edit.before["kind"]:
        return bool(edit.changed.keys() & {*OF_AN_OBJECT, "count", "weather"})
    return True


def speaks_of_scenery_only(edit: Reading) -> bool:
    """ "I'd put the sun on the right", and the boat goes there; "a pink flag", and the dog turns pink."""
    if not edit.changed.keys() <= {"colour", "size", "position"}:
        return False
    kinds = {value for slot, value in edit.named if slot == "kind"}
    if kinds or re.search(sayings.PRONOUN, edit.text):
        return False
    elsewhere = bool(re.search(sayings.SCENERY, edit.text))
    for slot, _ in edit.named:
        elsewhere |= slot == "extra" or slot == "place" and "colour" in edit.changed
    return elsewhere


def colours_a_part(edit: Reading) -> bool:
    """ "a pink collar", and the whole cat turns pink."""
    new = edit.changed.get("colour", (None, None))[1]
    part = rf"({sayings.PARTS})"
    said = rf"\b{new} (\w+ )?{part}\b|\b{part} (should be |to be |be |in |are |is )?{new}\b"
    return new is not None and bool(re.search(said, edit.text))


def hints_at_something_else(edit: Reading) -> bool:
    """ "the colour of a lemon: red"; "watch the sunrise", and it is night."""
    for slot in ("colour", "time"):
        meant = hinted(edit.text, slot)
        own = {edit.before.get(slot), edit.after.get(slot)}
        own |= {edit.before.get(f"second_{slot}"), edit.after.get(f"second_{slot}")}
        described = slot == "time" and edit.before.get(slot) is None  # "it's dark out, make it day"
        if slot in edit.changed and meant and not meant & own and not described:
            return True
        if slot == "time" and slot not in edit.changed and meant and not meant & own:
            return True
    return False


def glues_words(edit: Reading) -> bool:
    """ "tinypink", "makeitrain": several words in one."""
    for word in re.findall(r"[a-z]{6,}", edit.text):
        if word not in WORDS | sayings.WHOLE_WORDS and is_glued(word):
            return True
    return False


WORDS = {phrase[0] for phrase in LEXICON if len(phrase) == 1}


def is_glued(word: str) -> bool:
    """Whether a word is made of two or more known ones."""
    pieces = WORDS | sayings.SHORT_WORDS
    for cut in range(2, len(word) - 1):
        if word[:cut] in pieces and (word[cut:] in pieces or is_glued(word[cut:])):
            return True
    return False


# What is wrong -> the rule that finds it.
LIES = {
    "it names what is in neither caption": names_what_is_not_there,
    "what shall go is still there": keeps_what_shall_go,
    "all that shall go is still there": keeps_all_that_shall_go,
    "what shall stay is gone": loses_what_shall_stay,
    "it is where it was to leave": goes_where_it_comes_from,
    "it names another side": names_another_side,
    "it names another size": asks_for_another_size,
    "it had another size": had_another_size,
    "it keeps its size": keeps_its_size,
    "it grows where it should shrink, or both": says_both_directions,
    "the numbers do not add up": counts_wrong,
    "so many were not there": counts_from_elsewhere,
    "there are not so many": names_a_number_of_nothing,
    "one was to change, and all do": means_one_and_changes_all,
    "what was to be added takes the place of something": adds_what_takes_the_place,
    "what was to be replaced stays": replaces_and_leaves_it,
    "what stands beside has no size": sizes_the_second_object,
    "both were to change, and one does": means_both_and_changes_one,
    "nothing comes in its place": swaps_for_nothing,
    "the other object changes": changes_the_other_object,
    "something else changes": changes_another_thing,
    "what is to change is not there yet": changes_what_is_not_there_yet,
    "it speaks of something that cannot change so": speaks_of_scenery_only,
    "only a part of it was to have this colour": colours_a_part,
    "it is like something else": hints_at_something_else,
    "its words are glued together": glues_words,
}


# --- the verdict --------------------------------------------------------------------------------------------


def lie(instruction: str, before: Said, after: Said) -> str | None:
    """Why an instruction does not name exactly the change between two captions (what `parse`
    finds in each); None if it may.

    "forgotten": the second caption is silent about something that the first one says. "unsaid": the
    instruction asks for nothing of what changed. "inconsistent": it asks for some of it only, or says what
    the captions contradict (`LIES`)."""
    edit = read(instruction, before, after)
    if forgets(edit):
        return "forgotten"
    if is_swap(ABSENT | before, ABSENT | after) and re.search(sayings.PLACES_CHANGED, edit.text):
        return None
    asked = [asks_for(edit, name) for name in edit.changed]
    if not any(asked):
        return "unsaid"
    if not all(asked) or contradiction(edit):
        return "inconsistent"
    return None


def fault(caption: str, instruction: str, edited: str) -> str | None:
    """`lie`, of captions as they are written; "out-of-world" if one is not of this world, "no-op" if both say
    the same."""
    try:
        before, after = parse(caption), parse(edited)
    except ValueError:
        return "out-of-world"
    return "no-op" if before == after else lie(instruction, before, after)


def forgets(edit: Reading) -> bool:
    """ "a cat at night" -> "a cat"."""
    for name, (_, new) in edit.changed.items():
        if new is None and name not in EXTRAS and not name.startswith("second"):
            return True
    return False


def contradiction(edit: Reading) -> str | None:
    """What an instruction says that its captions contradict, in words; None: nothing that a rule finds."""
    for words, is_so in LIES.items():
        if is_so(edit):
            return words
    return None


FAULTS = {
    "out-of-world": "it is not of the miniature world",
    "no-op": "both captions say the same",
    "forgotten": "the edited caption forgets something that the caption says",
    "unsaid": "the instruction does not ask for what changes",
}


def explain(caption: str, instruction: str, edited: str) -> str | None:
    """`fault`, in words for people."""
    reason = fault(caption, instruction, edited)
    if reason != "inconsistent":
        return FAULTS.get(reason)
    edit = read(instruction, parse(caption), parse(edited))
    return contradiction(edit) or "the instruction asks for some of what changes only"
