"""Injected faults: nothing is lost, asked twice, falsified, kept quiet about, or late.

lost        the caller got no whole answer, or a failure that does not say what it is
duplicated  the upstream was asked twice, though the first question came on a fresh connection
corrupted   something else than the upstream's words was called a success
unreported  a success where the upstream's answer cannot have been one
late        the answer came after its time limit
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from harness import programs
from harness.servers import HOST, Server, running
from postgres import free_port

from . import faces, plans, wire
from .faces import JSON, SSE, TOOL, Heard, differ
from .gateway import Gateway
from .planned import Upstream
from .plans import OPENAI, WEB_CHAT
from .table import Row, Run, percentile

FACES = [TOOL, JSON, SSE]
AT_ONCE = 48
# The machine is busy with the upstream and the callers too.
SLACK = 1.5
# How the log tells of one.
PANIC = ["panicked at", "a defect of its own"]
VERDICTS = ["lost", "duplicated", "corrupted", "unreported", "late"]


@dataclass
class Tally:
    """What came of all faults."""

    counts: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    codes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: list[float] = field(default_factory=list)
    retried: int = 0

    def wrong(self, verdict: str, line: str) -> None:
        self.counts[verdict] += 1
        self.lines.append(f"{verdict}: {line}")

    def look_for_panics(self, gateway: Gateway) -> None:
        if panics := sum(gateway.logged(words) for words in PANIC):
            self.wrong("lost", f"{panics} panics in the log of {gateway.environment.get('UPSTREAM_PROTOCOL', 'llmock')}")

    def explain(self, ledger: dict[str, list[str | None]], cases: list[tuple[str, str, str]]) -> None:
        """Adds to each line which question came before on the same connection to the upstream."""
        for number, line in enumerate(self.lines):
            ident = re.search(r"id (f\d+)", line)
            for before in filter(None, ledger.get(ident[1], []) if ident else []):
                self.lines[number] += f"; on the connection of {before} ({cases[int(before[1:])][0]})"

    def row(self, promise: str) -> Row:
        found = ", ".join(f"{self.counts[verdict]} {verdict}" for verdict in VERDICTS)
        figure = f"{self.counts['asked']:,}: {found}"
        details = {
            "answers by fault": {name: dict(codes) for name, codes in sorted(self.codes.items())},
            "slowest": round(max(self.seconds, default=0), 2),
            "median": round(percentile(self.seconds, 0.5), 3),
            "asked once more after a used connection broke": self.retried,
        }
        held = not any(self.counts[verdict] for verdict in VERDICTS)
        limit = ", ".join(f"0 {verdict}" for verdict in VERDICTS)
        return Row(promise, limit, figure, held, sorted(self.lines), details)


async def ask(gateway: Gateway, face: str, message: str, name: str, tally: Tally, model: str = "") -> Heard | None:
    """What a caller understood of an answer, unless that is wrong by itself."""
    path, body = faces.request_of(face, message, model)
    key = random.Random(name).choice(gateway.keys)
    allowed = plans.TIMEOUTS["REQUEST"] + SLACK
    begin = time.monotonic()
    tally.counts["asked"] += 1
    try:
        answer = await gateway.call("POST", path, body, key=key, timeout=allowed + 10)
        result = faces.heard(face, answer)
    except TimeoutError:
        tally.wrong("late", f"{name}: no answer after {time.monotonic() - begin:.1f} s")
        return None
    except faces.UNREADABLE as error:
        tally.wrong("lost", f"{name}: {error!r}")
        return None
    tally.seconds.append(answer.seconds)
    if answer.seconds > allowed:
        tally.wrong("late", f"{name}: {result.code or 'success'} after {answer.seconds:.1f} s")
    return result


async def inject(gateway: Gateway, protocol: str, face: str, spec: dict, tally: Tally) -> None:
    """One question with its fault, judged."""
    script = plans.script(spec, protocol, stream=protocol == WEB_CHAT or face != JSON)
    name = f"{spec['fault']} ({protocol}, {face}, id {spec['id']})"
    result = await ask(gateway, face, json.dumps(spec), name, tally)
    if result is None:
        return
    tally.codes[spec["fault"]][result.code or "success"] += 1
    if result.code == "internal_error":
        tally.wrong("lost", f"{name}: internal_error")
    if result.success and script.verdict == "never":
        tally.wrong("unreported", f"{name}: {result.text[:60]!r}")
    elif result.success and result.text != script.text and not (face == TOOL and result.text == script.rest):
        tally.wrong("corrupted", f"{name}: {differ(result.text, script.text)}")
    elif not result.success and script.verdict == "must":
        tally.wrong("corrupted", f"{name}: a good answer became {result.code}")
    elif not result.success and spec["fault"] in ("cut", "hang") and not script.text.startswith(result.text):
        tally.wrong("corrupted", f"{name}: the part {differ(result.text, script.text)}")


def settings() -> dict[str, object]:
    timeouts = {f"{name}_TIMEOUT_SECONDS": seconds for name, seconds in plans.TIMEOUTS.items()}
    # Reading a flood of 32 MiB in events would keep this program busy for seconds, and make other answers late.
    bounds = {"MAX_ANSWER_BYTES": 1 << 20, "DATABASE_URL": "memory:"}
    return timeouts | {"LONG_ANSWER_TIMEOUT_SECONDS": plans.TIMEOUTS["REQUEST"]} | bounds


async def raw_faults(run: Run, count: int) -> None:
    upstream = Upstream()
    tally = Tally()
    gateways = {
        protocol: Gateway(run.binary, **upstream.settings(protocol), **settings()) for protocol in (OPENAI, WEB_CHAT)
    }
    try:
        for gateway in gateways.values():
            await gateway.started()
        cases = drawn(count)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, name: str, protocol: str, face: str) -> None:
            async with room:
                await inject(gateways[protocol], protocol, face, {"id": f"f{number}", "fault": name}, tally)

        await asyncio.gather(*(one(number, *case) for number, case in enumerate(cases)))
        told = await upstream.ledger()
        for ident, before in told["ledger"].items():
            tally.retried += len(before) > 1
            if len(before) > 2 or (len(before) == 2 and before[0] is None):
                name = f"{cases[int(ident[1:])]}, id {ident}"
                tally.wrong("duplicated", f"{name}: asked {len(before)} times, after {before}")
        tally.explain(told["ledger"], cases)
        if told["trapped"]:
            tally.wrong("corrupted", f"{told['trapped']} redirects were followed")
        # After all that it serves, and no worker has died.
        for protocol, gateway in gateways.items():
            for face in FACES:
                await inject(gateway, protocol, face, {"id": f"after-{protocol}-{face}", "fault": "none"}, tally)
            tally.look_for_panics(gateway)
        run.add(tally.row("injected faults, own upstream"))
    finally:
        for gateway in gateways.values():
            await gateway.removed()
        upstream.close()


def drawn(count: int) -> list[tuple[str, str, str]]:
    """Faults by their weights, on any face; but each at least once on each face of each protocol, as far as that goes."""
    rng = random.Random(20260601)
    protocols = [OPENAI, WEB_CHAT]
    names = rng.choices(list(plans.WEIGHTS), list(plans.WEIGHTS.values()), k=count)
    every = [(name, protocol, face) for name in plans.FAULTS for protocol in protocols for face in FACES]
    cases = [(name, rng.choice(protocols), rng.choice(FACES)) for name in names]
    cases[: min(len(every), count)] = every[:count]
    rng.shuffle(cases)
    return cases


# --- llmock ---

MOCKED = "gpt-4o"
RATES = """
    --error-rate=400=0.03 --error-rate=401=0.02 --error-rate=404=0.02 --error-rate=429=0.08
    --error-rate=500=0.06 --error-rate=502=0.03 --error-rate=503=0.06 --error-rate=529=0.02
    --stream-fault=disconnect=0.15 --stream-fault=truncate=0.15 --stream-fault=stall=0.05
    --stream-fault=malformed=0.15 --stream-stall-seconds=20
