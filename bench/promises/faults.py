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
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from . import plans, wire
from .gateway import Gateway, free_port
from .planned import Upstream
from .plans import OPENAI, WEB_CHAT
from .table import Row, Run, percentile, say

FACES = ["tool", "json", "sse"]
AT_ONCE = 48
# The machine is busy with the upstream and the callers too.
SLACK = 1.5
# How the log tells of one.
PANIC = ["panicked at", "a defect of its own"]
VERDICTS = ["lost", "duplicated", "corrupted", "unreported", "late"]


@dataclass
class Heard:
    """What a caller understood."""

    success: bool
    text: str
    code: str = ""


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


def request_of(face: str, message: str) -> tuple[str, dict]:
    if face == "tool":
        return "/api/chat", {"message": message}
    body = {"model": plans.MODEL, "messages": [{"role": "user", "content": message}], "stream": face == "sse"}
    if face == "sse":
        body["stream_options"] = {"include_usage": True}
    return "/v1/chat/completions", body


def heard(face: str, answer: wire.Answer) -> Heard:
    """What an answer says. A failure must be told as such, with what to do."""
    if face == "sse" and answer.status == 200:
        return heard_stream(answer)
    body = answer.json()
    if not isinstance(body, dict):
        raise wire.Broken("no object")
    if face == "tool":
        success, text = body["success"], body["answer"]
        if success is not (answer.status == 200):
            raise wire.Broken(f"success is {success} with status {answer.status}: {body['error']}")
    else:
        success = answer.status == 200 and "error" not in body
        text = body["choices"][0]["message"]["content"] if success else ""
    return Heard(True, text) if success else Heard(False, text or "", told(body["error"]))


def told(error: dict) -> str:
    if not all(error.get(name) for name in ("code", "message", "hint", "request_id")):
        raise wire.Broken(f"a failure without words: {error}")
    return error["code"]


def heard_stream(answer: wire.Answer) -> Heard:
    events = wire.events(answer.body)
    last = events[-1] if events else b""
    values = [json.loads(event) for event in events if event != b"[DONE]"]
    failures = [value["error"] for value in values if value.get("error")]
    choices = [choice for value in values for choice in value.get("choices") or []]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    if failures:
        if last == b"[DONE]":
            raise wire.Broken("[DONE] after a failure")
        return Heard(False, text, told(failures[-1]))
    if last != b"[DONE]":
        raise wire.Broken("neither a failure nor [DONE] ends the stream")
    if not any(choice.get("finish_reason") for choice in choices):
        raise wire.Broken("no finish_reason")
    return Heard(True, text)


async def inject(gateway: Gateway, protocol: str, face: str, spec: dict, tally: Tally) -> None:
    """One question with its fault, judged."""
    message = json.dumps(spec)
    path, body = request_of(face, message)
    stream = protocol == WEB_CHAT or face != "json"
    script = plans.script(spec, protocol, stream)
    name = f"{spec['fault']} ({protocol}, {face}, id {spec['id']})"
    key = random.Random(spec["id"]).choice(gateway.keys)
    begin = time.monotonic()
    tally.counts["asked"] += 1
    allowed = plans.TIMEOUTS["REQUEST"] + SLACK
    try:
        answer = await gateway.call("POST", path, body, key=key, timeout=allowed + 10)
        result = heard(face, answer)
    except TimeoutError:
        tally.wrong("late", f"{name}: no answer after {time.monotonic() - begin:.1f} s")
        return
    except (wire.Broken, OSError, LookupError, TypeError, ValueError) as error:
        tally.wrong("lost", f"{name}: {error!r}")
        return
    tally.seconds.append(answer.seconds)
    tally.codes[spec["fault"]][result.code or "success"] += 1
    if answer.seconds > allowed:
        tally.wrong("late", f"{name}: {result.code or 'success'} after {answer.seconds:.1f} s")
    if result.code == "internal_error":
        tally.wrong("lost", f"{name}: internal_error")
    if result.success and script.verdict == "never":
        tally.wrong("unreported", f"{name}: {result.text[:60]!r}")
    elif result.success and result.text != script.text and not (face == "tool" and result.text == script.rest):
        tally.wrong("corrupted", f"{name}: {differ(result.text, script.text)}")
    elif not result.success and script.verdict == "must":
        tally.wrong("corrupted", f"{name}: a good answer became {result.code}")
    elif not result.success and spec["fault"] in ("cut", "hang") and not script.text.startswith(result.text):
        tally.wrong("corrupted", f"{name}: the part {differ(result.text, script.text)}")


