"""Many streams at once, and long ones: no byte is lost, and none is hoarded.

STREAMS says how many run at the same time, by default a thousand. Callers and upstream are raw
sockets of one event loop each, since a thousand SDKs would measure themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
from collections.abc import Callable
from pathlib import Path

from bodies import DONE, chunk, event, text_chunks
from conftest import Service, eventually, provider_settings
from upstream import Reply, Upstream

Make = Callable[..., Service]

STREAMS = int(os.environ.get("STREAMS", "1000"))
MODEL = "mirror-small"
MIB = 1 << 20
# How much the service may grow while answers flow through it.
GROWTH = 4 * MIB


def memory(gateway: Service) -> int:
    """What the service has in memory now, in bytes."""
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, status
    return int(found[1]) << 10


def descriptors(gateway: Service) -> int:
    assert gateway.process is not None
    return len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir()))


async def ask(
    gateway: Service, name: str, receive_buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a question whose answer streams, and reads the head of the answer."""
    body = json.dumps(
        {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": name}]}
    ).encode()
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=64 << 10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n"
    head += f"Authorization: Bearer {gateway.key}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def read_head(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"transfer-encoding: chunked" in head.lower(), head


async def read_piece(reader: asyncio.StreamReader) -> bytes:
    """One chunk of HTTP; empty at the end."""
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:size]


async def read_body(reader: asyncio.StreamReader) -> bytes:
    await read_head(reader)
    pieces = []
    while piece := await read_piece(reader):
        pieces.append(piece)
    return b"".join(pieces)


def without_heartbeats(body: bytes) -> bytes:
    return re.sub(rb"(?m)^:[^\n]*\n\n", b"", body)


def test_many_streams_at_once_are_exact_to_the_byte(service: Make, provider: Upstream):
    # The service inherits this.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(4 * STREAMS + 200, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    gateway = service(**provider_settings(provider))
    # All of them are open at the same time: none goes on before the last one has begun.
    gate = provider.gate()
    sent: dict[bytes, bytes] = {}
    for number in range(STREAMS):
        chunks = text_chunks(MODEL, f"stream {number}: 位元組 " + "*" * 50)
        events = [event({**part, "id": f"chatcmpl-{number}"}) for part in chunks]
        reply = Reply.stream(*events[:3], gate, *events[3:], DONE)
        sent[b'"chatcmpl-%d"' % number] = reply.body
        provider.replies.append(reply)

    async def run() -> list[bytes]:
        async def one(number: int) -> bytes:
            reader, writer = await ask(gateway, f"question {number}")
            body = await read_body(reader)
            writer.close()
            return body

        tasks = [asyncio.create_task(one(number)) for number in range(STREAMS)]
        await asyncio.to_thread(gate.reached, STREAMS, 60.0)
        gate.open()
        return await asyncio.gather(*tasks)

    got = [without_heartbeats(body) for body in asyncio.run(run())]
    assert len(got) == STREAMS
    for body in got:
        name = re.search(rb'"chatcmpl-\d+"', body)
        assert name, body
        assert sent.pop(name[0]) == body
    assert not sent
    assert len(provider.asked()) == STREAMS, "a question was repeated"
    assert memory(gateway) <= 128 * MIB
    # Those to the upstream are kept for the next questions, those of callers that left are not.
    eventually(
        lambda: descriptors(gateway) <= STREAMS + 100, 10, "the callers' connections are gone"
    )


def test_a_caller_that_leaves_frees_the_upstream(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider))
    ticking = [
        part for tick in range(1000) for part in (event(chunk(MODEL, {"content": "."})), 0.02)
    ]
    provider.replies.append(Reply.stream(*ticking))

    async def run() -> None:
        reader, writer = await ask(gateway, "never mind")
        await read_head(reader)
        await read_piece(reader)
        writer.close()

    asyncio.run(run())
    eventually(lambda: provider.abandoned == 1, 5, "the upstream is free")


def long_stream(size: int) -> Reply:
    filler = event(chunk(MODEL, {"content": "x" * 4000}))
    opening = event(chunk(MODEL, {"role": "assistant", "content": ""}))
    count = size // len(filler)
    return Reply.stream(opening, *[filler] * count, event(chunk(MODEL, {}, "stop")), DONE)


def test_a_long_answer_flows_through_and_is_not_kept(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider))

    async def flow(reply: Reply) -> int:
        """The most memory that the service had while this answer went through it."""
        provider.replies.append(reply)
        reader, writer = await ask(gateway, "a long answer")
        await read_head(reader)
        received = count = highest = 0
        while piece := await read_piece(reader):
            received += len(piece)
            count += 1
            if count % 50 == 0:
                highest = max(highest, memory(gateway))
        writer.close()
        assert received >= len(reply.body)
        return highest

    async def run() -> tuple[int, int]:
        start = await flow(long_stream(MIB))
        return start, max([await flow(long_stream(10 * MIB)) for _ in range(3)])

    start, highest = asyncio.run(run())
    assert highest - start <= GROWTH, f"{(highest - start) / MIB:.1f} MiB of the answer are kept"


def test_callers_that_do_not_read_hold_the_upstream_back(service: Make, provider: Upstream):
    gateway = service(**provider_settings(provider))
    callers, reply = 4, long_stream(6 * MIB)

    async def run() -> tuple[int, int]:
        provider.replies.append(long_stream(MIB))
        reader, writer = await ask(gateway, "to warm up")
        await read_body(reader)
        writer.close()
        start = memory(gateway)
        provider.replies.extend([reply] * callers)
        open_ = [await ask(gateway, "never read", receive_buffer=4096) for _ in range(callers)]
        # Until nothing moves any more, which is when all the buffers on the way are full.
        highest, still = start, 0
        while still < 10:
            await asyncio.sleep(0.05)
            now = memory(gateway)
            still = 0 if now > highest else still + 1
            highest = max(highest, now)
        bodies = await asyncio.gather(*(read_body(reader) for reader, _ in open_))
        for _, writer in open_:
            writer.close()
        assert [without_heartbeats(body) == reply.body for body in bodies] == [True] * callers
        return start, highest

    start, highest = asyncio.run(run())
    assert highest - start <= GROWTH, (
        f"{(highest - start) / MIB:.1f} MiB are waiting in the service"
    )
