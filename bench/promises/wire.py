"""A small HTTP/1.1 client that believes nothing.

A library would forgive what has to be seen here: a body that ends before its announced length, a
chunk without its end, a connection that breaks between two events. Each exchange has a connection of
its own, and `Broken` says what was wrong with its bytes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

HOST = "127.0.0.1"
READ = 1 << 16


class Broken(Exception):
    """The bytes of an answer are no whole HTTP message."""


@dataclass
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    first_byte: float
    interim: list[int] = field(default_factory=list)

    def json(self) -> object:
        return json.loads(self.body)


class Exchange:
    """One request and its answer, read piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.begin = time.monotonic()
        self.first_byte = 0.0
        self.raw = bytearray()

    @classmethod
    async def open(
        cls,
        port: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Exchange:
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
        exchange = cls(reader, writer)
        exchange.begin = begin
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}", "Connection: close"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        try:
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))
            await writer.drain()
        except ConnectionError:
            # An answer may be there all the same: one that refuses the rest of a large body.
            pass
        return exchange

    async def more(self) -> bool:
        """Reads what is there; false at the end of the connection."""
        try:
            piece = await self.reader.read(READ)
        except ConnectionError as error:
            raise Broken(f"the connection broke: {error!r}") from None
        if piece and not self.first_byte:
            self.first_byte = time.monotonic() - self.begin
        self.raw += piece
        return bool(piece)

    async def answer(self) -> Answer:
        """The whole answer, to the end of the connection."""
        while await self.more():
            pass
        return parse(bytes(self.raw), time.monotonic() - self.begin, self.first_byte)

    def close(self) -> None:
        self.writer.transport.abort()


def parse(raw: bytes, seconds: float = 0.0, first_byte: float = 0.0) -> Answer:
    """The one answer that these bytes are."""
    if not raw:
        raise Broken("the connection ended without an answer")
    interim: list[int] = []
    while True:
        head, end, rest = raw.partition(b"\r\n\r\n")
        if not end:
            raise Broken("the head of the answer is cut")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if version != "HTTP/1.1" or not status[:3].isdigit():
            raise Broken(f"no HTTP answer: {first[:80]!r}")
        if not 100 <= int(status[:3]) < 200:
            break
        interim.append(int(status[:3]))
        raw = rest
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = dechunk(rest)
    elif "content-length" in headers:
        body = rest
        if len(body) != int(headers["content-length"]):
            raise Broken(f"{len(body)} bytes of {headers['content-length']}")
    else:
        body = rest
    return Answer(int(status[:3]), headers, body, seconds, first_byte, interim)


def dechunk(raw: bytes) -> bytes:
    """The content of a chunked body, which must be whole."""
    parts, at = [], 0
    while True:
        end = raw.find(b"\r\n", at)
        if end < 0:
            raise Broken("the body is cut between two chunks")
        size = int(raw[at:end].split(b";")[0], 16)
        at = end + 2
        if raw[at + size : at + size + 2] != b"\r\n":
            raise Broken("the body is cut within a chunk")
        if size == 0:
            if len(raw) != at + 2:
                raise Broken("bytes follow the end of the body")
            return b"".join(parts)
        parts.append(raw[at : at + size])
        at += size + 2


async def call(
    port: int,
    method: str,
    path: str,
    body: object = None,
    key: str | None = None,
    timeout: float = 30.0,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One exchange; `body` is bytes or what becomes JSON."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    credentials = {"Authorization": f"Bearer {key}"} if key else {}
    async with asyncio.timeout(timeout):
        exchange = await Exchange.open(port, method, path, sent, credentials | (headers or {}))
        try:
            return await exchange.answer()
        finally:
            exchange.close()


def events(body: bytes) -> list[bytes]:
    """The data of server-sent events, without comments."""
    blocks = body.split(b"\n\n")
    if blocks.pop():
        raise Broken("the last event is cut")
    lines = [block for block in blocks if not block.startswith(b":")]
    if bad := [line for line in lines if not line.startswith(b"data: ") or b"\n" in line]:
        raise Broken(f"no `data:` line: {bad[0][:80]!r}")
    return [line.removeprefix(b"data: ") for line in lines]
