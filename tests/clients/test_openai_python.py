"""OpenAI's own SDK for Python talks to `/v1`, before an upstream that speaks the same protocol.

What the upstream sends arrives untouched, and what the caller sends does too; only what some client
stumbles over is mended on the way.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import openai
import pytest
from bodies import (
    DONE,
    EXTRA,
    LEFT_OUT,
    USAGE,
    answer,
    called,
    careless_chunks,
    chunk,
    completion,
    event,
    read_events,
    text_chunks,
    tool_chunks,
)
from conftest import NO_TLS, Service, new_key, provider_settings, refusing_port
from upstream import Reply, Upstream

Make = Callable[..., Service]

MODEL = "mirror-small"
ASKED: list[Any] = [{"role": "user", "content": "你好"}]
TOOLS: list[Any] = [
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
# A red pixel, as a browser would send a picture.
PIXEL = "data:image/png;base64," + base64.b64encode(bytes(range(256))).decode()


def sdk(gateway: Service, base: str = "/v1", **options: Any) -> openai.OpenAI:
    settings = {"api_key": gateway.key, "max_retries": 0, "timeout": 30.0, **options}
    http = openai.DefaultHttpxClient(verify=NO_TLS)
    return openai.OpenAI(base_url=gateway.url + base, http_client=http, **settings)


@pytest.fixture
def gateway(service: Make, provider: Upstream) -> Service:
    return service(**provider_settings(provider))


@pytest.fixture
def client(gateway: Service) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as made:
        yield made


def wire(gateway: Service, **body: Any) -> httpx.Response:
    """A question as no SDK sends it, and the answer before any SDK has read it."""
    asked = {"model": MODEL, "messages": ASKED, **body}
    with gateway.client() as http:
        return http.post("/v1/chat/completions", json=asked)


def error_of(response: httpx.Response, status: int) -> dict:
    """The error of a failed call, with what every error must have checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() >= {"message", "type", "param", "code", "hint", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    for text in ("message", "type", "code", "hint"):
        assert error[text].strip(), f"{text} is empty"
    assert response.headers["x-should-retry"] in ("true", "false")
    return error


# --- chat ---


def test_a_completion_arrives_as_the_upstream_wrote_it(client: openai.OpenAI, provider: Upstream):
    whole = completion(MODEL, "答案 \N{ROBOT FACE}")
    provider.replies.append(Reply.json(whole))
    got = client.chat.completions.create(model=MODEL, messages=ASKED)
    assert got.choices[0].message.content == "答案 \N{ROBOT FACE}"
    assert got.choices[0].finish_reason == "stop"
    assert got.usage and got.usage.prompt_tokens == 3
    assert got.to_dict() == whole, "a field was lost, added or changed"


def test_fields_that_nobody_knows_pass_both_ways(client: openai.OpenAI, provider: Upstream):
    sent = {
        "x_private": EXTRA,
        "seed": 12345678901234567890,
        "logit_bias": {"50256": -100},
        "reasoning_effort": "low",
        "metadata": {"a": None, "空": ""},
    }
    got = client.chat.completions.create(model=MODEL, messages=ASKED, extra_body=sent)
    body = provider.asked()[-1].body
    assert {name: body[name] for name in sent} == sent
    assert got.model_extra and got.model_extra["x_answer"] == EXTRA
    message = got.choices[0].message
    assert message.model_extra and message.model_extra["x_message"] == EXTRA
    streamed = client.chat.completions.create(
        model=MODEL, messages=ASKED, extra_body=sent, stream=True
    )
    chunks = list(streamed)
    assert all(part.model_extra and part.model_extra["x_chunk"] == EXTRA for part in chunks)
    body = provider.asked()[-1].body
    assert {name: body[name] for name in sent} == sent


def test_pictures_and_structured_output_reach_the_upstream_untouched(
    client: openai.OpenAI, provider: Upstream
):
    # Larger than a body of the tools may be: pictures come as text.
    large = "data:image/png;base64," + "QUJD" * (1 << 20)
    content: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": large}},
    ]
    schema: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "thing",
            "strict": True,
            "schema": {"type": "object", "properties": {"b": {}, "a": {"type": ["null"]}}},
        },
    }
    messages: list[Any] = [{"role": "user", "content": content, "name": "ann"}]
    client.chat.completions.create(model=MODEL, messages=messages, response_format=schema)
    body = provider.asked()[-1].body
    assert body["messages"] == messages
    assert body["response_format"] == schema
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["b", "a"], "structured output follows the order of the properties"


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_arrives_chunk_by_chunk(client: openai.OpenAI, provider: Upstream, usage: bool):
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=ASKED, stream=True, **options)
    )
    deltas = [part.choices[0].delta.content or "" for part in chunks if part.choices]
    assert "".join(deltas) == answer(1, "你好")
    sent = text_chunks(MODEL, answer(1, "你好"))
    assert [part.to_dict() for part in chunks if part.choices] == sent
    counted = [part.usage.to_dict() for part in chunks if part.usage]
    assert counted == ([USAGE] if usage else []), "usage comes if and only if it was asked for"


