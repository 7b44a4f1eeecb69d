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


def call(target: Server, upstream: Server, kind: str, model: str, **options: object) -> dict:
    """One run; options are those of the load generator, with `_` for `-`."""
    words: dict[str, object] = {
        "target": target.address,
        "path": PATHS[kind],
        "kind": kind,
        "model": model,
        "key": KEY,
        "pids": ",".join(map(str, target.pids())),
        "own_pids": "" if target is upstream else ",".join(map(str, upstream.pids())),
    } | options
    if target.header:
        words["header"] = target.header
    command = [str(programs.RELEASE / "load")]
    for name, value in words.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"the load generator failed: {done.stderr}\n{target.name} says:\n{target.output()}")
    return json.loads(done.stdout)


def read_back(target: Server, path: str, times: int) -> float:
    """The program's CPU time for a GET, in microseconds: the mean of so many, one after the other."""
    connection = http.client.HTTPConnection(target.address, timeout=30)
    begin = 0.0
    # The first one opens what the others find open.
    for number in range(times + 1):
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        if not answer.read() or answer.status != 200:
            raise SystemExit(f"GET {path}: {answer.status}")
        begin = begin or target.cpu_us()
    connection.close()
    return (target.cpu_us() - begin) / times
