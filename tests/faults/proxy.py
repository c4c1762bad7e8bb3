"""A TCP proxy between a node and a store, by which a test cuts, holds, slows and deafens their connections.

Bytes are never changed, reordered or dropped from the middle: a connection that lost any is cut.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

_CHUNK = 1 << 16
Commits = Literal["", "before", "after"]


@dataclass(slots=True, eq=False)
class Link:
    """One connection through the proxy: what has been seen on it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    listens: bool = False  # it is the one on which PostgreSQL wakes a node
    committed: bool = False  # its next answer is not to arrive

    def cut(self) -> None:
        for side in (self.client, self.server):
            _reset(side)


@dataclass(slots=True, eq=False)
class Proxy:
    """Listens on `port` of loopback, passes on to `target`. `opened` makes one."""

    target: int
    port: int = 0
    refusing: bool = False  # new connections are cut at once
    delay: float = 0.0  # seconds that each answer takes longer
    commits: Commits = ""  # a connection that commits is cut before the server sees it, or after it did it
    deaf: bool = False  # a connection that listens hears nothing
    cuts: int = 0
    carried: int = 0  # bytes, both ways
    links: set[Link] = field(default_factory=set)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _hearing: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self, which: Callable[[Link], bool] = lambda _: True) -> None:
        """Reset the connections that are open now."""
        for link in [link for link in self.links if which(link)]:
            self.cuts += 1
            link.cut()

    def hold(self) -> None:
        """Let nothing pass, and say nothing of it: as a network that has lost its way. New connections hang too."""
        self._flowing.clear()

    def deafen(self) -> None:
        """Let nothing pass to those who listen."""
        self.deaf = True
        self._hearing.clear()

    def heal(self) -> None:
        """As if nothing had been: what was held arrives now."""
        self.refusing, self.delay, self.commits, self.deaf = False, 0.0, "", False
        self._flowing.set()
        self._hearing.set()

    async def serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        if self.refusing:
            _reset(client)
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(client)
            return
        link = Link(client, server)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._up(link, reader))
                pumps.create_task(self._down(link, answers))
        finally:
            self.links.discard(link)
            link.cut()

    async def _up(self, link: Link, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_CHUNK):
                link.listens = link.listens or b"LISTEN" in data
                await self._flowing.wait()
                if self.commits and b"COMMIT" in data:
                    self.cuts += 1
                    if self.commits == "before":
                        break
                    link.committed = True
                self.carried += len(data)
                link.server.write(data)
                await link.server.drain()
        except (OSError, RuntimeError):
            pass  # cut, which uvloop tells by a RuntimeError: the other pump is told below
        link.cut()

    async def _down(self, link: Link, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                if link.listens:
                    await self._hearing.wait()
                if link.committed:
                    break
                self.carried += len(data)
                link.client.write(data)
                await link.client.drain()
        except (OSError, RuntimeError):
            pass
        link.cut()


def _reset(side: asyncio.StreamWriter) -> None:
    """End a connection as a broken one ends, with RST."""
    if side.transport.is_closing():
        return
    side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.transport.abort()


@asynccontextmanager
async def opened(target: int, port: int = 0) -> AsyncIterator[Proxy]:
    """A proxy in front of a port of loopback, on a port of its own."""
    proxy = Proxy(target)
    proxy.heal()
    async with asyncio.TaskGroup() as group:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(task := group.create_task(proxy.serve(reader, writer)))
            task.add_done_callback(connections.discard)

        connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(accept, "127.0.0.1", port)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in tuple(connections):
                task.cancel()
            await server.wait_closed()
