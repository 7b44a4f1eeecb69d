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

import bodies
import upstream
from upstream import End, Endless, Reply

OPENAI, WEB_CHAT = "openai", "web-chat"
MODEL = "mirror-large"
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
    head = {"id": f"chatcmpl-{ident}", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    said: list[tuple[dict, str | None]] = [({"role": "assistant", "content": ""}, None)]
    said += [*(({"content": piece}, None) for piece in pieces), ({}, "stop")]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in said]
    if usage:
        chunks.append(head | {"choices": [], "usage": bodies.USAGE})
    return [*(b"data: " + raw_json(chunk) + b"\n\n" for chunk in chunks), bodies.DONE]


def good(spec: dict, protocol: str, stream: bool, turn: int = 1, new: bool = True, usage: bool = True) -> Good:
    ident = spec["id"]
    rng = random.Random(f"faults of {ident}")
    pieces = words(ident, int(spec.get("words", 12)), turn)
    text = "".join(pieces)
    if protocol == WEB_CHAT:
        parts = bodies.web_chat_lines(text, f"response-{ident}", f"conversation-{ident}" if new else None)
        complete = sum(map(len, parts[:-1])) - 1
        return Good(parts, "application/x-ndjson", text, complete, True, rng)
    if stream:
        parts = openai_parts(ident, pieces, usage)
        after = 2 if usage else 1
        complete = sum(map(len, parts[:-after])) - 2
        return Good(parts, "text/event-stream", text, complete, True, rng, pieces)
    body = raw_json(bodies.completion(MODEL, text) | {"id": f"chatcmpl-{ident}"})
    return Good([body], "application/json", text, len(body), False, rng)


# --- framing ---


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def slices(rng: random.Random, body: bytes) -> list[bytes]:
    """The body cut anywhere, also within characters."""
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice([0, 1, 5, 20])))
    edges = [0, *cuts, len(body)]
    return [body[a:b] for a, b in zip(edges, edges[1:]) if a < b]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def sized(answer: Good, body: bytes | None = None, *headers: str, length: object = None) -> bytes:
    """With the body's length, or another one, in its head."""
    body = answer.body if body is None else body
    announced = len(body) if length is None else length
    return head("200 OK", f"Content-Type: {answer.media}", f"Content-Length: {announced}", *headers) + body


def opened(answer: Good) -> bytes:
    """The head of one in chunks."""
    return head("200 OK", f"Content-Type: {answer.media}", "Transfer-Encoding: chunked")


def chunked(answer: Good, body: bytes | None = None) -> bytes:
    parts = slices(answer.rng, answer.body if body is None else body)
    return opened(answer) + b"".join(map(chunk, parts)) + LAST_CHUNK


def either(answer: Good, body: bytes | None = None) -> bytes:
    """As such an answer may come."""
    return chunked(answer, body) if answer.stream or answer.rng.random() < 0.5 else sized(answer, body)


def judged(answer: Good, came: int) -> Verdict:
    """When so many bytes of the body came."""
    return "may" if came >= answer.complete else "never"


def content(body: bytes) -> int:
    """How many bytes of content are in the beginning of a chunked body."""
    size, line_end, rest = body.partition(b"\r\n")
    if not line_end or not size.strip(b"0"):
        return 0
    length = int(size, 16)
    return min(length, len(rest)) + content(rest[length + 2 :])


def part_of(answer: Good) -> tuple[bytes, Verdict]:
    """The beginning of an answer, cut anywhere but more often where it matters."""
    rng, raw = answer.rng, either(answer)
    begin = raw.index(b"\r\n\r\n") + 4
    places = [
        lambda: rng.randrange(len(raw)),
        lambda: rng.randrange(begin),
        lambda: begin,
        lambda: len(raw) - rng.randrange(1, min(60, len(raw))),
        lambda: min(begin + answer.complete + rng.randrange(-40, 40), len(raw) - 1),
    ]
    at = max(rng.choice(places)(), 1)
    body = raw[begin:at]
    return raw[:at], judged(answer, content(body) if b"chunked" in raw[:begin] else len(body))


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
    return answered(answer, either(answer), "must")


@fault(30)
def cut(answer: Good) -> Script:
    return answered(answer, *part_of(answer), leave(answer))


@fault(10)
def hang(answer: Good) -> Script:
    return answered(answer, *part_of(answer), End.HANG)