def differ(got: str, wanted: str) -> str:
    at = next((at for at, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1]), min(len(got), len(wanted)))
    return f"differs at {at} of {len(wanted)} characters: {got[at : at + 30]!r} for {wanted[at : at + 30]!r}"


def settings() -> dict[str, object]:
    timeouts = {f"{name}_TIMEOUT_SECONDS": seconds for name, seconds in plans.TIMEOUTS.items()}
    # Reading a flood of 32 MiB in events would keep this program busy for seconds, and make other answers late.
    bounds = {"MAX_ANSWER_BYTES": 1 << 20, "DATABASE_URL": "memory:"}
    return timeouts | {"LONG_ANSWER_TIMEOUT_SECONDS": plans.TIMEOUTS["REQUEST"]} | bounds


async def raw_faults(run: Run, count: int) -> None:
    upstream = Upstream()
    gateways = {
        protocol: Gateway(run.binary, **upstream.settings(protocol), **settings()) for protocol in (OPENAI, WEB_CHAT)
    }
    tally = Tally()
    try:
        for gateway in gateways.values():
            await gateway.start()
        rng = random.Random(20260601)
        names = rng.choices(list(plans.WEIGHTS), list(plans.WEIGHTS.values()), k=count)
        # Each at least once on each face of each protocol, as far as the count goes.
        every = [(name, protocol, face) for name in plans.FAULTS for protocol in gateways for face in FACES]
        cases = [(name, rng.choice([OPENAI, WEB_CHAT]), rng.choice(FACES)) for name in names]
        cases[: min(len(every), count)] = every[:count]
        rng.shuffle(cases)
        room = asyncio.Semaphore(AT_ONCE)
        done = 0

        async def one(number: int, name: str, protocol: str, face: str) -> None:
            nonlocal done
            async with room:
                spec = {"id": f"f{number}", "fault": name}
                await inject(gateways[protocol], protocol, face, spec, tally)
                done += 1
                if done % 500 == 0:
                    say(f"{done:,} faults")

        await asyncio.gather(*(one(number, *case) for number, case in enumerate(cases)))
        told = await upstream.ledger()
        for ident, before in told["ledger"].items():
            name = f"{cases[int(ident[1:])]}, id {ident}"
            tally.retried += len(before) > 1
            if len(before) > 2 or (len(before) == 2 and before[0] is None):
                tally.wrong("duplicated", f"{name}: asked {len(before)} times, after {before}")
        tally.explain(told["ledger"], cases)
        if told["trapped"]:
            tally.wrong("corrupted", f"{told['trapped']} redirects were followed")
        # After all that it serves, and no worker has died.
        for protocol, gateway in gateways.items():
            for face in FACES:
                await inject(gateway, protocol, face, {"id": f"after-{protocol}-{face}", "fault": "none"}, tally)
            if panics := sum(gateway.logged(words) for words in PANIC):
                tally.wrong("lost", f"{panics} panics in the log of the gateway with {protocol}")
        run.add(tally.row("injected faults, own upstream"))
    finally:
        for gateway in gateways.values():
            await gateway.remove()
        upstream.close()


# --- llmock ---

RATES = [
    "--error-rate=400=0.03 --error-rate=401=0.02 --error-rate=404=0.02 --error-rate=429=0.08".split(),
    "--error-rate=500=0.06 --error-rate=502=0.03 --error-rate=503=0.06 --error-rate=529=0.02".split(),
    "--stream-fault=disconnect=0.15 --stream-fault=truncate=0.15 --stream-fault=stall=0.05".split(),
    "--stream-fault=malformed=0.15 --stream-stall-seconds=20".split(),
]


