"""The SDKs of JavaScript: OpenAI's own, and the AI SDK's provider for compatible services."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bodies import LEFT_OUT, answer, careless_chunks, event, text_chunks
from conftest import HERE, Service, new_key, provider_settings, refusing_port, upstream_settings
from upstream import Reply, Upstream

Make = Callable[..., Service]

MODEL = "mirror-small"
CITIES = ["台北", "Paris"]
TOOLS = ["weather", "population"]


class Node:
    """The process of sdk.mjs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", HERE / "sdk.mjs"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, scenario: str, gateway: Service, **job: Any) -> dict:
        assert self._process.stdin and self._process.stdout
        asked = {"scenario": scenario, "url": f"{gateway.url}/v1", "key": gateway.key, **job}
        self._process.stdin.write(json.dumps({"model": MODEL, **asked}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        assert "thrown" not in told, told["thrown"]
        return told

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def run() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture
def gateway(service: Make, provider: Upstream) -> Service:
    return service(**provider_settings(provider))


def test_openai_asks_and_is_answered(run: Node, gateway: Service):
    told = run("openai_chat", gateway)
    assert (told["text"], told["finish"]) == (answer(1, "你好"), "stop")
    assert told["usage"]["total_tokens"] == 8
    assert told["requestId"]
    told = run("openai_others", gateway)
    assert told["models"] == ["mirror-large", "mirror-small"]
    assert told["embedding"] == [2, 0.5, -0.25]


@pytest.mark.parametrize("messy", [False, True])
def test_openai_reads_a_stream(run: Node, gateway: Service, provider: Upstream, messy: bool):
    provider.messy = messy
    told = run("openai_stream", gateway)
    assert told["text"] == answer(1, "你好")
    assert told["usage"]["total_tokens"] == 8
    assert told["helper"] == {"content": answer(1, "你好"), "role": "assistant", "finish": "stop"}


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_what_small_mirrors_leave_out_is_filled_in(
    run: Node, gateway: Service, provider: Upstream, left_out: str
):
    reply = Reply.events(careless_chunks(MODEL, "a short answer", left_out))
    provider.replies.extend([reply, reply, reply])
    told = run("openai_stream", gateway)
    assert told["text"] == "a short answer"
    assert told["helper"] == {"content": "a short answer", "role": "assistant", "finish": "stop"}
    told = run("ai_stream", gateway)
    assert told.get("errors") is None, told
    assert (told["text"], told["finishReason"]) == ("a short answer", "stop")


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2])
def test_openai_is_asked_to_call_tools(
    run: Node, gateway: Service, provider: Upstream, calls: int, interleaved: bool
):
    provider.calls, provider.interleaved = calls, interleaved
    told = run("openai_tools", gateway, tools=TOOLS)
    for made in (told["whole"], told["streamed"]):
        assert [call["name"] for call in made] == TOOLS[:calls]
        assert [json.loads(call["text"])["city"] for call in made] == CITIES[:calls]
        for number, call in enumerate(made):
            assert call["id"].startswith(f"call_{number}_") and call["id"].count("call_") == 1
    assert told["finish"] == "tool_calls"
    assert sorted(told["done"]) == sorted(TOOLS[:calls])


def test_openai_throws_the_right_errors(
    run: Node, service: Make, gateway: Service, provider: Upstream
):
    told = run("openai_error", gateway, key=new_key())
    for error in told.values():
        assert (error["name"], error["status"]) == ("AuthenticationError", 401)
        assert error["code"] == "gateway_key_wrong" and error["hint"] and error["requestId"]
    told = run("openai_error", gateway, model="no-such-model")
    for error in told.values():
        assert (error["name"], error["code"]) == ("NotFoundError", "model_not_found")
    for _ in range(2):
        provider.replies.append(Reply.error(429, "slow down", Retry_After="7"))
    told = run("openai_error", gateway)
    for error in told.values():
        assert (error["name"], error["code"]) == ("RateLimitError", "upstream_rate_limited")
        assert error["retryAfter"] == "7"
    # The first service holds the file of the store.
    down = service(UPSTREAM_URL=f"http://127.0.0.1:{refusing_port()}/v1", DATABASE_URL="memory:")
    told = run("openai_error", down)
    for error in told.values():
        assert (error["name"], error["code"]) == ("InternalServerError", "upstream_unreachable")
        assert "UPSTREAM_URL" in error["hint"]


