"""The service as a model provider of Dify: the class of its plugin for OpenAI-compatible models.

The class takes streams apart more simply than the SDKs do, so whatever it stumbles over is mended
on the way: see the comments in bodies.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bodies import (
    LEFT_OUT,
    answer,
    calls_in_words,
    careless_chunks,
    chunk,
    completion,
    event,
    text_chunks,
    web_chat_lines,
)
from conftest import HERE, Service, new_key, provider_settings, upstream_settings
from upstream import Reply, Upstream

Make = Callable[..., Service]

MODEL = "mirror-small"
# What the class counts by itself when it is told no usage.
COUNTED_BY_DIFY = 1_000_000
TOOLS = [
    {
        "name": name,
        "description": "about a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    for name in ("weather", "population")
]


class Dify:
    """The plugin's process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "dify_model.py"],
            cwd=HERE,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, what: str, gateway: Service, **job: Any) -> dict:
        assert self._process.stdin and self._process.stdout
        asked = {"do": what, "url": f"{gateway.url}/v1", "key": gateway.key, "model": MODEL, **job}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def invoke(self, gateway: Service, **job: Any) -> dict:
        asked = {"messages": [{"role": "user", "content": "你好"}], "stream": True, **job}
        return self.do("invoke", gateway, **asked)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def dify() -> Iterator[Dify]:
    plugin = Dify()
    yield plugin
    plugin.close()


@pytest.fixture
def gateway(service: Make, provider: Upstream) -> Service:
    return service(**provider_settings(provider))


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/v1/v1"])
def test_credentials_are_accepted(dify: Dify, gateway: Service, provider: Upstream, base: str):
    for by_stream in (False, True):
        url = gateway.url + base
        assert dify.do("validate", gateway, url=url, validate_by_stream=by_stream) == {}
    body = provider.asked()[0].body
    assert (body["max_tokens"], body["messages"][0]["content"]) == (5, "ping")


