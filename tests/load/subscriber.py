"""Subscribers: sockets that follow every key of a run, and check that they are told of each change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.load.checker import Checker
from tests.load.stream import Stream

TIMEOUT: Final = 30.0  # seconds for an answer, and until all has been told
_LARGEST: Final = 1 << 20  # bytes of a message


class Subscriber:
    """One socket. `pushed` is called with the counter of each value that it is told."""

    def __init__(self, url: str, resource: str, checker: Checker, pushed: Callable[[int], None]) -> None:
        self.stream = Stream(checker)
        self.failed = ""
        self._checker = checker
        self._pushed = pushed
        self._moved = Event()
        self._socket: ClientConnection = connect(
            url.replace("http://", "ws://") + "/v1/ws/realtime",
            subprotocols=[Subprotocol("v1")],
            open_timeout=TIMEOUT,
            max_size=_LARGEST,
            compression=None,
            proxy=None,
        )
        self._socket.send(json.dumps({"type": "subscribe", "requestId": "s", "payload": {"resources": [resource]}}))
        while (told := json.loads(self._socket.recv(TIMEOUT))).get("correlationId") != "s":
            pass
        if told["type"] != "ack":
            raise OSError(f"a subscriber was answered {told}")
        self._reading = gevent.spawn(self._read)

    def _read(self) -> None:
        try:
            for message in self._socket:
                counter = self.stream.take(json.loads(message))
                if counter:
                    self._pushed(counter)
                self._moved.set()
        except (ConnectionClosed, OSError) as exc:
            self.failed = repr(exc)
        except (ValueError, TypeError, LookupError) as exc:
            self.failed = f"a message that is not understood: {exc!r}"
        self._moved.set()

    def end(self, upto: int) -> None:
        """Wait until all up to this version has been told, check it, and hang up."""
        deadline = time.monotonic() + TIMEOUT
        while not self.failed and self.stream.position < upto and time.monotonic() < deadline:
            self._moved.wait(0.5)
            self._moved.clear()
        if not self.failed and self.stream.position < upto:
            self._checker.violated("push", f"a subscriber was told up to {self.stream.position}, and {upto} was acknowledged")
        elif not self.failed:
            self.stream.end()
        self._reading.kill()
        gevent.spawn(self._socket.close).join(1.0)
