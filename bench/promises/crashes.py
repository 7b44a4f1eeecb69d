"""Ends: killed at any moment no acknowledged turn is lost; asked to end, what runs is finished."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from dataclasses import dataclass

from . import faces, plans, wire
from .callers import Load
from .gateway import Gateway, serving
from .table import Row, Run, say

READY_WITHIN = 1.0


async def check_kill(run: Run) -> None:
    rounds = run.size(100, 10)
    chance = random.Random(20260603)
    starts: list[float] = []
    async with serving(run) as (gateway, upstream):
        load = Load([gateway], "kill", asks_again=False)
        load.begin()
        for number in range(rounds):
            await load.turns(chance.randrange(8, 80))
            await asyncio.sleep(chance.random() * 0.005)
            gateway.kill()
            starts.append(await gateway.started())
            if number % 25 == 24:
                say(f"{number + 1} kills")
        await load.end()
        await load.settle(upstream)
        gateway.terminate()
        if await gateway.ended(10) != 0:
            load.wrong.append("the service did not end in good order")
        with sqlite3.connect(gateway.folder / "mirrorgate.db") as database:
            if (verdict := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                load.wrong.append(f"integrity check: {verdict}")
    turns = load.told["kept"]
    figure = f"{rounds} kills, {turns:,} turns, {len(load.wrong)} lost, ready within {max(starts):.2f} s"
    slow = [f"ready after {start:.2f} s" for start in starts if start > READY_WITHIN]
    held = not load.wrong and not slow and turns >= rounds
    limit = f"0 acknowledged turns lost, ready within {READY_WITHIN:.0f} s"
    details = {"starts": [round(start, 3) for start in starts]}
    run.add(Row(f"kill -9 x {rounds} under load", limit, figure, held, load.wrong + slow, details))


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
    face = faces.TOOL if number % 4 == 3 else faces.SSE
    path, body = faces.request_of(face, json.dumps(spec))
    begin = time.monotonic()
    try:
        answer = await gateway.call("POST", path, body, key=gateway.keys[number % len(gateway.keys)], timeout=90)
        said = faces.heard(face, answer)
    except (TimeoutError, *faces.UNREADABLE) as error:
        return Drained(seconds, f"broken: {error!r}", time.monotonic() - begin)
    text = "".join(plans.words(spec["id"], words))
    is_right = said.text == text if said.success else text.startswith(said.text)
    ending = "complete" if said.success else f"failure {said.code}"
    return Drained(seconds, ending if is_right else f"another text, {ending}", time.monotonic() - begin)


async def drain(run: Run, wait: float, able: list[float], late: list[float], name: str, **settings: object) -> None:
    """SIGTERM while answers run: those that can end within `wait` end, the others say so."""
    async with serving(run, **settings) as (gateway, upstream):
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
        gateway.kill()
        ended = await asyncio.gather(*streams)
    complete = [stream.ending == "complete" for stream in ended[: len(able)]]
    reported = [stream.ending.startswith("failure") for stream in ended[len(able) :]]
    wrong = [
        f"a stream of {stream.planned:.0f} s: {stream.ending} after {stream.seconds:.1f} s"
        for stream, is_right in zip(ended, complete + reported)
        if not is_right
    ]
    if code != 0:
        wrong.append(f"exit code {code}")
    if took > wait + 1:
        wrong.append(f"ended only after {took:.1f} s")
    if readiness == 200:
        wrong.append("/ready still says 200")
    figure = (
        f"{sum(complete)} of {len(able)} ended, {sum(reported)} of {len(late)} late ones were told, "
        f"exit {code} after {took:.1f} s, /ready {readiness}"
    )
    limit = f"every stream able to end ends, late ones are told; exit 0 within {wait + 1:.0f} s"
    run.add(Row(name, limit, figure, not wrong, wrong))


async def ready_while_it_ends(gateway: Gateway) -> int | str:
    try:
        return (await gateway.call("GET", "/ready", timeout=3)).status
    except (OSError, TimeoutError, wire.Broken):
        return "refused"


async def check_drain(run: Run) -> None:
    chance = random.Random(20260604)
    if not run.short:
        able = [chance.uniform(1, 27) for _ in range(200)]
        await drain(run, 30, able, [60.0] * 8, "drain on SIGTERM")
    # With a shorter time the late ones are seen in seconds.
    able = [chance.uniform(1, 3) for _ in range(40)]
    await drain(run, 5, able, [30.0] * 8, "drain on SIGTERM, 5 s given", SHUTDOWN_TIMEOUT_SECONDS=5)
