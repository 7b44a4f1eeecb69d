"""A real browser, driven by a program of this folder through one scenario."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from conftest import HERE, ROOT

SHOTS = ROOT / "target/screenshots"


def drive(program: str, scenario: str, **job: Any) -> dict:
    """What the scenario of the program saw."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    job = {"shots": str(SHOTS), **job}
    result = subprocess.run(
        ["node", HERE / program, scenario, json.dumps(job)],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
