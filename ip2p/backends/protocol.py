"""Who answers stage 1: what a backend is. The loop of stage 1 knows no backend, and no backend knows the
loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

# The next question, as (caption, seed), or None if there is none for now: a rejected answer brings another.
Ask = Callable[[], tuple[str, int] | None]


class Backend(Protocol):
    """Whatever answers captions: a model in this process, a server, or a list of answers in a test."""

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """(caption, answer) of every question that `ask` hands out, in any order. An answer is a text in the
        authors' format (`ip2p.dataset.triplets`) or an Objection."""
        ...


class Objection(str):
    """In place of an answer: the backend's own reason to reject it, such as "flagged"."""


class NoAnswer(Objection):
    """The backend had no answer this time. Another run may get one, so the caption is never noted as given
    up."""


FLAGGED_CAPTION = "flagged caption"  # the one objection that asking again cannot overcome
