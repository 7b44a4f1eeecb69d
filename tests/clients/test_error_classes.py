"""An upstream's error is the same error through the gateway: OpenAI's own libraries, LiteLLM and LangChain
raise the class that they raise when they ask the upstream themselves, with its fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from conftest import Service, provider_settings
from test_node_sdks import Node
from upstream import Reply, Upstream

# LiteLLM would fetch a list of prices at its import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LANGCHAIN_TRACING_V2"] = "false"

Make = Callable[..., Service]
# How a library fails that asks at this URL with this key: the class, and what else its user sees.
Ask = Callable[[str, str], tuple[Any, ...]]

MODEL = "mirror-small"
ASKED: list[Any] = [{"role": "user", "content": "hi"}]

POLICY = {
    "code": "ResponsibleAIPolicyViolation",
    "content_filter_result": {"hate": {"filtered": True}},
}
ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "a bad parameter": (
        400,
        {"message": "bad", "type": "invalid_request_error", "param": "top_p", "code": None},
    ),
    "too long": (
        400,
        {
            "message": "This model's maximum context length is 8192 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "a content filter": (
        400,
        {
            "message": "The response was filtered due to the content management policy.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "innererror": POLICY,
        },
    ),
    "no such model": (
        404,
        {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": None,
            "code": "model_not_found",
        },
    ),
    "a conflict": (
        409,
        {"message": "busy", "type": "conflict_error", "param": None, "code": "conflict"},
    ),
    "unprocessable": (
        422,
        {"message": "no", "type": "invalid_request_error", "param": None, "code": "invalid_value"},
    ),
    "no credit": (
        429,
        {
            "message": "You exceeded your current quota.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        },
    ),
    "too fast": (
        429,
        {
            "message": "Rate limit reached",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        },
    ),
    "a defect": (500, {"message": "oops", "type": "server_error", "param": None, "code": None}),
    "overload": (
        503,
        {"message": "overloaded", "type": "server_error", "param": None, "code": "overloaded"},
    ),
}


def by_openai(url: str, key: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED)
    error = raised.value
    body = error.body if isinstance(error.body, dict) else {}
    return type(error), error.status_code, error.param, body["message"], body.get("innererror")


def by_openai_streaming(url: str, key: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    return type(raised.value), raised.value.status_code


def by_litellm(url: str, key: str) -> tuple[Any, ...]:
    litellm = pytest.importorskip("litellm")
    with pytest.raises(Exception) as raised:
        litellm.completion(
            model=f"openai/{MODEL}",
            messages=ASKED,
            api_base=url,
            api_key=key,
            max_retries=0,
            num_retries=0,
        )
    return type(raised.value), getattr(raised.value, "status_code", None)


def by_langchain(url: str, key: str) -> tuple[Any, ...]:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(model=MODEL, base_url=url, api_key=key, max_retries=0)
    with pytest.raises(openai.OpenAIError) as raised:
        chat.invoke("hi")
    return type(raised.value), getattr(raised.value, "status_code", None)


LIBRARIES: dict[str, Ask] = {
    "openai": by_openai,
    "openai, streaming": by_openai_streaming,
    "litellm": by_litellm,
    "langchain": by_langchain,
}


@pytest.fixture
def gateway(service: Make, provider: Upstream) -> Service:
    return service(**provider_settings(provider))


@pytest.fixture(scope="module")
def run() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("what", ERRORS)
def test_the_same_class_is_raised_with_and_without_the_gateway(
    gateway: Service, provider: Upstream, library: str, what: str
):
    status, error = ERRORS[what]
    assert gateway.key
    told = []
    for url, key in ((f"{provider.url}/v1", provider.api_key), (f"{gateway.url}/v1", gateway.key)):
        provider.replies.append(Reply.json({"error": error}, status))
        told.append(LIBRARIES[library](url, key))
    assert told[0] == told[1]


@pytest.mark.parametrize("what", ERRORS)
def test_node_throws_the_same_class_with_and_without_the_gateway(
    run: Node, gateway: Service, provider: Upstream, what: str
):
    status, error = ERRORS[what]
    direct = {"url": f"{provider.url}/v1", "key": provider.api_key}
    told = []
    for more in (direct, {}):
        provider.replies.extend(Reply.json({"error": error}, status) for _ in range(2))
        answer = run("openai_error", gateway, **more)
        told.append([(seen["name"], seen["status"]) for seen in answer.values()])
    assert told[0] == told[1]


@pytest.mark.parametrize("status", [401, 403])
def test_the_upstreams_own_credentials_are_no_fault_of_the_caller(
    gateway: Service, provider: Upstream, status: int
):
    assert gateway.key
    provider.replies.append(Reply.error(status, "Incorrect API key provided", "invalid_api_key"))
    told = by_openai(f"{gateway.url}/v1", gateway.key)
    assert told[:2] == (openai.InternalServerError, 502)
