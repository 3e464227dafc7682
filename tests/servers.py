"""HTTP servers for the tests: one that speaks OpenAI's API and answers as a function says, and one that
stands in front of another and spoils some of its replies."""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler, certificate=None):
    """A server of this handler, with an SSL context by HTTPS; yields its URL, ending in /v1."""
    http = Quiet(("127.0.0.1", 0), handler)
    if certificate is not None:
        http.socket = certificate.wrap_socket(http.socket, server_side=True)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http{'' if certificate is None else 's'}://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that are gone."""

    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionError("the client was killed")
        return data

    def reply(self, status: int, data: bytes, **headers) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def openai_server(
    answer,
    requests: list,
    latency: float = 0.0,
    moderation=None,
    refuse: str | None = None,
    batch_status=(),
    said: str = "too many tokens in the queue",
    results=None,
):
    """A handler: `answer(caption)` is what the model writes. Models: "text"; "chat", which only chats and
    takes no temperature; "broken". `moderation(text)`: whether it is flagged (None: no such route). Captions
    with the word `refuse` are answered with 400. Batches are done at once, the first ones as `batch_status`
    says, with the message `said`. `results(data)`: what is handed out in place of a file with these results.
    Every request is noted as (path, key, body)."""
    files, batches, batch_status = {}, [], list(batch_status)
    too_long = 400, {"error": {"message": "this prompt is too long, stop", "param": None, "code": None}}

    def caption_of(body):
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        return prompt.removesuffix("\n##\n").split("\n")[-1]

    def complete(body):
        if refuse and refuse in caption_of(body):
            return too_long
        text = answer(caption_of(body))
        if "response_format" in body and "\n%%\n" in text:
            edit, output = text.split("\n%%\n")
            text = json.dumps({"edit": edit, "output": output})
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "text": text,
            "message": {"role": "assistant", "content": text},
        }
        return {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }

    class OpenAI(Handler):
        def do_POST(self):
            data = self.body()
            body = json.loads(data) if self.headers["Content-Type"] == "application/json" else data
            requests.append((self.path, self.headers["Authorization"], body))
            time.sleep(latency)
            route = getattr(self, self.path.removeprefix("/v1/").replace("/", "_"), None)
            out = None if route is None else route(body)
            if out is None:
                status, out = 404, {"error": {"message": "no such route"}}
            else:
                status, out = out if isinstance(out, tuple) else (200, out)
            self.reply(status, json.dumps(out).encode())

        def completions(self, body):
            if body["model"] == "broken":
                return 401, {
                    "error": {"message": "Incorrect API key", "param": None, "code": "invalid_api_key"}
                }
            if body["model"] == "chat":
                return 404, {"error": {"message": "This is a chat model", "param": "model", "code": None}}
            return complete(body)

        def chat_completions(self, body):
            if "temperature" in body:
                return 400, {
                    "error": {"message": "Unsupported", "param": "temperature", "code": "unsupported"}
                }
            return complete(body)

        def moderations(self, body):
            if moderation is None:
                return None
            return {
                "id": "m",
                "model": "m",
                "results": [
                    {"flagged": moderation(text), "categories": {}, "category_scores": {}}
                    for text in body["input"]
                ],
            }

        def files(self, data):
            boundary = data.split(b"\r\n", 1)[0]
            part = next(p for p in data.split(boundary) if b'name="file"' in p)
            files[f"file-{len(files)}"] = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            return {
                "id": f"file-{len(files) - 1}",
                "object": "file",
                "bytes": 1,
                "created_at": 0,
                "filename": "f",
                "purpose": "batch",
                "status": "processed",
            }

        def batches(self, body):
            batches.append(
                {
                    "id": f"batch-{len(batches)}",
                    "object": "batch",
                    "status": "completed",
                    "created_at": 0,
                    "completion_window": "24h",
                    **body,
                }
            )
            if batch_status:
                batches[-1] |= {
                    "status": batch_status.pop(0),
                    "errors": {"data": [{"code": "token_limit_exceeded", "message": said}]},
                }
                return batches[-1]
            rows = [json.loads(line) for line in files[body["input_file_id"]].splitlines()]
            replies = [(row["custom_id"], complete(row["body"])) for row in rows]
            for name, wanted in (("output_file_id", False), ("error_file_id", True)):
                lines = [
                    {
                        "custom_id": custom_id,
                        "response": {"status_code": 400, "body": reply[1]}
                        if wanted
                        else {"status_code": 200, "body": reply},
                    }
                    for custom_id, reply in replies
                    if isinstance(reply, tuple) == wanted
                ]
                if lines:
                    files[f"file-{len(files)}"] = b"".join(
                        json.dumps(line).encode() + b"\n" for line in lines
                    )
                    batches[-1][name] = f"file-{len(files) - 1}"
            return batches[-1]

        def do_GET(self):
            kind, _, name = self.path.removeprefix("/v1/").split("?")[0].partition("/")
            if kind == "batches" and name:
                return self.reply(200, json.dumps(next(b for b in batches if b["id"] == name)).encode())
            if kind == "batches":
                return self.reply(
                    200, json.dumps({"object": "list", "data": batches, "has_more": False}).encode()
                )
            data = files[name.removesuffix("/content")]
            return self.reply(200, results(data) if results else data)

    return OpenAI


