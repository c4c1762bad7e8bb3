"""A WebSocket on one connection, as uvicorn speaks it, with its transport at hand.

A peer that has stopped reading cannot be closed politely: what waits for it would wait for ever. It is aborted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from cachesvc.protocol.codes import CloseCode
from cachesvc.web.admission import Admission

PEER: Final = "cachesvc.peer"  # of the scope's extensions
_MOST_FRAGMENTS: Final = 1_024  # empty ones are free of the limit of a message's size


@dataclass(slots=True)
class SocketCounts:
    """What ended sockets, since the start."""

    unanswered: int = 0  # pings
    fragmented: int = 0


class LiveProtocol(WebSocketsSansIOProtocol):
    """A connection that became a WebSocket. Made by uvicorn; `live_protocol` gives the class for a node."""

    admission: Admission | None = None
    counts = SocketCounts()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._count()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            cast(dict[str, object], self.scope["extensions"])[PEER] = self  # read before anything is served

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS:
            self.counts.fragmented += 1
            self.conn.fail(CloseCode.PROTOCOL, "a message in too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        """The peer answered no ping: as uvicorn does, but by the protocol's own code."""
        self.pong_timer = None
        self.pending_ping_payload = None
        if self.close_sent or self.transport.is_closing():
            return
        self.counts.unanswered += 1
        self.conn.fail(CloseCode.NO_PONG, "no pong")
        self.handle_parser_exception()

    # for the application

    @property
    def open(self) -> bool:
        return not (self.close_sent or self.disconnected or self.transport.is_closing())

    def write(self, text: bytes) -> None:
        """A whole text frame, as it goes over the wire where nothing is compressed (RFC 6455, 5.2); nothing once it is closed.

        Only while `writable` is set: what the transport holds is bounded by that.
        """
        if not self.open or self.conn.state is not State.OPEN:
            return
        size = len(text)
        if size < 126:
            head = b"\x81%c" % size
        elif size < 1 << 16:
            head = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x81\x7f" + size.to_bytes(8, "big")
        self.transport.write(head + text)

    def abort(self) -> None:
        """End the connection at once, with what was not sent."""
        self.transport.abort()

    def _count(self) -> None:
        if self.admission is not None:
            self.admission.connections = len(self.connections)


def live_protocol(admission: Admission | None = None) -> type[LiveProtocol]:
    """The protocol as uvicorn takes it: a class."""
    members: dict[str, Any] = {"admission": admission, "counts": SocketCounts()}
    return type("LiveProtocol", (LiveProtocol,), members)
