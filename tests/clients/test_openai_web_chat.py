"""A web chat behind `/v1`: callers send the whole history, and the mirror keeps its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from bodies import answer, calls_in_words, read_events, web_chat_lines
from conftest import Service, new_key, upstream_settings
from upstream import FAULTS, Reply, Upstream

from test_openai_python import TOOLS, error_of, sdk

Make = Callable[..., Service]

MODEL = "mirror-small"
NEW = "/rest/app-chat/conversations/new"
THOUGHT = "Let me think."


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def reply(text: str) -> Any:
    return {"role": "assistant", "content": text}


@pytest.fixture
def gateway(service: Make, mirror: Upstream) -> Service:
    return service(**upstream_settings(mirror, "web-chat"))


@pytest.fixture
def client(gateway: Service) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as made:
        yield made


def ask(client: openai.OpenAI, messages: list[Any], stream: bool = False) -> str:
    question = {"model": MODEL, "messages": messages}
    if not stream:
        got = client.chat.completions.create(**question)
        return got.choices[0].message.content or ""
    chunks = client.chat.completions.create(**question, stream=True)
    return "".join(part.choices[0].delta.content or "" for part in chunks if part.choices)


def test_an_answer_has_everything_that_the_sdk_expects(client: openai.OpenAI, mirror: Upstream):
    got = client.chat.completions.create(model=MODEL, messages=[user("你好")])
    assert got.object == "chat.completion" and got.id and got.created
    assert got.model == MODEL
    choice = got.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", answer(1, "你好"))
    assert choice.finish_reason == "stop"
    assert choice.message.to_dict()["reasoning_content"] == THOUGHT
    assert mirror.asked()[-1].body["modelName"] == MODEL


def test_tokens_are_estimated_and_the_answer_says_so(client: openai.OpenAI):
    question: dict[str, Any] = {"model": MODEL, "messages": [user("你好")]}
    usages = [client.chat.completions.create(**question).usage]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**question, **options))
    assert chunks[-1].choices == [], "usage comes in a chunk of its own, the last one"
    usages.append(chunks[-1].usage)
    assert not any(part.usage for part in chunks[:-1])
    for usage in usages:
        assert usage and usage.prompt_tokens > 0 and usage.completion_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert usage.to_dict()["estimated"] is True
    plain = client.chat.completions.create(**question, stream=True)
    assert not any(part.usage for part in plain), "nobody asked for it"


def test_a_stream_begins_with_the_first_token(
    client: openai.OpenAI, gateway: Service, mirror: Upstream
):
    mirror.halfway = gate = mirror.gate()
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[user("你好")],
        stream=True,
    )
    thought, text, finish, begun = "", "", None, False
    for part in stream:
        delta = part.choices[0].delta
        thought += delta.to_dict().get("reasoning_content") or ""
        text += delta.content or ""
        finish = part.choices[0].finish_reason or finish
        if text and not begun:
            assert len(text) < len(answer(1, "你好"))
            begun = True
            gate.open()
    assert (thought, text, finish) == (THOUGHT, answer(1, "你好"), "stop")

    question = {"model": MODEL, "messages": [user("你好")], "stream": True}
    with gateway.client() as http:
        response = http.post("/v1/chat/completions", json=question)
    assert read_events(response.text)[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
def test_a_grown_history_goes_on_with_the_same_conversation(
    client: openai.OpenAI, mirror: Upstream, stream: bool
):
    history: list[Any] = [{"role": "system", "content": "Be brief."}]
    for turn, question in enumerate(("one", "二", "three"), 1):
        history.append(user(question))
        text = ask(client, history, stream)
        # The mirror knows no system text, so that comes with the first question.
        said = question if turn > 1 else "Be brief.\n\n" + question
        assert text == answer(turn, said), "the mirror counts the turns of a conversation"
        history.append(reply(text))
    paths = [request.path for request in mirror.asked()]
    assert paths[0] == NEW
    assert len(mirror.conversations) == 1
    kept = next(iter(mirror.conversations))
    assert paths[1:] == [f"/rest/app-chat/conversations/{kept}/responses"] * 2
    bodies = [request.body or {} for request in mirror.asked()]
    assert "parentResponseId" not in bodies[0] or not bodies[0]["parentResponseId"]
    assert [body["message"] for body in bodies[1:]] == ["二", "three"], "it knows the rest already"
    assert bodies[1]["parentResponseId"] != bodies[2]["parentResponseId"]


def test_a_conversation_outlives_the_service(service: Make, mirror: Upstream):
    gateway = service(**upstream_settings(mirror, "web-chat"))
    with sdk(gateway) as client:
        text = ask(client, [user("one")])
    gateway.kill()
    gateway.start()
    with sdk(gateway) as client:
        assert ask(client, [user("one"), reply(text), user("two")]) == answer(2, "two")


def test_a_history_that_the_mirror_never_saw_begins_anew_with_all_of_it(
    client: openai.OpenAI, mirror: Upstream
):
    text = ask(client, [user("one")])
    edited = [user("one"), reply(text + " (edited)"), user("two")]
    ask(client, edited)
    assert [request.path for request in mirror.asked()] == [NEW, NEW]
    message = (mirror.asked()[-1].body or {})["message"]
    for part in ("one", "(edited)", "two"):
        assert part in message
    # A branch: the same first turn, another second question.
    ask(client, [user("one"), reply(text), user("another")])
    assert (mirror.asked()[-1].body or {})["message"].endswith("another")


def test_one_keys_conversation_is_not_gone_on_with_by_another(service: Make, mirror: Upstream):
    ann, bob = new_key(), new_key()
    gateway = service(key=ann, start=False, **upstream_settings(mirror, "web-chat"))
    gateway.env["GATEWAY_API_KEYS"] = f"ann:{ann},bob:{bob}"
    gateway.start()
    with sdk(gateway) as client:
        text = ask(client, [user("one")])
    with sdk(gateway, api_key=bob) as client:
        ask(client, [user("one"), reply(text), user("two")])
    assert [request.path for request in mirror.asked()] == [NEW, NEW]


def test_pieces_of_text_are_understood_as_a_message(client: openai.OpenAI, mirror: Upstream):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask(client, [{"role": "user", "content": parts}])
    message = (mirror.asked()[-1].body or {})["message"]
    assert "a" in message and "b" in message and "type" not in message


@pytest.mark.parametrize(
    "messages",
    [
        "no list",
        [],
        None,
        [7],
        [{"content": "no role"}],
        [{"role": "nobody", "content": "?"}],
        [{"role": "user"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
    ],
)
def test_messages_that_are_none_are_a_bad_request(
    client: openai.OpenAI, mirror: Upstream, messages: Any
):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=messages)
    assert mirror.asked() == []


def test_an_unknown_model_is_not_found(client: openai.OpenAI, mirror: Upstream):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="no-such-model", messages=[user("a")])
    assert raised.value.code == "model_not_found"
    assert mirror.asked() == []


def test_models_are_those_of_the_settings(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["mirror-large", "mirror-small"]
    assert client.models.retrieve(MODEL).id == MODEL


def test_what_a_web_chat_cannot_do_is_not_found(gateway: Service):
    with gateway.client() as http:
        error_of(http.post("/v1/embeddings", json={"model": MODEL, "input": "a"}), 404)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("unauthorized", "upstream_auth_expired"),
        ("html", None),
        ("rate-limited", "upstream_rate_limited"),
        ("error", None),
        ("truncated", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mirror_that_misbehaves_is_explained(
    client: openai.OpenAI, mirror: Upstream, fault: str, code: str | None, stream: bool
):
    mirror.fault = FAULTS[fault]
    expected = openai.RateLimitError if fault == "rate-limited" else openai.InternalServerError
    with pytest.raises(openai.APIError) as raised:
        ask(client, [user("one")], stream)
    if not stream or isinstance(raised.value, openai.APIStatusError):
        assert isinstance(raised.value, expected)
    assert code in (None, raised.value.code)
    assert isinstance(raised.value.body, dict) and raised.value.body["hint"]
    assert "secret page text" not in str(raised.value.body)
    mirror.fault = None
    assert ask(client, [user("one")], stream) == answer(1, "one")


# --- tools, which are an emulation here ---


def says(text: str) -> Reply:
    return Reply(tuple(web_chat_lines(text, "r-1", "c-1")), media_type="application/x-ndjson")


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_told(
    client: openai.OpenAI, mirror: Upstream, stream: bool
):
    cities = ("Paris", "台北")
    mirror.replies.append(says(calls_in_words(*(("weather", {"city": city}) for city in cities))))
    question: dict[str, Any] = {"model": MODEL, "messages": [user("How is it?")], "tools": TOOLS}
    if stream:
        with client.chat.completions.stream(**question) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**question).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    calls = choice.message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [
        {"city": city} for city in cities
    ]
    assert len({call.id for call in calls}) == 2
    assert '"name":"history"' in mirror.asked()[-1].body["message"], "all tools were offered"

    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"}
        for call, city in zip(calls, cities, strict=True)
    ]
    said = {"role": "assistant", "content": choice.message.content}
    said["tool_calls"] = [call.to_dict() for call in calls]
    mirror.replies.append(says("Sunny in both."))
    last = client.chat.completions.create(
        model=MODEL, messages=[user("How is it?"), said, *results], tools=TOOLS
    )
    assert last.choices[0].message.content == "Sunny in both."
    told = mirror.asked()[-1].body["message"]
    for city in cities:
        assert f"The result of the tool weather: sunny in {city}" in told
    assert "How is it?" not in told, "the mirror's own conversation goes on"


def test_a_stop_text_ends_the_answer(client: openai.OpenAI, mirror: Upstream):
    mirror.replies.append(says("Action: look\nObservation: made up"))
    got = client.chat.completions.create(
        model=MODEL, messages=[user("?")], stop=["\nObservation"]
    )
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == ("Action: look", "stop")