def test_the_first_word_arrives_while_the_upstream_still_thinks(
    client: openai.OpenAI, provider: Upstream
):
    gate = provider.gate()
    chunks = text_chunks(MODEL, "first and last")
    provider.replies.append(
        Reply.stream(*map(event, chunks[:2]), gate, *map(event, chunks[2:]), DONE)
    )
    stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    next(stream)
    assert next(stream).choices[0].delta.content == "first"
    gate.open()
    rest = "".join(part.choices[0].delta.content or "" for part in stream)
    assert rest == " and last"


def test_the_streaming_helper_reads_the_stream(client: openai.OpenAI):
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, stream_options={"include_usage": True}
    ) as stream:
        deltas = [item.delta for item in stream if item.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == answer(1, "你好") == final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.role == "assistant"
    assert final.usage and final.usage.total_tokens == 8


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_stay_apart(client: openai.OpenAI, provider: Upstream, stream: bool):
    if stream:
        chunks = []
        for text in ("a", "b", None):
            for index in (0, 1):
                part = chunk(MODEL, {"content": text} if text else {}, None if text else "stop")
                part["choices"][0]["index"] = index
                chunks.append(part)
        provider.replies.append(Reply.events(chunks))
        got: list[Any] = ["", ""]
        for part in client.chat.completions.create(model=MODEL, messages=ASKED, n=2, stream=True):
            for choice in part.choices:
                got[choice.index] += choice.delta.content or ""
    else:
        whole = completion(MODEL, "ab")
        whole["choices"].append({**whole["choices"][0], "index": 1})
        provider.replies.append(Reply.json(whole))
        answered = client.chat.completions.create(model=MODEL, messages=ASKED, n=2)
        got = [choice.message.content for choice in answered.choices]
    assert got == ["ab", "ab"]
    assert provider.asked()[-1].body["n"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_stream_is_mended_for_weaker_clients(
    gateway: Service, provider: Upstream, stream: bool
):
    provider.messy = True
    if not stream:
        # The SDK itself, which takes more than others do.
        with (
            sdk(gateway) as client,
            client.chat.completions.stream(model=MODEL, messages=ASKED) as helper,
        ):
            final = helper.get_final_completion()
        assert final.choices[0].message.content == answer(1, "你好")
        assert final.choices[0].finish_reason == "stop"
        return
    response = wire(gateway, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = read_events(response.text)
    assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
    chunks = [json.loads(item) for item in events[:-1]]
    assert all(isinstance(part["choices"], list) for part in chunks)
    choices = [part["choices"][0] for part in chunks if part["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == answer(1, "你好")
    assert choices[-1]["finish_reason"] == "stop", "Dify believes the last chunk"
    for part in chunks:
        if part.get("usage"):
            assert isinstance(part["usage"]["prompt_tokens"], int)


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_what_small_mirrors_leave_out_is_filled_in(
    client: openai.OpenAI, provider: Upstream, left_out: str
):
    reply = Reply.events(careless_chunks(MODEL, "a short answer", left_out))
    provider.replies.extend([reply, reply])
    with client.chat.completions.stream(model=MODEL, messages=ASKED) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "a short answer"
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.role == "assistant"
    chunks = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in chunks)
    assert text == "a short answer"


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_the_other_kind_is_made_what_was_asked_for(
    client: openai.OpenAI, provider: Upstream, stream: bool, tools: bool
):
    # Some mirrors always stream, and some never do.
    calls = called(TOOLS, 2) if tools else None
    text = None if tools else "the answer"
    chunks = (
        tool_chunks(MODEL, calls, interleaved=False) if calls else text_chunks(MODEL, "the answer")
    )
    provider.replies.append(
        Reply.json(completion(MODEL, text, calls)) if stream else Reply.events(chunks)
    )
    if stream:
        with client.chat.completions.stream(model=MODEL, messages=ASKED) as helper:
            got = helper.get_final_completion().choices[0]
    else:
        got = client.chat.completions.create(model=MODEL, messages=ASKED).choices[0]
    assert (got.message.content or None) == text
    assert got.finish_reason == ("tool_calls" if tools else "stop")
    made = [call.to_dict() for call in got.message.tool_calls or []]
    for call in made:
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    assert made == (calls or [])


def test_a_stream_that_is_cut_anywhere_reads_the_same(gateway: Service, provider: Upstream):
    # What is decoded does not depend on how the bytes came.
    reply = Reply.events(text_chunks(MODEL, "多位元組 \N{ROBOT FACE} done"))
    for size in (1, 3, len(reply.body)):
        cut = [reply.body[at : at + size] for at in range(0, len(reply.body), size)]
        provider.replies.append(Reply.stream(*cut))
        response = wire(gateway, stream=True)
        assert response.status_code == 200
        assert read_events(response.text) == read_events(reply.body.decode())


# --- tools ---


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_tool_calls_come_whole(client: openai.OpenAI, provider: Upstream, calls: int):
    provider.calls = calls
    got = client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=TOOLS, tool_choice="auto", parallel_tool_calls=True
    )
    assert got.choices[0].finish_reason == "tool_calls"
    made = got.choices[0].message.tool_calls
    assert made and [call.function.name for call in made] == names(calls)
    body = provider.asked()[-1].body
    assert body["tools"] == TOOLS
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)

    # The results go back, and the model goes on.
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in made]
    history = [*ASKED, got.choices[0].message.to_dict(), *results]
    final = client.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert final.choices[0].message.content == answer(1, "你好")
    assert provider.asked()[-1].body["messages"] == history


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_streamed_tool_calls_add_up(
    client: openai.OpenAI, provider: Upstream, calls: int, interleaved: bool
):
    provider.calls, provider.interleaved = calls, interleaved
    # By hand, as the documentation shows it: by index.
    made: dict[int, dict] = {}
    finish = role = None
    for part in client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=TOOLS, stream=True
    ):
        finish = part.choices[0].finish_reason or finish
        role = part.choices[0].delta.role or role
        for delta in part.choices[0].delta.tool_calls or []:
            call = made.setdefault(delta.index, {"id": delta.id, "name": "", "arguments": ""})
            assert delta.function
            if delta.function.name:
                call["name"] = delta.function.name
            call["arguments"] += delta.function.arguments or ""
    assert (finish, role) == ("tool_calls", "assistant")
    assert [made[index]["name"] for index in range(calls)] == names(calls)
    assert [json.loads(made[index]["arguments"]) for index in range(calls)] == arguments(calls)
    assert all(call["id"].startswith("call_") for call in made.values())

    with client.chat.completions.stream(model=MODEL, messages=ASKED, tools=TOOLS) as stream:
        done = [item for item in stream if item.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    whole = final.choices[0].message.tool_calls
    assert whole and [call.function.name for call in whole] == names(calls)
    assert [json.loads(call.function.arguments) for call in whole] == arguments(calls)
    for index, call in enumerate(whole):
        assert call.id.startswith(f"call_{index}_") and call.id.count("call_") == 1, call.id
    assert sorted(item.name for item in done) == sorted(names(calls))


def test_a_tool_call_without_an_id_gets_one(client: openai.OpenAI, provider: Upstream):
    # Small mirrors leave it out, or send it empty with every piece.
    for identifier in (None, ""):
        opening = {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
        pieces: list[dict] = [opening, {"index": 0, "function": {"arguments": '{"city": "台北"}'}}]
        if identifier is not None:
            pieces = [{**piece, "id": identifier} for piece in pieces]
        chunks = [chunk(MODEL, {"tool_calls": [piece]}) for piece in pieces]
        provider.replies.append(Reply.events([*chunks, chunk(MODEL, {}, "tool_calls")]))
        stream = client.chat.completions.create(
            model=MODEL, messages=ASKED, tools=TOOLS, stream=True
        )
        deltas = [d for part in stream for d in part.choices[0].delta.tool_calls or []]
        assert deltas[0].id, "without an id the result cannot be sent back"
        assert "".join(d.function.arguments or "" for d in deltas if d.function) == (
            '{"city": "台北"}'
        )


def names(calls: int) -> list[str]:
    return ["weather", "population", "history"][:calls]


def arguments(calls: int) -> list[dict]:
    return [{"city": city} for city in ("台北", "Paris", "Zürich")[:calls]]


# --- everything else under /v1 ---


def test_models_are_listed_and_looked_up(client: openai.OpenAI):
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["mirror-large", "mirror-small"]
    assert all(model.object == "model" and model.owned_by == "fake" for model in listed)
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("no-such-model")
    assert missing.value.code == "model_not_found"


def test_embeddings_pass(client: openai.OpenAI):
    # The SDK asks for base64 by itself, and for numbers when told.
    for options in ({}, {"encoding_format": "float"}):
        got = client.embeddings.create(model=MODEL, input=["ab", "abc"], **options)
        assert [item.embedding for item in got.data] == [[2.0, 0.5, -0.25], [3.0, 0.5, -0.25]]
        assert got.usage.total_tokens == 4


def test_a_recording_passes_as_it_is(client: openai.OpenAI, provider: Upstream):
    sound = bytes(range(256)) * 400
    got = client.audio.transcriptions.create(model="whisper-1", file=("聲音.wav", sound))
    assert got.text.endswith(f"{len(sound)} bytes, {hashlib.sha256(sound).hexdigest()}")
    request = provider.asked()[-1]
    assert request.path == "/v1/audio/transcriptions"
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")


def test_sound_passes_as_it_is(client: openai.OpenAI, provider: Upstream):
    sound = bytes(range(256)) * 400
    provider.replies.append(Reply((sound,), media_type="audio/mpeg"))
    got = client.audio.speech.create(model="tts-1", voice="alloy", input="你好")
    assert got.content == sound
    assert got.response.headers["content-type"] == "audio/mpeg"


def test_other_streams_pass_as_they_are(
    client: openai.OpenAI, gateway: Service, provider: Upstream
):
    # These have events with names, which would hurt in a stream of chat.
    told: list[dict] = [
        {"type": "response.output_text.delta", "delta": text, "sequence_number": number}
        for number, text in enumerate(("一", "two"))
    ]
    told.append({"type": "response.completed", "response": {"id": "resp_1", "x_end": EXTRA}})
    parts = [b"event: %s\n" % part["type"].encode() + event(part) for part in told]
    provider.replies.extend([Reply.stream(*parts), Reply.stream(*parts), Reply.stream(*parts[:2])])
    stream = client.responses.create(model=MODEL, input="?", stream=True)
    assert [item.to_dict() for item in stream] == told
    with gateway.client() as http:
        response = http.post("/v1/responses", json={"model": MODEL, "input": "?", "stream": True})
    assert response.content == b"".join(parts)
    assert response.headers["content-type"].startswith("text/event-stream")
    with pytest.raises(openai.APIError) as raised:
        list(client.responses.create(model=MODEL, input="?", stream=True))
    assert raised.value.code and raised.value.code.startswith("upstream_")


def test_other_methods_and_queries_pass_but_no_key(gateway: Service, provider: Upstream):
    # What the account keeps is the owner's.
    with sdk(gateway, api_key=gateway.env["ADMIN_KEY"]) as client:
        with pytest.raises(openai.NotFoundError):
            client.files.list(purpose="assistants")
        with pytest.raises(openai.NotFoundError):
            client.files.delete("file-1")
    told = [(request.method, request.path) for request in provider.requests]
    assert told == [("GET", "/v1/files?purpose=assistants"), ("DELETE", "/v1/files/file-1")]
    with gateway.client(with_key=False) as http:
        http.get("/v1/audio/voices", params={"purpose": "x", "key": gateway.key, "limit": "1"})
    assert provider.requests[-1].path == "/v1/audio/voices?purpose=x&limit=1"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E%2Fadmin",
        "/v1/files/..%2f..%2fadmin",
        "/v1/files/%5c..%5c..%5cadmin",
        "/v1//evil.example.com/files",
        "/v1/files%0d%0aX-Evil:%201",
    ],
)
def test_no_path_leads_out_of_the_upstreams_api(gateway: Service, provider: Upstream, path: str):
    with gateway.client() as http:
        http.headers["Authorization"] = f"Bearer {gateway.env['ADMIN_KEY']}"
        response = http.get(path)
    assert response.status_code in (400, 404), response.text
    for request in provider.requests:
        inside = request.path.removeprefix("/v1/")
        assert inside != request.path
        plain = unquote(unquote(inside)).replace("\\", "/")
        assert ".." not in plain.split("/"), request.path
        assert "x-evil" not in request.headers


