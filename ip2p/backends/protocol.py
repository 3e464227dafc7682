"""Who answers stage 1: what a backend is."""

from __future__ import annotations

from collections.abc import Callable

# ---------------------------------------------------------------------------- who answers
# A backend is whoever has a method `answers(ask)`: a generator of (caption, answer) in any order. `ask()` gives the
# next question as (caption, seed), or None if there is none for now: a rejected answer brings another one.

Ask = Callable[[], tuple[str, int] | None]


class Objection(str):
    """In place of an answer: the backend's own reason to reject it, such as "flagged"."""


FLAGGED_CAPTION = "flagged caption"  # the one objection that asking again cannot overcome
