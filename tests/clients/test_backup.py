"""The store in a bucket, as the program's own users lose their disks: by a kill, and by a platform's SIGTERM."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from bucket import Bucket
from conftest import Service, eventually, new_key, upstream_settings
from upstream import Upstream

# The shortest time between snapshots here, and what a snapshot and its upload may take beside it.
INTERVAL = 1.0
SLACK = 2.0

Make = Callable[..., Service]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()


def settings(mirror: Upstream, bucket: Bucket, **more: str) -> dict[str, str]:
    own = {"DEFAULT_MODEL": "mirror-large", "BACKUP_INTERVAL_SECONDS": str(INTERVAL)}
    return upstream_settings(mirror, "openai") | bucket.settings() | own | more


def ask(client: httpx.Client, message: str, conversation: str = "") -> str:
    response = client.post("/api/chat", json={"message": message, "conversation_id": conversation})
    assert response.status_code == 200, response.text
    return response.json()["conversation_id"]


def questions(client: httpx.Client, conversation: str) -> list[str]:
    """What was asked in a conversation, page by page."""
    found: list[str] = []
    page: dict[str, object] = {}
    while True:
        response = client.get(f"/api/conversations/{conversation}", params=page)
        assert response.status_code == 200, response.text
        body = response.json()
        found[:0] = [message["content"] for message in body["messages"] if message["role"] == "user"]
        if body.get("next_before") is None:
            return found
        page = {"before": body["next_before"]}


def wiped(gateway: Service) -> None:
    """A disk as a platform gives it to the next start."""
    for path in gateway.data_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_conversations_keys_and_session_outlive_a_wiped_disk(service: Make, mirror: Upstream, bucket: Bucket):
    secret = {"SECRET_KEY": "s" * 40}
    gateway = service(**settings(mirror, bucket, **secret))
    with gateway.client() as client:
        conversation = ask(client, "first")
    made = gateway.run("key", "new", "another")
    assert made.returncode == 0, made.stderr
    # A new login, which the settings do not have.
    mirror.api_key = "up-" + new_key()
    changed = gateway.run("session", "set", "--key", mirror.api_key)
    assert changed.returncode == 0, changed.stderr
    for turns in range(2, 5):
        assert gateway.stop() == 0, gateway.output
        wiped(gateway)
        gateway.start()
        with gateway.client() as client:
            assert len(questions(client, conversation)) == turns - 1
            ask(client, "more", conversation)
    with httpx.Client(base_url=gateway.url, headers={"X-API-Key": made.stdout.strip()}) as another:
        ask(another, "with the other key")
    assert mirror.api_key not in gateway.env.values()
    objects = bucket.objects()
    assert len(objects) > 1 and all(key.startswith("a folder/mirrorgate-") for key in objects)
    assert not any(b"first" in content or b"SQLite" in content for content in objects.values())


def test_a_kill_loses_no_more_than_the_interval(service: Make, mirror: Upstream, bucket: Bucket):
    gateway = service(**settings(mirror, bucket))
    with gateway.client() as client:
        conversation = ask(client, "the first")
    kept = ["the first"]
    for number in range(4):
        told: list[tuple[float, str]] = []
        ended = threading.Event()

        def talk(number: int = number, told: list[tuple[float, str]] = told) -> None:
            with gateway.client() as client:
                while not ended.is_set():
                    message = f"{number}.{len(told)}"
                    try:
                        ask(client, message, conversation)
                    except (httpx.TransportError, AssertionError):
                        return
                    told.append((time.monotonic(), message))

        talker = threading.Thread(target=talk)
        talker.start()
        time.sleep(INTERVAL + SLACK + random.uniform(0.5, 1.5))
        gateway.kill()
        killed = time.monotonic()
        ended.set()
        talker.join()
        wiped(gateway)
        gateway.start()
        with gateway.client() as client:
            found = questions(client, conversation)
        safe = kept + [message for at, message in told if at < killed - INTERVAL - SLACK]
        assert found[: len(safe)] == safe, "a turn from before the last snapshot is lost"
        # What was snapshotted begins to arrive right after.
        newest = max(at for at in bucket.snapshots[:-1]) if len(bucket.snapshots) > 1 else 0
        earlier = kept + [message for at, message in told if at < newest - 0.5]
        assert found[: len(earlier)] == earlier
        assert set(found) <= set(kept) | {message for _, message in told} | {f"{number}.{len(told)}"}
        kept = found


def test_sigterm_loses_nothing_and_nothing_is_written_while_nobody_asks(
    service: Make, mirror: Upstream, bucket: Bucket
):
    gateway = service(**settings(mirror, bucket, BACKUP_INTERVAL_SECONDS="30"))
    with gateway.client() as client:
        conversation = ask(client, "one")
        for _ in range(20):
            ask(client, "more", conversation)
    assert not bucket.snapshots, "it settles first"
    assert gateway.stop() == 0, gateway.output
    assert len(bucket.snapshots) == 1
    wiped(gateway)
    gateway.env["BACKUP_INTERVAL_SECONDS"] = str(INTERVAL)
    gateway.start()
    with gateway.client() as client:
        assert len(questions(client, conversation)) == 21
    time.sleep(INTERVAL + SLACK)
    assert gateway.stop() == 0, gateway.output
    assert len(bucket.snapshots) == 1, "nothing had changed"


def test_a_key_that_opens_nothing_ends_the_start(service: Make, mirror: Upstream, bucket: Bucket):
    gateway = service(start=False, **settings(mirror, bucket, AWS_SECRET_ACCESS_KEY="another"))
    result = gateway.run()
    assert result.returncode == 1, result
    assert "SignatureDoesNotMatch" in result.stderr and "hint: " in result.stderr
    gateway.env["AWS_SECRET_ACCESS_KEY"] = bucket.settings()["AWS_SECRET_ACCESS_KEY"]
    gateway.env["BACKUP_URL"] = "s3://there-is-no-such-bucket"
    result = gateway.run()
    assert result.returncode == 1 and "NoSuchBucket" in result.stderr, result


def test_the_later_of_two_services_has_the_backup(
    service: Make, mirror: Upstream, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
):
    earlier = service(**settings(mirror, bucket))
    with earlier.client() as client:
        conversation = ask(client, "one")
    eventually(lambda: bucket.snapshots, 10, "a snapshot")
    later = Service(earlier.binary, tmp_path_factory.mktemp("later"), earlier.key, settings(mirror, bucket)).start()
    try:
        with earlier.client() as client:
            ask(client, "lost", conversation)
        eventually(lambda: "another process has taken the backup over" in earlier.output, 10, "it says so")
        with later.client() as client:
            ask(client, "two", conversation)
        assert later.stop() == 0, later.output
        wiped(later)
        later.start()
        with later.client() as client:
            assert questions(client, conversation) == ["one", "two"]
    finally:
        later.stop()
