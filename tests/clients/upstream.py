"""An upstream whose every byte and pause a test may decide.

By itself it answers by `answer`, a function of the question: without one as OpenAI does under `/v1`
(chat, tools, embeddings, models, transcriptions), as Anthropic does under `/v1/messages`, and as a
web chat with a cookie does under `/rest/app-chat`. `replies` holds what it sends instead to the
next questions.

    upstream.replies.append(Reply.events(chunks).after(3.0))  # silent for 3 s before the head
    gate = upstream.gate()
    upstream.replies.append(Reply.json({...}).halved(gate))  # stops half-way until `gate.open()`

It is one event loop on raw sockets, so that a thousand streams are no more to it than one: in a
thread (`Upstream`), or in a process of its own (`serve`), for callers who have no time to share.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from http.cookies import SimpleCookie

import bodies
from bodies import pieces, raw_json

HOST = "127.0.0.1"
MODELS = ["mirror-large", "mirror-small"]
# How much is sent of what never ends.
ENDLESS = 64 << 20


class Gate:
    """Where an answer waits until the test opens it, or until enough others have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, enough: int | None = None):
        self._loop = loop
        self._enough = enough
        self._opened = asyncio.Event()
        self._waiting = 0
        self._counted = threading.Condition()

    async def pass_through(self) -> None:
        with self._counted:
            self._waiting += 1
            self._counted.notify_all()
        if self._waiting == self._enough:
            self._opened.set()
        await self._opened.wait()

    def reached(self, count: int = 1, seconds: float = 30.0) -> None:
        """Waits until so many answers have come to this point."""
        with self._counted:
            there = self._counted.wait_for(lambda: self._waiting >= count, seconds)
        assert there, f"{self._waiting} of {count} answers came to the gate within {seconds} s"

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._opened.set)


class End(Enum):
    """How an answer ends a connection."""

    CLOSE = "it is closed"
    RESET = "it is reset"
    HANG = "nothing more is said on it until the peer leaves"


@dataclass(frozen=True)
class Endless:
    """These bytes over and over, until the peer leaves or has had enough."""

    data: bytes
    pause: float = 0.0


Part = bytes | float | Gate | End | Endless


