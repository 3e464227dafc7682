"""Servers with OpenAI's API, over real HTTP: what is sent, what comes back, what faults, limits and kills
do."""

import base64
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from kills import results, survive
from servers import FAULTS, drip, drip_head, endless, faulty, hold, openai_server, saying, serving

from ip2p.backends import local
from ip2p.backends.batch import BatchBackend
from ip2p.backends.budget import Budget
from ip2p.backends.local import generate
from ip2p.backends.moderation import NO_MODERATION
from ip2p.backends.openai import OpenAIBackend
from ip2p.cli import main
from ip2p.common.errors import UserError
from ip2p.dataset.checks import check
from ip2p.dataset.triplets import (
    DELIMITER,
    SEED_TRIPLETS,
    STOP,
    from_completion,
    read_captions,
    read_triplets,
    to_completion,
    to_prompt,
)
from ip2p.instructions import finetune, generate_triplets, run

BLUE = {"input": "a red dog on a beach", "edit": "paint the dog blue", "output": "a blue dog on a beach"}
CAPTIONS = [
    f"a {colour} {kind} in a meadow"
    for kind in ("cat", "dog", "owl", "duck", "car", "boat", "tent", "robot")
    for colour in ("red", "blue", "green", "pink")
]


def night(caption):
    return f"make it night{DELIMITER}{caption} at night"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def lines(path):
    return [t["input"] for t in read_triplets(path)]


# ---------------------------------------------------------------------------- what is sent


def test_completions_are_asked_as_the_authors_did(tmp_path):
    requests = []
    with serving(openai_server(night, requests)) as url:
        backend = OpenAIBackend("text", base_url=url, examples=[BLUE])
        assert generate_triplets(CAPTIONS[:5], backend, tmp_path / "t.jsonl") == {"accepted": 5}
    assert sorted(lines(tmp_path / "t.jsonl")) == sorted(CAPTIONS[:5]) and not backend.moderation.exists
    asked = [(key, body) for path, key, body in requests if path == "/v1/completions"]
    assert {body["prompt"] for _, body in asked} == {to_prompt(caption, [BLUE]) for caption in CAPTIONS[:5]}
    key, body = asked[0]
    assert key == "Bearer a-secret-key" and len(asked) == 5 and body["stop"] == [STOP]
    assert (body["temperature"], body["max_tokens"], body["frequency_penalty"]) == (0.7, 256, 0.1)


def test_chat_where_there_are_no_completions(tmp_path):
    requests = []
    (tmp_path / "c.txt").write_text("\n".join(CAPTIONS[:3]))
    with serving(openai_server(night, requests)) as url:
        counts = run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="openai", model="chat", base_url=url)
    assert counts == {"accepted": 3}
    path, _, body = [r for r in requests if r[0] != "/v1/moderations"][-1]
    assert path == "/v1/chat/completions" and "temperature" not in body and "frequency_penalty" in body
    assert [m["role"] for m in body["messages"]] == ["system"] + 8 * ["user", "assistant"] + ["user"]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["edit", "output"]
    assert set(json.loads(body["messages"][2]["content"])) == {"edit", "output"}, (
        "examples as the schema has it"
    )


def test_a_caption_that_the_server_refuses_does_not_stop_the_others(tmp_path):
    with serving(openai_server(night, [], refuse="tent")) as url:
        backend = OpenAIBackend("text", base_url=url, in_flight=1)
        counts = generate_triplets(CAPTIONS, backend, tmp_path / "t.jsonl")
    assert counts == {"accepted": 28, "refused by the server": 16, "given up": 4}
    assert "temperature" in backend.body("a", 0, False), "no option was dropped for it"


def test_an_answer_that_was_cut_is_no_answer():
    backend = OpenAIBackend("text", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="breaks off"):
        from_completion("a", backend.text({"text": "make it night\n%%\na red", "finish_reason": "length"}))
    assert (
        from_completion("a", backend.text({"message": {"content": '{"edit": "b", "output": "c"}'}}))["edit"]
        == "b"
    )


def test_errors_are_one_sentence_and_no_key_is_told(tmp_path, monkeypatch):
    with (
        serving(openai_server(night, [])) as url,
        pytest.raises(RuntimeError, match="Incorrect API key") as error,
    ):
        generate_triplets(CAPTIONS[:2], OpenAIBackend("broken", base_url=url), tmp_path / "t.jsonl")
    assert read_triplets(tmp_path / "t.jsonl") == [] and "a-secret-key" not in str(error.value)
    with pytest.raises(RuntimeError, match="no connection .*refused.*run the same command again"):
        generate_triplets(
            CAPTIONS[:2], OpenAIBackend("text", "http://127.0.0.1:9/v1", max_retries=0), tmp_path / "t.jsonl"
        )
    with pytest.raises(ValueError, match="give the price too"):
        OpenAIBackend("text", max_cost=1)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set") as error:
        OpenAIBackend("text", base_url=url)
    assert "\n" not in str(error.value)


def test_moderation_skips_captions_and_asks_for_other_answers(tmp_path):
    said, times = [], Counter()

    def answer(caption):
        times[caption] += 1
        said.append(caption)
        return (
            f"make it rain{DELIMITER}{caption} in the rain"
            if times[caption] == 1 and "owl" in caption
            else night(caption)
        )

    with serving(openai_server(answer, [], moderation=lambda t: "robot" in t or "in the rain" in t)) as url:
        counts = generate_triplets(CAPTIONS, OpenAIBackend("text", base_url=url), tmp_path / "t.jsonl")
    assert counts == {"accepted": 28, "flagged caption": 4, "flagged": 4, "given up": 4}
    assert not any("robot" in caption for caption in said), "a flagged caption is not sent to the model"


def test_moderation_can_be_turned_off(tmp_path, capsys):
    requests = []
    with serving(openai_server(night, requests, moderation=lambda text: True)) as url:
        backend = OpenAIBackend("text", base_url=url, moderation=False)
        counts = generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl")
        (tmp_path / "c.txt").write_text("\n".join(CAPTIONS[:2]))
        command = f"instructions --captions {tmp_path}/c.txt --out {tmp_path}/u.jsonl --backend openai"
        assert main([*command.split(), "--model", "text", "--base-url", url, "--no-moderation"]) == 0
    assert counts == {"accepted": 2} and "accepted 2" in capsys.readouterr().out
    assert "/v1/moderations" not in {path for path, *_ in requests}


# ---------------------------------------------------------------------------- hopeless connections


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "file:///etc/passwd", "ftp://host/v1", "http:///v1", "/v1"]
)
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match="must begin with http:// or https:// and a host's name"):
        OpenAIBackend("text", base_url=url)


