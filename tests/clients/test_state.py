"""State that lasts: conversations and keys, through crashes, full disks and databases that go away.

KILL_ROUNDS says how often the service is killed under load: 20 by default; `KILL_ROUNDS=100 ./test
clients` is what the README promises.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dify_client
import disks
import httpx
import pytest
from bodies import answer
from conftest import NO_TLS, Service, eventually, new_key, upstream_settings
from disks import fill
from postgres import Cluster, refusing_port
from upstream import FAULTS, Upstream

KILL_ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
TALKERS = 4
MISSING = "conv_" + "0" * 32

Make = Callable[..., Service]
Pair = tuple[str, str]


def settings(mirror: Upstream, **more: str) -> dict[str, str]:
    # With the model named, every request to the upstream is a turn.
    return upstream_settings(mirror, "openai") | {"DEFAULT_MODEL": "mirror-large"} | more


def ask(client: httpx.Client, message: str, conversation: str | None = None) -> httpx.Response:
    question = {"message": message, "conversation_id": conversation or ""}
    return client.post("/api/chat", json=question)


def asked(client: httpx.Client, message: str, conversation: str | None = None) -> tuple[str, str]:
    """The conversation and the answer of a turn that must succeed."""
    response = ask(client, message, conversation)
    body = response.json()
    assert response.status_code == 200 and body["success"] is True, response.text
    assert conversation in (None, body["conversation_id"])
    return body["conversation_id"], body["answer"]


def pairs(client: httpx.Client, conversation: str) -> list[Pair]:
    """The conversation read back, as questions with their answers."""
    response = client.get(f"/api/conversations/{conversation}")
    assert response.status_code == 200, response.text
    messages = response.json()["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
    assert not any(m["partial"] for m in messages)
    texts = [m["content"] for m in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def status(service: Service, path: str, key: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with service.client(with_key=False) as client:
        return client.get(path, headers=headers).status_code


def ready(service: Service) -> bool:
    return status(service, "/ready") == 200


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 424, response.text
    body = response.json()
    error = body["error"]
    assert body["success"] is False
    assert (error["code"], error["retryable"]) == ("storage_unavailable", True)
    assert error["message"] and error["hint"]
    assert int(response.headers["retry-after"]) >= 1


def assert_uncertain(response: httpx.Response) -> None:
    """It says that nobody knows, that asking again may do it twice, and where to look."""
    error = response.json()["error"]
    assert response.status_code == 424 and error["retryable"] is False, response.text
    assert re.search(r"GET /api/conversations/conv_[0-9a-f]{32}", error["hint"]), response.text


def assert_store_is_down(
    service: Service, mirror: Upstream, conversation: str, *, readable: bool = False
) -> None:
    """What callers see of a service whose store cannot be used, with a key of the environment.

    A full disk can still be read; what is on it may be deleted to make room."""
    before = len(mirror.asked())
    path = f"/api/conversations/{conversation}"
    with service.client() as client, ThreadPoolExecutor(5) as pool:
        # All at once, since each may wait for a connection.
        calls = [
            pool.submit(ask, client, "Is anybody there?"),
            pool.submit(ask, client, "Is anybody there?", conversation),
        ]
        if not readable:
            calls += [pool.submit(client.get, path), pool.submit(client.delete, path)]
        readiness = pool.submit(client.get, "/ready")
        assert client.get("/api/models").json()["success"] is True
        assert client.get("/api/health").json()["success"] is True
        assert status(service, "/health") == 200
        assert status(service, "/openapi.json") == 200
        assert status(service, "/api/models", new_key()) == 401
        for call in calls:
            assert_unavailable(call.result())
        assert readiness.result().status_code == 503
        assert readiness.result().json()["reasons"], readiness.result().text
    assert len(mirror.asked()) == before, "the upstream was paid for turns that cannot be kept"


def generated_key(service: Service) -> str | None:
    link = re.search(r"/#key=(\S+)", service.output)
    return link and link[1]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def database_file(service: Service) -> Path:
    found = [path for path in service.data_dir.rglob("*") if path.is_file()]
    files = [path for path in found if path.read_bytes().startswith(b"SQLite format 3\0")]
    assert len(files) == 1, found
    return files[0]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the state is, as settings: a file in DATA_DIR, or PostgreSQL."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": request.getfixturevalue("cluster").new_database()}


# --- crashes ---


@dataclass
class Ledger:
    """What one talker was told is kept, and what it was not told any more."""

    turns: dict[str, list[Pair]] = field(default_factory=dict)
    pending: tuple[str | None, str] | None = None
    acknowledged: int = 0

    def settle(self, client: httpx.Client) -> None:
        """Compares its last conversations with the store's; a turn in flight may be there or not."""
        for conversation in list(self.turns)[-20:]:
            kept, known = pairs(client, conversation), self.turns[conversation]
            if kept != known:
                extra = kept[len(known) :]
                assert kept[: len(known)] == known, "an acknowledged turn was lost or changed"
                assert self.pending is not None and self.pending[0] == conversation
                question = self.pending[1]
                assert extra == [(question, answer(len(known) + 1, question))]
                self.turns[conversation] = kept
        self.pending = None