def test_an_endpoint_that_the_upstream_lacks_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="dall-e", prompt="a gate")


@pytest.mark.parametrize("base", ["/v1", "/v1/", "/v1/v1", ""])
def test_every_base_url_that_people_paste_works(gateway: Service, base: str):
    with sdk(gateway, base) as client:
        got = client.chat.completions.create(model=MODEL, messages=ASKED)
        assert got.choices[0].message.content == answer(1, "你好")
        stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in stream)
        assert text == answer(1, "你好")
        assert [model.id for model in client.models.list()] == ["mirror-large", "mirror-small"]
        assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("stream", [False, True])
def test_headers_tell_the_request(client: openai.OpenAI, stream: bool):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASKED, stream=stream
    )
    assert raw.headers["x-request-id"]
    assert raw.request_id == raw.headers["x-request-id"]
    kind = "text/event-stream" if stream else "application/json"
    assert raw.headers["content-type"].startswith(kind)
    if stream:
        assert (
            "no-cache" in raw.headers["cache-control"] or "no-store" in raw.headers["cache-control"]
        )
    parsed = raw.parse()
    if stream:
        list(parsed)


def test_the_upstream_never_sees_the_callers_credentials(gateway: Service, provider: Upstream):
    with sdk(gateway, default_headers={"Cookie": "caller=secret"}, organization="org-1") as client:
        client.chat.completions.create(model=MODEL, messages=ASKED)
        client.embeddings.create(model=MODEL, input="a")
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"))
        list(client.models.list())
    assert {r.headers["authorization"] for r in provider.requests} == {f"Bearer {provider.api_key}"}
    for request in provider.requests:
        text = repr((request.path, request.headers, request.raw))
        assert gateway.key and gateway.key not in text
        assert "caller=secret" not in text


