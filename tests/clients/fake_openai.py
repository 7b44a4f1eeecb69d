"""An OpenAI-style upstream whose every byte and pause a test may decide.

By itself it answers as OpenAI does: chat as JSON and as server-sent events, tool calls, embeddings,
models, transcriptions, and errors in OpenAI's shape. `replies` holds what it sends instead to the
next questions. It is one event loop in a thread of its own, so that a thousand streams are no more
to it than one.

    upstream.replies.append(Reply.events(chunks).after(3.0))  # silent for 3 s before the head
    gate = upstream.gate()
    upstream.replies.append(Reply.json({...}).halved(gate))  # stops half-way until `gate.open()`
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import struct
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from email.policy import HTTP

from fake_upstream import MODELS, answer, pieces, raw_json

CREATED = 1_760_000_000
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
# No client knows this field, and each must get it as it is.
EXTRA = {"kept": [1, 2.50, None], "text": "多餘"}
CITIES = ["台北", "Paris", "Zürich"]
DONE = b"data: [DONE]\n\n"
# How much of an answer a caller that is slow to read may leave in the upstream's hands.
BUFFER = 64 << 10


class Gate:
    """Where an answer waits until the test opens it."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._opened = asyncio.Event()
        self._waiting = 0
        self._counted = threading.Condition()

    async def pass_through(self) -> None:
        with self._counted:
            self._waiting += 1
            self._counted.notify_all()
        await self._opened.wait()

    def reached(self, count: int = 1, seconds: float = 30.0) -> None:
        """Waits until so many answers have come to this point."""
        with self._counted:
            there = self._counted.wait_for(lambda: self._waiting >= count, seconds)
        assert there, f"{self._waiting} of {count} answers came to the gate within {seconds} s"

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._opened.set)


Part = bytes | float | Gate


@dataclass(frozen=True)
class Reply:
    """What is sent to one question; a number among the parts is a pause in seconds."""

    parts: tuple[Part, ...]
    status: int = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    # Waited for before the head.
    before: float | Gate = 0.0
    # So many bytes of the body come, then the connection breaks.
    cut: int | None = None

    @classmethod
    def json(cls, value: object, status: int = 200, **headers: str) -> Reply:
        named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
        return cls((raw_json(value),), status, headers=named)

    @classmethod
    def error(cls, status: int, message: str, code: str | None = None, **headers: str) -> Reply:
        body = {"message": message, "type": "fake_error", "param": None, "code": code}
        return cls.json({"error": body}, status, **headers)

    @classmethod
    def stream(cls, *parts: Part) -> Reply:
        return cls(parts, media_type="text/event-stream; charset=utf-8")

    @classmethod
    def events(cls, chunks: Iterable[dict]) -> Reply:
        return cls.stream(*map(event, chunks), DONE)

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

    @property
    def body(self) -> bytes:
        return b"".join(part for part in self.parts if isinstance(part, bytes))


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict:
        return json.loads(self.raw)