def talk(service: Service, ledger: Ledger, name: str) -> None:
    """Holds conversations of a few turns until the service or its store dies; first it goes on with
    its last one."""
    with service.client() as client:
        conversation = next(reversed(ledger.turns), None)
        for number in itertools.count():
            for turn in range(3):
                question = f"{name}, question {number}-{turn}"
                ledger.pending = (conversation, question)
                try:
                    response = ask(client, question, conversation)
                except httpx.TransportError:
                    return
                if response.status_code == 424:
                    if response.json()["error"]["code"] == "storage_uncertain":
                        assert_uncertain(response)
                    else:
                        # Then it surely is not there.
                        assert_unavailable(response)
                        ledger.pending = None
                    return
                body = response.json()
                assert response.status_code == 200 and body["success"] is True, response.text
                conversation, text = body["conversation_id"], body["answer"]
                known = ledger.turns.setdefault(conversation, [])
                known.append((question, text))
                ledger.pending = None
                ledger.acknowledged += 1
                assert text == answer(len(known), question), "the upstream saw another history"
            conversation = None


def crash_under_load(
    service: Service, ledgers: list[Ledger], number: int, crash: Callable[[], None]
) -> None:
    """Crashes something once some turns were acknowledged; returns when all talkers have noticed."""
    before = sum(ledger.acknowledged for ledger in ledgers)
    target = before + random.Random(number).randrange(4, 40)
    with ThreadPoolExecutor(TALKERS) as pool:
        talkers: list[Future[None]] = [
            pool.submit(talk, service, ledger, f"talker {index}, round {number}")
            for index, ledger in enumerate(ledgers)
        ]

        def enough() -> bool:
            return any(talker.done() for talker in talkers) or (
                sum(ledger.acknowledged for ledger in ledgers) >= target
            )

        try:
            eventually(enough, 30, "turns under load")
        finally:
            crash()
        for talker in talkers:
            talker.result()


@pytest.mark.timeout(60 + 6 * KILL_ROUNDS)
def test_no_acknowledged_turn_is_lost_when_the_service_is_killed(service: Make, mirror: Upstream):
    gateway = service(**settings(mirror))
    ledgers = [Ledger() for _ in range(TALKERS)]
    starts = []
    for number in range(KILL_ROUNDS):
        crash_under_load(gateway, ledgers, number, gateway.kill)
        begin = time.monotonic()
        gateway.start()
        eventually(lambda: ready(gateway), 5, "ready after a kill")
        starts.append(time.monotonic() - begin)
        with gateway.client() as client:
            for ledger in ledgers:
                ledger.settle(client)
    assert max(starts) <= 1.0, f"ready only after {max(starts):.2f} s"
    with gateway.client() as client:
        for ledger in ledgers:
            for conversation, known in ledger.turns.items():
                assert pairs(client, conversation) == known
    path = database_file(gateway)
    assert gateway.stop() == 0
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        heads = database.execute("SELECT owner, id, turns FROM conversations ORDER BY 1, 2").fetchall()
        counted = "SELECT owner, id, count(*) FROM turns GROUP BY owner, id ORDER BY 1, 2"
        assert heads == database.execute(counted).fetchall()
        total = sum(head[2] for head in heads)
    acknowledged = sum(ledger.acknowledged for ledger in ledgers)
    assert acknowledged <= total <= acknowledged + KILL_ROUNDS * TALKERS
    print(f"{KILL_ROUNDS} kills, {acknowledged} turns, ready within {max(starts):.2f} s")