async def llmock_faults(run: Run, count: int) -> None:
    """The same with a program that others wrote, for whose faults its own journal stands."""
    port = free_port()
    program = Path(sys.executable).with_name("llmock")
    command = [program, "serve", "--host", wire.HOST, "--port", str(port), "--response-style", "echo"]
    command += ["--log-level", "critical", "--tool-mode", "off", *(option for rates in RATES for option in rates)]
    mock = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    named = {"UPSTREAM_URL": f"http://{wire.HOST}:{port}", "UPSTREAM_API_KEY": "sk-llmock-0123456789"}
    gateway = Gateway(run.binary, **named, **settings(), DEFAULT_MODEL="gpt-4o")
    tally = Tally()
    try:
        await until_it_listens(port)
        await gateway.start()
        rng = random.Random(20260602)
        faces = {f"mock-{number:05}": rng.choice(FACES) for number in range(count)}
        results: dict[str, Heard | None] = {}
        room = asyncio.Semaphore(AT_ONCE)

        async def one(ident: str, face: str) -> None:
            async with room:
                results[ident] = await ask_mock(gateway, ident, face, tally)

        await asyncio.gather(*(one(*case) for case in faces.items()))
        journal = (await wire.call(port, "GET", "/_llmock/requests")).json()
        judge_by_journal(journal, results, faces, tally)
        if any(gateway.logged(words) for words in PANIC):
            tally.wrong("lost", "a panic in the log")
        run.add(tally.row("injected faults, llmock"))
    finally:
        await gateway.remove()
        mock.kill()
        mock.wait()


async def until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await wire.call(port, "GET", "/health", timeout=2)
            return
        except (OSError, TimeoutError, wire.Broken):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def ask_mock(gateway: Gateway, ident: str, face: str, tally: Tally) -> Heard | None:
    path, body = request_of(face, f"{ident} 你好")
    body["model"] = "gpt-4o"
    allowed = plans.TIMEOUTS["REQUEST"] + SLACK
    tally.counts["asked"] += 1
    try:
        answer = await gateway.call("POST", path, body, key=gateway.key, timeout=allowed + 10)
        result = heard(face, answer)
    except TimeoutError:
        tally.wrong("late", f"{ident} ({face}): no answer")
        return None
    except (wire.Broken, OSError, LookupError, TypeError, ValueError) as error:
        tally.wrong("lost", f"{ident} ({face}): {error!r}")
        return None
    tally.seconds.append(answer.seconds)
    if answer.seconds > allowed:
        tally.wrong("late", f"{ident} ({face}): after {answer.seconds:.1f} s")
    return result


def lacks_one_piece(text: str, whole: str) -> bool:
    """Whether a text is the whole one without some piece, which is what `/api/chat` makes of an event that is no JSON."""
    return any(whole.startswith(text[:at]) and whole.endswith(text[at:]) for at in range(len(text) + 1))


def judge_by_journal(journal: object, results: dict, faces: dict[str, str], tally: Tally) -> None:
    records = journal["requests"] if isinstance(journal, dict) else journal
    by_question: defaultdict[str, list[dict]] = defaultdict(list)
    for record in records:
        if record["method"] == "POST":
            by_question[record["body"]["messages"][-1]["content"].split()[0]].append(record)
    for ident, result in results.items():
        asked = by_question[ident]
        name = f"{ident} ({faces[ident]})"
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
        elif faces[ident] == "tool" and kind.startswith("stream:malformed") and lacks_one_piece(result.text, expected):
            continue
        elif result.success and result.text.strip() != expected:
            tally.wrong("corrupted", f"{name}: {kind}, {differ(result.text, expected)}")
        elif not result.success and kind == "none":
            tally.wrong("corrupted", f"{name}: a good answer became {result.code}")


async def check(run: Run) -> None:
    await raw_faults(run, run.size(1600, 300))
    await llmock_faults(run, run.size(400, 60))
