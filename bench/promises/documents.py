"""Requests made up from the documents by schemathesis: none is answered with an unexpected status."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from pathlib import Path

from harness.programs import ROOT

from .gateway import Gateway
from .table import Row, Run

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# The hooks of the client tests hold the contract's own statuses.
HOOKS = ROOT / "tests" / "clients"


async def check(run: Run) -> None:
    wanted = run.size(1000, 300)
    # The owner may call all operations, and a caller's 403 is the same at each: the matrix of the HTTP tests has it.
    owner = secrets.token_hex(16)
    gateway = Gateway(run.binary, DATABASE_URL="memory:", ADMIN_KEY=owner)
    try:
        await gateway.started()
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://{gateway.address}/openapi/full.json",
            f"--header=Authorization: Bearer {owner}",
            f"--checks={CHECKS},contract",
            f"--max-examples={run.size(120, 25)}",
            "--seed=20260605",
            "--generation-database=none",
            "--phases=examples,coverage,fuzzing",
            "--continue-on-failure",
            "--request-timeout=30",
            # A stream that goes on for ten minutes.
            "--exclude-path=/api/calls/live",
            "--warnings=off",
            "--no-color",
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_checks", "PYTHONPATH": str(HOOKS), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=gateway.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode(errors="replace")
        (ROOT / "target" / "battery-schemathesis.txt").write_text(output)
        generated = re.search(r"([\d,]+) generated", output)
        cases = int(generated[1].replace(",", "")) if generated else 0
        failures = re.findall(r"^_+ (.+?) _+$", output, re.M)
        unique = re.search(r"(\d+) unique failures?", output)
        found = int(unique[1]) if unique else len(failures)
        if process.returncode != 0 and not found:
            failures.append(output[-600:])
            found = 1
        faults = [f"{failure} (see target/battery-schemathesis.txt)" for failure in failures]
        held = process.returncode == 0 and cases >= wanted
        figure = f"{cases:,} cases, {found} unexpected"
        run.add(Row("documents, schemathesis", f">= {wanted:,} cases, 0 unexpected", figure, held, faults))
    finally:
        await gateway.removed()