def test_no_acknowledged_turn_is_lost_when_postgresql_crashes(
    service: Make, mirror: Upstream, cluster: Cluster
):
    gateway = service(**settings(mirror, DATABASE_URL=cluster.new_database()))
    ledgers = [Ledger() for _ in range(TALKERS)]
    for number in range(2):
        crash_under_load(gateway, ledgers, number, cluster.crash)
        cluster.start()
        eventually(lambda: ready(gateway), 10, "ready with PostgreSQL back")
        with gateway.client() as client:
            for ledger in ledgers:
                ledger.settle(client)
    with gateway.client() as client:
        for ledger in ledgers:
            for conversation, known in ledger.turns.items():
                assert pairs(client, conversation) == known


# --- a full disk ---


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with disks.small("2m") as disk:
        if disk is None:
            pytest.skip("a small disk needs the right to mount one")
        yield disk


def test_a_full_disk_is_told_before_the_upstream_is_asked_and_heals(
    service: Make, mirror: Upstream, small_disk: Path
):
    gateway = service(**settings(mirror, DATA_DIR=str(small_disk)))
    with gateway.client() as client:
        conversation, first = asked(client, "one")
        filler = fill(small_disk)
        assert_store_is_down(gateway, mirror, conversation, readable=True)
        filler.unlink()
        eventually(lambda: ready(gateway), 5, "ready on a disk with space")
        _, second = asked(client, "two", conversation)
        assert pairs(client, conversation) == [("one", first), ("two", second)]
        assert second == answer(2, "two")


def test_a_disk_that_fills_up_turn_by_turn_loses_nothing_that_was_acknowledged(
    service: Make, mirror: Upstream, small_disk: Path
):
    gateway = service(**settings(mirror, DATA_DIR=str(small_disk), HISTORY_MAX_MESSAGES="2"))
    fill(small_disk, leave=900 << 10)
    known: list[Pair] = []
    with gateway.client() as client:
        conversation = None
        for number in range(100):
            question = f"{number} " + "x" * 10_000
            response = ask(client, question, conversation)
            if response.status_code != 200:
                assert_unavailable(response)
                break
            conversation = response.json()["conversation_id"]
            known.append((question, response.json()["answer"]))
        else:
            pytest.fail("900 KiB held 2 MB")
        assert len(mirror.asked()) == len(known), "a turn was paid for and not kept"
        assert conversation is not None
    gateway.stop()
    gateway.env["DATA_DIR"] = str(gateway.data_dir / "elsewhere")
    subprocess.run(["cp", "-a", str(small_disk), gateway.env["DATA_DIR"]], check=True)
    gateway.start()
    with gateway.client() as client:
        assert pairs(client, conversation) == known


def test_an_answer_that_was_paid_for_is_kept_in_the_reserve_of_a_disk_that_fills_meanwhile(
    service: Make, mirror: Upstream, small_disk: Path
):
    gateway = service(**settings(mirror, DATA_DIR=str(small_disk)))
    with gateway.client() as client, ThreadPoolExecutor(1) as pool:
        conversation, first = asked(client, "one")
        before = len(mirror.asked())
        mirror.delay = 1.0
        turn = pool.submit(ask, client, "two", conversation)
        eventually(lambda: len(mirror.asked()) > before, 10, "the question at the upstream")
        filler = fill(small_disk, leave=300 << 10)
        response = turn.result()
        assert response.status_code == 200, response.text
        filler.unlink()
        assert pairs(client, conversation) == [("one", first), ("two", answer(2, "two"))]


def test_an_answer_that_could_not_be_kept_is_returned_as_a_failure_with_its_text(
    service: Make, mirror: Upstream, small_disk: Path
):
    gateway = service(**settings(mirror, DATA_DIR=str(small_disk)))
    with gateway.client() as client, ThreadPoolExecutor(1) as pool:
        conversation, first = asked(client, "one")
        before = len(mirror.asked())
        mirror.delay = 1.0
        turn = pool.submit(ask, client, "two", conversation)
        eventually(lambda: len(mirror.asked()) > before, 10, "the question at the upstream")
        filler = fill(small_disk)
        response = turn.result()
        filler.unlink()
        if response.status_code == 200:
            # The database may have had room within its own file.
            assert pairs(client, conversation)[1:] == [("two", answer(2, "two"))]
            return
        assert_unavailable(response)
        assert response.json()["answer"] == answer(2, "two")
        mirror.delay = 0
        assert pairs(client, conversation) == [("one", first)]
        assert asked(client, "three", conversation)[1] == answer(2, "three")


