"""Whether a server's moderation flags a text."""

from __future__ import annotations

import threading

from ip2p.backends.connection import Connection, sentence_of

NO_MODERATION = (
    "this server offers no moderation, so captions and answers are taken as they come: read what was "
    "generated before you publish it"
)
TEXTS_A_REQUEST = 32
NOT_THERE = (404, 405, 501)  # statuses of a route that a server does not have
NOT_HERE = (400, 403, 422)  # and of one that it has for others, or whose requests are of another form


class Moderation:
    """Asks a server's moderation. Where it has none, that is said once, and nothing is flagged; where it
    gives no clear word on a text, that is an error, since a text may only pass if it was called harmless."""

    def __init__(self, server: Connection, wanted: bool = True) -> None:
        self.server = server
        self.exists = wanted  # as far as is known
        self.answered = False  # whether it ever gave a clear word

    def flags(self, texts: list[str], stopped: threading.Event) -> list[bool]:
        """Which texts are flagged. Raises UserError if the server gives no clear word on every text."""
        flags: list[bool] = []
        for start in range(0, len(texts), TEXTS_A_REQUEST):
            flags += self.flags_of_some(texts[start : start + TEXTS_A_REQUEST], stopped)
        return flags

    def flags_of_some(self, texts: list[str], stopped: threading.Event) -> list[bool]:
        """The same, in one request."""
        polite_refusals = 0
        for attempt in range(self.server.max_retries + 1):
            if not self.exists:
                return [False] * len(texts)
            reply = self.reply(texts, stopped)
            flags = verdicts(reply)
            if len(flags) == len(texts):
                self.answered = True
                return flags
            polite_refusals += is_polite_refusal(reply)
            if polite_refusals == 3 and not self.answered:
                self.note_absence()
            elif self.exists and attempt < self.server.max_retries:
                self.server.pause(attempt, stopped)
        if not self.exists:
            return [False] * len(texts)
        raise self.server.error(
            f"the moderation at {self.server.where()} gave no clear word on every text, so none is taken as "
            "harmless; run the same command again to go on"
        )

    def reply(self, texts: list[str], stopped: threading.Event) -> object:
        """What the server says, None if that is spoilt or if it has no moderation."""
        import openai

        asked = [text or " " for text in texts]
        try:
            return self.server.patiently(
                lambda: self.server.impatient.moderations.create(input=asked), stopped
            )
        except openai.OpenAIError as error:
            status = getattr(error, "status_code", None)
            said = self.server.shown(sentence_of(error))
            if self.answered or status not in NOT_THERE + NOT_HERE:
                raise self.server.error(
                    f"no answer from the moderation at {self.server.where()}: {said}; "
                    "run the same command again to go on"
                ) from None
            self.note_absence(said if status in NOT_HERE else "")
        except (ValueError, RecursionError):  # a spoilt reply
            pass
        return None

    def note_absence(self, said: str = "") -> None:
        if self.exists:
            self.exists = False
            self.server.say(f"{NO_MODERATION} ({said})" if said else NO_MODERATION)


def verdicts(reply) -> list[bool]:
    """What a moderation says of each text; nothing if it does not clearly say so of all."""
    try:
        flags = [result.flagged for result in reply.results]
    except (AttributeError, TypeError):
        return []
    clear = all(isinstance(flag, bool) for flag in flags)
    return flags if clear else []


def is_polite_refusal(reply) -> bool:
    """Whether a reply with the status of a success is an error or a page: so answer servers without this
    route."""
    if isinstance(reply, str):
        return bool(reply.strip())
    return bool(getattr(reply, "error", None))
