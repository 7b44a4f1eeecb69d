"""Keys with limits before two replicas on one real PostgreSQL: they count together."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from bodies import completion
from conftest import NO_TLS, Service, eventually, new_key, provider_settings
from postgres import Cluster
from test_answers import MODEL
from upstream import Gate, Reply, Upstream

Make = Callable[..., Service]

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}


def client(service: Service, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=30.0, verify=NO_TLS)


@pytest.fixture
def replicas(service: Make, provider: Upstream, cluster: Cluster) -> list[Service]:
    place = {"DATABASE_URL": cluster.new_database(), "ADMIN_KEY": new_key()}
    key = new_key()
    return [service(key=key, **provider_settings(provider), **place) for _ in range(2)]


def made(replicas: list[Service], **limits: object) -> str:
    """A key with these limits, once both replicas know it."""
    with client(replicas[0], replicas[0].env["ADMIN_KEY"]) as owner:
        response = owner.post("/api/keys", json={"name": new_key()[:20].strip("-_"), **limits})
        assert response.status_code == 200, response.text
        key = response.json()["key"]
    known(replicas, key)
    return key


def known(replicas: list[Service], key: str) -> None:
    """Waits until both replicas know a key: they look every two seconds. Asked sooner, and again and
    again, they would take it for a guess."""
    time.sleep(3)
    for replica in replicas:
        with client(replica, key) as caller:
            assert caller.get("/api/usage").status_code == 200


def waiting(gate: Gate) -> Reply:
    return Reply.json(completion(MODEL, "x")).halved(gate)


def test_requests_a_minute_are_counted_together(replicas: list[Service]):
    key = made(replicas, rpm=40)

    def hammer(replica: Service) -> list[int]:
        codes = []
        with client(replica, key) as caller:
            end = time.monotonic() + 8
            while time.monotonic() < end:
                codes.append(caller.post("/v1/chat/completions", json=ASK).status_code)
        return codes

    with ThreadPoolExecutor(8) as pool:
        codes = [code for codes in pool.map(hammer, replicas * 4) for code in codes]
    assert set(codes) == {200, 429}
    assert 36 <= codes.count(200) <= 40, codes.count(200)


def test_tokens_of_a_day_are_counted_together(replicas: list[Service]):
    # The provider says that each answer costs eight.
    key = made(replicas, tokens_per_day=400)
    good = 0
    with client(replicas[0], key) as one, client(replicas[1], key) as other:
        for number in range(100):
            response = (one, other)[number % 2].post("/v1/chat/completions", json=ASK)
            if response.status_code != 200:
                break
            good += 1
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["x-mirrorgate-limit-remaining-tokens-day"] == "0"
        assert 45 <= good <= 55, good
        refused = (one, other)[(number + 1) % 2].post("/v1/chat/completions", json=ASK)
        assert refused.status_code == 429, "the other replica knows of it"


def test_tokens_of_questions_at_once_are_held_back(replicas: list[Service]):
    # Each costs eight, which is known only at its end.
    key = made(replicas, tokens_per_day=160)

    def ask_until_refused(replica: Service) -> int:
        with client(replica, key) as caller:
            for good in range(100):
                if caller.post("/v1/chat/completions", json=ASK).status_code != 200:
                    return good
        return 100

    with ThreadPoolExecutor(16) as pool:
        good = sum(pool.map(ask_until_refused, replicas * 8))
    assert 18 <= good <= 22, good


def test_questions_at_once_are_counted_together(
    replicas: list[Service], provider: Upstream
):
    key = made(replicas, parallel=3)
    gate = provider.gate()
    with client(replicas[0], key) as one, client(replicas[1], key) as other:
        provider.replies.extend(waiting(gate) for _ in range(3))
        with ThreadPoolExecutor(3) as pool:
            streams = [
                pool.submit(caller.post, "/v1/chat/completions", json=ASK)
                for caller in (one, other, one)
            ]
            eventually(lambda: len(provider.asked()) == 3, 10, "three are asked")
            refused = other.post("/v1/chat/completions", json=ASK)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "key_limit_reached"
            gate.open()
            assert [done.result().status_code for done in streams] == [200] * 3
        eventually(
            lambda: other.post("/v1/chat/completions", json=ASK).status_code == 200,
            5,
            "there is room again",
        )


def test_a_key_revoked_at_one_replica_ends_its_answers_at_the_other(
    replicas: list[Service], provider: Upstream
):
    name = "gone"
    with client(replicas[0], replicas[0].env["ADMIN_KEY"]) as owner:
        key = owner.post("/api/keys", json={"name": name}).json()["key"]
        known(replicas, key)
        with client(replicas[1], key) as caller:
            gate = provider.gate()
            provider.replies.append(waiting(gate))
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(caller.post, "/v1/chat/completions", json=ASK)
                eventually(provider.asked, 10, "it is asked")
                start = time.monotonic()
                assert owner.delete(f"/api/keys/{name}").status_code == 200
                response = asked.result(timeout=10)
                assert time.monotonic() - start < 5
                assert response.status_code == 401 and "revoked" in response.text
            gate.open()
            assert caller.get("/api/usage").status_code == 401


def test_an_upgrade_makes_the_admin_key_and_says_so_once(service: Make):
    """A store with callers' keys and no admin key, as earlier versions left it."""
    gateway = service()
    assert "admin key" not in gateway.output
    gateway.stop()
    del gateway.env["ADMIN_KEY"]
    gateway.start()
    admin = re.search(r"admin key\s+(\S+)", gateway.output)
    assert admin and f"#admin={admin[1]}" in gateway.output
    with client(gateway, admin[1]) as owner:
        assert owner.get("/api/keys").status_code == 200
    gateway.stop()
    gateway.start()
    assert "admin key" not in gateway.output
    with client(gateway, admin[1]) as owner:
        assert owner.get("/api/keys").status_code == 200


def test_one_key_for_both_ends_the_start(service: Make):
    gateway = service(start=False)
    gateway.env["ADMIN_KEY"] = gateway.key
    result = gateway.run()
    assert result.returncode == 78, result.stderr
    assert "ADMIN_KEY" in result.stderr and gateway.key not in result.stderr
