"""The tests' own tools, tested: a fake that is wrong would blame the product."""

from __future__ import annotations

import json

import dify_client
import httpx
import openai
import pytest
from bodies import USAGE, answer, completion, read_events, text_chunks
from upstream import FAULTS, Reply, Upstream

SAMPLE = {
    "openapi": "3.0.3",
    "info": {"title": "sample", "version": "1", "description": "a sample"},
    "servers": [{"url": "https://sample.example.com"}],
    "paths": {
        "/ask": {
            "post": {
                "operationId": "ask",
                "summary": "short",
                "description": "long",
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["question"],
                                "properties": {
                                    "question": {"type": "string", "description": "what"},
                                    "style": {"type": "string", "default": "plain"},
                                    "odd": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                                },
                            }
                        }
                    }
                },
            }
        },
        "/look": {"get": {"operationId": "look", "summary": "only a summary"}},
    },
}


def test_the_client_reads_a_document_as_json_and_as_yaml():
    provider = dify_client.parse(json.dumps(SAMPLE))
    ask = provider.tools["ask"]
    assert (ask.url, ask.method, ask.description) == (
        "https://sample.example.com/ask",
        "post",
        "long",
    )
    assert [(p.name, p.type, p.required, p.default) for p in ask.parameters] == [
        ("question", "string", True, None),
        ("style", "string", False, "plain"),
        ("odd", "string", False, None),
    ]
    assert provider.tools["look"].description == "only a summary"
    assert dify_client.parse(dify_client.yaml.safe_dump(SAMPLE)).tools.keys() == {"ask", "look"}


def test_the_client_fails_where_dify_fails():
    sample = json.loads(json.dumps(SAMPLE))
    schema = sample["paths"]["/ask"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema["properties"]["question"]["type"] = ["string", "null"]
    with pytest.raises(dify_client.DifyImportError, match="unhashable type: 'list'"):
        dify_client.parse(json.dumps(sample))
    for missing in ("info", "servers", "paths"):
        with pytest.raises(dify_client.DifyImportError, match=missing):
            dify_client.parse(json.dumps({k: v for k, v in SAMPLE.items() if k != missing}))


def test_the_client_sends_what_dify_sends():
    seen: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(
            200, content='{"a": "é"}'.encode(), headers={"content-type": "application/json"}
        )

    tool = dify_client.parse(json.dumps(SAMPLE)).tools["ask"]
    with dify_client.Caller(dify_client.Auth("header", "basic", key="k")) as caller:
        caller.client = httpx.Client(transport=httpx.MockTransport(reply))
        result = caller.invoke(tool, question=7, unknown="dropped", odd="x")
        assert result.agent_sees_it_once
        with pytest.raises(dify_client.DifyToolError, match="Missing required parameter question"):
            caller.invoke(tool)
    assert seen[0].headers["authorization"] == "Basic k"
    assert seen[0].headers["content-type"] == "application/json"
    assert json.loads(seen[0].content) == {"question": "7", "style": "plain", "odd": None}


@pytest.mark.parametrize("stream", [False, True])
def test_the_mirror_speaks_openai(mirror: Upstream, stream: bool):
    body = {
        "model": "mirror-small",
        "messages": [{"role": "user", "content": "你好"}],
        "stream": stream,
    }
    url = f"{mirror.url}/v1/chat/completions"
    assert httpx.post(url, json=body).status_code == 401
    response = httpx.post(url, json=body, headers={"Authorization": f"Bearer {mirror.api_key}"})
    if stream:
        events = [part.removeprefix("data: ") for part in response.text.split("\n\n")]
        assert events[-2:] == ["[DONE]", ""]
        chunks = [json.loads(event) for event in events if event.startswith("{")]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert text == answer(1, "你好")


def test_the_mirror_speaks_web_chat(mirror: Upstream):
    base = f"{mirror.url}/rest/app-chat/conversations"
    assert httpx.post(f"{base}/new", json={"message": "a"}).status_code == 401
    client = httpx.Client(cookies={"session": mirror.session})
    lines = [
        json.loads(line) for line in client.post(f"{base}/new", json={"message": "a"}).iter_lines()
    ]
    identifier = lines[0]["result"]["conversation"]["conversationId"]
    parent = lines[-1]["result"]["response"]["modelResponse"]["responseId"]
    again = {"message": "b", "parentResponseId": parent}
    lines = [
        json.loads(line)
        for line in client.post(f"{base}/{identifier}/responses", json=again).iter_lines()
    ]
    assert lines[-1]["result"]["modelResponse"]["message"] == answer(2, "b")
    tokens = [line["result"] for line in lines if not line["result"].get("isThinking")]
    assert "".join(token.get("token", "") for token in tokens) == answer(2, "b")


@pytest.mark.parametrize("small", [False, True])
def test_an_upstream_speaks_anthropics_messages(small: bool):
    upstream = Upstream(small=small)
    url = f"{upstream.url}/v1/messages"
    asked = {"model": "claude", "messages": [{"role": "user", "content": "你好"}]}
    assert httpx.post(url, json=asked).json()["error"]["type"] == "authentication_error"
    with httpx.Client(headers={"x-api-key": upstream.api_key}) as client:
        whole = client.post(url, json=asked).json()
        assert whole["content"] == [{"type": "text", "text": answer(1, "你好")}]
        stream = client.post(url, json={**asked, "stream": True}).text
    events = [item.split("\ndata: ") for item in stream.removesuffix("\n\n").split("\n\n")]
    told = [json.loads(data) for _, data in events]
    assert [name for name, _ in events] == [f"event: {item['type']}" for item in told]
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    text = "".join(item["delta"].get("text", "") for item in told if "delta" in item)
    assert text == answer(1, "你好")
    upstream.close()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "silent"])