def broken() -> Reply:
    parts = [event(part) for part in text_chunks(MODEL, "the beginning of an answer")[:4]]
    return Reply.stream(*parts, b"data: {").cut_after(len(b"".join(parts)) + 3)


def test_openai_throws_when_a_stream_breaks(run: Node, gateway: Service, provider: Upstream):
    provider.replies.append(broken())
    told = run("openai_broken_stream", gateway)
    assert told["text"] == "the beginning o"
    assert told["error"]["name"] == "APIError"
    assert told["error"]["code"].startswith("upstream_")
    assert told["error"]["hint"] and told["error"]["requestId"]


def test_the_ai_sdk_asks_and_is_answered(run: Node, gateway: Service):
    told = run("ai_text", gateway)
    assert (told["text"], told["finishReason"]) == (answer(1, "你好"), "stop")
    assert (told["usage"]["inputTokens"], told["usage"]["outputTokens"]) == (3, 5)


@pytest.mark.parametrize("messy", [False, True])
def test_the_ai_sdk_reads_a_stream(run: Node, gateway: Service, provider: Upstream, messy: bool):
    provider.messy = messy
    told = run("ai_stream", gateway)
    assert told.get("errors") is None, told
    assert (told["text"], told["finishReason"]) == (answer(1, "你好"), "stop")
    if not messy:
        assert (told["usage"]["inputTokens"], told["usage"]["outputTokens"]) == (3, 5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2])
def test_the_ai_sdk_calls_tools_and_goes_on(
    run: Node, gateway: Service, provider: Upstream, calls: int, interleaved: bool
):
    provider.calls, provider.interleaved = calls, interleaved
    told = run("ai_tools", gateway, tools=TOOLS)
    for way in (told["whole"], told["streamed"]):
        made = sorted(way["called"], key=lambda call: call["id"])
        assert [call["name"] for call in made] == TOOLS[:calls]
        assert [call["input"]["city"] for call in made] == CITIES[:calls]
        assert way["text"] == answer(1, "你好")
    results = [m for m in provider.asked()[-1].body["messages"] if m["role"] == "tool"]
    assert len(results) == calls and all("fine" in result["content"] for result in results)


def test_the_ai_sdk_is_told_what_to_do_about_an_error(
    run: Node, gateway: Service, provider: Upstream
):
    provider.replies.append(Reply.error(500, "out of order"))
    told = run("ai_error", gateway)
    assert told["statusCode"] == 500 and "out of order" in told["message"]
    told = run("ai_error", gateway, key=new_key())
    assert (told["statusCode"], told["isRetryable"]) == (401, False)
    assert told["data"]["error"]["code"] == "gateway_key_wrong"
    provider.replies.append(broken())
    told = run("ai_stream", gateway)
    assert told["text"] == "the beginning o"
    assert any("upstream_" in error for error in told["errors"])


def test_the_demo_is_a_model_too(run: Node, demo: Service):
    with demo.client() as http:
        model = http.get("/v1/models").json()["data"][0]["id"]
    assert "UPSTREAM_URL" in run("openai_chat", demo, model=model)["text"]
    told = run("openai_stream", demo, model=model)
    assert told["helper"]["content"] == told["text"] and "UPSTREAM_URL" in told["text"]
    assert "UPSTREAM_URL" in run("ai_stream", demo, model=model)["text"]


def test_a_web_chat_is_a_model_that_thinks(run: Node, service: Make, mirror: Upstream):
    gateway = service(**upstream_settings(mirror, "web-chat"))
    for scenario in ("ai_text", "ai_stream"):
        told = run(scenario, gateway)
        assert (told["text"], told["finishReason"]) == (answer(1, "你好"), "stop")
        assert told["reasoning"] == "Let me think."
        assert told["usage"]["outputTokens"] > 0
    told = run("openai_stream", gateway)
    assert told["text"] == told["helper"]["content"] == answer(1, "你好")
    assert told["usage"]["estimated"] is True