@pytest.mark.parametrize("key", ["sk-123\n", "sk-1\r\n23", " sk-123", "sk-\N{EN DASH}123"])
def test_a_key_with_a_line_end_is_refused_at_once(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds a blank, a line end") as error:
        OpenAIBackend("text", base_url="http://127.0.0.1:9/v1")
    assert "123" not in str(error.value)


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory):
    """The address of a server with a certificate that nobody vouches for."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout key -out cert"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with serving(openai_server(night, []), context) as url:
        yield url


@pytest.mark.parametrize(
    "server, cause",
    [
        ("http://127.0.0.1:9/v1", "refused"),
        ("http://no-such-host.invalid/v1", "Name or service not known|name resolution|nodename|getaddrinfo"),
        ("untrusted", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_a_hopeless_connection_fails_at_once_with_its_cause(tmp_path, request, monkeypatch, server, cause):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    url = request.getfixturevalue(server) if server == "untrusted" else server
    backend = OpenAIBackend("text", base_url=url, price=(1, 1), in_flight=1)
    pauses = []
    monkeypatch.setattr(backend.server, "pause", lambda attempt, *_: pauses.append(attempt))
    with pytest.raises(RuntimeError, match=f"no connection .*({cause})") as error:
        generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl")
    assert len(pauses) <= 1 and "\n" not in str(error.value)


def test_a_server_that_was_there_is_waited_for(tmp_path, monkeypatch):
    """It may only be restarting."""
    backend = OpenAIBackend("text", "http://127.0.0.1:9/v1", max_retries=4, in_flight=1, moderation=False)
    backend.server.reached = True
    pauses = []
    monkeypatch.setattr(backend.server, "pause", lambda attempt, *_: pauses.append(attempt))
    with pytest.raises(RuntimeError, match="no connection .*refused"):
        generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl")
    assert pauses == [0, 1, 2, 3]


# ---------------------------------------------------------------------------- speed, cost, faults


@pytest.mark.parametrize("in_flight, n", [(1, 4), (32, 128)])
def test_as_many_questions_as_asked_for_are_in_flight(tmp_path, in_flight, n):
    lock, waiting, most = threading.Lock(), 0, 0

    def slow(caption):
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        time.sleep(0.5)
        with lock:
            waiting -= 1
        return night(caption)

    with serving(openai_server(slow, [])) as url:
        backend = OpenAIBackend("text", base_url=url, in_flight=in_flight)
        backend.moderation.exists = False
        generate_triplets([f"a red cat {i}" for i in range(n)], backend, tmp_path / "t.jsonl", world=False)
    assert most == in_flight


def test_the_budget_is_never_passed_and_the_next_call_goes_on(tmp_path, capsys):
    requests = []
    with serving(openai_server(night, requests)) as url:
        options = dict(base_url=url, price=(1.0, 4.0), api="completions")
        backend = OpenAIBackend("text", max_cost=0.006, **options)
        counts = generate_triplets(CAPTIONS, backend, tmp_path / "t.jsonl")
        paid = sum(path == "/v1/completions" for path, *_ in requests) * (100 * 1.0 + 20 * 4.0) / 1e6
        assert 0 < counts["accepted"] < len(CAPTIONS) and "budget of $0.006" in capsys.readouterr().err
        assert paid == pytest.approx(backend.cost) and 0.003 < paid <= 0.006
        rest = generate_triplets(CAPTIONS, OpenAIBackend("text", **options), tmp_path / "t.jsonl")
    assert counts["accepted"] + rest["accepted"] == len(CAPTIONS) == len(set(lines(tmp_path / "t.jsonl")))


def test_every_caption_survives_a_bad_server(tmp_path):
    """Rate limits, server errors, half replies, hangs, garbage, dropped connections and flagged answers, on a
    schedule: every caption ends with one good triplet."""
    captions, did, times = [f"a red cat {i}" for i in range(60)], Counter(), Counter()

    def answer(caption):
        times[caption] += 1
        return "forbidden" if times[caption] == 1 and caption.endswith("7") else night(caption)

    def schedule(number):
        return FAULTS[number // 7 % len(FAULTS)] if number % 7 == 3 else None

    with serving(openai_server(answer, [], moderation=lambda text: "forbidden" in text)) as url:
        with serving(faulty(url, schedule, did)) as url:
            backend = OpenAIBackend("text", base_url=url, in_flight=8, timeout=1.0)
            counts = generate_triplets(captions, backend, tmp_path / "t.jsonl", world=False)
    assert all(did[fault] >= 2 for fault in FAULTS), f"the schedule was too short: {did}"
    assert sorted(lines(tmp_path / "t.jsonl")) == sorted(captions), "none lost, none repeated"
    assert (
        counts["accepted"] == 60 and 3 <= counts["flagged"] <= 6
    )  # of some the flagged answer was lost on the way
    assert counts.keys() <= {"accepted", "flagged", "unreadable reply"}


def import_client(url: str) -> None:
    """The client imports what it needs when it is needed first, which takes seconds."""
    os.environ["OPENAI_API_KEY"] = "a-secret-key"
    client = OpenAIBackend("text", base_url=url).server.client
    for name in ("completions", "chat", "moderations", "files", "batches"):
        getattr(client, name)


def a_job_at_a_bad_server(url: str):
    """The captions, eight questions in flight; for `survive`."""
    import_client(url)

    def job(folder: Path) -> None:
        backend = OpenAIBackend("text", base_url=url, in_flight=8, timeout=5.0)
        backend.server.pause = lambda attempt, stopped, seconds=None: time.sleep(0.01)
        generate_triplets(PLACES, backend, folder / "t.jsonl")

    return job


PLACES = [c.replace("a meadow", place) for place in ("a meadow", "a forest", "a city") for c in CAPTIONS]


@pytest.mark.soak
def test_20_kills_at_a_bad_server_lose_repeat_and_burn_nothing(tmp_path):
    """Every third reply is a passing fault; of the captions a filter of contents refuses the tents, and a
    moderation flags the robots and every other answer to an owl."""
    times, did, asked = Counter(), Counter(), Counter()
    refused = [c for c in PLACES if "tent" in c or "robot" in c]
    faults = [
        "429",
        "500",
        *(saying(200, PASSING[name]) for name in ("a page", "an empty answer", "no JSON")),
    ]

    def answer(caption):
        times[caption] += 1
        return f"no{DELIMITER}forbidden" if "owl" in caption and times[caption] % 2 else night(caption)

    class Filter(openai_server(answer, [], moderation=lambda t: "robot" in t or "forbidden" in t)):
        def completions(self, body):
            asked[body["prompt"].removesuffix("\n##\n")] += 1
            return (400, FILTERED) if "tent" in body["prompt"] else super().completions(body)

    def schedule(number):
        return faults[number // 3 % len(faults)] if number % 3 == 2 else None

    with serving(Filter) as url, serving(faulty(url, schedule, did)) as spoilt_url:
        survive(tmp_path, a_job_at_a_bad_server, kills=20, url=spoilt_url)
    assert all(did[fault] >= 20 for fault in faults), f"too few faults: {did}"
    undisturbed, killed = results(tmp_path)
    for folder in (undisturbed, *killed):
        accepted = lines(folder / "t.jsonl")
        given_up = (folder / "t.jsonl.given-up").read_text().splitlines()
        assert sorted(accepted) == sorted(set(PLACES) - set(refused)), "none lost, none repeated"
        assert sorted(given_up) == sorted(refused), "no other caption is burnt"
    assert not any("robot" in caption for caption in asked)


def test_retry_after_is_waited_for(tmp_path):
    moments = []

    def schedule(number):
        moments.append(time.perf_counter())
        return "429" if number == 0 else None

    with serving(openai_server(night, [])) as url, serving(faulty(url, schedule, Counter())) as url:
        backend = OpenAIBackend("text", base_url=url)
        backend.moderation.exists = False
        assert generate_triplets(CAPTIONS[:1], backend, tmp_path / "t.jsonl") == {"accepted": 1}
    assert 0.06 <= moments[1] - moments[0] < 0.4, "the server's 60 ms, not the client's own half second"


def test_the_budget_holds_whatever_form_the_question_takes_and_whatever_gets_lost(tmp_path):
    """A model that turns out to chat, whose answers may be eight times as long; replies cut off, which are
    paid all the same. What the server generated is counted at the server."""
    made = []

    def answer(caption):
        made.append(caption)
        return night(caption)

    schedules = {"chat": lambda number: None, "text": lambda number: "half" if number % 3 == 1 else None}
    for model, schedule in schedules.items():
        made.clear()
        with serving(openai_server(answer, [], moderation=lambda text: False)) as url:
            with serving(faulty(url, schedule, Counter())) as url:
                backend = OpenAIBackend(model, base_url=url, in_flight=8, price=(1.0, 4.0), max_cost=0.03)
                backend.moderation.exists = False
                generate_triplets(CAPTIONS, backend, tmp_path / f"{model}.jsonl")
        paid = len(made) * (100 * 1.0 + 20 * 4.0) / 1e6
        assert 0 < paid <= backend.cost + 1e-9 <= 0.03


@pytest.mark.parametrize("fault", [drip, drip_head])
def test_a_reply_that_drips_has_an_end(tmp_path, fault):
    begin = time.monotonic()
    with serving(faulty("nobody", lambda number: fault, Counter())) as url:
        backend = OpenAIBackend("text", base_url=url, timeout=1.0, max_retries=1)
        with pytest.raises(RuntimeError, match="timed out.*run the same command again"):
            generate_triplets(CAPTIONS[:4], backend, tmp_path / "t.jsonl")
    assert time.monotonic() - begin < 6, "two tries of a second each"


def test_a_reply_without_end_is_one_rejected_answer(tmp_path):
    sent = []

    def fault(handler):
        endless(handler)
        sent.append(handler.sent)

    with serving(openai_server(night, [])) as url:
        with serving(faulty(url, lambda number: fault if number == 0 else None, Counter())) as url:
            backend = OpenAIBackend("text", base_url=url, in_flight=1)
            backend.moderation.exists = False
            counts = generate_triplets(CAPTIONS[:4], backend, tmp_path / "t.jsonl")
    assert counts == {"accepted": 4, "unreadable reply": 1}
    assert sent[0] < 64 << 20, "the connection was cut"


def stop(tmp_path, url, arrived, pause: float = 0.3):
    """Ctrl-C for a job, once 32 requests have `arrived()` at the server: (its exit status, seconds, what it
    said)."""
    places = ("in a meadow", "in a forest", "in a city", "in the desert", "on a beach")
    (tmp_path / "c.txt").write_text(
        "\n".join(c.replace("in a meadow", place) for place in places for c in CAPTIONS)
    )
    files = ["--captions", tmp_path / "c.txt", "--out", tmp_path / "t.jsonl"]
    server = ["--backend", "openai", "--model", "text", "--base-url", url]
    job = [sys.executable, "-m", "ip2p.cli", "instructions", *files, *server]
    process = subprocess.Popen(job, stderr=subprocess.PIPE, text=True)
    try:
        while arrived() < 32:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        time.sleep(pause)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        return process.returncode, time.monotonic() - begin, said
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("fault", [hold, drip, "500", "drop"])
def test_ctrl_c_ends_the_job_within_two_seconds(tmp_path, fault):
    """32 questions in flight, at a server that holds them, drips, or has each asked again and again."""
    requests = []

    def schedule(number):
        requests.append(number)
        return fault

    with serving(faulty("nobody", schedule, Counter())) as url:
        status, seconds, said = stop(tmp_path, url, lambda: len(requests))
    assert status == 130 and seconds < 2, f"{seconds:.2f} s"
    assert (
        "no new questions; waiting 0.4 s for the 32 on their way" in said
        and "the same command goes on" in said
    )
    assert "Traceback" not in said
    print(f"Ctrl-C to exit, {getattr(fault, '__name__', fault)}: {seconds:.2f} s")


def test_answers_that_come_soon_after_ctrl_c_are_kept_and_nothing_more_is_asked(tmp_path):
    requests = []
    with serving(openai_server(night, requests, latency=0.2)) as url:

        def paid():
            return sum(path == "/v1/completions" for path, *_ in requests)

        status, seconds, said = stop(tmp_path, url, paid, pause=0.0)
    assert status == 130 and seconds < 2
    assert 16 <= len(lines(tmp_path / "t.jsonl")) <= paid() < 5 * len(CAPTIONS), said


# ---------------------------------------------------------------------------- the key, and what a server says

KEY = "sk-a/secret+key=="
ECHOES = [KEY, urllib.parse.quote(KEY, safe=""), KEY.upper(), base64.b64encode(KEY.encode()).decode()]


def told_nothing(capsys, *files):
    """What was printed, in which the key is not, nor in these files."""
    printed = "".join(capsys.readouterr())
    for text in (printed, *(path.read_text() for path in files if path.exists())):
        for form in ECHOES:
            assert form.lower() not in text.lower()
    return printed


def ask_for(tmp_path, url, *more):
    """`ip2p instructions`, all the way from the command line."""
    (tmp_path / "c.txt").write_text("\n".join(CAPTIONS[:4]))
    return main(
        [
            "instructions",
            "--captions",
            str(tmp_path / "c.txt"),
            "--out",
            str(tmp_path / "t.jsonl"),
            "--base-url",
            url,
            *more,
        ]
    )


@pytest.mark.parametrize("status", [200, 400, 401, 404, 418])
@pytest.mark.parametrize("form", ['{"error": {"message": "no: %s"}}', "<html>\n%s\n</html>", '{"%s": 1}'])
def test_a_server_that_echoes_the_key_does_not_get_it_printed(tmp_path, monkeypatch, capsys, status, form):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reply = saying(status, (form % " ".join(ECHOES)).encode())
    with serving(openai_server(night, [])) as url:
        with serving(faulty(url, lambda number: reply if number % 2 else None, Counter())) as url:
            status = ask_for(tmp_path, url, "--backend", "openai", "--model", "text", "--in-flight", "1")
    told_nothing(capsys, tmp_path / "t.jsonl")


def test_an_answer_that_holds_the_key_is_not_written_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(openai_server(lambda caption: f"write {KEY}{DELIMITER}{caption} with {KEY}", [])) as url:
        generate_triplets(
            CAPTIONS[:2], OpenAIBackend("text", base_url=url), tmp_path / "t.jsonl", world=False
        )
    assert len(lines(tmp_path / "t.jsonl")) == 2
    told_nothing(capsys, tmp_path / "t.jsonl")


@pytest.mark.parametrize("case", ["failed", "cancelled", "answered nothing", "does not know", "moderation"])
def test_a_batch_whose_server_echoes_the_key_does_not_get_it_printed(tmp_path, monkeypatch, capsys, case):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = f"no {' '.join(ECHOES)} here"
    options = {
        "failed": dict(batch_status=["failed"]),
        "cancelled": dict(batch_status=["cancelled"]),
        "answered nothing": dict(
            results=lambda data: b"".join(
                json.dumps(
                    {
                        "custom_id": json.loads(line)["custom_id"],
                        "response": {"status_code": 500},
                        "error": {"message": said},
                    }
                ).encode()
                + b"\n"
                for line in data.splitlines()
            )
        ),
    }.get(case, {})

    class Echo(openai_server(night, [], said=said, **options)):
        def do_GET(self):
            if case != "does not know" or "/batches/" not in self.path:
                return super().do_GET()
            return self.reply(404, json.dumps({"error": {"message": said}}).encode())

        def moderations(self, body):
            return (403, {"error": {"message": said}}) if case == "moderation" else None

    with serving(Echo) as url:
        status = ask_for(tmp_path, url, "--backend", "batch", "--model", "chat")
    assert status == (0 if case == "moderation" else 1)
    printed = told_nothing(capsys)
    assert "no *** *** *** *** here" in printed and printed.count("\n") <= 4
    assert case in printed or case == "moderation"


def hasty(backend):
    """A backend that does not wait between its tries."""
    backend.server.pause = lambda attempt, stopped, seconds=None: None
    return backend


NOTHING = {
    "no results": {"results": []},
    "too few": {"results": [{"flagged": False}]},
    "an empty object": {},
    "no object": [],
    "null": None,
    "results of null": {"results": None},
    "no word": {"results": 2 * [{}]},
    "null words": {"results": 2 * [{"flagged": None}]},
    "too many": {"results": 9 * [{"flagged": False}]},
}


@pytest.mark.parametrize("reply", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("backend", ["openai", "batch"])
def test_moderation_without_a_clear_word_takes_nothing_as_harmless(tmp_path, reply, backend):
    requests = []

    class Mute(openai_server(night, requests)):
        def moderations(self, body):
            return 200, reply

    out = tmp_path / "t.jsonl"
    with serving(Mute) as url:
        options = dict(base_url=url, max_retries=2)
        worker = (
            hasty(OpenAIBackend("text", **options))
            if backend == "openai"
            else hasty(BatchBackend("chat", tmp_path / "state", **options))
        )
        if backend == "openai" and reply == NOTHING["too few"]:  # a single question has a single result
            reply = {"results": []}
        with pytest.raises(RuntimeError, match="no clear word"):
            generate_triplets(CAPTIONS[:2], worker, out)
    assert lines(out) == [] and {path for path, *_ in requests} == {"/v1/moderations"}, "nothing was asked"


def test_moderation_that_falls_silent_lets_no_answer_through(tmp_path):
    class Falling(openai_server(night, [])):
        def moderations(self, body):
            harmless = {"flagged": False, "categories": {}, "category_scores": {}}
            return {"results": [harmless] if "make it" not in body["input"][0] else []}

    with serving(Falling) as url, pytest.raises(RuntimeError, match="no clear word"):
        generate_triplets(
            CAPTIONS[:2], hasty(OpenAIBackend("text", base_url=url, max_retries=1)), tmp_path / "t.jsonl"
        )
    assert lines(tmp_path / "t.jsonl") == []


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422, 501])
def test_a_route_that_is_not_for_us_is_no_moderation_and_said_once(tmp_path, capsys, status):
    class Closed(openai_server(night, [])):
        def moderations(self, body):
            return status, {"error": {"message": "not for you"}}

    with serving(Closed) as url:
        counts = generate_triplets(CAPTIONS, OpenAIBackend("text", base_url=url), tmp_path / "t.jsonl")
    said = capsys.readouterr().err
    assert counts == {"accepted": 32} and said.count(NO_MODERATION) == 1
    assert ("not for you" in said) == (status in (400, 403, 422))


def test_a_route_that_politely_is_not_there_is_no_moderation(tmp_path, capsys):
    class Polite(openai_server(night, [])):
        def moderations(self, body):
            return 200, {"error": "Unexpected endpoint or method. (POST /v1/moderations)"}

    with serving(Polite) as url:
        assert generate_triplets(
            CAPTIONS, hasty(OpenAIBackend("text", base_url=url)), tmp_path / "t.jsonl"
        ) == {"accepted": 32}
    assert capsys.readouterr().err.count(NO_MODERATION) == 1


# ---------------------------------------------------------------------------- the Batch API


def batch_run(url, tmp_path, **options):
    backend = BatchBackend("chat", tmp_path / "state", seconds=0.01, base_url=url, **options)
    return backend, generate_triplets(CAPTIONS, backend, tmp_path / "t.jsonl")


def test_a_batch_asks_everything_at_once_and_again_what_was_rejected(tmp_path):
    requests, times = [], Counter()

    def answer(caption):
        times[caption] += 1
        return "no answer" if times[caption] == 1 and "owl" in caption else night(caption)

    with serving(openai_server(answer, requests)) as url:
        backend, counts = batch_run(url, tmp_path, price=(1.0, 4.0))
    assert counts == {"accepted": 32, "malformed": 4} and sorted(lines(tmp_path / "t.jsonl")) == sorted(
        CAPTIONS
    )
    assert [path for path, *_ in requests].count("/v1/batches") == 2 and not (tmp_path / "state").exists()
    assert backend.cost == pytest.approx(36 * 180e-6 / 2), "at half the price"


def test_a_refused_batch_is_said_so_and_can_be_submitted_again(tmp_path):
    requests = []
    with serving(openai_server(night, requests, batch_status=["failed"])) as url:
        with pytest.raises(RuntimeError, match="failed: too many tokens in the queue"):
            batch_run(url, tmp_path)
        _, counts = batch_run(url, tmp_path)
    assert counts == {"accepted": 32} and [path for path, *_ in requests].count("/v1/batches") == 2


def test_a_batch_that_answers_nothing_ends_in_a_sentence_and_gives_nothing_up(tmp_path):
    requests = []
    with serving(openai_server(night, requests, refuse="a ")) as url:
        with pytest.raises(RuntimeError, match="answered nothing .*too long"):
            batch_run(url, tmp_path)
    assert [path for path, *_ in requests].count("/v1/batches") == 1
    assert not (tmp_path / "t.jsonl.given-up").exists() and not (tmp_path / "state").exists()


def test_answers_that_were_not_wanted_yet_are_kept_for_the_next_run(tmp_path, monkeypatch):
    requests = []
    with serving(openai_server(night, requests)) as url:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(BatchBackend, "poll", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
            batch_run(url, tmp_path)
        backend = BatchBackend("chat", tmp_path / "state", seconds=0.01, base_url=url)
        assert generate_triplets(CAPTIONS, backend, tmp_path / "t.jsonl", n=5)["accepted"] == 5
        batch_run(url, tmp_path)
    assert (
        len(lines(tmp_path / "t.jsonl")) == 32 and [path for path, *_ in requests].count("/v1/batches") == 1
    )


@pytest.mark.parametrize("moment", ["submitted", "noted", "read"])
def test_a_stopped_batch_job_finds_its_batch_and_pays_nothing_twice(tmp_path, monkeypatch, moment):
    class Killed(BaseException):
        pass

    requests = []
    with serving(openai_server(night, requests)) as url:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            if moment == "submitted":  # before its id could be noted
                write_note = BatchBackend.write_note

                def killed_before_the_id(self, **values):
                    if "id" in values:
                        raise Killed
                    write_note(self, **values)

                patch.setattr(BatchBackend, "write_note", killed_before_the_id)
            elif moment == "noted":
                patch.setattr(BatchBackend, "poll", lambda *_: (_ for _ in ()).throw(Killed))
            else:
                settled = []
                settle = Budget.settle

                def killed_after_ten(self, worst_cost, cost):
                    if len(settled) == 10:
                        raise Killed
                    settled.append(cost)
                    settle(self, worst_cost, cost)

                patch.setattr(Budget, "settle", killed_after_ten)
            batch_run(url, tmp_path)
        assert len(lines(tmp_path / "t.jsonl")) == (10 if moment == "read" else 0)
        batch_run(url, tmp_path)
    assert sorted(lines(tmp_path / "t.jsonl")) == sorted(CAPTIONS)
    assert [path for path, *_ in requests].count("/v1/batches") == 1


def a_batch_job(url: str):
    """All captions by batches of five; for `survive`."""
    BatchBackend.limit = 5
    import_client(url)

    def job(folder: Path) -> None:
        backend = BatchBackend(folder.name, folder / "state", seconds=0.01, base_url=url, moderation=False)
        generate_triplets(CAPTIONS, backend, folder / "t.jsonl")

    return job


@pytest.mark.soak
def test_50_kills_of_a_batch_job_lose_nothing_and_pay_nothing_twice(tmp_path):
    """The name of the model says in which folder the job works."""
    requests = []
    with serving(openai_server(night, requests)) as url:
        survive(tmp_path, a_batch_job, kills=50, url=url)
    paid = Counter()
    for path, _, body in requests:
        if path == "/v1/files":
            uploaded = [json.loads(line) for line in body.splitlines() if line.startswith(b'{"custom_id"')]
        if path == "/v1/batches":
            paid.update((row["body"]["model"], row["custom_id"]) for row in uploaded)
    undisturbed, killed = results(tmp_path)
    for folder in (undisturbed, *killed):
        assert sorted(lines(folder / "t.jsonl")) == sorted(CAPTIONS)
        assert {paid[folder.name, BatchBackend.name(caption)] for caption in CAPTIONS} == {1}


def spoilt(line):
    """The seventh line of the results becomes this."""

    def results(data):
        rows = data.splitlines()
        rows[6] = line(rows[6])
        return b"\n".join(rows)

    return results


BAD_LINES = {
    "half a line": lambda line: line[: len(line) // 2],
    "a page": lambda line: b"<!doctype html>\n<html>\n<body>502 Bad Gateway</body>\n</html>",
    "no custom_id": lambda line: json.dumps({"response": json.loads(line)["response"]}).encode(),
    "a custom_id that is none": lambda line: json.dumps(json.loads(line) | {"custom_id": [1]}).encode(),
    "no object": lambda line: b"[]",
    "a number": lambda line: b"5",
    "no text": lambda line: b"\xff\xfe\x00",
    "a thousand brackets": lambda line: b"[" * 100_000,
}
BAD_REPLIES = {
    "a reply that is a text": lambda line: json.dumps(json.loads(line) | {"response": "hello"}).encode(),
    "a body that is a list": lambda line: line.replace(b'"body": {', b'"body": [], "was": {'),
    "an error that is a text": lambda line: json.dumps(
        {"custom_id": json.loads(line)["custom_id"], "error": "hello"}
    ).encode(),
    "usage that is a text": lambda line: line.replace(b'"choices": [{', b'"choices": [0, {').replace(
        b'"usage": {', b'"usage": "much", "was": {'
    ),
}


@pytest.mark.parametrize("name", [*BAD_LINES, *BAD_REPLIES])
def test_a_bad_line_in_the_results_is_one_reject_and_the_rest_is_used(tmp_path, name):
    requests, files = [], []

    def results(data):
        files.append(data)
        return spoilt((BAD_LINES | BAD_REPLIES)[name])(data) if len(files) == 1 else data

    with serving(openai_server(night, requests, results=results)) as url:
        backend, counts = batch_run(url, tmp_path, price=(1.0, 4.0))
    assert counts.pop("accepted") == 32 == len(set(lines(tmp_path / "t.jsonl"))) and counts.total() == 1, (
        counts
    )
    assert [path for path, *_ in requests].count("/v1/batches") == 2 and not (tmp_path / "state").exists()
    assert len(files[1].splitlines()) == 1, "only that question was asked, and paid, again"
    if name in BAD_LINES:
        assert counts == {"unreadable line": 1}


def test_results_that_are_a_page_are_read_again_before_anything_is_paid_again(tmp_path):
    requests, page = [], ["a page"]

    def results(data):
        return b"<html>\n<body>502 Bad Gateway</body>\n</html>" if page else data

    with serving(openai_server(night, requests, results=results)) as url:
        with pytest.raises(
            RuntimeError, match="results of batch batch-0 are unreadable; run the same command again"
        ):
            batch_run(url, tmp_path)
        page.clear()
        _, counts = batch_run(url, tmp_path)
        assert counts == {"accepted": 32} and [path for path, *_ in requests].count("/v1/batches") == 1


def test_results_that_stay_a_page_do_not_stop_every_rerun(tmp_path):
    requests, files = [], set()

    def results(data):
        files.add(data)
        return b"<html>\n" * 40 if len(files) == 1 else data

    with serving(openai_server(night, requests, results=results)) as url:
        with pytest.raises(RuntimeError, match="are unreadable"):
            batch_run(url, tmp_path)
        _, counts = batch_run(url, tmp_path)
    assert counts == {"accepted": 32, "unreadable line": 32}
    assert [path for path, *_ in requests].count("/v1/batches") == 2


def test_a_note_that_is_not_ours_is_left_alone(tmp_path):
    for text in ("my notes", '{"my": "notes"}', "[]"):
        (tmp_path / "state").write_text(text)
        with (
            serving(openai_server(night, [])) as url,
            pytest.raises(ValueError, match="does not say which batch"),
        ):
            batch_run(url, tmp_path)
        assert (tmp_path / "state").read_text() == text


# ---------------------------------------------------------------------------- a real model, really served


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """SmolLM2, fine-tuned briefly, behind `transformers serve`; yields its folder and the server's URL."""
    folder = tmp_path_factory.mktemp("served") / "tuned"
    model, tokenizer = local.load()
    finetune(model, tokenizer, read_triplets(SEED_TRIPLETS)[:256], epochs=1)
    local.save(model, tokenizer, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(folder.parent / "log", "w")
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            str(folder),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--dtype",
            "float32",
            "--device",
            "cpu",
        ],
        stdout=log,
        stderr=log,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
                break
            except OSError:
                assert process.poll() is None, (folder.parent / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield str(folder), f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        log.close()


def test_a_served_model_answers_as_well_as_in_this_process(served, tmp_path):
    """Greedily, the same words; the server behind a proxy that spoils some replies, it makes no
    difference."""
    folder, url = served
    captions = read_captions(SEED_TRIPLETS.parents[1] / "captions" / "mini.txt")[-12:]
    here = dict(
        zip(
            captions,
            generate(
                *local.load(folder),
                captions,
                temperature=0,
                frequency_penalty=0.0,
                max_new_tokens=64,
            ),
            strict=True,
        )
    )
    there, did = {}, Counter()
    options = dict(temperature=0, frequency_penalty=0.0, max_tokens=64)
    with serving(
        faulty(url, lambda number: FAULTS[number // 4] if number % 4 == 1 and number < 12 else None, did)
    ) as spoilt:
        backend = OpenAIBackend(folder, base_url=spoilt, in_flight=2, timeout=60.0, **options)
        generate_triplets(
            captions,
            backend,
            tmp_path / "t.jsonl",
            retries=0,
            callback=lambda caption, answer, _: there.update({caption: answer}),
        )
    assert did["429"] and did["500"] and did["half"] and set(there) == set(captions)
    same = sum(from_or_none(c, here[c]) == from_or_none(c, there[c]) for c in captions)
    assert same >= 11, f"{same} of 12 answers are the same"
    formed = [t for c in captions if (t := from_or_none(c, there[c]))]
    assert len(formed) >= 9, "a fine-tuned model knows the form"
    assert [t for t in formed if check(t) is None] == read_triplets(tmp_path / "t.jsonl") or len(formed) == 12


def test_a_batch_takes_no_more_steps_than_its_longest_answer():
    model, tokenizer = local.load()
    captions = read_captions(SEED_TRIPLETS.parents[1] / "captions" / "mini.txt")[-32:]
    batches = []
    hook = model.register_forward_pre_hook(
        lambda model, _, inputs: batches.append(len(inputs["input_ids"])), with_kwargs=True
    )
    generate(model, tokenizer, captions, batch_size=32, max_new_tokens=8)
    hook.remove()
    assert len(batches) <= 8 and set(batches) == {32}


def from_or_none(caption, answer):
    try:
        return from_completion(caption, answer)
    except ValueError:
        return None


def test_examples_are_shown_in_the_authors_form():
    assert to_prompt("a cat", [BLUE]).startswith(to_prompt(BLUE["input"]) + to_completion(BLUE))


# ---------------------------------------------------------------------------- what servers say in other words


def ask(tmp_path, handler, captions=CAPTIONS[:2], model="text", **options):
    """(counts, backend) of a run against a server of this handler."""
    with serving(handler) as url:
        backend = hasty(OpenAIBackend(model, base_url=url, **options))
        backend.moderation.exists = False
        return generate_triplets(captions, backend, tmp_path / "t.jsonl"), backend


def choosing(choice):
    """A handler whose every completion has this choice, made of the caption."""

    class Choosing(openai_server(night, [])):
        def completions(self, body):
            caption = body["prompt"].removesuffix("\n##\n").split("\n")[-1]
            return 200, {"choices": [choice(caption)]}

    return Choosing


FORMS = {
    "thoughts": lambda c: f"<think>\nIt could be night.\n%%\n</think>\n\n{night(c)}",
    "thoughts that begin in the prompt": lambda c: f"Let us see.</think>{night(c)}",
    "fenced JSON": lambda c: (
        "```json\n" + json.dumps({"edit": "make it night", "output": c + " at night"}) + "\n```"
    ),
    "JSON and a word": lambda c: (
        json.dumps({"edit": "make it night", "output": c + " at night"}) + "\nEnjoy!"
    ),
    "a fence": lambda c: f"```\n{night(c)}\n```",
    "other line ends": lambda c: night(c).replace("\n", "\r\n"),
    "line ends of old": lambda c: night(c).replace("\n", "\r"),
    "parts": lambda c: [{"type": "text", "text": night(c)[:9]}, {"type": "text", "text": night(c)[9:]}],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_good_answer_is_read_in_whichever_form(tmp_path, form):
    handler = choosing(lambda caption: {"message": {"content": form(caption)}, "finish_reason": "stop"})
    counts, _ = ask(tmp_path, handler)
    assert counts == {"accepted": 2}
    assert {t["output"] for t in read_triplets(tmp_path / "t.jsonl")} == {
        f"{c} at night" for c in CAPTIONS[:2]
    }


@pytest.mark.parametrize("form", ["plain", "JSON in JSON", "two parts"])
def test_half_of_a_surrogate_pair_does_not_stop_the_job(tmp_path, form):
    def content(caption):
        if form == "plain":
            return f"add a \ud83d sign{DELIMITER}{caption} and a sign"
        if form == "JSON in JSON":
            return json.dumps({"edit": "add a \ud83d sign", "output": f"{caption} and a sign"})
        return [{"text": "add a \ud83d"}, {"text": f"\ude00 sign{DELIMITER}{caption} and a sign"}]

    class Moderated(choosing(lambda caption: {"message": {"content": content(caption)}})):
        pass

    with serving(Moderated) as url:
        backend = hasty(OpenAIBackend("text", base_url=url))
        counts = generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl", world=False)
    assert counts == {"accepted": 2}
    edit = read_triplets(tmp_path / "t.jsonl")[0]["edit"]
    assert edit == ("add a \U0001f600 sign" if form == "two parts" else "add a \ufffd sign")


def refusing(refused: dict, field: str):
    """A handler that takes no `field`, and says so with this reply (status, body)."""
    status, body = refused["status"], refused["body"]
    requests = []

    class Refusing(openai_server(night, requests)):
        def do_POST(self):
            data = self.body()
            if field in json.loads(data):
                return self.reply(status, body)
            self.rfile = io.BytesIO(data)
            return super().do_POST()

    return Refusing


REFUSALS = {
    "a bare text": (400, b"Unsupported option stop"),
    "an error that is a text": (400, b'{"error": "Argument not supported on this model: stop"}'),
    "detail": (422, b'{"detail": "stop is not a permitted parameter"}'),
    "a loc": (
        422,
        b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "stop"], "msg": "Extra inputs"}]}',
    ),
    "a list": (400, b'[{"loc": ["stop"], "msg": "extra fields not permitted"}]'),
    "after a line end": (400, b'{"message": "not allowed:\\nstop"}'),
    "a param that is a list": (400, b'{"error": {"message": "unknown: stop", "param": ["stop"]}}'),
}