@dataclass
class FakeOpenAI:
    api_key: str = field(default_factory=lambda: "up-" + secrets.token_hex(16))
    replies: deque[Reply] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    # How many tools a model calls when it is offered some, and whether their pieces come mixed.
    calls: int = 1
    interleaved: bool = False
    # Whether streams are written as the worst of mirrors write them.
    messy: bool = False
    # How many callers left before their answer was complete.
    abandoned: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task] = set()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.url = f"http://127.0.0.1:{listening.result(10)}"

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=1 << 20, backlog=4096
        )
        return self._server.sockets[0].getsockname()[1]

    def gate(self) -> Gate:
        return Gate(self._loop)

    def asked(self) -> list[Request]:
        """The questions, without look-ups of models."""
        return [request for request in self.requests if request.method == "POST"]

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- one connection ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writer.transport.set_write_buffer_limits(high=BUFFER)
        try:
            while (request := await read_request(reader)) is not None:
                self.requests.append(request)
                question = request.method == "POST"
                reply = self.replies.popleft() if question and self.replies else self.reply(request)
                if not await write_reply(writer, reply):
                    break
        except ConnectionError:
            self.abandoned += 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    # --- what OpenAI would answer ---

    def reply(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return Reply.error(401, "Incorrect API key provided", "invalid_api_key")
        model = request.path.removeprefix("/v1/models/")
        match (request.method, request.path):
            case ("GET", "/v1/models"):
                return Reply.json({"object": "list", "data": [listed(name) for name in MODELS]})
            case ("GET", _) if model != request.path:
                return Reply.json(listed(model)) if model in MODELS else missing(model)
            case ("POST", "/v1/chat/completions"):
                return self.complete(request.body)
            case ("POST", "/v1/embeddings"):
                return embed(request.body)
            case ("POST", "/v1/audio/transcriptions"):
                return transcribe(request)
        return Reply.error(404, f"Unknown request URL: {request.method} {request.path}")

    def complete(self, body: dict) -> Reply:
        if body.get("model") not in MODELS:
            return missing(body.get("model"))
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return Reply.error(400, "'messages' must be a list of messages", "invalid_messages")
        if body.get("tools") and messages[-1]["role"] != "tool":
            calls = called(body["tools"], self.calls)
            if not body.get("stream"):
                return Reply.json(completion(body["model"], None, calls))
            chunks = tool_chunks(body["model"], calls, self.interleaved)
        else:
            questions = [message for message in messages if message["role"] == "user"]
            text = answer(len(questions), said(questions[-1]))
            if not body.get("stream"):
                return Reply.json(completion(body["model"], text))
            chunks = text_chunks(body["model"], text)
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**chunk(body["model"]), "choices": [], "usage": USAGE})
        return Reply.stream(*mess(chunks)) if self.messy else Reply.events(chunks)


# --- bodies ---


def listed(model: str) -> dict:
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "fake"}


def missing(model: object) -> Reply:
    return Reply.error(404, f"The model `{model}` does not exist", "model_not_found")


