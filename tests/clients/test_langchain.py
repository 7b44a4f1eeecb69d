"""LangChain's chat model for OpenAI calls tools through the gateway, whole and streamed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from conftest import Service, provider_settings
from upstream import Upstream

os.environ["LANGCHAIN_TRACING_V2"] = "false"

Make = Callable[..., Service]

CITIES = ["台北", "Paris", "Zürich"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "about a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "population", "history")
]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_tool_calls_arrive_complete(
    service: Make, provider: Upstream, calls: int, interleaved: bool
):
    from langchain_openai import ChatOpenAI

    gateway = service(**provider_settings(provider))
    provider.calls, provider.interleaved = calls, interleaved
    chat = ChatOpenAI(
        model="mirror-small", base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0
    )
    bound = chat.bind_tools(TOOLS)
    whole = bound.invoke("你好")
    streamed = None
    for chunk in bound.stream("你好"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    for message in (whole, streamed):
        made = sorted(message.tool_calls, key=lambda call: call["id"])
        assert [call["name"] for call in made] == ["weather", "population", "history"][:calls]
        assert [call["args"]["city"] for call in made] == CITIES[:calls]
        assert not message.invalid_tool_calls
