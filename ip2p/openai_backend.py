"""Stage 1 by a server with OpenAI's API: OpenAI's own, or vLLM, llama.cpp, Ollama, `transformers serve`.

The authors fine-tuned GPT-3 (Davinci) at OpenAI. Davinci is retired, and OpenAI takes no new fine-tuning jobs, from
organisations that never had one since May 7, 2026, from all others after January 6, 2027
(developers.openai.com/api/docs/deprecations). So their recipe lives on as: fine-tune an open model here, serve it,
and ask it through the same client (`examples=()`); or show a hosted model a few examples.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from ip2p.instructions import FLAGGED_CAPTION, Ask, Objection
from ip2p.triplets import STOP, SYSTEM, to_chat, to_completion, to_prompt

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BROKEN = ("expired", "cancelled")  # a batch with some answers
SCHEMA = {"type": "object", "properties": {"edit": {"type": "string"}, "output": {"type": "string"}},
          "required": ["edit", "output"], "additionalProperties": False}
NO_MODERATION = ("this server offers no moderation, so captions and answers are taken as they come: read what was "
                 "generated before you publish it")


class OpenAIBackend:
    """Answers from a server, `in_flight` at once. The key comes from the environment (OPENAI_API_KEY) only.

    Asks /v1/completions, as the authors did, and where the server has no such model, /v1/chat/completions, there with
    a JSON schema if the server takes one (`api` "completions" or "chat" settles it). Rate limits, server errors,
    time-outs and dropped connections are waited out by the client, up to `max_retries` times, as long as the server
    asks for (`retry-after`). Where the server has a moderation route, flagged captions are not asked and flagged
    answers are asked for again; where it has none, `moderation` says so.

    With `price`, (input, output) in dollars a million tokens, `cost` is what was spent, and with `max_cost` no question
    is asked whose dearest answer could pass it.
    """

    discount = 1.0

    def __init__(self, model: str, base_url: str | None = None, examples: Iterable[dict] = (), api: str | None = None,
                 temperature: float = 0.7, max_tokens: int = 256, frequency_penalty: float = 0.1,
                 in_flight: int = 32, timeout: float = 60.0, max_retries: int = 8,
                 price: tuple[float, float] | None = None, max_cost: float | None = None):
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError("OPENAI_API_KEY is not set; put your key into this environment variable "
                             "(for a server of your own, any word will mostly do)")
        if max_cost is not None and price is None:
            raise ValueError("to stop before a cost, give the price too: dollars for a million tokens, in and out")
        from openai import OpenAI

        self.client = OpenAI(base_url=base_url, timeout=timeout, max_retries=max_retries)
        self.model, self.examples, self.in_flight = model, list(examples), in_flight
        self.options = {"temperature": temperature, "frequency_penalty": frequency_penalty, "stop": [STOP]}
        self.max_tokens, self.price, self.max_cost = max_tokens, price, max_cost
        self.chat, self.refused = api == "chat", set()  # what this server has and takes is learnt from its answers
        self.only_completions = api == "completions"
        self.moderation = "by the server"
        self.cost, self._reserved, self.over_budget = 0.0, 0.0, False

    # ------------------------------------------------------------------------ one question

    def body(self, caption: str, seed: int) -> dict:
        """The request for one caption."""
        out = {"model": self.model, "seed": seed, **self.options}
        if not self.chat:
            return self._taken(out | {"prompt": to_prompt(caption, self.examples), "max_tokens": self.max_tokens})
        structured = "response_format" not in self.refused
        turns = [{"role": "system", "content": SYSTEM}]
        for triplet in self.examples:
            user, answer = to_chat(triplet)[1:]
            if structured:
                answer = answer | {"content": json.dumps({name: triplet[name] for name in SCHEMA["properties"]})}
            turns += [user, answer]
        out |= {"messages": [*turns, {"role": "user", "content": to_prompt(caption)}],
                "max_completion_tokens": 8 * self.max_tokens,  # many chat models think first, and need room for it
                "response_format": {"type": "json_schema", "json_schema": {"name": "edit", "strict": True,
                                                                           "schema": SCHEMA}}}
        return self._taken(out)

    def _taken(self, body: dict) -> dict:
        return {name: value for name, value in body.items() if name not in self.refused}

    def text(self, choice: dict) -> str:
        """An answer in the authors' format, from one of the `choices` of a reply."""
        text = (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
        if text.lstrip().startswith("{"):
            try:
                row = json.loads(text)
                return to_completion({name: row[name] for name in SCHEMA["properties"]})
            except (json.JSONDecodeError, KeyError):
                return text  # malformed, and for the loop to say so
        if STOP not in text and choice.get("finish_reason") != "length":
            text += STOP  # most servers swallow the text that stops them
        return text

    def _question(self, caption: str, seed: int) -> tuple[str, tuple[int, int] | None]:
        """(answer, tokens in and out or None), asked as often as it takes to learn what the server takes."""
        import openai

        if self._flags([caption])[0]:
            return Objection(FLAGGED_CAPTION), (0, 0)
        while True:
            body, chat = self.body(caption, seed), self.chat
            try:
                create = self.client.chat.completions.create if chat else self.client.completions.create
                reply = create(**body).model_dump()
                answer, usage = self.text(reply["choices"][0]), reply.get("usage")
            except openai.NotFoundError as error:
                if chat or self.only_completions:
                    raise self._failure(error) from None
                self.chat = True
                continue
            except openai.BadRequestError as error:
                name = next((n for n in body if n in (error.param, *str(error.message).replace("'", " ").split())
                             and n not in ("model", "prompt", "messages")), None)
                if name is None:
                    raise self._failure(error) from None
                self.refused.add(name)  # many chat models take no temperature, no stop, ...
                continue
            except (openai.APIResponseValidationError, json.JSONDecodeError, AttributeError, LookupError, TypeError):
                return Objection("unreadable reply"), None
            except openai.OpenAIError as error:
                raise self._failure(error) from None
            if self._flags([answer])[0]:
                answer = Objection("flagged")
            return answer, (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None

    def _failure(self, error: Exception) -> RuntimeError:
        return RuntimeError(f"no answer from {self.model!r} at {self.client.base_url}: {error}; "
                            "run the same command again to go on")

    def _flags(self, texts: list[str]) -> list[bool]:
        """Which texts the server's moderation flags; none where it has no moderation."""
        import openai

        out = []
        for i in range(0, len(texts), 32):
            if self.moderation == NO_MODERATION:
                break
            try:
                out += [result.flagged for result in self.client.moderations.create(input=texts[i:i + 32]).results]
            except openai.OpenAIError as error:
                if getattr(error, "status_code", None) not in (400, 404, 405, 501):
                    raise self._failure(error) from None
                self.moderation = NO_MODERATION
        return out or [False] * len(texts)

    # ------------------------------------------------------------------------ what it costs

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        price = self.price or (0.0, 0.0)
        return self.discount * (price[0] * tokens_in + price[1] * tokens_out) / 1e6

    def _dearest(self, caption: str) -> float:
        """What a question can cost at most: no token is shorter than a byte, and no answer longer than its limit."""
        body = self.body(caption, 0)
        limit = body.get("max_completion_tokens", body.get("max_tokens", 0))
        return self.dollars(len(json.dumps(body, ensure_ascii=False).encode()), limit)

    def _affordable(self, caption: str) -> bool:
        """Sets aside the most that a question can cost, if the budget has it."""
        dearest = self._dearest(caption)
        self.over_budget = self.max_cost is not None and self.cost + self._reserved + dearest > self.max_cost
        if not self.over_budget:
            self._reserved += dearest
        return not self.over_budget

    def _settle(self, caption: str, usage: tuple[int, int] | None) -> None:
        """Book what a question cost; where the server does not say, the most it can have cost."""
        dearest = self._dearest(caption)
        self._reserved = max(0.0, self._reserved - dearest)
        self.cost += dearest if usage is None else self.dollars(*usage)

    # ------------------------------------------------------------------------ all questions

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """Answers in the order in which they come, until there is nothing to ask or the budget is reached. If the
        server fails, the answers on their way are handed out before RuntimeError is raised."""
        flying: dict[Future, str] = {}
        failure = question = None
        pool = ThreadPoolExecutor(self.in_flight)
        try:
            while True:
                while failure is None and len(flying) < self.in_flight and (question := question or ask()):
                    if not self._affordable(question[0]):
                        break  # it may be once those on their way have cost less than they could
                    flying[pool.submit(self._question, *question)] = question[0]
                    question = None
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    caption = flying.pop(future)
                    try:
                        answer, usage = future.result()
                    except RuntimeError as error:
                        failure = failure or error
                        self._settle(caption, None)
                        continue
                    self._settle(caption, usage)
                    yield caption, answer
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failure:
            raise failure


class BatchBackend(OpenAIBackend):
    """Answers from OpenAI's Batch API, at half the price, within a day: `export`, `submit`, `poll`, `read`.

    What was submitted is noted in the folder `state`, so a job that is stopped finds its batch again and pays no
    question twice. Rejected answers are asked for again in the next batch.
    """

    discount = 0.5  # developers.openai.com/api/docs/guides/batch
    limit = 50_000  # questions a batch

    def __init__(self, model: str, state: str | Path, seconds: float = 30.0, api: str | None = "chat", **options):
        super().__init__(model, api=api, **options)
        self.state, self.seconds = Path(state), seconds
        if self.chat:  # a batch cannot try what the model takes: ask for nothing but the form
            self.refused |= {"temperature", "frequency_penalty", "stop", "seed"}

    @staticmethod
    def _name(caption: str) -> str:
        return hashlib.sha256(caption.encode()).hexdigest()[:32]

    def export(self, questions: Iterable[tuple[str, int]]) -> bytes:
        """The file of requests that the API takes, a JSON line for each (caption, seed)."""
        lines = ({"custom_id": self._name(caption), "method": "POST", "url": CHAT if self.chat else COMPLETIONS,
                  "body": self.body(caption, seed)} for caption, seed in questions)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()

    def submit(self, questions: list[tuple[str, int]]) -> str:
        """Start a batch, or find the one that was started on these very questions; returns its id."""
        requests = self.export(questions)
        digest = hashlib.sha256(requests + repr(questions).encode()).hexdigest()
        for batch in islice(self.client.batches.list(limit=100), 100):
            if (batch.metadata or {}).get("ip2p") == digest and batch.status not in BROKEN:
                return batch.id
        file = self.client.files.create(file=("requests.jsonl", requests), purpose="batch")
        return self.client.batches.create(input_file_id=file.id, endpoint=CHAT if self.chat else COMPLETIONS,
                                          completion_window="24h", metadata={"ip2p": digest}).id

    def poll(self, batch_id: str):
        """The batch, once it has come to its end. Raises RuntimeError if it was refused."""
        while True:
            batch = self.client.batches.retrieve(batch_id)
            if batch.status == "failed":
                reasons = [error.message for error in (batch.errors.data or [])] if batch.errors else []
                raise RuntimeError(f"batch {batch_id} was refused: {'; '.join(reasons) or 'no reason given'}")
            if batch.status in ("completed", *BROKEN):
                return batch
            time.sleep(self.seconds)

    def read(self, batch) -> dict[str, tuple[str, tuple[int, int] | None]]:
        """The answers of a batch: custom_id -> (answer, tokens in and out). What failed is an `Objection`."""
        out = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file).text.splitlines():
                row, reply = json.loads(line), {}
                if (row.get("response") or {}).get("status_code") == 200:
                    reply = row["response"]["body"]
                usage = reply.get("usage")
                out[row["custom_id"]] = (self.text(reply["choices"][0]) if reply else Objection("no reply"),
                                         (usage["prompt_tokens"], usage["completion_tokens"]) if usage else
                                         None if reply else (0, 0))
        return out

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        import openai

        waiting: dict[str, tuple[str, int]] = {}  # by name
        try:
            while True:
                room, new = self.limit - len(waiting), []
                while len(new) < room and not self.over_budget and (question := ask()):
                    if self._affordable(question[0]):
                        new.append(question)
                for question, flagged in zip(new, self._flags([caption for caption, _ in new]), strict=True):
                    if flagged:
                        self._settle(question[0], (0, 0))
                        yield question[0], Objection(FLAGGED_CAPTION)
                    else:
                        waiting[self._name(question[0])] = question
                if not waiting:
                    return
                if self.state.exists():
                    batch_id = self.state.read_text()
                else:
                    batch_id = self.submit(list(waiting.values()))
                    self.state.write_text(batch_id)
                try:
                    found = self.read(self.poll(batch_id))
                except RuntimeError:
                    self.state.unlink()
                    raise
                found = {name: found[name] for name in waiting if name in found}
                flags = self._flags([answer for answer, _ in found.values()])
                for (name, (answer, usage)), flagged in zip(found.items(), flags, strict=True):
                    caption, _ = waiting.pop(name)
                    self._settle(caption, usage)
                    yield caption, Objection("flagged") if flagged else answer
                self.state.unlink()
        except openai.OpenAIError as error:
            raise self._failure(error) from None
