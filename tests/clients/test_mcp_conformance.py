"""The official conformance suite of MCP, held to what mcp_conformance.yaml says of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import HERE, Service

EXPECTED = yaml.safe_load((HERE / "mcp_conformance.yaml").read_text())
RUNS = [(revision, suite) for revision, told in EXPECTED.items() for suite in told["suites"]]


def node() -> str:
    """A Node.js of version 22 or later, which the suites want: npm's package of it, or this system's."""
    packaged = sorted((HERE / "node_modules").glob("node-linux-*/bin/node"))
    found = [str(path) for path in packaged] + [shutil.which("node") or ""]
    for program in filter(None, found):
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.lstrip("v").split(".")[0]) >= 22:
            return program
    pytest.fail("there is no Node.js of version 22: run `npm ci` in tests/clients")


def run(suite: str, revision: str, gateway: Service, results: Path) -> dict[str, list[dict]]:
    """The checks of each scenario."""
    program = HERE / "node_modules" / suite / "dist/index.js"
    command = [node(), str(program), "server", "--url", f"{gateway.url}/mcp", "--suite", "all"]
    command += ["--spec-version", revision, "--output-dir", str(results)]
    # It ends with 1 where any check failed; which ones is in the files.
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    scenarios = {}
    for file in results.glob("server-*/checks.json"):
        named = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)
        assert named, file
        scenarios[named[1]] = json.loads(file.read_text())
    assert scenarios, told.stdout + told.stderr
    return scenarios


@pytest.mark.parametrize(("revision", "suite"), RUNS)
def test_the_suite_tells_what_the_list_says(
    service: Callable[..., Service], tmp_path: Path, revision: str, suite: str
) -> None:
    # The suites send no key; that is also the only setting in which a foreign page could call.
    gateway = service(key=None, GATEWAY_AUTH="none")
    scenarios = run(suite, revision, gateway, tmp_path / "results")
    expected = EXPECTED[revision]
    listed = Counter(check for group in expected["fails"] for check in group["checks"])
    assert all(group["reason"] for group in expected["fails"]) and set(listed.values()) == {1}

    failed = {
        f"{name}/{check['id']}": check.get("errorMessage")
        for name, checks in scenarios.items()
        for check in checks
        if check["status"] == "FAILURE"
    }
    assert {name: why for name, why in failed.items() if name not in listed} == {}
    assert set(listed) - set(failed) == set(), "these are listed as failing and pass"
    for name in expected["passes"]:
        statuses = {check["status"] for check in scenarios[name]}
        assert "SUCCESS" in statuses and "WARNING" not in statuses, scenarios[name]
