"""A private PostgreSQL server, which a test may stop, crash, freeze and start again.

It runs from Debian's package beside any other server, in a new directory of its own that goes when
it does. PostgreSQL refuses to run as root, so as root it runs as the package's user `postgres`; the
directory lies under the system's temporary one because that user may not be able to enter this
clone. `python3 postgres.py COMMAND…` runs a command with such a server at TEST_POSTGRES_URL.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INSTALLED = Path("/usr/lib/postgresql")
START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0


def programs() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = [path.parent for path in INSTALLED.glob("*/bin/postgres")]

    def version(folder: Path) -> int:
        return int(re.sub(r"\D", "", folder.parent.name) or 0)

    return max(found, key=version, default=None)


# What was given out may not be listened on yet.
_given: set[int] = set()
# Kept for as long as the tests run, so that nothing else can come to listen there.
_refusing: list[socket.socket] = []


def refusing_port() -> int:
    """A port that refuses every connection, now and later."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    _refusing.append(held)
    return held.getsockname()[1]


def free_port() -> int:
    """A port that nothing listens on, below the range that outgoing connections take theirs from."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


class Cluster:
    """One server, not started yet: with an empty cluster of databases, or as a copy of one that runs."""

    def __init__(self, of: Cluster | None = None, port: int | None = None) -> None:
        folder = programs()
        if folder is None:
            raise FileNotFoundError(f"no server under {INSTALLED}: apt-get install postgresql")
        self.programs = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._as: dict = {"cwd": "/", "stdin": subprocess.DEVNULL}
        self.home = Path(tempfile.mkdtemp(prefix="mirrorgate-postgres-"))
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.home, account.pw_uid, account.pw_gid)
            self._as |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        try:
            if of is None:
                options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
                self._run("initdb", "-D", self.data, *options)
            else:
                options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
                self._run("pg_basebackup", "-D", self.data, "-d", of.url(), *options)
        except BaseException:
            self.remove()
            raise

    @property
    def data(self) -> str:
        return str(self.home / "data")

    def url(self, database: str = "postgres") -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, **self._as, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")
        return done.stdout

    def sql(self, text: str, database: str = "postgres") -> str:
        """What psql prints for it: a line for a row, `|` between columns."""
        return self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text, self.url(database))

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = "test_" + secrets.token_hex(6)
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def standby(self, port: int | None = None) -> Cluster:
        """A server that follows this one and takes over when it is promoted: from now on this one
        acknowledges no commit that the other does not have on its disk."""
        standby = Cluster(self, port)
        try:
            standby.start()
            self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.sql("SELECT pg_reload_conf()")
            deadline = time.monotonic() + START_TIMEOUT
            while self.sql("SELECT sync_state FROM pg_stat_replication").strip() != "sync":
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the standby does not follow:\n{standby.log}")
                time.sleep(0.05)
        except BaseException:
            standby.remove()
            raise
        return standby

    def promote(self) -> None:
        """Makes a standby a server of its own, which waits for no other."""
        self.sql("SELECT pg_promote()")

    @property
    def log(self) -> str:
        path = self.home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Cluster:
        """Starts it, also after a crash, and waits until it takes connections."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on",
        }
        command = [str(self.programs / "postgres"), "-D", self.data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.home / "log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the tests, which then stop it.
            self.process = subprocess.Popen(
                command, **self._as, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
                return self
            except RuntimeError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not start:\n{self.log}") from None
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops it in order; open connections are closed."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Ends it as a failing machine would: nothing is finished, the next start recovers."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"PostgreSQL does not stop:\n{self.log}") from None

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and answers none."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self.process is not None
        # The parent first: stopped, it starts no more children.
        os.kill(self.process.pid, number)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for child in children.read_text().split():
            try:
                os.kill(int(child), number)
            except ProcessLookupError:
                pass

    def remove(self) -> None:
        """Stops it and leaves nothing behind."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.thaw()
                # Its files go, so there is nothing to write first.
                self.crash()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)


def main(command: list[str]) -> int:
    def leave(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)
    cluster = Cluster()
    try:
        cluster.start()
        print(f"PostgreSQL runs at {cluster.url()}", file=sys.stderr)
        env = {**os.environ, "TEST_POSTGRES_URL": cluster.url()}
        return subprocess.run(command, env=env).returncode
    finally:
        cluster.remove()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: postgres.py COMMAND [ARGUMENT…]")
    sys.exit(main(sys.argv[1:]))