""".split()


async def llmock_faults(run: Run, count: int) -> None:
    """The same with a program that others wrote, for whose faults its own journal stands."""
    folder = programs.venv(programs.BENCH / "promises/requirements.txt", programs.ROOT / "target/battery")
    program, port = folder / "llmock", free_port()
    command = [program, "serve", "--host", HOST, "--port", port, "--response-style", "echo", "--log-level", "critical"]
    mock = Server("llmock", [*map(str, command), "--tool-mode", "off", *RATES], {}, port)
    named = {"UPSTREAM_URL": f"http://{mock.address}", "UPSTREAM_API_KEY": "sk-llmock-0123456789"}
    gateway = Gateway(run.binary, **named, **settings(), DEFAULT_MODEL=MOCKED)
    tally = Tally()
    rng = random.Random(20260602)
    asked = {f"mock-{number:05}": rng.choice(FACES) for number in range(count)}
    results: dict[str, Heard | None] = {}
    room = asyncio.Semaphore(AT_ONCE)

    async def one(ident: str, face: str) -> None:
        async with room:
            results[ident] = await ask(gateway, face, f"{ident} 你好", f"{ident} ({face})", tally, MOCKED)

    with running(mock):
        try:
            await gateway.started()
            await asyncio.gather(*(one(*case) for case in asked.items()))
            journal = (await wire.call(port, "GET", "/_llmock/requests")).json()
            judge_by_journal(journal, results, asked, tally)
            tally.look_for_panics(gateway)
            run.add(tally.row("injected faults, llmock"))
        finally:
            await gateway.removed()


def lacks_one_piece(text: str, whole: str) -> bool:
    """Whether a text is the whole one without some piece, which is what `/api/chat` makes of an event that is no JSON."""
    return any(whole.startswith(text[:at]) and whole.endswith(text[at:]) for at in range(len(text) + 1))


def judge_by_journal(journal: object, results: dict, asked_on: dict[str, str], tally: Tally) -> None:
    records = journal["requests"] if isinstance(journal, dict) else journal
    by_question: defaultdict[str, list[dict]] = defaultdict(list)
    for record in records:
        if record["method"] == "POST":
            by_question[record["body"]["messages"][-1]["content"].split()[0]].append(record)
    for ident, result in results.items():
        asked = by_question[ident]
        name = f"{ident} ({asked_on[ident]})"
        if len(asked) > 1:
            tally.wrong("duplicated", f"{name}: asked {len(asked)} times")
        if result is None or not asked:
            continue
        record = asked[-1]
        kind = record["fault"] or (str(record["status"]) if record["status"] != 200 else "none")
        tally.codes[kind][result.code or "success"] += 1
        expected = f"Hello! You said: {ident} 你好"
        if result.success and record["status"] != 200:
            tally.wrong("unreported", f"{name}: {kind} as a success")
        elif asked_on[ident] == TOOL and kind.startswith("stream:malformed") and lacks_one_piece(result.text, expected):
            continue
        elif result.success and result.text.strip() != expected:
            tally.wrong("corrupted", f"{name}: {kind}, {differ(result.text, expected)}")
        elif not result.success and kind == "none":
            tally.wrong("corrupted", f"{name}: a good answer became {result.code}")


async def check(run: Run) -> None:
    await raw_faults(run, run.size(1600, 300))
    await llmock_faults(run, run.size(400, 60))
