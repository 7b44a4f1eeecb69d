"""The store fails under load: a full disk; a PostgreSQL that stops, freezes, or hands over to its standby; replicas
that are killed in turn. What was told is true afterwards, and the service goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import disks
from harness.stores import cluster
from postgres import Cluster

from .callers import Load
from .gateway import Gateway, replicas
from .table import Row, Run, say

# What the service waits for before it looks at a store anew, and the time to connect.
HEALED_WITHIN = 6.0


async def outage(
    run: Run, name: str, title: str, fail: Callable[[Load, list[Gateway]], Awaitable[None]], count: int = 1,
    pause: float = HEALED_WITHIN, padding: int = 0, **settings: object,
) -> None:  # fmt: skip
    """Callers ask while `fail` does what is tried, which it says when it is over by `Load.goes_on`."""
    async with replicas(run, count, **settings) as (gateways, upstream):
        load = Load(gateways, name, padding)
        load.begin()
        try:
            await fail(load, gateways)
        finally:
            await load.end()
        seen = await load.settle(upstream)
        if load.told.total() == load.told["kept"] and count == 1:
            load.wrong.append("nobody was told of a failure")
        slow = [f"goes on only after {seconds:.1f} s" for seconds in load.pauses if seconds > pause]
        told = ", ".join(f"{number:,} {what}" for what, number in sorted(load.told.items()) if what != "kept")
        figure = f"{load.told['kept']:,} turns, " + ", ".join(f"{number} {what}" for what, number in seen.items())
        figure += f", goes on within {max(load.pauses):.1f} s, the longest wait {load.slowest:.0f} s"
        say(f"{name}: told beside kept: {told or 'nothing'}")
        limit = f"0 lost, 0 doubled, 0 told wrongly, 0 paid twice; goes on within {pause:.0f} s"
        run.add(Row(title, limit, figure, not load.wrong and not slow, load.wrong + slow, {"told": dict(load.told)}))


# --- a full disk ---


async def refusals(load: Load, count: int) -> None:
    """Waits until so many more questions were refused."""
    before = load.told["storage_unavailable"]
    while load.told["storage_unavailable"] < before + count:
        await asyncio.sleep(0.01)


async def check_disk(run: Run) -> None:
    with disks.small("16m") as disk:
        if disk is None:
            say("left out: a small disk needs the right to mount one")
            return

        async def fail(load: Load, _: list[Gateway]) -> None:
            for number in range(run.size(10, 2)):
                await load.turns(40)
                by_turns = number % 2 == 1
                filler = disks.fill(disk, (1 << 20) * by_turns)
                async with asyncio.timeout(60):
                    await refusals(load, 20)
                if by_turns:
                    await make_room(load)
                else:
                    filler.unlink()
                await load.goes_on()
                filler.unlink(missing_ok=True)

        title = "a disk that fills up, healed by a delete without a restart"
        await outage(run, "disk", title, fail, padding=20_000, DATA_DIR=disk)


async def make_room(load: Load) -> None:
    """Callers delete conversations of theirs, but not those that they hold, until there is room for turns."""
    before = load.told["kept"]
    for word in load.words:
        for conversation in list(word.turns)[:-1]:
            if not await load.delete(word, conversation):
                load.wrong.append(f"{conversation} cannot be deleted on a full disk")
            if load.told["kept"] > before:
                return


# --- PostgreSQL ---


async def check_postgres(run: Run) -> None:
    rounds = run.size(10, 2)
    with cluster() as database:

        async def stop(load: Load, _: list[Gateway]) -> None:
            for number in range(rounds):
                await load.turns(40)
                await asyncio.to_thread(database.crash if number % 2 else database.stop)
                await refusals(load, 20)
                await asyncio.to_thread(database.start)
                await load.goes_on()

        async def freeze(load: Load, _: list[Gateway]) -> None:
            for number in range(rounds):
                await load.turns(40)
                database.freeze()
                # Shorter than the service waits, and longer.
                await asyncio.sleep(8 if number % 2 else 2)
                database.thaw()
                await load.goes_on()

        title = f"PostgreSQL stopped and crashed x {rounds}"
        await outage(run, "stopped", title, stop, DATABASE_URL=database.new_database())
        title = f"PostgreSQL frozen x {rounds}"
        await outage(run, "frozen", title, freeze, DATABASE_URL=database.new_database())


async def check_failover(run: Run) -> None:
    """A standby that has every commit takes over; the address in `DATABASE_URL` names both."""
    rounds = run.size(5, 1)
    with ExitStack() as stack:
        pair = [stack.enter_context(cluster())]

        def standby_of(primary: Cluster, port: int | None = None) -> None:
            pair.append(primary.standby(port))
            stack.callback(pair[-1].remove)

        standby_of(pair[0])

        async def fail_over(load: Load, _: list[Gateway]) -> None:
            for _ in range(rounds):
                primary, standby = pair
                await load.turns(40)
                await asyncio.to_thread(primary.crash)
                await asyncio.sleep(1)
                await asyncio.to_thread(standby.promote)
                await load.goes_on()
                pair.remove(primary)
                await asyncio.to_thread(primary.remove)
                await asyncio.to_thread(standby_of, standby, primary.port)

        hosts = ",".join(f"127.0.0.1:{database.port}" for database in pair)
        url = f"postgres://postgres@{hosts}/postgres?target_session_attrs=read-write"
        await outage(run, "failover", f"PostgreSQL fails over to its standby x {rounds}", fail_over, DATABASE_URL=url)


async def check_replicas(run: Run) -> None:
    rounds = run.size(20, 4)
    with cluster() as database:

        async def kill_in_turn(load: Load, gateways: list[Gateway]) -> None:
            for number in range(rounds):
                await load.turns(40)
                gateways[number % 2].kill()
                await load.goes_on()
                await gateways[number % 2].started()

        url, title = database.new_database(), f"two replicas killed in turn x {rounds}"
        await outage(run, "replicas", title, kill_in_turn, 2, DATABASE_URL=url)