@fault(6)
def close_before_head(answer: Good) -> Script:
    return Script([answer.rng.choice([0, 0.05]), leave(answer)], "never", answer.text)


@fault(5)
def garbage(answer: Good) -> Script:
    noise = answer.rng.randbytes(answer.rng.randrange(1, 5000))
    frame = answer.rng.choice([None, sized, chunked])
    return answered(answer, frame(answer, noise), "never") if frame else answered(answer, noise, "never", End.CLOSE)


@fault(4)
def endless(answer: Good) -> Script:
    """Words, comments, one line, or header lines that never end: fast, or just fast enough."""
    word = answer.parts[-4] if answer.stream else b" "
    repeated = answer.rng.choice([word, b": still here\n\n" if answer.stream else b"   \n", b"x" * 1000])
    pause = answer.rng.choice([0.0, 0.3, 0.3, 0.3])
    many = chunk(repeated * (1 if pause else 64))
    if answer.rng.random() < 0.15:
        return Script([b"HTTP/1.1 200 OK\r\n", Endless(b"X-More: 1\r\n", 0.1)], "never", answer.text)
    return Script([opened(answer), Endless(many, pause)], "never", answer.text)


@fault(3)
def endless_after_its_end(answer: Good) -> Script:
    return Script([opened(answer) + chunk(answer.body), Endless(chunk(b" \n"), 0.2)], "may", answer.text)


@fault(8)
def wrong_length(answer: Good) -> Script:
    """Too long, too short, none at all, or two that differ."""
    body, rng = answer.body, answer.rng
    odd = ["-5", "abc", "1e3", "0x10", "99999999999999999999999"]

    def too_short() -> tuple[bytes, int]:
        return sized(answer, length=(short := rng.randrange(1, len(body)))), short

    def cut_short() -> tuple[bytes, int]:
        return sized(answer, body[: (short := rng.randrange(1, len(body)))], length=len(body)), short

    # With each how much of the body it is fair to read.
    wrong = [
        lambda: (sized(answer, length=len(body) + rng.randrange(1, 500)), len(body)),
        cut_short,
        too_short,
        lambda: (sized(answer, length=rng.choice(odd)), len(body)),
        lambda: (sized(answer, None, f"Content-Length: {len(body) - 1}"), len(body)),
    ]
    raw, readable = rng.choice(wrong)()
    return answered(answer, raw, judged(answer, readable), End.CLOSE)


@fault(4)
def poison(answer: Good) -> Script:
    """A good answer, and behind it on the same connection one that nobody asked for."""
    forged = good({"id": "poison"}, WEB_CHAT if "ndjson" in answer.media else OPENAI, answer.stream)
    return answered(answer, either(answer) + sized(forged), "may")


@fault(4)
def wrong_encoding(answer: Good) -> Script:
    """A coding that was not asked for: gzip is understood, others and bytes that are none of it are not."""
    coded: tuple[str, bytes, Verdict] = ("gzip", gzip.compress(answer.body), "may")
    wrong: list[tuple[str, bytes, Verdict]] = [(name, answer.body, "never") for name in ("br", "gzip", "deflate")]
    name, body, verdict = answer.rng.choice([coded, *wrong])
    return answered(answer, sized(answer, body, f"Content-Encoding: {name}"), verdict)


@fault(4)
def interim(answer: Good) -> Script:
    status = answer.rng.choice(["100 Continue", "102 Processing", "103 Early Hints", "101 Switching Protocols"])
    hints = ["Link: </x>; rel=preload"] if status.startswith("103") else []
    verdict: Verdict = "never" if status.startswith("101") else "may"
    return answered(answer, head(status, *hints), verdict, answer.rng.choice([0, 0.1]), either(answer), End.CLOSE)


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
    body = answer.body
    at = answer.rng.randrange(len(body))
    begun = opened(answer) + (chunk(body[:at]) if at else b"")
    rest = body[at:]
    short = max(len(rest) - 3, 1)
    # With each how much of the body it is fair to read.
    wrong, readable = answer.rng.choice(
        [
            (b"zz\r\n" + rest + b"\r\n" + LAST_CHUNK, at),
            (b"-5\r\n" + rest + b"\r\n" + LAST_CHUNK, at),
            (b"fffffffffffffffff\r\n" + rest, at),
            (b"%x\r\n" % short + rest + b"\r\n" + LAST_CHUNK, at + short),
            (b"%x" % len(rest) + b";" * 20_000 + b"\r\n" + rest, len(body)),
            (b"\r\n\r\n" + rest, at),
        ]
    )
    return answered(answer, begun + wrong, judged(answer, readable), End.CLOSE)