# --- what can go wrong ---


def test_a_wrong_key_is_an_authentication_error(gateway: Service, provider: Upstream):
    wrong = new_key()
    with sdk(gateway, api_key=wrong) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED)
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert raised.value.code == "gateway_key_wrong"
    assert raised.value.request_id and wrong not in str(raised.value)
    assert provider.requests == []


def test_an_unknown_model_is_not_found(client: openai.OpenAI):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(model="no-such-model", messages=ASKED, stream=stream)
        assert raised.value.code == "model_not_found"
        assert "no-such-model" in raised.value.message


@pytest.mark.parametrize("messages", ["no list", [], None, 7])
def test_messages_that_are_none_are_a_bad_request(client: openai.OpenAI, messages: Any):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert "messages" in raised.value.message


def test_what_the_upstream_says_of_a_bad_request_is_told(client: openai.OpenAI, provider: Upstream):
    provider.replies.append(Reply.error(400, "max_tokens is too large: 9999999", "too_large"))
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=9999999)
    assert "max_tokens is too large" in raised.value.message


def test_too_many_requests_keep_their_retry_after(client: openai.OpenAI, provider: Upstream):
    for stream in (False, True):
        provider.replies.append(Reply.error(429, "slow down", "rate_limit", Retry_After="7"))
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED, stream=stream)
        assert raised.value.response.headers["retry-after"] == "7"
        assert raised.value.code == "rate_limit"


