"""Stand-in: what the supervisor answers on the listening socket while no worker can.

It takes no connection once a worker has said that it serves: whatever waits in the socket then is the worker's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from cachesvc.protocol.codes import Code
from cachesvc.web.problems import Problem

_MOST = 256  # connections at once; more wait in the socket
_LIMIT = 1.0  # seconds that a connection may take
_PAUSE = 0.1  # seconds, after which what could not be taken is tried again
_READ = 64 << 10  # bytes

_STARTING = Problem(503, Code.UNAVAILABLE, "the service is starting", retry_after=1.0)


class StandIn:
    """Answers whoever connects with a 503. `served` is asked before each connection is taken whether a worker serves."""

    def __init__(self, sock: socket.socket, served: Callable[[], bool]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._served = served
        self._open: dict[socket.socket, asyncio.TimerHandle] = {}
        self._wanted = False
        self._pause: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._wanted = True
        self._listen()

    def end(self) -> None:
        """Take no more. Those that were taken are still answered."""
        self._wanted = False
        self._listen()

    def close(self) -> None:
        self.end()
        for connection in list(self._open):
            self._done(connection)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._wanted and len(self._open) < _MOST:
            loop.add_reader(self._sock, self._accept)
        else:
            loop.remove_reader(self._sock)

    def _accept(self) -> None:
        if self._served():
            self.end()
            return
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):  # a worker was faster, or the client is gone
            return
        except OSError:  # there are no more descriptors, say: who waits in the socket goes on waiting
            loop.remove_reader(self._sock)
            self._pause = loop.call_later(_PAUSE, self._listen)
            return
        connection.setblocking(False)
        self._open[connection] = loop.call_later(_LIMIT, self._done, connection)
        loop.add_reader(connection, self._answer, connection)
        self._listen()

    def _answer(self, connection: socket.socket) -> None:
        """After the first bytes, whatever they ask for. The rest is read away: closing on it would take the answer back."""
        try:
            request = connection.recv(_READ)
            if not request:
                self._done(connection)
                return
            connection.sendall(_STARTING.raw(bodiless=request.startswith(b"HEAD ")))
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone
            self._done(connection)
            return
        asyncio.get_running_loop().add_reader(connection, self._drain, connection)

    def _drain(self, connection: socket.socket) -> None:
        try:
            if connection.recv(_READ):
                return
        except OSError:  # the client is gone
            pass
        self._done(connection)

    def _done(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        self._open.pop(connection).cancel()
        connection.close()
        self._listen()
