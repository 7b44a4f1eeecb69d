"""The faulty upstream: a process of its own that does to each question what its plan says.

It speaks both protocols over plain sockets, since no server library would send what is sent here. It
counts what arrives by the plan's id: `GET /control/ledger` tells, for each, which plan every request
followed on its connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from . import plans, wire

PATIENCE = 60.0
MAX_REPEATED = 64 << 20
# Lines of heads and bodies of requests are small here, but for those of the amplification.
LIMIT = 64 << 20


class Gone(Exception):
    """The script ended the connection."""


class Server:
    def __init__(self) -> None:
        # By plan: for each request the plan before it on the same connection, or None.
        self.ledger: dict[str, list[str | None]] = defaultdict(list)
        self.trapped = 0
        self.unplanned = 0
        self.taken = 0
        self.gatherings: dict[str, tuple[list[str], asyncio.Event]] = {}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before: list[str] = []
        try:
            while await self.exchange(reader, writer, before):
                pass
        except (Gone, ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except (LookupError, RecursionError, TypeError, ValueError):
            # No plan: a question of the amplification.
            self.unplanned += 1
        finally:
            writer.close()

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, before: list[str]
    ) -> bool:
        """One request; whether another may follow."""
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/control/ledger":
            self.tell(writer, {"ledger": self.ledger, "trapped": self.trapped, "taken": self.taken})
            return False
        if method == "GET" and path.endswith("/models"):
            return self.tell(writer, {"object": "list", "data": [{"id": plans.MODEL, "object": "model"}]})
        if method != "POST" or "trap" in path or "login" in path:
            self.trapped += 1
            return self.tell(writer, {"error": {"message": "nothing here"}}, "404 Not Found")
        self.taken += 1
        asked = json.loads(body)
        if path.startswith("/rest/app-chat/"):
            spec = plan_of(asked["message"])
            made = plans.script(spec, plans.WEB_CHAT, True, new=path.endswith("/new"))
        else:
            questions = [message["content"] for message in asked["messages"] if message["role"] == "user"]
            spec = plan_of(questions[-1])
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            made = plans.script(spec, plans.OPENAI, bool(asked.get("stream")), turn=len(questions), usage=usage)
        self.ledger[spec["id"]].append(before[-1] if before else None)
        before.append(spec["id"])
        for step in made.steps:
            await self.take(step, spec, reader, writer)
        return made.reusable

    def tell(self, writer: asyncio.StreamWriter, value: object, status: str = "200 OK") -> bool:
        body = json.dumps(value).encode()
        writer.write(plans.head(status, "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        return True

    async def take(
        self, step: plans.Step, spec: dict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match step:
            case ("send", data):
                writer.write(data)
                await writer.drain()
            case ("wait", seconds):
                await asyncio.sleep(seconds)
            case ("together", batch, count):
                await self.gather(batch, count, spec["id"])
            case ("repeat", data, pause):
                sent = 0
                while sent < MAX_REPEATED and not reader.at_eof():
                    writer.write(data)
                    await writer.drain()
                    sent += len(data)
                    await asyncio.sleep(pause)
                raise Gone
            case ("hang",):
                async with asyncio.timeout(PATIENCE):
                    await reader.read()
                raise Gone
            case ("close",):
                raise Gone
            case ("reset",):
                # Closing with a linger of zero seconds sends RST.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                raise Gone
            case _:
                raise AssertionError(step)

    async def gather(self, batch: str, count: int, ident: str) -> None:
        """Waits until so many streams of a batch are open at once."""
        members, complete = self.gatherings.setdefault(batch, ([], asyncio.Event()))
        members.append(ident)
        if len(members) >= count:
            complete.set()
        async with asyncio.timeout(PATIENCE):
            await complete.wait()


def plan_of(text: str) -> dict:
    return json.loads(text)


async def serve() -> None:
    upstream = Server()
    server = await asyncio.start_server(upstream.connection, wire.HOST, 0, limit=LIMIT, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    # It ends when whoever started it does, however that happens.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


class Upstream:
    """The process, for the caller's side."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "promises.upstream"],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://{wire.HOST}:{self.port}"

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
    asyncio.run(serve())