@pytest.mark.parametrize("status, body", REFUSALS.values(), ids=REFUSALS)
def test_an_option_that_a_server_refuses_in_its_own_words_is_left_out(tmp_path, status, body):
    counts, backend = ask(tmp_path, refusing({"status": status, "body": body}, "stop"))
    assert counts == {"accepted": 2} and backend.refused == {"stop"}


def test_a_refusal_without_a_name_is_shown_as_the_server_said_it(tmp_path):
    with pytest.raises(RuntimeError, match="the moon is not full"):
        ask(tmp_path, refusing({"status": 400, "body": b'{"detail": "the moon is not full"}'}, "prompt"))


def test_a_word_in_a_refusal_of_a_caption_takes_no_option_from_the_others(tmp_path):
    counts, backend = ask(tmp_path, openai_server(night, [], refuse="tent"), CAPTIONS, in_flight=1)
    assert counts["accepted"] == 28 and counts["given up"] == 4
    assert backend.refused == set(), "'too long, stop' is about the caption"


FILTERED = {"error": {"message": "The response was filtered", "param": "prompt", "code": "content_filter"}}


@pytest.mark.parametrize(
    "captions", [CAPTIONS, [c for c in CAPTIONS if "tent" in c]], ids=["all", "only those"]
)
def test_a_caption_that_a_content_filter_refuses_is_a_reject(tmp_path, captions):
    class Filter(openai_server(night, [])):
        def completions(self, body):
            return (400, FILTERED) if "tent" in body["prompt"] else super().completions(body)

    counts, _ = ask(tmp_path, Filter, captions)
    assert counts["flagged caption"] == counts["given up"] == 4 and counts["accepted"] == len(captions) - 4


