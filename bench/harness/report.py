"""Medians, ratios, goals, and the tables that show them."""

from __future__ import annotations

import statistics
from typing import Callable, Iterable

from . import cells
from .goals import goals

NAMES = {
    "direct": "direct, no proxy",
    "nginx": "nginx, plain proxy",
    "nginx-log": "nginx, a line of JSON a request",
    "haproxy": "HAProxy, plain proxy",
    "minimal": "minimal actix + awc",
    "mirrorgate": "**mirrorgate**",
    "pooled": "FastAPI + httpx, 2 workers",
    "tutorial": "FastAPI + requests",
    "portkey": "Portkey's gateway",
    "litellm": "LiteLLM proxy",
    "disk": "the disk, fdatasync",
    "pgbench": "pgbench, one INSERT",
}

# A round in which others took more of the machine than this does not count, if enough others do.
QUIET_SHARE = 0.10


class Results:
    """The rounds of every cell and target."""

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, list[dict]]] = {}
        self.facts: dict[str, float] = {}

    def add(self, cell: str, target: str, number: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if value is not None}
        self.rounds.setdefault(cell, {}).setdefault(target, []).append({"round": number, **values})

    def has(self, cell: str, target: str) -> bool:
        return target in self.rounds.get(cell, {})

    def counted(self, cell: str, target: str) -> list[dict]:
        """The quiet rounds, where there are two at least; else all."""
        rounds = self.rounds.get(cell, {}).get(target, [])
        quiet = [values for values in rounds if values.get("foreign_share", 0) <= QUIET_SHARE]
        return quiet if len(quiet) >= 2 else rounds

    def median(self, cell: str, target: str, metric: str) -> float | None:
        values = [values[metric] for values in self.counted(cell, target) if values.get(metric) is not None]
        return statistics.median(values) if values else None

    def compared(
        self, cell: str, target: str, other: str, metric: str, how: Callable[[float, float], float], beside: str = ""
    ) -> float | None:
        """The median over rounds of a comparison within the round: what slows both leaves it alone. `beside` is
        the other's cell where that is another one."""
        others = {values["round"]: values for values in self.counted(beside or cell, other)}
        pairs = [
            (values[metric], others[values["round"]].get(metric))
            for values in self.counted(cell, target)
            if values["round"] in others and values.get(metric) is not None
        ]
        results = [how(mine, theirs) for mine, theirs in pairs if theirs]
        if results:
            return statistics.median(results)
        mine, theirs = self.median(cell, target, metric), self.median(beside or cell, other, metric)
        return how(mine, theirs) if mine is not None and theirs else None

    def ratio(self, cell: str, target: str, other: str, metric: str, beside: str = "") -> float | None:
        return self.compared(cell, target, other, metric, lambda mine, theirs: mine / theirs, beside)

    def difference(self, cell: str, target: str, other: str, metric: str) -> float | None:
        return self.compared(cell, target, other, metric, lambda mine, theirs: mine - theirs)

    def errors(self, cell: str, target: str) -> int:
        return sum(values.get("errors", 0) for values in self.rounds.get(cell, {}).get(target, []))

    def spread(self, cell: str, target: str, metric: str) -> float | None:
        values = [values[metric] for values in self.counted(cell, target) if values.get(metric)]
        return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None

    def medians(self) -> dict:
        table: dict = {}
        for cell, targets in self.rounds.items():
            for target, rounds in targets.items():
                metrics = {name for values in rounds for name, value in values.items() if isinstance(value, int | float)}
                table.setdefault(cell, {})[target] = {
                    name: self.median(cell, target, name) for name in sorted(metrics - {"round"})
                }
        return table

    def noise(self) -> str:
        """What can be said of the quietness of the run."""
        all_rounds = [v for targets in self.rounds.values() for rounds in targets.values() for v in rounds]
        foreign = [v["foreign_share"] for v in all_rounds if "foreign_share" in v]
        stolen = [v["stolen_share"] for v in all_rounds if "stolen_share" in v]
        spreads = [
            spread
            for cell, targets in self.rounds.items()
            for target in targets
            for metric in ("cpu_us", "cpu_chunk_us")
            if (spread := self.spread(cell, target, metric)) is not None
        ]
        if not foreign:
            return "Nothing was measured that noise could disturb."
        loud = sum(share > QUIET_SHARE for share in foreign)
        text = (
            f"Other processes took {statistics.median(foreign):.1%} of the processors in the median cell and "
            f"{max(foreign):.0%} in the worst; the host took {statistics.median(stolen):.1%} and {max(stolen):.0%} away. "
            f"{loud} of {len(foreign)} measurements were louder than {QUIET_SHARE:.0%}"
        )
        if spreads:
            text += (
                f". Between its rounds, the CPU time of a cell differed by {statistics.median(spreads):.0%} "
                f"in the median and {max(spreads):.0%} at most, (largest - smallest) / median"
            )
        return text + "."


