"""Talking to a server with OpenAI's API: replies that have an end, patience with passing faults, and words of
the server that are shown without the key."""

from __future__ import annotations

import base64
import email.utils
import json
import random
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from tqdm.auto import tqdm

from ip2p.common.errors import UserError

LONGEST_REPLY = 4 << 20  # bytes; an answer has some thousands
FILE_PATIENCE = 10  # files of batches may take so many times as long as an answer
LONGEST_PAUSE = 120.0  # seconds, whatever a server asks for


class Stopped(Exception):
    """There was a Ctrl-C, or the server failed: nothing more is asked."""


class TooLong(ValueError):
    """A reply does not end where an honest one would have."""


class PassingFault(Exception):
    """A reply with the status of a success that is none: an error, a page, an empty answer. Another try may
    help."""

    def __init__(self, sentence: str, cost: float) -> None:
        super().__init__(sentence)
        self.cost = cost  # dollars that the reply may have cost


def in_background(function: Callable, *values: object) -> Future:
    """The future result of a call in a thread of its own, which does not keep the process from ending."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function(*values))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def bounded_client(seconds: float):
    """An HTTP client for `OpenAI(http_client=...)` whose every reply has `seconds` from the request to its
    last byte, however slowly it drips, and a limit of bytes. The client's own time-out starts anew with every
    byte."""
    import openai

    class Bounded(openai.DefaultHttpxClient):
        longest_file = LONGEST_REPLY  # bytes of a downloaded file

        def send(self, request, **options):
            is_file = "/files" in request.url.path
            longest = self.longest_file if is_file else LONGEST_REPLY
            end = time.monotonic() + seconds * (FILE_PATIENCE if is_file else 1)
            reply = in_background(self.receive, request, end, longest, options)
            if not wait([reply], end - time.monotonic()).done:
                raise openai.APITimeoutError(request=request)
            return reply.result()

        def receive(self, request, end: float, longest: int, options: dict):
            body = bytearray()
            reply = super().send(request, **options | {"stream": True})
            try:
                for part in reply.iter_bytes():
                    body += part
                    if len(body) > longest:
                        raise TooLong(f"a reply of more than {longest >> 20} MB")
                    if time.monotonic() > end:
                        raise openai.APITimeoutError(request=request)
            finally:
                reply.close()
            # no longer true of the body
            unpacked = ("content-encoding", "content-length", "transfer-encoding")
            headers = {name: value for name, value in reply.headers.items() if name not in unpacked}
            return type(reply)(reply.status_code, headers=headers, content=bytes(body), request=reply.request)

    return Bounded()


def retry_after(headers) -> float | None:
    """Seconds that a server asks to wait, or None if it does not say."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    try:
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
    except (ValueError, OverflowError):  # a date of no calendar
        return None


def sentence_of(error: Exception) -> str:
    """What an error says, with the server's own words, which the client leaves out of some."""
    sentence = str(error)
    if re.fullmatch(r"Error code: \d+", sentence):
        sentence += f" - {error.response.text}"
    if sentence == "Connection error." and error.__cause__ is not None:
        sentence = f"no connection ({error.__cause__})"
    return sentence


def has_no_connection(error: Exception) -> bool:
    """Whether nothing was sent, since there is no such host, nobody listens or nobody vouches for it."""
    # by name, since the client may bring another library in httpx's place
    return type(error.__cause__).__name__ == "ConnectError"


def refuse_unusable(base_url, key: str) -> None:
    """Raises ValueError for an address or a key with which no request can be made."""
    if base_url.scheme not in ("http", "https") or not base_url.host:
        raise ValueError("the address of the server must begin with http:// or https:// and a host's name")
    if base_url.query:
        raise ValueError("the address of the server must end before its ?; the key goes into OPENAI_API_KEY")
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise ValueError(
            "OPENAI_API_KEY holds a blank, a line end or another letter that no key has; set it anew"
        )


