"""Memory after a peak: what a caller made large is given back to the system."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from . import wire
from .faces import CHAT, V1
from .gateway import Gateway
from .hostile import BODY, MEDIUM, SMALL, Hostile, asked, chat
from .table import MIB, Row, Run, mib, say

SHARE = 0.10
# Seconds until it is to be back there.
PATIENCE, SHORT_PATIENCE = 60, 8
# The memory budget, and what the rest of the process may take beside it.
MAX_RSS = (160 + 64) * MIB
AT_ONCE = 64
READERS = 10


async def held_answers(gateway: Gateway, count: int, got: Counter[str]) -> None:
    """One caller asks for answers of 1 MiB, and reads no more of each than its status while it asks for the others."""
    loop = asyncio.get_running_loop()
    free = asyncio.Semaphore(AT_ONCE)
    question = wire.request("POST", V1, asked(MEDIUM), gateway.key)
    held: list[socket.socket] = []

    async def ask() -> None:
        async with free:
            caller = await wire.mute(gateway.port, question)
            held.append(caller)
            first = await asyncio.wait_for(loop.sock_recv(caller, 12), 60)
            got[f"answer: {first[9:12].decode()}"] += 1

    try:
        await asyncio.gather(*(ask() for _ in range(count)))
    finally:
        for caller in held:
            caller.close()


async def transcripts(gateway: Gateway, turns: int, got: Counter[str]) -> None:
    """A conversation with questions of 2 MiB, read to its begin by ten at once."""
    for _ in range(turns):
        answer = await gateway.call("POST", CHAT, chat(SMALL, "x" * (BODY - 1024), "long"), key=gateway.key)
        got[f"turn: {answer.status}"] += 1

    async def read() -> None:
        before = ""
        while before is not None:
            answer = await gateway.call("GET", f"/api/conversations/long?before={before}", key=gateway.key, timeout=120)
            got[f"page: {answer.status}"] += 1
            if answer.status == 200:
                before = answer.json()["next_before"]
            else:
                await asyncio.sleep(1.0)

    await asyncio.gather(*(read() for _ in range(READERS)))


async def check(run: Run) -> None:
    await peak(run, "2,000 answers of 1 MiB that one caller holds", held_answers, run.size(2000, 400))
    await peak(run, "ten readers of a conversation of 2 MiB a turn", transcripts, run.size(60, 15))


async def peak(run: Run, name: str, make: Callable[[Gateway, int, Counter[str]], Awaitable[None]], count: int) -> None:
    hostile = Hostile()
    gateway = Gateway(run.binary, UPSTREAM_URL=hostile.url, UPSTREAM_API_KEY="up-battery-0123456789")
    got: Counter[str] = Counter()
    patience = run.size(PATIENCE, SHORT_PATIENCE)
    try:
        await gateway.started()
        # What stays anyway is there afterwards: the pool, the store's threads and their caches.
        for _ in range(AT_ONCE):
            await gateway.call("POST", CHAT, chat(SMALL, conversation="warm"), key=gateway.key)
            await gateway.call("POST", V1, asked(SMALL), key=gateway.key)
        idle = gateway.rss
        gateway.forget_peak()
        await make(gateway, count, got)
        most, begin = gateway.peak, time.monotonic()
        while (left := gateway.rss) > idle * (1 + SHARE) and time.monotonic() - begin < patience:
            await asyncio.sleep(0.5)
        told = f"idle {mib(idle)}, peak {mib(most)}, {mib(left)} after {time.monotonic() - begin:.0f} s"
    finally:
        hostile.close()
        await gateway.removed()
    say(f"{name}: {', '.join(f'{many:,} {what}' for what, many in sorted(got.items()))}")
    held = most <= MAX_RSS and left <= idle * (1 + SHARE)
    limit = f"RSS <= {mib(MAX_RSS)}, and within {SHARE:.0%} of idle {patience} s later"
    run.add(Row(f"memory after {name}", limit, told, held, [] if held else [told], {"got": dict(got)}))