def test_the_sdk_repeats_what_is_worth_repeating(gateway: Service, provider: Upstream):
    with sdk(gateway, max_retries=2) as client:
        provider.replies.append(Reply.error(429, "slow down", Retry_After="0"))
        got = client.chat.completions.create(model=MODEL, messages=ASKED)
        assert got.choices[0].message.content == answer(1, "你好")
        assert len(provider.asked()) == 2
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="no-such-model", messages=ASKED)
        # A login that has expired is no better a second later.
        provider.replies.extend(Reply.error(401, "expired") for _ in range(3))
        before = len(provider.asked())
        with pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED)
        assert raised.value.code == "upstream_auth_expired"
        assert len(provider.asked()) == before + 1


@pytest.mark.parametrize(("status", "seen"), [(401, 502), (403, 502), (500, 500), (502, 502), (503, 503)])
def test_an_upstream_that_fails_is_a_server_error(
    client: openai.OpenAI, provider: Upstream, status: int, seen: int
):
    for stream in (False, True):
        provider.replies.append(Reply.error(status, "out of order"))
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED, stream=stream)
        assert raised.value.status_code == seen, "the caller did nothing wrong"
        assert raised.value.code and raised.value.code.startswith("upstream_")
        assert isinstance(raised.value.body, dict) and raised.value.body["hint"]


