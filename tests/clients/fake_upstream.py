"""A small mirror under the tests' control.

It speaks both protocols: OpenAI under `/v1` (JSON, and server-sent events when asked to stream) and
the web chat under `/rest/app-chat` (lines of JSON behind a cookie). Answers are a function of the
question, so a test can tell whose turn it was; they leave in chunks of seven bytes, which cuts most
characters that are not ASCII in the middle. `fault` makes it misbehave from the next request on.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 7
MODELS = ["mirror-large", "mirror-small"]

# What `fault` may be; each is a way in which a real mirror fails.
FAULTS = (
    "empty",
    "error",
    "garbage",
    "html",
    "rate-limited",
    "redirect",
    "refused",
    "silent",
    "truncated",
    "unauthorized",
)


@dataclass
class Recorded:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict | None


@dataclass
class Conversation:
    """A web chat conversation: what its next turn must name."""

    last_response: str
    turns: int = 1


@dataclass
class FakeUpstream:
    api_key: str = field(default_factory=lambda: "up-" + secrets.token_hex(16))
    session: str = field(default_factory=lambda: secrets.token_hex(16))
    fault: str | None = None
    delay: float = 0.0
    # While set, answers stop half-way until this happens.
    halfway: threading.Event | None = None
    requests: list[Recorded] = field(default_factory=list)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    # A second cookie that is handed out with the first answer and asked for ever after.
    adopted: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.released = threading.Event()
        upstream = self

        class Handler(_Handler):
            state = upstream

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # The interval is how long `close` waits, in every test that has a mirror.
        serve = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        serve.start()

    @property
    def cookie(self) -> str:
        """The Cookie header line that a user would copy from the browser."""
        return f"theme=dark; session={self.session}"

    def asked(self) -> list[Recorded]:
        """The requests for an answer, without look-ups of models."""
        return [request for request in self.requests if request.method == "POST"]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Keeps quiet about callers that left, as those do which a test kills."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeUpstream

    def log_message(self, *_args: object) -> None:
        """Keeps the test's output clean."""

    def do_GET(self) -> None:
        self.handle_request(None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.handle_request(json.loads(raw))

    def handle_request(self, body: dict | None) -> None:
        state = self.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        # A request that a test has seen keeps its fault, whatever the test sets next.
        fault, delay = state.fault, state.delay
        state.requests.append(Recorded(self.command, self.path, headers, body))
        if delay:
            state.released.wait(delay)
        if fault is not None:
            self.misbehave(fault)
        elif self.path.startswith("/v1/"):
            self.openai(body)
        elif self.path.startswith("/rest/app-chat/"):
            self.web_chat(body)
        else:
            self.send_json(404, {"error": {"message": f"no such path: {self.path}"}})

    # --- the two protocols ---

    def openai(self, body: dict | None) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.state.api_key}":
            self.send_json(401, {"error": {"message": "bad key", "type": "invalid_request_error"}})
        elif self.command == "GET" and self.path == "/v1/models":
            data = [{"id": model, "object": "model", "owned_by": "fake"} for model in MODELS]
            self.send_json(200, {"object": "list", "data": data})
        elif self.command == "POST" and self.path == "/v1/chat/completions":
            self.complete(body or {})
        else:
            self.send_json(404, {"error": {"message": "no such path"}})

    def complete(self, body: dict) -> None:
        if body.get("model") not in MODELS:
            message = f"The model `{body.get('model')}` does not exist"
            self.send_json(404, {"error": {"message": message, "code": "model_not_found"}})
            return
        questions = [m["content"] for m in body["messages"] if m["role"] == "user"]
        text = answer(len(questions), questions[-1])
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        head = {"id": "chatcmpl-" + secrets.token_hex(4), "created": int(time.time())}
        head["model"] = body["model"]
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            full = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self.send_json(200, full)
            return

        def event(delta: dict, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            return b"data: " + raw_json(chunk) + b"\n\n"

        words = [event({"content": part}) for part in pieces(text, 5)]
        last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        stream = [b": hello\n\n", event({"role": "assistant", "content": ""}), *words]
        stream += [event({}, "stop"), b"data: " + raw_json(last) + b"\n\n", b"data: [DONE]\n\n"]
        self.send_chunks("text/event-stream", b"".join(stream))

    def web_chat(self, body: dict | None) -> None:
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        if "session" not in cookies or cookies["session"].value != self.state.session:
            self.send_json(401, {"error": {"message": "not logged in", "code": 16}})
            return
        prefix = "/rest/app-chat/conversations/"
        if self.command != "POST" or body is None or not self.path.startswith(prefix):
            self.send_json(404, {"error": {"message": "no such path", "code": 5}})
            return
        response = "resp-" + secrets.token_hex(8)
        rest = self.path.removeprefix(prefix).split("/")
        if rest == ["new"]:
            identifier = "conv-" + secrets.token_hex(8)
            conversation = self.state.conversations[identifier] = Conversation(response)
            lines = [{"result": {"conversation": {"conversationId": identifier}}}]
        else:
            conversation = self.state.conversations.get(rest[0])
            known = conversation is not None and rest[1:] == ["responses"]
            if not known or body.get("parentResponseId") != conversation.last_response:
                self.send_json(404, {"error": {"message": "no such conversation", "code": 5}})
                return
            if "refresh" not in cookies or cookies["refresh"].value != self.state.adopted:
                self.send_json(401, {"error": {"message": "cookie not adopted", "code": 16}})
                return
            conversation.turns += 1
            conversation.last_response = response
            lines = []
        text = answer(conversation.turns, body["message"])

        def line(fields: dict) -> dict:
            # After `new` the fields stand under `response`, later directly under `result`.
            fields = {"responseId": response, "isSoftStop": False, **fields}
            return {"result": {"response": fields} if rest == ["new"] else fields}

        lines.append(line({"token": "Let me think.", "isThinking": True}))
        lines += [line({"token": part, "isThinking": False}) for part in pieces(text, 5)]
        lines.append(line({"token": "", "isThinking": False, "isSoftStop": True}))
        whole = {"message": text, "responseId": response}
        lines.append(line({"modelResponse": whole}))
        stream = b"".join(raw_json(item) + b"\n" for item in lines)
        cookie = f"refresh={self.state.adopted}; Path=/; HttpOnly"
        self.send_chunks("application/x-ndjson", stream, {"Set-Cookie": cookie})

    # --- writing ---

    def send_json(self, status: int, body: dict, headers: dict[str, str] | None = None) -> None:
        self.send(status, "application/json", raw_json(body), headers)

    def send(
        self,
        status: int,
        media_type: str,
        body: bytes,
        headers: dict[str, str] | None = None,
        missing: int = 0,
    ) -> None:
        """Answers with `body`; `missing` bytes more are announced than come."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body) + missing))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = missing > 0

    def send_chunks(
        self, media_type: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        parts = pieces(body, CHUNK)
        for number, part in enumerate(parts):
            if number == len(parts) // 2 and self.state.halfway is not None:
                self.state.halfway.wait(60)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def misbehave(self, fault: str) -> None:
        page = b"<!doctype html><title>Log in</title><form>secret page text</form>"
        match fault:
            case "empty":
                self.send(200, "application/json", b"")
            case "error":
                self.send_json(500, {"error": {"message": "out of order"}})
            case "garbage":
                self.send(200, "application/json", b"\x00\x01 this is no JSON \xff\xfe\n")
            case "html":
                self.send(200, "text/html; charset=utf-8", page)
            case "rate-limited":
                body = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
                self.send_json(429, body, {"Retry-After": "7"})
            case "redirect":
                self.send(302, "text/html", b"", {"Location": "/login"})
            case "refused":
                body = {"error": {"message": "your plan does not include this model"}}
                self.send_json(403, body)
            case "silent":
                self.state.released.wait(60)
                self.close_connection = True
            case "truncated":
                start = b'{"object": "chat.completion", "choices": [{"index": 0, "mess'
                self.send(200, "application/json", start, missing=500)
            case "unauthorized":
                self.send_json(401, {"error": {"message": "expired"}})
            case _:
                raise AssertionError(f"no such fault: {fault}")


def answer(turn: int, question: str) -> str:
    """What the mirror says; the test compares with the same function."""
    return f"Turn {turn}: 你問的是「{question}」 \N{ROBOT FACE} done"


def raw_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def pieces(whole, size: int) -> list:
    return [whole[start : start + size] for start in range(0, len(whole), size)]