def test_a_database_file_that_is_taken_away_and_put_back_is_used_again(
    service: Make, mirror: Upstream
):
    gateway = service(**settings(mirror))
    with gateway.client() as client:
        conversation, first = asked(client, "one")
        path = database_file(gateway)
        away = path.with_name("away")
        path.rename(away)
        assert_store_is_down(gateway, mirror, conversation)
        away.rename(path)
        eventually(lambda: ready(gateway), 5, "ready with its file back")
        assert asked(client, "two", conversation)[1] == answer(2, "two")
    gateway.kill()
    gateway.start()
    with gateway.client() as client:
        assert pairs(client, conversation) == [("one", first), ("two", answer(2, "two"))]


# --- a database that goes away ---


def test_a_second_service_on_the_same_file_is_told_of_the_first(service: Make, mirror: Upstream):
    first = service(**settings(mirror))
    assert first.process is not None
    with first.client() as client:
        conversation, _ = asked(client, "one")
        second = service(
            key=first.key, start=False, **settings(mirror, DATA_DIR=str(first.data_dir))
        )
        begin = time.monotonic()
        result = second.run()
        assert time.monotonic() - begin < 2
        assert result.returncode == 1 and f"process {first.process.pid} " in result.stderr, result
        # Other commands go on beside it, and it beside them.
        assert first.run("key", "new", "beside").returncode == 0
        assert asked(client, "two", conversation)[1] == answer(2, "two")
        first.kill()
    second.start()
    with second.client() as client:
        assert [question for question, _ in pairs(client, conversation)] == ["one", "two"]


def test_a_damaged_file_is_told_at_once_with_the_way_back(service: Make, mirror: Upstream):
    gateway = service(start=False, **settings(mirror))
    (gateway.data_dir / "mirrorgate.db").write_bytes(b"This is no database. " * 500)
    begin = time.monotonic()
    result = gateway.run()
    assert time.monotonic() - begin < 1
    assert result.returncode == 1 and "damaged" in result.stderr, result
    assert "hint: " in result.stderr and "backup" in result.stderr
    assert len(result.stderr.splitlines()) <= 3, result.stderr


def test_a_read_only_postgresql_is_told_before_the_upstream_is_asked(
    service: Make, mirror: Upstream, cluster: Cluster
):
    url = cluster.new_database()
    gateway = service(**settings(mirror, DATABASE_URL=url))
    with gateway.client() as client:
        conversation, _ = asked(client, "one")
        before = len(mirror.asked())
        cluster.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        cluster.sql("SELECT pg_reload_conf()")
        eventually(lambda: not ready(gateway), 5, "not ready while it cannot write")
        assert "read-only" in client.get("/ready").json()["reasons"][0]
        for known in (None, conversation):
            assert_unavailable(ask(client, "two", known))
        assert len(mirror.asked()) == before
        cluster.sql("ALTER SYSTEM RESET default_transaction_read_only")
        cluster.sql("SELECT pg_reload_conf()")
        eventually(lambda: ready(gateway), 5, "ready when it can write again")
        assert asked(client, "two", conversation)[1] == answer(2, "two")


def test_a_connection_to_a_postgresql_that_was_read_only_is_not_used_again(
    service: Make, mirror: Upstream, cluster: Cluster
):
    """After a failover the server before it may go on as a standby, and its connections with it."""
    url = cluster.new_database()
    name = url.rpartition("/")[2]
    gateway = service(**settings(mirror, DATABASE_URL=url))
    # What is changed for a database holds for the connections that are made afterwards.
    cluster.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    cluster.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    eventually(lambda: not ready(gateway), 5, "not ready while it cannot write")
    cluster.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    eventually(lambda: ready(gateway), 5, "ready when new connections can write")
    with gateway.client() as client:
        asked(client, "one")


def test_what_is_deleted_is_gone_from_the_disk(service: Make, mirror: Upstream):
    gateway = service(**settings(mirror))
    secret = "a text that nobody wants to find again " * 1000
    file = gateway.data_dir / "mirrorgate.db"
    with gateway.client() as client:
        # The mirror says questions again piece by piece, and instructions not.
        question = {"message": "one", "system": secret}
        replies = [client.post("/api/chat", json=question).json() for _ in range(50)]
        assert all(reply["success"] for reply in replies)
        for reply in replies:
            path = f"/api/conversations/{reply['conversation_id']}"
            assert client.delete(path).status_code == 200
        eventually(lambda: file.stat().st_size < 1 << 20, 10, "the space is given back")
    assert gateway.stop() == 0
    for path in gateway.data_dir.iterdir():
        if path.is_file():
            assert b"nobody wants to find" not in path.read_bytes(), path


