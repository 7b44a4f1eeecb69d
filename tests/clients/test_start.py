"""Starting, stopping and the other commands, seen from the outside."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from bodies import answer
from conftest import ROOT, Service, new_key, refusing_port, upstream_settings
from upstream import FAULTS, Upstream

# The settings of this issue, as `--help` must list them; later ones add theirs.
SETTINGS = """
    UPSTREAM_URL UPSTREAM_PROTOCOL UPSTREAM_API_KEY UPSTREAM_COOKIE UPSTREAM_HEADERS UPSTREAM_BODY
    DEFAULT_MODEL MODELS GATEWAY_API_KEYS GATEWAY_AUTH PUBLIC_URL HOST PORT CORS_ALLOWED_ORIGINS
    DATA_DIR CONNECT_TIMEOUT_SECONDS FIRST_BYTE_TIMEOUT_SECONDS IDLE_TIMEOUT_SECONDS REQUEST_TIMEOUT_SECONDS LOG_FORMAT RUST_LOG
""".split()


def status_with(service: Service, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{service.url}/api/health", headers=headers, timeout=10).status_code


# --- the generated key ---


def test_the_first_start_makes_a_key_and_prints_it_once(service: Callable[..., Service]):
    gateway = service(key=None)
    printed = gateway.output
    link = re.search(r"http://\S*/#key=(\S+)", printed)
    assert link, f"no ready link in:\n{printed}"
    key = link[1]
    assert len(key) >= 40, "256 bits need that many characters"
    assert printed.count(key) >= 2, "the key is printed by itself too, for pasting into Dify"
    assert f"{gateway.url}/openapi.json" in printed
    assert "demo" in printed.lower() and "UPSTREAM_URL" in printed
    assert status_with(gateway, key) == 200
    assert httpx.get(f"{gateway.url}/api/health").status_code == 401
    assert gateway.stop() == 0

    files = [path for path in gateway.data_dir.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert key.encode() not in path.read_bytes(), "only its hash may be kept"

    gateway.start()
    assert key not in gateway.output
    assert "/#key=" not in gateway.output
    assert status_with(gateway, key) == 200
    assert status_with(gateway, new_key()) == 401


def test_two_data_directories_get_two_keys(service: Callable[..., Service], tmp_path: Path):
    keys = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        gateway = service(key=None, DATA_DIR=str(tmp_path / name))
        keys |= set(re.findall(r"/#key=(\S+)", gateway.output))
        gateway.stop()
    assert len(keys) == 2


def test_a_key_that_cannot_be_kept_is_an_error_with_the_line_to_paste(
    service: Callable[..., Service], tmp_path: Path
):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    gateway = service(key=None, start=False, DATA_DIR="", HOME=str(blocked))
    result = gateway.run()
    assert result.returncode == 78, result.stderr
    assert re.search(r"GATEWAY_API_KEYS=\S{40,}", result.stderr), result.stderr


def test_a_folder_that_was_chosen_and_cannot_be_written_ends_the_start(
    service: Callable[..., Service], tmp_path: Path
):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    place = str(blocked / "data")
    for variables in ({"DATA_DIR": place}, {"DATABASE_URL": f"sqlite://{place}/x.db"}):
        result = service(start=False, **variables).run()
        assert result.returncode == 78, result.stderr
        assert place in result.stderr and "DATA_DIR" in result.stderr, result.stderr


def test_a_configured_key_is_not_printed_and_no_other_is_made(service: Callable[..., Service]):
    gateway = service()
    assert gateway.key not in gateway.output
    assert "/#key=" not in gateway.output
    assert status_with(gateway, gateway.key) == 200


# --- refusing to start ---


def test_serving_without_keys_needs_a_loopback_address(service: Callable[..., Service]):
    gateway = service(key=None, start=False, GATEWAY_AUTH="none", HOST="0.0.0.0")
    result = gateway.run()
    assert result.returncode == 78, result.stderr
    assert "GATEWAY_AUTH" in result.stderr and "HOST" in result.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", gateway.port)) != 0


def test_serving_without_keys_works_on_loopback(service: Callable[..., Service]):
    gateway = service(key=None, GATEWAY_AUTH="none")
    assert httpx.get(f"{gateway.url}/api/health").status_code == 200


@pytest.mark.parametrize(
    "key", ["short", "aaaaaaaaaaaaaaaaaaaaaaaa", "changeme", "test:password1234"]
)
def test_a_weak_key_is_refused(service: Callable[..., Service], key: str):
    result = service(key=None, start=False, GATEWAY_API_KEYS=key).run()
    assert result.returncode in (2, 78), result.stderr
    assert "GATEWAY_API_KEYS" in result.stderr
    assert key.split(":")[-1] not in result.stderr, "a refused key is still a secret"


def test_all_mistakes_are_reported_at_once_with_their_names(service: Callable[..., Service]):
    bad = {
        "PORT": "99999",
        "HOST": "no.such address",
        "UPSTREAM_URL": "ftp://mirror.example.com",
        "UPSTREAM_PROTOCOL": "carrier-pigeon",
        "PUBLIC_URL": "/relative",
        "CONNECT_TIMEOUT_SECONDS": "soon",
        "GATEWAY_AUTH": "maybe",
        "LOG_FORMAT": "xml",
        "UPSTREAM_HEADERS": "no colon here",
        "UPSTREAM_BODY": "[1, 2",
        "CORS_ALLOWED_ORIGINS": "not an origin",
        "MIRRORGATE_FOO": "1",
    }
    result = service(start=False, **bad).run()
    assert result.returncode == 2
    missing = [name for name in bad if name not in result.stderr]
    assert missing == [], result.stderr
    assert result.stderr.count("hint") >= len(bad) or len(result.stderr.splitlines()) >= 2 * len(
        bad
    )


def test_an_unknown_setting_is_a_mistake(service: Callable[..., Service]):
    result = service(start=False, MIRRORGATE_FOO="1").run()
    assert result.returncode == 2
    assert "MIRRORGATE_FOO" in result.stderr


def test_a_port_in_use_is_explained(service: Callable[..., Service]):
    first = service()
    second = service(start=False, PORT=str(first.port), DATABASE_URL="memory:").run()
    assert second.returncode != 0
    assert str(first.port) in second.stderr and "PORT" in second.stderr
    assert "panicked" not in second.stderr


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["no-such-command"], ["chat"]])
def test_a_wrong_command_line_exits_2(service: Callable[..., Service], arguments: list[str]):
    result = service(start=False).run(*arguments)
    assert result.returncode == 2
    assert result.stderr


def test_settings_can_be_given_as_flags_and_in_a_file(service: Callable[..., Service]):
    gateway = service(start=False, PORT="1")
    gateway.arguments = ["serve", "--port", str(gateway.port)]
    (gateway.data_dir / ".env").write_text("# mine\nPUBLIC_URL=https://from-file.example.com\n")
    gateway.start()
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    assert [server["url"] for server in document["servers"]] == ["https://from-file.example.com"]


# --- help and the other commands ---


def test_help_lists_every_setting_with_its_flag(service: Callable[..., Service]):
    result = service(start=False).run("--help")
    assert result.returncode == 0
    missing = [name for name in SETTINGS if name not in result.stdout]
    assert missing == []
    for command in ("serve", "openapi", "healthcheck", "chat"):
        assert re.search(rf"^\s+{command}\b", result.stdout, re.MULTILINE), command
    for flag in ("--upstream-url", "--port", "--public-url"):
        assert flag in result.stdout


def test_help_shows_no_secret_of_the_environment(service: Callable[..., Service]):
    gateway = service(start=False, UPSTREAM_URL="http://127.0.0.1:9", UPSTREAM_API_KEY="sk-secret")
    result = gateway.run("--help")
    assert result.returncode == 0
    assert gateway.key not in result.stdout
    assert "sk-secret" not in result.stdout


def test_the_version_is_the_crates(service: Callable[..., Service]):
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"', manifest, re.MULTILINE)[1]
    gateway = service(start=False)
    assert gateway.run("-V").stdout.strip() == f"mirrorgate {version}"
    # With the commit, where it is known.
    assert re.fullmatch(rf"mirrorgate {re.escape(version)}( \([\w.-]+\))?", gateway.run("--version").stdout.strip())


def test_healthcheck_tells_whether_the_service_is_live(service: Callable[..., Service]):
    gateway = service()
    assert gateway.run("healthcheck").returncode == 0
    gateway.stop()
    result = gateway.run("healthcheck")
    assert result.returncode == 1
    assert str(gateway.port) in result.stderr


def test_healthcheck_is_not_fooled_by_another_server(
    service: Callable[..., Service], mirror: Upstream
):
    gateway = service(start=False, PORT=mirror.url.rsplit(":", 1)[1])
    assert gateway.run("healthcheck").returncode == 1


def test_chat_streams_an_answer_of_the_demo(service: Callable[..., Service]):
    gateway = service(key=None, start=False)
    result = gateway.run("chat", "hi")
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout.lower()


@pytest.mark.parametrize("protocol", ["openai", "web-chat"])
def test_chat_prints_the_answer_of_the_configured_mirror(
    service: Callable[..., Service], mirror: Upstream, protocol: str
):
    gateway = service(key=None, start=False, **upstream_settings(mirror, protocol))
    result = gateway.run("chat", "你好", "--model", "mirror-small")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == answer(1, "你好")


def test_chat_fails_with_code_and_hint(service: Callable[..., Service]):
    gateway = service(key=None, start=False, UPSTREAM_URL=f"http://127.0.0.1:{refusing_port()}")
    result = gateway.run("chat", "hi", MODELS="m")
    assert result.returncode == 1
    assert "UPSTREAM_URL" in result.stderr
    assert "panicked" not in result.stderr


# --- running and stopping ---


def test_sigterm_ends_it_with_0(service: Callable[..., Service]):
    gateway = service()
    start = time.monotonic()
    assert gateway.stop() == 0, gateway.output
    assert time.monotonic() - start < 5, "nothing was running, so there was nothing to wait for"


def test_sigterm_lets_a_running_answer_finish(service: Callable[..., Service], mirror: Upstream):
    gateway = service(**upstream_settings(mirror, "openai"), MODELS="mirror-large")
    mirror.delay = 2
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import httpx, sys; r = httpx.post(sys.argv[1], json={'message': 'hello'}, timeout=20, "
            "headers={'Authorization': sys.argv[2]}); print(r.status_code, r.json()['answer'])",
            f"{gateway.url}/api/chat",
            f"Bearer {gateway.key}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 10
    while not mirror.asked():
        assert time.monotonic() < deadline, "the mirror was never asked"
        time.sleep(0.01)
    assert gateway.stop() == 0
    output, _ = caller.communicate(timeout=20)
    assert output.strip() == f"200 {answer(1, 'hello')}"


def test_live_and_ready_need_no_key(demo: Service):
    for path in ("/health", "/ready"):
        response = httpx.get(f"{demo.url}{path}")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_holds_no_secret_and_no_prompt(
    service: Callable[..., Service], mirror: Upstream, log_format: str
):
    settings = upstream_settings(mirror, "web-chat")
    gateway = service(**settings, LOG_FORMAT=log_format, RUST_LOG="trace")
    wrong = new_key()
    with gateway.client() as client:
        identifier = client.post("/api/chat", json={"message": "my private question"}).headers[
            "x-request-id"
        ]
        client.get("/api/health", headers={"Authorization": ""}, params={"key": gateway.key})
        client.get("/api/health", headers={"Authorization": f"Bearer {wrong}"})
        client.get("/no/such\r\npath".replace("\r\n", "%0d%0aforged"))
        mirror.fault = FAULTS["html"]
        client.post("/api/chat", json={"message": "my private question"})
    assert gateway.stop() == 0
    log = gateway.output
    secrets = (gateway.key, wrong, mirror.session, mirror.adopted)
    private = (*secrets, "my private question", "你問的是", "secret page text")
    leaks = [line for line in log.splitlines() if any(text in line for text in private)]
    assert leaks == []
    assert identifier in log
    assert not any(line.startswith("forged") for line in log.splitlines())
    if log_format == "json":
        lines = [line for line in log.splitlines() if line.startswith("{")]
        requests = [json.loads(line) for line in lines if identifier in line]
        assert requests, log


def test_a_stop_right_after_the_start_is_a_clean_one(service: Callable[..., Service]):
    gateway = service(start=False)
    for _ in range(10):
        gateway.start()
        assert gateway.stop() == 0, "a platform's signal met a program that was not listening yet"
