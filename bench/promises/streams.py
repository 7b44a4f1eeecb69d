"""A thousand streams at once, byte by byte, again and again: what does not come back."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from bodies import read_events

from . import faces, plans, wire
from .gateway import KEYS, Gateway, serving
from .table import MIB, Row, Run, mib, percentile, say

COUNT = 1000
MAX_GROWTH = 8 * MIB
SETTLED = 120.0
# What a client of the upstream may keep beside its pool: resolver, wakers, log, and the like.
SPARE = 8


@dataclass
class Round:
    """What came of one round."""

    complete: int = 0
    wrong: list[str] = field(default_factory=list)
    peak: int = 0


async def one(gateway: Gateway, number: int, batch: str, result: Round, plan: dict, leave: bool) -> None:
    ident = f"{batch}-{number}"
    body = {"model": plans.MODEL, "stream": True, "messages": [{"role": "user", "content": json.dumps({"id": ident, **plan})}]}
    expected = b"".join(plans.openai_parts(ident, plans.words(ident, plan["words"]), usage=False))
    closing = {"Connection": "close"}
    asked = wire.request("POST", faces.V1, json.dumps(body).encode(), gateway.keys[number % KEYS], closing)
    exchange = None
    try:
        async with asyncio.timeout(60):
            exchange = await wire.Exchange.open(gateway.port, asked)
            if leave:
                # Half of the answer, then gone.
                while await exchange.more():
                    if len(exchange.raw) > len(expected) // 2:
                        return
            answer = await exchange.answer()
        heard = b"".join(b"data: %s\n\n" % event.encode() for event in read_events(answer.body.decode())) if answer.status == 200 else b""
        if heard == expected:
            result.complete += 1
        else:
            got = answer.body[:200] if answer.status != 200 else faces.differ(heard, expected)
            result.wrong.append(f"{ident}: status {answer.status}, {got}")
    except (TimeoutError, *faces.UNREADABLE) as error:
        result.wrong.append(f"{ident}: {error!r}")
    finally:
        if exchange is not None:
            exchange.close()


async def round_of(gateway: Gateway, batch: str, count: int = COUNT, words: int = 40, pace: float = 0.03, leaving: int = 0) -> Round:
    """So many streams, which the upstream lets go on only when all of them are open."""
    result = Round()
    plan = {"batch": batch, "of": count, "words": words, "pace": pace}
    gateway.forget_peak()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            leave = leaving > 0 and number % leaving == 0
            group.create_task(one(gateway, number, batch, result, plan, leave))
            if number % 50 == 49:
                # A caller of each connection is a process of its own elsewhere.
                await asyncio.sleep(0.01)
    result.peak = gateway.peak
    return result


async def check(run: Run) -> None:
    length = 600.0 if not run.short else 35.0
    settled = SETTLED if not run.short else 10.0
    # So early the allocator still takes what it will keep.
    most = MAX_GROWTH if not run.short else 2 * MAX_GROWTH
    async with serving(run) as (gateway, _):
        at_start = gateway.descriptors()
        begin = time.monotonic()
        wrong: list[str] = []
        rounds = complete = asked = 0
        at_rest: list[int] = []
        peaks: list[int] = []
        while time.monotonic() - begin < length:
            # One in 50 leaves in the middle.
            result = await round_of(gateway, f"soak-{rounds}", words=25, leaving=50)
            rounds += 1
            complete += result.complete
            asked += COUNT - COUNT // 50
            wrong += result.wrong
            peaks.append(result.peak)
            if not at_rest and time.monotonic() - begin > settled:
                at_rest.append(await lowest_rss(gateway))
            await asyncio.sleep(1.0)
            if rounds % 20 == 0:
                say(f"{rounds} rounds, RSS {mib(gateway.rss)}, peak {mib(max(peaks))}")
        at_rest.append(await lowest_rss(gateway))
        growth = at_rest[-1] - at_rest[0]
        left = await released(gateway, 30)
        limit_of_others = at_start + SPARE
        others = gateway.descriptors() - sum(left.values())
        held = not wrong and complete == asked and growth <= most
        held = held and left["callers"] == 0 and left["upstream"] <= COUNT and others <= limit_of_others
        figure = (
            f"{rounds} rounds in {(time.monotonic() - begin) / 60:.1f} min, {complete:,} of {asked:,} complete, "
            f"growth {mib(max(growth, 0))}, {left['callers']} of callers left, {left['upstream']} in the pool"
        )
        details = {
            "RSS at rest, MiB": [round(rss / MIB, 1) for rss in at_rest],
            "largest RSS, MiB": round(max(peaks) / MIB, 1),
            "median peak, MiB": round(percentile(peaks, 0.5) / MIB, 1),
            "other descriptors": f"{others}, {at_start} at the start",
        }
        limit = f"all complete; growth <= {mib(most)} after {settled / 60:.0f} min; descriptors back to the pool's"
        if run.short:
            limit = limit.replace(f"{settled / 60:.0f} min", f"{settled:.0f} s")
        run.add(Row(f"soak, rounds of {COUNT:,} streams", limit, figure, held, wrong, details))


async def lowest_rss(gateway: Gateway) -> int:
    """The memory that the program keeps when a peak is over: it gives the rest back within seconds."""
    looks = []
    for _ in range(50):
        looks.append(gateway.rss)
        await asyncio.sleep(0.2)
    return min(looks)


async def released(gateway: Gateway, seconds: float) -> Counter[str]:
    """The connections once those of callers are gone, or after so long."""
    deadline = time.monotonic() + seconds
    while (left := gateway.sockets())["callers"] and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    return left
