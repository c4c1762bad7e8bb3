"""Bare connections of a crowd: whole messages out, whole messages in, nothing decoded; the same for every side.

A WebSocket (`Socket`) and a connection to Valkey (`Resp`) differ only in how they begin and where a message ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import cast

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_KEY = b"\x11\x22\x33\x44"


class Wire(asyncio.Protocol):
    """A connection. `heard(self, message)` is called with each message as it lies on the wire, without its head."""

    def __init__(self, heard: Callable[[Wire, bytes], None]) -> None:
        self.heard = heard
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = b""
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before it was open"))

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()


class Socket(Wire):
    """A WebSocket."""

    path = b"/v1/ws/realtime"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(HANDSHAKE % self.path)

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        at = 0
        if not self.opened.done():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.received = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(data[:end].decode()))
                return
            self.opened.set_result(None)
            at = end + 4
        size = len(data)
        while size - at >= 2:
            length, body = data[at + 1], at + 2
            if length == 126:
                body = at + 4
                if size < body:
                    break
                length = int.from_bytes(data[at + 2 : body], "big")
            elif length == 127:
                body = at + 10
                if size < body:
                    break
                length = int.from_bytes(data[at + 2 : body], "big")
            if size < body + length:
                break
            if data[at] == 0x81:
                self.heard(self, data[body : body + length])
            elif data[at] == 0x89:  # a ping
                self.write(_framed(0x8A, data[body : body + length]))
            at = body + length
        self.received = data[at:]


class Resp(Wire):
    """A connection to Valkey, where each answer is a bulk string."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        at = 0
        while (end := data.find(b"\r\n", at)) > 0:
            after = end + 4 + int(data[at + 1 : end])
            if after > len(data):
                break
            self.heard(self, data[end + 2 : after - 2])
            at = after
        self.received = data[at:]


def framed(text: bytes) -> bytes:
    """A text message as a client sends it, masked."""
    return _framed(0x81, text)


def _framed(kind: int, text: bytes) -> bytes:
    size = len(text)
    head = bytes([kind, 0x80 | size]) if size < 126 else bytes([kind, 0xFE]) + size.to_bytes(2, "big")
    key = (_KEY * (size // 4 + 1))[:size]
    masked = int.from_bytes(text, "big") ^ int.from_bytes(key, "big")
    return head + _KEY + masked.to_bytes(size, "big")


async def opened(kind: type[Wire], port: int, many: int, heard: Callable[[Wire, bytes], None]) -> list[Wire]:
    """So many open connections, a few at a time: who comes with a thousand others is asked to come again."""
    loop = asyncio.get_running_loop()

    async def one() -> Wire:
        while True:
            try:
                _, wire = await loop.create_connection(lambda: kind(heard), "127.0.0.1", port)
                await wire.opened
            except ConnectionError:
                await asyncio.sleep(random.random())
            else:
                return wire

    made: list[Wire] = []
    while len(made) < many:
        made += await asyncio.gather(*(one() for _ in range(min(20, many - len(made)))))
    return made
