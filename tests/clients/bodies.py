"""The bodies that an upstream answers with, in each protocol that it speaks.

Answers are a function of the question, so a test can tell whose turn it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import struct
from email.parser import BytesParser
from email.policy import HTTP

CREATED = 1_760_000_000
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
# No client knows this field, and each must get it as it is.
EXTRA = {"kept": [1, 2.50, None], "text": "多餘"}
CITIES = ["台北", "Paris", "Zürich"]
DONE = b"data: [DONE]\n\n"


def answer(turn: int, question: str) -> str:
    """What an upstream says; the test compares with the same function."""
    return f"Turn {turn}: 你問的是「{question}」 \N{ROBOT FACE} done"


def raw_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def pieces(whole, size: int) -> list:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


# --- OpenAI ---


def listed(model: str) -> dict:
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "fake"}


def said(message: dict) -> str:
    """The text of a message, whose content may be text and images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def called(tools: list[dict], count: int) -> list[dict]:
    """Calls of the tools offered, the first one again where there are too few."""
    names = [tool["function"]["name"] for tool in tools]
    return [
        {
            "id": f"call_{number}_{secrets.token_hex(4)}",
            "type": "function",
            "function": {
                "name": names[number % len(names)],
                "arguments": json.dumps({"city": CITIES[number]}, ensure_ascii=False),
            },
        }
        for number in range(count)
    ]


def completion(model: str, text: str | None, calls: list[dict] | None = None) -> dict:
    message = {"role": "assistant", "content": text, "refusal": None, "x_message": EXTRA}
    if calls:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-" + secrets.token_hex(8), "object": "chat.completion"}
    head |= {"created": CREATED, "model": model, "system_fingerprint": "fp_fake"}
    return {**head, "choices": [choice], "usage": USAGE, "x_answer": EXTRA}


def chunk(model: str, delta: dict | None = None, finish: str | None = None) -> dict:
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": CREATED}
    head |= {"model": model, "system_fingerprint": "fp_fake", "x_chunk": EXTRA}
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {**head, "choices": [choice]}


def text_chunks(model: str, text: str) -> list[dict]:
    deltas: list[dict] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": part} for part in pieces(text, 5)]
    return [*(chunk(model, delta) for delta in deltas), chunk(model, {}, "stop")]


# What small mirrors leave out of their chunks, and some client or other cannot do without.
LEFT_OUT = ("role", "finish_reason", "index", "delta", "head")


def careless_chunks(model: str, text: str, left_out: str) -> list[dict]:
    chunks = text_chunks(model, text)
    match left_out:
        case "role":
            chunks.pop(0)
        case "finish_reason":
            # The stream ends with `[DONE]` all the same.
            chunks.pop()
        case "index":
            for part in chunks:
                del part["choices"][0]["index"]
        case "delta":
            chunks[-1]["choices"][0]["delta"] = None
        case "head":
            chunks = [{"choices": part["choices"]} for part in chunks]
        case _:
            raise AssertionError(f"nobody leaves this out: {left_out}")
    return chunks


def tool_chunks(model: str, calls: list[dict], interleaved: bool) -> list[dict]:
    """Tool calls as OpenAI streams them: id, type and name come with the first piece alone."""
    streams = []
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opening = {**call, "index": index, "function": {"name": name, "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": part}} for part in pieces(arguments, 4)]
        streams.append([opening, *rest])
    if interleaved:
        longest = max(map(len, streams))
        deltas = [stream[n] for n in range(longest) for stream in streams if n < len(stream)]
    else:
        deltas = [delta for stream in streams for delta in stream]
    start: dict = {"role": "assistant", "content": None}
    pieces_of_calls: list[dict] = [{"tool_calls": [delta]} for delta in deltas]
    if len(calls) == 1:
        # A single call begins together with the message, and only then.
        start |= pieces_of_calls.pop(0)
    return [
        *(chunk(model, delta) for delta in (start, *pieces_of_calls)),
        chunk(model, {}, "tool_calls"),
    ]


def event(value: dict) -> bytes:
    return b"data: " + raw_json(value) + b"\n\n"


def mess(chunks: list[dict]) -> list[bytes]:
    """The same stream as legal as any, but written in every way that some client stumbles over."""
    events = [b"retry: 3000\r\n\r\n", b": hello\r\n\r\n"]
    for number, value in enumerate(chunks):
        text = raw_json(value)
        match number % 4:
            case 0:
                written = b"event: message\r\nid: %d\r\ndata: %s\r\n\r\n" % (number, text)
            case 1:
                written = b": a comment\r\ndata:" + text + b"\r\n\r\n"
            case 2:
                # Two lines of data make one event, joined by a line break.
                head, rest = text.split(b", ", 1)
                written = b"data: %s,\r\ndata: %s\r\n\r\n" % (head, rest)
            case _:
                written = b"data: " + text + b"\r\n\r\n"
        events.append(written)
    bare = {name: value for name, value in chunks[0].items() if name != "choices"}
    events.insert(4, event(bare))
    events.insert(6, event({**bare, "choices": None}))
    model = chunks[0]["model"]
    return [*events, event(chunk(model)), event({**bare, "usage": {"total_tokens": 8}}), DONE]


