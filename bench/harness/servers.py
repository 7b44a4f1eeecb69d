"""The servers that are compared: each is started in a folder of its own and stopped again."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

from . import programs

# The product refuses keys that look easily guessed.
KEY = secrets.token_urlsafe(32)
START_TIMEOUT = 90.0


@dataclass
class Server:
    """A process under test, or one of the benchmark's own."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ready_path: str | None = "/health"
    port: int = 0
    # One more line in the head of each call.
    header: str | None = None
    log: str | None = None
    process: subprocess.Popen | None = None
    folder: Path | None = None
    started_in: float = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Server:
        assert self.folder is not None
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment}
        output = (self.folder / "log").open("ab")
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        while not self._ready():
            if self.process.poll() is not None or time.perf_counter() - begin > START_TIMEOUT:
                raise SystemExit(f"{self.name} does not start:\n{self.output()}")
            time.sleep(0.0005 if time.perf_counter() - begin < 1 else 0.05)
        self.started_in = time.perf_counter() - begin
        return self

    def _ready(self) -> bool:
        if self.ready_path is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
                return True
            except OSError:
                return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def output(self) -> str:
        assert self.folder is not None
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def pids(self) -> list[int]:
        """The process and all that come from it."""
        assert self.process is not None
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    todo += [int(child) for child in children.read_text().split()]
                except OSError:
                    pass
        return found

    def resident_bytes(self) -> int:
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total

    def cpu_us(self) -> float:
        """User and system time so far, in microseconds."""
        threads = (path for pid in self.pids() for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e3

    def stop(self) -> None:
        if self.process is None:
            return
        # Its session is its own, so the group is the process and its workers, nobody else's.
        # The minimal proxy has nothing to finish, and takes a second for it.
        first = [] if self.name == "minimal" else [(signal.SIGTERM, 5)]
        for number, patience in [*first, (signal.SIGKILL, 5)]:
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.folder = Path(tempfile.mkdtemp(prefix=f"mirrorgate-bench-{server.name}-"))
    # nginx's workers are not root and must get in.
    server.folder.chmod(0o755)
    try:
        prepare = server.environment.pop("_CONFIG", None)
        if prepare is not None:
            (server.folder / "config").write_text(prepare.replace("$FOLDER", str(server.folder)))
        server.environment = {
            name: value.replace("$FOLDER", str(server.folder)) for name, value in server.environment.items()
        }
        server.command = [word.replace("$FOLDER", str(server.folder)) for word in server.command]
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def free_port() -> int:
    """A port below the range that outgoing connections take theirs from."""
    for port in range(18_000 + os.getpid() % 4000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                if port not in _given:
                    _given.add(port)
                    return port
            except OSError:
                continue
    raise SystemExit("no free port")


_given: set[int] = set()


def upstream(idle_close_ms: int = 0) -> Server:
    port = free_port()
    command = [str(programs.RELEASE / "upstream"), "--port", str(port)]
    if idle_close_ms:
        command += ["--idle-close-ms", str(idle_close_ms)]
    return Server("upstream", command, port=port, ready_path=None)


def minimal(up: Server) -> Server:
    port = free_port()
    command = [str(programs.RELEASE / "minimal"), "--port", str(port), "--upstream", f"http://{up.address}"]
    return Server("minimal", command, port=port)


NGINX = """
daemon off;
worker_processes 2;
worker_rlimit_nofile 65536;
pid $FOLDER/pid;
error_log stderr warn;
events { worker_connections 16384; }
http {
    @LOG@
    client_body_temp_path $FOLDER/body;
    proxy_temp_path $FOLDER/proxy;
    fastcgi_temp_path $FOLDER/fastcgi;
    uwsgi_temp_path $FOLDER/uwsgi;
    scgi_temp_path $FOLDER/scgi;
    client_body_buffer_size 2m;
    client_max_body_size 2m;
    keepalive_requests 100000000;
    upstream mirror {
@SERVERS@
        keepalive 4096;
        keepalive_requests 100000000;
    }
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location = /health { return 200; }
        location / {
            proxy_pass http://mirror;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }
    }
}
"""


NGINX_LOG = """log_format line escape=json '{"time":"$time_iso8601","request":"$request","status":$status,'
        '"bytes":$body_bytes_sent,"seconds":$request_time,"upstream":$upstream_response_time,"id":"$request_id"}';
    access_log $FOLDER/access.log line;"""


def nginx(*behind: Server, log: bool = False) -> Server:
    port = free_port()
    lines = "\n".join(f"        server {server.address} max_fails=0;" for server in behind)
    config = NGINX.replace("@SERVERS@", lines).replace("@PORT@", str(port))
    config = config.replace("@LOG@", NGINX_LOG if log else "access_log off;")
    command = [_installed("nginx"), "-p", "$FOLDER", "-c", "$FOLDER/config", "-e", "stderr"]
    return Server("nginx", command, {"_CONFIG": config}, port=port)


HAPROXY = """
global
    nbthread 2
    maxconn 4096
defaults
    mode http
    option http-keep-alive
    http-reuse always
    # Else it waits up to 40 ms for more of a stream.
    option http-no-delay
    timeout connect 5s
    timeout client 300s
    timeout server 300s
frontend gateway
    bind 127.0.0.1:@PORT@
    http-request return status 200 if { path /health }
    default_backend mirror
backend mirror
    server mirror @UPSTREAM@ pool-max-conn -1
"""


def haproxy(up: Server) -> Server:
    port = free_port()
    config = HAPROXY.replace("@PORT@", str(port)).replace("@UPSTREAM@", up.address)
    return Server("haproxy", [_installed("haproxy"), "-db", "-f", "$FOLDER/config"], {"_CONFIG": config}, port=port)


def portkey(up: Server) -> Server:
    port = free_port()
    command = ["node", str(programs.portkey()), "--headless", f"--port={port}"]
    config = {"provider": "openai", "api_key": KEY, "custom_host": f"http://{up.address}/v1"}
    header = f"x-portkey-config: {json.dumps(config)}"
    return Server("portkey", command, {"NODE_ENV": "production"}, port=port, ready_path="/", header=header)


def _installed(program: str) -> str:
    found = programs.proxy(program)
    if found is None:
        raise SystemExit(f"{program} is not installed: apt-get install {program}")
    return found


def python_wrapper(module: str, workers: int, up: Server) -> Server:
    port = free_port()
    command = [str(programs.venv("requirements.txt") / "uvicorn"), f"{module}:app", "--app-dir"]
    command += [str(programs.BENCH / "servers"), "--port", str(port), "--no-access-log", "--log-level", "warning"]
    if workers > 1:
        command += ["--workers", str(workers)]
    return Server(module, command, {"BENCH_UPSTREAM": f"http://{up.address}"}, port=port)


LITELLM = """
model_list:
  - model_name: "*"
    litellm_params:
      model: "openai/*"
      api_base: http://@UPSTREAM@/v1
      api_key: sk-bench
general_settings:
  master_key: @KEY@
"""


def litellm(up: Server) -> Server:
    port = free_port()
    folder = programs.venv("requirements-litellm.txt")
    config = LITELLM.replace("@UPSTREAM@", up.address).replace("@KEY@", KEY)
    command = [str(folder / "litellm"), "--config", "$FOLDER/config.yaml", "--host", "127.0.0.1"]
    command = ["sh", "-c", f"cp $FOLDER/config $FOLDER/config.yaml && exec {' '.join(command)} --port {port}"]
    environment = {"_CONFIG": config, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Server("litellm", command, environment, port=port, ready_path="/health/liveliness")


def mirrorgate(
    binary: Path, up: Server, protocol: str = "openai", settings: dict[str, str] | None = None
) -> Server:
    """The product as a user runs it: keys, log of every request, a store on disk."""
    port = free_port()
    environment = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA_DIR": "$FOLDER/data",
        "GATEWAY_API_KEYS": f"bench:{KEY}",
        "UPSTREAM_URL": f"http://{up.address}",
        "UPSTREAM_PROTOCOL": protocol,
        "DEFAULT_MODEL": "json",
        "LOG_FORMAT": "json",
    }
    if protocol == "web-chat":
        environment["UPSTREAM_COOKIE"] = f"session={KEY}"
    else:
        environment["UPSTREAM_API_KEY"] = KEY
    environment |= settings or {}
    return Server("mirrorgate", [str(binary)], environment, port=port)
