"""Attacks: slow callers, and small bodies that would become much memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from . import faces, plans, wire
from .faces import CHAT, V1
from .gateway import Gateway, serving
from .hostile import filled
from .planned import Upstream
from .plans import OPENAI, WEB_CHAT
from .table import MIB, Row, Run, mib, percentile, say

CONNECTIONS = 1000
HEALTH_WITHIN = 1.0
FREED_WITHIN = 35.0
PROBE_EVERY = 0.1
# Connections that the probe may have open.
PROBES = 2
LOOK_EVERY = 0.5
MAX_PROCESS = 256 * MIB
MAX_FACTOR = 10.0


# --- slow callers ---


@dataclass
class Watch:
    """The health of a service, and how long it holds connections, while something goes on."""

    gateway: Gateway
    health: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    first_seen: dict[str, float] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)
    most: int = 0

    async def probe(self) -> None:
        while True:
            begin = time.monotonic()
            try:
                answer = await self.gateway.call("GET", "/health", timeout=5)
                if answer.status != 200:
                    self.failed.append(f"/health said {answer.status}")
            except (OSError, TimeoutError, wire.Broken) as error:
                self.failed.append(f"/health: {error!r}")
            self.health.append(time.monotonic() - begin)
            await asyncio.sleep(PROBE_EVERY)

    async def look(self) -> None:
        while True:
            self.count()
            await asyncio.sleep(LOOK_EVERY)

    def count(self) -> int:
        now = time.monotonic()
        callers = [inode for inode, port in self.gateway.connections().items() if port == self.gateway.port]
        for inode in callers:
            self.held[inode] = now - self.first_seen.setdefault(inode, now)
        self.most = max(self.most, len(callers))
        return len(callers)

    async def until_freed(self, seconds: float) -> None:
        """Waits until no attacker is left, or so long."""
        over = time.monotonic() + seconds
        while self.count() > PROBES and time.monotonic() < over:
            await asyncio.sleep(0.2)


def slowhttptest(gateway: Gateway, mode: str, seconds: int) -> list[str]:
    url = f"http://{gateway.address}"
    modes = {
        "slow headers": ["-H", "-i", "3", "-u", f"{url}/api/chat", "-t", "POST"],
        "slow body": ["-B", "-i", "3", "-s", "8192", "-f", "application/json", "-u", f"{url}/api/chat?key={gateway.key}"],
        "slow body without a key": ["-B", "-i", "3", "-s", "8192", "-f", "application/json", "-u", f"{url}/api/chat"],
        "slow read": ["-X", "-w", "1", "-y", "64", "-n", "5", "-z", "32", "-k", "3", "-u", f"{url}/docs/swagger-ui-bundle.js"],
    }
    return ["slowhttptest", *modes[mode], "-c", str(CONNECTIONS), "-r", "250", "-l", str(seconds), "-p", "3"]


async def attack(run: Run, mode: str, seconds: int) -> None:
    async with serving(run) as (gateway, _):
        watch = Watch(gateway)
        watching = [asyncio.create_task(watch.probe()), asyncio.create_task(watch.look())]
        none = asyncio.subprocess.DEVNULL
        command = slowhttptest(gateway, mode, seconds)
        process = await asyncio.create_subprocess_exec(*command, stdin=none, stdout=none, stderr=none, cwd=gateway.folder)
        await process.wait()
        await watch.until_freed(FREED_WITHIN)
        await finish(run, watch, watching, f"slow attack, {mode}, {CONNECTIONS:,} connections", whole=seconds >= 40)


async def finish(run: Run, watch: Watch, watching: list[asyncio.Task], name: str, whole: bool) -> None:
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    p99 = percentile(watch.health, 0.99)
    longest = max(watch.held.values(), default=0.0)
    wrong = watch.failed[:]
    if p99 > HEALTH_WITHIN:
        wrong.append(f"/health p99 {p99:.2f} s")
    if (left := watch.count()) > PROBES:
        wrong.append(f"{left} connections are left {FREED_WITHIN:.0f} s after the end")
    # A look sees a connection late, and so does the next that misses it.
    if longest > FREED_WITHIN + 2 * LOOK_EVERY:
        count = sum(seconds > FREED_WITHIN for seconds in watch.held.values())
        wrong.append(f"{count} connections were held for more than {FREED_WITHIN:.0f} s, up to {longest:.0f} s")
    figure = (
        f"/health p99 {p99:.2f} s of {len(watch.health)}, {watch.most:,} open at once, "
        f"none longer than {longest:.0f} s{'' if whole else ' (shorter than the limit)'}"
    )
    limit = f"/health p99 <= {HEALTH_WITHIN:.0f} s, each freed within {FREED_WITHIN:.0f} s"
    run.add(Row(name, limit, figure, not wrong, wrong))


async def slow_streams(run: Run, count: int, seconds: float) -> None:
    """Callers with a key that ask for long streams and read nothing of them."""
    sockets: list[socket.socket] = []
    async with serving(run) as (gateway, _):
        idle = gateway.rss
        gateway.forget_peak()
        watch = Watch(gateway)
        watching = [asyncio.create_task(watch.probe()), asyncio.create_task(watch.look())]
        for number in range(count):
            path, body = faces.request_of(faces.SSE, json.dumps({"id": f"slow-{number}", "words": 2000, "pace": 0}))
            asked = wire.request("POST", path, json.dumps(body).encode(), gateway.keys[number % len(gateway.keys)])
            sockets.append(await wire.mute(gateway.port, asked))
        await watch.until_freed(seconds)
        say(f"RSS {mib(gateway.peak)}, {mib(idle)} when idle")
        await finish(run, watch, watching, f"slow readers of {count} streams, which read nothing", whole=True)
    for caller in sockets:
        caller.close()


async def check_slow(run: Run) -> None:
    if shutil.which("slowhttptest") is None:
        raise RuntimeError("slowhttptest is missing: apt-get install slowhttptest")
    seconds = run.size(50, 15)
    modes = ["slow headers", "slow body", "slow body without a key", "slow read"]
    for mode in modes if not run.short else modes[:2]:
        await attack(run, mode, seconds)
    if not run.short:
        await slow_streams(run, 100, 70)


# --- amplification ---


@dataclass
class Shape:
    """A body made to cost more memory than it has bytes."""

    name: str
    make: Callable[[int], bytes]
    path: str = CHAT
    protocol: str = OPENAI


def repeated(begin: str, piece: str, end: str) -> Callable[[int], bytes]:
    return partial(filled, begin, piece, end)


def many_keys(begin: str) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        keys = ",".join(f'"{number:x}":0' for number in range(size // 12))
        return f"{begin},{keys}}}".encode()[:size]

    return make


def deep(begin: str) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        depth = (size - len(begin) - 1) // 2
        return f"{begin}{'[' * depth}{']' * depth}}}".encode()

    return make


PLAN = json.dumps({"id": "amplified", "words": 4})
ASKED = f'{{"model":"{plans.MODEL}","messages":[{{"role":"user","content":{json.dumps(PLAN)}}}]'
SHAPES = [
    Shape("zeros beside", repeated('{"message":"x","a":[', "0,", "]}")),
    Shape("zeros as message", repeated('{"message":[', "0,", "]}")),
    Shape("empty objects beside", repeated('{"message":"x","a":[', "{},", "]}")),
    Shape("many keys", many_keys('{"message":"x"')),
    Shape("deep", deep('{"message":"x","a":')),
    Shape("escapes", repeated('{"message":"', "\\u0001", '"}')),
    Shape("web chat, escapes", repeated('{"message":"', "\\u0001", '"}'), protocol=WEB_CHAT),
]
ON_V1 = {
    "zeros as tools": repeated(ASKED + ',"tools":[', "0,", "]}"),
    "zeros as tool_choice": repeated(ASKED + ',"tool_choice":[', "0,", "]}"),
    "many messages": repeated('{"messages":[', '{"role":"user","content":""},', "]}"),
    "many good messages": repeated('{"messages":[', '{"role":"user","content":"x"},', "]}"),
    "one long message": repeated('{"messages":[{"role":"user","content":"', "x", '"}]}'),
    "bare messages": repeated('{"messages":[', '{"role":""},', "]}"),
    "many parts": repeated('{"messages":[{"role":"user","content":[', '{"type":"text"},', "]}]}"),
    "many keys": many_keys(ASKED),
    "deep": deep(ASKED + ',"tools":'),
    "stop words": repeated(ASKED + ',"stop":[', '"",', "]}"),
}
for protocol, prefix in ((OPENAI, "v1"), (WEB_CHAT, "v1 of a web chat")):
    SHAPES += [Shape(f"{prefix}, {what}", make, V1, protocol) for what, make in ON_V1.items()]


@dataclass
class Cost:
    """What a shape cost."""

    factor: float
    peak: int
    statuses: list[str]


async def cost(run: Run, upstream: Upstream, shape: Shape, size: int, count: int) -> Cost:
    """Sends a body some times at once to a new service."""
    gateway = Gateway(run.binary, **upstream.settings(shape.protocol), DATABASE_URL="memory:")
    try:
        await gateway.started()
        body = shape.make(size)
        # The pool, the parser and the like are there afterwards.
        await gateway.call("POST", *faces.request_of(faces.TOOL if shape.path == CHAT else faces.JSON, PLAN), key=gateway.key)
        idle = gateway.rss
        gateway.forget_peak()

        async def one(number: int) -> str:
            try:
                answer = await gateway.call("POST", shape.path, body, key=gateway.keys[number % 20], timeout=60)
            except (wire.Broken, OSError, TimeoutError) as error:
                return type(error).__name__
            if answer.status in (424, 429, 503) and b"overloaded" in answer.body and "retry-after" not in answer.headers:
                return f"{answer.status} without Retry-After"
            return str(answer.status)

        statuses = await asyncio.gather(*(one(number) for number in range(count)))
        peak = gateway.peak
        if (await gateway.call("GET", "/health")).status != 200:
            statuses.append("/health fails")
        return Cost((peak - idle) / (len(body) * count), peak, sorted(set(statuses)))
    finally:
        await gateway.removed()


async def check_amplification(run: Run) -> None:
    upstream = Upstream()
    wrong: list[str] = []
    worst, largest = 0.0, 0
    details = {}
    chosen = ("zeros", "messages", "parts")
    shapes = [shape for shape in SHAPES if not run.short or any(word in shape.name for word in chosen)]
    try:
        for shape in shapes:
            # As much as fits into what may be in flight.
            size, count = ((2 * MIB) - 1024, 16) if shape.path == CHAT else ((20 * MIB) - 1024, 3)
            result = await cost(run, upstream, shape, size, count)
            worst, largest = max(worst, result.factor), max(largest, result.peak)
            line = f"{shape.name}: {count} x {mib(size)}, {result.factor:.1f} times, RSS {mib(result.peak)}, {', '.join(result.statuses)}"
            say(line)
            details[shape.name] = line
            bad = [status for status in result.statuses if not status.isdigit() or status.startswith("5")]
            if shape.path == V1:
                # Before a faulty upstream those are OpenAI's own statuses.
                bad = [status for status in bad if status not in ("502", "503", "504")]
            if result.factor > MAX_FACTOR or result.peak > MAX_PROCESS or bad:
                wrong.append(line)
        figure = f"{len(shapes)} shapes, at most {worst:.1f} times, RSS {mib(largest)}"
        limit = f"<= {MAX_FACTOR:.0f} times the bytes in flight, process <= {mib(MAX_PROCESS)}"
        run.add(Row("amplification by bodies", limit, figure, not wrong, wrong, details))
        await more_than_fits(run, upstream)
    finally:
        upstream.close()


async def more_than_fits(run: Run, upstream: Upstream) -> None:
    """More bodies at once than may be in flight."""
    wrong = []
    lines = []
    largest = 0
    for shape in [Shape("text", repeated(ASKED + ',"user":"', "x", '"}'), V1), SHAPES[0]]:
        size, count = ((20 * MIB) - 1024, 12) if shape.path == V1 else ((2 * MIB) - 1024, 120)
        result = await cost(run, upstream, shape, size, count)
        largest = max(largest, result.peak)
        line = f"{shape.name}: {count} x {mib(size)}, RSS {mib(result.peak)}, {', '.join(result.statuses)}"
        lines.append(line)
        if result.peak > MAX_PROCESS or not all(status.isdigit() for status in result.statuses):
            wrong.append(line)
    figure = f"RSS {mib(largest)}"
    run.add(Row("240 MiB of bodies at once", f"process <= {mib(MAX_PROCESS)}, refused with Retry-After", figure, not wrong, wrong, {"runs": lines}))
