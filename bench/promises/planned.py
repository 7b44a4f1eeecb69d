"""The upstream of the battery: that of tests/clients, in a process of its own, which does to each
question what its plan says.

It counts what arrives by the plan's id: `GET /control/ledger` tells, for each, which plan every request
followed on its connection.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from upstream import HOST, End, Gate, Reply, Request, serve

from . import plans, wire


class Planned:
    def __init__(self) -> None:
        # By plan: for each request the plan before it on the same connection, or None.
        self.ledger: dict[str, list[str | None]] = defaultdict(list)
        self.trapped = 0
        self.gates: dict[str, Gate] = {}

    def reply(self, request: Request) -> Reply:
        if request.path == "/control/ledger":
            return Reply.json({"ledger": self.ledger, "trapped": self.trapped}).sized()
        if request.method == "GET" and request.path.endswith("/models"):
            return Reply.json({"object": "list", "data": [{"id": plans.MODEL, "object": "model"}]}).sized()
        if request.method != "POST" or "trap" in request.path or "login" in request.path:
            self.trapped += 1
            return Reply.error(404, "nothing here").sized()
        try:
            return self.planned(request)
        except (LookupError, RecursionError, TypeError, ValueError):
            # No plan: a question of the amplification.
            return Reply.raw(End.CLOSE)

    def planned(self, request: Request) -> Reply:
        asked = request.body
        if request.path.startswith("/rest/app-chat/"):
            spec = json.loads(asked["message"])
            made = plans.script(spec, plans.WEB_CHAT, True, new=request.path.endswith("/new"))
        else:
            questions = [message["content"] for message in asked["messages"] if message["role"] == "user"]
            spec = json.loads(questions[-1])
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            made = plans.script(spec, plans.OPENAI, bool(asked.get("stream")), turn=len(questions), usage=usage)
        self.ledger[spec["id"]].append(request.connection.get("plan"))
        request.connection["plan"] = spec["id"]
        return Reply.raw(*(self.gate(step) if isinstance(step, plans.Together) else step for step in made.steps))

    def gate(self, step: plans.Together) -> Gate:
        made = self.gates.get(step.batch) or Gate(asyncio.get_running_loop(), step.count)
        return self.gates.setdefault(step.batch, made)


def own_process(module: str, *words: str) -> tuple[subprocess.Popen[bytes], bytes]:
    """Runs a module of this folder, which ends when its input does; with the first line that it says."""
    command = [sys.executable, "-m", f"promises.{module}", *words]
    folder = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline()


class Upstream:
    """The process, for the caller's side."""

    def __init__(self) -> None:
        self.process, port = own_process("planned")
        self.port = int(port)
        self.url = f"http://{HOST}:{self.port}"

    def settings(self, protocol: str) -> dict[str, str]:
        """What the gateway is told of it."""
        named = {"UPSTREAM_PROTOCOL": protocol, "DEFAULT_MODEL": plans.MODEL, "UPSTREAM_URL": self.url}
        if protocol == plans.OPENAI:
            return named | {"UPSTREAM_API_KEY": "up-battery-0123456789"}
        return named | {"UPSTREAM_COOKIE": "session=battery-0123456789", "MODELS": plans.MODEL}

    async def ledger(self) -> dict:
        return (await wire.call(self.port, "GET", "/control/ledger")).json()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    asyncio.run(serve(Planned().reply))