def said(message: dict) -> str:
    """The text of a message, whose content may be text and images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def called(tools: list[dict], count: int) -> list[dict]:
    """Calls of the tools offered, the first one again where there are too few."""
    names = [tool["function"]["name"] for tool in tools]
    return [
        {
            "id": f"call_{number}_{secrets.token_hex(4)}",
            "type": "function",
            "function": {
                "name": names[number % len(names)],
                "arguments": json.dumps({"city": CITIES[number]}, ensure_ascii=False),
            },
        }
        for number in range(count)
    ]


def completion(model: str, text: str | None, calls: list[dict] | None = None) -> dict:
    message = {"role": "assistant", "content": text, "refusal": None, "x_message": EXTRA}
    if calls:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-" + secrets.token_hex(8), "object": "chat.completion"}
    head |= {"created": CREATED, "model": model, "system_fingerprint": "fp_fake"}
    return {**head, "choices": [choice], "usage": USAGE, "x_answer": EXTRA}


def chunk(model: str, delta: dict | None = None, finish: str | None = None) -> dict:
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": CREATED}
    head |= {"model": model, "system_fingerprint": "fp_fake", "x_chunk": EXTRA}
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {**head, "choices": [choice]}


def text_chunks(model: str, text: str) -> list[dict]:
    deltas: list[dict] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": part} for part in pieces(text, 5)]
    return [*(chunk(model, delta) for delta in deltas), chunk(model, {}, "stop")]


# What small mirrors leave out of their chunks, and some client or other cannot do without.
LEFT_OUT = ("role", "finish_reason", "index", "delta", "head")


def careless_chunks(model: str, text: str, left_out: str) -> list[dict]:
    chunks = text_chunks(model, text)
    match left_out:
        case "role":
            chunks.pop(0)
        case "finish_reason":
            # The stream ends with `[DONE]` all the same.
            chunks.pop()
        case "index":
            for part in chunks:
                del part["choices"][0]["index"]
        case "delta":
            chunks[-1]["choices"][0]["delta"] = None
        case "head":
            chunks = [{"choices": part["choices"]} for part in chunks]
        case _:
            raise AssertionError(f"nobody leaves this out: {left_out}")
    return chunks


def tool_chunks(model: str, calls: list[dict], interleaved: bool) -> list[dict]:
    """Tool calls as OpenAI streams them: id, type and name come with the first piece alone."""
    streams = []
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opening = {**call, "index": index, "function": {"name": name, "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": part}} for part in pieces(arguments, 4)]
        streams.append([opening, *rest])
    if interleaved:
        longest = max(map(len, streams))
        deltas = [stream[n] for n in range(longest) for stream in streams if n < len(stream)]
    else:
        deltas = [delta for stream in streams for delta in stream]
    start: dict = {"role": "assistant", "content": None}
    pieces_of_calls: list[dict] = [{"tool_calls": [delta]} for delta in deltas]
    if len(calls) == 1:
        # A single call begins together with the message, and only then.
        start |= pieces_of_calls.pop(0)
    return [
        *(chunk(model, delta) for delta in (start, *pieces_of_calls)),
        chunk(model, {}, "tool_calls"),
    ]


def event(value: dict) -> bytes:
    return b"data: " + raw_json(value) + b"\n\n"


def mess(chunks: list[dict]) -> list[bytes]:
    """The same stream as legal as any, but written in every way that some client stumbles over."""
    events = [b"retry: 3000\r\n\r\n", b": hello\r\n\r\n"]
    for number, value in enumerate(chunks):
        text = raw_json(value)
        match number % 4:
            case 0:
                written = b"event: message\r\nid: %d\r\ndata: %s\r\n\r\n" % (number, text)
            case 1:
                written = b": a comment\r\ndata:" + text + b"\r\n\r\n"
            case 2:
                # Two lines of data make one event, joined by a line break.
                head, rest = text.split(b", ", 1)
                written = b"data: %s,\r\ndata: %s\r\n\r\n" % (head, rest)
            case _:
                written = b"data: " + text + b"\r\n\r\n"
        events.append(written)
    bare = {name: value for name, value in chunks[0].items() if name != "choices"}
    events.insert(4, event(bare))
    events.insert(6, event({**bare, "choices": None}))
    model = chunks[0]["model"]
    return [*events, event(chunk(model)), event({**bare, "usage": {"total_tokens": 8}}), DONE]


def embed(body: dict) -> Reply:
    given = body["input"]
    data = []
    for index, text in enumerate([given] if isinstance(given, str) else given):
        vector: list[float] | str = [float(len(text)), 0.5, -0.25]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return Reply.json({"object": "list", "data": data, "model": body["model"], "usage": usage})


def transcribe(request: Request) -> Reply:
    """Tells what file came, which is all that a test can want to know."""
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    form = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + request.raw).iter_parts():
        name = part.get_param("name", header="content-disposition")
        form[name] = (part.get_filename(), part.get_payload(decode=True))
    filename, content = form["file"]
    text = f"{filename}: {len(content)} bytes, {hashlib.sha256(content).hexdigest()}"
    return Reply.json({"text": text, "model": form["model"][1].decode()})


# --- the wire ---


async def read_request(reader: asyncio.StreamReader) -> Request | None:
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
    return Request(method, path, headers, raw)


async def write_reply(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Sends it in chunks; whether the connection is good for another request."""
    await wait(reply.before)
    lines = [f"HTTP/1.1 {reply.status} Fake", f"Content-Type: {reply.media_type}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    lines.append("Transfer-Encoding: chunked")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    left = reply.cut
    for part in reply.parts:
        if not isinstance(part, bytes):
            await wait(part)
            continue
        if left is not None:
            part = part[:left]
            left -= len(part)
        if part:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        if left == 0:
            return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def wait(pause: float | Gate) -> None:
    if isinstance(pause, Gate):
        await pause.pass_through()
    elif pause:
        await asyncio.sleep(pause)


# --- what came out at the other end ---


def read_events(stream: str) -> list[str]:
    """The data of each event, from a stream that is as plain as the weakest client needs it.

    Line feeds alone, a blank line after each event, one line of data or one comment in each, and
    no other field."""
    assert "\r" not in stream
    assert stream.endswith("\n\n")
    events = stream.removesuffix("\n\n").split("\n\n")
    assert not [item for item in events if not re.fullmatch(r"(: ?.*|:|data: .+)", item)], stream
    return [item.removeprefix("data: ") for item in events if not item.startswith(":")]
