"""What the upstream does with a question, worked out from the question itself.

A question is the JSON of a plan: `{"id": "f7", "fault": "cut"}`. Upstream and caller both work out
from it, with the id as the only source of chance, which bytes are sent and which answer they mean.
So the caller knows what is right without being told, and a run can be repeated.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from upstream import End, Endless

OPENAI, WEB_CHAT = "openai", "web-chat"
MODEL = "mirror-large"
POISON = "these words belong to nobody's question"
# Seconds; the gateway under faults is given these.
TIMEOUTS = {"CONNECT": 2.0, "FIRST_BYTE": 3.0, "IDLE": 2.0, "REQUEST": 6.0}


class Together(NamedTuple):
    """Waits until so many streams of a batch are open at once."""

    batch: str
    count: int


Step = bytes | float | End | Endless | Together
# What the caller may be told: that all is well and nothing else, either, or only a failure.
Verdict = Literal["must", "may", "never"]


@dataclass
class Script:
    """What the upstream does, and what it means."""

    steps: list[Step]
    verdict: Verdict
    text: str
    # What is left of the text without an event that is no JSON: `/api/chat` skips and counts such.
    rest: str | None = None


@dataclass
class Good:
    """A good answer before it is framed."""

    parts: list[bytes]
    media: str
    text: str
    # How many bytes of it make it complete.
    complete: int
    stream: bool
    rng: random.Random
    pieces: list[str] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


def raw_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def words(ident: str, count: int, turn: int = 1) -> list[str]:
    """The pieces of an answer: of many scripts, so that cuts fall within characters."""
    rng = random.Random(f"words of {ident}, {turn}")
    letters = ["ab", "é", "字", "🙂", "\\", '"', "\n", "data: ", "  ", "ü-", "[DONE]"]
    begin = [f"{ident}/{turn}: "]
    return begin + [f"{number}{rng.choice(letters)}{rng.choice(letters)} " for number in range(count - 2)] + ["end"]


def openai_parts(ident: str, pieces: list[str], usage: bool = True) -> list[bytes]:
    """The events of a stream as OpenAI writes them: the last but one with usage, `[DONE]` last."""

    def event(choices: list, **more: object) -> bytes:
        head = {"id": f"chatcmpl-{ident}", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        return b"data: " + raw_json(head | {"choices": choices} | more) + b"\n\n"

    def choice(delta: dict, finish: str | None = None) -> list:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    events = [event(choice({"role": "assistant", "content": ""}))]
    events += [event(choice({"content": piece})) for piece in pieces]
    events.append(event(choice({}, "stop")))
    if usage:
        spent = {"prompt_tokens": 3, "completion_tokens": len(pieces), "total_tokens": 3 + len(pieces)}
        events.append(event([], usage=spent))
    return [*events, b"data: [DONE]\n\n"]


def good(spec: dict, protocol: str, stream: bool, turn: int = 1, new: bool = True, usage: bool = True) -> Good:
    ident = spec["id"]
    rng = random.Random(f"faults of {ident}")
    pieces = words(ident, int(spec.get("words", 12)), turn)
    text = "".join(pieces)
    if protocol == WEB_CHAT:
        response = f"response-{ident}"

        def line(fields: dict) -> bytes:
            fields = {"responseId": response, "isSoftStop": False} | fields
            return raw_json({"result": {"response": fields} if new else fields}) + b"\n"

        parts = [raw_json({"result": {"conversation": {"conversationId": f"conversation-{ident}"}}}) + b"\n"] * new
        parts.append(line({"token": "Let me think.", "isThinking": True}))
        parts += [line({"token": piece, "isThinking": False}) for piece in pieces]
        parts.append(line({"token": "", "isThinking": False, "isSoftStop": True}))
        complete = sum(map(len, parts)) - 1
        parts.append(line({"modelResponse": {"message": text, "responseId": response}}))
        return Good(parts, "application/x-ndjson", text, complete, True, rng)
    if stream:
        parts = openai_parts(ident, pieces, usage)
        after = 2 if usage else 1
        complete = sum(map(len, parts[:-after])) - 2
        return Good(parts, "text/event-stream", text, complete, True, rng, pieces)
    message = {"role": "assistant", "content": text}
    whole = {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }
    body = raw_json(whole)
    return Good([body], "application/json", text, len(body), False, rng)


# --- framing ---


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


@dataclass
class Framed:
    """An answer's bytes on the wire, each piece with whether it is of the body."""

    pieces: list[tuple[bytes, bool]] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        return b"".join(piece for piece, _ in self.pieces)

    def sent(self, count: int) -> int:
        """How many bytes of the body are in the first so many of all."""
        body = 0
        for piece, is_body in self.pieces:
            part = min(len(piece), count)
            body += part * is_body
            count -= part
        return body


