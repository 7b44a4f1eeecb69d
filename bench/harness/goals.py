"""What the figures are to be, and whether they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import cells

if TYPE_CHECKING:
    from .results import Results


@dataclass
class Goal:
    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> list[str]:
        sign = "at least" if self.at_least else "at most"
        verdict = {None: "not measured", True: "met", False: "**missed**"}[self.met]
        shown = "-" if self.value is None else f"{_number(self.value)}{self.unit}"
        return [self.what, f"{sign} {_number(self.limit)}{self.unit}", shown, verdict]


def goals(results: Results) -> list[Goal]:
    mg = "mirrorgate"

    def errors(cell: str) -> float | None:
        return float(results.errors(cell, mg)) if results.has(cell, mg) else None

    def above(store: str) -> float | None:
        """How much longer a turn takes than what it is measured by, in milliseconds, new or going on."""
        yardstick = cells.YARDSTICKS[store]
        both = [results.difference(f"kept-{store}-{state}-1", mg, yardstick, "p50_us") for state in ("new", "next")]
        return max((value / 1e3 for value in both if value is not None), default=None)

    first = results.difference("v1-stream-50", mg, "nginx", "first_p50_us")
    binary = results.facts.get("binary_bytes")
    listed = [
        Goal("CPU of a `/v1` JSON request, 64 connections, to nginx", results.ratio("v1-json-64", mg, "nginx", "cpu_us"), 1.7, "x"),
        Goal("Requests/s of `/v1` JSON, 64 connections, to nginx", results.ratio("v1-json-64", mg, "nginx", "requests_per_second"), 0.75, "x", at_least=True),
        Goal("CPU of a streamed chunk, 50 streams, to nginx", results.ratio("v1-stream-50", mg, "nginx", "cpu_chunk_us"), 1.1, "x"),
        Goal("Time to the first chunk, p50, above nginx", first and first / 1e3, 0.3, " ms"),
        Goal("CPU of `/api/chat` over NDJSON, lines 2 ms apart, to minimal actix + awc", results.ratio("chat-lines", mg, "minimal", "cpu_us"), 1.15, "x"),
        Goal("CPU of `/api/chat` kept, NDJSON of 100 lines at once, 64 connections, to minimal, which keeps nothing", results.ratio("chat-web-chat-new-64", mg, "minimal", "cpu_us", "chat-web-chat-unkept-64"), 1.6, "x"),
        Goal("A turn kept in SQLite, 1 connection, p50 above fdatasync", above("sqlite"), 0.4, " ms"),
        Goal("A turn kept in PostgreSQL, 1 connection, p50 above pgbench's INSERT", above("postgres"), 0.5, " ms"),
        Goal("Turns/s kept in SQLite, 64 connections", results.median("kept-sqlite-new-64", mg, "requests_per_second"), 10_000, at_least=True),
        Goal("Turns/s kept in PostgreSQL, 64 connections, to pgbench", results.ratio("kept-postgres-new-64", mg, "pgbench", "requests_per_second"), 0.6, "x", at_least=True),
        Goal("1,000 streams at 20 tokens/s: longest to ideal time", results.median("v1-streams-1000", mg, "stretch"), 1.02, "x"),
        Goal("1,000 streams: errors", errors("v1-streams-1000"), 0),
        Goal("1,000 streams: RSS", results.median("v1-streams-1000", mg, "resident_mb"), 96, " MB"),
        Goal("3,000 streams: errors", errors("v1-streams-3000"), 0),
        Goal("3,000 streams: RSS", results.median("v1-streams-3000", mg, "resident_mb"), 200, " MB"),
        Goal("Upstream closes connections after 20 ms idle: errors", errors("stale"), 0),
        Goal("Caller gone in mid-stream, upstream closed", results.median("left", mg, "left_ms"), 50, " ms"),
        Goal("`/health` while 64 slow calls run, slowest of 50", results.median("health", mg, "health_max_ms"), 10, " ms"),
        Goal("Idle RSS", results.median("start", mg, "resident_mb"), 14, " MB"),
        Goal("Cold start, the store is there", results.median("start", mg, "start_ms"), 15, " ms"),
        Goal("Binary", binary and binary / 1e6, 13, " MB"),
    ]
    return listed


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3f}".rstrip("0") if abs(value) < 2 else f"{value:.1f}"
