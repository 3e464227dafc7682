"""What is wrong with a triplet."""

from __future__ import annotations

import unicodedata

from ip2p.dataset.triplets import FIELDS


def words(text: str) -> list[str]:
    """The words of a text in any script, whatever their case and however their letters are composed."""
    letters = []
    for letter in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(letter)[0]
        letters.append(letter if kind in "LMN" else " ")  # letters, their marks, and numbers
    return "".join(letters).split()


def check(triplet: dict, world: bool = True) -> str | None:
    """None for a good triplet, else why it is not: "malformed", "no-op" and, with `world` (captions of the
    miniature world), "out-of-world" (nobody can paint the edited caption), "inconsistent" (not the edit that
    was asked for), "forgotten" (it leaves out what the caption says) or "unsaid" (the instruction asks for
    nothing that changes: it may be a subtle one, or nonsense)."""
    before, edit, after = (" ".join(words(triplet[name])) for name in FIELDS)
    too_long = len(triplet["edit"]) > 200 or len(triplet["output"]) > len(triplet["input"]) + 1000
    if not (before and edit and after) or too_long or edit in (before, after):
        return "malformed"
    if before == after:
        return "no-op"
    if world:
        from ip2p.miniworld.lies import fault

        return fault(triplet["input"], triplet["edit"], triplet["output"])
    return None
