"""A caller that tries its worst, and the upstream that answers it: each a process of its own, so that neither
disturbs whoever measures what another caller feels.

`python -m promises.hostile caller` takes orders, a line of JSON each, and tells after each what it got.
Both give way to others on the processor: a hostile caller stands on another machine in truth.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from upstream import HOST, Reply, Request, serve

from . import plans, wire
from .table import MIB

SMALL, MEDIUM, LARGE = "hostile-small", "hostile-medium", "hostile-large"
# Under `MAX_ANSWER_BYTES`, `MAX_V1_BODY_BYTES` and `MAX_BODY_BYTES`.
ANSWER, V1_BODY, BODY = 30 * MIB, 20 * MIB - 4096, 2 * MIB - 4096
# What a history holds: under `KEY_STORAGE_BYTES`, beside one largest answer.
TURNS = 60
HALF_OPEN = 500
PIPELINED = 16
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
NICE = 10


# --- its upstream ---


def whole(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return plans.raw_json({"id": "x", "object": "chat.completion", "created": 1, "model": SMALL, "choices": [choice]})


def slices(body: bytes, size: int = MIB // 4) -> tuple[bytes, ...]:
    return tuple(body[at : at + size] for at in range(0, len(body), size))


def events(size: int) -> Reply:
    """One event over and over, as many as are so large together."""
    begin, event, *end = plans.openai_parts("hostile", ["The quick brown fox jumps over the lazy dog. "])
    return Reply(slices(begin + event * max(1, size // len(event)) + b"".join(end)), media_type="text/event-stream")


def answers() -> Callable[[Request], Reply]:
    """As large as may be where the model's name says so: as one message, or in as many pieces as fit."""
    models = [{"id": name, "object": "model"} for name in (SMALL, MEDIUM, LARGE)]
    made = {
        (SMALL, False): Reply((whole("Yes."),)),
        (SMALL, True): events(0),
        (MEDIUM, False): Reply(slices(whole("x" * MIB))),
        (MEDIUM, True): events(MIB),
        (LARGE, False): Reply(slices(whole("x" * ANSWER))),
        (LARGE, True): events(ANSWER),
    }

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"object": "list", "data": models}).sized()
        # Bodies of 20 MiB are not to be parsed here.
        model = next((name for name in (LARGE, MEDIUM) if name.encode() in request.raw), SMALL)
        return made[model, b'"stream":true' in request.raw]

    return answer


# --- the caller ---


@dataclass
class Target:
    """The service, with the hostile caller's key and what it got so far."""

    port: int
    key: str
    history: str = ""
    got: Counter[str] = field(default_factory=Counter)

    def head(self, method: str, path: str, length: int = 0, key: str = "") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {key or self.key}"]
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def send(self, what: str, method: str, path: str, body: bytes | None = None) -> None:
        """One exchange, whose answer is read as fast as it comes and thrown away."""
        exchange = await wire.Exchange.open(self.port, method, path, body, {"Authorization": f"Bearer {self.key}"})
        try:
            first = await exchange.reader.read(wire.READ)
            while await exchange.reader.read(MIB):
                pass
            status = STATUS.match(first)
            self.got[f"{what}: {status[1].decode() if status else 'no answer'}"] += 1
        finally:
            exchange.close()


def asked(model: str, stream: bool = False, message: str = "Go on.") -> bytes:
    # The model stands first, where a search finds it at once.
    return plans.raw_json({"model": model, "stream": stream, "messages": [{"role": "user", "content": message}]})


def chat(model: str, message: str = "Go on.", conversation: str = "") -> bytes:
    return plans.raw_json({"model": model, "message": message, "conversation_id": conversation})


def filled(begin: bytes, piece: bytes, end: bytes, size: int) -> bytes:
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


V1 = "/v1/chat/completions"
QUESTION = '{"role":"user","content":"x"}'
# What costs most to read, by what it is: begin, the piece that is repeated, end.
LARGE_V1 = {
    "one long message": ('"messages":[{"role":"user","content":"', "x", '"}]}'),
    "many messages": ('"messages":[', QUESTION + ",", QUESTION + "]}"),
    "zeros beside": (f'"messages":[{QUESTION}],"a":[', "0,", "0]}"),
    "escapes": ('"messages":[{"role":"user","content":"_id', "\\n", '"}]}'),
}
LARGE_CHAT = {
    "long text to chat": ('"conversation_id":"long","message":"', "x", '"}'),
    "escapes to chat": ('"conversation_id":"escapes","message":"', "\\u0001", '"}'),
}


@cache
def filled(begin: str, piece: str, end: str, size: int) -> bytes:
    begin = f'{{"model":"{SMALL}",{begin}'
    return (begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end).encode()


async def bodies(target: Target, number: int) -> None:
    if number < len(LARGE_V1):
        what, form = list(LARGE_V1.items())[number]
        await target.send(what, "POST", V1, filled(*form, V1_BODY))
    else:
        what, form = list(LARGE_CHAT.items())[number - len(LARGE_V1)]
        await target.send(what, "POST", "/api/chat", filled(*form, BODY))
        # So that there is room for the next one.
        await target.send(f"{what} deleted", "DELETE", f"/api/conversations/{what.split()[0]}")