def test_the_service_outlives_postgresql_and_heals(
    service: Make, mirror: Upstream, cluster: Cluster
):
    gateway = service(**settings(mirror, DATABASE_URL=cluster.new_database()))
    with gateway.client() as client:
        conversation, first = asked(client, "one")
        cluster.stop()
        assert_store_is_down(gateway, mirror, conversation)
        cluster.start()
        eventually(lambda: ready(gateway), 5, "ready with PostgreSQL back")
        _, second = asked(client, "two", conversation)
        assert pairs(client, conversation) == [("one", first), ("two", second)]
        assert second == answer(2, "two")


def test_a_postgresql_that_does_not_answer_fails_calls_in_time(
    service: Make, mirror: Upstream, cluster: Cluster
):
    gateway = service(**settings(mirror, DATABASE_URL=cluster.new_database()))
    with gateway.client() as client:
        conversation, _ = asked(client, "one")
        before = len(mirror.asked())
        cluster.freeze()
        begin = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(ask, client, "two", known) for known in (None, conversation)]
            readiness = pool.submit(client.get, "/ready")
            assert client.get("/api/models").json()["success"] is True
            assert status(gateway, "/health") == 200
            assert time.monotonic() - begin < 2, "what needs no store waited for it"
            for call in calls:
                assert_unavailable(call.result())
            assert readiness.result().status_code == 503
        assert time.monotonic() - begin < 10, "callers waited too long for a store that hangs"
        assert len(mirror.asked()) == before
        cluster.thaw()
        eventually(lambda: ready(gateway), 10, "ready with PostgreSQL awake")
        assert asked(client, "two", conversation)[1] == answer(2, "two")


def test_the_service_starts_while_postgresql_is_down(
    service: Make, mirror: Upstream, cluster: Cluster
):
    url = cluster.new_database()
    cluster.stop()
    gateway = service(**settings(mirror, DATABASE_URL=url))
    assert_store_is_down(gateway, mirror, MISSING)
    cluster.start()
    eventually(lambda: ready(gateway), 5, "ready with PostgreSQL up")
    with gateway.client() as client:
        conversation, first = asked(client, "one")
        assert pairs(client, conversation) == [("one", first)]


def test_without_a_key_and_a_database_the_start_ends_with_the_line_to_paste(
    service: Make, cluster: Cluster
):
    url = cluster.new_database().replace("postgres@", "postgres:hunter2-secret@")
    cluster.stop()
    gateway = service(key=None, start=False, DATABASE_URL=url)
    result = gateway.run()
    assert result.returncode == 78, result.stderr
    line = re.search(r"^\s*(GATEWAY_API_KEYS)=(\S{40,})$", result.stderr, re.MULTILINE)
    assert line, result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    # The line does what it says.
    cluster.start()
    gateway.env["GATEWAY_API_KEYS"] = line[2]
    gateway.start()
    assert status(gateway, "/api/models", line[2]) == 200
    assert "hunter2" not in gateway.output


# --- replicas ---


@pytest.fixture
def replicas(service: Make, mirror: Upstream, cluster: Cluster) -> tuple[Service, Service]:
    key, url = new_key(), cluster.new_database()
    more = settings(mirror, DATABASE_URL=url, HISTORY_MAX_MESSAGES="1000")
    return service(key=key, **more), service(key=key, **more)


def test_a_conversation_goes_on_at_the_other_replica(replicas: tuple[Service, Service]):
    first, second = (replica.client() for replica in replicas)
    with first, second:
        conversation = None
        for number, client in enumerate([first, second, second, first, second], 1):
            conversation, text = asked(client, f"question {number}", conversation)
            assert text == answer(number, f"question {number}")
        assert conversation is not None
        assert pairs(first, conversation) == pairs(second, conversation)
        assert first.delete(f"/api/conversations/{conversation}").status_code == 200
        assert second.get(f"/api/conversations/{conversation}").status_code == 404
        assert ask(second, "more", conversation).status_code == 404


