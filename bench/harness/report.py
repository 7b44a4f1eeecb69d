"""The tables of bench/run: which figures stand in them, and in which words."""

from __future__ import annotations

from collections.abc import Callable

from . import cells
from .goals import goals
from .results import Results
from .servers import PROGRAMS
from .tables import Form, ms, percent, rounded, stretch, table, times, us, whole

NAMES = {
    "direct": "direct, no proxy",
    **{name: program.title for name, program in PROGRAMS.items()},
    "disk": "the disk, fdatasync",
    "pgbench": "pgbench, one INSERT",
}
# What is known of the machine beside versions.
PLACE = ("date", "processor", "cores", "system", "commit")

# What stands in a column for a cell and a target.
Figure = Callable[[Results, str, str], str]
Column = tuple[str, Figure]


def median(metric: str, form: Form, of: str = "") -> Figure:
    return lambda results, cell, target: form(results.median(cell, of or target, metric))


def ratio(metric: str, other: str) -> Figure:
    """To another target; what a process of its own takes is nothing of the upstream's that is asked directly."""
    blank = (other, "direct") if metric.startswith("cpu") else (other,)
    return lambda results, cell, target: "" if target in blank else times(results.ratio(cell, target, other, metric))


def less(metric: str, other: str) -> Figure:
    return lambda results, cell, target: "" if target == other else ms(results.difference(cell, target, other, metric))


def spread(metric: str) -> Figure:
    return lambda results, cell, target: percent(results.spread(cell, target, metric))


def of_a_proxy(figure: Figure, instead: str) -> Figure:
    return lambda results, cell, target: instead if target == "direct" else figure(results, cell, target)


def cpu_of(work: str, metric: str = "cpu_us") -> Column:
    return f"CPU us/{work}", of_a_proxy(median(metric, us), "-")


def to(other: str, metric: str = "cpu_us") -> Column:
    return f"to {other}", ratio(metric, other)


def rate_of(work: str) -> Column:
    return f"{work}/s", median("requests_per_second", whole)


P50: Column = ("p50 ms", median("p50_us", ms))
P99: Column = ("p99 ms", median("p99_us", ms))
CHUNK_P50: Column = ("a chunk's way p50 ms", median("chunk_p50_us", ms))
CHUNK_P99: Column = ("p99 ms", median("chunk_p99_us", ms))
SPREAD: Column = ("spread", spread("cpu_us"))
RSS: Column = ("RSS MB", of_a_proxy(median("resident_mb", rounded), ""))
ERRORS: Column = ("errors", lambda results, cell, target: str(results.errors(cell, target)))

JSON = [cpu_of("request"), to("nginx"), rate_of("requests")]
JSON += [to(other, "requests_per_second") for other in ("nginx", "direct")]
JSON += [P50, ("less direct", less("p50_us", "direct")), P99, SPREAD]
STREAMS = [cpu_of("chunk", "cpu_chunk_us"), to("nginx", "cpu_chunk_us"), ("first chunk p50 ms", median("first_p50_us", ms))]
STREAMS += [("less nginx", less("first_p50_us", "nginx")), CHUNK_P50, CHUNK_P99, ("stretch", median("stretch", stretch))]
STREAMS += [ERRORS, RSS, ("spread", spread("cpu_chunk_us"))]
LINES = [cpu_of("call"), to("nginx"), to("minimal"), SPREAD]
CHAT = [cpu_of("call"), rate_of("calls"), P50, P99, SPREAD]
START = [("first exec to a good `/health`, ms", median("first_ms", rounded)), ("the next, ms", median("start_ms", rounded)), ("idle RSS MB", median("resident_mb", rounded))]


def kept(yardstick: str) -> list[Column]:
    its_rate = ("its commits/s", median("requests_per_second", whole, of=yardstick))
    its_p50 = ("its p50 ms", median("p50_us", ms, of=yardstick))
    to_it = ("to it", ratio("requests_per_second", yardstick))
    return [its_rate, rate_of("turns"), to_it, its_p50, P50, ("above it", less("p50_us", yardstick)), cpu_of("turn"), SPREAD]


