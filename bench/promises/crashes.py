"""Ends: killed at any moment no acknowledged turn is lost; asked to end, what runs is finished."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from dataclasses import dataclass, field

from . import plans, wire
from .gateway import Gateway
from .planned import Upstream
from .plans import OPENAI
from .table import Row, Run, say

TALKERS = 8
TURNS = 3
READY_WITHIN = 1.0


@dataclass
class Ledger:
    """What one talker was told is kept, and what it was not told any more."""

    key: str
    turns: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    pending: tuple[str | None, str] | None = None
    acknowledged: int = 0


async def talk(gateway: Gateway, ledger: Ledger, name: str, wrong: list[str]) -> None:
    """Holds conversations of a few turns until the service dies; first it goes on with its last."""
    conversation = next(reversed(ledger.turns), None)
    number = 0
    while True:
        for turn in range(TURNS):
            question = json.dumps({"id": f"{name}-{number}-{turn}", "words": 5})
            ledger.pending = (conversation, question)
            body = {"message": question, "conversation_id": conversation or ""}
            try:
                answer = await gateway.call("POST", "/api/chat", body, key=ledger.key)
            except (OSError, wire.Broken):
                return
            said = answer.json()
            if answer.status != 200:
                wrong.append(f"{name}: status {answer.status}, {said.get('error')}")
                return
            conversation = said["conversation_id"]
            known = ledger.turns.setdefault(conversation, [])
            known.append((question, said["answer"]))
            ledger.pending = None
            ledger.acknowledged += 1
            if said["answer"] != text_of(question, len(known)):
                wrong.append(f"{name}: turn {len(known)} saw another history")
        conversation, number = None, number + 1


def text_of(question: str, turn: int) -> str:
    spec = json.loads(question)
    return "".join(plans.words(spec["id"], spec["words"], turn))


async def kept(gateway: Gateway, ledger: Ledger, conversation: str) -> list[tuple[str, str]] | str:
    """The turns of a conversation in the store, or what is wrong with them."""
    answer = await gateway.call("GET", f"/api/conversations/{conversation}", key=ledger.key)
    if answer.status != 200:
        return f"status {answer.status}"
    messages = answer.json()["messages"]
    if [message["role"] for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        return "no pairs"
    texts = [message["content"] for message in messages]
    return list(zip(texts[::2], texts[1::2]))


async def settle(gateway: Gateway, ledger: Ledger, wrong: list[str], latest: int | None = 10) -> None:
    """Compares conversations with the store's; a turn in flight may be there or not."""
    for conversation in list(ledger.turns)[-latest if latest else 0 :]:
        found, known = await kept(gateway, ledger, conversation), ledger.turns[conversation]
        if isinstance(found, str):
            wrong.append(f"{conversation}: {found}")
            continue
        if found[: len(known)] != known:
            wrong.append(f"{conversation}: {len(known)} turns were acknowledged, {len(found)} are kept")
        elif extra := found[len(known) :]:
            if ledger.pending is None or ledger.pending[0] != conversation or len(extra) > 1:
                wrong.append(f"{conversation}: turns that nobody asked for: {extra}")
            ledger.turns[conversation] = found
    ledger.pending = None


