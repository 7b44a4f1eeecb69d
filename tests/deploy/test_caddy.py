"""The program behind a real Caddy with deploy/vps/Caddyfile, on loopback, as on a server.

Caddy makes its certificate itself, for a name under .localhost; it is verified here. The mirror is
the upstream of tests/clients, which sends one piece of an answer each half second.

Usage: test_caddy.py PROGRAM
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests/clients"))

from bodies import DONE, chunk, event, listed  # noqa: E402
from upstream import Reply, Request, Upstream  # noqa: E402

PROGRAM = Path(sys.argv[1]).resolve()
CADDYFILE = ROOT / "deploy/vps/Caddyfile"
HOST = "gateway.localhost"
PIECES, PAUSE = 5, 0.5
KEY = secrets.token_hex(16)
# What a caller might send to have another address written into the document.
LIES = {
    "X-Forwarded-Host": "evil.example.com",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-For": "203.0.113.9",
    "Forwarded": 'for=203.0.113.9;host="evil.example.com";proto=http',
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slowly(request: Request) -> Reply:
    """Answers every question with pieces, slowly."""
    if request.method == "GET":
        return Reply.json({"object": "list", "data": [listed("slow")]}).sized()
    parts: list[bytes | float] = []
    for number in range(PIECES):
        finish = "stop" if number == PIECES - 1 else None
        parts += [event(chunk("slow", {"content": f"piece {number} "}, finish)), PAUSE]
    # Caddy passes event streams on at once by itself; the blanks before a late JSON answer only if told.
    late = request.path == "/late"
    return Reply((*parts[:-1], DONE), media_type="application/json" if late else "text/event-stream")


@contextmanager
def running(command: list[str], env: dict[str, str], folder: Path, port: int) -> Iterator[None]:
    """Runs a program until it listens, then ends it."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not run:\n{log.read_text(errors='replace')}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Https(http.client.HTTPSConnection):
    """A connection to this machine under the name that the certificate carries."""

    def __init__(self, port: int, context: ssl.SSLContext):
        super().__init__(HOST, port, timeout=30, context=context)
        self.tls = context

    def connect(self) -> None:
        # Caddy listens before it has made its certificate.
        deadline = time.monotonic() + 10
        while True:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout)
            try:
                self.sock = self.tls.wrap_socket(plain, server_hostname=HOST)
                return
            except ssl.SSLError:
                plain.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class Run:
    """Counts what was asked and what was wrong."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, good: bool, what: str) -> None:
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"wrong: {what}", file=sys.stderr)


def stream(connection: http.client.HTTPConnection, path: str) -> tuple[int, list[float]]:
    """The status, and when each piece of the answer arrived."""
    question = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    connection.request(
        "POST",
        path,
        json.dumps(question),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    response = connection.getresponse()
    arrived = [time.monotonic() for line in iter(response.readline, b"") if b"piece " in line]
    return response.status, arrived


def is_live(arrived: list[float]) -> bool:
    gaps = [after - before for before, after in zip(arrived, arrived[1:])]
    return len(arrived) == PIECES and all(gap > PAUSE / 2 for gap in gaps)


def main() -> int:
    run = Run()
    with tempfile.TemporaryDirectory(prefix="mirrorgate-caddy-") as name:
        folder = Path(name)
        mirror = Upstream(slowly)
        http_port, https_port, own, other = (free_port() for _ in range(4))

        def caddy(number: int, to: int) -> tuple[list[str], dict[str, str]]:
            config = folder / f"Caddyfile{number}"
            config.write_text(
                "{\n\tadmin off\n\tskip_install_trust\n"
                f"\thttp_port {http_port}\n\thttps_port {https_port}\n"
                f"\tstorage file_system {folder}/caddy\n}}\nimport {CADDYFILE}\n"
            )
            command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
            return command, {"DOMAIN": HOST, "MIRRORGATE": f"127.0.0.1:{to}"}

        def gateway(port: int, **more: str) -> tuple[list[str], dict[str, str]]:
            return [str(PROGRAM)], {
                "PORT": str(port),
                "DATABASE_URL": "memory:",
                "GATEWAY_API_KEYS": f"tester:{KEY}",
                "UPSTREAM_URL": mirror.url,
                **more,
            }

        def connect() -> Https:
            root = folder / "caddy/pki/authorities/local/root.crt"
            return Https(https_port, ssl.create_default_context(cafile=str(root)))

        def get(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
            connection = connect()
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()

        def server(headers: dict[str, str]) -> str:
            status, body = get("/openapi.json", headers)
            return json.loads(body)["servers"][0]["url"] if status == 200 else f"status {status}"

        # The Caddyfile's own part: what the mirror itself sends is passed on as it comes.
        with running(*caddy(1, mirror.port), folder, https_port):
            for path in ("/late", "/chat/completions"):
                status, arrived = stream(connect(), path)
                run.check(status == 200 and is_live(arrived), f"Caddy holds {path} back: {status}, {arrived}")

        with running(*gateway(own), folder, own), running(*caddy(2, own), folder, https_port):
            status, _ = get("/health", {})
            run.check(status == 200, f"/health through Caddy is {status}")
            health = subprocess.run(
                [PROGRAM, "healthcheck"], env={"PORT": str(own)}, cwd=folder, capture_output=True, check=False
            )
            run.check(health.returncode == 0, f"mirrorgate healthcheck: {health.stderr!r}")

            plain = http.client.HTTPConnection("127.0.0.1", http_port, timeout=10)
            plain.request("GET", "/openapi.json", headers={"Host": HOST})
            response = plain.getresponse()
            target = response.getheader("Location", "")
            run.check(
                response.status == 308 and target.startswith(f"https://{HOST}"),
                f"plain http is answered with {response.status} {target!r}, not led to https",
            )

            mine = f"https://{HOST}:{https_port}"
            run.check(server({}) == mine, f"the document says {server({})}, not {mine}")
            for header, value in LIES.items():
                found = server({header: value})
                run.check(found == mine, f"with {header}: {value} the document says {found}, not {mine}")
            run.check(server(LIES) == mine, f"with all of them it says {server(LIES)}, not {mine}")
            _, body = get("/openapi.json", {"Host": "evil.example.com"})
            run.check(b"evil.example.com" not in body, "a Host header of another name is in the document")

            status, arrived = stream(connect(), "/v1/chat/completions")
            run.check(status == 200 and is_live(arrived), f"a stream does not arrive live: {status}, {arrived}")

        address = "https://gateway.example.com"
        with running(*gateway(other, PUBLIC_URL=address), folder, other), running(*caddy(3, other), folder, https_port):
            for headers in ({}, LIES, {"Host": f"{HOST}:1"}):
                found = server(headers)
                run.check(found == address, f"with PUBLIC_URL and {headers} the document says {found}")
    print(f"{run.passed} passed, {run.failed} failed")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