def embeddings(body: dict) -> dict:
    given = body["input"]
    data = []
    for index, text in enumerate([given] if isinstance(given, str) else given):
        vector: list[float] | str = [float(len(text)), 0.5, -0.25]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def transcription(media_type: str, raw: bytes) -> dict:
    """Tells what file came, which is all that a test can want to know."""
    head = f"Content-Type: {media_type}\r\n\r\n".encode()
    form = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + raw).iter_parts():
        name = part.get_param("name", header="content-disposition")
        form[name] = (part.get_filename(), part.get_payload(decode=True))
    filename, content = form["file"]
    text = f"{filename}: {len(content)} bytes, {hashlib.sha256(content).hexdigest()}"
    return {"text": text, "model": form["model"][1].decode()}


# --- a web chat ---


def web_chat_lines(text: str, response: str, conversation: str | None) -> list[bytes]:
    """A turn of a conversation, one that is new where its identifier is given."""

    def line(fields: dict) -> dict:
        # In a new one the fields stand under `response`, later directly under `result`.
        fields = {"responseId": response, "isSoftStop": False, **fields}
        return {"result": {"response": fields} if conversation else fields}

    lines = [{"result": {"conversation": {"conversationId": conversation}}}] if conversation else []
    lines.append(line({"token": "Let me think.", "isThinking": True}))
    lines += [line({"token": part, "isThinking": False}) for part in pieces(text, 5)]
    lines.append(line({"token": "", "isThinking": False, "isSoftStop": True}))
    lines.append(line({"modelResponse": {"message": text, "responseId": response}}))
    return [raw_json(item) + b"\n" for item in lines]


# --- Anthropic's Messages ---


def calls_in_words(*calls: tuple[str, dict]) -> str:
    """An answer of a model that was offered tools in words, as it calls some of them."""
    blocks = [
        f"```tool_call\n{raw_json({'name': name, 'arguments': arguments}).decode()}\n```"
        for name, arguments in calls
    ]
    return "Let me look.\n\n" + "\n".join(blocks)


def listed_by_anthropic(model: str) -> dict:
    return {"type": "model", "id": model, "display_name": model.title(), "max_tokens": 32000}


def tool_uses(tools: list[dict], count: int) -> list[dict]:
    """Calls of the tools offered, as `called` makes them."""
    offered = [{"function": {"name": tool["name"]}} for tool in tools]
    return [
        {
            "type": "tool_use",
            "id": "toolu_" + call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in called(offered, count)
    ]


def message(model: str, blocks: list[dict]) -> dict:
    head = {"id": "msg_" + secrets.token_hex(8), "type": "message", "role": "assistant"}
    stop = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    head |= {"model": model, "content": blocks}
    usage = {"input_tokens": 3, "output_tokens": 5}
    return {**head, "stop_reason": stop, "stop_sequence": None, "usage": usage}


def text_block(text: str) -> dict:
    return {"type": "text", "text": text}


def thinking_block(thought: str) -> dict:
    return {"type": "thinking", "thinking": thought, "signature": "c2lnbmVk"}


def message_events(whole: dict) -> list[bytes]:
    """The same message as Anthropic streams it."""
    begun = {**whole, "content": [], "stop_reason": None}
    told: list[dict] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(whole["content"]):
        empty, deltas = block_deltas(block)
        told.append({"type": "content_block_start", "index": index, "content_block": empty})
        told += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        told.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    told += [
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [b"event: %s\n" % part["type"].encode() + event(part) for part in told]


def block_deltas(block: dict) -> tuple[dict, list[dict]]:
    """How a block begins, and the pieces that it goes on with."""
    match block["type"]:
        case "text":
            parts = pieces(block["text"], 5)
            return text_block(""), [{"type": "text_delta", "text": part} for part in parts]
        case "thinking":
            parts = pieces(block["thinking"], 5)
            thoughts = [{"type": "thinking_delta", "thinking": part} for part in parts]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**thinking_block(""), "signature": ""}, [*thoughts, signed]
    parts = ["", *pieces(json.dumps(block["input"], ensure_ascii=False), 4)]
    deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return {**block, "input": {}}, deltas


# --- what came out at the other end ---


def read_events(stream: str) -> list[str]:
    """The data of each event, from a stream that is as plain as the weakest client needs it.

    Line feeds alone, a blank line after each event, one line of data or one comment in each, and
    no other field."""
    assert "\r" not in stream
    assert stream.endswith("\n\n")
    events = stream.removesuffix("\n\n").split("\n\n")
    assert not [item for item in events if not re.fullmatch(r"(: ?.*|:|data: .+)", item)], stream
    return [item.removeprefix("data: ") for item in events if not item.startswith(":")]
