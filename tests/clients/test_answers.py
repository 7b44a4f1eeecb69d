"""Answers that take longer than their caller wants to wait, and what each key has used."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
from bodies import DONE, answer, completion, event, text_chunks
from conftest import NO_TLS, Service, eventually, new_key, provider_settings, upstream_settings
from dify_client import Auth, Caller, DifyToolError
from postgres import Cluster
from upstream import Gate, Reply, Upstream

Make = Callable[..., Service]

MODEL = "mirror-small"
TEXT = "An answer in two halves: 前半 and 後半, with an end."
TWO_KEYS = "mine:{},theirs:{}"
LONG = {"LONG_ANSWERS": "true"}


def two_halves(gate: Gate) -> Reply:
    events = [event(part) for part in text_chunks(MODEL, TEXT)]
    middle = len(events) // 2
    return Reply.stream(*events[:middle], gate, *events[middle:], DONE)


def begin(client: httpx.Client, wait: object = "1", **more: str) -> dict:
    """Asks, and expects to be told to come back."""
    asked = {"message": "?", "wait_seconds": wait, **more}
    response = client.post("/api/chat", json=asked)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["success"] is False
    error = body["error"]
    assert error["code"] == "still_running" and error["retryable"] is True
    assert body["response_id"] and "/api/answers" in error["hint"]
    return body


def look(client: httpx.Client, response_id: str) -> dict:
    response = client.get(f"/api/answers/{response_id}")
    assert response.status_code in (200, 424), response.text
    body = response.json()
    assert body["response_id"] == response_id
    return body


def finished(client: httpx.Client, response_id: str, seconds: float = 15.0) -> dict:
    told: dict = {}

    def over() -> bool:
        told.update(look(client, response_id))
        return told["success"] or told["error"]["code"] != "still_running"

    eventually(over, seconds, "the answer is finished")
    return told


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": request.getfixturevalue("cluster").new_database()}


@pytest.mark.parametrize("wait", ["1", 1, "1.0"])
def test_an_answer_that_takes_long_is_fetched_later(
    service: Make, provider: Upstream, wait: object
):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    gate = provider.gate()
    provider.replies.append(two_halves(gate))
    with gateway.client() as client:
        first = begin(client, wait)
        assert first["answer"] and TEXT.startswith(first["answer"]) and first["answer"] != TEXT
        again = look(client, first["response_id"])
        assert again["success"] is False and again["error"]["code"] == "still_running"
        assert TEXT.startswith(again["answer"]) and again["answer"] != TEXT
        gate.open()
        whole = finished(client, first["response_id"])
        assert whole["success"] is True and whole["error"] is None, whole
        assert (whole["answer"], whole["finish_reason"], whole["model"]) == (TEXT, "stop", MODEL)
        # A conversation begins when its first answer is complete.
        assert first["conversation_id"] in (None, whole["conversation_id"])
        # It can be fetched as often as one likes, and the conversation goes on from it.
        assert look(client, first["response_id"])["answer"] == TEXT
        assert len(provider.asked()) == 1, "the question was asked again"
        provider.replies.append(
            Reply.events(text_chunks(MODEL, TEXT)).after(gate := provider.gate())
        )
        more = {"message": "more", "conversation_id": whole["conversation_id"]}
        second = begin(client, wait, **more)
        assert second["conversation_id"] == whole["conversation_id"]
        gate.open()
        assert finished(client, second["response_id"])["answer"] == TEXT
    contents = [message["content"] for message in provider.asked()[-1].body["messages"]]
    assert contents == ["?", TEXT, "more"]


def test_dify_fetches_the_answer_with_a_tool(service: Make, provider: Upstream):
    # The file of the store is for one service at a time.
    assert "get_answer" not in service(DATABASE_URL="memory:").tools(), "not every agent needs one tool more"
    settings = provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG)
    gateway = service(**settings)
    tools = gateway.tools()
    assert [(p.name, p.type, p.required) for p in tools["get_answer"].parameters] == [
        ("response_id", "string", True)
    ]
    assert "wait_seconds" in [parameter.name for parameter in tools["chat"].parameters]
    gate = provider.gate()
    provider.replies.append(two_halves(gate))
    with Caller(Auth("header", "bearer", key=gateway.key or "")) as caller:
        first = caller.invoke(tools["chat"], message="?", wait_seconds="1")
        assert first.json["error"]["code"] == "still_running"
        wanted = {"response_id": first.json["response_id"]}
        again = caller.invoke(tools["get_answer"], **wanted)
        assert again.json["error"]["code"] == "still_running"
        gate.open()
        with gateway.client() as client:
            finished(client, wanted["response_id"])
        last = caller.invoke(tools["get_answer"], **wanted)
        assert last.json["answer"] == TEXT
        for result in (first, again, last):
            assert result.agent_sees_it_once
        with pytest.raises(DifyToolError, match="answer_not_found"):
            caller.invoke(tools["get_answer"], response_id="resp_" + "0" * 32)


def test_an_answer_in_time_is_just_an_answer(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    with gateway.client() as client:
        for wait in ("30", "", None):
            body = client.post("/api/chat", json={"message": "?", "wait_seconds": wait}).json()
            assert body["success"] is True and body["answer"] == answer(1, "?")


def test_an_answer_goes_on_when_its_caller_was_told_to_come_back_before_a_word(
    service: Make, provider: Upstream
):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    gate = provider.gate()
    provider.replies.append(Reply.events(text_chunks(MODEL, TEXT)).after(gate))
    with gateway.client() as client:
        first = begin(client)
        assert not first["answer"]
        gate.open()
        assert finished(client, first["response_id"])["answer"] == TEXT


def test_a_web_chat_takes_its_time_too(service: Make, mirror: Upstream):
    gateway = service(**upstream_settings(mirror, "web-chat"), **LONG)
    mirror.halfway = mirror.gate()
    with gateway.client() as client:
        first = begin(client)
        mirror.halfway.open()
        whole = finished(client, first["response_id"])
        assert whole["success"] is True and whole["answer"] == answer(1, "?")


def test_an_answer_that_fails_later_is_told_with_its_error(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    gate = provider.gate()
    events = [event(part) for part in text_chunks(MODEL, TEXT)[:4]]
    broken = Reply.stream(*events, gate, b"data: {").cut_after(len(b"".join(events)) + 3)
    provider.replies.append(broken)
    with gateway.client() as client:
        first = begin(client)
        gate.open()
        told = finished(client, first["response_id"])
        assert told["success"] is False
        assert told["error"]["code"].startswith("upstream_") and told["error"]["hint"]
        assert TEXT.startswith(told["answer"]) and told["answer"]


def test_nobody_else_can_fetch_an_answer(service: Make, provider: Upstream):
    mine, theirs = new_key(), new_key()
    gateway = service(key=mine, start=False, **provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    gateway.env["GATEWAY_API_KEYS"] = TWO_KEYS.format(mine, theirs)
    gateway.start()
    gate = provider.gate()
    provider.replies.append(two_halves(gate))

    def outcome(identifier: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {theirs}"}
        with httpx.Client(base_url=gateway.url, headers=headers, verify=NO_TLS) as client:
            response = client.get(f"/api/answers/{identifier}")
        body = response.json()
        assert body["success"] is False and TEXT[:5] not in response.text
        return response.status_code, body["error"]["code"]

    with gateway.client() as client:
        first = begin(client)["response_id"]
        missing = first[:-4] + "0000"
        assert outcome(first) == outcome(missing)
        assert outcome(first)[0] == 404
        gate.open()
        assert finished(client, first)["answer"] == TEXT
        assert outcome(first) == outcome(missing)
    with gateway.client(with_key=False) as client:
        assert client.get(f"/api/answers/{first}").status_code == 401


def test_an_answer_that_a_crash_interrupts_says_so(
    service: Make, provider: Upstream, place: dict[str, str]
):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG), **place)
    gate = provider.gate()
    provider.replies.append(two_halves(gate))
    with gateway.client() as client:
        first = begin(client)
        kept = first["answer"]
    gateway.kill()
    gateway.start()
    with gateway.client() as client:
        told = finished(client, first["response_id"], 45.0)
        assert told["success"] is False
        assert told["error"]["code"] == "answer_interrupted" and told["error"]["hint"]
        assert told["answer"].startswith(kept) and TEXT.startswith(told["answer"])
        # Nothing is left behind that would hold the next question up.
        assert client.post("/api/chat", json={"message": "?"}).json()["success"] is True


def test_an_answer_outlives_an_orderly_end(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG))
    gate = provider.gate()
    provider.replies.append(two_halves(gate))
    with gateway.client() as client:
        first = begin(client)["response_id"]
    ending = threading.Thread(target=gateway.stop)
    ending.start()
    gate.open()
    ending.join()
    gateway.start()
    with gateway.client() as client:
        assert finished(client, first)["answer"] == TEXT


def test_another_replica_tells_the_answer(service: Make, provider: Upstream, cluster: Cluster):
    key, place = new_key(), {"DATABASE_URL": cluster.new_database()}
    settings = provider_settings(provider, DEFAULT_MODEL=MODEL, **LONG, **place)
    one, other = service(key=key, **settings), service(key=key, **settings)
    gate = provider.gate()
    provider.replies.append(two_halves(gate))
    with one.client() as asking, other.client() as looking:
        first = begin(asking)["response_id"]
        eventually(
            lambda: look(looking, first)["error"]["code"] == "still_running", 10, "it is running"
        )
        gate.open()
        assert finished(looking, first)["answer"] == TEXT


@pytest.mark.parametrize("wait", ["soon", "-1", "NaN"])
def test_a_wait_that_cannot_be_read_is_named(demo: Service, wait: str):
    with demo.client() as client:
        response = client.post("/api/chat", json={"message": "?", "wait_seconds": wait})
    assert response.status_code == 422, response.text
    assert "wait_seconds" in response.json()["error"]["message"]


# --- what each key has used ---


def used(client: httpx.Client) -> dict[str, int]:
    response = client.get("/api/usage")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["success"] is True
    assert body["total_tokens"] == body["prompt_tokens"] + body["completion_tokens"]
    return {
        name: body[name]
        for name in ("requests", "prompt_tokens", "completion_tokens", "total_tokens")
    }


def test_each_key_sees_what_it_has_used(service: Make, provider: Upstream, place: dict[str, str]):
    mine, theirs = new_key(), new_key()
    gateway = service(
        key=mine, start=False, **provider_settings(provider, DEFAULT_MODEL=MODEL), **place
    )
    gateway.env["GATEWAY_API_KEYS"] = TWO_KEYS.format(mine, theirs)
    gateway.start()
    nothing = dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "total_tokens"), 0)
    with gateway.client() as client:
        assert used(client) == nothing
        provider.replies.append(Reply.json(completion(MODEL, "text")))
        ask = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}
        assert client.post("/v1/chat/completions", json=ask).status_code == 200
        one = {"requests": 1, "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        eventually(lambda: used(client) == one, 10, "the completion is counted")
        # However the question came, and although the caller did not ask for the usage.
        assert client.post("/v1/chat/completions", json={**ask, "stream": True}).status_code == 200
        assert client.post("/api/chat", json={"message": "?"}).json()["success"] is True
        eventually(lambda: used(client)["requests"] == 3, 10, "three are counted")
        told = used(client)
        assert told["prompt_tokens"] > 3 and told["completion_tokens"] > 5
    with httpx.Client(base_url=gateway.url, headers={"X-API-Key": theirs}, verify=NO_TLS) as client:
        assert used(client) == nothing
    gateway.stop()
    gateway.start()
    with gateway.client() as client:
        assert used(client) == told, "it is kept over a restart"
    with gateway.client(with_key=False) as client:
        assert client.get("/api/usage").status_code == 401
