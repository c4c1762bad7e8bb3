"""A WebSocket on one connection, as uvicorn speaks it, with its transport at hand.

The rule that must not break: whatever a connection waits for, it waits for so long. A peer that has stopped reading cannot be
closed politely, for what waits for it would wait for ever: it is aborted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from cachesvc.protocol.codes import CloseCode, Code
from cachesvc.web.admission import Admission
from cachesvc.web.handshakes import Handshake
from cachesvc.web.outlet import Outlet, Traffic
from cachesvc.web.problems import Problem
from cachesvc.web.text_frames import extent, unmasked

PEER: Final = "cachesvc.peer"  # of the scope's extensions
_NOT_UTF8: Final = 1007  # RFC 6455, 7.4.1
_MOST_FRAGMENTS: Final = 1_024  # empty ones are free of the limit of a message's size
_TURN: Final = 64  # frames that the library reads at once; others have their turn before more
_PING: Final = 0x9


class Listener(Protocol):
    """Whom a socket tells what happens to it, each time in the turn of the loop in which it happens."""

    def received(self, data: str | bytes) -> None:
        """A whole message came: text, or bytes when it was sent as binary."""
        ...

    def writable(self) -> None:
        """There is room again for what waited."""
        ...

    def lost(self) -> None:
        """Nothing comes any more, and nothing goes out. It may be said more than once."""
        ...


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Seconds: for a handshake to be answered once its head has come, and for the end of a connection that is over."""

    handshake: float = 10.0
    end: float = 10.0


@dataclass(slots=True)
class SocketCounts:
    """What ended sockets, since the start."""

    unanswered: int = 0  # pings
    fragmented: int = 0


