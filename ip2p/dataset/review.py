"""What is wrong with a whole file of triplets: duplicates, no-ops, edits that do not follow, and, about the
miniature world, instructions that do not name exactly the change."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ip2p.dataset.checks import check, words
from ip2p.dataset.triplets import json_rows, read_triplets, write_chats
from ip2p.miniworld.lies import explain
from ip2p.miniworld.parsing import is_said, parse
from ip2p.miniworld.scene import edit_kind

NEAR = 0.6  # share of common words at which two captions count as near-duplicates

STOP_WORDS = set(
    """a an the of in on at to by with and or is are be it its this that into as from for his her their them
    him she he they make turn change have let put give add remove take some more very there instead like
    look""".split()
)


def content_words(text: str) -> set[str]:
    """The content words of a text, plural and verb endings cut off."""
    found = set(words(text)) - STOP_WORDS
    return {re.sub(r"(ies|ing|ed|es|s|y|e)$", "", word) or word for word in found}


def follows(triplet: dict) -> bool:
    """Whether the edited caption can be what the instruction makes of the caption: it keeps at least a third
    of the caption's words, and it names something of the instruction that the caption did not, or, adding
    nothing, leaves out something that the instruction names."""
    before, edit, after = (content_words(triplet[name]) for name in ("input", "edit", "output"))
    added, removed = after - before, before - after
    kept = 3 * len(before & after) >= len(before)
    return kept and bool(added & edit or removed & edit and len(added) <= 2)


def near_duplicates(texts: list[str]) -> list[tuple[int, int, float]]:
    """Pairs (i, j, share of common words) of texts that share at least NEAR of the words of both together."""
    found = []
    word_sets = [content_words(text) for text in texts]
    texts_with: dict[str, list[int]] = {}  # word -> numbers of the texts before this one
    for j, own in enumerate(word_sets):
        common: Counter = Counter()
        for word in own:
            common.update(texts_with.get(word, ()))
            texts_with.setdefault(word, []).append(j)
        for i, count in common.items():
            share = count / len(own | word_sets[i])
            if share >= NEAR:
                found.append((i, j, share))
    return found


def of_the_world(triplets: list[dict]) -> bool:
    """Whether triplets are about the miniature world: it can paint all their captions."""
    return all(is_said(triplet["input"]) for triplet in triplets)


def problems(path: str | Path) -> list[str]:
    """What is wrong with a file, a sentence each."""
    triplets = read_triplets(path)
    return lies(triplets) if of_the_world(triplets) else faults(triplets)


def lies(triplets: list[dict]) -> list[str]:
    """What is wrong with triplets about the miniature world, in which captions and instructions are alike and
    come again."""
    found = []
    first_line_of: dict[tuple[str, ...], int] = {}
    for number, triplet in enumerate(triplets, 1):
        caption, edit, edited = triplet["input"], triplet["edit"], triplet["output"]
        reason = check(triplet, world=False) or explain(caption, edit, edited)
        if reason:
            found.append(f"line {number}: {reason}: {caption!r}, {edit!r} -> {edited!r}")
        first = first_line_of.setdefault((*words(caption), "", *words(edit)), number)
        if first != number:
            found.append(f"line {number}: {edit!r} stands with the same caption in line {first} already")
    return found


def faults(triplets: list[dict]) -> list[str]:
    """What is wrong with triplets about anything."""
    found = []
    first_line_of: dict[str, int] = {}  # instruction -> the line where it stands first
    for number, triplet in enumerate(triplets, 1):
        edit = triplet["edit"]
        reason = check(triplet, world=False)
        if reason:
            found.append(f"line {number}: {reason}")
        elif not follows(triplet):
            found.append(
                f"line {number}: the edited caption does not follow from {edit!r}: "
                f"{triplet['input']!r} -> {triplet['output']!r}"
            )
        first = first_line_of.setdefault(" ".join(words(edit)), number)
        if first != number:
            found.append(f"line {number}: the instruction {edit!r} stands in line {first} already")
    captions = [triplet["input"] for triplet in triplets]
    for i, j, share in near_duplicates(captions):
        near = f"near-duplicate captions ({share:.0%} of the words)"
        found.append(f"lines {i + 1} and {j + 1}: {near}: {captions[j]!r}")
    return found


def mix(path: str | Path) -> Counter:
    """How many triplets of each kind of edit, by the column `kind`; in the miniature world, by what
    changes."""
    kinds: Counter = Counter()
    for _, row in json_rows(path):
        kinds[str(row.get("kind") or change_kind(row))] += 1
    return kinds


def change_kind(row: dict) -> str:
    """The kind of an edit of the miniature world (`edit_kind`); "?" where its captions do not say it."""
    try:
        return edit_kind(parse(row["input"]), parse(row["output"]))
    except (ValueError, KeyError):
        return "?"


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