async def large_answers(target: Target, number: int) -> None:
    """Whole and streamed; and kept, which is deleted again, so that there is room for the next."""
    if number % 3 == 2:
        name = f"large-{number}"
        await target.send("large answer kept", "POST", "/api/chat", chat(LARGE, conversation=name))
        await target.send("large answer deleted", "DELETE", f"/api/conversations/{name}")
    else:
        stream = number % 3 == 1
        await target.send(f"large answer {'streamed' if stream else 'whole'}", "POST", V1, asked(LARGE, stream))


async def histories(target: Target, number: int) -> None:
    """A long conversation read back and gone on with, and a long list."""
    if number % 3 == 0:
        await target.send("history read", "GET", f"/api/conversations/{target.history}?limit=1000")
    elif number % 3 == 1:
        await target.send("list read", "GET", "/api/conversations?limit=1000")
    else:
        await target.send("history gone on with", "POST", "/api/chat", chat(SMALL, conversation=target.history))


async def pipelined(target: Target, what: str, make: Callable[[], bytes]) -> None:
    """Many small requests in one write, again and again on one connection."""
    reader, writer = await asyncio.open_connection(HOST, target.port)
    try:
        while True:
            writer.write(b"".join(make() for _ in range(PIPELINED)))
            left, end = PIPELINED, b""
            while left:
                piece = await reader.read(wire.READ)
                if not piece:
                    return
                statuses = STATUS.findall(end + piece)
                target.got.update(f"{what}: {status.decode()}" for status in statuses)
                left -= len(statuses)
                # A status may be cut between two reads; a whole one is longer than that.
                end = (end + piece)[-12:]
    finally:
        writer.transport.abort()


async def conversations(target: Target, number: int) -> None:
    body = chat(SMALL)
    request = target.head("POST", "/api/chat", len(body)) + body
    await pipelined(target, "new conversation", lambda: request)


async def wrong_keys(target: Target, number: int) -> None:
    await pipelined(target, "wrong key", lambda: target.head("GET", "/api/health", key=secrets.token_hex(16)))


async def connections(target: Target, number: int) -> None:
    """One that sends half a head and waits until it is closed, or leaves soon."""
    reader, writer = await asyncio.open_connection(HOST, target.port)
    try:
        writer.write(target.head("GET", "/api/health")[:-2])
        if number % 4:
            await reader.read()
        else:
            await asyncio.sleep(0.05)
        target.got["half a head"] += 1
    finally:
        writer.transport.abort()


# By name: what is done again and again, and by how many at once.
ATTACKS: dict[str, tuple[Callable[[Target, int], Awaitable[None]], int]] = {
    "bodies": (bodies, len(LARGE_V1) + len(LARGE_CHAT)),
    "answers": (large_answers, 6),
    "histories": (histories, 6),
    "conversations": (conversations, 8),
    "connections": (connections, HALF_OPEN),
    "wrong keys": (wrong_keys, 4),
}


async def again(target: Target, attack: Callable[[Target, int], Awaitable[None]], number: int) -> None:
    while True:
        try:
            await attack(target, number)
        except (OSError, wire.Broken) as error:
            target.got[type(error).__name__] += 1
            await asyncio.sleep(0.01)


async def fill(target: Target, turns: int) -> None:
    """Makes the long history."""
    target.history = "history"
    for _ in range(turns):
        await target.send("history made", "POST", "/api/chat", chat(SMALL, "x" * (BODY - 1024), target.history))


async def obey() -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task] = []
    target: Target | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if "port" in order:
            target = Target(order["port"], order["key"])
            await fill(target, order["turns"])
        assert target is not None
        for name in order.get("begin", []):
            attack, count = ATTACKS[name]
            tasks += [loop.create_task(again(target, attack, number)) for number in range(count)]
        if "end" in order:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks.clear()
        print(json.dumps(target.got), flush=True)
        target.got.clear()


class Hostile:
    """Both processes, for whoever measures."""

    def __init__(self) -> None:
        self.upstream = start("upstream")
        assert self.upstream.stdout is not None
        self.port = int(self.upstream.stdout.readline())
        self.caller = start("caller")

    async def order(self, **order: object) -> Counter[str]:
        """Has it done; what the caller got since the order before."""
        assert self.caller.stdin is not None and self.caller.stdout is not None
        self.caller.stdin.write(json.dumps(order).encode() + b"\n")
        self.caller.stdin.flush()
        line = await asyncio.get_running_loop().run_in_executor(None, self.caller.stdout.readline)
        return Counter(json.loads(line))

    def close(self) -> None:
        for process in (self.caller, self.upstream):
            process.kill()
            process.wait()


def start(part: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "promises.hostile", part],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


if __name__ == "__main__":
    os.nice(NICE)
    asyncio.run(serve(answers()) if sys.argv[1] == "upstream" else obey())
