"""Stores for the growth tables: SQLite files filled by SQL, and a private PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import postgres

from . import servers
from .servers import KEY

# Conversations that a measurement goes on with: so many that none grows much by it.
MOST_USED = 5000
QUESTION, ANSWER = "Explain it. " * 10, "The quick brown fox jumps over the lazy dog. " * 5


class Store:
    """A folder with a store in it, which the program itself has made, with no upstream but its demo."""

    def __init__(self, binary: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mirrorgate-bench-store-"))
        self.settings = {"DATA_DIR": str(self.folder)}
        self.used: list[str] = []
        its_own = {"UPSTREAM_URL": "", "UPSTREAM_API_KEY": ""}
        with servers.running(servers.server("mirrorgate", settings=its_own | self.settings, BINARY=str(binary))):
            pass

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.folder / "mirrorgate.db")
        # A store that is thrown away need not survive a crash while it is made.
        database.execute("PRAGMA synchronous = OFF")
        with database:
            yield database
        database.close()

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("mirrorgate.db*"))

    def kept_bytes(self) -> int:
        """What its conversations take up."""
        with self.opened() as database:
            return database.execute("SELECT SUM(bytes) FROM conversations").fetchone()[0]

    def fill(self, protocol: str, count: int, turns: int) -> None:
        """With so many conversations, each of so many turns."""
        ids = [f"conv_{secrets.token_hex(16)}" for _ in range(count)]
        self.used = ids[:: max(1, count // MOST_USED)][:MOST_USED]
        owner, now = _digest(KEY)[:32], _now()
        thread = ("c-bench", "r-bench") if protocol == "web-chat" else (None, None)
        size = turns * len(QUESTION + ANSWER)
        with self.opened() as database:
            database.executemany(
                "INSERT INTO conversations (owner, id, system, upstream_conversation, upstream_response, turns, bytes,"
                " created_at, used_at) VALUES (?, ?, NULL, ?, ?, ?, ?, ?, ?)",
                ((owner, id, *thread, turns, size, now, now) for id in ids),
            )
            database.executemany(
                "INSERT INTO turns (owner, id, number, question, answer, partial, created_at)"
                " VALUES (?, ?, ?, ?, ?, 0, ?)",
                ((owner, id, number, QUESTION, ANSWER, now) for id in ids for number in range(1, turns + 1)),
            )

    def add_keys(self, count: int, limits: dict[str, int] | None = None) -> None:
        """So many keys, the benchmark's among them, which alone has limits."""
        keys = [(KEY, limits), *((secrets.token_hex(16), None) for _ in range(count - 1))]
        rows = (
            (f"bench-{number}", (digest := _digest(key)), digest[:32], json.dumps(may) if may else None, _now())
            for number, (key, may) in enumerate(keys)
        )
        with self.opened() as database:
            database.executemany(
                "INSERT INTO gateway_keys (name, digest, owner, limits, created_at) VALUES (?, ?, ?, ?, ?)", rows
            )
        self.settings["GATEWAY_API_KEYS"] = ""


@contextmanager
def store(binary: Path) -> Iterator[Store]:
    made = Store(binary)
    try:
        yield made
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)


@contextmanager
def keys_file(count: int) -> Iterator[dict[str, str]]:
    """Settings with so many keys, the benchmark's the last: more than fit into a variable."""
    with tempfile.NamedTemporaryFile("w", prefix="mirrorgate-bench-keys-") as file:
        others = (f"bench-{number}:{secrets.token_hex(16)}" for number in range(count - 1))
        file.write(",".join([*others, f"bench:{KEY}"]))
        file.flush()
        yield {"GATEWAY_API_KEYS": "", "GATEWAY_API_KEYS_FILE": file.name}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> int:
    return int(time.time() * 1000)


def has_postgres() -> bool:
    return postgres.programs() is not None


@contextmanager
def cluster() -> Iterator[postgres.Cluster]:
    made = postgres.Cluster()
    try:
        yield made.start()
    finally:
        made.remove()