class LiveProtocol(WebSocketsSansIOProtocol):
    """A connection that became a WebSocket. Made by uvicorn; `live_protocol` gives the class for a node."""

    admission: Admission | None = None
    counts = SocketCounts()
    limits = SocketLimits()
    listener: Listener | None = None
    outlet: Outlet
    _handshake: Handshake | None = None  # until it is answered
    _limit: asyncio.TimerHandle | None = None  # of what is waited for: the answer, or the end
    _split = True  # frames are told apart here; not where some came before anyone listened
    _begun = b""  # of the head of a frame, which the library has already
    _owed = 0  # bytes of a frame that is left to the library
    _rest = b""  # of what came, from the beginning of a frame, for another turn
    _stopped = False  # by the listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.outlet = Outlet(self.transport.write, Traffic())
        self.close_timeout = self.limits.end
        self._limit = self.loop.call_later(self.limits.handshake, self._late)
        self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unlimited()
        self._count()
        self._left()

    def eof_received(self) -> None:
        """Nothing comes any more, not even a goodbye: the transport closes itself, once it is rid of what it holds."""
        self._left()

    def pause_writing(self) -> None:
        self.outlet.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.outlet.paused = False
        super().resume_writing()
        if self._rest:
            self.loop.call_soon(self._go_on)
        if self.listener is not None:
            self.listener.writable()

    # the handshake

    def _greet(self, head: bytes) -> None:
        """Judge it, and have the library accept what it is shown of it. What comes next is read when it is answered."""
        self._handshake = Handshake.read(head)
        if problem := self._handshake.fault():
            self._refuse(problem)
        else:
            self.transport.pause_reading()
            super().data_received(self._handshake.shown)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        handshake = self._handshake
        assert handshake is not None
        raw_path, query = handshake.place
        self.scope["path"] = self.root_path + unquote(raw_path.decode("ascii"))
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = query
        self.scope["headers"] = handshake.headers
        self.scope["subprotocols"] = handshake.subprotocols
        cast(dict[str, object], self.scope["extensions"])[PEER] = self

    async def run_asgi(self) -> None:
        if self.admission is not None:
            self.admission.sockets += 1
        try:
            await super().run_asgi()
        finally:
            self._ends()
            if self.admission is not None:
                self.admission.sockets -= 1

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True  # by a refusal, too
        elif self.handshake_complete and self._handshake is not None:
            self._handshake = None
            self._unlimited()
            self.transport.resume_reading()

    def _refuse(self, problem: Problem) -> None:
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(problem.raw())
        self.transport.close()
        self._ends()
        self.disconnected = True  # to the application, which is not asked any more

    def _late(self) -> None:
        """The handshake was not answered in time."""
        self._refuse(Problem(503, Code.UNAVAILABLE, "this node was too slow to answer", retry_after=1.0))

    def _ends(self) -> None:
        """Whatever is still to be said, or to be taken: from here on there is so much time for it."""
        if not self.disconnected:
            self._unlimited()
            self._limit = self.loop.call_later(self.limits.end, self.transport.abort)

    def _unlimited(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    # its frames

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MOST_FRAGMENTS:
            self.counts.fragmented += 1
            self.conn.fail(CloseCode.PROTOCOL, "a message in too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def data_received(self, data: bytes) -> None:
        """Whole texts are read here; all other frames by the library, which is always told of a frame from its beginning."""
        if self.listener is None or not self._split:
            if self.handshake_initiated:
                self._split = False
                super().data_received(data)
            else:
                self._greet(data)
            return
        if self._rest:
            self._rest += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """As much as there is a turn for. Nothing more comes until the rest has had its own."""
        try:
            at = self._told_apart(data)
        finally:
            self.outlet.uncork()
        if at < len(data):
            self._rest = data[at:]
            self._wait()
            if not self.outlet.paused:
                self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        rest, self._rest = self._rest, b""
        self._read(rest)
        self._wait()

    def _told_apart(self, data: bytes) -> int:
        """Up to where it was taken up."""
        size = len(data)
        if self._begun:
            found = extent(self._begun + data, 0)
            self._owed = found[1] - len(self._begun) if found is not None else size
            self._begun = self._begun + data if found is None else b""
        at = self._feed(data, 0, self._owed) if self._owed else 0
        fed = 0
        while at < size and not self.transport.is_closing():
            unread = self.outlet.paused and data[at] & 0xF == _PING  # whose answer would wait, without a limit
            if fed == _TURN or unread:
                return at
            found = extent(data, at)
            if found is None:  # the library may know already that it is wrong
                self._begun = data[at:]
                self._feed(data, at, size - at)
                return size
            body, end, usual = found
            if usual and end <= size and end - body <= self._most and not self.frames:
                at = end
                fed += self.close_sent  # when nobody takes it any more
                if end < size:
                    self.outlet.cork()  # more is to be answered
                self._text(unmasked(data, body, end))
            else:
                at = self._feed(data, at, end - at)
                fed += 1
        return size

    def _feed(self, data: bytes, at: int, size: int) -> int:
        """Leave so many bytes to the library, as far as they have come; up to where that is."""
        end = min(at + size, len(data))
        self._owed = at + size - end
        if end > at:
            self.outlet.uncork()  # it writes, too
            super().data_received(data[at:end])
        return end

    def send_receive_event_to_app(self) -> None:
        """A message, whole: handed over at once, by no queue and no task, as soon as there is somebody to take it."""
        if self.listener is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        frames, self.frames = self.frames, []
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if self.curr_msg_data_type == "text":
            self._text(data)
        else:
            self.listener.received(bytes(data))

    def _text(self, data: bytes) -> None:
        if self.close_sent or self.listener is None:
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            if self.conn.state is State.OPEN:
                self.conn.send_close(_NOT_UTF8)
            self.outlet.uncork()
            self.handle_parser_exception()
            return
        self.listener.received(text)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._left()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._left()

    def shutdown(self) -> None:
        if not self.handshake_complete:
            self._refuse(Problem(503, Code.UNAVAILABLE, "this node is about to stop", retry_after=1.0))
        super().shutdown()
        self._left()

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

    def listen(self, listener: Listener) -> None:
        """Tell it what happens from now on, and first what has come already."""
        self.listener = listener
        self._most = self.config.ws_max_size
        self.resume()
        while not self.queue.empty():
            message = self.queue.get_nowait()
            if message["type"] == "websocket.receive":
                text = message.get("text")
                listener.received(text if text is not None else cast(bytes, message["bytes"]))
            else:
                listener.lost()

    def pause(self) -> None:
        """Take no more from the peer than what has come."""
        self._stopped = True
        self._wait()

    def resume(self) -> None:
        self._stopped = False
        self._wait()

    def _wait(self) -> None:
        """Let come what is taken up, and no more."""
        waits = self._stopped or bool(self._rest)
        if waits != self.read_paused and not self.transport.is_closing():
            self.read_paused = waits
            (self.transport.pause_reading if waits else self.transport.resume_reading)()

    @property
    def open(self) -> bool:
        return not (self.close_sent or self.disconnected or self.transport.is_closing())

    def abort(self) -> None:
        """End the connection at once, with what was not sent."""
        self.transport.abort()

    def _left(self) -> None:
        if self.listener is not None:
            self.listener.lost()

    def _count(self) -> None:
        if self.admission is not None:
            self.admission.connections = len(self.connections)


def live_protocol(admission: Admission | None = None, limits: SocketLimits | None = None) -> type[LiveProtocol]:
    """The protocol as uvicorn takes it: a class."""
    members: dict[str, Any] = {"admission": admission, "counts": SocketCounts(), "limits": limits or SocketLimits()}
    return type("LiveProtocol", (LiveProtocol,), members)
