"""The pages in a real browser: what a person does on the first evening."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import HERE, ROOT, Service

SHOTS = ROOT / "target/screenshots"


def browse(scenario: str, service: Service, **job: Any) -> dict:
    """Runs one scenario of browser.mjs; nothing may go wrong in the browser in any of them."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    job = {"url": service.url, "key": service.key, "shots": str(SHOTS), **job}
    result = subprocess.run(
        ["node", HERE / "browser.mjs", scenario, json.dumps(job)],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
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
    assert "demo" in text.lower() and "UPSTREAM_URL" in text
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
