"""What is measured: every cell is a load, and the targets that it is put on."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import postgres

from . import load, servers, stores, yardsticks
from .servers import KEY, Server

FAST = ["direct", "nginx", "minimal", "mirrorgate"]
# What others would pick as well, in the cells that all of them can do.
OTHERS = ["nginx-log", "haproxy"]
SLOW = ["pooled", "tutorial", "portkey", "litellm"]
# Portkey's gateway 1.15.2 answers each stream of events with 500 on Node 20 ("TypeError: immutable").
STREAMING = FAST + OTHERS + [target for target in SLOW if target != "portkey"]
# What passes the upstream's bytes on, and what parses them and may write them anew with other blanks and fields.
RAW = ["direct", "nginx"]
REWRITING = ["tutorial", "portkey", "litellm"]
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
TURNS = {"unkept": 0, "new": 0, "next": 10}


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
        self._cluster: postgres.Cluster | None = None

    def __enter__(self) -> Round:
        self.upstream = self.stack.enter_context(servers.running(servers.server("upstream")))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @property
    def cluster(self) -> postgres.Cluster:
        """A private PostgreSQL, which is there for the rest of the round."""
        self._cluster = self._cluster or self.stack.enter_context(stores.cluster())
        return self._cluster

    def server(self, target: str, protocol: str = "openai", settings: dict | None = None) -> Server:
        if target == "mirrorgate":
            return servers.mirrorgate(self.settings.binary, self.upstream, protocol, settings)
        return servers.server(target, self.upstream)

    def call(self, target: str, cell: Cell, **options: object) -> dict:
        """One load on a fresh process; slow ones take seconds to start, so theirs stay for the round."""
        is_raw = bool(cell.raw) and target in RAW
        check = "text" if target in REWRITING else "exact"
        options = {"measure_ms": self.settings.measure_ms, "check": check, **cell.options, **options}
        call = (cell.raw if is_raw else cell.kind, cell.model)
        if target == "direct":
            return load.call(self.upstream, self.upstream, *call, **options)
        if target in SLOW:
            # Its first calls take seconds, and it makes few in any time.
            options["warmup_ms"] = max(options.get("warmup_ms", 0), 2000)
            options["measure_ms"] = max(options["measure_ms"], 6000 if target == "litellm" else 2500)
            if target not in self.slow:
                self.slow[target] = self.stack.enter_context(servers.running(self.server(target)))
            return load.call(self.slow[target], self.upstream, *call, **options)
        with servers.running(self.server(target, cell.protocol, cell.settings)) as process:
            beside = {"start_ms": process.started_in * 1e3, "idle_mb": process.memory() / 1e6}
            result = load.call(process, self.upstream, *call, **options)
            return result | {"beside": beside | cell.after(self, process)}


def closed(result: dict) -> dict:
    """The figures of calls that go round and round."""
    requests = result["requests"]
    latency = result["latency_us"] or {}
    return {
        "requests_per_second": result["requests_per_second"] or None,
        "p50_us": latency.get("p50"),
        "p99_us": latency.get("p99"),
        "cpu_us": result["cpu_us"] / requests if requests else None,
        "resident_mb": result["resident_bytes"] / 1e6,
        **health_of(result),
    }


def streamed(result: dict) -> dict:
    chunks = result["chunks"]
    first, transit, stretch = (result[name] or {} for name in ("first_us", "transit_us", "stretch_ppm"))
    return {
        "cpu_chunk_us": result["cpu_us"] / chunks if chunks else None,
        "first_p50_us": first.get("p50"),
        "chunk_p50_us": transit.get("p50"),
        "chunk_p99_us": transit.get("p99"),
        # The load generator sums shares of a million in thousandths, as it does with nanoseconds.
        "stretch": stretch["max"] / 1e3 if stretch else None,
        "resident_mb": result["resident_bytes"] / 1e6,
        **health_of(result),
    }


def health_of(result: dict) -> dict:
    return {
        "errors": sum(result["errors"].values()),
        "error_kinds": result["errors"],
        "foreign_share": result["foreign_share"],
        "stolen_share": result["stolen_share"],
        **result.get("beside", {}),
    }


@dataclass(frozen=True)
class Cell:
    name: str
    targets: list[str]
    kind: str = "json"
    model: str = "json"
    # What those are asked instead that pass the upstream's bytes on.
    raw: str = ""
    # Of mirrorgate, and of its upstream.
    settings: dict[str, str] = field(default_factory=dict)
    protocol: str = "openai"
    options: dict = field(default_factory=dict)
    figures: Callable[[dict], dict] = closed
    # What is measured of the process when it was called.
    after: Callable[[Round, Server], dict] = lambda round, process: {}
    # Where more is done than to call.
    measure: Callable[[Round, str, Cell], dict] | None = None

    def run(self, round: Round, target: str) -> dict:
        return self.measure(round, target, self) if self.measure else self.figures(round.call(target, self))


def of(settings: Settings) -> list[Cell]:
    counts = [1, 64] if settings.quick else CONNECTIONS
    cells = [Cell("start", ["nginx", "haproxy", "minimal", "mirrorgate", *SLOW], measure=_start)]
    cells += [Cell(f"v1-json-{count}", FAST + OTHERS + SLOW, options={"connections": count}) for count in counts]
    cells += [_streams_50(settings), _lines(settings)]
    cells += [_chat(protocol, state, count) for protocol in PROTOCOLS for state in STATES for count in counts]
    for store in YARDSTICKS if stores.has_postgres() else ["sqlite"]:
        cells += [_kept(store, state, count) for state in ("new", "next") for count in (1, 64)]
    cells.append(_many_streams(1000, 60 if settings.quick else 100, FAST))
    if not settings.quick:
        cells.append(_many_streams(3000, 100, FAST[1:]))
    cells.append(Cell("stale", ["nginx", "mirrorgate"], measure=_stale))
    cells.append(Cell("left", FAST[1:], measure=_left))
    cells.append(Cell("health", ["mirrorgate"], measure=_health))
    return [cell for cell in cells if any(target in settings.targets for target in cell.targets)]


def _streams_50(settings: Settings) -> Cell:
    span = {"warmup_ms": 600, "measure_ms": max(settings.measure_ms, 1500)}
    options = {"connections": 50, "ramp_ms": 200, **span}
    return Cell("v1-stream-50", STREAMING, "events", "pace-100x5", options=options, figures=streamed)


def _lines(settings: Settings) -> Cell:
    # Calls that begin together stay together, and lines that come together share a wake-up. So
    # they begin apart, which 212 ms do: over 16 calls that is no multiple of a line's 2 ms.
    options = {"connections": 16, "ramp_ms": 212, "warmup_ms": 700, "measure_ms": max(settings.measure_ms, 2000)}
    targets = [*FAST, "pooled", "tutorial"]
    return Cell("chat-lines", targets, "chat", "pace-100x2", "lines", MEMORY, "web-chat", options)


def _chat(protocol: str, state: str, count: int) -> Cell:
    targets, settings = ["mirrorgate"], {}
    if state == "unkept":
        targets, settings = ["nginx", *(["minimal"] if protocol == "web-chat" else []), "mirrorgate"], MEMORY
    raw = "lines" if protocol == "web-chat" else "events"
    options = {"connections": count, "turns": TURNS[state]}
    return Cell(f"chat-{protocol}-{state}-{count}", targets, "chat", "burst-100", raw, settings, protocol, options)


def _kept(store: str, state: str, count: int) -> Cell:
    """Turns that are kept, beside what the disk or the database does by itself."""

    def measure(round: Round, target: str, cell: Cell) -> dict:
        if target == "disk":
            return yardsticks.disk(round.settings.measure_ms)
        if target == "pgbench":
            return yardsticks.pgbench(round.cluster, count, round.settings.measure_ms)
        if store == "postgres":
            cell = replace(cell, settings={"DATABASE_URL": round.cluster.new_database()})
        return closed(round.call(target, cell))

    targets, options = [YARDSTICKS[store], "mirrorgate"], {"connections": count, "turns": TURNS[state]}
    return Cell(f"kept-{store}-{state}-{count}", targets, "chat", "burst-20", options=options, measure=measure)


def _many_streams(count: int, tokens: int, targets: list[str]) -> Cell:
    load = {"kind": "events", "model": f"pace-{tokens}x50", "figures": streamed}
    options = {"connections": count, "once": True, "ramp_ms": count}
    return Cell(f"v1-streams-{count}", targets, settings={"MAX_STREAMS": str(count)}, options=options, **load)


def _start(round: Round, target: str, cell: Cell) -> dict:
    """In an empty folder, and once more in that one, where the store is there."""
    first, again, resident = [], [], 0
    for _ in range(1 if target in SLOW else 3 if round.settings.quick else 7):
        with servers.running(round.server(target)) as process:
            first.append(process.started_in * 1e3)
            # Long enough for the allocator and the threads to have settled.
            time.sleep(0.5)
            resident = process.memory()
            process.stop()
            again.append(process.start() * 1e3)
    first_ms, start_ms = (sorted(starts)[len(starts) // 2] for starts in (first, again))
    return {"first_ms": first_ms, "start_ms": start_ms, "resident_mb": resident / 1e6}


def _stale(round: Round, target: str, cell: Cell) -> dict:
    """An upstream that closes idle connections just when they may be used again."""
    with servers.running(servers.server("upstream", IDLE="20")) as hasty:
        server = servers.server(target, hasty, BINARY=str(round.settings.binary))
        with servers.running(server) as process:
            options = {"connections": 32, "think_ms": 20, "measure_ms": 2000, "check": "exact"}
            result = load.call(process, hasty, "json", "json", **options)
    return {"requests": result["requests"], **health_of(result)}


def _left(round: Round, target: str, cell: Cell) -> dict:
    """A caller who leaves in mid-stream: how long until the upstream is told."""
    body = json.dumps({"model": "pace-1000x20", "stream": True, "messages": [{"role": "user", "content": "x"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    took = []
    with servers.running(round.server(target)) as process:
        for _ in range(5):
            with socket.create_connection((servers.HOST, process.port)) as caller:
                caller.sendall((head + body).encode())
                caller.settimeout(2)
                caller.recv(4096)
                time.sleep(0.1)
                left = time.time_ns()
            deadline = time.monotonic() + 2
            while (told := _left_at(round.upstream)) < left and time.monotonic() < deadline:
                time.sleep(0.005)
            took.append((told - left) / 1e6 if told > left else 2000.0)
    return {"left_ms": max(took), "errors": 0}


def _left_at(upstream: Server) -> int:
    """When a caller last left the upstream."""
    return json.loads(_get(upstream, "/bench/counts"))["left_at"]


def _get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{server.address}{path}", timeout=5) as answer:
        return answer.read()


def _health(round: Round, target: str, cell: Cell) -> dict:
    """Liveness while slow calls run."""
    with servers.running(round.server(target)) as process:
        slow = load.begin(process, round.upstream, "chat", "pace-60x50", connections=64, once=True)
        time.sleep(0.5)
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            _get(process, "/health")
            times.append((time.perf_counter() - begin) * 1e3)
            time.sleep(0.02)
        result = load.end(slow, process)
    return {"health_max_ms": max(times), **health_of(result)}
