"""The programs that are started: each in a folder of its own, which goes when it is stopped."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from postgres import free_port

from . import programs
from .programs import RELEASE, SERVERS, TARGET

HOST = "127.0.0.1"
# The product refuses keys that look easily guessed.
KEY = secrets.token_urlsafe(32)
START_TIMEOUT = 90.0


class Server:
    """A process under test, or one of the benchmark's own."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], port: int, ready: str = "/health"):
        self.name, self.command, self.port, self.ready = name, command, port, ready
        self.folder = Path(tempfile.mkdtemp(prefix=f"mirrorgate-bench-{name}-"))
        # nginx's workers are not root and must get in.
        self.folder.chmod(0o755)
        self.environment = {"PATH": f"{os.environ['PATH']}:{programs.SYSTEM}", "HOME": str(self.folder), **environment}
        # One more line in the head of each call.
        self.header = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.started_in = 0.0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> float:
        """Starts it; how long it took until it answered."""
        begin = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        while not self._is_ready():
            if self.process.poll() is not None or time.perf_counter() - begin > START_TIMEOUT:
                raise RuntimeError(f"{self.name} does not start:\n{self.output()}")
            time.sleep(0.0005 if time.perf_counter() - begin < 1 else 0.05)
        self.started_in = time.perf_counter() - begin
        return self.started_in

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.address, timeout=2)
        try:
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def output(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def pids(self) -> list[int]:
        """The process and all that come from it."""
        assert self.process is not None
        return family(self.process.pid)

    def memory(self, line: str = "VmRSS") -> int:
        """A line of what the system says of the memory of its processes, in bytes."""
        status = (text for pid in self.pids() for text in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(text.split()[1]) << 10 for text in status if text.startswith(line + ":"))

    def cpu_us(self) -> float:
        """User and system time so far, in microseconds."""
        threads = (path for pid in self.pids() for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e3

    def stop(self, patience: float = 5.0) -> None:
        """Asks it to end, and kills it with its workers if it does not."""
        if self.process is not None and self.process.poll() is None:
            # Its group is its own: the process and its workers, nobody else.
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                todo += [int(child) for child in children.read_text().split()]
            except OSError:
                pass
    return found


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        # The minimal proxy has nothing to finish, and takes a second for it.
        server.stop(0 if server.name == "minimal" else 5)
        shutil.rmtree(server.folder, ignore_errors=True)


# --- what is compared ---


@dataclass(frozen=True)
class Program:
    """How one is started: `$PORT`, `$FOLDER`, `$KEY`, `$UPSTREAM` and the words stand for what is known only then."""

    title: str
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    # A file of bench/servers that is written into the folder, with the same replaced in it.
    config: str = ""
    words: dict[str, str] = field(default_factory=dict)
    ready: str = "/health"
    header: str = ""
    # How it is installed where it is not there already, and the packages whose versions are told.
    install: Callable[[], Path] | None = None
    packages: tuple[str, ...] = ()


UVICORN = f"{TARGET}/venv/bin/uvicorn --app-dir {SERVERS} --port $PORT --no-access-log --log-level warning"
NGINX = "nginx -p $FOLDER -c $FOLDER/nginx.conf -e stderr"
# In the order of the tables.
PROGRAMS = {
    "upstream": Program("", f"{RELEASE}/upstream $PORT $IDLE", words={"IDLE": "0"}, ready="/v1/models"),
    "nginx": Program("nginx, plain proxy", NGINX, config="nginx.conf", words={"LOG": "off"}),
    "nginx-log": Program(
        "nginx, a line of JSON a request", NGINX, config="nginx.conf", words={"LOG": "access.log line"}
    ),
    "haproxy": Program("HAProxy, plain proxy", "haproxy -db -f $FOLDER/haproxy.cfg", config="haproxy.cfg"),
    "minimal": Program("minimal actix + awc", f"{RELEASE}/minimal $PORT http://$UPSTREAM"),
    # As a user runs it: keys, log of every request, a store on disk.
    "mirrorgate": Program(
        "**mirrorgate**",
        "$BINARY",
        {
            "HOST": HOST,
            "PORT": "$PORT",
            "DATA_DIR": "$FOLDER/data",
            "GATEWAY_API_KEYS": "bench:$KEY",
            "UPSTREAM_URL": "http://$UPSTREAM",
            "UPSTREAM_API_KEY": "$KEY",
            "DEFAULT_MODEL": "json",
            "LOG_FORMAT": "json",
        },
    ),
    "pooled": Program(
        "FastAPI + httpx, 2 workers",
        f"{UVICORN} --workers 2 pooled:app",
        {"BENCH_UPSTREAM": "http://$UPSTREAM"},
        install=programs.wrappers,
        packages=("fastapi", "uvicorn", "httpx"),
    ),
    "tutorial": Program(
        "FastAPI + requests",
        f"{UVICORN} tutorial:app",
        {"BENCH_UPSTREAM": "http://$UPSTREAM"},
        install=programs.wrappers,
        packages=("requests",),
    ),
    "portkey": Program(
        "Portkey's gateway",
        f"node {TARGET}/portkey/node_modules/@portkey-ai/gateway/build/start-server.js --headless --port=$PORT",
        {"NODE_ENV": "production"},
        ready="/",
        header='x-portkey-config: {"provider": "openai", "api_key": "$KEY", "custom_host": "http://$UPSTREAM/v1"}',
        install=programs.portkey,
        packages=("portkey",),
    ),
    "litellm": Program(
        "LiteLLM proxy",
        f"{TARGET}/venv-litellm/bin/litellm --config $FOLDER/litellm.yaml --host 127.0.0.1 --port $PORT",
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        config="litellm.yaml",
        ready="/health/liveliness",
        install=programs.litellm,
        packages=("litellm",),
    ),
}


def server(name: str, *behind: Server, settings: dict[str, str] | None = None, **words: str) -> Server:
    """A program before one upstream or several; `settings` are more of its environment."""
    program, port = PROGRAMS[name], free_port()
    made = Server(name, [], {}, port, program.ready)
    known = {"PORT": str(port), "FOLDER": str(made.folder), "KEY": KEY, **program.words, **words}
    known["UPSTREAM"] = behind[0].address if behind else ""
    known["SERVERS"] = " ".join(f"server {each.address} max_fails=0;" for each in behind)

    def replaced(text: str) -> str:
        # nginx has names of its own that look the same.
        return Template(text).safe_substitute(known)

    made.command = replaced(program.command).split()
    made.header = replaced(program.header)
    environment = program.environment | (settings or {})
    made.environment |= {variable: replaced(value) for variable, value in environment.items()}
    if program.config:
        (made.folder / program.config).write_text(replaced((SERVERS / program.config).read_text()))
    if shutil.which(made.command[0], path=made.environment["PATH"]) is None:
        raise SystemExit(f"{made.command[0]} is not installed: apt-get install {name}")
    return made


WEB_CHAT = {"UPSTREAM_PROTOCOL": "web-chat", "UPSTREAM_COOKIE": "session=$KEY", "UPSTREAM_API_KEY": ""}


def mirrorgate(
    binary: Path, up: Server, protocol: str = "openai", settings: dict[str, str] | None = None
) -> Server:
    chosen = WEB_CHAT if protocol == "web-chat" else {}
    return server("mirrorgate", up, settings=chosen | (settings or {}), BINARY=str(binary))
