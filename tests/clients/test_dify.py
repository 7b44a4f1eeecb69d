"""Dify imports the document and calls the tools: the main job, seen from its client's side."""

from __future__ import annotations

import json
from collections.abc import Callable

import dify_client
import httpx
import pytest
from bodies import answer
from conftest import Service, new_key, refusing_port, upstream_settings
from dify_client import Auth, Caller, DifyToolError, Tool
from upstream import FAULTS, Upstream

TOOLS = {"chat", "list_models", "health"}
PROTOCOLS = ["openai", "web-chat"]
ENVELOPE = {
    "success",
    "answer",
    "conversation_id",
    "response_id",
    "model",
    "finish_reason",
    "usage",
    "error",
}


def bearer(key: str | None) -> Auth:
    assert key is not None
    return Auth("header", "bearer", key=key)


def failure(response: httpx.Response) -> dict:
    """The error of a failed call, with what every error must have checked."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert response.content == json.dumps(body, ensure_ascii=False).encode()
    assert body["success"] is False
    error = body["error"]
    assert error.keys() >= {"code", "message", "hint", "retryable", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    for text in ("code", "message", "hint"):
        assert error[text].strip(), f"{text} is empty"
    assert isinstance(error["retryable"], bool)
    return error


def fails(caller: Caller, tool: Tool, status: int, **arguments: object) -> dict:
    """Calls, expects that status, and that Dify shows the user all of the error; the error."""
    response = caller.send(tool, dict(arguments))
    assert response.status_code == status, response.text
    error = failure(response)
    with pytest.raises(DifyToolError) as shown:
        caller.invoke(tool, **arguments)
    for text in (error["code"], error["hint"]):
        assert text in str(shown.value)
    return error


# --- importing ---


def test_import_finds_the_three_tools_without_a_warning(demo: Service):
    provider = dify_client.import_url(f"{demo.url}/openapi.json")
    assert provider.tools.keys() == TOOLS
    assert provider.warnings == []
    assert provider.description


def test_the_document_for_dify_has_the_tool_for_workflows_too(demo: Service):
    provider = dify_client.import_url(f"{demo.url}/openapi.json?for=dify")
    assert provider.tools.keys() == TOOLS | {"ask"}
    assert provider.warnings == []
    ask = provider.tools["ask"]
    assert [(p.name, p.type, p.required) for p in ask.parameters] == [
        ("message", "string", True),
        ("conversation", "string", False),
    ]
    with Caller(bearer(demo.key)) as caller:
        first = caller.invoke(ask, message="one", conversation="my own")
        second = caller.invoke(ask, message="two", conversation="my own")
        assert "one" in first.text and first.json is None
        assert "question 2" in second.text
        with pytest.raises(DifyToolError, match="422 and `message` is empty; send the question"):
            caller.invoke(ask, message=" ")
    with Caller(bearer("wrong")) as caller, pytest.raises(DifyToolError, match="401 and "):
        caller.invoke(ask, message="three")


def test_import_reads_the_same_from_yaml(demo: Service):
    json_form = dify_client.import_url(f"{demo.url}/openapi.json")
    assert dify_client.import_url(f"{demo.url}/openapi.yaml") == json_form


def test_import_gives_the_model_strings_with_descriptions(demo: Service):
    chat = demo.tools()["chat"]
    names = [parameter.name for parameter in chat.parameters]
    assert sorted(names) == [
        "conversation_id",
        "max_tokens",
        "message",
        "model",
        "system",
        "temperature",
    ]
    assert names[0] == "message", "the form shows them in this order"
    assert {parameter.type for parameter in chat.parameters} == {"string"}
    assert [parameter.name for parameter in chat.parameters if parameter.required] == ["message"]
    assert all(parameter.description for parameter in chat.parameters)
    for name in ("list_models", "health"):
        assert demo.tools()[name].parameters == []


def test_the_urls_of_the_tools_are_those_of_the_service(demo: Service):
    tools = demo.tools()
    assert {name: (tool.method, tool.url) for name, tool in tools.items()} == {
        "chat": ("post", f"{demo.url}/api/chat"),
        "list_models": ("get", f"{demo.url}/api/models"),
        "health": ("get", f"{demo.url}/api/health"),
    }


# --- presenting a key ---


@pytest.mark.parametrize("form", dify_client.key_forms("-").keys())
def test_all_tools_answer_to_a_key(demo: Service, form: str):
    tools = demo.tools()
    with Caller(dify_client.key_forms(demo.key)[form]) as caller:
        chat = caller.invoke(tools["chat"], message="hello")
        assert chat.json["success"] is True
        assert chat.json["answer"].strip()
        models = caller.invoke(tools["list_models"])
        assert models.json["success"] is True
        names = [model["id"] for model in models.json["models"]]
        assert models.json["default_model"] in names
        assert all(model["owned_by"] for model in models.json["models"])
        health = caller.invoke(tools["health"])
        assert health.json["success"] is True
        assert health.json["status"] == "ok"
        assert health.json["latency_ms"] >= 0
        assert health.json.keys() >= {"upstream", "session"}
        for result in (chat, models, health):
            assert result.agent_sees_it_once


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_no_key_is_refused_with_the_envelope(demo: Service, tool: str):
    with Caller(Auth()) as caller:
        error = fails(caller, demo.tools()[tool], 401, message="hello")
        assert "GATEWAY_API_KEYS" in error["hint"]
        assert caller.send(demo.tools()[tool], {"message": "hello"}).headers["www-authenticate"]


def test_a_wrong_key_is_refused_in_every_form(service: Callable[..., Service]):
    # Its own service: wrong keys are slowed down by address, which must not disturb other tests.
    gateway = service()
    chat = gateway.tools()["chat"]
    wrong = new_key()
    codes = set()
    for form, auth in dify_client.key_forms(wrong).items():
        with Caller(auth) as caller:
            response = caller.send(chat, {"message": "hello"})
            assert response.status_code == 401, form
            codes.add(failure(response)["code"])
            assert wrong not in response.text
    assert "gateway_key_missing" not in codes, "a wrong key must not read as no key"


def test_after_many_wrong_keys_one_that_has_passed_still_passes(service: Callable[..., Service]):
    gateway = service()
    chat = gateway.tools()["chat"]
    with Caller(bearer(gateway.key)) as caller:
        assert caller.invoke(chat, message="hello").json["success"] is True
    with Caller(bearer(new_key())) as caller:
        answers = [caller.send(chat, {"message": "hello"}) for _ in range(15)]
    assert {response.status_code for response in answers} <= {401, 424}
    assert int(answers[-1].headers["retry-after"]) > 0
    failure(answers[-1])
    with Caller(bearer(gateway.key)) as caller:
        assert caller.invoke(chat, message="hello").json["success"] is True


def test_several_keys_are_accepted_with_and_without_a_name(service: Callable[..., Service]):
    first, second = new_key(), new_key()
    gateway = service(key=None, GATEWAY_API_KEYS=f"dify:{first}, {second}")
    for key in (first, second):
        with Caller(bearer(key)) as caller:
            assert caller.invoke(gateway.tools()["health"]).json["status"] == "ok"


# --- asking ---


@pytest.mark.parametrize(
    "message", ["繁體中文，你好嗎？", "emoji 👩‍👩‍👧‍👦 🤖", 'quotes " \\ and \t\n control']
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_any_text_goes_there_and_back(
    service: Callable[..., Service], mirror: Upstream, protocol: str, message: str
):
    gateway = service(**upstream_settings(mirror, protocol))
    with Caller(bearer(gateway.key)) as caller:
        result = caller.invoke(gateway.tools()["chat"], message=message)
    assert result.json.keys() == ENVELOPE
    assert result.json["answer"] == answer(1, message)
    assert result.json["error"] is None
    assert result.json["finish_reason"] == "stop"
    assert result.json["model"] == "mirror-large"
    usage = result.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    # The web chat counts no tokens, so the figures are the gateway's own.
    assert usage["estimated"] is (protocol == "web-chat")
    assert result.agent_sees_it_once


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({"temperature": "0.7", "max_tokens": "12.0"}, {"temperature": 0.7, "max_tokens": 12}),
        ({"temperature": "", "max_tokens": "", "model": "", "system": ""}, {}),
        ({"temperature": 0.7, "max_tokens": 12}, {"temperature": 0.7, "max_tokens": 12}),
        (
            {"temperature": " 1 ", "model": "mirror-small"},
            {"temperature": 1, "model": "mirror-small"},
        ),
        ({"temperature": "0"}, {"temperature": 0}),
        ({"temperature": None, "conversation_id": None, "system": None}, {}),
    ],
)
def test_parameters_are_understood_as_text(
    service: Callable[..., Service], mirror: Upstream, arguments: dict, sent: dict
):
    gateway = service(**upstream_settings(mirror, "openai"))
    with Caller(bearer(gateway.key)) as caller:
        assert caller.invoke(gateway.tools()["chat"], message="hello", **arguments).json["success"]
    body = mirror.asked()[-1].body
    expected = {"model": "mirror-large", **sent}
    got = {name: body[name] for name in ("model", "temperature", "max_tokens") if name in body}
    assert got == expected
    assert body["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "body",
    [
        {"message": "hello", "temperature": 0.5, "max_tokens": 9},
        {"message": "hello", "temperature": "0.5", "max_tokens": "9"},
        {"message": "hello", "temperature": "0.5", "max_tokens": 9.0, "unknown": {"a": [1]}},
        {"message": "hello", "temperature": "0.50", "max_tokens": "9.0", "model": None},
    ],
)
def test_numbers_are_understood_as_text_or_number(
    service: Callable[..., Service], mirror: Upstream, body: dict
):
    # Dify sends strings for our document; other callers send what JSON has.
    gateway = service(**upstream_settings(mirror, "openai"))
    with gateway.client() as client:
        response = client.post("/api/chat", json=body)
    assert response.status_code == 200, response.text
    assert mirror.asked()[-1].body["temperature"] == 0.5
    assert mirror.asked()[-1].body["max_tokens"] == 9


def test_a_system_text_goes_before_the_message(service: Callable[..., Service], mirror: Upstream):
    gateway = service(**upstream_settings(mirror, "openai"))
    with Caller(bearer(gateway.key)) as caller:
        caller.invoke(gateway.tools()["chat"], message="hello", system="be brief")
    assert mirror.asked()[-1].body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_conversation_goes_on_over_calls(
    service: Callable[..., Service], mirror: Upstream, protocol: str
):
    gateway = service(**upstream_settings(mirror, protocol))
    chat = gateway.tools()["chat"]
    with Caller(bearer(gateway.key)) as caller:
        first = caller.invoke(chat, message="one").json
        assert first["answer"] == answer(1, "one")
        for turn in (2, 3):
            again = caller.invoke(
                chat, message="more", conversation_id=first["conversation_id"]
            ).json
            assert again["answer"] == answer(turn, "more")
            assert again["conversation_id"] == first["conversation_id"]
            assert again["response_id"] != first["response_id"]
        other = caller.invoke(chat, message="new").json
        assert other["answer"] == answer(1, "new")
        assert other["conversation_id"] != first["conversation_id"]


def test_the_demo_keeps_a_conversation_too(demo: Service):
    chat = demo.tools()["chat"]
    with Caller(bearer(demo.key)) as caller:
        first = caller.invoke(chat, message="one").json
        again = caller.invoke(chat, message="two", conversation_id=first["conversation_id"]).json
    assert again["conversation_id"] == first["conversation_id"]
    assert "UPSTREAM_URL" in first["answer"], "the demo says what to set"


def test_another_keys_conversation_reads_as_a_missing_one(service: Callable[..., Service]):
    mine, theirs = new_key(), new_key()
    gateway = service(key=None, GATEWAY_API_KEYS=f"mine:{mine},theirs:{theirs}")
    chat = gateway.tools()["chat"]
    with Caller(bearer(mine)) as caller:
        kept = caller.invoke(chat, message="one").json["conversation_id"]
    with Caller(bearer(theirs)) as caller:
        foreign = caller.send(chat, {"message": "two", "conversation_id": kept})
        missing = caller.send(chat, {"message": "two", "conversation_id": "conv_" + "0" * 32})
    assert foreign.status_code == missing.status_code == 404
    for field in ("code", "hint"):
        assert failure(foreign)[field] == failure(missing)[field]


def test_models_are_listed_as_the_mirror_lists_them(
    service: Callable[..., Service], mirror: Upstream
):
    gateway = service(**upstream_settings(mirror, "openai"))
    with Caller(bearer(gateway.key)) as caller:
        result = caller.invoke(gateway.tools()["list_models"])
    assert result.json["models"] == [
        {"id": "mirror-large", "owned_by": "fake"},
        {"id": "mirror-small", "owned_by": "fake"},
    ]
    assert result.json["default_model"] == "mirror-large"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_health_asks_the_mirror_without_spending_a_question(
    service: Callable[..., Service], mirror: Upstream, protocol: str
):
    gateway = service(**upstream_settings(mirror, protocol))
    with Caller(bearer(gateway.key)) as caller:
        result = caller.invoke(gateway.tools()["health"])
    assert result.json["status"] in ("ok", "degraded")
    assert mirror.requests, "the mirror was asked"
    assert mirror.asked() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_mirror_never_sees_the_callers_credentials(
    service: Callable[..., Service], mirror: Upstream, protocol: str
):
    gateway = service(**upstream_settings(mirror, protocol))
    with gateway.client() as client:
        client.cookies.set("caller", "secret")
        assert client.post("/api/chat", json={"message": "hello"}).status_code == 200
        client.get("/api/health")
    for request in mirror.requests:
        text = repr(request)
        assert gateway.key not in text
        assert "caller=secret" not in text
        assert request.headers["accept-encoding"] == "identity"


# --- what can go wrong ---


@pytest.mark.parametrize("body", [{}, {"message": ""}, {"message": None}, {"message": 7.5}, []])
def test_a_request_without_a_message_says_so(demo: Service, body: object):
    with demo.client() as client:
        response = client.post("/api/chat", json=body)
    if body == {"message": 7.5} and response.status_code == 200:
        return  # a number is readable as text, so taking it is as good as refusing it
    assert response.status_code == 422, response.text
    assert "message" in failure(response)["message"] or body == []


def test_dify_itself_refuses_to_call_without_a_message(demo: Service):
    with (
        Caller(bearer(demo.key)) as caller,
        pytest.raises(DifyToolError, match="parameter message"),
    ):
        caller.invoke(demo.tools()["chat"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "warm"),
        ("temperature", "-1"),
        ("temperature", "NaN"),
        ("max_tokens", "many"),
        ("max_tokens", "0"),
        ("max_tokens", "1.5"),
        ("max_tokens", "-3"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_named(demo: Service, name: str, value: str):
    with Caller(bearer(demo.key)) as caller:
        error = fails(caller, demo.tools()["chat"], 422, message="hello", **{name: value})
    assert name in error["message"]


def test_a_model_that_the_mirror_does_not_know_is_the_callers_mistake(
    service: Callable[..., Service], mirror: Upstream
):
    gateway = service(**upstream_settings(mirror, "openai"))
    with Caller(bearer(gateway.key)) as caller:
        error = fails(caller, gateway.tools()["chat"], 422, message="hello", model="no-such-model")
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        ("POST", "/api/chat", {"Content-Type": "application/json"}, b"{not json", 400),
        ("POST", "/api/chat", {"Content-Type": "application/json"}, b"", 400),
        ("POST", "/api/chat", {"Content-Type": "application/json"}, b"\xff\xfe", 400),
        ("POST", "/api/no-such-tool", {"Content-Type": "application/json"}, b"{}", 404),
        ("GET", "/no/such/path", {}, b"", 404),
        ("GET", "/api/chat", {}, b"", 405),
        ("DELETE", "/api/models", {}, b"", 405),
        ("POST", "/api/chat", {"Content-Type": "text/plain"}, b"{}", 415),
        (
            "POST",
            "/api/chat",
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"message=hello",
            415,
        ),
        ("POST", "/api/chat", {"Content-Type": "application/json"}, b" " * (3 << 20), 413),
    ],
)
def test_every_mistake_is_answered_in_the_envelope(
    demo: Service, method: str, path: str, headers: dict, content: bytes, status: int
):
    with demo.client() as client:
        response = client.request(method, path, headers=headers, content=content)
    assert response.status_code == status, response.text
    failure(response)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8"])
def test_a_charset_beside_the_media_type_is_no_mistake(demo: Service, media_type: str):
    with demo.client() as client:
        response = client.post(
            "/api/chat", content=b'{"message": "hello"}', headers={"Content-Type": media_type}
        )
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mirror_that_is_down_is_explained(service: Callable[..., Service], protocol: str):
    gateway = service(
        UPSTREAM_URL=f"http://127.0.0.1:{refusing_port()}",
        UPSTREAM_PROTOCOL=protocol,
        MODELS="some-model",
    )
    with Caller(bearer(gateway.key)) as caller:
        error = fails(caller, gateway.tools()["chat"], 424, message="hello")
        assert error["code"] == "upstream_unreachable"
        assert error["retryable"] is True
        assert "UPSTREAM_URL" in error["hint"]
        # The tool that reports health must not itself look broken, so the status is in the answer.
        health = caller.send(gateway.tools()["health"], {})
    assert health.status_code in (200, 424)
    assert health.json()["status"] == "down"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mirror_that_misbehaves_is_explained(
    service: Callable[..., Service], mirror: Upstream, protocol: str, fault: str
):
    settings = upstream_settings(mirror, protocol)
    settings |= {"MODELS": "mirror-large", "FIRST_BYTE_TIMEOUT_SECONDS": "1"}
    gateway = service(**settings)
    mirror.fault = FAULTS[fault]
    with Caller(bearer(gateway.key)) as caller:
        chat = gateway.tools()["chat"]
        error = fails(caller, chat, 424, message="hello")
        assert "secret page text" not in repr(error), "the mirror's page reached the caller"
        if fault == "rate-limited":
            response = caller.send(chat, {"message": "hello"})
            assert response.headers["retry-after"] == "7"
        # It heals by itself, on the same connection of the caller.
        mirror.fault = None
        assert caller.invoke(chat, message="hello").json["answer"] == answer(1, "hello")


def test_a_connection_outlasts_the_pause_between_calls(demo: Service):
    # httpx drops an idle connection after 5 s; a server that drops it first resets the next call.
    with Caller(bearer(demo.key)) as caller:
        ports = set()
        for _ in range(3):
            response = caller.send(demo.tools()["health"], {})
            ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(ports) == 1
