"""A long silence of the upstream, and callers that hang up when they hear nothing for a while.

Dify hangs up after 60 seconds without a byte. Here the times are shorter: 4 seconds of silence, a
caller that waits 2. The real ones, with the service as it is by default, take minutes:

    SILENCE_SECONDS=75 ./test clients
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from bodies import answer, completion, read_events, text_chunks
from conftest import NO_TLS, Service, provider_settings, upstream_settings
from upstream import Reply, Upstream

Make = Callable[..., Service]

REAL = "SILENCE_SECONDS" in os.environ
SILENCE = float(os.environ.get("SILENCE_SECONDS", "4"))
PATIENCE = 60.0 if REAL else 2.0
# Callers of /v1 are taken to wait longer than these do.
V1_AFTER = {"V1_HEARTBEAT_AFTER_SECONDS": "45" if REAL else "1"}
BEATS = V1_AFTER if REAL else {**V1_AFTER, "HEARTBEAT_AFTER_SECONDS": "1", "HEARTBEAT_SECONDS": "1"}
MODEL = "mirror-small"
TEXT = "after a long silence"
STREAM = Reply.events(text_chunks(MODEL, TEXT))
ANSWER = Reply.json(completion(MODEL, TEXT))


def silent(reply: Reply) -> list[Reply]:
    """The same with a silence before it, and with one within.

    That is bounded by IDLE_TIMEOUT_SECONDS, which is 60 by default."""
    return [reply.after(SILENCE)] if REAL else [reply.after(SILENCE), reply.halved(SILENCE)]


def post_all(gateway: Service, path: str, body: dict, count: int) -> list[httpx.Response]:
    """Asks so many times at once, to wait but once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: post(gateway, path, body), range(count)))


def post(gateway: Service, path: str, body: dict) -> httpx.Response:
    """Asks as a caller that hangs up when it hears nothing for a while."""
    timeout = httpx.Timeout(10.0, read=PATIENCE)
    headers = {"Authorization": f"Bearer {gateway.key}"}
    begin = time.monotonic()
    with httpx.Client(timeout=timeout, headers=headers, verify=NO_TLS) as client:
        response = client.post(gateway.url + path, json=body)
    assert time.monotonic() - begin >= SILENCE * 0.9, "the upstream was not silent"
    assert response.status_code == 200, response.text
    return response


def question(stream: bool) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "stream": stream}


def test_a_tool_call_outlasts_the_silence(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, **BEATS))
    provider.replies.extend(replies := silent(STREAM))
    asked = {"message": "?", "model": MODEL}
    for response in post_all(gateway, "/api/chat", asked, len(replies)):
        assert response.json()["answer"] == TEXT
        assert response.text.startswith(" ")


def test_plain_text_outlasts_the_silence_and_a_late_failure_is_none_of_it(
    service: Make, provider: Upstream
):
    gateway = service(**provider_settings(provider, **BEATS), DEFAULT_MODEL=MODEL)
    provider.replies.append(STREAM.after(SILENCE))
    response = post(gateway, "/api/ask", {"message": "?"})
    assert response.text.strip() == TEXT and response.text.startswith("\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    provider.replies.append(Reply.error(500, "out of order").after(SILENCE))
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        post(gateway, "/api/ask", {"message": "?"})


def test_a_completion_outlasts_the_silence(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, **BEATS))
    provider.replies.extend(replies := silent(ANSWER))
    asked = question(stream=False)
    for response in post_all(gateway, "/v1/chat/completions", asked, len(replies)):
        assert response.json()["choices"][0]["message"]["content"] == TEXT
        assert response.headers["content-type"] == "application/json"


def test_a_stream_outlasts_the_silence(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider, **BEATS))
    provider.replies.extend(replies := silent(STREAM))
    asked = question(stream=True)
    for response in post_all(gateway, "/v1/chat/completions", asked, len(replies)):
        # A comment is an event of its own, or it would swallow a line of data.
        assert "\n\n:" in "\n\n" + response.text
        assert read_events(response.text) == read_events(STREAM.body.decode())


@pytest.mark.parametrize("stream", [False, True])
def test_a_web_chat_outlasts_the_silence(service: Make, mirror: Upstream, stream: bool):
    gateway = service(**upstream_settings(mirror, "web-chat"), **BEATS)
    mirror.delay = SILENCE
    response = post(gateway, "/v1/chat/completions", question(stream))
    if stream:
        chunks = [json.loads(item) for item in read_events(response.text)[:-1]]
        deltas = [part["choices"][0]["delta"] for part in chunks if part["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert text == answer(1, "?")
