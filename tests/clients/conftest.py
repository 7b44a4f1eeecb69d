"""Fixtures: the service as a program of its own, and a mirror behind it.

The binary under test is `MIRRORGATE_BIN`, by default the release build. Every service gets a free
port, an empty data directory and nothing of this process's environment but PATH, so that neither a
`.env` file nor a platform's variables change what is tested.
"""

from __future__ import annotations

import os
import secrets
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dify_client
import httpx
import postgres
import pytest
from postgres import free_port, refusing_port
from upstream import Upstream

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_TIMEOUT = 20.0
# A drain may take 30 seconds by contract.
STOP_TIMEOUT = 40.0
# No service here speaks TLS, and to load the world's authorities takes longer than most requests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Service:
    """One running mirrorgate."""

    def __init__(self, binary: Path, data_dir: Path, key: str | None, env: dict[str, str]):
        self.binary = binary
        self.data_dir = data_dir
        self.key = key
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(data_dir),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATA_DIR": str(data_dir),
        }
        if key is not None:
            self.env["GATEWAY_API_KEYS"] = f"tester:{key}"
            self.env["ADMIN_KEY"] = new_key()
        self.env.update(env)
        self.arguments: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._output = bytearray()
        self._reader: threading.Thread | None = None

    def start(self) -> Service:
        """Starts the program and waits until it is live."""
        self._output.clear()
        self.process = subprocess.Popen(
            [self.binary, *self.arguments],
            env=self.env,
            cwd=self.data_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_TIMEOUT
        with httpx.Client(timeout=2.0, verify=NO_TLS) as client:
            while True:
                if self.process.poll() is not None:
                    self._reader.join()
                    pytest.fail(f"exited with {self.process.returncode} at start:\n{self.output}")
                try:
                    if client.get(f"{self.url}/health").status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline:
                    self.kill()
                    pytest.fail(f"not live after {START_TIMEOUT} s:\n{self.output}")
                time.sleep(0.01)

    def _collect(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            self._output += line

    @property
    def output(self) -> str:
        """What the program has printed and logged so far."""
        return self._output.decode(errors="replace")

    def stop(self) -> int:
        """Asks it to end as a platform does; its exit code."""
        assert self.process is not None and self._reader is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still there {STOP_TIMEOUT} s after SIGTERM:\n{self.output}")
        self._reader.join()
        return code

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs another command of the program beside the service."""
        return subprocess.run(
            [self.binary, *arguments],
            env={**self.env, **env},
            cwd=self.data_dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def client(self, *, with_key: bool = True) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if with_key and self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0, verify=NO_TLS)

    def tools(self) -> dict[str, dify_client.Tool]:
        return dify_client.import_url(f"{self.url}/openapi.json").tools


def new_key() -> str:
    return secrets.token_urlsafe(32)


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("MIRRORGATE_BIN", ROOT / "target/release/mirrorgate")).resolve()
    if not path.is_file():
        pytest.exit(f"{path} is missing: run `cargo build --release` or set MIRRORGATE_BIN", 2)
    return path


@pytest.fixture(scope="session")
def demo(binary: Path) -> Iterator[Service]:
    """A service with its built-in demo upstream, shared by tests that change nothing in it."""
    with tempfile.TemporaryDirectory(prefix="mirrorgate-") as data_dir:
        service = Service(binary, Path(data_dir), new_key(), {}).start()
        yield service
        assert service.stop() == 0, service.output


@pytest.fixture
def service(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services with settings of their own: `service(NAME=value)`; `key=None` sets no key."""
    started: list[Service] = []

    def make(*, key: str | None = "", start: bool = True, **env: str) -> Service:
        made = Service(binary, tmp_path, new_key() if key == "" else key, env)
        started.append(made)
        return made.start() if start else made

    yield make
    for made in started:
        if made.process is not None and made.process.poll() is None:
            made.stop()


@pytest.fixture(scope="session")
def private_cluster() -> Iterator[postgres.Cluster]:
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    cluster = postgres.Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def cluster(private_cluster: postgres.Cluster) -> postgres.Cluster:
    """A running PostgreSQL server; whatever the test before did to it, it runs."""
    if private_cluster.process is None or private_cluster.process.poll() is not None:
        private_cluster.start()
    private_cluster.thaw()
    return private_cluster


@pytest.fixture
def mirror() -> Iterator[Upstream]:
    """One that writes as small mirrors do."""
    upstream = Upstream(small=True)
    yield upstream
    upstream.close()


@pytest.fixture
def provider() -> Iterator[Upstream]:
    """One that writes as OpenAI does."""
    upstream = Upstream()
    yield upstream
    upstream.close()


def eventually(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Waits until the condition holds; how long that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - start


def provider_settings(provider: Upstream, **more: str) -> dict[str, str]:
    return {"UPSTREAM_URL": f"{provider.url}/v1", "UPSTREAM_API_KEY": provider.api_key, **more}


def upstream_settings(mirror: Upstream, protocol: str) -> dict[str, str]:
    """The settings that a user of this mirror would write."""
    settings = {"UPSTREAM_URL": mirror.url, "UPSTREAM_PROTOCOL": protocol}
    if protocol == "openai":
        settings["UPSTREAM_API_KEY"] = mirror.api_key
    else:
        settings["UPSTREAM_COOKIE"] = mirror.cookie
        settings["MODELS"] = "mirror-large, mirror-small"
    return settings
