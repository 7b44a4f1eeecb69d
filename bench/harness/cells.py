"""What is measured: every cell is a kind of load, and the targets that it is put on."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import load, programs, servers, stores, yardsticks
from .servers import KEY, Server

FAST = ["direct", "nginx", "minimal", "mirrorgate"]
# What others would pick as well, in the cells that all of them can do.
OTHERS = ["nginx-log", "haproxy"]
SLOW = ["pooled", "tutorial", "portkey", "litellm"]
# What a store is measured by.
YARDSTICKS = {"sqlite": "disk", "postgres": "pgbench"}
CONNECTIONS = [1, 16, 64, 256]

PROTOCOLS = {"openai": "OpenAI, SSE", "web-chat": "web chat, NDJSON"}
# A store in memory stands for "not kept" as long as every question begins a conversation.
STATES = {
    "unkept": "store in memory",
    "new": "new conversation, on disk",
    "next": "conversation goes on, on disk",
}
MEMORY = {"DATABASE_URL": "memory:"}
# Turns of a conversation before the next one begins: history grows with each, and so does the work.
TURNS = 10


@dataclass(frozen=True)
class Settings:
    binary: Path
    targets: list[str]
    quick: bool
    measure_ms: int


class Round:
    """One pass over the cells, with an upstream of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stack = ExitStack()
        self.slow: dict[str, Server] = {}
        self._postgres: stores.Postgres | None = None

    def __enter__(self) -> Round:
        self.upstream = self.stack.enter_context(servers.running(servers.upstream()))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @property
    def postgres(self) -> stores.Postgres:
        """A private server, which is there for the rest of the round."""
        if self._postgres is None:
            self._postgres = self.stack.enter_context(stores.postgres())
        return self._postgres

    def server(self, target: str, **options: object) -> Server:
        match target:
            case "nginx":
                return servers.nginx(self.upstream)
            case "nginx-log":
                return servers.nginx(self.upstream, log=True)
            case "haproxy":
                return servers.haproxy(self.upstream)
            case "portkey":
                return servers.portkey(self.upstream)
            case "minimal":
                return servers.minimal(self.upstream)
            case "mirrorgate":
                return servers.mirrorgate(self.settings.binary, self.upstream, **options)
            case "pooled":
                return servers.python_wrapper("pooled", 2, self.upstream)
            case "tutorial":
                return servers.python_wrapper("tutorial", 1, self.upstream)
            case "litellm":
                return servers.litellm(self.upstream)
        raise KeyError(target)

    def measure(self, target: str, kind: str, model: str, server: dict | None = None, **options: object) -> dict:
        """One load on a fresh process; slow ones take seconds to start, so its processes stay for the round."""
        if target == "direct":
            return load.call(self.upstream, self.upstream, kind, model, **options)
        if target in SLOW:
            # Its first calls take seconds, and it makes few in any time.
            options["warmup_ms"] = max(int(options.get("warmup_ms", 0)), 2000)
            longer = 6000 if target == "litellm" else 2500
            options["measure_ms"] = max(int(options.get("measure_ms", 0)), longer)
            if target not in self.slow:
                self.slow[target] = self.stack.enter_context(servers.running(self.server(target)))
            return load.call(self.slow[target], self.upstream, kind, model, **options)
        with servers.running(self.server(target, **(server or {}))) as process:
            return load.call(process, self.upstream, kind, model, **options)


@dataclass(frozen=True)
class Cell:
    name: str
    title: str
    targets: list[str]
    run: Callable[[Round, str], dict]


def of(settings: Settings) -> list[Cell]:
    connections = [1, 64] if settings.quick else CONNECTIONS
    cells = [_start()]
    cells += [_json(count, settings) for count in connections]
    cells.append(_streams_50(settings))
    cells.append(_lines(settings))
    for protocol in PROTOCOLS:
        for state in STATES:
            cells += [_chat(protocol, state, count, settings) for count in connections]
    for store in YARDSTICKS if stores.has_postgres() else ["sqlite"]:
        for state in ("new", "next"):
            cells += [_kept(store, state, count, settings) for count in (1, 64)]
    cells.append(_many_streams(1000, 60 if settings.quick else 100, FAST))
    if not settings.quick:
        cells.append(_many_streams(3000, 100, ["nginx", "minimal", "mirrorgate"]))
    cells += [_stale(settings), _left(), _health()]
    return [cell for cell in cells if any(target in settings.targets for target in cell.targets)]


