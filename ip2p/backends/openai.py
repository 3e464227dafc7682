"""Stage 1 by a server with OpenAI's API: OpenAI's own, or vLLM, llama.cpp, Ollama, `transformers serve`.

The authors fine-tuned GPT-3 (Davinci) at OpenAI. Davinci is retired, and OpenAI takes no new fine-tuning jobs, from
organisations that never had one since May 7, 2026, from all others after January 6, 2027
(developers.openai.com/api/docs/deprecations). So their recipe lives on as: fine-tune an open model here, serve it,
and ask it through the same client (`examples=()`); or show a hosted model a few examples.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm.auto import tqdm

from ip2p.backends.protocol import FLAGGED_CAPTION, Ask, Objection
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


class OverBudget(Exception):
    """The budget has no room for what the next request can cost."""


def say(sentence: str) -> None:
    tqdm.write(f"ip2p: {sentence}", file=sys.stderr)


class OpenAIBackend:
    """Answers from a server, `in_flight` at once. The key comes from the environment (OPENAI_API_KEY) only.

    Asks /v1/completions, as the authors did, and where the server has no such model, /v1/chat/completions, there with
    a JSON schema if the server takes one (`api` "completions" or "chat" settles it). Rate limits, server errors,
    time-outs and dropped connections are waited out up to `max_retries` times, as long as the server asks for
    (`retry-after`). Where the server has a moderation route, flagged captions are not asked and flagged answers are
    asked for again; where it has none, that is said.

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

        self.client = OpenAI(base_url=base_url, timeout=timeout, max_retries=max_retries)
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
        self.moderation, self.answered = "by the server", False
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

        if self._flags([caption])[0]:
            return Objection(FLAGGED_CAPTION), 0.0, 0.0
        lost = 0.0
        while True:
            chat = bool(self.chat)
            body = self.body(caption, seed, chat)
            try:
                reply, more = self._send(body, chat, dearest)
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
            return (Objection("flagged") if self._flags([answer])[0] else answer), cost, lost

    def _send(self, body: dict, chat: bool, dearest: float) -> tuple[dict, float]:
        """(the reply, the most that tries can have cost whose replies were lost). Waits and tries again."""
        import openai

        client, lost = self.client.with_options(max_retries=0), 0.0
        create = client.chat.completions.create if chat else client.completions.create
        for attempt in range(self.max_retries + 1):
            try:
                return create(**body).model_dump(), lost
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
            backoff = min(0.5 * 2**attempt, 8.0) * random.uniform(0.75, 1)
            time.sleep(backoff if pause is None else min(pause, 120.0))
        raise AssertionError("the loop returns or raises")

    def _failure(self, error: Exception) -> RuntimeError:
        where = self.client.base_url.copy_with(userinfo=b"")
        reason = str(error).replace(self.client.api_key, "***")
        return RuntimeError(
            f"no answer from {self.model!r} at {where}: {reason}; run the same command again to go on"
        )

    def _flags(self, texts: list[str]) -> list[bool]:
        """Which texts the server's moderation flags; none where it has no moderation."""
        import openai

        out, client = [], self.client.with_options(max_retries=2 * self.max_retries)
        for i in range(0, len(texts), 32):
            some, flagged = texts[i : i + 32], []
            for _ in range(self.max_retries + 1):
                if self.moderation == NO_MODERATION:
                    break
                try:
                    reply = client.moderations.create(input=[text or " " for text in some])
                    flagged = [bool(result.flagged) for result in reply.results]
                except json.JSONDecodeError:
                    continue  # a spoilt reply: ask again
                except (AttributeError, TypeError):  # a polite answer to a route that is not there
                    self._no_moderation()
                except openai.OpenAIError as error:
                    if getattr(error, "status_code", None) not in (404, 405, 501):
                        raise self._failure(error) from None
                    self._no_moderation()
                break
            out += flagged or [False] * len(some)
        return out

    def _no_moderation(self) -> None:
        if self.moderation != NO_MODERATION:
            self.moderation = NO_MODERATION
            say(NO_MODERATION)

    # ------------------------------------------------------------------------ what it costs

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        price = self.price or (0.0, 0.0)
        return self.discount * (price[0] * tokens_in + price[1] * tokens_out) / 1e6

    def _price_of(self, reply: dict, dearest: float) -> float:
        usage = reply.get("usage") or {}
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return dearest if None in counts else self.dollars(*counts)

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
        say(
            f"stopped at ${self.cost:.4f} of this run: another question could pass its budget of ${self.max_cost:g}. "
            "The same command goes on, with a budget of its own"
        )

    # ------------------------------------------------------------------------ all questions

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """Answers in the order in which they come, until there is nothing to ask or the budget is reached. If the
        server fails, or at Ctrl-C, the answers on their way are handed out first."""
        flying: dict[Future, tuple[str, float]] = {}
        failure = question = None
        over = False
        pool = ThreadPoolExecutor(self.in_flight)
        try:
            while True:
                while failure is None and len(flying) < self.in_flight and (question := question or ask()):
                    dearest = self.dearest(question[0])
                    try:
                        self._reserve(dearest)
                    except OverBudget:
                        over = not flying  # else there may be room once those on their way have cost less
                        break
                    flying[pool.submit(self._question, *question, dearest)] = question[0], dearest
                    question = None
                if not flying:
                    break
                try:
                    done = wait(flying, return_when=FIRST_COMPLETED).done
                except KeyboardInterrupt as stop:
                    if isinstance(failure, KeyboardInterrupt):  # the second one stops at once
                        raise
                    failure = stop
                    continue
                for future in done:
                    caption, dearest = flying.pop(future)
                    try:
                        answer, cost, lost = future.result()
                    except OverBudget:  # in the middle of its tries
                        over = True
                        self._settle(dearest, dearest)
                    except Exception as error:
                        failure = failure or (
                            error if isinstance(error, RuntimeError) else self._failure(error)
                        )
                        self._settle(dearest, dearest)
                    else:
                        self._settle(dearest + lost, cost + lost)
                        yield caption, answer
                if over:
                    failure = failure or OverBudget()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if over:
            self._over_budget()
        elif failure:
            raise failure


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
        digest = hashlib.sha256(requests + repr((questions, time.time())).encode()).hexdigest()
        file = self.client.files.create(file=("requests.jsonl", requests), purpose="batch")
        self._note(digest=digest)
        batch = self.client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint=self.url, completion_window="24h", metadata={"ip2p": digest}
        )
        self._note(digest=digest, id=batch.id)
        return batch.id

    def _note(self, **values: str) -> None:
        tmp = self.state.with_name(self.state.name + ".tmp")
        tmp.write_text(json.dumps(values))
        os.replace(tmp, self.state)

    def noted(self) -> str | None:
        """The id of the batch that an earlier run submitted, if it did."""
        try:
            note = json.loads(self.state.read_text())
        except FileNotFoundError:
            return None
        if "id" in note:
            return note["id"]
        for batch in self.client.batches.list(limit=100):  # stopped in between: did the server get it?
            if (batch.metadata or {}).get("ip2p") == note["digest"]:
                self._note(**note, id=batch.id)
                return batch.id
        self.state.unlink()
        return None

    def poll(self, batch_id: str):
        """The batch, once it has come to its end. Raises RuntimeError if it was refused or cancelled."""
        while True:
            batch = self.client.batches.retrieve(batch_id)
            if batch.status in ("failed", "cancelled"):
                reasons = [error.message for error in (batch.errors.data or [])] if batch.errors else []
                reason = (
                    f"batch {batch_id} {batch.status}: {'; '.join(map(str, reasons)) or 'no reason given'}"
                )
                if batch.status == "failed" or not batch.output_file_id:
                    self.state.unlink(missing_ok=True)
                    raise RuntimeError(reason)
                say(f"{reason}; taking the answers that it has")
            if batch.status in ("completed", "expired", "cancelled"):
                return batch
            time.sleep(self.seconds)

    def read(self, batch) -> dict[str, tuple[str, dict]]:
        """The answers of a batch: custom_id -> (answer, the server's reply). What failed is an `Objection`."""
        out = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file).content.split(b"\n"):
                if not line.strip():
                    continue
                row = json.loads(line)
                response = row.get("response") or {}
                reply = response.get("body") or {}
                try:
                    if response.get("status_code") != 200:
                        reason = row.get("error") or reply.get("error") or {}
                        out[row["custom_id"]] = (
                            Objection(f"no reply: {reason.get('message', 'no reason given')}"),
                            {},
                        )
                    else:
                        out[row["custom_id"]] = self.text(reply["choices"][0]), reply
                except (KeyError, IndexError, TypeError, AttributeError):
                    out[row["custom_id"]] = Objection("unreadable reply"), reply
        return out

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        import openai

        waiting: dict[str, tuple[tuple[str, int], float]] = {}  # name -> (question, what was set aside)
        handed, question, over = set(), None, False
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
                for (asked, dearest), flagged in zip(new, self._flags([q[0] for q, _ in new]), strict=True):
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
                results = self.read(self.poll(batch_id))
                found = {name: results[name] for name in waiting if name in results and name not in handed}
                if not any(reply for _, reply in found.values()):
                    self.state.unlink(missing_ok=True)
                    if fresh:
                        reason = next(
                            (answer for answer, _ in found.values()), "it came back without our questions"
                        )
                        raise RuntimeError(
                            f"batch {batch_id} answered nothing ({reason}); run the same command again "
                            "once that is mended"
                        )
                    continue  # an old batch, of no use any more
                flags = self._flags([answer for answer, _ in found.values()])
                for (name, (answer, reply)), flagged in zip(found.items(), flags, strict=True):
                    (caption, _), dearest = waiting.pop(name)
                    handed.add(name)
                    self._settle(dearest, self._price_of(reply, dearest) if reply else 0.0)
                    short = Objection("no reply") if answer.startswith("no reply") else answer
                    yield caption, Objection("flagged") if flagged else short
                if results.keys() <= handed:
                    self.state.unlink()
        except openai.NotFoundError as error:
            raise RuntimeError(
                f"the server does not know what {self.state} says was submitted ({error}); delete that "
                "file to submit anew"
            ) from None
        except openai.OpenAIError as error:
            raise self._failure(error) from None
        if over:
            self._over_budget()
