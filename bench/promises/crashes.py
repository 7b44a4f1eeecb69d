"""Asked to end, the service finishes what runs."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass

from . import faces, plans, wire
from .gateway import Gateway, serving
from .table import Row, Run


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
