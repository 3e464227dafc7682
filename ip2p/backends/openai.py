"""Stage 1 by a server with OpenAI's API: OpenAI's own, or vLLM, llama.cpp, Ollama, `transformers serve`.

The authors fine-tuned GPT-3 (Davinci) at OpenAI. Davinci is retired, and OpenAI takes no new fine-tuning
jobs, from organisations that never had one since May 7, 2026, from all others after January 6, 2027
(developers.openai.com/api/docs/deprecations). So their recipe lives on as: fine-tune an open model here,
serve it, and ask it through the same client (`examples=()`); or show a hosted model a few examples."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from ip2p.backends.budget import Budget, OverBudget
from ip2p.backends.connection import Connection, PassingFault, Stopped, in_background
from ip2p.backends.moderation import Moderation
from ip2p.backends.protocol import FLAGGED_CAPTION, Ask, NoAnswer, Objection
from ip2p.common.errors import UserError
from ip2p.dataset.triplets import STOP, SYSTEM, clean, to_chat, to_completion, to_prompt
from ip2p.options import Options, option

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"edit": {"type": "string"}, "output": {"type": "string"}},
    "required": ["edit", "output"],
    "additionalProperties": False,
}
REQUIRED = ("model", "prompt", "messages", "max_tokens")  # whatever else a request has can be left out
THINKING = 8  # chat models may think first: they get so many times the tokens of an answer
GRACE = 0.4  # seconds after the first Ctrl-C for answers that are on their way
OTHER_SEED = 10_000  # added to the seed of a question whose answer was empty


@dataclass(frozen=True)
class ServerOptions(Options):
    """How a server is asked, and for how much. Raises ValueError for a number out of its range."""

    base_url: str | None = None  # None: OPENAI_BASE_URL, else OpenAI
    # "completions" or "chat"; None: completions, and chat if the server has no such model
    api: str | None = option(None, choices=("completions", "chat"))
    temperature: float = option(0.7, range="natural")  # the paper's
    frequency_penalty: float = option(0.1, range=(-2, 2))  # the paper's
    max_tokens: int = option(256, range="count")  # of an answer, the paper's
    in_flight: int = option(32, range="count")  # questions asked at once
    timeout: float = option(60.0, range=(0.01, 86400))  # seconds from a request to the last byte of its reply
    # after rate limits, server errors, time-outs, dropped connections and empty answers
    max_retries: int = option(8, range="natural")
    # dollars a million tokens, (input, output)
    price: tuple[float, float] | None = option(None, range=(0, 1e6))
    max_cost: float | None = option(None, range="natural")  # dollars that are never passed; needs the price
    moderation: bool = True  # show captions and answers to the server's moderation, if it has one


class EmptyAnswer(PassingFault):
    """A reply whose answer is empty."""


class OpenAIBackend:
    """Answers from a server, many at once (`options`: the fields of ServerOptions). The key comes from the
    environment (OPENAI_API_KEY) only.

    Asks /v1/completions, as the authors did, and where the server has no such model, /v1/chat/completions,
    there with a JSON schema if the server takes one. Passing faults are waited out, as long as the server
    asks for (`retry-after`). Where the server has a moderation route, flagged captions are not asked and
    flagged answers are asked for again; where it has none, that is said; where it gives no clear word on a
    text, nothing is asked further.

    With a price, `cost` is what this object spent, in dollars; a request whose answer was lost on the way
    counts with the most that it can have cost. With `max_cost` nothing is asked whose dearest answer could
    pass it.

    Raises ValueError if there is no key, or a limit without a price.
    """

    discount = 1.0

    def __init__(
        self, model: str, base_url: str | None = None, examples: Iterable[dict] = (), **options
    ) -> None:
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError(
                "OPENAI_API_KEY is not set; put your key into this environment variable "
                "(for a server of your own, any word will mostly do)"
            )
        self.model = model
        self.examples = list(examples)
        self.options = ServerOptions(base_url, **options)
        self.budget = Budget(self.options.price, self.options.max_cost, self.discount)
        self.server = Connection(base_url, self.options.timeout, self.options.max_retries)
        self.moderation = Moderation(self.server, self.options.moderation)
        self.chat = {"chat": True, "completions": False}.get(self.options.api)  # None: not known yet
        self.refused: set[str] = set()  # what of a request this server does not take; learnt from its answers
        self.answered = False  # whether it has answered any question

    @property
    def cost(self) -> float:
        return self.budget.cost

    def failure(self, error: Exception) -> UserError:
        return self.server.failure(self.model, error)

    # ------------------------------------------------------------------------ what is sent

    def body(self, caption: str, seed: int, chat: bool, dropped: Collection[str] = ()) -> dict:
        """The request for one caption, without what the server refuses and what is `dropped`."""
        left_out = self.refused.union(dropped)
        request = {
            "model": self.model,
            "seed": seed,
            "temperature": self.options.temperature,
            "frequency_penalty": self.options.frequency_penalty,
            "stop": [STOP],
        }
        if chat:
            request |= self.chat_fields(caption, left_out)
        else:
            request["prompt"] = to_prompt(caption, self.examples)
            request["max_tokens"] = self.options.max_tokens
        return {name: value for name, value in request.items() if name in REQUIRED or name not in left_out}

    def chat_fields(self, caption: str, left_out: set[str]) -> dict:
        """What only a chat has: the examples as turns before the question, and the form of the answer."""
        messages = [{"role": "system", "content": SYSTEM}]
        for triplet in self.examples:
            _, question, answer = to_chat(triplet)
            if "response_format" not in left_out:
                fields = {name: triplet[name] for name in SCHEMA["properties"]}
                answer = {"role": "assistant", "content": json.dumps(fields)}
            messages += [question, answer]
        messages.append({"role": "user", "content": to_prompt(caption)})
        limit = "max_tokens" if "max_completion_tokens" in left_out else "max_completion_tokens"
        schema = {"name": "edit", "strict": True, "schema": SCHEMA}
        return {
            "messages": messages,
            limit: THINKING * self.options.max_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def worst_cost(self, caption: str) -> float:
        """What a question can cost at most, in dollars, in whichever form it will be sent: no token is
        shorter than a byte, and no answer longer than its limit."""
        limits = {False: self.options.max_tokens, True: THINKING * self.options.max_tokens}
        forms = (False, True) if self.chat is None else (self.chat,)
        costs = []
        for chat in forms:
            request = json.dumps(self.body(caption, 0, chat), ensure_ascii=False).encode()
            costs.append(self.budget.dollars(len(request), limits[chat]))
        return max(costs)

    # ------------------------------------------------------------------------ what comes back

    def text(self, choice: dict) -> str:
        """An answer in the authors' format, from one of the `choices` of a reply; an Objection if the server
        refused it. Raises EmptyAnswer if it is empty, LookupError, TypeError or AttributeError if it is no
        choice."""
        end = choice.get("finish_reason")
        message = choice.get("message") or {"content": choice.get("text")}
        if end == "content_filter":
            return Objection("flagged")
        content = without_parts(message.get("content"))
        if message.get("refusal") and not content:
            return Objection("refused by the model")
        answer = plain_answer(content)
        if not answer.strip() and end != "length":
            raise EmptyAnswer("the answer is empty", 0.0)
        return clean(self.without_key(in_authors_form(answer, is_whole=end != "length")))

    def without_key(self, text: str) -> str:
        """An answer that does not hold the key, unless that is a word which answers may need."""
        key = self.server.client.api_key
        is_secret = len(key) >= 8 and not key.isalpha()
        return text.replace(key, "***") if is_secret else text

    # ------------------------------------------------------------------------ one question

    def answer_to(
        self, caption: str, seed: int, worst_cost: float, stopped: threading.Event
    ) -> tuple[str, float]:
        """(answer, dollars) of one question, asked as often as it takes to learn what the server takes."""
        import openai

        if self.moderation.flags([caption], stopped)[0]:
            return FLAGGED_CAPTION, 0.0
        dropped: set[str] = set()  # tried without; refused for good if that helps
        while not stopped.is_set():
            chat = bool(self.chat)
            body = self.body(caption, seed, chat, dropped)
            try:
                answer, cost = self.send(body, chat, worst_cost, stopped)
            except openai.NotFoundError as error:
                if chat or self.options.api:
                    raise self.failure(error) from None
                self.chat = True
                continue
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                name = refused_name(error, body)
                if name:  # many chat models take no temperature, no stop, ...
                    dropped.add(name)
                    continue
                return self.objection_to_caption(error), 0.0
            except EmptyAnswer as fault:
                if not self.answered:
                    raise self.failure(fault) from None
                return NoAnswer("empty answer"), fault.cost
            except (openai.OpenAIError, PassingFault) as error:
                raise self.failure(error) from None
            except (ValueError, AttributeError, LookupError, TypeError):
                return Objection("unreadable reply"), worst_cost
            self.chat = chat
            self.answered = True
            self.refused |= dropped
            flagged = not isinstance(answer, Objection) and self.moderation.flags([answer], stopped)[0]
            return Objection("flagged") if flagged else answer, cost
        raise Stopped

    def objection_to_caption(self, error) -> Objection:
        """What a refusal says of the caption. Raises UserError if it is not the caption that is
        refused."""
        if is_content_filter(error.response.text):
            return FLAGGED_CAPTION
        if not self.answered:
            raise self.failure(error) from None
        return Objection("refused by the server")

    def send(self, body: dict, chat: bool, worst_cost: float, stopped: threading.Event) -> tuple[str, float]:
        """(answer, dollars) of a request, which is patiently tried again."""
        client = self.server.impatient
        route = client.chat.completions if chat else client.completions

        def one_try() -> tuple[str, float]:
            reply = json_reply(route.with_raw_response.create(**body).content, worst_cost)
            cost = self.budget.cost_of(reply, worst_cost)
            try:
                return self.text(reply["choices"][0]), cost
            except EmptyAnswer as fault:
                if "seed" in body:  # the same one would bring the same answer
                    body["seed"] += OTHER_SEED
                raise EmptyAnswer(str(fault), cost) from None

        def book_lost(cost: float | None) -> None:
            self.budget.book_lost(worst_cost if cost is None else cost)

        return self.server.patiently(one_try, stopped, book_lost)

    # ------------------------------------------------------------------------ all questions

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        """Answers in the order in which they come, until there is nothing to ask or the budget is reached. If
        the server fails, the answers on their way are handed out first; at Ctrl-C, those that come within
        GRACE seconds."""
        flight = Flight(self, ask)
        try:
            while flight.send_more():
                for future in flight.wait_for_answers():
                    received = flight.receive(future)
                    if received:
                        yield received
        finally:
            flight.abandon()
        flight.say_why_it_ended()


class Flight:
    """The questions of one call of `answers` that are on their way, and why no more are sent."""

    def __init__(self, backend: OpenAIBackend, ask: Ask) -> None:
        self.backend = backend
        self.budget = backend.budget
        self.ask = ask
        self.question: tuple[str, int] | None = None  # the next one, if it had no room yet
        self.on_their_way: dict[Future, tuple[str, float]] = {}  # to (caption, what was set aside)
        self.stopped = threading.Event()
        self.failure: BaseException | None = None
        self.over_budget = False
        self.deadline: float | None = None  # after a Ctrl-C, when to wait no longer

    def send_more(self) -> bool:
        """Send as many questions as may be in flight; returns whether there are any on their way."""
        if self.time_is_up():
            return False
        while self.may_send():
            caption, seed = self.question
            worst_cost = self.backend.worst_cost(caption)
            try:
                self.budget.reserve(worst_cost)
            except OverBudget:
                self.over_budget = not self.on_their_way  # else there may be room once those have cost less
                break
            future = in_background(self.backend.answer_to, caption, seed, worst_cost, self.stopped)
            self.on_their_way[future] = caption, worst_cost
            self.question = None
        return bool(self.on_their_way)

    def time_is_up(self) -> bool:
        """Whether the time after a Ctrl-C is over; answers that have come are paid, and still taken."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return False
        return not any(future.done() for future in self.on_their_way)

    def may_send(self) -> bool:
        if self.failure or self.over_budget or len(self.on_their_way) >= self.backend.options.in_flight:
            return False
        self.question = self.question or self.ask()
        return self.question is not None

    def wait_for_answers(self) -> list[Future]:
        """Those that have come; none if the time after a Ctrl-C is over. A second Ctrl-C is raised."""
        try:
            seconds = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            return list(wait(self.on_their_way, seconds, FIRST_COMPLETED).done)
        except KeyboardInterrupt as stop:
            if self.deadline is not None:
                raise
            self.failure = stop
            self.deadline = time.monotonic() + GRACE
            self.stopped.set()
            count = len(self.on_their_way)
            self.backend.server.say(f"no new questions; waiting {GRACE:g} s for the {count} on their way")
            return []

    def receive(self, future: Future) -> tuple[str, str] | None:
        """(caption, answer), or None if a question has none."""
        caption, worst_cost = self.on_their_way.pop(future)
        try:
            answer, cost = future.result()
        except OverBudget:  # in the middle of its tries, of which all are booked
            self.over_budget = True
            self.budget.settle(worst_cost, 0.0)
        except Stopped:
            self.budget.settle(worst_cost, 0.0)
        except Exception as error:
            known = isinstance(error, UserError)
            self.failure = self.failure or (error if known else self.backend.failure(error))
            self.stopped.set()
            self.budget.settle(worst_cost, worst_cost)
        else:
            self.budget.settle(worst_cost, cost)
            return caption, answer
        return None

    def abandon(self) -> None:
        """Wait for nothing more; what is on its way counts with the most that it can cost."""
        self.stopped.set()
        for _, worst_cost in self.on_their_way.values():
            self.budget.settle(worst_cost, worst_cost)

    def say_why_it_ended(self) -> None:
        """Raises what made it end; an empty budget is only said."""
        if self.failure:
            raise self.failure
        if self.over_budget:
            self.backend.server.say(self.budget.end_sentence())