def _start() -> Cell:
    def run(round: Round, target: str) -> dict:
        fast = target not in SLOW
        starts, resident = [], 0
        for _ in range((3 if round.settings.quick else 7) if fast else 1):
            with servers.running(round.server(target)) as process:
                starts.append(process.started_in * 1e3)
                # Long enough for the allocator and the threads to have settled.
                time.sleep(0.5)
                resident = process.resident_bytes()
        return {"start_ms": sorted(starts)[len(starts) // 2], "resident_mb": resident / 1e6}

    return Cell("start", "Cold start and idle memory", ["nginx", "haproxy", "minimal", "mirrorgate", *SLOW], run)


def _closed(result: dict) -> dict:
    """The figures of calls that go round and round."""
    requests = result["requests"]
    latency = result["latency_us"] or {}
    return {
        "requests_per_second": result["requests_per_second"] or None,
        "p50_us": latency.get("p50"),
        "p99_us": latency.get("p99"),
        "cpu_us": result["cpu_us"] / requests if requests else None,
        "resident_mb": result["resident_bytes"] / 1e6,
        **_health_of(result),
    }


def _streamed(result: dict) -> dict:
    chunks = result["chunks"]
    part = lambda name, rank: (result[name] or {}).get(rank)  # noqa: E731
    stretch = part("stretch_ppm", "max")
    return {
        "cpu_chunk_us": result["cpu_us"] / chunks if chunks else None,
        "first_p50_us": part("first_us", "p50"),
        "first_p99_us": part("first_us", "p99"),
        "chunk_p50_us": part("transit_us", "p50"),
        "chunk_p99_us": part("transit_us", "p99"),
        # The load generator sums shares of a million in thousandths, as it does with nanoseconds.
        "stretch": stretch / 1e3 if stretch else None,
        "reads_per_chunk": result["reads"] / chunks if chunks else None,
        "resident_mb": result["resident_bytes"] / 1e6,
        **_health_of(result),
    }


def _health_of(result: dict) -> dict:
    return {
        "errors": sum(result["errors"].values()),
        "error_kinds": result["errors"],
        "foreign_share": result["foreign_share"],
        "stolen_share": result["stolen_share"],
    }


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def _check(target: str) -> str:
    # A server that parses and writes anew may do so with other blanks and fields.
    return "text" if target in ("tutorial", "portkey", "litellm") else "exact"


def _json(connections: int, settings: Settings) -> Cell:
    def run(round: Round, target: str) -> dict:
        options = {"connections": connections, "check": _check(target), "measure_ms": settings.measure_ms}
        return _closed(round.measure(target, "json", "json", **options))

    return Cell(f"v1-json-{connections}", f"`/v1` JSON, {_connections(connections)}", FAST + OTHERS + SLOW, run)


def _streams_50(settings: Settings) -> Cell:
    def run(round: Round, target: str) -> dict:
        options = {"connections": 50, "ramp_ms": 200, "check": _check(target)}
        options |= {"warmup_ms": 600, "measure_ms": max(settings.measure_ms, 1500)}
        return _streamed(round.measure(target, "events", "pace-100x5", **options))

    # Portkey's gateway 1.15.2 answers each stream of events with 500 on Node 20 ("TypeError: immutable").
    targets = [target for target in FAST + OTHERS + SLOW if target != "portkey"]
    return Cell("v1-stream-50", "`/v1` SSE, 50 streams, 5 ms a chunk", targets, run)


def _lines(settings: Settings) -> Cell:
    def run(round: Round, target: str) -> dict:
        raw = target in ("direct", "nginx")
        # Calls that begin together stay together, and lines that come together share a wake-up. So
        # they begin apart, which 212 ms do: over 16 calls that is no multiple of a line's 2 ms.
        options = {"connections": 16, "ramp_ms": 212, "warmup_ms": 700, "measure_ms": max(settings.measure_ms, 2000)}
        options |= {"check": "exact"} if raw else {}
        server = {"protocol": "web-chat", "settings": MEMORY} if target == "mirrorgate" else None
        result = round.measure(target, "lines" if raw else "chat", "pace-100x2", server=server, **options)
        return _closed(result)

    targets = [*FAST, "pooled", "tutorial"]
    return Cell("chat-lines", "`/api/chat`, NDJSON, 100 lines 2 ms apart, 16 connections", targets, run)


def _chat(protocol: str, state: str, connections: int, settings: Settings) -> Cell:
    def run(round: Round, target: str) -> dict:
        options: dict = {"connections": connections, "measure_ms": settings.measure_ms}
        kind, server = "chat", None
        if target == "mirrorgate":
            server = {"protocol": protocol, "settings": MEMORY if state == "unkept" else None}
            options["turns"] = TURNS if state == "next" else 0
        elif target in ("direct", "nginx"):
            kind = "lines" if protocol == "web-chat" else "events"
            options["check"] = "exact"
        return _closed(round.measure(target, kind, "burst-100", server=server, **options))

    targets = ["mirrorgate"]
    if state == "unkept":
        targets = ["nginx", "mirrorgate"] if protocol == "openai" else ["nginx", "minimal", "mirrorgate"]
    name = f"chat-{protocol}-{state}-{connections}"
    return Cell(name, f"`/api/chat`, {PROTOCOLS[protocol]}, {STATES[state]}, {_connections(connections)}", targets, run)


def _kept(store: str, state: str, connections: int, settings: Settings) -> Cell:
    """Turns that are kept, beside what the disk or the database does by itself."""

    def run(round: Round, target: str) -> dict:
        if target == "disk":
            return yardsticks.disk(settings.measure_ms)
        if target == "pgbench":
            return yardsticks.pgbench(round.postgres, connections, settings.measure_ms)
        place = None if store == "sqlite" else {"DATABASE_URL": round.postgres.cluster.new_database()}
        options = {"connections": connections, "measure_ms": settings.measure_ms}
        options["turns"] = TURNS if state == "next" else 0
        return _closed(round.measure(target, "chat", "burst-20", server={"settings": place}, **options))

    title = f"`/api/chat` kept in {store}, {STATES[state]}, {_connections(connections)}"
    return Cell(f"kept-{store}-{state}-{connections}", title, [YARDSTICKS[store], "mirrorgate"], run)


def _many_streams(count: int, tokens: int, targets: list[str]) -> Cell:
    def run(round: Round, target: str) -> dict:
        options = {"connections": count, "once": "yes", "ramp_ms": count, "check": _check(target)}
        settings = {"settings": {"MAX_STREAMS": str(count)}}
        return _streamed(round.measure(target, "events", f"pace-{tokens}x50", settings, **options))

    return Cell(f"v1-streams-{count}", f"`/v1` SSE, {count} streams at 20 tokens/s", targets, run)


def _stale(settings: Settings) -> Cell:
    """An upstream that closes idle connections just when they may be used again."""

    def run(round: Round, target: str) -> dict:
        with servers.running(servers.upstream(idle_close_ms=20)) as hasty:
            server = servers.mirrorgate(settings.binary, hasty) if target == "mirrorgate" else servers.nginx(hasty)
            with servers.running(server) as process:
                options = {"connections": 32, "think_ms": 20, "measure_ms": 2000, "check": "exact"}
                result = load.call(process, hasty, "json", "json", **options)
        return {"requests": result["requests"], **_health_of(result)}

    return Cell("stale", "Upstream closes connections after 20 ms idle", ["nginx", "mirrorgate"], run)


def _left() -> Cell:
    """A caller who leaves in mid-stream: how long until the upstream is told."""

    def run(round: Round, target: str) -> dict:
        took = []
        with servers.running(round.server(target)) as process:
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", process.port)) as caller:
                    body = json.dumps({"model": "pace-1000x20", "stream": True, "messages": [{"role": "user", "content": "x"}]})
                    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    caller.sendall((head + body).encode())
                    caller.settimeout(2)
                    caller.recv(4096)
                    time.sleep(0.1)
                    left = time.time_ns()
                deadline = time.monotonic() + 2
                while (told := _counts(round.upstream)["left_at"]) < left and time.monotonic() < deadline:
                    time.sleep(0.005)
                took.append((told - left) / 1e6 if told > left else 2000.0)
        return {"left_ms": max(took), "errors": 0}

    return Cell("left", "Caller gone, upstream closed", ["nginx", "minimal", "mirrorgate"], run)


def _counts(upstream: Server) -> dict:
    with urllib.request.urlopen(f"http://{upstream.address}/bench/counts", timeout=2) as answer:
        return json.load(answer)


def _health() -> Cell:
    """Liveness while slow calls run."""

    def run(round: Round, target: str) -> dict:
        with servers.running(round.server(target)) as process:
            command = [str(programs.RELEASE / "load"), "--target", process.address, "--path", load.PATHS["chat"]]
            command += ["--kind", "chat", "--model", "pace-60x50", "--key", KEY, "--connections", "64", "--once", "yes"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as slow:
                time.sleep(0.5)
                times = []
                for _ in range(50):
                    begin = time.perf_counter()
                    with urllib.request.urlopen(f"http://{process.address}/health", timeout=5) as answer:
                        answer.read()
                    times.append((time.perf_counter() - begin) * 1e3)
                    time.sleep(0.02)
                result = json.loads(slow.communicate(timeout=120)[0])
        times.sort()
        return {"health_p50_ms": times[len(times) // 2], "health_max_ms": times[-1], **_health_of(result)}

    return Cell("health", "`/health` while 64 slow `/api/chat` calls run", ["mirrorgate"], run)
