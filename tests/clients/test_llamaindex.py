"""LlamaIndex calls tools through the gateway, whole and streamed. It reads of each chunk the first tool call
alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from conftest import HERE, ROOT, Service, provider_settings
from upstream import Upstream

Make = Callable[..., Service]

PYTHON = ROOT / "target/llamaindex/bin/python"
CITIES = ["台北", "Paris", "Zürich"]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_tool_calls_arrive_complete(
    service: Make, provider: Upstream, calls: int, interleaved: bool
):
    if not PYTHON.exists():
        pytest.skip("./test clients installs LlamaIndex")
    gateway = service(**provider_settings(provider))
    provider.calls, provider.interleaved = calls, interleaved
    program = [PYTHON, "-B", HERE / "llamaindex_client.py", f"{gateway.url}/v1", gateway.key]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    called = json.loads(done.stdout)
    assert called.keys() == {"whole", "streamed"}
    for way, made in called.items():
        by_id = sorted(made)
        assert [name for _, name, _ in by_id] == ["weather", "population", "history"][:calls], way
        assert [arguments["city"] for _, _, arguments in by_id] == CITIES[:calls], way
