"""The service, as it is run, among clients that mean no good or are too many: those get what they deserve, others are served.

`STORM=10000` has so many connections come back at once instead of a few hundred.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jwt
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.services import NO_REDIS, started
from tests.web.sockets import Socket, connected

STORM = int(os.environ.get("STORM", "300"))
AT_ONCE = 100  # handshakes of this one process that are under way
CONNECTIONS = ("server__max_connections", "realtime__max_connections", "realtime__max_connections_per_address")
MAX_VALUE = 64 << 10
MAX_FRAME = MAX_VALUE + (64 << 10)
MASK = b"\x00\x00\x00\x00"
TEXT, BINARY, CLOSE, PING, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0x0
SECRET = "a secret that is long enough for its hash"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, int]]:
    """The process of the worker, and its port."""
    settings = {
        "server__max_value_size": str(MAX_VALUE),
        "realtime__max_errors": "50",
        "realtime__queue_size": "256KiB",
        "realtime__send_timeout": "2s",
        **dict.fromkeys(CONNECTIONS, str(max(10_000, 2 * STORM + 100))),  # some of the first may not be gone yet
    }
    with started(tmp_path_factory.mktemp("hostile"), **NO_REDIS, **settings) as (running, url):
        yield running.child("cachesvc.node"), int(url.rsplit(":", 1)[1])
        assert not [line for line in running.lines if "Traceback" in line]


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """A frame as it goes over the wire, right or wrong."""
    size, mask = len(payload), 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | bits | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + (MASK if masked else b"") + payload


PIECE = b"x" * 8_000
CLOSED_FOR = {
    "too long": (1009, frame(TEXT, b" " * (MAX_FRAME + 1))),
    "too long, in pieces": (
        1009,
        frame(TEXT, PIECE, fin=False) + frame(CONTINUATION, PIECE, fin=False) * (MAX_FRAME // len(PIECE) + 1),
    ),
    "longer than there is": (1009, frame(TEXT, b"")[:1] + b"\xff" + (1 << 62).to_bytes(8, "big") + MASK),
    "too many pieces": (4501, frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 2_000),
    "not masked": (1002, frame(TEXT, b"{}", masked=False)),
    "of no kind": (1002, frame(0x5, b"{}")),
    "with bits of an extension": (1002, frame(TEXT, b"{}", bits=0x40)),
    "a piece of nothing": (1002, frame(CONTINUATION, b"{}")),
    "a new message within one": (1002, frame(TEXT, b"{", fin=False) + frame(TEXT, b"}")),
    "a ping in pieces": (1002, frame(PING, b"", fin=False)),
    "a ping too long": (1002, frame(PING, b"x" * 126)),
    "no text": (1007, frame(TEXT, b"\xff\xfe")),
    "closed by a code of nobody's": (1002, frame(CLOSE, (999).to_bytes(2, "big"))),
}
ANSWERED = {
    "binary": frame(BINARY, b'{"type":"ping"}'),
    "nothing": frame(TEXT, b""),
    "half": frame(TEXT, b'{"type":"ping"'),
    "deep": frame(TEXT, b'{"type":"ping","payload":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001),
    "deep in pieces": frame(TEXT, b"[" * 20_000, fin=False) + frame(CONTINUATION, b"[" * 20_000),
    "a number of ten thousand digits": frame(TEXT, b'{"type":"cache:get","payload":{"key":' + b"9" * 10_000 + b"}}"),
    "many members": frame(
        TEXT, b'{"type":"ping","payload":{' + b",".join(b'"%d":1' % n for n in range(9_000)) + b',"timestamp":1}}'
    ),
}


async def sent(port: int, data: bytes) -> tuple[int, str]:
    """Open a connection, send these bytes over it, and wait for its end."""
    async with connected(port) as socket:
        socket.connection.transport.write(data)
        return await socket.closed()


async def test_what_is_no_frame_closes_and_what_is_no_message_is_answered(service: tuple[psutil.Process, int]) -> None:
    _, port = service
    async with connected(port) as other:
        for name, (code, data) in CLOSED_FOR.items():
            assert (await sent(port, data))[0] == code, name
        async with connected(port) as socket:
            for name, data in ANSWERED.items():
                socket.connection.transport.write(data)
                said = await socket.next()
                assert (said["type"], said["payload"]["code"]) == ("error", "BAD_MESSAGE"), name
            assert (await socket.ask("ping", {}))["type"] == "pong"
        assert (await other.ask("ping", {}))["type"] == "pong"


async def test_a_flood_is_closed_and_holds_little(service: tuple[psutil.Process, int]) -> None:
    worker, port = service
    async with connected(port) as other:
        before = worker.memory_info().rss
        async with connected(port) as faulty:
            faulty.connection.transport.write(frame(TEXT, b"{") * 20_000)
            assert (await faulty.closed())[0] == 4509
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /v1/ws/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        # one that asks for much and reads nothing: it is not read from any more, and dropped in its time
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        asked = frame(TEXT, b'{"type":"ping","requestId":"%s"}' % (b"r" * 150))
        try:
            async with asyncio.timeout(60):
                while True:
                    writer.write(asked * 1_000)
                    await writer.drain()
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            writer.close()
        assert (await other.ask("ping", {}))["type"] == "pong"
        assert worker.memory_info().rss - before < 64 << 20


async def test_wrong_order(tmp_path: Path) -> None:
    settings = {
        "auth__mode": "jwt",
        "auth__algorithms": "HS256",
        "auth__secrets": SECRET,
        "auth__issuer": "us",
        "auth__audience": "cache",
    }
    with started(tmp_path, **NO_REDIS, **settings) as (_, url):
        claims = {"sub": "ann", "iss": "us", "aud": "cache", "exp": 4_000_000_000, "scope": "admin"}
        token = jwt.encode(claims, SECRET)
        async with connected(int(url.rsplit(":", 1)[1]), established=False) as socket:
            for kind, payload in (
                ("cache:get", {"key": "a"}),
                ("subscribe", {"resources": ["task"]}),
                ("recovery:request", {"lastSequenceNumber": 0}),
                ("authz:check", {"resource": "task:1", "action": "read"}),
            ):
                assert (await socket.ask(kind, payload))["payload"]["code"] == "UNAUTHENTICATED", kind
            await socket.send("auth", token=token, userId="ann")
            assert (await socket.next())["type"] == "connection:established"
            for asked in (
                {"lastSequenceNumber": 10, "missingRanges": [{"start": 9, "end": 3}]},
                {"lastSequenceNumber": 10, "missingRanges": [{"start": 1, "end": 5}, {"start": 4, "end": 8}]},
                {"lastSequenceNumber": 10**6},
            ):
                said = await socket.ask("recovery:request", asked)
                code = said["payload"].get("code") or said["payload"]["error"]["code"]
                assert code in ("BAD_MESSAGE", "RECOVERY_UNAVAILABLE"), asked
            assert (await socket.ask("unsubscribe", {"resources": ["never"]}))["type"] == "ack"
            await socket.send("auth", token="x", userId="ann")
            assert (await socket.closed())[0] == 4500


async def test_too_many_connections(tmp_path: Path) -> None:
    settings = {"realtime__max_connections": "3", "realtime__max_connections_per_address": "2"}
    with started(tmp_path, **NO_REDIS, **settings) as (_, url):
        port = int(url.rsplit(":", 1)[1])
        async with connected(port) as first, connected(port) as second:
            async with connected(port, established=False) as third:
                assert await third.closed() == (4504, "too many connections are open from this address")
            assert [(await socket.ask("ping", {}))["type"] for socket in (first, second)] == ["pong", "pong"]
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
                stats = (await http.get("/v1/stats")).json()["realtime"]
                assert (stats["open"], stats["crowdedOut"]) == (2, 1)
            await first.connection.close()
            async with asyncio.timeout(30):
                while True:  # until the service has heard of it
                    async with connected(port, established=False) as again:
                        if await established(again):
                            break


async def established(socket: Socket) -> bool:
    """Whether it is let in; if not, it is closed at once."""
    try:
        return bool((await socket.next())["type"] == "connection:established")
    except ConnectionClosed:
        return False


async def come_in(port: int) -> ClientConnection | None:
    """A connection; None where the service takes up no more right now, which it says before it does any work."""
    try:
        return await connect(f"ws://127.0.0.1:{port}/v1/ws/realtime", open_timeout=90, proxy=None, ping_interval=None)
    except InvalidStatus as refused:
        if (refused.response.status_code, refused.response.headers["Retry-After"]) != (503, "1"):
            raise
        return None


@asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[list[ClientConnection]]:
    """So many connections, opened at once as far as one process can."""
    room = asyncio.Semaphore(AT_ONCE)
    opened: list[ClientConnection] = []

    async def open_one() -> None:
        async with room:
            async with asyncio.timeout(90 + STORM / 20):  # who is refused once comes again among all the others
                while (made := await come_in(port)) is None:
                    await asyncio.sleep(1.0)  # as it was told
                opened.append(made)
                assert json.loads(await made.recv())["type"] == "connection:established"

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(open_one())
        yield opened
    finally:
        for made in opened:
            made.transport.abort()


async def test_many_come_back_at_once(service: tuple[psutil.Process, int]) -> None:
    """All are cut off at once and come back at once; meanwhile another is served, and in the end nothing is left of them."""
    worker, port = service
    async with (
        connected(port) as other,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http,
    ):

        async def ask_on() -> None:
            while not came_back.is_set():
                assert (await other.ask("ping", {}))["type"] == "pong"

        async def open_ones() -> int:
            async with asyncio.timeout(60):
                while (answer := await http.get("/v1/stats")).status_code == 503:
                    await asyncio.sleep(1.0)
            return int(answer.json()["realtime"]["open"])

        came_back = asyncio.Event()
        async with crowd(port, STORM):
            first = worker.memory_info().rss
        async with asyncio.TaskGroup() as group:
            group.create_task(ask_on())
            async with crowd(port, STORM):
                came_back.set()
                assert await open_ones() >= STORM + 1
                assert worker.memory_info().rss - first < (16 << 20) + STORM * (64 << 10)
        async with asyncio.timeout(60):
            while await open_ones() > 1:
                await asyncio.sleep(0.05)