@pytest.mark.parametrize("name", [None, "my own name"])
def test_parallel_turns_at_both_replicas_are_ordered(
    replicas: tuple[Service, Service], mirror: Upstream, name: str | None
):
    # Under a name any of them may be the first.
    conversation, earlier = name, 0
    if conversation is None:
        with replicas[0].client() as client:
            conversation, _ = asked(client, "the first")
        earlier = 1

    def ask_on(index: int) -> tuple[str, str]:
        question = f"question {index}"
        with replicas[index % 2].client() as client:
            return question, asked(client, question, conversation)[1]

    # All at once, as a workflow's parallel branches do.
    count = 16
    with ThreadPoolExecutor(count) as pool:
        told = list(pool.map(ask_on, range(count)))
    with replicas[0].client() as client:
        kept = pairs(client, conversation)
    assert sorted(kept[earlier:]) == sorted(told), "a turn was lost or doubled"
    assert [text for _, text in kept] == [answer(n, q) for n, (q, _) in enumerate(kept, 1)]
    # Each turn saw all the earlier ones, and none was asked for twice.
    flat = [text for pair in kept for text in pair]
    seen = sorted([m["content"] for m in (r.body or {})["messages"]] for r in mirror.asked())
    assert sorted(seen, key=len) == [flat[: 2 * turn + 1] for turn in range(count + earlier)]


def test_the_other_replica_goes_on_when_one_dies_in_mid_turn(
    replicas: tuple[Service, Service], mirror: Upstream
):
    doomed, other = replicas
    with doomed.client() as client:
        conversation, first = asked(client, "one")

    def never_answered() -> None:
        with doomed.client() as client, pytest.raises(httpx.TransportError):
            ask(client, "two", conversation)

    before = len(mirror.asked())
    mirror.fault = FAULTS["silent"]
    with ThreadPoolExecutor(1) as pool:
        turn = pool.submit(never_answered)
        eventually(lambda: len(mirror.asked()) > before, 10, "the turn at the upstream")
        mirror.fault = None
        doomed.kill()
        turn.result()
    begin = time.monotonic()
    with other.client() as client:
        _, text = asked(client, "three", conversation)
        took = time.monotonic() - begin
        assert text == answer(2, "three"), "a turn without an answer left something behind"
        assert pairs(client, conversation) == [("one", first), ("three", text)]
    assert took < 15, f"the conversation was blocked for {took:.1f} s"
    doomed.start()
    with doomed.client() as client:
        assert asked(client, "four", conversation)[1] == answer(3, "four")


def test_replicas_that_start_together_make_one_key(
    service: Make, mirror: Upstream, cluster: Cluster
):
    for _ in range(3):
        url = cluster.new_database()
        both = [service(key=None, start=False, **settings(mirror, DATABASE_URL=url)) for _ in range(2)]
        barrier = threading.Barrier(2)

        def start(replica: Service) -> None:
            barrier.wait()
            replica.start()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(start, both))
        printed = [key for key in map(generated_key, both) if key]
        assert len(printed) == 1, [replica.output for replica in both]
        for replica in both:
            assert status(replica, "/api/models", printed[0]) == 200
            assert status(replica, "/api/models") == 401
        for replica in both:
            replica.stop()


# --- gateway keys ---


def test_a_key_is_made_listed_and_revoked_while_the_service_runs(
    service: Make, place: dict[str, str]
):
    gateway = service(**place)
    made = gateway.run("key", "new", "my-dify")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"\S{40,}", key) and made.stdout == key + "\n", "a script reads this line"
    assert key not in made.stderr and "my-dify" in made.stderr
    # One that is tried before the service knows it counts as wrong, of which ten are too many.
    eventually(lambda: time.sleep(0.5) or status(gateway, "/api/models", key) == 200, 5, "the new key is accepted")
    assert status(gateway, "/api/models", gateway.key) == 200

    listed = gateway.run("key", "list")
    assert listed.returncode == 0, listed.stderr
    assert "my-dify" in listed.stdout and "tester" in listed.stdout
    for secret in (key, gateway.key or ""):
        assert secret not in listed.stdout + listed.stderr

    revoked = gateway.run("key", "revoke", "my-dify")
    assert revoked.returncode == 0, revoked.stderr
    eventually(lambda: status(gateway, "/api/models", key) == 401, 5, "the revoked key is refused")
    assert status(gateway, "/api/models", gateway.key) == 200
    assert "my-dify" not in gateway.run("key", "list").stdout
    gateway.stop()
    assert key not in gateway.output

    gateway.start()
    assert status(gateway, "/api/models", key) == 401
    again = gateway.run("key", "new", "my-dify")
    assert again.returncode == 0 and again.stdout.strip() != key


