"""What is asked on each face of the service, and what its answers say."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bodies import read_events

from . import plans, wire

V1, CHAT = "/v1/chat/completions", "/api/chat"
TOOL, JSON, SSE = "tool", "json", "sse"
# What reading an answer may meet that is none.
UNREADABLE = (wire.Broken, OSError, AssertionError, LookupError, TypeError, ValueError)


@dataclass
class Heard:
    """What a caller understood."""

    success: bool
    text: str
    code: str = ""


def request_of(face: str, message: str, model: str = "") -> tuple[str, dict]:
    if face == TOOL:
        return CHAT, {"message": message} | ({"model": model} if model else {})
    body = {"model": model or plans.MODEL, "messages": [{"role": "user", "content": message}], "stream": face == SSE}
    if face == SSE:
        body["stream_options"] = {"include_usage": True}
    return V1, body


def heard(face: str, answer: wire.Answer) -> Heard:
    """What an answer says. A failure must be told as such, with what to do."""
    if face == SSE and answer.status == 200:
        return heard_stream(answer)
    body = answer.json()
    if not isinstance(body, dict):
        raise wire.Broken("no object")
    if face == TOOL:
        # What was refused before it was read has no answer beside its failure.
        success, text = body["success"], body.get("answer")
        if success is not (answer.status == 200):
            raise wire.Broken(f"success is {success} with status {answer.status}: {body['error']}")
    else:
        success = answer.status == 200 and "error" not in body
        text = body["choices"][0]["message"]["content"] if success else ""
    return Heard(True, text) if success else Heard(False, text or "", told(body["error"]))


def told(error: dict) -> str:
    if not all(error.get(name) for name in ("code", "message", "hint", "request_id")):
        raise wire.Broken(f"a failure without words: {error}")
    return error["code"]


def heard_stream(answer: wire.Answer) -> Heard:
    events = read_events(answer.body.decode())
    last = events[-1] if events else ""
    values = [json.loads(event) for event in events if event != "[DONE]"]
    failures = [value["error"] for value in values if value.get("error")]
    choices = [choice for value in values for choice in value.get("choices") or []]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    if failures:
        if last == "[DONE]":
            raise wire.Broken("[DONE] after a failure")
        return Heard(False, text, told(failures[-1]))
    if last != "[DONE]":
        raise wire.Broken("neither a failure nor [DONE] ends the stream")
    if not any(choice.get("finish_reason") for choice in choices):
        raise wire.Broken("no finish_reason")
    return Heard(True, text)


def differ(got: str | bytes, wanted: str | bytes) -> str:
    """Where an answer is another one, for who looks at it."""
    at = next((at for at, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1]), min(len(got), len(wanted)))
    return f"differs at {at} of {len(wanted)}: {got[at : at + 60]!r} for {wanted[at : at + 60]!r}"