@dataclass(frozen=True)
class Reply:
    """What is sent to one question; a number among the parts is a pause in seconds."""

    parts: tuple[Part, ...]
    # None where the parts are all that is sent, the head included.
    status: int | None = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    # Announced instead of sending each part as a chunk.
    length: int | None = None
    # Waited for before the head.
    before: float | Gate = 0.0
    # So many bytes of the body come, then the connection breaks.
    cut: int | None = None

    @classmethod
    def raw(cls, *parts: Part) -> Reply:
        return cls(parts, status=None)

    @classmethod
    def json(cls, value: object, status: int = 200, **headers: str) -> Reply:
        named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
        return cls((raw_json(value),), status, headers=named)

    @classmethod
    def error(cls, status: int, message: str, code: object = None, **headers: str) -> Reply:
        body = {"message": message, "type": "fake_error", "param": None, "code": code}
        return cls.json({"error": body}, status, **headers)

    @classmethod
    def refusal(cls, status: int, kind: str, message: str, **headers: str) -> Reply:
        """An error of Anthropic's."""
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return cls.json(body, status, **headers)

    @classmethod
    def stream(cls, *parts: Part) -> Reply:
        return cls(parts, media_type="text/event-stream; charset=utf-8")

    @classmethod
    def events(cls, chunks: Iterable[dict]) -> Reply:
        return cls.stream(*map(bodies.event, chunks), bodies.DONE)

    def after(self, pause: float | Gate) -> Reply:
        """The same after a silence, in which not even the head is sent."""
        return replace(self, before=pause)

    def halved(self, pause: float | Gate) -> Reply:
        """The same, with a silence in the middle."""
        parts = self.parts
        if len(parts) == 1 and isinstance(parts[0], bytes):
            parts = tuple(pieces(parts[0], max(1, len(parts[0]) // 2)))
        middle = len(parts) // 2
        return replace(self, parts=(*parts[:middle], pause, *parts[middle:]))

    def cut_after(self, count: int) -> Reply:
        return replace(self, cut=count)

    def sized(self, missing: int = 0) -> Reply:
        """The same with its length told; `missing` bytes more are announced than come."""
        return replace(self, length=len(self.body) + missing)

    @property
    def body(self) -> bytes:
        return b"".join(part for part in self.parts if isinstance(part, bytes))

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Fake", f"Content-Type: {self.media_type}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        chunked = "Transfer-Encoding: chunked"
        lines.append(chunked if self.length is None else f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode()


PAGE = b"<!doctype html><title>Log in</title><form>secret page text</form>"
# What `fault` may be; each is a way in which a real mirror fails.
FAULTS = {
    "empty": Reply(()).sized(),
    "error": Reply.error(500, "out of order").sized(),
    "garbage": Reply((b"\x00\x01 this is no JSON \xff\xfe\n",)).sized(),
    "html": Reply((PAGE,), media_type="text/html; charset=utf-8").sized(),
    "rate-limited": Reply.error(429, "slow down", "rate_limit_exceeded", Retry_After="7").sized(),
    "redirect": Reply((), 302, "text/html", (("Location", "/login"),)).sized(),
    "refused": Reply.error(403, "your plan does not include this model").sized(),
    "silent": Reply.raw(End.HANG),
    "truncated": Reply((b'{"object": "chat.completion", "choices": [{"index',)).sized(500),
    "unauthorized": Reply.error(401, "expired").sized(),
}


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    # Whatever `answer` wants to remember of the connection.
    connection: dict

    @property
    def body(self) -> dict:
        return json.loads(self.raw)


# --- the wire ---


class Server:
    """Reads requests and sends each what `answer` gives for it."""

    def __init__(self, answer: Callable[[Request], Reply]):
        self._answer = answer
        self._tasks: set[asyncio.Task] = set()
        # How many callers left before their answer was complete.
        self.abandoned = 0

    async def listen(self) -> int:
        """Begins on a free port."""
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=1 << 20, backlog=4096)
        return self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection: dict = {}
        try:
            while (request := await read_request(reader, connection)) is not None:
                more = await send(self._answer(request), reader, writer)
                if not more or request.headers.get("connection") == "close":
                    break
        except ConnectionError:
            self.abandoned += 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def read_request(reader: asyncio.StreamReader, connection: dict) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, value = line.split(":", 1)
        headers[name.lower()] = value.strip()
    if "chunked" in headers.get("transfer-encoding", ""):
        raw = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            raw += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, raw, connection)


async def send(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection is good for another request."""
    await pause(reply.before)
    chunked = reply.status is not None and reply.length is None
    if reply.status is not None:
        writer.write(reply.head)
    left = reply.cut
    for part in reply.parts:
        if isinstance(part, End):
            return await end(part, reader, writer)
        if isinstance(part, Endless):
            return await repeat(part, reader, writer)
        if not isinstance(part, bytes):
            await pause(part)
            continue
        if left is not None:
            part = part[:left]
            left -= len(part)
        if part:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
        if left == 0:
            return False
    if chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return reply.length in (None, len(reply.body))


async def pause(time: float | Gate) -> None:
    if isinstance(time, Gate):
        await time.pass_through()
    elif time:
        await asyncio.sleep(time)


async def end(how: End, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    if how is End.HANG:
        await reader.read()
    elif how is End.RESET:
        # Closing with a linger of zero seconds sends RST.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    return False


async def repeat(what: Endless, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    sent = 0
    while sent < ENDLESS and not reader.at_eof():
        writer.write(what.data)
        await writer.drain()
        sent += len(what.data)
        await asyncio.sleep(what.pause)
    return False


async def serve(answer: Callable[[Request], Reply]) -> None:
    """As a process of its own: prints its port, and ends when whoever started it does."""
    print(await Server(answer).listen(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


# --- for tests ---


@dataclass
class Conversation:
    """A web chat conversation: what its next turn must name."""

    last_response: str
    turns: int = 1


@dataclass
class Upstream:
    # What is sent to a request when no test has decided it; by itself what a good upstream says.
    answer: Callable[[Request], Reply] | None = None
    # Whether it writes as small mirrors do: JSON by its length; streams in chunks of seven bytes,
    # which cut most characters that are not ASCII, with a comment first and usage unasked.
    small: bool = False
    api_key: str = field(default_factory=lambda: "up-" + secrets.token_hex(16))
    session: str = field(default_factory=lambda: secrets.token_hex(16))
    # A second cookie that a web chat hands out with its answers and asks for ever after.
    adopted: str = field(default_factory=lambda: secrets.token_hex(8))
    replies: deque[Reply] = field(default_factory=deque)
    # Sent to every request while it is set.
    fault: Reply | None = None
    # Waited for before an answer that no test has put into `replies`, and in the midst of it.
    delay: float | Gate = 0.0
    halfway: Gate | None = None
    requests: list[Request] = field(default_factory=list)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    # How many tools a model calls when it is offered some, and whether their pieces come mixed.
    calls: int = 1
    interleaved: bool = False
    # Whether streams are written as the worst of mirrors write them.
    messy: bool = False
    # What a model of Anthropic's thinks before it answers.
    thought: str = ""

    def __post_init__(self) -> None:
        self._server = Server(self._reply)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._server.listen(), self._loop).result(10)
        self.url = f"http://{HOST}:{self.port}"

    @property
    def cookie(self) -> str:
        """The Cookie header line that a user would copy from the browser."""
        return f"theme=dark; session={self.session}"

    @property
    def abandoned(self) -> int:
        return self._server.abandoned

    def gate(self) -> Gate:
        return Gate(self._loop)

    def asked(self) -> list[Request]:
        """The questions, without look-ups of models."""
        return [request for request in self.requests if request.method == "POST"]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        if request.method == "POST" and self.replies:
            return self.replies.popleft()
        reply = self.fault or (self.answer or self._speak)(request)
        if self.small and self.fault is None:
            whole = reply.media_type == "application/json"
            reply = reply.sized() if whole else replace(reply, parts=tuple(pieces(reply.body, 7)))
        if self.halfway is not None:
            reply = reply.halved(self.halfway)
        return reply.after(self.delay)

    # --- what a good upstream says ---

    def _speak(self, request: Request) -> Reply:
        if request.path.startswith("/rest/app-chat/"):
            return self._web_chat(request)
        if request.path == "/v1/messages" or "x-api-key" in request.headers:
            return self._anthropic(request)
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return Reply.error(401, "Incorrect API key provided", "invalid_api_key")
        model = request.path.removeprefix("/v1/models/")
        match (request.method, request.path):
            case ("GET", "/v1/models"):
                return Reply.json(
                    {"object": "list", "data": [bodies.listed(name) for name in MODELS]}
                )
            case ("GET", _) if model != request.path:
                return Reply.json(bodies.listed(model)) if model in MODELS else missing(model)
            case ("POST", "/v1/chat/completions"):
                return self._complete(request.body)
            case ("POST", "/v1/embeddings"):
                return Reply.json(bodies.embeddings(request.body))
            case ("POST", "/v1/audio/transcriptions"):
                media_type = request.headers.get("content-type", "")
                return Reply.json(bodies.transcription(media_type, request.raw))
        return Reply.error(404, f"Unknown request URL: {request.method} {request.path}")

    def _complete(self, body: dict) -> Reply:
        model, messages = body.get("model"), body.get("messages")
        if model not in MODELS:
            return missing(model)
        if not isinstance(messages, list) or not messages:
            return Reply.error(400, "'messages' must be a list of messages", "invalid_messages")
        if body.get("tools") and messages[-1]["role"] != "tool":
            calls = bodies.called(body["tools"], self.calls)
            if not body.get("stream"):
                return Reply.json(bodies.completion(model, None, calls))
            chunks = bodies.tool_chunks(model, calls, self.interleaved)
        else:
            text = answered(messages)
            if not body.get("stream"):
                return Reply.json(bodies.completion(model, text))
            chunks = bodies.text_chunks(model, text)
        if self.small or (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**bodies.chunk(model), "choices": [], "usage": bodies.USAGE})
        if self.messy:
            return Reply.stream(*bodies.mess(chunks))
        if self.small:
            own = {"id": "chatcmpl-" + secrets.token_hex(8)}
            events = [bodies.event(part | own) for part in chunks]
            return Reply.stream(b": hello\n\n", *events, bodies.DONE)
        return Reply.events(chunks)

    def _anthropic(self, request: Request) -> Reply:
        if request.headers.get("x-api-key") != self.api_key:
            return Reply.refusal(401, "authentication_error", "invalid x-api-key")
        if request.method == "GET" and request.path.split("?")[0] == "/v1/models":
            models = [bodies.listed_by_anthropic(name) for name in MODELS]
            return Reply.json({"data": models, "has_more": False})
        if (request.method, request.path) != ("POST", "/v1/messages"):
            return Reply.refusal(404, "not_found_error", "Not found")
        body = request.body
        model, messages = body["model"], body["messages"]
        if model == "no-such-model":
            return Reply.refusal(404, "not_found_error", f"model: {model}")
        blocks = [bodies.thinking_block(self.thought)] if self.thought else []
        last = messages[-1]["content"]
        has_results = isinstance(last, list) and last[0]["type"] == "tool_result"
        if body.get("tools") and not has_results:
            blocks += bodies.tool_uses(body["tools"], self.calls)
        else:
            blocks.append(bodies.text_block(answered(messages)))
        message = bodies.message(model, blocks)
        return (
            Reply.stream(*bodies.message_events(message))
            if body.get("stream")
            else Reply.json(message)
        )

    def _web_chat(self, request: Request) -> Reply:
        cookies = {
            name: morsel.value
            for name, morsel in SimpleCookie(request.headers.get("cookie", "")).items()
        }
        if cookies.get("session") != self.session:
            return Reply.error(401, "not logged in", 16)
        prefix = "/rest/app-chat/conversations/"
        if request.method != "POST" or not request.path.startswith(prefix):
            return Reply.error(404, "no such path", 5)
        asked, response = request.body, "resp-" + secrets.token_hex(8)
        rest = request.path.removeprefix(prefix).split("/")
        new = None
        if rest == ["new"]:
            new = "conv-" + secrets.token_hex(8)
            conversation = self.conversations[new] = Conversation(response)
        else:
            found = self.conversations.get(rest[0])
            last = found and rest[1:] == ["responses"] and found.last_response
            if not found or not last or asked.get("parentResponseId") != last:
                return Reply.error(404, "no such conversation", 5)
            if cookies.get("refresh") != self.adopted:
                return Reply.error(401, "cookie not adopted", 16)
            conversation = found
            conversation.turns += 1
            conversation.last_response = response
        lines = bodies.web_chat_lines(
            bodies.answer(conversation.turns, asked["message"]), response, new
        )
        cookie = ("Set-Cookie", f"refresh={self.adopted}; Path=/; HttpOnly")
        return Reply(tuple(lines), media_type="application/x-ndjson", headers=(cookie,))


def missing(model: object) -> Reply:
    return Reply.error(404, f"The model `{model}` does not exist", "model_not_found")


def answered(messages: list[dict]) -> str:
    # A message of the user may hold the results of tools alone.
    users = [message for message in messages if message["role"] == "user"]
    questions = [message for message in users if bodies.said(message)] or users
    return bodies.answer(len(questions), bodies.said(questions[-1]))
