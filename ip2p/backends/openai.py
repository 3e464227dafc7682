"""Stage 1 by a server with OpenAI's API: OpenAI's own, or vLLM, llama.cpp, Ollama, `transformers serve`.

The authors fine-tuned GPT-3 (Davinci) at OpenAI. Davinci is retired, and OpenAI takes no new fine-tuning jobs, from
organisations that never had one since May 7, 2026, from all others after January 6, 2027
(developers.openai.com/api/docs/deprecations). So their recipe lives on as: fine-tune an open model here, serve it,
and ask it through the same client (`examples=()`); or show a hosted model a few examples.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import os
import random
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from ip2p.backends.protocol import FLAGGED_CAPTION, Ask, Objection
from ip2p.common.durable import replacing
from ip2p.dataset.triplets import STOP, SYSTEM, to_chat, to_completion, to_prompt

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"edit": {"type": "string"}, "output": {"type": "string"}},
    "required": ["edit", "output"],
    "additionalProperties": False,
}
NO_MODERATION = (
    "this server offers no moderation, so captions and answers are taken as they come: read what was "
    "generated before you publish it"
)
REQUIRED = ("model", "prompt", "messages", "max_tokens", "max_completion_tokens")  # the rest can be left out


GRACE = 0.4  # seconds after the first Ctrl-C for answers that are on their way
LONGEST_REPLY = 4 << 20  # bytes; an answer has some thousands
FILE_PATIENCE = 10  # files of batches may take so many times as long as an answer


class OverBudget(Exception):
    """The budget has no room for what the next request can cost."""


class Stopped(Exception):
    """There was a Ctrl-C, or the server failed: nothing more is asked."""


class TooLong(ValueError):
    """A reply does not end where an honest one would have."""


def in_background(function: Callable, *values) -> Future:
    """The future result of a call in a thread of its own, which does not keep the process from ending."""
    future = Future()

    def call() -> None:
        try:
            future.set_result(function(*values))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def bounded_client(seconds: float):
    """An HTTP client for `OpenAI(http_client=...)` whose every reply has `seconds` from the request to its last byte,
    however slowly it drips, and a limit of bytes. The client's own time-out starts anew with every byte."""
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
            reply, body = super().send(request, **options | {"stream": True}), bytearray()
            try:
                for part in reply.iter_bytes():
                    body += part
                    if len(body) > longest:
                        raise TooLong(f"a reply of more than {longest >> 20} MB")
                    if time.monotonic() > end:
                        raise openai.APITimeoutError(request=request)
            finally:
                reply.close()
            headers = {
                name: value
                for name, value in reply.headers.items()
                if name not in ("content-encoding", "content-length", "transfer-encoding")
            }
            return type(reply)(reply.status_code, headers=headers, content=bytes(body), request=reply.request)

    return Bounded()