def slices(rng: random.Random, body: bytes) -> list[bytes]:
    """The body cut anywhere, also within characters."""
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice([0, 1, 5, 20])))
    edges = [0, *cuts, len(body)]
    return [body[a:b] for a, b in zip(edges, edges[1:]) if a < b]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def framed(answer: Good, length: int | None = None, *headers: str, body: bytes | None = None) -> Framed:
    """With a length (of its own, or as given), or in chunks where `length` is 0."""
    body = answer.body if body is None else body
    media = f"Content-Type: {answer.media}"
    if length == 0:
        pieces: list[tuple[bytes, bool]] = [(head("200 OK", media, "Transfer-Encoding: chunked", *headers), False)]
        for part in slices(answer.rng, body):
            pieces += [(b"%x\r\n" % len(part), False), (part, True), (b"\r\n", False)]
        return Framed([*pieces, (b"0\r\n\r\n", False)])
    announced = len(body) if length is None else length
    return Framed([(head("200 OK", media, f"Content-Length: {announced}", *headers), False), (body, True)])


def either(answer: Good) -> Framed:
    return framed(answer, 0 if answer.stream or answer.rng.random() < 0.5 else None)


def part_of(answer: Good, frame: Framed) -> tuple[bytes, Verdict]:
    """The beginning of an answer, cut anywhere but more often where it matters."""
    raw = frame.raw
    begin = len(frame.pieces[0][0])
    places = [
        lambda: answer.rng.randrange(len(raw)),
        lambda: answer.rng.randrange(begin),
        lambda: begin,
        lambda: len(raw) - answer.rng.randrange(1, min(60, len(raw))),
        lambda: min(begin + answer.complete + answer.rng.randrange(-40, 40), len(raw) - 1),
    ]
    at = max(answer.rng.choice(places)(), 1)
    return raw[:at], "may" if frame.sent(at) >= answer.complete else "never"


# --- faults ---

FAULTS: dict[str, Callable[[Good], Script]] = {}
# How often each is drawn.
WEIGHTS: dict[str, int] = {}


def fault(weight: int) -> Callable:
    def register(function: Callable[[Good], Script]) -> Callable[[Good], Script]:
        name = function.__name__.replace("_", "-")
        FAULTS[name], WEIGHTS[name] = function, weight
        return function

    return register


def answered(answer: Good, raw: bytes, verdict: Verdict, *then: Step) -> Script:
    return Script([raw, *then], verdict, answer.text)


def leave(answer: Good) -> Step:
    return answer.rng.choice([End.CLOSE, End.RESET])


@fault(12)
def none(answer: Good) -> Script:
    return answered(answer, either(answer).raw, "must")


@fault(30)
def cut(answer: Good) -> Script:
    raw, verdict = part_of(answer, either(answer))
    return answered(answer, raw, verdict, leave(answer))


@fault(10)
def hang(answer: Good) -> Script:
    raw, verdict = part_of(answer, either(answer))
    return answered(answer, raw, verdict, End.HANG)


@fault(2)
def silence(answer: Good) -> Script:
    return Script([End.HANG], "never", answer.text)


@fault(6)
def close_before_head(answer: Good) -> Script:
    return Script([answer.rng.choice([0, 0.05]), leave(answer)], "never", answer.text)


@fault(5)
def html(answer: Good) -> Script:
    page = b"<!doctype html><title>Log in</title><form>words of a page</form>" + b" " * answer.rng.randrange(2000)
    media = answer.rng.choice(["text/html; charset=utf-8", "application/json", answer.media])
    raw = head("200 OK", f"Content-Type: {media}", f"Content-Length: {len(page)}") + page
    return answered(answer, raw, "never")


