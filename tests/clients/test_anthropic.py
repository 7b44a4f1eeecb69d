"""OpenAI's SDKs talk to `/v1` before an upstream of Anthropic's Messages API; the terminal and the
doctor ask it as well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from bodies import CITIES, answer, message, message_events, read_events, text_block
from conftest import Service
from upstream import FAULTS, MODELS, Reply, Upstream

from test_node_sdks import Node
from test_openai_python import ASKED, MODEL, PIXEL, TOOLS, arguments, names, sdk

Make = Callable[..., Service]

THOUGHT = "嗯, let me think."


@pytest.fixture
def anthropic() -> Iterator[Upstream]:
    upstream = Upstream(thought=THOUGHT)
    yield upstream
    upstream.close()


@pytest.fixture
def gateway(service: Make, anthropic: Upstream) -> Service:
    return service(
        UPSTREAM_URL=anthropic.url,
        UPSTREAM_PROTOCOL="anthropic",
        UPSTREAM_API_KEY=anthropic.api_key,
    )


@pytest.fixture
def client(gateway: Service) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as made:
        yield made


@pytest.fixture(scope="module")
def run() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def test_an_answer_has_everything_that_the_sdk_expects(client: openai.OpenAI, anthropic: Upstream):
    messages: Any = [{"role": "system", "content": "Be brief"}, *ASKED]
    got = client.chat.completions.create(model=MODEL, messages=messages, temperature=1.5, stop="x")
    assert got.object == "chat.completion" and got.id and got.created and got.model == MODEL
    choice = got.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", answer(1, "你好"))
    assert choice.message.to_dict()["reasoning_content"] == THOUGHT
    assert choice.finish_reason == "stop"
    assert got.usage and (got.usage.prompt_tokens, got.usage.completion_tokens) == (3, 5)
    assert anthropic.asked()[-1].body == {
        "model": MODEL,
        "max_tokens": 32000,
        "system": "Be brief",
        "messages": [{"role": "user", "content": [text_block("你好")]}],
        "temperature": 1.0,
        "stop_sequences": ["x"],
        "stream": True,
    }


def test_a_stream_arrives_piece_by_piece(client: openai.OpenAI, gateway: Service):
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASKED, **options))
    deltas = [part.choices[0].delta for part in chunks if part.choices]
    assert "".join(delta.content or "" for delta in deltas) == answer(1, "你好")
    thoughts = [delta.to_dict().get("reasoning_content") or "" for delta in deltas]
    assert "".join(map(str, thoughts)) == THOUGHT
    assert len([delta for delta in deltas if delta.content]) > 3
    assert chunks[-1].usage and chunks[-1].usage.total_tokens == 8
    with client.chat.completions.stream(model=MODEL, messages=ASKED) as stream:
        final = stream.get_final_completion().choices[0]
    assert (final.message.content, final.finish_reason) == (answer(1, "你好"), "stop")
    with gateway.client() as http:
        body = {"model": MODEL, "messages": ASKED, "stream": True}
        assert read_events(http.post("/v1/chat/completions", json=body).text)[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_tools_are_called_and_their_results_go_back(
    client: openai.OpenAI, anthropic: Upstream, calls: int, stream: bool
):
    anthropic.calls = calls
    question: Any = {"model": MODEL, "messages": ASKED, "tools": TOOLS}
    if stream:
        with client.chat.completions.stream(**question) as parts:
            choice: Any = parts.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**question).choices[0]
    assert choice.finish_reason == "tool_calls"
    made = choice.message.tool_calls
    assert made and [call.function.name for call in made] == names(calls)
    assert [json.loads(call.function.arguments) for call in made] == arguments(calls)
    assert all(call.id.count("toolu_") == 1 for call in made)
    schemas = [tool["input_schema"] for tool in anthropic.asked()[-1].body["tools"]]
    assert schemas == [tool["function"]["parameters"] for tool in TOOLS]

    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in made]
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in made
        ],
    }
    again: Any = {**question, "messages": [*ASKED, said, *results]}
    assert client.chat.completions.create(**again).choices[0].message.content == answer(1, "你好")
    user, assistant, tools = anthropic.asked()[-1].body["messages"]
    assert (user["role"], assistant["role"], tools["role"]) == ("user", "assistant", "user")
    assert [block["input"] for block in assistant["content"]] == arguments(calls)
    assert [block["tool_use_id"] for block in tools["content"]] == [call.id for call in made]


def test_pictures_reach_the_upstream(client: openai.OpenAI, anthropic: Upstream):
    picture = {"type": "image_url", "image_url": {"url": PIXEL}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    messages: Any = [{"role": "user", "content": content}]
    client.chat.completions.create(model=MODEL, messages=messages)
    block = anthropic.asked()[-1].body["messages"][0]["content"][1]
    data = PIXEL.removeprefix("data:image/png;base64,")
    source = {"type": "base64", "media_type": "image/png", "data": data}
    assert block == {"type": "image", "source": source}


def test_models_are_listed(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == MODELS
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_of_the_right_class(client: openai.OpenAI, anthropic: Upstream):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=ASKED)
    assert unknown.value.code == "model_not_found"
    anthropic.replies.append(Reply.refusal(429, "rate_limit_error", "slow down", Retry_After="7"))
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model=MODEL, messages=ASKED)
    assert limited.value.response.headers["retry-after"] == "7"
    anthropic.replies.append(Reply.refusal(400, "invalid_request_error", "top_k: no"))
    with pytest.raises(openai.BadRequestError, match="top_k: no"):
        client.chat.completions.create(model=MODEL, messages=ASKED)
    anthropic.replies.append(Reply.refusal(529, "overloaded_error", "Overloaded"))
    with pytest.raises(openai.InternalServerError, match="Overloaded"):
        client.chat.completions.create(model=MODEL, messages=ASKED)
    anthropic.fault = FAULTS["html"]
    with pytest.raises(openai.InternalServerError) as page:
        client.chat.completions.create(model=MODEL, messages=ASKED)
    assert "secret page text" not in str(page.value.body)


def test_a_stream_that_breaks_is_no_success(client: openai.OpenAI, anthropic: Upstream):
    events = message_events(message(MODEL, [text_block("the beginning of an answer")]))
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    failure = b"event: error\ndata: " + json.dumps(overloaded).encode() + b"\n\n"
    for rest in (b"", failure):
        anthropic.replies.append(Reply.stream(*events[:6], *([rest] if rest else [])))
        text = ""
        with pytest.raises(openai.APIError) as raised:
            for part in client.chat.completions.create(model=MODEL, messages=ASKED, stream=True):
                text += part.choices[0].delta.content or ""
        assert text and "the beginning of an answer".startswith(text)
        assert not rest or "Overloaded" in str(raised.value.body)


def test_openais_sdk_for_node_asks_streams_and_calls_tools(
    run: Node, gateway: Service, anthropic: Upstream
):
    told = run("openai_chat", gateway)
    assert (told["text"], told["finish"]) == (answer(1, "你好"), "stop")
    told = run("openai_stream", gateway)
    assert told["text"] == told["helper"]["content"] == answer(1, "你好")
    assert told["usage"]["total_tokens"] == 8
    anthropic.calls = 2
    told = run("openai_tools", gateway, tools=["weather", "population"])
    for made in (told["whole"], told["streamed"]):
        assert [call["name"] for call in made] == ["weather", "population"]
        assert [json.loads(call["text"])["city"] for call in made] == CITIES[:2]
        assert all(call["id"].count("toolu_") == 1 for call in made)
    assert told["finish"] == "tool_calls"
    told = run("ai_stream", gateway)
    assert (told["text"], told["reasoning"]) == (answer(1, "你好"), THOUGHT)


def test_the_terminal_and_the_doctor_ask_it_too(gateway: Service):
    asked = gateway.run("chat", "你好")
    assert asked.returncode == 0 and answer(1, "你好") in asked.stdout, asked.stderr
    checked = gateway.run("doctor", "--deep", "--json")
    findings = json.loads(checked.stdout)["findings"]
    found = {finding["check"]: finding["status"] for finding in findings}
    for check in ("upstream.probe", "upstream.login", "upstream.models", "upstream.question"):
        assert found[check] == "ok", findings