def test_the_mirror_fails_on_demand(mirror: Upstream, fault: str):
    mirror.fault = FAULTS[fault]
    try:
        response = httpx.post(f"{mirror.url}/v1/chat/completions", json={})
    except httpx.RemoteProtocolError:
        assert fault == "truncated"
    else:
        good = (
            response.status_code == 200 and response.headers["content-type"] == "application/json"
        )
        assert not good or fault in ("empty", "garbage")


# --- the OpenAI-style upstream ---


def sdk_of(provider: Upstream) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{provider.url}/v1", api_key=provider.api_key, max_retries=0)


@pytest.mark.parametrize("messy", [False, True])
def test_the_provider_speaks_to_openais_sdk(provider: Upstream, messy: bool):
    provider.calls = 2
    question = {"model": "mirror-small", "messages": [{"role": "user", "content": "你好"}]}
    with sdk_of(provider) as client:
        whole = client.chat.completions.create(**question)
        assert whole.choices[0].message.content == answer(1, "你好")
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(**question, **options))
        assert chunks[-1].usage and chunks[-1].usage.to_dict() == USAGE
        tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
        with client.chat.completions.stream(**question, tools=[tool]) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
        assert calls and [json.loads(call.function.arguments)["city"] for call in calls] == [
            "台北",
            "Paris",
        ]
        sound = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"))
        assert sound.text.startswith("a.wav: 4 bytes, ")
        assert client.embeddings.create(model="mirror-small", input="ab").data[0].embedding[0] == 2
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no-such-model")
        # The messy form says the same, and by the letter of the specification alone.
        provider.messy = messy
        raw = client.chat.completions.with_raw_response.create(**question, stream=True)
        text = raw.http_response.read().decode()
        if messy:
            with pytest.raises(AssertionError):
                read_events(text)
        else:
            assert [json.loads(item) for item in read_events(text)[:-1]] == text_chunks(
                "mirror-small", answer(1, "你好")
            )


def test_the_provider_pauses_and_breaks_where_it_is_told_to(provider: Upstream):
    url = f"{provider.url}/v1/chat/completions"
    reply = Reply.json(completion("mirror-small", "text"))
    gate = provider.gate()
    provider.replies.extend([reply.halved(gate), reply.cut_after(9), Reply.error(429, "slow")])
    with httpx.stream("POST", url, json={}) as response:
        parts = response.iter_raw()
        first = next(parts)
        gate.reached()
        assert len(first) < len(reply.body)
        gate.open()
        assert first + b"".join(parts) == reply.body
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(url, json={})
    assert httpx.post(url, json={}).status_code == 429
    assert [request.path for request in provider.asked()] == ["/v1/chat/completions"] * 3