async def check_kill(run: Run) -> None:
    upstream = Upstream()
    gateway = Gateway(run.binary, **upstream.settings(OPENAI))
    rounds = run.size(100, 10)
    rng = random.Random(20260603)
    ledgers = [Ledger(key) for key in gateway.keys[:TALKERS]]
    wrong: list[str] = []
    starts: list[float] = []
    try:
        await gateway.start()
        for number in range(rounds):
            talkers = [
                asyncio.create_task(talk(gateway, ledger, f"t{index}-r{number}", wrong))
                for index, ledger in enumerate(ledgers)
            ]
            target = sum(ledger.acknowledged for ledger in ledgers) + rng.randrange(8, 80)
            deadline = time.monotonic() + 20
            while sum(ledger.acknowledged for ledger in ledgers) < target and time.monotonic() < deadline:
                await asyncio.sleep(rng.random() * 0.005)
            gateway.kill()
            await asyncio.gather(*talkers)
            starts.append(await gateway.start())
            for ledger in ledgers:
                await settle(gateway, ledger, wrong)
            if number % 25 == 24:
                say(f"{number + 1} kills")
        for ledger in ledgers:
            await settle(gateway, ledger, wrong, latest=None)
        gateway.terminate()
        if await gateway.ended(10) != 0:
            wrong.append("the service did not end in good order")
        files = [path for path in gateway.folder.rglob("*.db") if path.is_file()]
        with sqlite3.connect(files[0]) as database:
            if (verdict := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                wrong.append(f"integrity check: {verdict}")
        acknowledged = sum(ledger.acknowledged for ledger in ledgers)
        lost = len(wrong)
        figure = f"{rounds} kills, {acknowledged:,} turns, {lost} lost, ready within {max(starts):.2f} s"
        held = not wrong and max(starts) <= READY_WITHIN and acknowledged >= rounds
        slow = [f"ready after {start:.2f} s" for start in starts if start > READY_WITHIN]
        details = {"starts": [round(start, 3) for start in starts]}
        limit = f"0 acknowledged turns lost, ready within {READY_WITHIN:.0f} s"
        run.add(Row(f"kill -9 x {rounds} under load", limit, figure, held, wrong + slow, details))
    finally:
        await gateway.remove()
        upstream.close()


# --- drain ---


@dataclass
class Drained:
    """How one stream ended."""

    planned: float
    ending: str
    seconds: float


async def follow(gateway: Gateway, number: int, seconds: float) -> Drained:
    """One answer that takes so long, on one of the faces."""
    words = 20
    spec = {"id": f"drain-{number}", "words": words, "pace": seconds / (words + 3)}
    stream = number % 4 != 3
    if stream:
        path = "/v1/chat/completions"
        message = {"role": "user", "content": json.dumps(spec)}
        body: dict = {"model": plans.MODEL, "stream": True, "messages": [message]}
    else:
        path, body = "/api/chat", {"message": json.dumps(spec)}
    begin = time.monotonic()
    text = "".join(plans.words(spec["id"], words))
    try:
        key = gateway.keys[number % len(gateway.keys)]
        answer = await gateway.call("POST", path, body, key=key, timeout=90)
    except (wire.Broken, OSError, TimeoutError) as error:
        return Drained(seconds, f"broken: {error!r}", time.monotonic() - begin)
    took = time.monotonic() - begin
    if not stream:
        said = answer.json()
        good = said["success"] and said["answer"] == text
        return Drained(seconds, "complete" if good else f"failure {said['error'] and said['error']['code']}", took)
    try:
        events = wire.events(answer.body)
    except wire.Broken as error:
        return Drained(seconds, f"broken: {error!r}", took)
    values = [json.loads(event) for event in events if event != b"[DONE]"]
    heard = "".join(c["delta"].get("content") or "" for v in values for c in v.get("choices") or [])
    if events and events[-1] == b"[DONE]":
        return Drained(seconds, "complete" if heard == text else "complete with another text", took)
    error = values[-1].get("error") if values else None
    if error and text.startswith(heard):
        return Drained(seconds, f"failure {error.get('code')}", took)
    return Drained(seconds, "ended without a failure and without [DONE]", took)


async def drain(run: Run, wait: float, able: list[float], late: list[float], name: str, **settings: object) -> None:
    """SIGTERM while answers run: those that can end within `wait` end, the others say so."""
    upstream = Upstream()
    gateway = Gateway(run.binary, **upstream.settings(OPENAI), **settings)
    wrong: list[str] = []
    try:
        await gateway.start()
        begin = time.monotonic()
        lengths = able + late
        streams = [asyncio.create_task(follow(gateway, number, seconds)) for number, seconds in enumerate(lengths)]
        while (await upstream.ledger())["taken"] < len(lengths):
            await asyncio.sleep(0.05)
            if time.monotonic() - begin > 20:
                raise RuntimeError("the streams do not begin")
        gateway.terminate()
        told = time.monotonic()
        await asyncio.sleep(0.5)
        readiness = await ready_while_it_ends(gateway)
        code = await gateway.ended(wait + 15)
        took = time.monotonic() - told
        if code is None:
            gateway.kill()
        ended = await asyncio.gather(*streams)
        for stream in ended[: len(able)]:
            if stream.ending != "complete":
                wrong.append(f"a stream of {stream.planned:.0f} s: {stream.ending} after {stream.seconds:.1f} s")
        for stream in ended[len(able) :]:
            if not stream.ending.startswith("failure"):
                wrong.append(f"a late stream of {stream.planned:.0f} s: {stream.ending} after {stream.seconds:.1f} s")
        if code != 0:
            wrong.append(f"exit code {code}")
        if took > wait + 1:
            wrong.append(f"ended only after {took:.1f} s")
        if readiness == 200:
            wrong.append("/ready still says 200")
        complete = sum(stream.ending == "complete" for stream in ended[: len(able)])
        reported = sum(stream.ending.startswith("failure") for stream in ended[len(able) :])
        figure = (
            f"{complete} of {len(able)} ended, {reported} of {len(late)} late ones were told, "
            f"exit {code} after {took:.1f} s, /ready {readiness}"
        )
        limit = f"every stream able to end ends, late ones are told; exit 0 within {wait + 1:.0f} s"
        run.add(Row(name, limit, figure, not wrong, wrong))
    finally:
        await gateway.remove()
        upstream.close()


async def ready_while_it_ends(gateway: Gateway) -> int | str:
    try:
        return (await gateway.call("GET", "/ready", timeout=3)).status
    except (OSError, TimeoutError, wire.Broken):
        return "refused"


async def check_drain(run: Run) -> None:
    rng = random.Random(20260604)
    if not run.short:
        able = [rng.uniform(1, 27) for _ in range(200)]
        await drain(run, 30, able, [60.0] * 8, "drain on SIGTERM")
    # With a shorter time the late ones are seen in seconds.
    able = [rng.uniform(1, 3) for _ in range(40)]
    settings = {"SHUTDOWN_TIMEOUT_SECONDS": 5}
    await drain(run, 5, able, [30.0] * 8, "drain on SIGTERM, 5 s given", **settings)
