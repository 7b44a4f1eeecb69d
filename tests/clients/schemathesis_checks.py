"""One check of our own for schemathesis, loaded through SCHEMATHESIS_HOOKS.

The tools' document declares `200` and `default` only, because importers take no more, so that any
status would conform to it. The contract says more: these statuses, and never those whose body Dify
throws away.
"""

from __future__ import annotations

import json

import schemathesis

TOOL_STATUSES = {200, 400, 401, 404, 405, 413, 415, 422, 424}
ENVELOPE_ERROR = {"code", "message", "hint", "retryable", "request_id"}


@schemathesis.check
def contract(ctx, response, case) -> None:
    if not case.path.startswith("/api/"):
        assert response.status_code < 500, f"{response.status_code} from a healthy service"
        return
    assert response.status_code in TOOL_STATUSES, f"unexpected status {response.status_code}"
    assert response.headers["x-request-id"], "no request id"
    if case.method.upper() in ("HEAD", "OPTIONS"):
        return
    if case.path == "/api/ask":
        assert "text/plain; charset=utf-8" in response.headers["content-type"]
        assert response.text.strip(), "nothing is said"
        return
    media = response.headers["content-type"][0]
    if response.status_code == 200 and not media.startswith("application/json"):
        # Lines of JSON, or a backup.
        # By this byte alone: texts may have other ends of lines in them, such as U+2028.
        lines = response.content.split(b"\n") if media == "application/x-ndjson" else []
        for line in filter(None, lines):
            json.loads(line)
        return
    body = response.json()
    spaced = json.dumps(body, ensure_ascii=False).encode()
    assert response.content == spaced, "an agent of Dify would see this answer twice"
    if "data" in body:
        # The shape of FastAPI wrappers, whose failures are 200.
        assert response.status_code == 200
        assert body["success"] is (body["error"] is None)
        return
    assert body["success"] is (response.status_code == 200)
    if body["success"]:
        assert body["error"] is None
    else:
        assert body["error"].keys() >= ENVELOPE_ERROR
