"""The program under test, with the keys of its callers; what it uses is seen in /proc."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from harness.servers import HOST, Server
from postgres import free_port

from . import wire
from .planned import Upstream
from .plans import OPENAI
from .table import Run

KEYS = 20


class Gateway(Server):
    """One running mirrorgate."""

    def __init__(self, binary: Path, keys: list[str] | None = None, **settings: object) -> None:
        super().__init__("gateway", [str(binary)], {}, free_port(), "/ready")
        self.keys = keys or [f"battery-key-{number:02}-{os.urandom(12).hex()}" for number in range(KEYS)]
        self.environment |= {
            "HOST": HOST,
            "PORT": str(self.port),
            "DATA_DIR": str(self.folder),
            "GATEWAY_API_KEYS": ",".join(f"k{number}:{key}" for number, key in enumerate(self.keys)),
            "LOG_FORMAT": "json",
        } | {name: str(value) for name, value in settings.items()}

    @property
    def key(self) -> str:
        return self.keys[0]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def started(self) -> float:
        """Starts it; how long it took to be ready."""
        return await asyncio.to_thread(self.start)

    async def call(self, method: str, path: str, body: object = None, **more) -> wire.Answer:
        return await wire.call(self.port, method, path, body, **more)

    def logged(self, words: str) -> int:
        """How many lines of the log hold these words."""
        return sum(words in line for line in (self.folder / "log").read_text(errors="replace").splitlines())

    async def removed(self) -> None:
        """Ends it in good order, and throws its folder away."""
        await asyncio.to_thread(self.stop)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what it uses ---

    @property
    def rss(self) -> int:
        return self.memory("VmRSS")

    @property
    def peak(self) -> int:
        """The largest RSS since the last `forget_peak`."""
        return self.memory("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self) -> Counter[str]:
        """How many sockets belong to callers, and how many to the upstream or anything else."""
        return Counter("callers" if port == self.port else "upstream" for port in self.connections().values())

    def connections(self) -> dict[str, int]:
        """Its TCP connections by inode, each with its port here."""
        mine = set()
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            try:
                mine.add(os.readlink(entry.path))
            except FileNotFoundError:
                continue
        fields = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        # The tenth is the inode, and 0A is LISTEN.
        open_ones = [line for line in fields if f"socket:[{line[9]}]" in mine and line[3] != "0A"]
        return {line[9]: int(line[1].split(":")[1], 16) for line in open_ones}


@asynccontextmanager
async def replicas(run: Run, count: int, protocol: str = OPENAI, **settings: object) -> AsyncIterator[tuple[list[Gateway], Upstream]]:
    """So many with the same keys, before one upstream."""
    upstream = Upstream()
    made: list[Gateway] = []
    try:
        for _ in range(count):
            keys = made[0].keys if made else None
            made.append(Gateway(run.binary, keys, **upstream.settings(protocol), **settings))
            await made[-1].started()
        yield made, upstream
    finally:
        for gateway in made:
            await gateway.removed()
        upstream.close()


@asynccontextmanager
async def serving(run: Run, protocol: str = OPENAI, **settings: object) -> AsyncIterator[tuple[Gateway, Upstream]]:
    async with replicas(run, 1, protocol, **settings) as ([gateway], upstream):
        yield gateway, upstream
