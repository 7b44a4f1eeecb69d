"""Requests that nobody would think of, made from the documents by schemathesis.

`SCHEMATHESIS_EXAMPLES` sets how many per operation; the default keeps `./test` short.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HERE, Service

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "150")

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "contract",
]
# Left out on purpose: negative_data_rejection, since text and numbers are both understood, `""` and
# null read as absent and unknown fields are ignored; positive_data_acceptance, since a model or a
# conversation of any name is well-formed and only the upstream knows whether it exists.


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", ["/openapi.json", "/openapi/full.json"])
def test_no_request_is_answered_in_an_unexpected_way(demo: Service, path: str, tmp_path: Path):
    result = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{demo.url}{path}",
            # To the owner everything is open.
            f"--header=Authorization: Bearer {demo.env['ADMIN_KEY']}",
            f"--checks={','.join(CHECKS)}",
            f"--max-examples={EXAMPLES}",
            "--seed=20260601",
            "--generation-database=none",
            "--phases=examples,coverage,fuzzing",
            "--continue-on-failure",
            "--request-timeout=30",
            # A stream that goes on for ten minutes; tests/api/calls.rs reads it.
            "--exclude-path=/api/calls/live",
            # A document may refer to what was not understood; that is for the tests by rule.
            "--warnings=off",
            "--no-color",
        ],
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "schemathesis_checks",
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    print(result.stdout[-20_000:])
    print(result.stderr[-5_000:])
    assert result.returncode == 0, result.stdout[-20_000:]
    # A run that tested nothing is no good news.
    generated = re.search(r"(\d+) generated", result.stdout)
    assert generated and int(generated[1]) > int(EXAMPLES), result.stdout[-2_000:]