def test_a_content_filter_is_a_reject_in_a_batch_too(tmp_path):
    def results(data):
        rows = [json.loads(line) for line in data.splitlines()]
        for row in rows:
            row["response"] = {"status_code": 400, "body": FILTERED}
        return b"\n".join(json.dumps(row).encode() for row in rows)

    with serving(openai_server(night, [], results=results)) as url:
        _, counts = batch_run(url, tmp_path)
    assert counts == {"flagged caption": 32, "given up": 32}


PASSING = {
    "an error": b'{"error": {"message": "overloaded"}}',
    "an error that is a text": b'{"error": "overloaded"}',
    "a page": b"<html>\n<body>502 Bad Gateway</body>\n</html>",
    "no choices": b'{"choices": []}',
    "an empty answer": b'{"choices": [{"text": "", "finish_reason": "stop"}]}',
    "blanks": b'{"choices": [{"message": {"content": " \\n"}, "finish_reason": "stop"}]}',
    "nothing": b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    "no JSON": b"",
    "a thousand brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_a_success_that_is_none_is_asked_again(tmp_path, reply):
    """Five times in a row: more often than a rejected answer is asked for again."""
    with serving(openai_server(night, [])) as url:
        schedule = lambda number: saying(200, reply) if 0 < number < 6 else None  # noqa: E731
        counts, _ = ask(tmp_path, faulty(url, schedule, Counter()), in_flight=1)
    assert counts == {"accepted": 2}


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_a_server_that_never_answers_ends_the_run_and_nothing_is_given_up(tmp_path, reply):
    with pytest.raises(RuntimeError, match="no answer from 'text'.*run the same command again"):
        ask(tmp_path, faulty("nobody", lambda number: saying(200, reply), Counter()), max_retries=2)
    assert not (tmp_path / "t.jsonl.given-up").exists()


def test_a_caption_that_only_gets_empty_answers_is_left_for_the_next_run(tmp_path):
    handler = choosing(lambda c: {"text": "" if "owl" in c else night(c), "finish_reason": "stop"})
    counts, _ = ask(tmp_path, handler, CAPTIONS, in_flight=1, max_retries=1)
    assert counts == {"accepted": 28, "empty answer": 16}
    assert not (tmp_path / "t.jsonl.given-up").exists()


def test_empty_answers_are_paid(tmp_path):
    """Two of the first question, whose usage says what they cost, and one that is good."""
    times = Counter()

    def answer(caption):
        times[caption] += 1
        return "" if times[caption] < 3 else night(caption)

    class Empty(openai_server(answer, [])):
        def completions(self, body):
            reply = super().completions(body)
            reply["choices"][0]["text"] = reply["choices"][0]["text"].strip()
            return reply

    counts, backend = ask(tmp_path, Empty, CAPTIONS[:1], price=(1.0, 4.0), max_cost=1.0)
    assert counts == {"accepted": 1} and backend.cost == pytest.approx(3 * 180e-6)
    assert backend.budget.reserved == pytest.approx(0)


ODD_ANSWERS = {
    "deep JSON": {"text": '{"edit":' * 5000, "finish_reason": "stop"},
    "deep brackets": {"text": '{"edit": ' + "[" * 100_000, "finish_reason": "stop"},
    "JSON of numbers": {"text": '{"edit": 1, "output": 2}', "finish_reason": "stop"},
    "a number": {"text": 5},
    "a message that is a text": {"message": "hello"},
}


@pytest.mark.parametrize("choice", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_odd_answers_are_rejects_and_no_end(tmp_path, choice):
    counts, _ = ask(tmp_path, choosing(lambda c: choice if "red" in c else {"text": night(c)}))
    assert counts["accepted"] == 1 and counts["malformed"] + counts["unreadable reply"] == 4


@pytest.mark.parametrize(
    "usage", ["much", ["a"], {"prompt_tokens": "a"}, {"prompt_tokens": 10**400}, None, 5]
)
def test_a_usage_record_of_another_type_counts_as_the_worst_cost(tmp_path, usage):
    class Odd(openai_server(night, [])):
        def completions(self, body):
            return super().completions(body) | {"usage": usage}

    counts, backend = ask(tmp_path, Odd, api="completions", price=(1.0, 4.0), max_cost=1.0)
    assert counts == {"accepted": 2}
    assert backend.cost == pytest.approx(sum(map(backend.worst_cost, CAPTIONS[:2])))


def once(reply):
    """Servers that spoil one reply, with headers like Retry_After."""
    return lambda url: faulty(url, lambda number: reply if number == 0 else None, Counter())


def replying(status: int, data: bytes = b"{}", **headers):
    return lambda handler: handler.reply(status, data, **headers)


def writing(data: bytes):
    """What is no HTTP, or only the beginning of it."""
    return lambda handler: handler.wfile.write(data)


SPOILT_ONCE = {
    "a date of no calendar": replying(429, Retry_After="Fri, 31 Dec 99999 23:59:59 GMT"),
    "a pause of nan": replying(429, Retry_After="nan"),
    "a pause in words": replying(429, Retry_After="soon"),
    "a pause without end": replying(429, Retry_After_Ms="1e400"),
    "a pause that is over": replying(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
    "a conflict": replying(409),
    "a time-out": replying(408, b"<html>"),
    "a status of nobody": replying(599, b"?"),
    "no content": replying(204, b""),
    "no gzip": replying(200, b"no gzip", Content_Encoding="gzip"),
    "events": replying(200, b'data: {"choices": [{"text": "x"}]}\n\n', Content_Type="text/event-stream"),
    "a long header": replying(200, X_Long="a" * 200_000),
    "a length that is wrong": replying(200, b'{"choices": []}', Content_Length="3"),
    "no HTTP": writing(b"hello\r\n\r\n"),
    "no number of a chunk": writing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a list": saying(200, b"[]"),
    "null": saying(200, b"null"),
    "a number": saying(200, b"5"),
    "a text": saying(200, b'"text"'),
    "Latin-1": saying(200, b'{"choices": [{"text": "caf\xe9"}]}'),
    "a number of 5,000 digits": saying(200, b'{"choices": [{"text": ' + b"9" * 5000 + b"}]}"),
}


@pytest.mark.parametrize("reply", SPOILT_ONCE.values(), ids=SPOILT_ONCE)
def test_a_reply_that_is_spoilt_once_costs_no_caption(tmp_path, reply):
    with serving(openai_server(night, [])) as url:
        counts, _ = ask(tmp_path, once(reply)(url), in_flight=1)
    assert counts == {"accepted": 2}


ODD_BODIES = {
    "choices by name": {"choices": {"0": {"text": "x"}}},
    "choices that are a text": {"choices": "abc"},
    "choices of null": {"choices": [None]},
    "choices of lists": {"choices": [[]]},
    "a number of choices": {"choices": 5},
    "a text that is an object": {"choices": [{"text": {"a": 1}}]},
    "a text that is true": {"choices": [{"text": True}]},
    "a text that is NaN": {"choices": [{"text": float("nan")}]},
    "parts without text": {"choices": [{"message": {"content": [{"type": "image"}, {"text": "no answer"}]}}]},
    "a usage below zero": {
        "choices": [{"text": "x"}],
        "usage": {"prompt_tokens": -5, "completion_tokens": 1},
    },
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
def test_a_reply_of_an_odd_form_is_one_reject_and_never_cheaper_than_it_can_be(tmp_path, body):
    with serving(openai_server(night, [])) as url:
        handler = once(saying(200, json.dumps(body).encode()))(url)
        counts, backend = ask(tmp_path, handler, in_flight=1, price=(1.0, 4.0), api="completions")
    assert counts.pop("accepted") == 2 and counts.total() == 1
    assert backend.cost > 2 * 180e-6 + backend.worst_cost(CAPTIONS[0]) / 2


HOPELESS = {
    "pay first": replying(402, b'{"error": {"message": "pay first"}}'),
    "not here": replying(403, b'{"error": {"message": "not in your country"}}'),
    "a page": replying(401, b"<html>no key</html>"),
    "too large": replying(413, b"too large"),
    "no media": replying(415, b'{"error": "unsupported media"}'),
    "no quota": replying(429, b'{"error": {"message": "no more quota", "code": "insufficient_quota"}}'),
    "not modified": replying(304, b""),
}


@pytest.mark.parametrize("reply", HOPELESS.values(), ids=HOPELESS)
def test_a_refusal_that_stays_is_one_sentence_at_once_and_gives_nothing_up(tmp_path, reply):
    asked = Counter()
    with pytest.raises(UserError, match="no answer from 'text' at .*; run the same command again") as error:
        ask(tmp_path, faulty("nobody", lambda number: reply, asked), in_flight=1)
    assert asked.total() == 1 and "\n" not in str(error.value)
    assert not (tmp_path / "t.jsonl.given-up").exists()


@pytest.mark.parametrize("path", ["", "/v1/v1", "/v1/completions", "/api"])
def test_an_address_with_another_path_says_what_to_try(tmp_path, path):
    with serving(openai_server(night, [])) as url:
        backend = OpenAIBackend("text", base_url=url.removesuffix("/v1") + path, moderation=False)
        with pytest.raises(UserError, match="404 .*check the address, which mostly ends in /v1"):
            generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl")


@pytest.mark.parametrize("echo", ["Authorization", "Host", "unquoted"])
def test_a_password_in_the_address_is_not_printed(tmp_path, monkeypatch, capsys, echo):
    def say(handler):
        said = "user:pa55/word" if echo == "unquoted" else str(handler.headers[echo])
        handler.reply(400, f"no: {said}".encode())

    with serving(faulty("nobody", lambda number: say, Counter())) as url:
        address = url.replace("http://", "http://user:pa55%2Fword@")
        assert ask_for(tmp_path, address, "--backend", "openai", "--model", "text") == 1
    printed = "".join(capsys.readouterr())
    encoded = base64.b64encode(b"user:pa55/word").decode()
    assert "no answer from" in printed
    assert not any(secret in printed for secret in ("pa55/word", "pa55%2Fword", encoded))


@pytest.mark.parametrize("query", ["?key=pa55word", "?api-version=1&api-key=pa55word"])
def test_an_address_with_a_key_in_it_is_refused_and_not_told(query):
    with pytest.raises(ValueError, match="must end before its .*OPENAI_API_KEY") as error:
        OpenAIBackend("text", base_url=f"http://127.0.0.1:9/v1{query}")
    assert "pa55word" not in str(error.value)


ODD_LETTERS = {
    "NUL": "\0",
    "an escape": "\x1b",
    "a bell": "\a",
    "from right to left": "\u202e",
    "an isolate": "\u2066",
    "a line end of Unicode": "\u2028",
    "a paragraph's end": "\u2029",
    "a line end of IBM": "\x85",
    "a form feed": "\f",
}


@pytest.mark.parametrize("letter", ODD_LETTERS.values(), ids=ODD_LETTERS)
def test_what_nobody_sees_gets_into_no_triplet(tmp_path, letter):
    handler = choosing(lambda c: {"text": f"make it{letter}night{DELIMITER}{c} at{letter}night"})
    counts, _ = ask(tmp_path, handler)
    assert counts == {"accepted": 2}
    text = (tmp_path / "t.jsonl").read_text()
    assert letter not in text and all(
        t["edit"].startswith("make it ") for t in read_triplets(tmp_path / "t.jsonl")
    )


def test_a_run_that_accepts_nothing_is_no_success(tmp_path, capsys):
    with serving(openai_server(lambda caption: "no answer", [])) as url:
        assert ask_for(tmp_path, url, "--backend", "openai", "--model", "text") == 1
        assert "no answer was accepted (malformed 16, given up 4)" in capsys.readouterr().err
        assert ask_for(tmp_path, url, "--backend", "openai", "--model", "text") == 1