class OpenAIBackend:
    """Answers from a server, `in_flight` at once. The key comes from the environment (OPENAI_API_KEY) only.

    Asks /v1/completions, as the authors did, and where the server has no such model, /v1/chat/completions, there with
    a JSON schema if the server takes one (`api` "completions" or "chat" settles it). Rate limits, server errors,
    time-outs and dropped connections are waited out up to `max_retries` times, as long as the server asks for
    (`retry-after`). A reply has `timeout` seconds in all. Where the server has a moderation route, flagged captions are
    not asked and flagged answers are asked for again; where it has none, that is said; where it gives no clear word on
    a text, nothing is asked further.

    With `price`, (input, output) in dollars a million tokens, `cost` is what this object spent; a request whose answer
    was lost on the way counts with the most that it can have cost. With `max_cost` nothing is asked whose dearest
    answer could pass it.
    """

    discount = 1.0

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        examples: Iterable[dict] = (),
        api: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 256,
        frequency_penalty: float = 0.1,
        in_flight: int = 32,
        timeout: float = 60.0,
        max_retries: int = 8,
        price: tuple[float, float] | None = None,
        max_cost: float | None = None,
    ):
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError(
                "OPENAI_API_KEY is not set; put your key into this environment variable "
                "(for a server of your own, any word will mostly do)"
            )
        if max_cost is not None and price is None:
            raise ValueError(
                "to stop before a cost, give the price too: dollars for a million tokens, in and out"
            )
        from openai import OpenAI

        self.http = bounded_client(timeout)
        self.client = OpenAI(
            base_url=base_url, timeout=timeout, max_retries=max_retries, http_client=self.http
        )
        self.model, self.examples, self.in_flight, self.max_retries = (
            model,
            list(examples),
            in_flight,
            max_retries,
        )
        self.options = {"temperature": temperature, "frequency_penalty": frequency_penalty, "stop": [STOP]}
        self.max_tokens, self.price, self.max_cost = max_tokens, price, max_cost
        self.api, self.chat = api, {"chat": True, "completions": False}.get(api)  # None: not known yet
        self.refused: set[str] = set()  # what this server does not take; learnt from its answers
        self.moderation, self.moderated, self.answered = "by the server", False, False
        self.stopped = threading.Event()  # of the latest call of `answers`
        self.cost, self.reserved, self.lock = 0.0, 0.0, threading.Lock()

    # ------------------------------------------------------------------------ one question

    def body(self, caption: str, seed: int, chat: bool) -> dict:
        """The request for one caption."""
        out = {"model": self.model, "seed": seed, **self.options}
        if not chat:
            out |= {"prompt": to_prompt(caption, self.examples), "max_tokens": self.max_tokens}
        else:
            turns = [{"role": "system", "content": SYSTEM}]
            for triplet in self.examples:
                user, answer = to_chat(triplet)[1:]
                if "response_format" not in self.refused:
                    answer = answer | {
                        "content": json.dumps({name: triplet[name] for name in SCHEMA["properties"]})
                    }
                turns += [user, answer]
            schema = {"name": "edit", "strict": True, "schema": SCHEMA}
            limit = "max_tokens" if "max_completion_tokens" in self.refused else "max_completion_tokens"
            out |= {
                "messages": [*turns, {"role": "user", "content": to_prompt(caption)}],
                limit: 8 * self.max_tokens,  # many chat models think first, and need room for it
                "response_format": {"type": "json_schema", "json_schema": schema},
            }
        return {name: value for name, value in out.items() if name not in self.refused or name in REQUIRED}

    def text(self, choice: dict) -> str:
        """An answer in the authors' format, from one of the `choices` of a reply."""
        text = (choice["message"]["content"] if choice.get("message") else choice["text"]) or ""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written to a file
        if (
            len(self.client.api_key) >= 8 and not self.client.api_key.isalpha()
        ):  # not a word that answers may need
            text = text.replace(self.client.api_key, "***")
        if text.lstrip().startswith("{"):
            try:
                row = json.loads(text)
                return to_completion({name: row[name] for name in SCHEMA["properties"]})
            except (json.JSONDecodeError, KeyError, TypeError):
                return text  # malformed, and for the loop to say so
        if STOP not in text and choice.get("finish_reason") not in ("length", "content_filter"):
            text += STOP  # most servers swallow the text that stops them
        return text

    def _question(self, caption: str, seed: int, dearest: float) -> tuple[str, float, float]:
        """(answer, what it cost, the most that tries can have cost whose replies were lost), asked as often as it takes
        to learn what the server takes."""
        import openai

        stopped = self.stopped
        if self._flags([caption], stopped)[0]:
            return Objection(FLAGGED_CAPTION), 0.0, 0.0
        lost = 0.0
        while True:
            if stopped.is_set():
                raise Stopped
            chat = bool(self.chat)
            body = self.body(caption, seed, chat)
            try:
                reply, more = self._send(body, chat, dearest, stopped)
                lost += more
                answer, cost = self.text(reply["choices"][0]), self._price_of(reply, dearest)
            except openai.NotFoundError as error:
                if chat or self.api:
                    raise self._failure(error) from None
                self.chat = True
                continue
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                names = [error.param, *re.findall(r"['\"`](\w+)['\"`]", str(error.message))]
                name = next((n for n in names if n in body and n not in REQUIRED[:4]), None)
                if name is None and not self.answered:
                    raise self._failure(error) from None
                if name is None:  # it is this caption that the server does not like
                    return Objection("refused by the server"), 0.0, lost
                self.refused.add(name)  # many chat models take no temperature, no stop, ...
                continue
            except (openai.APIResponseValidationError, ValueError, AttributeError, LookupError, TypeError):
                return Objection("unreadable reply"), dearest, lost
            except openai.OpenAIError as error:
                raise self._failure(error) from None
            self.chat, self.answered = chat, True
            return (Objection("flagged") if self._flags([answer], stopped)[0] else answer), cost, lost

    def _send(self, body: dict, chat: bool, dearest: float, stopped: threading.Event) -> tuple[dict, float]:
        """(the reply, the most that tries can have cost whose replies were lost)."""
        client = self.client.with_options(max_retries=0)
        create = client.chat.completions.create if chat else client.completions.create
        return self._patiently(lambda: create(**body).model_dump(), stopped, dearest)

    def _patiently(
        self, request: Callable, stopped: threading.Event, dearest: float = 0.0
    ) -> tuple[object, float]:
        """(what `request()` returns, the most that tries can have cost whose replies were lost). Waits and tries again,
        until `stopped`, which raises Stopped."""
        import openai

        lost = 0.0
        for attempt in range(self.max_retries + 1):
            try:
                return request(), lost
            except openai.APIStatusError as error:
                again = error.status_code in (408, 409, 429) or error.status_code >= 500
                if not again or attempt == self.max_retries or error.code == "insufficient_quota":
                    raise
                pause = retry_after(error.response.headers)
            except openai.APIConnectionError:  # the server may have done the work, and bill it
                if attempt == self.max_retries:
                    raise
                self._reserve(dearest)
                pause, lost = None, lost + dearest
            self._pause(attempt, stopped, pause)
        raise AssertionError("the loop returns or raises")

    def _pause(self, attempt: int, stopped: threading.Event, seconds: float | None = None) -> None:
        """Wait as long as the server asks, or ever longer. Raises Stopped if that is what happens first."""
        backoff = min(0.5 * 2**attempt, 8.0) * random.uniform(0.75, 1)
        if stopped.wait(backoff if seconds is None else min(seconds, 120.0)):
            raise Stopped

    # ------------------------------------------------------------------------ what is said

    def redacted(self, text: str) -> str:
        """A text as it may be shown: on one line, and without the key, in whatever form a server has echoed it."""
        key = self.client.api_key
        forms = {
            key,
            urllib.parse.quote(key, safe=""),
            json.dumps(key)[1:-1],
            base64.b64encode(key.encode()).decode(),
        }
        for form in sorted(forms, key=len, reverse=True):
            text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())

    def shown(self, text: object) -> str:
        """What a server said, `redacted` and no longer than a sentence may be."""
        text = self.redacted(str(text))
        return text if len(text) <= 500 else text[:500] + "..."

    def say(self, sentence: str) -> None:
        tqdm.write(f"ip2p: {self.redacted(sentence)}", file=sys.stderr)

    def error(self, sentence: str) -> RuntimeError:
        """Every error that holds a server's words is made here."""
        return RuntimeError(self.redacted(sentence))

    def _failure(self, error: Exception) -> RuntimeError:
        return self.error(
            f"no answer from {self.model!r} at {self._where()}: {self.shown(error)}; run the same "
            "command again to go on"
        )

    def _where(self) -> str:
        return str(self.client.base_url.copy_with(userinfo=b""))

    # ------------------------------------------------------------------------ moderation

    def _flags(self, texts: list[str], stopped: threading.Event) -> list[bool]:
        """Which texts the server's moderation flags; none where it has no moderation."""
        return [flag for i in range(0, len(texts), 32) for flag in self._moderate(texts[i : i + 32], stopped)]

    def _moderate(self, texts: list[str], stopped: threading.Event) -> list[bool]:
        """The same, in one request. Raises RuntimeError if the server gives no clear word on every text."""
        import openai

        client = self.client.with_options(max_retries=0)
        elsewhere = 0  # replies that were none of a moderation
        for attempt in range(self.max_retries + 1):
            if self.moderation == NO_MODERATION:
                return [False] * len(texts)
            try:
                reply, _ = self._patiently(
                    lambda: client.moderations.create(input=[text or " " for text in texts]), stopped
                )
            except openai.OpenAIError as error:
                if self.moderated or getattr(error, "status_code", None) not in (404, 405, 501):
                    raise self._failure(error) from None
                self._no_moderation()
                continue
            except ValueError:  # a spoilt reply
                reply = None
            flags = verdicts(reply)
            if len(flags) == len(texts):
                self.moderated = True
                return flags
            # a polite answer to a route that is not there: an error, or a page, with the status of a success
            elsewhere += bool(isinstance(reply, str) and reply.strip() or getattr(reply, "error", None))
            if elsewhere == 3 and not self.moderated:
                self._no_moderation()
                continue
            if attempt < self.max_retries:
                self._pause(attempt, stopped)
        raise self.error(
            f"the moderation at {self._where()} gave no clear word on every text, so none is taken as "
            "harmless; run the same command again to go on"
        )

    def _no_moderation(self) -> None:
        if self.moderation != NO_MODERATION:
            self.moderation = NO_MODERATION
            self.say(NO_MODERATION)

    # ------------------------------------------------------------------------ what it costs

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        price = self.price or (0.0, 0.0)
        return self.discount * (price[0] * tokens_in + price[1] * tokens_out) / 1e6

    def _price_of(self, reply: dict, dearest: float) -> float:
        """What a reply says that it cost, or `dearest` if it does not clearly say so."""
        usage = reply.get("usage")
        counts = (
            [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            if isinstance(usage, dict)
            else []
        )
        clear = counts and all(isinstance(count, int) and count >= 0 for count in counts)
        return self.dollars(*counts) if clear else dearest

    def dearest(self, caption: str) -> float:
        """What a question can cost at most, in whichever form it will be sent: no token is shorter than a byte, and no
        answer longer than its limit."""
        forms = (False, True) if self.chat is None else (self.chat,)
        limits = self.max_tokens, 8 * self.max_tokens
        return max(
            self.dollars(
                len(json.dumps(self.body(caption, 0, chat), ensure_ascii=False).encode()), limits[chat]
            )
            for chat in forms
        )

    def _reserve(self, dearest: float) -> None:
        """Set aside the most that a request can cost. Raises OverBudget if the budget does not have it."""
        with self.lock:
            if self.max_cost is not None and self.cost + self.reserved + dearest > self.max_cost:
                raise OverBudget
            self.reserved += dearest

    def _settle(self, dearest: float, cost: float) -> None:
        """Book what a request cost, for which `dearest` was set aside."""
        with self.lock:
            self.reserved = max(0.0, self.reserved - dearest)
            self.cost += cost

    def _over_budget(self) -> None:
        self.say(
            f"stopped at ${self.cost:.4f} of this run: another question could pass its budget of "
            f"${self.max_cost:g}. The same command goes on, with a budget of its own"
        )

    # ------------------------------------------------------------------------ all questions

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """Answers in the order in which they come, until there is nothing to ask or the budget is reached. If the
        server fails, the answers on their way are handed out first; at Ctrl-C, those that come within GRACE seconds."""
        flying: dict[Future, tuple[str, float]] = {}
        failure = question = leave = None  # leave: when to wait no longer
        over = False
        self.stopped = stopped = threading.Event()
        try:
            while True:
                while failure is None and len(flying) < self.in_flight and (question := question or ask()):
                    dearest = self.dearest(question[0])
                    try:
                        self._reserve(dearest)
                    except OverBudget:
                        over = not flying  # else there may be room once those on their way have cost less
                        break
                    flying[in_background(self._question, *question, dearest)] = question[0], dearest
                    question = None
                if not flying:
                    break
                try:
                    done = wait(flying, leave and max(0.0, leave - time.monotonic()), FIRST_COMPLETED).done
                except KeyboardInterrupt as stop:
                    if leave:  # the second one stops at once
                        raise
                    failure, leave = stop, time.monotonic() + GRACE
                    stopped.set()
                    self.say(f"no new questions; waiting {GRACE:g} s for the {len(flying)} on their way")
                    continue
                if not done:
                    break
                for future in done:
                    caption, dearest = flying.pop(future)
                    try:
                        answer, cost, lost = future.result()
                    except (OverBudget, Stopped) as reason:  # in the middle of its tries
                        over = over or isinstance(reason, OverBudget)
                        self._settle(dearest, dearest)
                    except Exception as error:
                        failure = failure or (
                            error if isinstance(error, RuntimeError) else self._failure(error)
                        )
                        stopped.set()
                        self._settle(dearest, dearest)
                    else:
                        self._settle(dearest + lost, cost + lost)
                        yield caption, answer
                if over:
                    failure = failure or OverBudget()
        finally:
            stopped.set()
            for _, dearest in flying.values():
                self._settle(dearest, dearest)
        if over and not leave:
            self._over_budget()
        elif failure:
            raise failure


def verdicts(reply) -> list[bool]:
    """What a moderation says of each text; nothing if it does not clearly say so of all."""
    try:
        flags = [result.flagged for result in reply.results]
    except (AttributeError, TypeError):
        return []
    return flags if all(isinstance(flag, bool) for flag in flags) else []


def retry_after(headers) -> float | None:
    """Seconds that a server asks to wait, or None if it does not say."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


class BatchBackend(OpenAIBackend):
    """Answers from OpenAI's Batch API, at half the price, within a day: `export`, `submit`, `poll`, `read`.

    What is submitted is noted in the file `state`, before and after, so a job that is stopped finds its batch again and
    pays no question twice. Rejected answers are asked for again in the next batch.
    """

    discount = 0.5  # developers.openai.com/api/docs/guides/batch
    limit = 50_000  # questions a batch

    def __init__(
        self, model: str, state: str | Path, seconds: float = 30.0, api: str | None = "chat", **options
    ):
        super().__init__(model, api=api or "chat", **options)
        self.state, self.seconds = Path(state), seconds
        if self.chat:  # a batch cannot try what the model takes: ask for nothing but the form
            self.refused |= {"temperature", "frequency_penalty", "stop", "seed"}
        self.url = CHAT if self.chat else COMPLETIONS

    @staticmethod
    def name(caption: str) -> str:
        return hashlib.sha256(caption.encode()).hexdigest()[:32]

    def export(self, questions: Iterable[tuple[str, int]]) -> bytes:
        """The file of requests that the API takes, a JSON line for each (caption, seed)."""
        lines = (
            {
                "custom_id": self.name(caption),
                "method": "POST",
                "url": self.url,
                "body": self.body(caption, seed, self.chat),
            }
            for caption, seed in questions
        )
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()

    def submit(self, questions: list[tuple[str, int]]) -> str:
        """Start a batch; returns its id."""
        requests = self.export(questions)
        note = {
            "digest": hashlib.sha256(requests + repr((questions, time.time())).encode()).hexdigest(),
            "names": [self.name(caption) for caption, _ in questions],
        }
        file = self._id_of(self.client.files.create(file=("requests.jsonl", requests), purpose="batch"))
        self._note(**note)
        batch = self._id_of(
            self.client.with_options(max_retries=0).batches.create(
                input_file_id=file,
                endpoint=self.url,
                completion_window="24h",
                metadata={"ip2p": note["digest"]},
            )
        )
        self._note(**note, id=batch)
        return batch

    def _id_of(self, reply) -> str:
        if not isinstance(getattr(reply, "id", None), str):
            raise self.error(
                f"the reply of {self._where()} is unreadable; run the same command again to go on"
            )
        return reply.id

    def _note(self, **values: str | list[str]) -> None:
        with replacing(self.state) as new:
            new.write_text(json.dumps(values))

    def _read_note(self) -> dict:
        """What `submit` noted; nothing if there is no batch. Raises ValueError if the file is not ours."""
        try:
            note = json.loads(self.state.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            note = None
        if not isinstance(note, dict) or not isinstance(note.get("digest"), str):
            raise ValueError(
                f"{self.state} does not say which batch was submitted; move it away, or choose another --out"
            )
        return note

    def noted(self) -> str | None:
        """The id of the batch that an earlier run submitted, if it did."""
        note = self._read_note()
        if not note or "id" in note:
            return note.get("id")
        for batch in islice(
            self.client.batches.list(limit=100), 1000
        ):  # stopped in between: did the server get it?
            if (batch.metadata or {}).get("ip2p") == note["digest"]:
                self._note(**note, id=batch.id)
                return batch.id
        self.state.unlink()
        return None

    def poll(self, batch_id: str):
        """The batch, once it has come to its end. Raises RuntimeError if it was refused or cancelled."""
        while True:
            batch = self.client.batches.retrieve(batch_id)
            if not isinstance(getattr(batch, "status", None), str):
                raise self.error(
                    f"the server's word on batch {batch_id} is unreadable; run the same command again"
                )
            if batch.status in ("failed", "cancelled"):
                errors = getattr(batch.errors, "data", None) or []
                reasons = "; ".join(str(getattr(error, "message", error)) for error in errors)
                reason = f"batch {batch_id} {batch.status}: {self.shown(reasons) or 'no reason given'}"
                if batch.status == "failed" or not batch.output_file_id:
                    self.state.unlink(missing_ok=True)
                    raise self.error(reason)
                self.say(f"{reason}; taking the answers that it has")
            if batch.status in ("completed", "expired", "cancelled"):
                return batch
            time.sleep(self.seconds)

    def read(self, batch) -> tuple[dict[str, tuple[str, dict | None]], int]:
        """The answers of a batch, custom_id -> (answer, the server's reply), and how many lines were unreadable. What
        failed is an `Objection`, and without a reply (None) if it cost nothing."""
        out, unreadable = {}, 0
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file).content.split(b"\n"):
                if not line.strip():
                    continue
                try:
                    name, answer, reply = self.read_line(line)
                except (ValueError, RecursionError):
                    unreadable += 1
                    continue
                if name not in out or reply is not None:
                    out[name] = answer, reply
        return out, unreadable

    def read_line(self, line: bytes) -> tuple[str, str, dict | None]:
        """(custom_id, answer, reply or None) of a line of results. Raises ValueError if it belongs to no question."""
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
            raise ValueError("a line without custom_id")
        name, response = row["custom_id"], row.get("response")
        response = response if isinstance(response, dict) else {}
        reply = response.get("body")
        if response.get("status_code") != 200:
            reason = row.get("error") or (reply.get("error") if isinstance(reply, dict) else reply)
            message = reason.get("message") if isinstance(reason, dict) else reason
            return name, Objection(f"no reply: {self.shown(message or 'no reason given')}"), None
        try:
            return name, self.text(reply["choices"][0]), reply
        except (KeyError, IndexError, TypeError, AttributeError):
            return name, Objection("unreadable reply"), reply if isinstance(reply, dict) else {}

    def results(self, batch, fresh: bool) -> dict[str, tuple[str, dict | None]]:
        """The answers of a batch, as `read` has them. Questions whose lines are unreadable have an `Objection`; if all
        are and the batch is `fresh`, that is a RuntimeError: another run may find the files mended."""
        names = self._read_note().get("names")
        names = names if isinstance(names, list) else []  # a note of an older version
        self.http.longest_file = LONGEST_REPLY + (len(names) or self.limit) * (4096 + 128 * self.max_tokens)
        for attempt in range(3):  # what came may be the page of a server in between
            answers, unreadable = self.read(batch)
            if answers or not unreadable:
                break
            self._pause(attempt, self.stopped, min(1.0, self.seconds))
        if fresh and unreadable and not answers:
            raise self.error(
                f"the results of batch {batch.id} are unreadable; run the same command again to read them "
                "once more, or, if they still are, to submit anew"
            )
        lost = [name for name in names if name not in answers]
        return answers | {name: (Objection("unreadable line"), {}) for name in lost[:unreadable]}

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        import openai

        waiting: dict[str, tuple[tuple[str, int], float]] = {}  # name -> (question, what was set aside)
        handed, question, over = set(), None, False
        self.stopped = threading.Event()
        try:
            while True:
                new = []
                while len(waiting) + len(new) < self.limit and (question := question or ask()):
                    dearest = self.dearest(question[0])
                    try:
                        self._reserve(dearest)
                    except OverBudget:
                        over = not waiting and not new
                        break
                    new.append((question, dearest))
                    question = None
                for (asked, dearest), flagged in zip(
                    new, self._flags([q[0] for q, _ in new], self.stopped), strict=True
                ):
                    if flagged:
                        self._settle(dearest, 0.0)
                        yield asked[0], Objection(FLAGGED_CAPTION)
                    else:
                        waiting[self.name(asked[0])] = asked, dearest
                if not waiting and question is None or over:
                    break
                if not waiting:
                    continue
                batch_id, fresh = self.noted(), False
                if batch_id is None:
                    handed, fresh = set(), True
                    batch_id = self.submit([asked for asked, _ in waiting.values()])
                results = self.results(self.poll(batch_id), fresh)
                found = {name: results[name] for name in waiting if name in results and name not in handed}
                if all(reply is None for _, reply in found.values()):
                    self.state.unlink(missing_ok=True)
                    if fresh:
                        reason = next(
                            (answer for answer, _ in found.values()), "it came back without our questions"
                        )
                        raise self.error(
                            f"batch {batch_id} answered nothing ({reason}); run the same command again "
                            "once that is mended"
                        )
                    continue  # an old batch, of no use any more
                flags = self._flags([answer for answer, _ in found.values()], self.stopped)
                for (name, (answer, reply)), flagged in zip(found.items(), flags, strict=True):
                    (caption, _), dearest = waiting.pop(name)
                    handed.add(name)
                    self._settle(dearest, 0.0 if reply is None else self._price_of(reply, dearest))
                    short = Objection("no reply") if reply is None else answer
                    yield caption, Objection("flagged") if flagged else short
                if results.keys() <= handed:
                    self.state.unlink()
        except openai.NotFoundError as error:
            raise self.error(
                f"the server does not know what {self.state} says was submitted ({self.shown(error)}); "
                "delete that file to submit anew"
            ) from None
        except (openai.OpenAIError, TooLong, json.JSONDecodeError) as error:
            raise self._failure(error) from None
        if over:
            self._over_budget()
