"""Two replicas behind a real PgBouncer, as the free databases put one before theirs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Service, new_key
from pgbouncer import Pooler
from postgres import Cluster
from test_state import asked, pairs, settings
from upstream import Upstream

Make = Callable[..., Service]

TALKERS = 20
TURNS = 25


@pytest.fixture(params=[("transaction", 3), ("session", 15)], ids=lambda mode: mode[0])
def pooler(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Pooler]:
    mode, size = request.param
    pooler = Pooler(cluster.new_database(), mode, size)
    yield pooler
    pooler.remove()


def test_no_turn_fails_and_none_is_doubled_behind_a_pooler(
    service: Make, mirror: Upstream, pooler: Pooler
):
    key = new_key()
    more = settings(mirror, DATABASE_URL=pooler.url, HISTORY_MAX_MESSAGES="1000")
    replicas = [service(key=key, **more) for _ in range(2)]

    def talk(number: int) -> None:
        """A conversation whose next question goes to the other replica at once."""
        told = []
        conversation = None
        with replicas[0].client() as first, replicas[1].client() as second:
            for turn in range(TURNS):
                question = f"{number}.{turn} {secrets.token_hex(4)}"
                client = (first, second)[(number + turn) % 2]
                conversation, text = asked(client, question, conversation)
                told.append((question, text))
            assert pairs(first, conversation) == told
            assert first.delete(f"/api/conversations/{conversation}").status_code == 200

    with ThreadPoolExecutor(TALKERS) as pool:
        for done in [pool.submit(talk, number) for number in range(TALKERS)]:
            done.result()
    assert len(mirror.asked()) == TALKERS * TURNS
    for replica in replicas:
        log = replica.output
        assert '"warn"' not in log and '"error"' not in log, log
        assert replica.stop() == 0
