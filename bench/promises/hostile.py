"""A caller that tries its worst, and the upstream that answers it: each a process of its own, so that neither
disturbs whoever measures what another caller feels.

`python -m promises.hostile caller PORT KEY NAME...` does these attacks until its input ends, and then tells what it
got. Both give way to others on the processor: a hostile caller stands on another machine in truth.
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

from upstream import HOST, Reply, Request, serve

from . import plans, wire
from .faces import CHAT, V1
from .planned import own_process
from .table import MIB

SMALL, MEDIUM, LARGE = "hostile-small", "hostile-medium", "hostile-large"
# Under `MAX_ANSWER_BYTES`, `MAX_V1_BODY_BYTES` and `MAX_BODY_BYTES`.
ANSWER, V1_BODY, BODY = 30 * MIB, 20 * MIB - 4096, 2 * MIB - 4096
HISTORY = "history"
HALF_OPEN = 500
PIPELINED = 16
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
NICE = 10


# --- its upstream ---


def sliced(body: bytes, media_type: str = "application/json") -> Reply:
    """A small answer in one write, and a large one in as many as it takes."""
    return Reply(tuple(body[at : at + MIB // 4] for at in range(0, len(body), MIB // 4)), media_type=media_type)


def whole(text: str) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return sliced(plans.raw_json({"id": "x", "object": "chat.completion", "created": 1, "model": SMALL, "choices": [choice]}))


def events(size: int) -> Reply:
    """One event over and over, as many as are so large together."""
    begin, event, *end = plans.openai_parts("hostile", ["The quick brown fox jumps over the lazy dog. "])
    return sliced(begin + event * max(1, size // len(event)) + b"".join(end), "text/event-stream")


def answers() -> Callable[[Request], Reply]:
    """As large as may be where the model's name says so: as one message, or in as many pieces as fit."""
    models = [{"id": name, "object": "model"} for name in (SMALL, MEDIUM, LARGE)]
    made = {(SMALL, False): whole("Yes."), (SMALL, True): events(0)}
    for model, size in {MEDIUM: MIB, LARGE: ANSWER}.items():
        made |= {(model, False): whole("x" * size), (model, True): events(size)}

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
    got: Counter[str] = field(default_factory=Counter)

    async def send(self, what: str, method: str, path: str, body: bytes | None = None) -> None:
        """One exchange, whose answer is read as fast as it comes and thrown away."""
        asked = wire.request(method, path, body, self.key, {"Connection": "close"})
        exchange = await wire.Exchange.open(self.port, asked)
        try:
            first = await exchange.reader.read(wire.READ)
            while await exchange.reader.read(MIB):
                pass
            status = STATUS.match(first)
            self.got[f"{what}: {status[1].decode() if status else 'no answer'}"] += 1
        finally:
            exchange.close()


