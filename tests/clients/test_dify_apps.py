"""The ready apps of `/dify/`: each file by the rules of Dify's import, and what it does in Dify's own
workflow engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml
from bodies import answer, text_chunks
from conftest import HERE, ROOT, Service, provider_settings
from upstream import Reply, Upstream

Make = Callable[..., Service]

PYTHON = ROOT / "target/engine/bin/python"
APPS = ("chatflow", "streaming", "batch")
LANGUAGES = ("", ".zh-Hant")
FILES = [app + language for app in APPS for language in LANGUAGES]
# As Dify names its conversations.
CONVERSATION = "7b8e2c1a-5f0d-4e6b-9a3c-2d1f0e9b8a7c"
# What breaks JSON that is put together from texts, and what an engine might take for its own.
AWKWARD = (
    'She said "hi" \\ {"message": "x"}\n{{#env.MIRRORGATE_KEY#}} {{ message }} <<RESULT>> 你好 \'🪞\''
)


class Engine:
    """The engine's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-B", HERE / "dify_engine.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, gateway: Service, app: str, *, key: str | None = None, **inputs: Any) -> dict:
        job = {"app": fetch(gateway, app), "url": gateway.url, "inputs": inputs}
        job["key"] = gateway.key if key is None else key
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not PYTHON.exists():
        pytest.skip("./test clients installs Dify's engine where there is Python 3.12 or 3.13")
    started = Engine()
    yield started
    started.close()


@pytest.fixture
def gateway(service: Make, provider: Upstream) -> Service:
    return service(**provider_settings(provider))


def fetch(gateway: Service, app: str) -> str:
    """As Dify does: without a key."""
    answer = httpx.get(f"{gateway.url}/dify/{app}.yml", timeout=10)
    assert answer.status_code == 200
    return answer.text


def chat(engine: Engine, gateway: Service, query: str, app: str = "chatflow", **more: Any) -> dict:
    asked = {"query": query, "conversation_id": CONVERSATION, **more}
    return engine.run(gateway, app, **asked)


@pytest.mark.parametrize("file", FILES)
def test_dify_can_import_the_file(demo: Service, file: str):
    dsl = yaml.safe_load(fetch(demo, file))
    # Older versions of the DSL are imported at once, newer ones only after a warning: 0.4.0 is that of
    # Dify 1.9. Its type matters: a number is refused.
    assert (dsl["kind"], dsl["version"]) == ("app", "0.4.0")
    assert dsl["app"]["name"] and dsl["app"]["mode"] in ("advanced-chat", "workflow")
    for variable in dsl["workflow"]["environment_variables"]:
        # A secret may be empty, but not absent.
        assert (variable["value_type"], variable["value"]) == ("secret", "")
        assert variable["id"] and variable["name"]
    nodes = {node["id"]: node["data"] for node in dsl["workflow"]["graph"]["nodes"]}
    for edge in dsl["workflow"]["graph"]["edges"]:
        ends = nodes[edge["source"]]["type"], nodes[edge["target"]]["type"]
        assert ends == (edge["data"]["sourceType"], edge["data"]["targetType"])
    reached = {edge["target"] for edge in dsl["workflow"]["graph"]["edges"]}
    assert reached == nodes.keys() - {"start"}
    for data in nodes.values():
        if "retry_config" in data:
            assert data["retry_config"]["retry_enabled"] is False, "each retry is paid again"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_chat_answers_and_remembers(
    engine: Engine, gateway: Service, provider: Upstream, language: str
):
    for turn, query in enumerate(["one", AWKWARD, "three"], 1):
        told = chat(engine, gateway, query, f"chatflow{language}")
        assert told["outputs"] == {"answer": answer(turn, query)}
        assert told["nodes"][-1] == "answer"
    messages = provider.asked()[-1].body["messages"]
    assert [message["content"] for message in messages if message["role"] == "user"] == [
        "one",
        AWKWARD,
        "three",
    ]
    other = chat(engine, gateway, "one", conversation_id="another")
    assert other["outputs"] == {"answer": answer(1, "one")}