def test_mistakes_with_keys_are_told(service: Make, place: dict[str, str]):
    gateway = service(start=False, **place)
    assert gateway.run("key", "new", "twice").returncode == 0
    for arguments in (
        ["new", "twice"],
        ["new", "tester"],
        ["new", ""],
        ["new", "two words"],
        ["new", "../../etc"],
        ["new", "名字"],
        ["new", "x" * 41],
        ["new", "new\nline"],
        ["revoke", "nobody"],
        ["revoke", "tester"],
        ["new"],
        ["revoke"],
        [],
    ):
        result = gateway.run("key", *arguments)
        assert result.returncode in (1, 2), (arguments, result)
        assert result.stdout == "", arguments
        assert "panicked" not in result.stderr
        if arguments[1:]:
            assert re.match(r"error: .+\n\s+hint: .+", result.stderr), (arguments, result.stderr)
    names = gateway.run("key", "list").stdout
    assert "twice" in names and len(names.splitlines()) == 2, names


def test_revoking_the_last_key_opens_nothing(service: Make, place: dict[str, str]):
    gateway = service(key=None, **place)
    key = generated_key(gateway)
    assert key and status(gateway, "/api/models", key) == 200
    revoked = gateway.run("key", "revoke", "generated")
    if revoked.returncode == 0:
        eventually(lambda: status(gateway, "/api/models", key) != 200, 5, "the revoked key is refused")
    for presented in (None, new_key()):
        assert status(gateway, "/api/models", presented) == 401


def test_the_commands_say_when_the_store_is_down(service: Make):
    url = f"postgres://postgres:hunter2-secret@127.0.0.1:{refusing_port()}/nothing"
    gateway = service(start=False, DATABASE_URL=url)
    commands = (["new", "name"], ["list"], ["revoke", "name"])
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda arguments: gateway.run("key", *arguments), commands))
    for result in results:
        assert result.returncode == 1, result
        assert "storage_unavailable" in result.stderr and "hint: " in result.stderr
        assert "DATABASE_URL" in result.stderr and "hunter2" not in result.stderr


def test_a_stored_key_is_good_while_postgresql_is_down(
    service: Make, mirror: Upstream, cluster: Cluster
):
    gateway = service(key=None, **settings(mirror, DATABASE_URL=cluster.new_database()))
    key = generated_key(gateway)
    assert key
    cluster.stop()
    # Longer than the service's own look at the keys takes: what it knew still holds.
    end = time.monotonic() + 5.5

    def long_enough() -> bool:
        assert status(gateway, "/api/models", key) == 200
        assert status(gateway, "/api/models") == 401
        return time.monotonic() > end

    eventually(long_enough, 10, "five seconds of good answers")


# --- tenants ---


def test_tenants_cannot_see_each_other(service: Make, mirror: Upstream, place: dict[str, str]):
    ann, bob = new_key(), new_key()
    gateway = service(key=ann, start=False, **settings(mirror), **place)
    gateway.env["GATEWAY_API_KEYS"] = f"ann:{ann},bob:{bob}"
    third = gateway.run("key", "new", "third").stdout.strip()
    gateway.start()
    with gateway.client() as client:
        conversation, first = asked(client, "Ann's secret")
        named = asked(client, "Ann's other secret", "a shared name")
    before = len(mirror.asked())
    bare = conversation.removeprefix("conv_")
    names = [conversation, f"conv_{bare.upper()}", f" {conversation} "]
    # What is no id is a name, and begins a conversation of whoever uses it.
    own = ["a shared name", bare]

    def outcomes(client: httpx.Client, name: str) -> list[tuple[int, str]]:
        path = f"/api/conversations/{name.strip()}"
        told = [client.get(path), client.delete(path), client.head(path), ask(client, "More?", name)]
        results = []
        for response in told:
            text = response.text.replace(response.headers["x-request-id"], "REQUEST")
            results.append((response.status_code, re.sub(f"(?i){name.strip()}", "ID", text)))
        return results

    for key in (bob, third):
        with httpx.Client(base_url=gateway.url, headers={"X-API-Key": key}, verify=NO_TLS) as client:
            for name in names:
                theirs = outcomes(client, name)
                assert [code for code, _ in theirs] == [404] * 4
                assert theirs == outcomes(client, MISSING), "it can be told from a missing one"
            assert client.get("/api/conversations").json()["conversations"] == []
            for name in own:
                path = f"/api/conversations/{name}"
                assert (client.get(path).status_code, client.delete(path).status_code) == (404, 404)
                assert asked(client, "mine", name)[1] == answer(1, "mine")
                assert pairs(client, name) == [("mine", answer(1, "mine"))]
            assert client.delete("/api/conversations").json()["deleted"] == len(own)
    with httpx.Client(base_url=gateway.url, verify=NO_TLS) as client:
        assert [code for code, _ in outcomes(client, conversation)] == [401] * 4
    assert len(mirror.asked()) == before + 2 * len(own)
    with gateway.client() as client:
        assert pairs(client, conversation) == [("Ann's secret", first)]
        assert pairs(client, "a shared name") == [("Ann's other secret", named[1])]
        assert asked(client, "two", conversation)[1] == answer(2, "two")
    assert "secret" not in gateway.output

    # A new way to a conversation belongs into this test.
    document = dify_client.yaml.safe_load(httpx.get(f"{gateway.url}/openapi/full.json").text)
    ways = {
        f"{method} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "conversation" in path or "conversation" in str((operation or {}).get("requestBody"))
    }
    assert ways <= {
        "post /api/chat",
        "post /api/ask",
        "get /api/conversations",
        "delete /api/conversations",
        "get /api/conversations/{id}",
        "delete /api/conversations/{id}",
    }


