"""The console in a real browser: signing in, every page as it looks, and what its owner does there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import browser
import httpx
import pytest
from bodies import event, text_chunks
from conftest import Service, provider_settings
from upstream import FAULTS, MODELS, Reply, Upstream

PAGES = ["overview", "try", "keys", "connect", "maintain", "setup"]


def drive(scenario: str, service: Service, **job: Any) -> dict:
    """Runs one scenario of console.mjs as the owner."""
    return browser.drive("console.mjs", scenario, url=service.url, admin=service.env["ADMIN_KEY"], **job)


@pytest.mark.parametrize("page", ["sign-in", *PAGES])
def test_a_page_is_accessible_small_and_fits_in_both_languages_light_and_dark(
    service: Callable[..., Service], page: str
):
    gateway = service(PUBLIC_URL="https://gate.example.com")
    admin = gateway.env["ADMIN_KEY"]
    owner = {"Authorization": f"Bearer {admin}"}
    for limits in ({"name": "dify-prod", "rpm": 60, "expires": "3d"}, {"name": "notebook"}):
        made = httpx.post(f"{gateway.url}/api/keys", headers=owner, json=limits)
        assert made.status_code == 200, made.text
    address = "/console" if page == "sign-in" else f"/console/{page}#admin={admin}"
    seen = drive("survey", gateway, address=address, name=page)["pages"]
    assert len(seen) == 12
    for one in seen:
        name = one["name"]
        assert one["broken"] == [], name
        assert one["troubles"] == [], name
        assert one["hosts"] == [f"127.0.0.1:{gateway.port}"], name
        assert one["overflow"] <= 0, f"{name} scrolls sideways"
        assert one["bytes"] < 150_000, f"{name} weighs {one['bytes']} bytes"
        assert one["lang"] == ("zh-Hant" if "zh-TW" in name else "en"), name
        assert "#" not in one["address"], "the admin key stays in no address"
    painted = sorted(one["painted"] for one in seen)
    weights = sorted(one["bytes"] for one in seen)
    print(f"first content after {painted[0]:.0f} to {painted[-1]:.0f} ms, half of them within", end=" ")
    print(f"{painted[len(painted) // 2]:.0f} ms; weight {weights[0]} to {weights[-1]} bytes")


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("en-US", ("There is a key of this name already", "This is not the admin key", "caller’s key")),
        ("zh-TW", ("已有同名的金鑰", "這不是管理金鑰", "呼叫端的金鑰")),
    ],
)
def test_the_printed_link_leads_to_a_key_an_answer_and_out_again(
    service: Callable[..., Service], provider: Upstream, locale: str, words: tuple[str, str, str]
):
    gateway = service(**provider_settings(provider))
    admin = gateway.env["ADMIN_KEY"]
    told = drive("path", gateway, locale=locale)
    assert told["troubles"] == []
    assert told["hosts"] == [f"127.0.0.1:{gateway.port}"]
    assert told["address"].endswith("/console/connect")
    assert admin not in told["stored"] and "mgt_" in told["stored"] and told["cookies"] == []
    assert (told["focused"], told["proposed"], told["stays"]) == ("name", "dify", True)
    assert told["brokenInDialog"] == [] and told["brokenInTalk"] == []
    assert "500 k" in told["row"] and told["limitBefore"] == "500,000"
    answer = httpx.post(
        f"{gateway.url}/api/chat",
        headers={"Authorization": f"Bearer {told['key']}"},
        json={"message": "Hello"},
    )
    assert answer.json()["success"] is True
    sent = json.loads(told["sent"].partition("\n")[2])
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant"] * 2 + ["user"]
    for said in told["answers"]:
        assert " s" in said or "秒" in said
        assert "token" in said
    assert json.loads(told["received"])["choices"][0]["finish_reason"] == "stop"
    assert "YOUR_KEY" in told["curl"] and "Three" in told["curl"]
    compile(told["python"], "shown", "exec")
    assert told["kept"] == ("en" if locale == "zh-TW" else "zh-Hant")
    assert told["afterOut"] == [0, ""]
    taken, wrong, callers = words
    assert (told["refused"], told["wrong"]) == (taken, wrong)
    assert callers in told["callers"]


@pytest.mark.parametrize(
    ("locale", "words"),
    [("en-US", ("Answered in full", "Show all calls")), ("zh-TW", ("已完整回答", "顯示全部呼叫"))],
)
def test_the_request_id_of_an_answer_leads_to_its_call(
    service: Callable[..., Service], provider: Upstream, locale: str, words: tuple[str, str]
):
    gateway = service(**provider_settings(provider))
    assert gateway.client().post("/api/chat", json={"message": "another"}).json()["success"] is True
    told = drive("call", gateway, locale=locale)
    assert told["troubles"] == [] and told["broken"] == []
    assert told["rows"] == 1 and told["id"] in told["opened"]
    assert all(word in told["opened"] for word in words)
    assert 0 <= told["place"] < 860, "the list is in view"
    assert told["stays"] == 1, "the conversation is where it was"


def test_the_command_and_the_program_that_are_shown_answer(
    service: Callable[..., Service], provider: Upstream
):
    gateway = service(**provider_settings(provider))
    told = drive("path", gateway, locale="en-US")
    command = told["curl"].replace("YOUR_KEY", told["key"])
    answer = json.loads(subprocess.check_output(["bash", "-c", command], text=True, timeout=60))
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("locale", "failed", "advice", "part", "stopped"),
    [
        ("en-US", "The question was not answered", "Log in to the mirror", "Broke off", "Stopped"),
        ("zh-TW", "這個問題沒有得到回答", "重新登入鏡像站", "中途斷開", "已停止"),
    ],
)
def test_a_failure_says_what_to_do_and_keeps_its_part(
    service: Callable[..., Service], provider: Upstream, locale: str, failed: str, advice: str, part: str, stopped: str
):
    gateway = service(**provider_settings(provider))
    chunks = text_chunks(MODELS[0], "These words came before it broke.")
    provider.replies.append(FAULTS["unauthorized"])
    provider.replies.append(Reply.stream(*map(event, chunks[:-1])))
    provider.replies.append(Reply.events(chunks).halved(20.0))
    told = drive("failures", gateway, locale=locale)
    assert failed in told["fails"] and advice in told["fails"]
    assert "upstream_auth_expired" in told["fails"]
    assert part in told["breaks"] and failed in told["breaks"]
    assert told["failsBroken"] == [] and told["breaksBroken"] == []
    assert stopped in told["stopped"]


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("en-US", ("A web chat", "a quote is not closed", "Log in to the mirror", "without it, the same request is refused")),
        ("zh-TW", ("網頁聊天", "引號沒有結束", "重新登入鏡像站", "沒有它時，同樣的請求會被拒絕")),
    ],
)
def test_a_mirror_is_connected_by_pasting_and_its_session_renewed(
    service: Callable[..., Service], mirror: Upstream, locale: str, words: tuple[str, str, str, str]
):
    gateway = service()

    def copied(cookie: str) -> str:
        address = f"{mirror.url}/rest/app-chat/conversations/new"
        body = json.dumps({"temporary": True, "modelName": "mirror-large", "message": "my own words"})
        return f"curl '{address}' \\\n  -H 'accept: */*' \\\n  -b '{cookie}' \\\n  --data-raw '{body}'"

    told = drive("connect", gateway, locale=locale, pasted=copied(mirror.cookie), wrong=copied("session=wrong-session"))
    kinds, mistake, advice, swapped = words
    assert kinds in told["kinds"] and told["address"].endswith("/console")
    assert mistake in told["mistake"]
    assert advice in told["failed"] and "upstream_auth_expired" in told["failed"] and told["cannotSave"]
    assert "mirror-large" in told["read"] and mirror.session not in told["read"]
    assert "my own words" not in told["left"] and "accept" in told["left"]
    assert told["steps"] == 6
    for broken in ("brokenWhenFailed", "brokenWhenPassed", "brokenInMaintain"):
        assert told[broken] == [], broken
    assert advice in told["refused"] and swapped in told["swapped"]
    assert mirror.url in told["audit"]
    # A mirror refuses a login, and the browser says so of the call that told it.
    assert [trouble for trouble in told["troubles"] if "424" not in trouble] == []
    assert told["hosts"] == [f"127.0.0.1:{gateway.port}"]
    # It answers, with the cookie that it handed out while it was tested, also after a restart.
    for _ in range(2):
        answer = gateway.client().post("/api/chat", json={"message": "Hello"}).json()
        assert answer["success"] is True, answer
        gateway.stop()
        gateway.start()


@pytest.mark.parametrize(
    ("locale", "refused", "accepted"),
    [
        ("en-US", "The mirror does not accept the login", "without it, the same request is refused"),
        ("zh-TW", "鏡像站不再接受目前的登入", "沒有它時，同樣的請求會被拒絕"),
    ],
)
def test_a_key_of_the_mirror_is_renewed_and_what_was_checked_is_said(
    service: Callable[..., Service], provider: Upstream, locale: str, refused: str, accepted: str
):
    gateway = service(**provider_settings(provider))
    told = drive("renew", gateway, locale=locale, keys=["sk-wrong-key-of-the-tests", provider.api_key])
    assert told["pastes"] == 0, "a mirror of this kind is given a key"
    assert refused in told["said"][0] and accepted in told["said"][1]
    assert told["broken"] == []
    assert [trouble for trouble in told["troubles"] if "424" not in trouble] == []


def test_a_token_that_has_ended_leads_to_signing_in_and_no_script_to_an_explanation(demo: Service):
    told = drive("ended", demo)
    assert told["inUse"] is True
    assert told["said"] == "You have been signed out. Sign in to go on."
    assert "JavaScript" in told["bare"] and "mirrorgate key list" in told["bare"]