def lines(results: Results, about: dict[str, str], command: str, rounds: int) -> list[str]:
    how_often = "1 round" if rounds == 1 else f"{rounds} rounds, interleaved; medians of the quiet ones"
    versions = {name: about[name].removeprefix("rustc ").split(" ")[0] for name in about if name not in PLACE}
    written = [
        "# Results",
        "",
        f"`{command}` on {about['date']}, commit {about['commit']}: {how_often}.",
        f"{about['processor']}, {about['cores']} cores, {about['system']}. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        "Load, upstream and the program under test share the cores, so requests/s compare programs and tell no",
        "program's capacity. CPU time is user and system time of the program's own processes. A ratio is the median of",
        "the ratios within each round. How it is measured: [README.md](README.md).",
        "",
        f"Noise: {results.noise()}",
    ]
    written += ["", "## Goals", ""]
    written += table(["goal", "limit", "measured", ""], [goal.row() for goal in goals(results)])
    written += ["", "What those that are missed are spent on: [PROFILE.md](PROFILE.md)."]
    written += _completions(results) + _kept(results) + _chat(results)
    written += section(results, "Cold start and idle memory", "start", START)
    failed = [
        f"- {cell}, {target}: {kind} ({count})"
        for cell, target, _ in results.each()
        for kind, count in results.error_kinds(cell, target).items()
    ]
    if failed:
        written += ["", "## Errors", "", *failed]
    return written


def row(results: Results, words: list[str], columns: list[Column], cell: str, target: str) -> list[str]:
    return [*words, *(figure(results, cell, target) for _, figure in columns)]


def titled(title: str, note: str, header: list[str], rows: list[list[str]]) -> list[str]:
    noted = [note, ""] if note else []
    return ["", f"## {title}", "", *noted, *table(header, rows)] if rows else []


def section(results: Results, title: str, cell: str, columns: list[Column], note: str = "") -> list[str]:
    """One cell with a row for each target."""
    targets = [target for target in NAMES if results.has(cell, target)]
    rows = [row(results, [NAMES[target]], columns, cell, target) for target in targets]
    return titled(title, note, ["", *(head for head, _ in columns)], rows)


def _completions(results: Results) -> list[str]:
    lines: list[str] = []
    for count in cells.CONNECTIONS:
        title = f"`/v1/chat/completions`, JSON of 1 KB, {count} {'connection' if count == 1 else 'connections'}"
        lines += section(results, title, f"v1-json-{count}", JSON)
    streams = {
        "v1-stream-50": "50 streams, a chunk every 5 ms",
        "v1-streams-1000": "1,000 streams at 20 tokens/s",
        "v1-streams-3000": "3,000 streams at 20 tokens/s",
    }
    for cell, title in streams.items():
        lines += section(results, f"`/v1/chat/completions`, SSE: {title}", cell, STREAMS)
    return lines


def _kept(results: Results) -> list[str]:
    rows = []
    for store, yardstick in cells.YARDSTICKS.items():
        for state, word in {"new": "new", "next": "goes on"}.items():
            for count in (1, 64):
                cell, words = f"kept-{store}-{state}-{count}", [NAMES[yardstick], word, str(count)]
                if results.has(cell, "mirrorgate"):
                    rows.append(row(results, words, kept(yardstick), cell, "mirrorgate"))
    title = "Turns that are kept, beside the disk and the database alone"
    note = (
        "`/api/chat` over OpenAI, SSE of 20 tokens at once. The disk writes 8 KiB and waits, one after the other; "
        "pgbench inserts a row of a turn's size over as many connections as there are callers, and mirrorgate has "
        "`DATABASE_POOL_SIZE` of them, 5."
    )
    return titled(title, note, ["beside", "conversation", "connections", *(head for head, _ in kept(""))], rows)


def _chat(results: Results) -> list[str]:
    title = "`/api/chat` over a web chat's NDJSON: 100 lines, 2 ms apart, 16 connections"
    note = "nginx and the direct call pass the raw lines; the others read and join them."
    lines = section(results, title, "chat-lines", LINES, note)
    for protocol, name in cells.PROTOCOLS.items():
        rows = [
            row(results, [NAMES[target], what, str(count)], CHAT, cell, target)
            for state, title in cells.STATES.items()
            for count in cells.CONNECTIONS
            for target, what in {"nginx": "raw bytes", "minimal": "lines joined", "mirrorgate": title}.items()
            if results.has(cell := f"chat-{protocol}-{state}-{count}", target)
        ]
        header = ["", "conversation", "connections", *(head for head, _ in CHAT)]
        lines += titled(f"`/api/chat` over {name}: 100 tokens at once", "", header, rows)
    return lines
