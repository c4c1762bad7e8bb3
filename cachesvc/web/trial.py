"""A trial of the protocols: whether they do what they are for on the uvicorn that is installed, whose insides they build on.

It takes a connection as uvicorn hands it out, and no socket. Whatever goes wrong in it must not stop a worker's start.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cachesvc.clock import SystemClock
from cachesvc.engine.leash import Leash
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.observability.metrics import Metrics
from cachesvc.ports import Clock
from cachesvc.realtime.identity import OpenDoor
from cachesvc.realtime.rates import Rates
from cachesvc.web.call import Call
from cachesvc.web.deadlines import Deadlines
from cachesvc.web.protocol import HeadLimits
from cachesvc.web.routes import ENTRY
from cachesvc.web.service import Limits
from cachesvc.web.usual import Usual

_TURNS: Final = 100  # of the event loop, in which a trial has been answered
_HEAD: Final = b"GET /v1/cache/trial%b HTTP/1.1\r\nHost: trial\r\n%b\r\n"
_HIT: Final = _HEAD % (b"", b"")
_MISS: Final = _HEAD % (b"?missed", b"")
_UNSPOKEN: Final = _HEAD % (b"", b"Connection: upgrade\r\nUpgrade: other\r\n")
_SOCKET: Final = _HEAD % (b"", b"Connection: upgrade\r\nUpgrade: websocket\r\n")
_NO_REQUEST: Final = b"this is none\r\n\r\n"
_ANSWER: Final = b"\r\n\r\ntrial"
_log = logging.getLogger(__name__)


class _Cache:
    """Every key has an entry."""

    def __init__(self) -> None:
        self.leash = Leash(SystemClock())

    def hit(self, key: Key) -> Entry | None:
        return Entry(key, Version(1), key.encode(), "text/plain", 0.0, 0.0, None, b"")


@dataclass(slots=True)
class _Service:
    """What the protocols need of a service."""

    cache: _Cache = field(default_factory=_Cache)
    clock: Clock = field(default_factory=SystemClock)
    metrics: Metrics = field(default_factory=Metrics)
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    rates: Rates | None = None


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class _Socket(asyncio.Protocol):
    """The protocol of sockets, as uvicorn makes it: it answers the handshake that it is handed."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._wire: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._wire, Wire)
        self._wire.write(_ANSWER if data.startswith(b"GET /v1/cache/trial HTTP/1.1\r\n") else b"")


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(b"trial")(scope, receive, send)


async def _endpoint(_: Call) -> Response:
    return Response(b"trial")


def _parsed(_: HttpToolsProtocol) -> None:
    raise RuntimeError("what is answered at once never comes to the parser")


async def answers_at_once(made: type[HttpToolsProtocol]) -> bool:
    """Whether a hit, a miss and a hit again are each answered without the parser and the application."""
    parts = {
        "hits": _Cache(),
        "service": _Service(),
        "usual": Usual(HeadLimits(), OpenDoor(), by_address=False),
        "endpoints": {ENTRY: {"GET": _endpoint}},
        "on_message_begin": _parsed,
    }
    return await _passes(type("Trial", (made,), parts), [_HIT, _MISS, _HIT], answers=3)


async def keeps_limits(made: type[HttpToolsProtocol]) -> bool:
    """Whether requests come to the application, also behind one that asks for another protocol, and sockets to theirs."""
    trial = type("Trial", (made,), {})
    told = await _passes(trial, [_HIT, _UNSPOKEN + _HIT, _NO_REQUEST], answers=3, last=b"application/problem+json")
    return told and await _passes(trial, [_SOCKET], answers=1)


async def _passes(trial: type[HttpToolsProtocol], sent: list[bytes], *, answers: int, last: bytes = b"") -> bool:
    """Whether what is sent, each when all before it is answered, is given so many answers, and as the last one this."""
    wire = Wire()
    try:
        trial.admission = None  # type: ignore[attr-defined]  # nothing is refused
        config = uvicorn.Config(_app, log_config=None, lifespan="off", ws=_Socket)
        connection = trial(config=config, server_state=ServerState(), app_state={})
        connection.access_log = False
        wire.protocol = connection
        connection.connection_made(wire)
        for data in sent:
            connection.data_received(data)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        connection.connection_lost(None)
    except Exception as exc:  # noqa: BLE001 - whatever it is, another protocol does without
        _log.warning("a trial of %s failed: %r", trial.__mro__[1].__name__, exc)
        return False
    return wire.written.count(_ANSWER) == answers and last in wire.written
