"""A trial of the hot path: whether it does what it is for on the uvicorn that is installed.

It takes a connection as uvicorn hands it out, and no socket. Whatever goes wrong in it must not stop a worker's start.
"""

from __future__ import annotations

import asyncio
import logging

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from cachesvc.clock import SystemClock
from cachesvc.engine.leash import Leash
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.observability.metrics import Metrics
from cachesvc.realtime.identity import OpenDoor
from cachesvc.web.protocol import LimitedProtocol

_log = logging.getLogger(__name__)


class _Always:
    """Hits for a trial: every key has an entry."""

    def __init__(self) -> None:
        self.leash = Leash(SystemClock())

    def hit(self, key: Key) -> Entry | None:
        return Entry(key, Version(1), key.encode(), "text/plain", 0.0, 0.0, None, b"")


class _Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a trial, which is answered before it comes to one."""


def _parsed(_: LimitedProtocol) -> None:
    raise RuntimeError("a trial is answered before it comes to the parser")


def works(made: type[LimitedProtocol]) -> bool:
    """Whether two requests of a trial connection are each answered at once, without the parser and the application."""
    parts = {
        "hits": _Always(),
        "metrics": Metrics(),
        "doorman": OpenDoor(),
        "rates": None,
        "admission": None,
        "on_message_begin": _parsed,
    }
    trial = type("Trial", (made,), parts)
    loop = asyncio.new_event_loop()
    try:
        wire = _Wire()
        config = uvicorn.Config(_nowhere, log_config=None, lifespan="off", ws="none")
        connection = trial(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        connection.access_log = False
        connection.connection_made(wire)
        for _ in range(2):
            connection.data_received(b"GET /v1/cache/trial HTTP/1.1\r\nHost: trial\r\n\r\n")
        connection.connection_lost(None)
        return wire.written.count(b"\r\n\r\ntrial") == 2
    except Exception as exc:  # noqa: BLE001 - whatever it is, the plain route does without
        _log.warning("a trial of the hot path failed: %r", exc)
        return False
    finally:
        loop.close()