def test_a_new_key_under_an_old_name_inherits_nothing(service: Make, mirror: Upstream):
    gateway = service(start=False, **settings(mirror))
    gateway.key = gateway.run("key", "new", "shared").stdout.strip()
    gateway.start()
    with gateway.client() as client:
        conversation, _ = asked(client, "Whose is this?")
    assert gateway.run("key", "revoke", "shared").returncode == 0
    gateway.key = gateway.run("key", "new", "shared").stdout.strip()
    gateway.kill()
    gateway.start()
    with gateway.client() as client:
        assert client.get(f"/api/conversations/{conversation}").status_code == 404
        assert ask(client, "Mine?", conversation).status_code == 404


# --- what lies on the disk ---


def test_the_files_are_the_owners_alone_and_hold_no_key(service: Make, mirror: Upstream):
    gateway = service(key=None, **settings(mirror))
    key = generated_key(gateway)
    assert key
    more = gateway.run("key", "new", "second").stdout.strip()
    gateway.stop()
    gateway.key = new_key()
    gateway.env["GATEWAY_API_KEYS"] = f"third:{gateway.key}"
    gateway.start()
    with gateway.client() as client:
        asked(client, "A marker to be found")
    files = tree(gateway.data_dir)
    assert {Path(name).suffix for name in files} >= {".db", ".db-wal", ".db-shm"}
    assert any(b"A marker to be found" in content for content in files.values())
    for name, content in files.items():
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600, name
        for secret in (key, more, gateway.key, mirror.api_key):
            assert secret.encode() not in content, name


# --- schemas ---


def test_a_newer_schema_is_refused_and_left_alone_in_sqlite(service: Make):
    gateway = service()
    path = database_file(gateway)
    assert gateway.stop() == 0
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)"
            " VALUES (9999, 'from the future', 1, x'00', 0)"
        )
        before = list(database.iterdump())
    database.close()
    for arguments in ([], ["key", "new", "name"], ["key", "list"]):
        result = gateway.run(*arguments)
        assert result.returncode == 1, (arguments, result)
        assert "newer" in result.stderr and "9999" in result.stderr and "hint: " in result.stderr
    with sqlite3.connect(path) as database:
        assert list(database.iterdump()) == before
    database.close()


def test_a_newer_schema_is_refused_and_left_alone_in_postgresql(service: Make, cluster: Cluster):
    url = cluster.new_database()
    name = url.rsplit("/", 1)[1]
    gateway = service(DATABASE_URL=url)
    assert gateway.stop() == 0
    cluster.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)"
        " VALUES (9999, 'from the future', true, '\\x00', 0)",
        name,
    )
    state = "SELECT version, description FROM _sqlx_migrations ORDER BY 1"
    before = cluster.sql(state, name)
    result = gateway.run()
    assert result.returncode == 1, result
    assert "newer" in result.stderr and "9999" in result.stderr and "hint: " in result.stderr
    assert cluster.sql(state, name) == before
