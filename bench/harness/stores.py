"""Stores for the growth tables: SQLite files filled by SQL, and a private PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from . import servers
from .programs import ROOT
from .servers import KEY, Server

# Conversations that a measurement goes on with: so many that none grows much by it.
MOST_USED = 5000


@dataclass
class Filled:
    """A folder with a store in it, and ids of its conversations."""

    folder: Path
    conversations: Path

    def settings(self) -> dict[str, str]:
        return {"DATA_DIR": str(self.folder)}

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("mirrorgate.db*"))


@contextmanager
def filled(binary: Path, upstream: Server, protocol: str, count: int, turns: int) -> Iterator[Filled]:
    """A store with so many conversations, each of so many turns."""
    folder = Path(tempfile.mkdtemp(prefix="mirrorgate-bench-store-"))
    try:
        store = Filled(folder, folder / "conversations.txt")
        # The program itself makes the schema.
        with servers.running(servers.mirrorgate(binary, upstream, protocol, store.settings())):
            pass
        ids = [f"conv_{secrets.token_hex(16)}" for _ in range(count)]
        _fill(folder / "mirrorgate.db", ids, turns, protocol)
        store.conversations.write_text("\n".join(ids[:: max(1, count // MOST_USED)][:MOST_USED]))
        yield store
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def with_keys(binary: Path, upstream: Server, count: int, limits: dict[str, int] | None = None) -> Iterator[Path]:
    """A folder with a store of so many keys, the benchmark's among them, which alone has limits."""
    folder = Path(tempfile.mkdtemp(prefix="mirrorgate-bench-keys-"))
    try:
        with servers.running(servers.mirrorgate(binary, upstream, settings={"DATA_DIR": str(folder)})):
            pass
        keys = [(KEY, limits), *((secrets.token_hex(16), None) for _ in range(count - 1))]
        now = int(time.time() * 1000)
        with sqlite3.connect(folder / "mirrorgate.db") as database:
            database.executemany(
                "INSERT INTO gateway_keys (name, digest, owner, limits, created_at) VALUES (?, ?, ?, ?, ?)",
                (
                    (f"bench-{number}", (digest := _digest(key)), digest[:32], json.dumps(may) if may else None, now)
                    for number, (key, may) in enumerate(keys)
                ),
            )
        database.close()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def keys_file(count: int) -> Iterator[dict[str, str]]:
    """Settings with so many keys, the benchmark's the last: more than fit into a variable."""
    with tempfile.NamedTemporaryFile("w", prefix="mirrorgate-bench-keys-") as file:
        others = (f"bench-{number}:{secrets.token_hex(16)}" for number in range(count - 1))
        file.write(",".join([*others, f"bench:{KEY}"]))
        file.flush()
        yield {"GATEWAY_API_KEYS": "", "GATEWAY_API_KEYS_FILE": file.name}


def kept_bytes(folder: Path) -> int:
    """What the conversations of a store take up."""
    with sqlite3.connect(folder / "mirrorgate.db") as database:
        (kept,) = database.execute("SELECT SUM(bytes) FROM conversations").fetchone()
    database.close()
    return kept


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _fill(path: Path, ids: list[str], turns: int, protocol: str) -> None:
    owner = _digest(KEY)[:32]
    thread = ("c-bench", "r-bench") if protocol == "web-chat" else (None, None)
    now = int(time.time() * 1000)
    question, answer = "Explain it. " * 10, "The quick brown fox jumps over the lazy dog. " * 5
    size = turns * len(question + answer)
    with sqlite3.connect(path) as database:
        # A store that is thrown away need not survive a crash while it is made.
        database.execute("PRAGMA synchronous = OFF")
        database.executemany(
            "INSERT INTO conversations (owner, id, system, upstream_conversation, upstream_response, turns, bytes,"
            " created_at, used_at) VALUES (?, ?, NULL, ?, ?, ?, ?, ?, ?)",
            ((owner, id, *thread, turns, size, now, now) for id in ids),
        )
        database.executemany(
            "INSERT INTO turns (owner, id, number, question, answer, partial, created_at) VALUES (?, ?, ?, ?, ?, 0, ?)",
            ((owner, id, number, question, answer, now) for id in ids for number in range(1, turns + 1)),
        )
    database.close()


@dataclass
class Postgres:
    cluster: object
    url: str

    def pids(self) -> list[int]:
        server = Server("postgres", [])
        server.process = self.cluster.process
        return server.pids()


def has_postgres() -> bool:
    return _module().programs() is not None


@contextmanager
def postgres() -> Iterator[Postgres]:
    cluster = _module().Cluster()
    try:
        cluster.start()
        yield Postgres(cluster, cluster.new_database())
    finally:
        cluster.remove()


def _module():  # noqa: ANN202
    """The tests' private server, which asks for nothing but Debian's package."""
    folder = str(ROOT / "tests" / "clients")
    if folder not in sys.path:
        sys.path.append(folder)
    import postgres as module

    return module
