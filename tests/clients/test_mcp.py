"""MCP's own SDK for Python, and a client that does what Dify's does, call the tools at `/mcp`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import httpx2
import pytest
from bodies import text_chunks
from conftest import NO_TLS, Service, provider_settings
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from upstream import Reply, Upstream

TOOLS = ["chat", "ask", "list_models", "health"]


def with_sdk(
    gateway: Service, mode: str, use: Callable[[Client], Awaitable[None]], key: str | None = None
) -> None:
    """Connects the SDK and lets `use` go on."""

    async def run() -> None:
        headers = {"Authorization": f"Bearer {key or gateway.key}"}
        async with httpx2.AsyncClient(headers=headers, verify=NO_TLS, timeout=30) as http:
            transport = streamable_http_client(f"{gateway.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                await use(client)

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_sdk_lists_and_calls_the_tools(demo: Service, mode: str) -> None:

    async def use(client: Client) -> None:
        listed = (await client.list_tools()).tools
        assert sorted(tool.name for tool in listed) == sorted(TOOLS)
        # The SDK holds each result against the tool's own schema.
        first = await client.call_tool("chat", {"message": "Hello", "temperature": ""})
        assert not first.is_error and "Hello" in first.structured_content["answer"]
        again = {"message": "More", "conversation_id": first.structured_content["conversation_id"]}
        second = await client.call_tool("chat", again)
        assert second.structured_content["conversation_id"] == again["conversation_id"]
        alone = await client.call_tool("ask", {"message": "Hello", "conversation": "a name"})
        assert not alone.is_error and alone.structured_content is None
        assert "Hello" in alone.content[0].text
        models = await client.call_tool("list_models", {})
        assert models.structured_content["default_model"] == "demo"
        health = await client.call_tool("health")
        assert health.structured_content["status"] == "ok"
        refused = await client.call_tool("chat", {"message": " "})
        assert refused.is_error
        assert json.loads(refused.content[0].text)["error"]["code"] == "invalid_request"
        with pytest.raises(MCPError, match="there is no such tool"):
            await client.call_tool("none", {})

    with_sdk(demo, mode, use)


def test_the_hint_of_a_failing_mirror_reaches_the_sdk(
    service: Callable[..., Service], provider: Upstream
) -> None:
    provider.replies.append(Reply.error(401, "no"))
    gateway = service(**provider_settings(provider, DEFAULT_MODEL="m"))

    async def use(client: Client) -> None:
        result = await client.call_tool("chat", {"message": "Hello"})
        assert result.is_error
        assert "UPSTREAM_API_KEY" in result.content[0].text

    with_sdk(gateway, "auto", use)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_sdk_is_told_that_a_late_answer_comes(
    service: Callable[..., Service], provider: Upstream, mode: str
) -> None:
    provider.replies.append(Reply.events(text_chunks("m", "late")).after(2.0))
    gateway = service(**provider_settings(provider, DEFAULT_MODEL="m", HEARTBEAT_SECONDS="0.3"))
    told: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        assert total is None and message
        told.append(progress)

    async def use(client: Client) -> None:
        asked = {"message": "Hello"}
        result = await client.call_tool("chat", asked, progress_callback=progressed)
        assert result.structured_content["answer"] == "late"
        assert set(result.meta["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}

    with_sdk(gateway, mode, use)
    assert len(told) >= 3 and told == sorted(set(told))


def test_without_the_key_the_sdk_is_not_let_in(demo: Service) -> None:
    entered = []

    async def use(client: Client) -> None:
        entered.append(client)

    with pytest.raises(Exception):
        with_sdk(demo, "auto", use, key="not-the-key-4711-0815")
    assert not entered


def test_a_client_like_difys_is_served(demo: Service) -> None:
    """It asks for 2025-06-18, repeats no version in a header, and takes the first page of tools."""
    headers = {
        "Authorization": f"Bearer {demo.key}",
        "Accept": "application/json, text/event-stream",
    }
    with httpx.Client(base_url=demo.url, headers=headers, verify=NO_TLS) as http:

        def send(message: dict[str, Any]) -> httpx.Response:
            return http.post("/mcp", json={"jsonrpc": "2.0", **message})

        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "Dify", "version": "1"}}
        answer = send({"id": 0, "method": "initialize", "params": hello})
        assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
        assert "mcp-session-id" not in answer.headers
        taken = send({"method": "notifications/initialized"})
        assert (taken.status_code, taken.content) == (202, b"")
        listed = send({"id": 1, "method": "tools/list"}).json()["result"]
        assert "nextCursor" not in listed
        for tool in listed["tools"]:
            kinds = {value["type"] for value in tool["inputSchema"]["properties"].values()}
            assert kinds <= {"string"}
            schema = tool.get("outputSchema", {"properties": {}})  # `ask` answers in plain text
            assert not {"text", "json", "files"} & set(schema["properties"])
            # A list of types makes the editor of 1.9.2 to 1.11.1 crash.
            assert all(isinstance(value["type"], str) for value in schema["properties"].values())
        call = {"name": "chat", "arguments": {"message": "你好"}}
        result = send({"id": 2, "method": "tools/call", "params": call}).json()["result"]
        assert "你好" in json.loads(result["content"][0]["text"])["answer"]
        # Dify reads the tokens of a call from here.
        assert result["_meta"]["usage"]["total_tokens"] > 0