def asked(model: str, stream: bool = False) -> bytes:
    # The model stands first, where a search finds it at once.
    return plans.raw_json({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Go on."}]})


def chat(model: str, message: str = "Go on.", conversation: str = "") -> bytes:
    return plans.raw_json({"model": model, "message": message, "conversation_id": conversation})


def filled(begin: str, piece: str, end: str, size: int) -> bytes:
    """A body of so many bytes with a piece in it again and again; the last one without its comma."""
    many = piece * ((size - len(begin) - len(end)) // len(piece))
    return (begin + many.removesuffix(",") + end).encode()


# What costs most to read, by what it is: where it goes, how much may, and what `filled` makes it of.
MODEL = f'{{"model":"{SMALL}",'
QUESTION = '{"role":"user","content":"x"}'
BODIES = {
    "one long message": (V1, V1_BODY, '"messages":[{"role":"user","content":"', "x", '"}]}'),
    "many messages": (V1, V1_BODY, '"messages":[', QUESTION + ",", "]}"),
    "zeros beside": (V1, V1_BODY, f'"messages":[{QUESTION}],"a":[', "0,", "]}"),
    "escapes": (V1, V1_BODY, '"messages":[{"role":"user","content":"_id', "\\n", '"}]}'),
    "long text to chat": (CHAT, BODY, '"conversation_id":"long text to chat","message":"', "x", '"}'),
    "escapes to chat": (CHAT, BODY, '"conversation_id":"escapes to chat","message":"', "\\u0001", '"}'),
}


@cache
def body_of(what: str) -> bytes:
    _, size, begin, piece, end = BODIES[what]
    return filled(MODEL + begin, piece, end, size)


async def bodies(target: Target, number: int) -> None:
    what = list(BODIES)[number]
    path = BODIES[what][0]
    await target.send(what, "POST", path, body_of(what))
    if path == CHAT:
        # So that there is room for the next one.
        await target.send(f"{what} deleted", "DELETE", f"/api/conversations/{what.replace(' ', '%20')}")


async def large_answers(target: Target, number: int) -> None:
    """Whole and streamed; and kept, which is deleted again, so that there is room for the next."""
    if number % 3 == 2:
        name = f"large-{number}"
        await target.send("large answer kept", "POST", CHAT, chat(LARGE, conversation=name))
        await target.send("large answer deleted", "DELETE", f"/api/conversations/{name}")
    else:
        stream = number % 3 == 1
        await target.send(f"large answer {'streamed' if stream else 'whole'}", "POST", V1, asked(LARGE, stream))


async def histories(target: Target, number: int) -> None:
    """A long conversation read back and gone on with, and a long list."""
    if number % 3 == 0:
        await target.send("history read", "GET", f"/api/conversations/{HISTORY}?limit=1000")
    elif number % 3 == 1:
        await target.send("list read", "GET", "/api/conversations?limit=1000")
    else:
        await target.send("history gone on with", "POST", CHAT, chat(SMALL, conversation=HISTORY))


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
    request = wire.request("POST", CHAT, chat(SMALL), target.key)
    await pipelined(target, "new conversation", lambda: request)


async def wrong_keys(target: Target, number: int) -> None:
    await pipelined(target, "wrong key", lambda: wire.request("GET", "/api/health", key=secrets.token_hex(16)))


async def connections(target: Target, number: int) -> None:
    """One that sends half a head and waits until it is closed, or leaves soon."""
    reader, writer = await asyncio.open_connection(HOST, target.port)
    try:
        writer.write(wire.request("GET", "/api/health", key=target.key)[:-2])
        if number % 4:
            await reader.read()
        else:
            await asyncio.sleep(0.05)
        target.got["half a head"] += 1
    finally:
        writer.transport.abort()


# By name: what is done again and again, and by how many at once.
ATTACKS: dict[str, tuple[Callable[[Target, int], Awaitable[None]], int]] = {
    "bodies": (bodies, len(BODIES)),
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


async def attack(port: str, key: str, *names: str) -> None:
    target = Target(int(port), key)
    tasks = [
        asyncio.create_task(again(target, attack, number))
        for attack, count in (ATTACKS[name] for name in names)
        for number in range(count)
    ]
    print(f"{len(tasks)} attackers", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps(target.got), flush=True)
    os._exit(0)


# --- for whoever measures ---


class Hostile:
    """Its upstream; and the caller, as long as it attacks."""

    def __init__(self) -> None:
        self.upstream, port = own_process("hostile", "upstream")
        self.url = f"http://{HOST}:{int(port)}"
        self.caller: subprocess.Popen[bytes] | None = None

    def begin(self, port: int, key: str, names: list[str]) -> None:
        self.caller, _ = own_process("hostile", "caller", str(port), key, *names)

    def end(self) -> Counter[str]:
        """Ends the attack; what the caller got."""
        assert self.caller is not None
        out, _ = self.caller.communicate(timeout=30)
        return Counter(json.loads(out))

    def close(self) -> None:
        for process in filter(None, (self.caller, self.upstream)):
            process.kill()
            process.wait()


if __name__ == "__main__":
    os.nice(NICE)
    role, *words = sys.argv[1:]
    asyncio.run(serve(answers()) if role == "upstream" else attack(*words))