# ---------------------------------------------------------------------------- reading what a server says


def json_reply(data: bytes, worst_cost: float) -> dict:
    """A reply with choices. Raises PassingFault if there are none in it: it is a page, half a reply, or an
    error."""
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):
        start = data[:200].decode("utf-8", "replace")
        raise PassingFault(f"the reply is not JSON: {start}", worst_cost) from None
    if not isinstance(reply, dict) or not reply.get("choices"):
        error = reply.get("error") if isinstance(reply, dict) else None
        raise PassingFault(f"the reply holds no answer: {error or 'nothing said why'}", worst_cost)
    return reply


def refused_name(error, body: dict) -> str | None:
    """What of a request a server says that it does not take, in whichever words: the `param` of the error,
    else the first quoted, else the first word of its reply that is a name in the request and can be left
    out."""
    said = re.sub(r"\\[nrt]", " ", error.response.text)
    quoted = re.findall(r"['\"`](\w+)['\"`]", said)
    words = re.findall(r"\w+", said)
    for name in [str(error.param), *quoted, *words]:
        if name in body and name not in REQUIRED:
            return name
    return None


def is_content_filter(said: str) -> bool:
    """Whether a refusal comes from a filter of contents, such as Azure's."""
    return bool(
        re.search(r"\b(content_filter|content_policy_violation|ResponsibleAIPolicyViolation)\b", said)
    )


def without_parts(content: str | list | None) -> str:
    """The content of a message as one text; some servers cut it into parts {"type": "text", "text": ...}."""
    if not isinstance(content, list):
        return content or ""
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def plain_answer(text: str) -> str:
    """An answer without what some models put around it: thoughts, a fence of Markdown, other line ends."""
    text = text.rpartition("</think>")[2]
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


def in_authors_form(answer: str, is_whole: bool) -> str:
    """An answer that may be JSON, or lack the text that stopped it, as most servers swallow that."""
    start = answer.lstrip()
    if start.startswith("{"):
        try:
            fields, _ = json.JSONDecoder().raw_decode(start)
            return to_completion({name: fields[name] for name in SCHEMA["properties"]})
        except (ValueError, KeyError, TypeError, RecursionError):
            return answer  # malformed, and for the loop to say so
    if is_whole and STOP not in answer:
        return answer + STOP
    return answer
