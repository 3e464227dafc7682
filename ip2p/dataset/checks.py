"""What is wrong with a triplet, and with a whole file of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from ip2p.dataset.triplets import FIELDS, read_triplets, write_chats

# ---------------------------------------------------------------------------- which answers are kept


def _mentions(text: str) -> set[tuple[str, object]]:
    """What of the miniature world a text names, as (slot, value); unlike `parse`, it skips other words."""
    from ip2p.miniworld.parsing import LEXICON, LONGEST, SPELLINGS

    not_meant = r"time of day|^clear (?!sk|weather)|\bclear (the|away|up)\b|wet brush"
    text = re.sub(not_meant, "", text.lower())
    words, out, i = [SPELLINGS.get(w, w) for w in re.findall(r"[a-z0-9]+", text)], set(), 0
    while i < len(words):
        n = next((n for n in range(LONGEST, 0, -1) if tuple(words[i : i + n]) in LEXICON), 0)
        if n:
            slot, value = LEXICON[tuple(words[i : i + n])]
            out.add(("kind" if slot == "kinds" else slot, value))
        i += max(n, 1)
    return out


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


def _asked(text: str, name: str, old, new) -> bool:
    """Whether an instruction asks for this change of one attribute: it names the new value, or, where something goes,
    the old one and that it goes; sizes and numbers may be relative."""
    from ip2p.miniworld import EXTRAS, SIZES
    from ip2p.miniworld.scene import DEFAULTS

    named, slot = _mentions(text), "extra" if name in EXTRAS else name.removeprefix("second_")
    if name in EXTRAS:
        old, new = old and name, new and name

    def relative(key: str) -> bool:
        return bool(re.search(rf"\b({RELATIVE[key]})", text.lower()))

    if slot == "size" and relative("bigger" if SIZES.index(new) > SIZES.index(old) else "smaller"):
        return True
    if slot == "count" and relative("more" if new > old else "fewer"):
        return True
    if new in (None, False, DEFAULTS.get(slot)) and (slot, old) in named and relative("gone"):
        return True
    return (slot, new) in named


def _disagreement(instruction: str, before, after) -> str | None:
    """Why an instruction cannot mean this edit: "inconsistent", it names what neither scene holds, or does not ask for
    all that changed; "unsaid", it asks for nothing of what changed. None if it may."""
    from ip2p.miniworld import EXTRAS, difference

    def facts(scene) -> set:
        return {
            ("extra", name) if name in EXTRAS else (name.removeprefix("second_"), value)
            for name, value in scene.attributes().items()
            if value not in (False, None)
        }

    was, changed = before.attributes(), difference(before, after)
    if changed.keys() & {
        "count",
        "second_kind",
    }:  # a row, or a second object, moves a single object to the middle
        changed.pop("position", None)
    if "second_kind" in changed:  # its colour goes without saying
        changed.pop("second_colour", None)
    named = _mentions(instruction) - facts(before) - facts(after)
    if any(slot in ("kind", "colour", "place", "time", "weather", "style", "extra") for slot, _ in named):
        return "inconsistent"  # the rest is said freely
    asked = [_asked(instruction, name, was[name], new) for name, new in changed.items()]
    return None if all(asked) else "inconsistent" if any(asked) else "unsaid"


def check(triplet: dict, world: bool = True) -> str | None:
    """None for a good triplet, else why it is not: "malformed", "no-op" and, with `world` (captions of the
    miniature world), "out-of-world" (nobody can paint the edited caption), "inconsistent" (not the edit that was
    asked for) or "unsaid" (the instruction asks for nothing that changes: it may be a subtle one, or nonsense).
    """
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
        return _disagreement(triplet["edit"], before, after)
    return None


def retell(triplet: dict, rng) -> dict:
    """The same instruction in another scene of the miniature world: what neither changes nor is named (colour, kind,
    time, weather, style) is drawn anew, in the same words in both captions. So a few hundred hand-written instructions
    teach to copy captions of every length. `rng`: a `random.Random`."""
    from dataclasses import replace

    from ip2p.miniworld import difference, parse
    from ip2p.miniworld.language import STYLE_IN, STYLE_OF, TIME_AT, WEATHER_IN, choose_wording
    from ip2p.miniworld.scene import ATTRIBUTES, DEFAULTS

    try:
        before, after = parse(triplet["input"]), parse(triplet["output"])
    except ValueError:  # not of this world
        return triplet
    fixed = set(difference(before, after)) | {slot for slot, _ in _mentions(triplet["edit"])}
    texts, change = [triplet["input"], triplet["output"]], {}
    for name in ("colour", "kind"):
        old, new = getattr(before, name), rng.choice(ATTRIBUTES[name])
        taken = new in (before.second or ()) + (after.second or ())
        if name not in fixed and not taken and before.count == after.count == 1 and rng.random() < 0.7:
            texts, change[name] = [re.sub(rf"\b{old}\b", new, text, count=1) for text in texts], new
    for name, wordings in (("time", TIME_AT), ("weather", WEATHER_IN), ("style", STYLE_IN)):
        if name in fixed or getattr(before, name) != DEFAULTS[name] or rng.random() < 0.5:
            continue
        change[name] = rng.choice([value for value in ATTRIBUTES[name] if value != DEFAULTS[name]])
        said, front = choose_wording(wordings[change[name]], rng), rng.random() < 0.3
        if name == "style":
            start = choose_wording(STYLE_OF[change[name]], rng)
            texts = [f"{start} {text}" if front else f"{text}, {said}" for text in texts]
        else:
            texts = [f"{said}, {text}" if front else f"{text} {said}" for text in texts]
    texts = [
        re.sub(r"\b(a|an) (?=([aeiou])|.)", lambda m: f"{'an' if m[2] else 'a'} ", text) for text in texts
    ]
    told = triplet | {"input": texts[0], "output": texts[1]}
    try:
        meant = [replace(scene, **change) for scene in (before, after)]
        fits = [parse(text) for text in texts] == meant and check(told) == check(triplet)
    except ValueError:  # there is no such scene, or no such sentence
        fits = False
    return told if fits else triplet  # as it was written


# ---------------------------------------------------------------------------- a whole file, of any domain

NEAR = 0.6  # share of common words at which two captions count as near-duplicates

STOP_WORDS = set(
    """a an the of in on at to by with and or is are be it its this that into as from for his her