def markdown(results: Results, about: dict[str, str], command: str, rounds: int) -> str:
    lines = [
        "# Results",
        "",
        f"`{command}` on {about['date']}, commit {about['commit']}: {rounds} {'round' if rounds == 1 else 'rounds, interleaved; medians of the quiet ones'}.",
        f"{about['processor']}, {about['cores']} cores, {about['system']}. Versions: {_versions(about)}.",
        "",
        "Load, upstream and the program under test share the cores, so requests/s compare programs and tell no",
        "program's capacity. CPU time is user and system time of the program's own processes. A ratio is the median of",
        "the ratios within each round. How it is measured: [README.md](README.md).",
        "",
        f"Noise: {results.noise()}",
    ]
    lines += ["", "## Goals", ""]
    lines += table(["goal", "limit", "measured", ""], [goal.row() for goal in goals(results)])
    lines += ["", "What those that are missed are spent on: [PROFILE.md](PROFILE.md)."]
    lines += _json_section(results)
    lines += _stream_section(results)
    lines += _kept_section(results)
    lines += _chat_section(results)
    lines += _rest_section(results)
    failed = [
        f"- {cell}, {target}: {kind} ({count})"
        for cell, targets in results.rounds.items()
        for target, all_rounds in targets.items()
        for kind, count in _kinds(all_rounds).items()
    ]
    if failed:
        lines += ["", "## Errors", "", *failed]
    return "\n".join(lines) + "\n"


def _kinds(rounds: list[dict]) -> dict[str, int]:
    total: dict[str, int] = {}
    for values in rounds:
        for kind, count in values.get("error_kinds", {}).items():
            total[kind] = total.get(kind, 0) + count
    return total


def _versions(about: dict[str, str]) -> str:
    names = ("rust", "nginx", "python", "fastapi", "uvicorn", "httpx", "requests", "haproxy", "portkey", "litellm")
    return ", ".join(f"{name} {about[name].removeprefix('rustc ').split(' ')[0]}" for name in names if name in about)


def _json_section(results: Results) -> list[str]:
    lines: list[str] = []
    for connections in cells.CONNECTIONS:
        cell = f"v1-json-{connections}"
        if cell not in results.rounds:
            continue
        word = "connection" if connections == 1 else "connections"
        lines += ["", f"## `/v1/chat/completions`, JSON of 1 KB, {connections} {word}", ""]
        lines += _closed_table(results, cell)
    return lines


def _closed_table(results: Results, cell: str) -> list[str]:
    rows = []
    for target in _targets(results, cell):
        own = "-" if target == "direct" else us(results.median(cell, target, "cpu_us"))
        rows.append([
            NAMES[target],
            own,
            times(results.ratio(cell, target, "nginx", "cpu_us")) if target not in ("direct", "nginx") else "",
            count(results.median(cell, target, "requests_per_second")),
            times(results.ratio(cell, target, "nginx", "requests_per_second")) if target != "nginx" else "",
            times(results.ratio(cell, target, "direct", "requests_per_second")) if target != "direct" else "",
            ms(results.median(cell, target, "p50_us")),
            ms(results.difference(cell, target, "direct", "p50_us")) if target != "direct" else "",
            ms(results.median(cell, target, "p99_us")),
            percent(results.spread(cell, target, "cpu_us")),
        ])
    header = ["", "CPU us/request", "to nginx", "requests/s", "to nginx", "to direct", "p50 ms", "less direct", "p99 ms", "spread"]
    return table(header, rows)


def _stream_section(results: Results) -> list[str]:
    lines: list[str] = []
    titles = {
        "v1-stream-50": "50 streams, a chunk every 5 ms",
        "v1-streams-1000": "1,000 streams at 20 tokens/s",
        "v1-streams-3000": "3,000 streams at 20 tokens/s",
    }
    for cell, title in titles.items():
        if cell not in results.rounds:
            continue
        rows = []
        for target in _targets(results, cell):
            own = "-" if target == "direct" else us(results.median(cell, target, "cpu_chunk_us"))
            rows.append([
                NAMES[target],
                own,
                times(results.ratio(cell, target, "nginx", "cpu_chunk_us")) if target not in ("direct", "nginx") else "",
                ms(results.median(cell, target, "first_p50_us")),
                ms(results.difference(cell, target, "nginx", "first_p50_us")) if target != "nginx" else "",
                ms(results.median(cell, target, "chunk_p50_us")),
                ms(results.median(cell, target, "chunk_p99_us")),
                _fixed(results.median(cell, target, "stretch"), 3),
                str(results.errors(cell, target)),
                "" if target == "direct" else megabytes(results.median(cell, target, "resident_mb")),
                percent(results.spread(cell, target, "cpu_chunk_us")),
            ])
        header = ["", "CPU us/chunk", "to nginx", "first chunk p50 ms", "less nginx", "a chunk's way p50 ms", "p99 ms", "stretch", "errors", "RSS MB", "spread"]
        lines += ["", f"## `/v1/chat/completions`, SSE: {title}", "", *table(header, rows)]
    return lines