FAULTS = ("429", "500", "half", "hang", "garbage", "drop")


def faulty(upstream: str, schedule, counts):
    """A handler that hands requests on to `upstream`, and spoils the reply as `schedule(number of the
    request)` says: one of FAULTS, None, or a function of the handler that replies. `counts` is a Counter of
    what it did."""
    lock, number = threading.Lock(), [0]

    class Faulty(Handler):
        def do_POST(self):
            data = self.body()
            with lock:
                fault, number[0] = schedule(number[0]), number[0] + 1
                counts[fault] += 1
            if callable(fault):
                fault(self)
                return self.close()
            if fault == "429":
                return self.reply(429, b'{"error": {"message": "slow down"}}', Retry_After_Ms="60")
            if fault == "500":
                return self.reply(500, b"oops", Retry_After_Ms="20")
            if fault == "hang":
                time.sleep(3)
                return self.close()
            if fault == "drop":
                return self.close()
            if fault == "garbage":
                return self.reply(200, b'{"choices": [{"te')
            request = urllib.request.Request(
                upstream.removesuffix("/v1") + self.path,
                data,
                {name: self.headers[name] for name in ("Content-Type", "Authorization")},
            )
            try:
                with urllib.request.urlopen(request) as reply:
                    status, data = reply.status, reply.read()
            except urllib.error.HTTPError as error:
                status, data = error.code, error.read()
            if fault == "half":
                self.reply(status, data[: len(data) // 2], Content_Length=str(len(data)))
                return self.close()
            return self.reply(status, data)

        def close(self):
            self.close_connection = True
            self.connection.close()

    return Faulty


def hold(handler) -> None:
    """Say nothing for a long time."""
    time.sleep(60)


def drip(handler) -> None:
    """The head of a reply, and then a byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    _for_ever(handler, b" ", 0.2)


def drip_head(handler) -> None:
    """A head that does not end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _for_ever(handler, b"x", 0.2)


def endless(handler) -> None:
    """A body that does not end, as fast as it can be read."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    _for_ever(handler, b" " * 65536, 0.0)


def _for_ever(handler, data: bytes, pause: float) -> None:
    handler.sent = 0
    with suppress(OSError):  # the client has hung up, as it should
        while handler.sent < 1 << 30:
            handler.wfile.write(data)
            handler.sent += len(data)
            time.sleep(pause)


def saying(status: int, data: bytes):
    """A fault: this reply."""
    return lambda handler: handler.reply(status, data)
