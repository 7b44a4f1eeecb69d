"""Runs the load generator and reads its result."""

from __future__ import annotations

import http.client
import json
import subprocess

from . import programs
from .servers import KEY, Server

# Kinds of call, as the load generator names them, and where they go.
PATHS = {
    "json": "/v1/chat/completions",
    "events": "/v1/chat/completions",
    "lines": "/rest/app-chat/conversations/new",
    "chat": "/api/chat",
}


# What a load does unless an option says otherwise.
USUAL = {"connections": 1, "check": "exact", "warmup_ms": 300, "measure_ms": 2000, "once": False, "ramp_ms": 0}
USUAL |= {"turns": 0, "conversations": [], "think_ms": 0}


def begin(target: Server, upstream: Server, kind: str, model: str, **options: object) -> subprocess.Popen[str]:
    """Begins a load; the options are those of the load generator."""
    plan: dict[str, object] = {
        "target": target.address,
        "path": PATHS[kind],
        "kind": kind,
        "model": model,
        "key": KEY,
        "header": target.header,
        "pids": target.pids(),
        "own_pids": [] if target is upstream else upstream.pids(),
    }
    pipe = subprocess.PIPE
    process = subprocess.Popen([programs.RELEASE / "load"], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(USUAL | plan | options))
    process.stdin.close()
    process.stdin = None
    return process


def end(process: subprocess.Popen[str], target: Server) -> dict:
    """What came of it."""
    out, error = process.communicate(timeout=300)
    if process.returncode != 0:
        raise SystemExit(f"the load generator failed: {error}\n{target.name} says:\n{target.output()}")
    return json.loads(out)


def call(target: Server, upstream: Server, kind: str, model: str, **options: object) -> dict:
    return end(begin(target, upstream, kind, model, **options), target)


def read_back(target: Server, path: str, times: int) -> float:
    """The program's CPU time for a GET, in microseconds: the mean of so many, one after the other."""
    connection = http.client.HTTPConnection(target.address, timeout=30)
    begin = 0.0
    # The first one opens what the others find open.
    for _ in range(times + 1):
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        if not answer.read() or answer.status != 200:
            raise SystemExit(f"GET {path}: {answer.status}")
        begin = begin or target.cpu_us()
    connection.close()
    return (target.cpu_us() - begin) / times