@fault(5)
def garbage(answer: Good) -> Script:
    noise = answer.rng.randbytes(answer.rng.randrange(1, 5000))
    kind = answer.rng.randrange(3)
    if kind == 0:
        return answered(answer, noise, "never", End.CLOSE)
    if kind == 1:
        frame = framed(answer, None, body=noise)
    else:
        frame = framed(answer, 0, body=noise)
    return answered(answer, frame.raw, "never")


@fault(4)
def endless(answer: Good) -> Script:
    """Words, comments, one line, or header lines that never end: fast, or just fast enough."""
    opened = head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked")
    word = answer.parts[-4] if answer.stream else b" "
    repeated = answer.rng.choice([word, b": still here\n\n" if answer.stream else b"   \n", b"x" * 1000])
    pause = answer.rng.choice([0.0, 0.3, 0.3, 0.3])
    many = chunk(repeated * (1 if pause else 64))
    if answer.rng.random() < 0.15:
        return Script([b"HTTP/1.1 200 OK\r\n", Endless(b"X-More: 1\r\n", 0.1)], "never", answer.text)
    return Script([opened, Endless(many, pause)], "never", answer.text)


@fault(3)
def endless_after_its_end(answer: Good) -> Script:
    opened = head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked")
    begun = opened + chunk(answer.body)
    return Script([begun, Endless(chunk(b" \n"), 0.2)], "may", answer.text)


@fault(8)
def wrong_length(answer: Good) -> Script:
    """Too long, too short, none at all, or two that differ."""
    body = answer.body
    rng = answer.rng
    media = f"Content-Type: {answer.media}"
    kind = rng.randrange(5)
    if kind == 0:
        return answered(answer, framed(answer, len(body) + rng.randrange(1, 500)).raw, "may", End.CLOSE)
    if kind == 1:
        short = rng.randrange(1, len(body))
        cut_short = framed(answer, None, body=body[:short])
        announced = cut_short.raw.replace(b"Content-Length: %d" % short, b"Content-Length: %d" % len(body))
        return answered(answer, announced, "may" if short >= answer.complete else "never", End.CLOSE)
    if kind == 2:
        short = rng.randrange(1, len(body))
        return answered(answer, framed(answer, short).raw, "may" if short >= answer.complete else "never", End.CLOSE)
    if kind == 3:
        odd = rng.choice(["-5", "abc", "1e3", "0x10", "99999999999999999999999"])
        return answered(answer, head("200 OK", media, f"Content-Length: {odd}") + body, "may", End.CLOSE)
    two = head("200 OK", media, f"Content-Length: {len(body)}", f"Content-Length: {len(body) - 1}")
    return answered(answer, two + body, "may", End.CLOSE)


@fault(4)
def poison(answer: Good) -> Script:
    """A good answer, and behind it on the same connection one that nobody asked for."""
    forged = good({"id": "poison"}, WEB_CHAT if "ndjson" in answer.media else OPENAI, answer.stream)
    said = forged.body.replace(words("poison", 12)[0].strip().encode(), POISON.encode())
    behind = framed(forged, None, body=said).raw
    return answered(answer, either(answer).raw + behind, "may")


@fault(4)
def wrong_encoding(answer: Good) -> Script:
    """A coding that was not asked for: gzip is understood, others and bytes that are none of it are not."""
    coded: tuple[str, bytes, Verdict] = ("gzip", gzip.compress(answer.body), "may")
    wrong: list[tuple[str, bytes, Verdict]] = [(name, answer.body, "never") for name in ("br", "gzip", "deflate")]
    name, body, verdict = answer.rng.choice([coded, *wrong])
    return answered(answer, framed(answer, None, f"Content-Encoding: {name}", body=body).raw, verdict)


@fault(4)
def interim(answer: Good) -> Script:
    status = answer.rng.choice(["100 Continue", "102 Processing", "103 Early Hints", "101 Switching Protocols"])
    hints = ["Link: </x>; rel=preload"] if status.startswith("103") else []
    steps: list[Step] = [head(status, *hints), answer.rng.choice([0, 0.1])]
    verdict: Verdict = "never" if status.startswith("101") else "may"
    return Script([*steps, either(answer).raw, End.CLOSE], verdict, answer.text)