def test_credentials_that_are_wrong_are_explained(dify: Dify, gateway: Service):
    wrong = new_key()
    told = dify.do("validate", gateway, key=wrong)
    assert told["kind"] == "CredentialsValidateFailedError"
    assert "401" in told["error"] and "gateway_key_wrong" in told["error"]
    assert "GATEWAY_API_KEYS" in told["error"] and wrong not in told["error"]
    told = dify.do("validate", gateway, model="no-such-model")
    assert "404" in told["error"] and "model_not_found" in told["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_arrives(dify: Dify, gateway: Service, provider: Upstream, stream: bool):
    parameters = {"temperature": 0.5, "max_tokens": 100}
    told = dify.invoke(gateway, stream=stream, parameters=parameters)
    assert told.get("text") == answer(1, "你好"), told
    body = provider.asked()[-1].body
    assert body["temperature"] == 0.5 and body["max_tokens"] == 100
    if stream:
        assert told["finish"] == "stop"
        assert told["pieces"] > 3, "it came in one piece"
    else:
        assert told["tokens"] == [3, 5]


def test_a_broken_stream_is_mended(dify: Dify, gateway: Service, provider: Upstream):
    provider.messy = True
    told = dify.invoke(gateway)
    assert told.get("text") == answer(1, "你好"), told
    assert told["finish"] == "stop", "a later chunk without a reason erased it"


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_what_small_mirrors_leave_out_is_filled_in(
    dify: Dify, gateway: Service, provider: Upstream, left_out: str
):
    provider.replies.append(Reply.events(careless_chunks(MODEL, "a short answer", left_out)))
    told = dify.invoke(gateway)
    assert told.get("text") == "a short answer", told
    assert told["finish"] == "stop"


def test_usage_in_a_stream_is_believed(dify: Dify, gateway: Service, provider: Upstream):
    # Mirrors that were not asked for it send it all the same.
    used = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    chunks = text_chunks(MODEL, "text")
    provider.replies.append(Reply.events([*chunks, {**chunk(MODEL), "choices": [], "usage": used}]))
    told = dify.invoke(gateway)
    assert told["text"] == "text"
    assert told["tokens"] == [11, 7] or min(told["tokens"]) >= COUNTED_BY_DIFY


def test_a_usage_without_its_parts_does_no_harm(dify: Dify, gateway: Service, provider: Upstream):
    whole = {**completion(MODEL, "text"), "usage": {"total_tokens": 8}}
    provider.replies.append(Reply.json(whole))
    told = dify.invoke(gateway, stream=False)
    assert told.get("text") == "text", told


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2])
def test_tool_calls_add_up(
    dify: Dify,
    gateway: Service,
    provider: Upstream,
    stream: bool,
    interleaved: bool,
    calls: int,
):
    provider.calls, provider.interleaved = calls, interleaved
    told = dify.invoke(gateway, stream=stream, tools=TOOLS)
    assert "error" not in told, told
    assert len(told["calls"]) == calls, told["calls"]
    for number, call in enumerate(told["calls"]):
        assert call["function"]["name"] == TOOLS[number]["name"]
        assert json.loads(call["function"]["arguments"]) == {"city": ("台北", "Paris")[number]}
        assert call["id"].startswith(f"call_{number}_") and call["type"] == "function"
    assert told["text"] == ""
    if stream:
        assert told["finish"] == "tool_calls"

    # The results go back, and the model goes on.
    results = [
        {"role": "tool", "content": "sunny", "tool_call_id": call["id"]} for call in told["calls"]
    ]
    calling = {"role": "assistant", "content": "", "tool_calls": told["calls"]}
    history = [{"role": "user", "content": "你好"}, calling, *results]
    told = dify.invoke(gateway, stream=stream, tools=TOOLS, messages=history)
    assert told.get("text") == answer(1, "你好"), told
    sent = provider.asked()[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant"] + ["tool"] * calls


@pytest.mark.parametrize("stream", [False, True])
def test_tools_before_a_web_chat_add_up_too(
    dify: Dify, service: Make, mirror: Upstream, stream: bool
):
    gateway = service(**upstream_settings(mirror, "web-chat"))
    said = calls_in_words(("weather", {"city": "台北"}), ("population", {"city": "Paris"}))
    lines = tuple(web_chat_lines(said, "r-1", "c-1"))
    mirror.replies.append(Reply(lines, media_type="application/x-ndjson"))
    told = dify.invoke(gateway, stream=stream, tools=TOOLS)
    assert "error" not in told, told
    # Its thinking comes before it, in a stream, as Dify shows that.
    assert told["text"].endswith("Let me look.")
    made = [(call["function"]["name"], call["function"]["arguments"]) for call in told["calls"]]
    assert made == [("weather", '{"city":"台北"}'), ("population", '{"city":"Paris"}')]
    if stream:
        assert told["finish"] == "tool_calls"


def test_a_silence_is_bridged_by_comments_that_disturb_nobody(
    dify: Dify, service: Make, provider: Upstream
):
    gateway = service(**provider_settings(provider, HEARTBEAT_SECONDS="1"))
    reply = Reply.events(text_chunks(MODEL, "after a long while"))
    provider.replies.extend([reply.after(3.0), reply.halved(3.0)])
    for _ in range(2):
        told = dify.invoke(gateway)
        assert told.get("text") == "after a long while", told
        assert told["finish"] == "stop"


def test_a_late_answer_that_is_not_streamed_arrives_too(
    dify: Dify, service: Make, provider: Upstream
):
    beats = {"V1_HEARTBEAT_AFTER_SECONDS": "1", "HEARTBEAT_SECONDS": "1"}
    gateway = service(**provider_settings(provider, **beats))
    provider.replies.append(Reply.json(completion(MODEL, "after a long while")).after(3.0))
    told = dify.invoke(gateway, stream=False)
    assert told.get("text") == "after a long while", told


def test_credentials_are_not_saved_on_a_failure_that_comes_late(
    dify: Dify, service: Make, provider: Upstream
):
    beats = {"V1_HEARTBEAT_AFTER_SECONDS": "1", "HEARTBEAT_SECONDS": "1"}
    gateway = service(**provider_settings(provider, **beats))
    # By then the status has been sent, and it is 200.
    provider.replies.append(Reply.error(429, "out of order").after(3.0))
    told = dify.do("validate", gateway)
    assert told.get("kind") == "CredentialsValidateFailedError", told
    assert "out of order" in told["error"] and "hint" in told["error"], told


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "upstream_auth_expired"),
        (403, "upstream_refused"),
        (429, "upstream_rate_limited"),
        (500, "upstream_"),
    ],
)
def test_failures_are_shown_with_what_to_do(
    dify: Dify, gateway: Service, provider: Upstream, stream: bool, status: int, code: str
):
    provider.replies.append(Reply.error(status, "out of order"))
    told = dify.invoke(gateway, stream=stream)
    for text in (code, "hint", "request_id"):
        assert text in told["error"], told


def test_a_stream_that_breaks_is_shown_as_a_failure(
    dify: Dify, gateway: Service, provider: Upstream
):
    parts = [event(part) for part in text_chunks(MODEL, "the beginning of an answer")[:4]]
    provider.replies.append(Reply.stream(*parts, b"data: {").cut_after(len(b"".join(parts)) + 3))
    told = dify.invoke(gateway)
    assert "upstream_" in told["error"] and "hint" in told["error"], told


@pytest.mark.parametrize("stream", [False, True])
def test_a_web_chat_is_a_model_too(dify: Dify, service: Make, mirror: Upstream, stream: bool):
    gateway = service(**upstream_settings(mirror, "web-chat"))
    assert dify.do("validate", gateway) == {}
    first = dify.invoke(gateway, stream=stream)
    assert first.get("text", "").endswith(answer(1, "你好")), first
    if stream:
        assert first["text"].startswith("<think>\nLet me think.\n</think>"), (
            "thoughts are told apart"
        )
        assert first["finish"] == "stop"
    else:
        assert max(first["tokens"]) < COUNTED_BY_DIFY, "the estimate of the service was not used"


@pytest.mark.parametrize("stream", [False, True])
def test_the_demo_is_a_model_too(dify: Dify, demo: Service, stream: bool):
    with demo.client() as http:
        model = http.get("/v1/models").json()["data"][0]["id"]
    assert dify.do("validate", demo, model=model) == {}
    assert "UPSTREAM_URL" in dify.invoke(demo, model=model, stream=stream)["text"]
