"""Who answers stage 1: what a backend is. The loop of stage 1 knows no backend, and no backend knows the
loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

# The next question, as (caption, seed), or None if there is none for now: a rejected answer brings another.
Ask = Callable[[], tuple[str, int] | None]


class Backend(Protocol):
    """Whatever answers captions: a model in this process, a server, or a list of answers in a test."""

    cost: float  # dollars spent so far; 0 for what is free

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """(caption, answer) of every question that `ask` hands out, in any order. An answer is a text in the
        authors' format (`ip2p.dataset.triplets`) or an Objection.

        The caption comes back exactly as `ask` gave it: the loop knows its questions by it. Answers are lazy,
        handed out as they come, and for each the loop may have another question. So after a None `ask` is
        asked again, once the answers on their way have been handed out; a None with none on their way is the
        end.
        """
        ...


class Objection(str):
    """In place of an answer: the backend's own reason to reject it, such as "flagged"."""


class NoAnswer(Objection):
    """The backend had no answer this time. Another run may get one, so the caption is never noted as given
    up."""


class Hopeless(Objection):
    """It is the caption that is objected to: asking again cannot help, so it is given up at once."""


FLAGGED_CAPTION = Hopeless("flagged caption")
