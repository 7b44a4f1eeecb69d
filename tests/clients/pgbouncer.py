"""A private PgBouncer before a private PostgreSQL, from Debian's package, in the mode that a test wants."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from postgres import free_port

PROGRAM = Path("/usr/sbin/pgbouncer")
START_TIMEOUT = 10.0


class Pooler:
    """One pooler, running, with at most `size` connections to the server."""

    def __init__(self, database_url: str, mode: str, size: int) -> None:
        server = urlsplit(database_url)
        self.port = free_port()
        self.url = f"postgres://{server.username}@127.0.0.1:{self.port}{server.path}"
        self.home = Path(tempfile.mkdtemp(prefix="mirrorgate-pgbouncer-"))
        (self.home / "users.txt").write_text(f'"{server.username}" ""\n')
        configuration = self.home / "pgbouncer.ini"
        configuration.write_text(
            f"""[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self.home}/users.txt
pool_mode = {mode}
default_pool_size = {size}
reserve_pool_size = 0
max_client_conn = 1000
"""
        )
        options: dict = {"cwd": "/", "stdin": subprocess.DEVNULL}
        # As root it refuses to run.
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in [self.home, *self.home.iterdir()]:
                os.chown(path, account.pw_uid, account.pw_gid)
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, configuration], **options, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.home / "log").read_text(errors="replace")
                    self.remove()
                    raise RuntimeError(f"PgBouncer does not start:\n{log}") from None
            time.sleep(0.05)

    def remove(self) -> None:
        """Stops it and leaves nothing behind."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)