@fault(5)
def redirect(answer: Good) -> Script:
    status = answer.rng.choice(["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
    target = answer.rng.choice(["/trap", "/login?next=/trap", "//127.0.0.1/trap", "", "/v1/chat/completions"])
    body = answer.rng.choice([b"", b"<html>moved</html>"])
    raw = head(status, f"Location: {target}", "Content-Type: text/html", f"Content-Length: {len(body)}") + body
    return answered(answer, raw, "never")


@fault(16)
def status(answer: Good) -> Script:
    rng = answer.rng
    code = rng.choice([400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 425, 429, 429, 500, 500, 502, 503, 503, 504, 507, 529, 599])
    body, media = rng.choice(
        [
            (raw_json({"error": {"message": "out of order", "type": "server_error", "code": None}}), "application/json"),
            (b"<html><h1>Bad gateway</h1></html>", "text/html"),
            (b"", "text/plain"),
            (b"upstream connect error", "text/plain"),
            (b'{"error": {"mess', "application/json"),
            (raw_json({"detail": ["x" * 200_000]}), "application/json"),
            (answer.body, answer.media),
        ]
    )
    headers = [f"Content-Type: {media}", f"Content-Length: {len(body)}"]
    if code in (429, 503):
        headers.append(rng.choice(["Retry-After: 7", "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT", "Retry-After: soon"]))
    raw = head(f"{code} Trouble", *headers) + body
    if rng.random() < 0.2 and body:
        return answered(answer, raw[: len(raw) - rng.randrange(1, len(body) + 1)], "never", rng.choice([End.CLOSE, End.HANG]))
    return answered(answer, raw, "never")


@fault(6)
def bad_chunk(answer: Good) -> Script:
    """Chunked framing that goes wrong after some good chunks."""
    rng = answer.rng
    body = answer.body
    at = rng.randrange(len(body))
    opened = head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked")
    begun = opened + (chunk(body[:at]) if at else b"")
    rest = body[at:]
    short = max(len(rest) - 3, 1)
    # With each how much of the body it is fair to read.
    wrong, readable = rng.choice(
        [
            (b"zz\r\n" + rest + b"\r\n0\r\n\r\n", at),
            (b"-5\r\n" + rest + b"\r\n0\r\n\r\n", at),
            (b"fffffffffffffffff\r\n" + rest, at),
            (b"%x\r\n" % short + rest + b"\r\n0\r\n\r\n", at + short),
            (b"%x" % len(rest) + b";" * 20_000 + b"\r\n" + rest, len(body)),
            (b"\r\n\r\n" + rest, at),
        ]
    )
    return answered(answer, begun + wrong, "may" if readable >= answer.complete else "never", End.CLOSE)


@fault(8)
def broken_part(answer: Good) -> Script:
    """One event, or line, in the middle is no JSON: what it said is lost."""
    rng = answer.rng
    parts = list(answer.parts)
    at = rng.randrange(2, len(parts) - 4) if answer.stream else 0
    text = parts[at].rstrip(b"\n")
    end = parts[at][len(text) :]
    half = len(text) // 2
    parts[at] = rng.choice([text[:half], text[:half] + b"\xff\xfe" + text[half:], text[:-1], text[:half] + b"\x00" + text[half:]]) + end
    verdict: Verdict = "may" if answer.stream else "never"
    script = answered(answer, framed(answer, 0 if answer.stream else None, body=b"".join(parts)).raw, verdict)
    if "event-stream" in answer.media:
        # The first event names the role and says nothing.
        script.rest = "".join(answer.pieces[: at - 1] + answer.pieces[at:])
    return script


@fault(6)
def reported(answer: Good) -> Script:
    """A failure that the upstream tells of in the middle of a good answer."""
    error = raw_json({"error": {"message": "the model fell over", "type": "server_error", "code": answer.rng.choice([500, "oops", None])}})
    if not answer.stream:
        return answered(answer, framed(answer, None, body=error).raw, "never")
    at = answer.rng.randrange(len(answer.parts) - 3)
    sse = "event-stream" in answer.media
    parts = [*answer.parts[:at], b"data: " + error + b"\n\n" if sse else error + b"\n"]
    parts += answer.rng.choice([[], answer.parts[-1:]])
    return answered(answer, framed(answer, 0, body=b"".join(parts)).raw, "never")


@fault(6)
def ending(answer: Good) -> Script:
    """An orderly end of the body, and not of the answer, or one that says no more than it must."""
    if not answer.stream:
        value = answer.rng.choice([b"null", b"[]", b"{}", b'""', b'{"choices":[]}', b'{"choices":null}', b"7", b" "])
        return answered(answer, framed(answer, None, body=value).raw, "never")
    sse = "event-stream" in answer.media
    body = answer.body[: answer.complete] + b"\n\n"
    kind = answer.rng.randrange(3)
    if kind == 0:
        return answered(answer, framed(answer, 0, body=body).raw, "may")
    before = body.rstrip(b"\n").rpartition(b"\n")[0] + b"\n"
    if kind == 1:
        return answered(answer, framed(answer, 0, body=before).raw, "never")
    last = b"data: [DONE]\n\n" if sse else answer.parts[-1]
    return answered(answer, framed(answer, 0, body=before + last).raw, "may")


@fault(4)
def trickle(answer: Good) -> Script:
    """A good answer in small pieces with pauses."""
    raw = either(answer).raw
    size = max(len(raw) // 40, 1)
    steps: list[Step] = []
    for at in range(0, len(raw), size):
        steps += [raw[at : at + size], 0.02]
    return Script(steps, "must", answer.text)


@fault(2)
def late(answer: Good) -> Script:
    return Script([1.0, either(answer).raw], "must", answer.text)


@fault(6)
def odd_head(answer: Good) -> Script:
    rng = answer.rng
    body = answer.body
    media, length = f"Content-Type: {answer.media}", f"Content-Length: {len(body)}"
    good_one = [media, length]
    heads: list[tuple[bytes, Verdict]] = [
        (head("200 OK", *good_one, "X-Large: " + "x" * 200_000), "may"),
        (head("200 OK", *good_one, *[f"X-{number}: 1" for number in range(300)]), "may"),
        (head("200 OK", *good_one, "Bad Name: x"), "may"),
        (head("200 OK", *good_one, "X-Control: a\x01b"), "may"),
        (b"HTTP/1.0 200 OK\r\n" + f"{media}\r\n\r\n".encode(), "may"),
        (b"HTTP/2 200\r\n" + f"{media}\r\n{length}\r\n\r\n".encode(), "may"),
        (b"", "never"),
        (b"HTTP/1.1 abc\r\n\r\n", "never"),
        (b"HTTP/1.1 999 Odd\r\n" + f"{media}\r\n{length}\r\n\r\n".encode(), "never"),
        (head("200 OK", media), "may"),
        (head("200 OK", *good_one, "Transfer-Encoding: identity"), "may"),
        (b"ICY 200 OK\r\n\r\n", "never"),
        (f"HTTP/1.1 200 OK\n{media}\n{length}\n\n".encode(), "may"),
    ]
    raw, verdict = rng.choice(heads)
    return answered(answer, raw + body, verdict, End.CLOSE)


@fault(4)
def empty(answer: Good) -> Script:
    raw = answer.rng.choice(
        [
            head("204 No Content"),
            head("205 Reset", "Content-Length: 0"),
            head("304 Not Modified"),
            head("200 OK", f"Content-Type: {answer.media}", "Content-Length: 0"),
            head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
            head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked") + chunk(b"\n\n") + b"0\r\n\r\n",
        ]
    )
    return answered(answer, raw, "never")


def paced(answer: Good, spec: dict) -> Script:
    """A good answer, one part a write, with a pause between them."""
    pause = float(spec["pace"])
    opened = head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked")
    steps: list[Step] = [opened + chunk(answer.parts[0])]
    if "batch" in spec:
        steps.append(Together(spec["batch"], int(spec["of"])))
    for part in answer.parts[1:]:
        steps += [pause, chunk(part)]
    return Script([*steps, b"0\r\n\r\n"], "must", answer.text)


def script(spec: dict, protocol: str, stream: bool, turn: int = 1, new: bool = True, usage: bool = True) -> Script:
    """What the upstream does with this plan."""
    answer = good(spec, protocol, stream, turn, new, usage)
    if "pace" in spec:
        return paced(answer, spec)
    if "silence" in spec:
        return Script([float(spec["silence"]), framed(answer).raw], "must", answer.text)
    return FAULTS[spec.get("fault", "none")](answer)
