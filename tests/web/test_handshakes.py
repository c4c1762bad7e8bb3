"""Handshakes over a real server: each is answered, and each connection ends in its time."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cachesvc.errors import Unauthenticated
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.web.admission import Admission
from cachesvc.web.handshakes import Handshake
from cachesvc.web.live import LiveLimits
from cachesvc.web.live_protocol import SocketLimits
from tests.web.site import Site, opened
from tests.web.sockets import LIMIT

USUAL = {
    "Host": "x",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
TEXT, CLOSE = 0x81, 0x88


def asking(headers: Mapping[str, str | None], *, line: str = "GET /v1/ws/realtime HTTP/1.1", more: str = "") -> bytes:
    """A request for a socket, with other headers, or without some; `more` comes behind them."""
    told = {name: value for name, value in {**USUAL, **headers}.items() if value is not None}
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in told.items()), more, ""]).encode("latin-1")


def frame(kind: int, payload: bytes) -> bytes:
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 0x80 | 126, len(payload))
    return bytes([kind]) + length + bytes(4) + payload


async def answered(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(LIMIT):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            assert await reader.read() == b""
    writer.close()
    return int(head[0].split(" ")[1]), headers, body


FAULTY = {
    "other path": (asking({}, line="GET /v1/ws/other HTTP/1.1"), 404, None),
    "no path of ours": (asking({}, line="GET /v1/cache/a HTTP/1.1"), 404, None),
    "no key": (asking({"Sec-WebSocket-Key": None}), 400, "Sec-WebSocket-Key"),
    "short key": (asking({"Sec-WebSocket-Key": "abc="}), 400, "Sec-WebSocket-Key"),
    "no base64": (asking({"Sec-WebSocket-Key": "\xe9"}), 400, "Sec-WebSocket-Key"),
    "two keys": (asking({"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}), 400, "Sec-WebSocket-Key"),
    "no version": (asking({"Sec-WebSocket-Version": None}), 426, "Sec-WebSocket-Version"),
    "old version": (asking({"Sec-WebSocket-Version": "8"}), 426, "Sec-WebSocket-Version"),
    "two versions": (asking({"sec-websocket-version": "13"}), 400, "Sec-WebSocket-Version"),
    "two origins": (asking({"Origin": "https://a", "origin": "https://b"}), 400, "Origin"),
    "no subprotocol": (asking({"Sec-WebSocket-Protocol": "v1, (no name)"}), 400, "Sec-WebSocket-Protocol"),
    "no text": (asking({"Sec-WebSocket-Protocol": "\xff"}), 400, "Sec-WebSocket-Protocol"),
    "no connection": (asking({"Connection": None}), 426, None),
    "other connection": (asking({"Connection": "close"}), 426, None),
    "two protocols": (asking({"upgrade": "h2c"}), 426, None),
    "h2c": (asking({"Upgrade": "h2c"}), 426, None),
    "a body": (asking({"Content-Length": "5"}, more="\r\nhello"), 426, None),
    "a body that does not come": (asking({"Content-Length": "5"}), 426, None),
    "a body in chunks": (asking({"Transfer-Encoding": "chunked"}, more="\r\n0\r\n"), 426, None),
    "chunks that do not come": (asking({"Transfer-Encoding": "chunked"}), 426, None),
    "other method": (asking({}, line="POST /v1/ws/realtime HTTP/1.1"), 426, None),
    "HTTP/1.0": (asking({}, line="GET /v1/ws/realtime HTTP/1.0"), 426, None),
    "over the limit": (asking({"X-Pad": "x" * 33_000}), 431, None),
    "long target": (asking({}, line=f"GET /v1/ws/realtime?{'x' * 9_000} HTTP/1.1"), 414, None),
    "one long line": (asking({"X-Pad": "x" * 20_000}), 101, None),
    "a target at its limit": (asking({}, line=f"GET /v1/ws/realtime?{'x' * 8_170} HTTP/1.1"), 101, None),
    "a host in the target": (asking({}, line="GET http://x/v1/ws/realtime?a=1 HTTP/1.1"), 101, None),
    "only a host": (asking({}, line="GET http://x HTTP/1.1"), 404, None),
    "a target of no place": (asking({}, line="GET http://x:99999/v1/ws/realtime HTTP/1.1"), 400, None),
    "odd bytes": (asking({"X-Pad": "\xe9"}), 101, None),
    "no body": (asking({"Content-Length": "0"}), 101, None),
    "an empty list": (asking({"Sec-WebSocket-Protocol": ","}), 101, None),
}


async def test_each_is_answered(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with site.served() as port:
        for name, (request, status, field) in FAULTY.items():
            told, headers, body = await answered(port, request)
            assert told == status, name
            if status == 101:
                continue
            problem = json.loads(body)
            assert headers["content-type"] == "application/problem+json", name
            assert problem.get("field") == field, name
            assert problem["requestId"] == headers["x-request-id"], name
        assert (await answered(port, FAULTY["old version"][0]))[1]["sec-websocket-version"] == "13"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Nobody:
    def greet(self, token: str | None) -> None:
        raise Unauthenticated("the token is not valid")


async def test_a_long_token_is_refused_as_it_is_over_http(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    site.live._doorman = site.app._data._doorman = Nobody()  # type: ignore[assignment]
    token = {"Authorization": f"Bearer {'e' * 15_000}"}
    async with site.served() as port:
        over_http = await answered(port, asking(token | {"Connection": None, "Upgrade": None}, line="GET /v1/keys HTTP/1.1"))
        over_socket = await answered(port, asking(token))
    assert over_http[0] == over_socket[0] == 401
    same = ("content-type", "www-authenticate")
    assert [over_http[1][name] for name in same] == [over_socket[1][name] for name in same]
    bodies = [json.loads(told[2]) | {"requestId": ""} for told in (over_http, over_socket)]
    assert bodies[0] == bodies[1]
    assert caplog.records == []


async def test_one_that_is_not_decided_in_time_is_answered(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    decided = asyncio.Event()

    class Rates:
        async def taken(self, *_: object, **__: object) -> None:
            await decided.wait()

    site.live.service = replace(site.service, rates=Rates())  # type: ignore[arg-type]
    admission = Admission(site.clock)
    async with site.served(admission=admission, sockets=SocketLimits(handshake=0.05)) as port:
        status, _, body = await answered(port, asking({}))
        assert (status, json.loads(body)["code"]) == (503, "UNAVAILABLE")
        decided.set()
        await no_sockets(admission)
    assert caplog.records == []


async def test_what_comes_before_the_answer_is_read_after_it(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    asked, decided = asyncio.Event(), asyncio.Event()

    class Rates:
        async def taken(self, *_: object, **__: object) -> None:
            asked.set()
            await decided.wait()

    async with site.served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(LIMIT):
            site.live.service = replace(site.service, rates=Rates())  # type: ignore[arg-type]
            writer.write(asking({}))
            await asked.wait()
            site.live.service = site.service
            writer.write(b"no frame")
            assert (await answered(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200  # by then it has come
            decided.set()
            told = await reader.read()
        writer.close()
    assert told.startswith(b"HTTP/1.1 101 ")
    assert b"\x88" in told.partition(b"connection:established")[2]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def no_sockets(admission: Admission) -> None:
    """Wait until the service holds no connection."""
    async with asyncio.timeout(LIMIT):
        while admission.connections or admission.sockets:
            await asyncio.sleep(0)


@asynccontextmanager
async def unread(site: Site, port: int) -> AsyncIterator[asyncio.StreamWriter]:
    """A socket whose client asked for more than the system holds, and reads none of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asking({}))
    async with asyncio.timeout(LIMIT):
        await reader.readuntil(b"connection:established")
        (connection,) = site.live._open
        system = connection.peer.transport.get_extra_info("socket")
        system.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not connection.peer.outlet.paused:
            writer.write(frame(TEXT, b'{"type":"cache:get","requestId":"1","payload":{"key":"big"}}'))
            received = site.live.counts.received
            while received == site.live.counts.received:
                await asyncio.sleep(0)
    yield writer
    writer.transport.abort()


