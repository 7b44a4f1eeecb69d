"""The pages in a real browser: what a person does on the first evening."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import browser
import httpx
import pytest
from conftest import Service, provider_settings
from upstream import MODELS, Upstream


def drive(scenario: str, **job: Any) -> dict:
    """Runs one scenario of browser.mjs."""
    return browser.drive("browser.mjs", scenario, **job)


def browse(scenario: str, service: Service, **job: Any) -> dict:
    """Runs one scenario in which nothing may go wrong in the browser."""
    seen = drive(scenario, **{"url": service.url, "key": service.key, **job})
    assert seen["status"] == 200
    assert seen["troubles"] == []
    host = job.get("host", "127.0.0.1")
    assert seen["hosts"] == [f"{host}:{service.port}"], "a page may load nothing from elsewhere"
    return seen


@pytest.mark.parametrize(
    ("locale", "lang", "words"),
    [
        ("en-US", "en", ["Import", "Dify"]),
        ("zh-TW", "zh-Hant", ["匯入", "Dify"]),
        ("zh-HK", "zh-Hant", ["匯入", "Dify"]),
        ("fr-FR", "en", ["Import", "Dify"]),
    ],
)
def test_the_home_page_opens_in_the_readers_language(
    demo: Service, locale: str, lang: str, words: list[str]
):
    seen = browse("home", demo, locale=locale, name=f"home-{locale}")
    assert seen["lang"] == lang
    assert seen["title"].strip()
    for word in (*words, f"{demo.url}/openapi.json"):
        assert word.lower() in seen["text"].lower(), f"`{word}` is not on the page"


def test_the_home_page_says_that_it_is_a_demo_and_cannot_be_reached_from_a_cloud(demo: Service):
    text = browse("home", demo, name="home")["text"]
    assert "demo" in text.lower() and "console" in text.lower()
    assert "127.0.0.1" in text
    assert re.search(r"cloud|cannot (be )?reach", text, re.IGNORECASE)


def test_the_home_page_warns_of_nothing_where_all_is_well(service: Callable[..., Service], mirror):
    gateway = service(
        PUBLIC_URL="https://mirror.example.com",
        UPSTREAM_URL=mirror.url,
        UPSTREAM_API_KEY=mirror.api_key,
    )
    text = browse("home", gateway, name="home-public")["text"]
    assert "https://mirror.example.com/openapi.json" in text
    assert "cloud" not in text.lower()
    assert "demo" not in text.lower()


def test_the_home_page_links_to_the_documents(demo: Service):
    links = browse("home", demo, name="home")["links"]
    for path in ("/docs", "/openapi.json", "/openapi.yaml", "/openapi/full.json"):
        assert any(link.removesuffix("/") == demo.url + path for link in links), path


@pytest.mark.parametrize("locale", ["en-US", "zh-TW"])
def test_the_home_page_fits_a_small_telephone(demo: Service, locale: str):
    seen = browse("home", demo, locale=locale, width=360, height=740, name=f"home-360-{locale}")
    assert seen["overflow"] <= 0, "it scrolls sideways"


def test_the_home_page_can_be_read_without_javascript(demo: Service):
    seen = browse("home", demo, javaScriptEnabled=False, name="home-no-script")
    assert f"{demo.url}/openapi.json" in seen["text"]
    assert "curl" in seen["text"]


def test_the_copy_button_copies_the_documents_url(demo: Service):
    assert browse("copy", demo, name="home-copied")["copied"] == f"{demo.url}/openapi.json"


@pytest.mark.parametrize(("lang", "menu"), [("en", "Studio"), ("zh-Hant", "工作室")])
def test_the_page_of_ready_apps_fits_a_telephone_and_copies_an_address(
    demo: Service, lang: str, menu: str
):
    address = f"/dify/?lang={lang}"
    seen = browse("home", demo, address=address, name=f"dify-{lang}")
    assert seen["lang"] == lang and menu in seen["text"]
    small = browse("home", demo, address=address, width=360, height=740, name=f"dify-360-{lang}")
    assert small["overflow"] <= 0, "it scrolls sideways"
    copied = browse("copy", demo, address=address, name=f"dify-copied-{lang}")["copied"]
    assert copied in seen["text"]
    assert httpx.get(copied, timeout=10).text.startswith("version: ")


def test_the_copy_button_works_on_a_page_without_https(demo: Service):
    # There browsers have no clipboard API, and that is how a first server is often reached.
    seen = browse("copy", demo, host="mirror.example.com", name="home-copied-http")
    assert seen["copied"] == f"http://mirror.example.com:{demo.port}/openapi.json"


def test_the_command_on_the_page_answers_when_pasted(demo: Service, tmp_path: Path):
    seen = browse("command", demo)
    assert demo.key in seen["command"]
    assert demo.key not in seen["stored"]
    result = subprocess.run(
        ["bash", "-c", seen["command"].strip().removeprefix("$ ")],
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["success"] is True


def test_the_printed_link_opens_a_page_whose_command_answers(service: Callable[..., Service]):
    gateway = service(key=None)
    link = re.search(r"(http://\S*)/#key=(\S+)", gateway.output)
    assert link[1] == gateway.url
    gateway.key = link[2]
    command = browse("command", gateway)["command"].strip().removeprefix("$ ")
    answer = subprocess.check_output(["bash", "-c", command], text=True, timeout=60)
    assert json.loads(answer)["success"] is True


def test_swagger_ui_asks_no_other_host_on_a_public_name(demo: Service):
    # On a public name Swagger UI would send the document's URL to a validator of its makers.
    seen = browse("home", demo, host="mirror.example.com", address="/docs", name="docs-public")
    assert "/api/chat" in seen["text"]


def test_the_icon_that_browsers_ask_for_is_there(demo: Service):
    # A headless browser does not ask for it, others show a 404 in their console.
    assert httpx.get(f"{demo.url}/favicon.ico").status_code in (200, 204)


def test_swagger_ui_offers_both_documents_and_chat_answers_after_authorize(demo: Service):
    seen = browse("docs", demo)
    values = [document["value"] for document in seen["documents"]]
    assert len(values) == 2
    tools, full = (
        next(v for v in values if path in v) for path in ("/openapi.json", "/openapi/full")
    )
    assert sorted(seen["titles"][tools]["operations"]) == [
        "/api/chat",
        "/api/health",
        "/api/models",
    ]
    assert len(seen["titles"][full]["operations"]) > 3
    assert json.loads(seen["example"])["message"], "the example is ready to be sent"
    assert seen["executed"]["status"].startswith("200")
    assert json.loads(seen["executed"]["answer"])["success"] is True


# --- pages of others, before a service that asks for no key ---

CHAT = json.dumps({"message": "Hello", "x": ""})
COMPLETION = json.dumps({"model": MODELS[0], "messages": [{"role": "user", "content": "?"}]})
JSON = "application/json"

# What a page tries: with a look at the answer, and blindly, without being asked for leave first.
READING = [
    {"path": "/api/models"},
    {"path": "/health"},
    {"path": "/openapi.json"},
    {"path": "/v1/models"},
    {"path": "/api/conversations/CONVERSATION"},
    {"method": "POST", "path": "/api/chat", "media": JSON, "body": CHAT},
    {"method": "POST", "path": "/api/chat", "media": "text/plain", "body": CHAT},
    {"method": "POST", "path": "/v1/chat/completions", "media": JSON, "body": COMPLETION},
    {"method": "POST", "path": "/v1/embeddings", "media": "text/plain", "body": COMPLETION},
    {"method": "PUT", "path": "/api/session", "media": JSON, "body": '{"api_key": "sk-of-evil"}'},
    {"method": "DELETE", "path": "/api/conversations/CONVERSATION"},
]
BLIND = [
    {"path": "/api/models", "how": "no-cors"},
    {"path": "/v1/models", "how": "no-cors"},
    *(
        {"method": "POST", "path": path, "media": media, "body": CHAT, "how": how}
        for path in ("/api/chat", "/v1/embeddings", "/v1/chat/completions", "/mcp")
        for media, how in (("text/plain", "no-cors"), ("text/plain", "beacon"), ("text/plain", "form"))
    ),
    # Bytes that are declared as nothing.
    {"method": "POST", "path": "/v1/embeddings", "media": "", "body": CHAT, "how": "beacon"},
    {"method": "POST", "path": "/v1/embeddings", "media": "multipart/form-data", "body": CHAT, "how": "form"},
]


class Blank(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>Elsewhere</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of a page on another port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Keyless:
    """A service that asks for no key, with one conversation, before an upstream that counts."""

    def __init__(self, service: Callable[..., Service], provider: Upstream, **settings: str):
        settings = provider_settings(provider, DEFAULT_MODEL=MODELS[0], **settings)
        self.service = service(key=None, GATEWAY_AUTH="none", **settings)
        self.provider = provider
        self.conversation = self.chat()["conversation_id"]

    def chat(self) -> dict:
        return httpx.post(f"{self.service.url}/api/chat", json={"message": "Hello"}).json()

    def attempts(self, attempts: list[dict], **job: Any) -> list[str]:
        text = json.dumps(attempts).replace("CONVERSATION", self.conversation)
        return drive("attempts", **{"target": "", "attempts": json.loads(text), **job})["ended"]

    def is_untouched(self, asked: int) -> None:
        """That nothing was asked, changed or deleted since the upstream was asked so often."""
        assert len(self.provider.requests) == asked
        url = f"{self.service.url}/api/conversations/{self.conversation}"
        assert len(httpx.get(url).json()["messages"]) == 2
        assert self.chat()["success"] is True, "the login at the upstream is another"


@pytest.mark.parametrize("name", [None, "evil.test"])
def test_a_page_of_another_origin_gets_nothing_from_a_service_without_keys(
    service: Callable[..., Service], provider: Upstream, elsewhere: str, name: str | None
):
    gateway = Keyless(service, provider)
    before = len(provider.requests)
    page = {"url": elsewhere, "host": name} if name else {"url": elsewhere}
    ended = gateway.attempts(READING + BLIND, target=gateway.service.url, **page)
    assert all(end.startswith("failed") for end in ended[: len(READING)]), ended
    assert all(end.startswith(("sent", "failed")) for end in ended[len(READING) :]), ended
    gateway.is_untouched(before)


def test_a_name_that_is_made_to_lead_here_gets_nothing_from_a_service_without_keys(
    service: Callable[..., Service], provider: Upstream
):
    gateway = Keyless(service, provider)
    before = len(provider.requests)
    # For the browser this is the page's own service, so that it may read every answer.
    ended = gateway.attempts(READING + BLIND, url=gateway.service.url, host="evil.test")
    for end in ended:
        assert end.startswith("403: ") and "origin_not_allowed" in end or end.startswith("sent"), end
    assert [end[:5] for end in ended[: len(READING)]] == ["403: "] * len(READING)
    gateway.is_untouched(before)


def test_the_services_own_page_and_one_that_is_listed_get_all_from_a_service_without_keys(
    service: Callable[..., Service], provider: Upstream, elsewhere: str
):
    gateway = Keyless(service, provider, CORS_ALLOWED_ORIGINS=elsewhere)
    may = [attempt for attempt in READING if attempt["path"] != "/api/session"]
    may = [attempt for attempt in may if attempt.get("media") != "text/plain"][:-1]
    for page in (
        {"url": gateway.service.url},
        {"url": gateway.service.url, "host": "mine.localhost"},
        {"url": elsewhere, "target": gateway.service.url},
    ):
        ended = gateway.attempts(may, **page)
        assert all(end.startswith("200: ") for end in ended), ended