def test_an_upstream_that_is_down_is_a_server_error(service: Make):
    gateway = service(UPSTREAM_URL=f"http://127.0.0.1:{refusing_port()}/v1")
    with sdk(gateway) as client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=MODEL, messages=ASKED)
    assert raised.value.code == "upstream_unreachable"
    assert "UPSTREAM_URL" in str(raised.value.body)
    assert raised.value.request_id


def test_an_upstream_that_is_silent_too_long_is_a_timeout(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, FIRST_BYTE_TIMEOUT_SECONDS="1"))
    with sdk(gateway) as client:
        for stream in (False, True):
            provider.replies.append(Reply.json({}).after(provider.gate()))
            with pytest.raises(openai.APIError) as raised:
                list(client.chat.completions.create(model=MODEL, messages=ASKED, stream=stream))
            assert not isinstance(raised.value, openai.APIConnectionError)
            assert raised.value.code == "upstream_timeout"
            if not stream:
                assert isinstance(raised.value, openai.InternalServerError)
                assert raised.value.status_code == 504


@pytest.mark.parametrize("how", ["cut", "ended", "reported"])
def test_a_stream_that_breaks_ends_with_an_error_and_never_as_a_success(
    gateway: Service, provider: Upstream, how: str
):
    chunks = text_chunks(MODEL, "the beginning of an answer")[:4]
    parts = [event(part) for part in chunks]
    match how:
        case "cut":
            reply = Reply.stream(*parts, b"data: {").cut_after(len(b"".join(parts)) + 3)
        case "ended":
            reply = Reply.stream(*parts)
        case _:
            reply = Reply.stream(*parts, event({"error": {"message": "the model fell over"}}))
    provider.replies.extend([reply, reply])
    with sdk(gateway) as client:
        stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        text = ""
        with pytest.raises(openai.APIError) as raised:
            for part in stream:
                text += part.choices[0].delta.content or ""
    assert text == "the beginning o", "what came before the break was lost"
    assert type(raised.value) is openai.APIError, "it was told by an event, not by a broken pipe"
    assert raised.value.code and raised.value.code.startswith("upstream_")
    assert isinstance(raised.value.body, dict) and raised.value.body["hint"]

    response = wire(gateway, stream=True)
    events = read_events(response.text)
    assert "[DONE]" not in events
    last = json.loads(events[-1])
    assert "choices" not in last, "Dify overlooks an error beside choices"
    assert last["error"]["request_id"] == response.headers["x-request-id"]
    assert not any("error" in json.loads(item) for item in events[:-1])


