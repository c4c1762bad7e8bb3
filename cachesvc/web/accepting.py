"""Accepting: connections off a listening socket, many in one turn of the event loop.

uvloop accepts one a turn, and the turns of a busy node are long: who comes then, be it to ask how the node fares, would wait
behind its queue. At most `MOST` a turn, so that other processes at the same socket get their share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

MOST: Final = 128
_MOST_WAITING: Final = 4_096  # that are still taken at the end: more than a socket keeps
_PAUSE: Final = 0.5  # seconds after which a system that has no room for another connection is asked again
_log = logging.getLogger(__name__)


class Acceptor:
    """Accepts until `close`, which closes the socket, too. What it starts runs in the caller's task group."""

    def __init__(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol], group: asyncio.TaskGroup) -> None:
        self._socket = listening
        self._fd = listening.fileno()  # watched by its number: of a socket that it watches uvloop puts the closing off
        self._protocol = protocol
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take who waits already, and no more: once each process has closed its copy of the socket, who comes is refused."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._fd)
        with contextlib.suppress(OSError):  # nobody waits
            for _ in range(_MOST_WAITING):
                self._begin(self._socket.accept()[0])
        self._socket.close()

    def _listen(self) -> None:
        self._paused = None
        self._loop.add_reader(self._fd, self._accept)

    def _accept(self) -> None:
        for _ in range(MOST):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                _log.warning("no connection can be accepted: %s", exc)
                self._loop.remove_reader(self._fd)
                self._paused = self._loop.call_later(_PAUSE, self._listen)
                return
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        self._group.create_task(self._take(connection))

    async def _take(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # its client has left already