class Connection:
    """A server, as all parts of a backend talk to it. The key comes from the environment (OPENAI_API_KEY)."""

    def __init__(self, base_url: str | None, timeout: float, max_retries: int) -> None:
        from openai import OpenAI

        self.max_retries = max_retries
        self.reached = False  # whether there ever was a reply
        self.http = bounded_client(timeout)
        self.client = OpenAI(
            base_url=base_url, timeout=timeout, max_retries=max_retries, http_client=self.http
        )
        refuse_unusable(self.client.base_url, self.client.api_key)
        self.impatient = self.client.with_options(max_retries=0)  # for `patiently`, which tries again itself

    # ------------------------------------------------------------------------ patience

    def patiently(
        self,
        request: Callable[[], Any],
        stopped: threading.Event,
        lost: Callable[[float | None], None] = lambda cost: None,
    ) -> Any:
        """What `request()` returns. After a passing fault it waits and tries again, up to `max_retries`
        times.

        lost(dollars or None): called before another try, if the last one may have cost something, None being
        as much as it can have cost. Raises Stopped once `stopped` is set, else what the last try raised."""
        import openai

        for attempt in range(self.max_retries):
            pause = None
            try:
                answer = request()
                self.reached = True
                return answer
            except openai.APIStatusError as error:
                self.reached = True
                passing = error.status_code in (408, 409, 429) or error.status_code >= 500
                if not passing or error.code == "insufficient_quota":
                    raise
                pause = retry_after(error.response.headers)
            except openai.APIConnectionError as error:
                if not has_no_connection(error):  # the server may have done the work, and bill it
                    lost(None)
                elif not self.reached and (attempt > 0 or "CERTIFICATE" in str(error.__cause__)):
                    raise  # it will not get better
            except PassingFault as fault:
                lost(fault.cost)
            self.pause(attempt, stopped, pause)
        return request()

    def pause(self, attempt: int, stopped: threading.Event, seconds: float | None = None) -> None:
        """Wait as long as the server asks, or ever longer. Raises Stopped if that is what happens first."""
        if seconds is None:
            seconds = min(0.5 * 2**attempt, 8.0) * random.uniform(0.75, 1)
        if stopped.wait(min(seconds, LONGEST_PAUSE)):
            raise Stopped

    # ------------------------------------------------------------------------ what is said

    def userinfo(self) -> str:
        """User and password of the address, "user:password"."""
        return self.client.base_url.userinfo.decode()

    def redacted(self, text: str) -> str:
        """A text as it may be shown: on one line, and without the key or the address's password, in whatever
        form a server has echoed it."""
        secrets = [self.client.api_key]
        if self.client.base_url.password:  # in the address
            secrets += [self.client.base_url.password, urllib.parse.unquote(self.userinfo())]
        forms = set()
        for secret in secrets:
            encoded = base64.b64encode(secret.encode()).decode()
            forms |= {secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1], encoded}
        for form in sorted(forms, key=len, reverse=True):
            text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
        printable = [letter if letter.isprintable() else " " for letter in text]
        return " ".join("".join(printable).split())

    def shown(self, text: object) -> str:
        """What a server said, `redacted` and no longer than a sentence may be."""
        text = self.redacted(str(text))
        return text if len(text) <= 500 else text[:500] + "..."

    def say(self, sentence: str) -> None:
        tqdm.write(f"ip2p: {self.redacted(sentence)}", file=sys.stderr)

    def error(self, sentence: str) -> UserError:
        """Every error that holds a server's words is made here."""
        return UserError(self.redacted(sentence))

    def failure(self, model: str, error: Exception) -> UserError:
        advice = "run the same command again to go on"
        if getattr(error, "status_code", None) == 404:
            advice = "check the address, which mostly ends in /v1, and what the server calls its model"
        said = self.shown(sentence_of(error))
        return self.error(f"no answer from {model!r} at {self.where()}: {said}; {advice}")

    def where(self) -> str:
        """The server's address, without what could be a password."""
        return str(self.client.base_url.copy_with(userinfo=b""))
