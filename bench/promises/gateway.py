"""The program under test: started with an empty folder, watched through /proc, stopped or killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import wire

KEYS = 20
START_TIMEOUT = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((wire.HOST, 0))
        return probe.getsockname()[1]


class Gateway:
    """One running mirrorgate."""

    def __init__(self, binary: Path, **settings: object) -> None:
        self.binary = binary
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="mirrorgate-battery-"))
        self.log = self.folder / "log"
        self.keys = [f"battery-key-{number:02}-{os.urandom(12).hex()}" for number in range(KEYS)]
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "HOST": wire.HOST,
            "PORT": str(self.port),
            "DATA_DIR": str(self.folder),
            "GATEWAY_API_KEYS": ",".join(f"k{number}:{key}" for number, key in enumerate(self.keys)),
            "LOG_FORMAT": "json",
        } | {name: str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    @property
    def key(self) -> str:
        return self.keys[0]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> float:
        """Starts the program; how long it took to be ready."""
        with self.log.open("ab") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [self.binary], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"exited with {self.process.returncode} at the start:\n{self.tail()}")
            try:
                if (await self.call("GET", "/ready", timeout=2)).status == 200:
                    return time.monotonic() - self.started
            except (OSError, TimeoutError, wire.Broken):
                pass
            if time.monotonic() - self.started > START_TIMEOUT:
                raise RuntimeError(f"not ready after {START_TIMEOUT:.0f} s:\n{self.tail()}")
            await asyncio.sleep(0.005)

    async def call(self, method: str, path: str, body: object = None, **more) -> wire.Answer:
        return await wire.call(self.port, method, path, body, **more)

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def logged(self, words: str) -> int:
        """How many lines of the log hold these words."""
        return sum(words in line for line in self.log.read_text(errors="replace").splitlines())

    # --- ending ---

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float) -> int | None:
        """The exit code, or None when it is still there after so many seconds."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.01)
        return self.process.returncode

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def remove(self) -> None:
        """Ends it, and throws its folder away."""
        if self.process is not None and self.process.poll() is None:
            self.terminate()
            if await self.ended(5) is None:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what it uses ---

    def status(self, name: str) -> int:
        """A line of /proc/PID/status, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
        raise KeyError(name)

    @property
    def rss(self) -> int:
        return self.status("VmRSS")

    @property
    def peak(self) -> int:
        """The largest RSS since the last `forget_peak`."""
        return self.status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self) -> Counter[str]:
        """How many sockets belong to callers, and how many to the upstream or anything else."""
        counted: Counter[str] = Counter()
        for connection in self.connections().values():
            counted["callers" if connection[0] == self.port else "upstream"] += 1
        return counted

    def connections(self) -> dict[str, tuple[int, int]]:
        """Its TCP connections by inode: the ports here and there."""
        mine = set()
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            try:
                link = os.readlink(entry.path)
            except FileNotFoundError:
                continue
            if link.startswith("socket:["):
                mine.add(link[8:-1])
        found = {}
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            # 0A is LISTEN.
            if fields[9] in mine and fields[3] != "0A":
                ports = [int(address.split(":")[1], 16) for address in fields[1:3]]
                found[fields[9]] = (ports[0], ports[1])
        return found
