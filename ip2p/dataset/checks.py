"""What is wrong with a triplet."""

from __future__ import annotations

import re

from ip2p.dataset.triplets import FIELDS


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
        from ip2p.miniworld.asking import disagreement
        from ip2p.miniworld.parsing import parse

        try:
            before, after = parse(triplet["input"]), parse(triplet["output"])
        except ValueError:
            return "out-of-world"
        if before == after:
            return "no-op"
        return disagreement(triplet["edit"], before, after)
    return None
