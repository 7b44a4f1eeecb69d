"""A hostile caller beside another: what the other one feels of it, with the defaults."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from . import faces, plans
from .faces import CHAT
from .gateway import Gateway
from .hostile import ATTACKS, BODY, HISTORY, LARGE, SMALL, Hostile, chat
from .planned import Upstream
from .table import Row, Run, mib, percentile, say

SILENCE = 0.2
P95_WITHIN = 0.4
CALLERS = 4
# Turns of a conversation before the next one begins.
GOES_ON = 6
# What a history holds: under `KEY_STORAGE_BYTES`, beside one largest answer.
TURNS = 60
UPSTREAMS = """
[[upstream]]
name = "quiet"
url = "{quiet}"
key = "up-battery-0123456789"
models = ["{model}"]

[[upstream]]
name = "hostile"
url = "{hostile}"
key = "up-battery-9876543210"
models = ["{small}", "{large}"]
"""


@dataclass
class Felt:
    """What a caller felt in one phase."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def told(self) -> str:
        times = "/".join(f"{percentile(self.seconds, share):.2f}" for share in (0.5, 0.95, 1.0))
        return f"{times} s of {len(self.seconds)}" + (f", {len(self.wrong)} failed" if self.wrong else "")


class Quiet:
    """A caller who asks what people ask: a new conversation, the next turns of it, and on `/v1`, whole and streamed."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway, self.name = gateway, name
        self.key = gateway.keys[1]
        self.number = self.turn = 0
        self.conversation = ""

    async def ask(self, felt: Felt) -> None:
        self.number += 1
        spec = {"id": f"{self.name}-{self.number}", "words": 20, "silence": SILENCE}
        face = faces.TOOL if self.number % 2 else faces.SSE if self.number % 4 == 0 else faces.JSON
        # Without a model's name the hostile upstream might be asked.
        path, body = faces.request_of(face, json.dumps(spec), plans.MODEL)
        turn = 1
        if face == faces.TOOL:
            turn = self.turn = self.turn % GOES_ON + 1 if self.conversation else 1
            body["conversation_id"] = self.conversation if turn > 1 else ""
        begin = time.monotonic()
        try:
            answer = await self.gateway.call("POST", path, body, key=self.key)
            heard = faces.heard(face, answer)
            is_right = heard.success and heard.text == "".join(plans.words(spec["id"], spec["words"], turn))
            fault = "" if is_right else f"answered {heard}"
            if face == faces.TOOL and is_right:
                self.conversation = answer.json()["conversation_id"]
        except (TimeoutError, *faces.UNREADABLE) as error:
            fault = repr(error)
        felt.seconds.append(time.monotonic() - begin)
        if fault:
            felt.wrong.append(f"{spec['id']} after {felt.seconds[-1]:.2f} s: {fault}")
            self.conversation = ""
            await asyncio.sleep(0.1)


class Neighbours:
    """A service with two callers, and another one that nobody attacks."""

    def __init__(self, run: Run) -> None:
        self.quiet, self.hostile = Upstream(), Hostile()
        self.attacked, self.beside = (self.gateway(run) for _ in range(2))
        self.callers = [Quiet(self.attacked, f"quiet-{number}") for number in range(CALLERS)]
        self.other = Quiet(self.beside, "beside")

    def gateway(self, run: Run) -> Gateway:
        made = Gateway(run.binary)
        path = made.folder / "upstreams.toml"
        named = {"quiet": self.quiet.url, "hostile": self.hostile.url}
        path.write_text(UPSTREAMS.format(**named, model=plans.MODEL, small=SMALL, large=LARGE))
        made.environment["UPSTREAMS_FILE"] = str(path)
        return made

    async def begun(self, turns: int) -> None:
        """Starts both, and makes the hostile caller's long history."""
        for gateway in (self.attacked, self.beside):
            await gateway.started()
        for _ in range(turns):
            long = chat(SMALL, "x" * (BODY - 1024), HISTORY)
            await self.attacked.call("POST", CHAT, long, key=self.attacked.key)

    async def phase(self, attacks: list[str], seconds: float) -> tuple[Felt, Felt, Counter[str]]:
        """A time with some attacks, or none. The same questions go to a service that nobody attacks, which tells
        what the machine alone does; and the last is what the attacks got."""
        felt, beside, got = Felt(), Felt(), Counter[str]()
        if attacks:
            await asyncio.to_thread(self.hostile.begin, self.attacked.port, self.attacked.key, attacks)
        over = time.monotonic() + seconds

        async def go_on(caller: Quiet, felt: Felt) -> None:
            while time.monotonic() < over:
                await caller.ask(felt)

        try:
            asking = [go_on(caller, felt) for caller in self.callers]
            await asyncio.gather(*asking, go_on(self.other, beside))
        finally:
            if attacks:
                got = await asyncio.to_thread(self.hostile.end)
        what = ", ".join(attacks) or "no attack"
        say(f"{what}: {felt.told()}; beside {beside.told()}; RSS {mib(self.attacked.rss)}")
        if got:
            say("  it got " + ", ".join(f"{count:,} {what}" for what, count in sorted(got.items())))
        return felt, beside, got

    async def remove(self) -> None:
        self.hostile.close()
        for gateway in (self.attacked, self.beside):
            await gateway.removed()
        self.quiet.close()


async def check(run: Run) -> None:
    neighbours = Neighbours(run)
    gateway = neighbours.attacked
    quiet, attacked = [], []
    try:
        await neighbours.begun(run.size(TURNS, 10))
        idle = gateway.rss
        gateway.forget_peak()
        for _ in range(run.size(3, 1)):
            quiet.append(await neighbours.phase([], run.size(6, 2)))
            attacked.append(await neighbours.phase(list(ATTACKS), run.size(12, 6)))
        peak = gateway.peak
        # Each alone tells which of them it was.
        alone = {name: (await neighbours.phase([name], 6))[0].told() for name in ATTACKS if not run.short}
    finally:
        await neighbours.remove()
    without = all_of([felt for felt, _, _ in quiet])
    felt, beside = all_of([felt for felt, _, _ in attacked]), all_of([beside for _, beside, _ in attacked])
    p95 = percentile(felt.seconds, 0.95)
    wrong = without.wrong + felt.wrong
    if p95 >= P95_WITHIN:
        wrong.insert(0, f"p95 {p95:.2f} s; a service beside it, which nobody attacked, had {percentile(beside.seconds, 0.95):.2f} s")
    figure = f"p50/p95/max {felt.told()}; without the attack {without.told()}; RSS {mib(peak)}"
    details = {
        "a service beside, not attacked, p50/p95/max": beside.told(),
        "RSS when idle": mib(idle),
        "what the hostile caller got": dict(sum((got for _, _, got in attacked), Counter())),
        "each attack alone, p50/p95/max": alone,
    }
    limit = f"p95 < {P95_WITHIN * 1e3:.0f} ms before an upstream that takes {SILENCE * 1e3:.0f} ms, every answer right"
    run.add(Row("a hostile caller beside another", limit, figure, not wrong, wrong, details))


def all_of(felt: list[Felt]) -> Felt:
    return Felt([time for each in felt for time in each.seconds], [line for each in felt for line in each.wrong])
