"""Stage 1 by OpenAI's Batch API: all captions in one file, at half the price, within a day."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ip2p.backends.budget import OverBudget
from ip2p.backends.connection import LONGEST_REPLY, TooLong
from ip2p.backends.openai import CHAT, COMPLETIONS, EmptyAnswer, OpenAIBackend, is_content_filter
from ip2p.backends.protocol import FLAGGED_CAPTION, Ask, NoAnswer, Objection
from ip2p.common.durable import write_atomically
from ip2p.common.errors import UserError

# The reply to a question that was not answered
FREE = {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
REFUSALS = (400, 413, 422)  # statuses that say that it is the question which is wrong


class Result(NamedTuple):
    """What a batch has for one question."""

    answer: str
    reply: dict | None  # of the server; None: there was none, and it cost nothing


class Waiting(NamedTuple):
    """A question that has no answer yet."""

    caption: str
    seed: int
    worst_cost: float  # dollars that are set aside for it


class BatchBackend(OpenAIBackend):
    """Answers from OpenAI's Batch API: `export`, `submit`, `poll`, `read`.

    What is submitted is noted in the file `state`, before and after, so a job that is stopped finds its batch
    again and pays no question twice. Rejected answers are asked for again in the next batch. seconds: between
    two looks whether a batch is done. `options` are those of OpenAIBackend."""

    discount = 0.5  # developers.openai.com/api/docs/guides/batch
    limit = 50_000  # questions a batch

    def __init__(
        self, model: str, state: str | Path, seconds: float = 30.0, api: str | None = "chat", **options
    ) -> None:
        super().__init__(model, api=api or "chat", **options)
        self.state = Path(state)
        self.seconds = seconds
        self.url = CHAT if self.chat else COMPLETIONS
        if self.chat:  # a batch cannot try what the model takes: ask for nothing but the form
            self.refused |= {"temperature", "frequency_penalty", "stop", "seed"}

    @staticmethod
    def name(caption: str) -> str:
        """The `custom_id` of a question."""
        return hashlib.sha256(caption.encode()).hexdigest()[:32]

    # ------------------------------------------------------------------------ the four steps

    def export(self, questions: Iterable[tuple[str, int]]) -> bytes:
        """The file of requests that the API takes, a JSON line for each (caption, seed)."""
        lines = []
        for caption, seed in questions:
            request = {
                "custom_id": self.name(caption),
                "method": "POST",
                "url": self.url,
                "body": self.body(caption, seed, self.chat),
            }
            lines.append(json.dumps(request, ensure_ascii=False) + "\n")
        return "".join(lines).encode()

    def submit(self, questions: list[tuple[str, int]]) -> str:
        """Start a batch; returns its id."""
        client = self.server.client
        requests = self.export(questions)
        moment = repr((questions, time.time())).encode()
        digest = hashlib.sha256(requests + moment).hexdigest()
        names = [self.name(caption) for caption, _ in questions]
        file = client.files.create(file=("requests.jsonl", requests), purpose="batch")
        file_id = self.id_of(file)
        self.write_note(digest=digest, names=names)
        batch = self.server.impatient.batches.create(
            input_file_id=file_id, endpoint=self.url, completion_window="24h", metadata={"ip2p": digest}
        )
        batch_id = self.id_of(batch)
        self.write_note(digest=digest, names=names, id=batch_id)
        return batch_id

    def id_of(self, reply) -> str:
        if not isinstance(getattr(reply, "id", None), str):
            raise self.server.error(
                f"the reply of {self.server.where()} is unreadable; run the same command again to go on"
            )
        return reply.id

    def poll(self, batch_id: str):
        """The batch, once it has come to its end. Raises UserError if it was refused or cancelled."""
        while True:
            batch = self.server.client.batches.retrieve(batch_id)
            if not isinstance(getattr(batch, "status", None), str):
                raise self.server.error(
                    f"the server's word on batch {batch_id} is unreadable; run the same command again"
                )
            if batch.status in ("failed", "cancelled"):
                self.say_or_raise(batch, batch_id)
            if batch.status in ("completed", "expired", "cancelled"):
                return batch
            time.sleep(self.seconds)

    def say_or_raise(self, batch, batch_id: str) -> None:
        """Say why a batch came to nothing. Raises UserError if it has no answers."""
        errors = getattr(batch.errors, "data", None) or []
        messages = "; ".join(str(getattr(error, "message", error)) for error in errors)
        reason = f"batch {batch_id} {batch.status}: {self.server.shown(messages) or 'no reason given'}"
        if batch.status == "failed" or not batch.output_file_id:
            self.state.unlink(missing_ok=True)
            raise self.server.error(reason)
        self.server.say(f"{reason}; taking the answers that it has")

    def read(self, batch) -> tuple[dict[str, Result], int]:
        """The results of a batch by custom_id, and how many lines were unreadable."""
        results: dict[str, Result] = {}
        unreadable = 0
        for file_id in (batch.output_file_id, batch.error_file_id):
            if not file_id:
                continue
            for line in self.server.client.files.content(file_id).content.split(b"\n"):
                if not line.strip():
                    continue
                try:
                    name, result = self.read_line(line)
                except (ValueError, RecursionError):
                    unreadable += 1
                    continue
                if name not in results or result.reply is not None:
                    results[name] = result
        return results, unreadable

    def read_line(self, line: bytes) -> tuple[str, Result]:
        """(custom_id, result) of a line of results. Raises ValueError if it belongs to no question."""
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
            raise ValueError("a line without custom_id")
        response = row.get("response")
        if not isinstance(response, dict):
            response = {}
        if response.get("status_code") == 200:
            return row["custom_id"], self.result_of_reply(response.get("body"))
        return row["custom_id"], self.result_of_failure(row, response)

    def result_of_reply(self, reply: object) -> Result:
        known = reply if isinstance(reply, dict) else {}
        try:
            return Result(self.text(reply["choices"][0]), reply)
        except EmptyAnswer:
            return Result(NoAnswer("empty answer"), known)
        except (KeyError, IndexError, TypeError, AttributeError):
            return Result(Objection("unreadable reply"), known)

    def result_of_failure(self, row: dict, response: dict) -> Result:
        """What a line says that has no answer."""
        body = response.get("body")
        error = body.get("error") if isinstance(body, dict) else body
        reason = row.get("error") or error
        if is_content_filter(json.dumps(reason)):
            return Result(FLAGGED_CAPTION, FREE)
        message = reason.get("message") if isinstance(reason, dict) else reason
        sentence = f"no reply: {self.server.shown(message or 'no reason given')}"
        refused = response.get("status_code") in REFUSALS
        return Result(Objection(sentence) if refused else NoAnswer(sentence), None)

    # ------------------------------------------------------------------------ the note of what was submitted

    def write_note(self, **values: str | list[str]) -> None:
        write_atomically(self.state, json.dumps(values))

    def read_note(self) -> dict:
        """What `submit` noted; nothing if there is no batch. Raises ValueError if the file is not ours."""
        try:
            note = json.loads(self.state.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            note = None
        if not isinstance(note, dict) or not isinstance(note.get("digest"), str):
            raise ValueError(
                f"{self.state} does not say which batch was submitted; move it away, or choose another --out"
            )
        return note

    def noted_batch(self) -> str | None:
        """The id of the batch that an earlier run submitted, if it did."""
        note = self.read_note()
        if not note or "id" in note:
            return note.get("id")
        for batch in islice(self.server.client.batches.list(limit=100), 1000):
            if (batch.metadata or {}).get("ip2p") == note["digest"]:  # stopped before its id could be noted
                self.write_note(**note, id=batch.id)
                return batch.id
        self.state.unlink()
        return None

    # ------------------------------------------------------------------------ all questions

    def results(self, batch, fresh: bool, stopped: threading.Event) -> dict[str, Result]:
        """The results of a batch. Questions whose lines are unreadable have an Objection; if all are and the
        batch is `fresh`, that is a UserError: another run may find the files mended."""
        names = self.read_note().get("names")
        if not isinstance(names, list):  # a note of an older version
            names = []
        longest_line = 4096 + 128 * self.options.max_tokens
        self.server.http.longest_file = LONGEST_REPLY + (len(names) or self.limit) * longest_line
        for attempt in range(3):  # what came may be the page of a server in between
            results, unreadable = self.read(batch)
            if results or not unreadable:
                break
            self.server.pause(attempt, stopped, min(1.0, self.seconds))
        if fresh and unreadable and not results:
            raise self.server.error(
                f"the results of batch {batch.id} are unreadable; run the same command again to read them "
                "once more, or, if they still are, to submit anew"
            )
        lost = [name for name in names if name not in results]
        for name in lost[:unreadable]:
            results[name] = Result(Objection("unreadable line"), {})
        return results

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        import openai

        try:
            yield from self.answers_batch_by_batch(ask)
        except openai.NotFoundError as error:
            raise self.server.error(
                f"the server does not know what {self.state} says was submitted "
                f"({self.server.shown(error)}); delete that file to submit anew"
            ) from None
        except (openai.OpenAIError, TooLong, json.JSONDecodeError) as error:
            raise self.failure(error) from None
        except OverBudget:
            self.server.say(self.budget.end_sentence())

    def answers_batch_by_batch(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """The answers of the noted batch, if there is one, then of new ones. Raises OverBudget if no question
        fits."""
        stopped = threading.Event()
        waiting: dict[str, Waiting] = {}  # custom_id -> question
        handed_out: set[str] = set()  # of the batch at hand
        questions = Questions(self, ask)
        while True:
            new = questions.affordable(self.limit - len(waiting), may_wait=bool(waiting))
            captions = [question.caption for question in new]
            for question, flagged in zip(new, self.moderation.flags(captions, stopped), strict=True):
                if flagged:
                    self.budget.settle(question.worst_cost, 0.0)
                    yield question.caption, FLAGGED_CAPTION
                else:
                    waiting[self.name(question.caption)] = question
            if not waiting and not new:
                return
            if not waiting:
                continue
            batch_id = self.noted_batch()
            fresh = batch_id is None
            if fresh:
                handed_out = set()
                batch_id = self.submit([(question.caption, question.seed) for question in waiting.values()])
            results = self.results(self.poll(batch_id), fresh, stopped)
            wanted = {name: results[name] for name in waiting if name in results and name not in handed_out}
            if all(result.reply is None for result in wanted.values()):
                self.state.unlink(missing_ok=True)
                if fresh:
                    raise self.answered_nothing(batch_id, wanted)
                continue  # an old batch, of no use any more
            flags = self.moderation.flags([result.answer for result in wanted.values()], stopped)
            for (name, result), flagged in zip(wanted.items(), flags, strict=True):
                question = waiting.pop(name)
                handed_out.add(name)
                self.budget.settle(question.worst_cost, self.cost_of_result(result, question.worst_cost))
                refused = isinstance(result.answer, Objection)
                yield question.caption, Objection("flagged") if flagged and not refused else counted(result)
            if results.keys() <= handed_out:
                self.state.unlink()

    def cost_of_result(self, result: Result, worst_cost: float) -> float:
        return 0.0 if result.reply is None else self.budget.cost_of(result.reply, worst_cost)

    def answered_nothing(self, batch_id: str, wanted: dict[str, Result]) -> UserError:
        reasons = [result.answer for result in wanted.values()]
        reason = reasons[0] if reasons else "it came back without our questions"
        return self.server.error(
            f"batch {batch_id} answered nothing ({reason}); run the same command again once that is mended"
        )


class Questions:
    """The questions of one call of `answers`, as many as the budget has room for."""

    def __init__(self, backend: BatchBackend, ask: Ask) -> None:
        self.backend = backend
        self.ask = ask
        self.next: tuple[str, int] | None = None  # one that had no room yet

    def affordable(self, count: int, may_wait: bool) -> list[Waiting]:
        """Up to `count` questions. Raises OverBudget if there is no room for any, unless others are waited
        for."""
        questions: list[Waiting] = []
        while len(questions) < count:
            self.next = self.next or self.ask()
            if self.next is None:
                break
            caption, seed = self.next
            worst_cost = self.backend.worst_cost(caption)
            try:
                self.backend.budget.reserve(worst_cost)
            except OverBudget:
                if not questions and not may_wait:
                    raise
                break
            questions.append(Waiting(caption, seed, worst_cost))
            self.next = None
        return questions


def counted(result: Result) -> str:
    """An answer as the loop counts it: what the server said of a failure is only shown if all failed."""
    if result.reply is not None:
        return result.answer
    short = "no reply"
    return NoAnswer(short) if isinstance(result.answer, NoAnswer) else Objection(short)