@fault(8)
def broken_part(answer: Good) -> Script:
    """One event, or line, in the middle is no JSON: what it said is lost."""
    rng, parts = answer.rng, list(answer.parts)
    at = rng.randrange(2, len(parts) - 4) if answer.stream else 0
    text = parts[at].rstrip(b"\n")
    half, end = len(text) // 2, parts[at][len(text) :]
    broken = [text[:half], text[:half] + b"\xff\xfe" + text[half:], text[:-1], text[:half] + b"\x00" + text[half:]]
    parts[at] = rng.choice(broken) + end
    script = answered(answer, either(answer, b"".join(parts)), "may" if answer.stream else "never")
    if "event-stream" in answer.media:
        # The first event names the role and says nothing.
        script.rest = "".join(answer.pieces[: at - 1] + answer.pieces[at:])
    return script


@fault(6)
def reported(answer: Good) -> Script:
    """A failure that the upstream tells of in the middle of a good answer."""
    code = answer.rng.choice([500, "oops", None])
    error = raw_json({"error": {"message": "the model fell over", "type": "server_error", "code": code}})
    if not answer.stream:
        return answered(answer, sized(answer, error), "never")
    told = b"data: " + error + b"\n\n" if "event-stream" in answer.media else error + b"\n"
    before = answer.parts[: answer.rng.randrange(len(answer.parts) - 3)]
    after = answer.rng.choice([[], answer.parts[-1:]])
    return answered(answer, chunked(answer, b"".join([*before, told, *after])), "never")


@fault(6)
def ending(answer: Good) -> Script:
    """An orderly end of the body, and not of the answer, or one that says no more than it must."""
    if not answer.stream:
        value = answer.rng.choice([b"null", b"[]", b"{}", b'""', b'{"choices":[]}', b'{"choices":null}', b"7", b" "])
        return answered(answer, sized(answer, value), "never")
    complete = answer.body[: answer.complete] + b"\n\n"
    before = complete.rstrip(b"\n").rpartition(b"\n")[0] + b"\n"
    last = b"data: [DONE]\n\n" if "event-stream" in answer.media else answer.parts[-1]
    endings: list[tuple[bytes, Verdict]] = [(complete, "may"), (before, "never"), (before + last, "may")]
    body, verdict = answer.rng.choice(endings)
    return answered(answer, chunked(answer, body), verdict)


@fault(4)
def trickle(answer: Good) -> Script:
    """A good answer in small pieces with pauses."""
    raw = either(answer)
    size = max(len(raw) // 40, 1)
    pieces = (raw[at : at + size] for at in range(0, len(raw), size))
    return Script([step for piece in pieces for step in (piece, 0.02)], "must", answer.text)


@fault(2)
def late(answer: Good) -> Script:
    return Script([1.0, either(answer)], "must", answer.text)


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


def canned(reply: Reply) -> Callable[[Good], Script]:
    """One of those that the client tests have, in none of which an answer comes."""
    is_cut = reply.length not in (None, len(reply.body))
    steps = list(reply.parts) if reply.status is None else [reply.head + reply.body, *([End.CLOSE] if is_cut else [])]
    return lambda answer: Script(steps, "never", answer.text)


for name in sorted(upstream.FAULTS.keys() - FAULTS.keys()):
    FAULTS[name], WEIGHTS[name] = canned(upstream.FAULTS[name]), 2


def paced(answer: Good, spec: dict) -> Script:
    """A good answer, one part a write, with a pause between them."""
    pause = float(spec["pace"])
    steps: list[Step] = [opened(answer) + chunk(answer.parts[0])]
    if "batch" in spec:
        steps.append(Together(spec["batch"], int(spec["of"])))
    for part in answer.parts[1:]:
        steps += [pause, chunk(part)]
    return Script([*steps, LAST_CHUNK], "must", answer.text)


def script(spec: dict, protocol: str, stream: bool, turn: int = 1, new: bool = True, usage: bool = True) -> Script:
    """What the upstream does with this plan."""
    answer = good(spec, protocol, stream, turn, new, usage)
    if "pace" in spec:
        return paced(answer, spec)
    if "silence" in spec:
        return Script([float(spec["silence"]), sized(answer)], "must", answer.text)
    return FAULTS[spec.get("fault", "none")](answer)
