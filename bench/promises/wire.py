"""A small HTTP/1.1 client that believes nothing.

A library would forgive what has to be seen here: a body that ends before its announced length, a
chunk without its end, a connection that breaks between two events. Each exchange has a connection of
its own, and `Broken` says what was wrong with its bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from dataclasses import dataclass

from upstream import HOST

READ = 1 << 16


class Broken(Exception):
    """The bytes of an answer are no whole HTTP message."""


@dataclass
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0

    def json(self) -> object:
        return json.loads(self.body)


def request(method: str, path: str, body: bytes | None = None, key: str = "", headers: dict[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Exchange:
    """One request and its answer, read piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.begin = time.monotonic()
        self.raw = bytearray()

    @classmethod
    async def open(cls, port: int, asked: bytes) -> Exchange:
        begin = time.monotonic()
        exchange = cls(*await asyncio.open_connection(HOST, port, limit=1 << 20))
        exchange.begin = begin
        try:
            exchange.writer.write(asked)
            await exchange.writer.drain()
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
        self.raw += piece
        return bool(piece)

    async def answer(self) -> Answer:
        """The whole answer, to the end of the connection."""
        while await self.more():
            pass
        answer = parse(bytes(self.raw))
        answer.seconds = time.monotonic() - self.begin
        return answer

    def close(self) -> None:
        self.writer.transport.abort()


def parse(raw: bytes) -> Answer:
    """The one answer that these bytes are."""
    if not raw:
        raise Broken("the connection ended without an answer")
    status = 100
    # Interim answers come before the one that counts.
    while 100 <= status < 200:
        head, end, raw = raw.partition(b"\r\n\r\n")
        if not end:
            raise Broken("the head of the answer is cut")
        first, *lines = head.decode("latin-1").split("\r\n")
        if not re.match(r"HTTP/1\.1 \d{3}", first):
            raise Broken(f"no HTTP answer: {first[:80]!r}")
        status = int(first[9:12])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        raw = dechunk(raw)
    elif len(raw) != int(headers.get("content-length", len(raw))):
        raise Broken(f"{len(raw)} bytes of {headers['content-length']}")
    return Answer(status, headers, raw)


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
    key: str = "",
    timeout: float = 30.0,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One exchange; `body` is bytes or what becomes JSON."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    async with asyncio.timeout(timeout):
        exchange = await Exchange.open(port, request(method, path, sent, key, {"Connection": "close"} | (headers or {})))
        try:
            return await exchange.answer()
        finally:
            exchange.close()


async def mute(port: int, asked: bytes) -> socket.socket:
    """The connection of a caller who asks, and whose system takes little of the answer as long as it is not read."""
    caller, loop = socket.socket(), asyncio.get_running_loop()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setblocking(False)
    await loop.sock_connect(caller, (HOST, port))
    await loop.sock_sendall(caller, asked)
    return caller