def test_an_answer_that_is_cut_is_no_success(client: openai.OpenAI, provider: Upstream):
    whole = Reply.json(completion(MODEL, "a long answer"))
    for count in (0, 1, len(whole.body) // 2, len(whole.body) - 1):
        provider.replies.append(whole.cut_after(count))
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model=MODEL, messages=ASKED)
        assert raised.value.code and raised.value.code.startswith("upstream_")


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        ("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, b"{not json", 400),
        ("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, b"", 400),
        ("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, b"[]", 400),
        ("POST", "/chat/completions", {"Content-Type": "application/json"}, b"{not json", 400),
        ("POST", "/v1/v1/chat/completions", {"Content-Type": "application/json"}, b"{", 400),
        ("GET", "/v1/chat/completions", {}, b"", 405),
        ("DELETE", "/v1/models", {}, b"", 405),
        ("POST", "/v1/chat/completions", {"Content-Type": "text/plain"}, b"{}", 415),
        (
            "POST",
            "/v1/chat/completions",
            {"Content-Type": "application/json"},
            b" " * (21 << 20),
            413,
        ),
    ],
)
def test_every_mistake_is_answered_in_openais_shape(
    demo: Service, method: str, path: str, headers: dict, content: bytes, status: int
):
    with demo.client() as http:
        error = error_of(http.request(method, path, headers=headers, content=content), status)
    assert error["type"] == "invalid_request_error"


def test_a_missing_key_is_answered_in_openais_shape(demo: Service):
    with demo.client(with_key=False) as http:
        for path in ("/v1/models", "/models", "/v1/v1/models", "/v1/anything"):
            error = error_of(http.get(path), 401)
            assert error["code"] == "gateway_key_missing"


def test_a_browser_on_another_site_may_ask(demo: Service):
    asked = {
        "Origin": "https://chat.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
    }
    with demo.client(with_key=False) as http:
        for path in ("/v1/chat/completions", "/chat/completions", "/v1/embeddings"):
            allowed = http.options(path, headers=asked)
            assert allowed.is_success, allowed.text
            assert allowed.headers["access-control-allow-origin"] in ("*", asked["Origin"])
            assert "access-control-allow-credentials" not in allowed.headers
            headers = allowed.headers["access-control-allow-headers"].lower()
            assert headers == "*" or "x-stainless-lang" in headers


def test_the_demo_answers_the_sdk(demo: Service):
    with sdk(demo) as client:
        models = [model.id for model in client.models.list()]
        assert models
        got = client.chat.completions.create(model=models[0], messages=ASKED)
        assert got.choices[0].message.content and "UPSTREAM_URL" in got.choices[0].message.content
        stream = client.chat.completions.create(model=models[0], messages=ASKED, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
        assert "UPSTREAM_URL" in text