def _chat_section(results: Results) -> list[str]:
    lines: list[str] = []
    if "chat-lines" in results.rounds:
        lines += ["", "## `/api/chat` over a web chat's NDJSON: 100 lines, 2 ms apart, 16 connections", ""]
        lines += ["nginx and the direct call pass the raw lines; the others read and join them.", ""]
        rows = []
        for target in _targets(results, "chat-lines"):
            cell = "chat-lines"
            rows.append([
                NAMES[target],
                "-" if target == "direct" else us(results.median(cell, target, "cpu_us")),
                times(results.ratio(cell, target, "nginx", "cpu_us")) if target not in ("direct", "nginx") else "",
                times(results.ratio(cell, target, "minimal", "cpu_us")) if target not in ("direct", "minimal") else "",
                percent(results.spread(cell, target, "cpu_us")),
            ])
        lines += table(["", "CPU us/call", "to nginx", "to minimal", "spread"], rows)
    for protocol, name in cells.PROTOCOLS.items():
        rows = []
        for state, title in cells.STATES.items():
            for connections in cells.CONNECTIONS:
                cell = f"chat-{protocol}-{state}-{connections}"
                for target in _targets(results, cell):
                    kept = title if target == "mirrorgate" else "raw bytes" if target == "nginx" else "lines joined"
                    rows.append([
                        NAMES[target],
                        kept,
                        str(connections),
                        us(results.median(cell, target, "cpu_us")),
                        count(results.median(cell, target, "requests_per_second")),
                        ms(results.median(cell, target, "p50_us")),
                        ms(results.median(cell, target, "p99_us")),
                        percent(results.spread(cell, target, "cpu_us")),
                    ])
        if rows:
            lines += ["", f"## `/api/chat` over {name}: 100 tokens at once", ""]
            header = ["", "conversation", "connections", "CPU us/call", "calls/s", "p50 ms", "p99 ms", "spread"]
            lines += table(header, rows)
    return lines


def _kept_section(results: Results) -> list[str]:
    rows = []
    for store, yardstick in cells.YARDSTICKS.items():
        for state in ("new", "next"):
            for connections in (1, 64):
                cell, mg = f"kept-{store}-{state}-{connections}", "mirrorgate"
                if not results.has(cell, mg):
                    continue
                rows.append([
                    NAMES[yardstick],
                    "new" if state == "new" else "goes on",
                    str(connections),
                    count(results.median(cell, yardstick, "requests_per_second")),
                    count(results.median(cell, mg, "requests_per_second")),
                    times(results.ratio(cell, mg, yardstick, "requests_per_second")),
                    ms(results.median(cell, yardstick, "p50_us")),
                    ms(results.median(cell, mg, "p50_us")),
                    ms(results.difference(cell, mg, yardstick, "p50_us")),
                    us(results.median(cell, mg, "cpu_us")),
                    percent(results.spread(cell, mg, "cpu_us")),
                ])
    if not rows:
        return []
    header = ["beside", "conversation", "connections", "its commits/s", "turns/s", "to it", "its p50 ms", "p50 ms", "above it", "CPU us/turn", "spread"]
    note = "`/api/chat` over OpenAI, SSE of 20 tokens at once. The disk writes 8 KiB and waits, one after the other; pgbench inserts a row of a turn's size over as many connections as there are callers, and mirrorgate has `DATABASE_POOL_SIZE` of them, 5."
    return ["", "## Turns that are kept, beside the disk and the database alone", "", note, "", *table(header, rows)]


def _rest_section(results: Results) -> list[str]:
    lines: list[str] = []
    if "start" in results.rounds:
        rows = [
            [NAMES[target], ms_of(results.median("start", target, "start_ms")), megabytes(results.median("start", target, "resident_mb"))]
            for target in _targets(results, "start")
        ]
        lines += ["", "## Cold start and idle memory", "", *table(["", "exec to a good `/health`, ms", "idle RSS MB"], rows)]
    return lines


def _targets(results: Results, cell: str) -> Iterable[str]:
    return [target for target in NAMES if results.has(cell, target)]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(cells_) + " |" for cells_ in [header, rule, *rows]]


def _fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def us(value: float | None) -> str:
    return _fixed(value, 1 if value is not None and value < 1000 else 0)


def ms(value: float | None) -> str:
    return "" if value is None else _fixed(value / 1e3, 2 if abs(value) < 10_000 else 1)


def ms_of(value: float | None) -> str:
    return _fixed(value, 1 if value is not None and value < 100 else 0)


def count(value: float | None) -> str:
    return _fixed(value, 0)


def megabytes(value: float | None) -> str:
    return _fixed(value, 1 if value is not None and value < 100 else 0)


def times(value: float | None) -> str:
    return "" if value is None else f"{_fixed(value, 2 if value < 10 else 0)}x"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