def test_a_failure_shows_what_to_do_and_is_asked_once(
    engine: Engine, gateway: Service, provider: Upstream
):
    for status, words in [(401, "UPSTREAM_API_KEY"), (429, "wait"), (500, "try again")]:
        before = len(provider.asked())
        provider.replies.append(Reply.error(status, "no luck today"))
        told = chat(engine, gateway, "one")
        assert told["nodes"][-1] == "failure"
        assert words.lower() in told["outputs"]["answer"].lower()
        assert (told["retries"], len(provider.asked()) - before) == (0, 1)


def test_the_part_that_came_is_shown_with_its_failure(
    engine: Engine, gateway: Service, provider: Upstream
):
    whole = Reply.events(text_chunks("m", "the first half, the second half"))
    provider.replies.append(whole.cut_after(len(whole.body) // 2))
    told = chat(engine, gateway, "one")
    assert told["nodes"][-1] == "failure"
    assert "the first" in told["outputs"]["answer"]


def test_a_wrong_or_missing_key_is_named(engine: Engine, gateway: Service, provider: Upstream):
    told = chat(engine, gateway, "one", key="wrong")
    assert told["nodes"][-1] == "failure"
    assert "GATEWAY_API_KEYS" in told["outputs"]["answer"]
    # Dify's own words, since it sends nothing.
    assert "API key is required" in chat(engine, gateway, "one", key="")["error"]
    assert provider.asked() == []


def test_a_late_failure_shows_what_to_do(engine: Engine, service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider), HEARTBEAT_AFTER_SECONDS="1", HEARTBEAT_SECONDS="1")
    provider.replies.append(Reply.error(500, "no luck today").after(2.5))
    told = chat(engine, gateway, "one")
    assert told["nodes"][-1] == "failure"
    assert "no luck today" in told["outputs"]["answer"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_streaming_chat_answers_in_pieces_and_shows_what_to_do(
    engine: Engine, gateway: Service, provider: Upstream, language: str
):
    app = f"streaming{language}"
    told = chat(engine, gateway, AWKWARD, app)
    assert told["outputs"] == {"answer": answer(1, AWKWARD)}
    assert (told["nodes"], told["pieces"]) == (["start", "ask", "answer"], 2)
    provider.replies.append(Reply.error(500, "no luck today"))
    told = chat(engine, gateway, "one", app)
    assert told["nodes"][-1] == "failure"
    assert "no luck today" in told["outputs"]["answer"]
    assert (told["retries"], len(provider.asked())) == (0, 2)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_batch_answers_each_row_by_itself(
    engine: Engine, gateway: Service, provider: Upstream, language: str
):
    app = f"batch{language}"
    for message in ["one", AWKWARD]:
        told = engine.run(gateway, app, message=message, system="Be brief.")
        assert told["outputs"] == {"answer": answer(1, message), "problem": ""}
        assert provider.asked()[-1].body["messages"][0] == {"role": "system", "content": "Be brief."}
    provider.replies.append(Reply.error(500, "no luck today"))
    told = engine.run(gateway, app, message="one", system=None)
    assert told["outputs"]["answer"] == ""
    assert "no luck today" in told["outputs"]["problem"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (502, "<html>Bad Gateway</html>", ("", "HTTP 502: <html>Bad Gateway</html>")),
        (200, "[]", ("", "HTTP 200: []")),
        (200, '{"detail": "other"}', ("", 'HTTP 200: {"detail": "other"}')),
        (200, '   {"success": true, "answer": "a", "error": null}', ("a", "")),
        (424, '{"success": false, "error": {"message": "m", "hint": "h"}}', ("", "m: h")),
        (424, '{"success": false, "answer": "a", "error": {"message": "m"}}', ("a", "m")),
    ],
)
def test_whatever_comes_is_read(status: int, body: str, expected: tuple[str, str]):
    code: dict[str, Any] = {}
    exec((ROOT / "src/api/dify/read.py").read_text(), code)
    assert tuple(code["main"](status, body).values()) == expected
