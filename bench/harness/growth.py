"""What bench/growth measures: the same call beside more and more of what there is, a cell for each size."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from . import load, servers, stores
from .cells import Cell, Round, Settings, closed, streamed
from .report import CHUNK_P50, CHUNK_P99, ERRORS, P50, P99, RSS, Column, cpu_of, median, rate_of, row, titled
from .results import Results
from .servers import Server
from .tables import ms, tenths, times, whole

STREAMS = [1, 10, 100, 1000, 3000]
TURNS = [1, 10, 100, 1000, 10_000]
STORED = [0, 1000, 10_000, 100_000, 1_000_000]
OWNED = [1, 100, 10_000]
KEYS = [1, 100, 10_000]
# What a key may, in words and as the store has it.
LIMITS = {
    "none": None,
    "1,000,000 questions a minute": {"requests_per_minute": 1_000_000},
    "1,000,000 at once": {"parallel": 1_000_000},
    "10^12 tokens a day": {"tokens_per_day": 10**12},
}
# Upstreams, and models that each offers.
UPSTREAMS = [(1, 1), (2, 1), (5, 1), (10, 1), (20, 1), (50, 1), (1, 300), (50, 300)]
# Below so much of its limit, what is kept for a key is not summed up at each turn.
MARGIN = 4 << 20
# How long it is looked at while nobody asks, in seconds: twice the store's keys are read again.
IDLE = 4.0
TARGET = "mirrorgate"


class Growth:
    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings, self.stack = settings, stack

    def cells(self, name: str) -> tuple[list[Cell], dict[str, dict]]:
        """The cells of a table, and what each is about, with which its row begins."""
        cells, abouts = [], {}
        for about, more in getattr(self, name)():
            cells.append(Cell("-".join([name, *map(str, about.values())]), [TARGET], **more))
            abouts[cells[-1].name] = about
        return cells, abouts

    def sizes(self, all_sizes: list, without_last: int = 0) -> list:
        """With --quick the ends of a list, or all but the largest, which take longest to make."""
        if not self.settings.quick:
            return all_sizes
        return all_sizes[:-without_last] if without_last else [all_sizes[0], all_sizes[-1]]

    def store(self) -> stores.Store:
        return self.stack.enter_context(stores.store(self.settings.binary))

    def filled(self, protocol: str, count: int, turns: int) -> stores.Store:
        print(f"filling a store: {count} conversations of {turns} turns", file=sys.stderr, flush=True)
        store = self.store()
        store.fill(protocol, count, turns)
        return store

    def streams(self) -> list[tuple[dict, dict]]:
        settings = {"MAX_STREAMS": str(max(STREAMS))}
        load = {"kind": "events", "model": "pace-60x50", "figures": streamed, "settings": settings}
        spans = {count: {"connections": count, "once": True, "ramp_ms": min(count, 1000)} for count in STREAMS}
        return [({"streams": count}, load | {"options": spans[count]}) for count in self.sizes(STREAMS, 1)]

    def turns(self) -> list[tuple[dict, dict]]:
        cells = []
        for turns in self.sizes(TURNS, 1):
            # Many conversations, each used a few times, so that none grows much by the measurement.
            count = max(20, min(stores.MOST_USED, 200_000 // turns))
            for protocol in ("openai", "web-chat"):
                store = self.filled(protocol, count, turns)
                cells.append(({"turns": turns, "protocol": protocol}, going_on(store, protocol)))
        return cells

    def stored(self) -> list[tuple[dict, dict]]:
        cells = []
        for count in self.sizes(STORED, 2):
            store = self.filled("openai", count, 1)
            later = partial(again, "next_p50_us", conversations=store.used) if count else nothing
            # All are one key's, for which there are to be no bounds.
            settings = store.settings | {"KEY_STORAGE_BYTES": "0"}
            options = {"options": {"connections": 16}, "settings": settings, "after": partial(with_size, store, later)}
            cells.append(({"stored": count}, CHAT | options))
        return cells

    def owned(self) -> list[tuple[dict, dict]]:
        cells = []
        for count in self.sizes(OWNED):
            store = self.filled("web-chat", count, 1)
            call = going_on(store, "web-chat") | {"after": page, "measure": partial(near_the_limit, store)}
            cells.append(({"owned": count}, call))
        return cells

    def keys(self) -> list[tuple[dict, dict]]:
        cells = []
        for count in self.sizes(KEYS):
            file = self.stack.enter_context(stores.keys_file(count))
            store = self.store()
            store.add_keys(count)
            for place, settings in {"environment": file, "store": store.settings}.items():
                cells.append(({"keys": count, "place": place}, AT_16 | {"settings": settings, "after": idle}))
        return cells

    def limits(self) -> list[tuple[dict, dict]]:
        cells = []
        for what, limits in LIMITS.items():
            store = self.store()
            store.add_keys(1, limits)
            alone = partial(again, "alone_p50_us", kind="json", model="json")
            cells.append(({"limit": what}, AT_16 | {"settings": store.settings, "after": alone}))
        return cells

    def upstreams(self) -> list[tuple[dict, dict]]:
        cells = []
        for count, models in [UPSTREAMS[place] for place in (0, 2, -1)] if self.settings.quick else UPSTREAMS:
            # One process stands for all: it takes a path before the protocol's own.
            urls = ",".join(f"http://$UPSTREAM/{number}/v1" for number in range(count))
            names = ",".join([*(f"model-{number}" for number in range(models - 1)), "json"])
            settings = {"UPSTREAM_URL": urls, "MODELS": names}
            cells.append(({"upstreams": count, "models": models}, AT_16 | {"settings": settings}))
        return cells

    def replicas(self) -> list[tuple[dict, dict]]:
        counts = (1, 2) if stores.has_postgres() else ()
        return [({"replicas": count}, {"measure": partial(behind_nginx, count)}) for count in counts]


# --- calls ---

CHAT = {"kind": "chat", "model": "burst-20"}
AT_16 = {"options": {"connections": 16}}


def going_on(store: stores.Store, protocol: str) -> dict:
    """One connection goes on with conversations of a store."""
    options = {"connections": 1, "conversations": store.used}
    return CHAT | {"protocol": protocol, "settings": store.settings, "options": options}


def nothing(round: Round, process: Server) -> dict:
    return {}


def again(name: str, round: Round, process: Server, kind: str = "chat", model: str = "burst-20", **options: object) -> dict:
    """Half of the calls, by one connection."""
    options = {"connections": 1, "measure_ms": round.settings.measure_ms, **options}
    return {name: closed(load.call(process, round.upstream, kind, model, **options))["p50_us"]}


def with_size(store: stores.Store, later: Callable[[Round, Server], dict], round: Round, process: Server) -> dict:
    return {"file_mb": store.size() / 1e6} | later(round, process)


def page(round: Round, process: Server) -> dict:
    return {"page_us": load.read_back(process, "/api/conversations?limit=1", 100)}


def near_the_limit(store: stores.Store, round: Round, target: str, cell: Cell) -> dict:
    seen = closed(round.call(target, cell))
    settings = store.settings | {"KEY_STORAGE_BYTES": str(store.kept_bytes() + MARGIN)}
    near = closed(round.call(target, replace(cell, settings=settings, after=nothing)))
    return seen | {"near_us": near["cpu_us"], "errors": seen["errors"] + near["errors"]}


def idle(round: Round, process: Server) -> dict:
    """The part of a core that it takes while nobody asks."""
    before = process.cpu_us()
    time.sleep(IDLE)
    return {"idle_share": (process.cpu_us() - before) / IDLE / 1e6}


def behind_nginx(count: int, round: Round, target: str, cell: Cell) -> dict:
    with ExitStack() as stack:
        cluster = stack.enter_context(stores.cluster())
        settings = {"DATABASE_URL": cluster.new_database()}
        made = [round.server("mirrorgate", settings=settings) for _ in range(count)]
        replicas = [stack.enter_context(servers.running(replica)) for replica in made]
        front = stack.enter_context(servers.running(servers.server("nginx", *replicas)))
        # The pools of the replicas open their connections now, each a process of the database.
        load.call(front, round.upstream, "chat", "burst-20", connections=32, measure_ms=500)
        options = {"connections": 32, "turns": 10, "measure_ms": round.settings.measure_ms, "warmup_ms": 500}
        options["pids"] = [pid for replica in replicas for pid in replica.pids()]
        options["own_pids"] = [*front.pids(), *round.upstream.pids(), *servers.family(cluster.process.pid)]
        seen = load.call(front, round.upstream, "chat", "burst-20", **options)
    return closed(seen) | {"everything_us": (seen["cpu_us"] + seen["own_cpu_us"]) / max(seen["requests"], 1)}


# --- tables ---

START: Column = ("start ms", median("start_ms", whole))


def to_the_first(results: Results, cell: str, target: str = TARGET) -> float | None:
    """CPU time within a round, where both had the same neighbours."""
    first = next(name for name in results.rounds if name.partition("-")[0] == cell.partition("-")[0])
    return results.ratio(cell, target, target, "cpu_us", first)


def kb_of_each(results: Results, cell: str, target: str) -> str:
    grown = statistics.median(values["resident_mb"] - values["idle_mb"] for values in results.of(cell, target))
    return whole(grown * 1e3 / int(cell.rpartition("-")[2]))


RATIO: Column = ("to the first", lambda *of: times(to_the_first(*of)))
# By the name of a function of `Growth`.
TABLES: dict[str, tuple[str, str, list[str], list[Column]]] = {
    "streams": (
        "Streams at once",
        "`/v1` SSE, 20 tokens a second each; a single stream wakes an idle processor for each chunk.",
        ["streams"],
        [cpu_of("chunk", "cpu_chunk_us"), CHUNK_P50, CHUNK_P99, RSS, ("KB/stream", kb_of_each), ERRORS],
    ),
    "turns": (
        "Turns of a conversation",
        "One connection goes on with a conversation; at most HISTORY_MAX_MESSAGES of its messages are sent again, "
        "so cost may grow up to there.",
        ["turns", "protocol"],
        [cpu_of("call"), P50, P99, ERRORS],
    ),
    "stored": (
        "Stored conversations",
        "One turn each, filled in by SQL; then 16 connections begin new ones, and one goes on with an old one.",
        ["conversations"],
        [cpu_of("call"), ("new p50 ms", median("p50_us", ms)), ("goes on p50 ms", median("next_p50_us", ms))]
        + [START, RSS, ("file MB", median("file_mb", whole)), ERRORS],
    ),
    "owned": (
        "Conversations of one key",
        "One connection goes on with a conversation before a web chat; a page is `GET /api/conversations?limit=1`; "
        "near the limit, `KEY_STORAGE_BYTES` is almost reached.",
        ["conversations"],
        [cpu_of("turn"), RATIO, cpu_of("turn near the limit", "near_us"), cpu_of("page", "page_us"), P50, ERRORS],
    ),
    "keys": (
        "Keys",
        "`/v1` JSON at 16 connections with one of the keys. While somebody has asked in the last five minutes, the "
        "store's keys are read every 2 seconds: that is the time while idle, in parts of a core.",
        ["keys", "kept in"],
        [cpu_of("request"), RATIO, ("CPU while idle", median("idle_share", tenths)), P50, START, RSS, ERRORS],
    ),
    "limits": (
        "Limits of a key",
        "`/v1` JSON at 16 connections with a key that has a limit which it does not reach, in SQLite. Limits are "
        "counted in the store, so that replicas count together.",
        ["limit"],
        [cpu_of("request"), RATIO, rate_of("requests"), P50, P99, ("p50 ms, 1 connection", median("alone_p50_us", ms)), ERRORS],
    ),
    "upstreams": (
        "Upstreams",
        "`/v1` JSON at 16 connections; all upstreams offer the model, and are well.",
        ["upstreams", "models of each"],
        [cpu_of("request"), RATIO, P50, P99, START, RSS, ERRORS],
    ),
    "replicas": (
        "Replicas",
        "`/api/chat` kept in PostgreSQL, 32 connections, conversations of 10 turns whose calls nginx spreads over the "
        f"replicas. With {os.cpu_count()} cores for everything, one process uses them up: what a replica adds shows as "
        "CPU time a call that stays the same.",
        ["replicas"],
        [cpu_of("call, mirrorgate"), cpu_of("call, all processes", "everything_us"), rate_of("calls"), P50, P99, ERRORS],
    ),
}


def section(name: str, cells: dict[str, dict], results: Results) -> list[str]:
    """A table; `cells` says of each what it is about."""
    title, note, words, columns = TABLES[name]
    if not cells:
        return ["", f"## {title}", "", "Not measured: PostgreSQL is not installed (`apt-get install postgresql`)."]
    rows = [row(results, [written(word) for word in about.values()], columns, cell, TARGET) for cell, about in cells.items()]
    return titled(title, note, [*words, *(head for head, _ in columns)], rows)


def written(word: int | str) -> str:
    return f"{word:,}" if isinstance(word, int) else word