@pytest.mark.parametrize("how", ["says goodbye", "says no more", "errs", "answers no ping"])
async def test_one_that_reads_nothing_is_let_go_however_it_ends(how: str) -> None:
    limits = LiveLimits(SessionLimits(max_errors=3), send_timeout=0.1)
    async with opened(live_limits=limits) as site, site.client() as http:
        admission = Admission(site.clock)
        await http.put("/v1/cache/big", content=b'"%s"' % (b"x" * 1_000_000))
        serving = site.served(admission=admission, sockets=SocketLimits(end=0.1))
        async with serving as port, unread(site, port) as client:
            if how == "says goodbye":
                client.write(frame(CLOSE, b"\x03\xe8"))
            elif how == "says no more":
                client.write_eof()
            elif how == "errs":
                client.write(frame(TEXT, b"{") * 5)
            else:
                for connection in site.live._open:
                    connection.peer.keepalive_timeout()
            await no_sockets(admission)


async def test_one_that_does_not_answer_a_close_is_let_go(site: Site) -> None:
    admission = Admission(site.clock)
    async with site.served(admission=admission, sockets=SocketLimits(end=0.1)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(LIMIT):
            writer.write(asking({}))
            await reader.readuntil(b"connection:established")
            (connection,) = site.live._open
            connection.session.revoke()
            await reader.read()
        await no_sockets(admission)
        writer.close()


def test_what_the_library_is_shown_is_short() -> None:
    head = re.sub(rb"x-pad: .*\r\n", b"x-pad: " + b"x" * 30_000 + b"\r\n", asking({"x-pad": ""}).replace(b"Host", b"host"))
    handshake = Handshake.read(head)
    assert (handshake.target, handshake.headers[0], handshake.fault()) == (b"/v1/ws/realtime", (b"host", b"x"), None)
    assert len(handshake.shown) < 200