their them him she he they make turn change have let put give add remove take some more very there instead like
look""".split()
)


def words(text: str) -> set[str]:
    """The content words of a text, plural and verb endings cut off."""
    found = set(re.findall(r"[a-z0-9]+", text.lower())) - STOP_WORDS
    return {re.sub(r"(ies|ing|ed|es|s|y|e)$", "", word) or word for word in found}


def follows(triplet: dict) -> bool:
    """Whether the edited caption can be what the instruction makes of the caption: it keeps at least a third of the
    caption's words, and it names something of the instruction that the caption did not, or, adding nothing, leaves
    out something that the instruction names."""
    before, edit, after = (words(triplet[name]) for name in ("input", "edit", "output"))
    added, removed = after - before, before - after
    kept = 3 * len(before & after) >= len(before)
    return kept and bool(added & edit or removed & edit and len(added) <= 2)


def near_duplicates(texts: list[str]) -> list[tuple[int, int, float]]:
    """Pairs (i, j, share of common words) of texts that share at least NEAR of the words of both together."""
    sets, out, of_word = [words(text) for text in texts], [], {}
    for j, some in enumerate(sets):
        common = Counter(i for word in some for i in of_word.get(word, ()))
        out += [(i, j, n / len(some | sets[i])) for i, n in common.items() if n >= NEAR * len(some | sets[i])]
        for word in some:
            of_word.setdefault(word, []).append(j)
    return out


def problems(path: str | Path) -> list[str]:
    """What is wrong with a file, a sentence each."""
    triplets, out, seen = read_triplets(path), [], {}
    for number, triplet in enumerate(triplets, 1):
        reason = check(triplet, world=False)
        if reason:
            out.append(f"line {number}: {reason}")
        elif not follows(triplet):
            out.append(
                f"line {number}: the edited caption does not follow from {triplet['edit']!r}: "
                f"{triplet['input']!r} -> {triplet['output']!r}"
            )
        first = seen.setdefault(" ".join(re.findall(r"\w+", triplet["edit"].lower())), number)
        if first != number:
            out.append(f"line {number}: the instruction {triplet['edit']!r} stands in line {first} already")
    out += [
        f"lines {i + 1} and {j + 1}: near-duplicate captions ({share:.0%} of the words): {triplets[j]['input']!r}"
        for i, j, share in near_duplicates([t["input"] for t in triplets])
    ]
    return out


def mix(path: str | Path) -> Counter:
    """How many triplets of each kind of edit, by the column `kind`."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line).get("kind", "?") for line in lines if line.strip())


def report(path: str | Path, chat: str | Path | None = None) -> bool:
    """`ip2p triplets check`: print the mix of a file and its problems; returns whether there are none.
    chat: also write the triplets as chats to this file."""
    found, kinds = problems(path), mix(path)
    print(
        f"{path}: {kinds.total()} triplets, {len(kinds)} kinds of edit:",
        ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()),
    )
    print("\n".join(found) or "no duplicates, no no-ops, and every edited caption follows")
    if chat:
        write_chats(chat, read_triplets(path))
    return not found
