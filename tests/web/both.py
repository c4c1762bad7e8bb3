"""Both ways to an answer: one site behind two listening sockets, with the hot path, and without."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

import uvicorn

from cachesvc.web.admission import Admission
from cachesvc.web.hot import HotProtocol, hot
from cachesvc.web.leaving import LeavingProtocol, leaving
from cachesvc.web.protocol import HeadLimits, LimitedProtocol, limited
from tests.web.site import Server, Site

LIMITS = HeadLimits(request_line=2_000, header_bytes=2_000, headers=12, pipelined=20, timeout=1.0)
OWN = re.compile(rb"(x-request-id: |\"requestId\":\")[0-9a-f]{32}")
DATE = re.compile(rb"date: [^\r]+\r\n")
_AT_ONCE = 8 << 10  # bytes that a socket takes though nobody reads them yet
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"  # whose answer closes, so that the end is known


class Both:
    """The two of them, `hot` and `plain`, by their ports, and the servers behind them."""

    def __init__(self, site: Site, ports: tuple[int, int], servers: Sequence[Server]) -> None:
        self.site = site
        self.ports = ports
        self._servers = servers

    async def ask(self, request: bytes, *, cut: int = 0) -> list[bytes]:
        """What each sends back until it closes, to a last request at the latest. `cut`: sent in two pieces."""
        opening, rest = (request[:cut], request[cut:]) if cut else (request, b"")
        return await self.converse(opening, partial(_end, rest=rest))

    async def ask_each(self, request: bytes) -> list[bytes]:
        """The same, of one after the other."""
        return [await self.ask_alone(place, request) for place in range(len(self.ports))]

    async def ask_alone(self, place: int, request: bytes) -> bytes:
        """The same, of one of the two; the last request is sent when an answer begins to come."""
        return await self._converse(self.ports[place], request, _heard)

    async def converse(self, opening: bytes, conversation: Callable[[Talk], Awaitable[None]] | None = None) -> list[bytes]:
        """What each has sent back when it closes; ids and dates taken out. The `opening` is there before it can be late."""
        return list(await asyncio.gather(*(self._converse(port, opening, conversation) for port in self.ports)))

    async def _converse(self, port: int, opening: bytes, conversation: Callable[[Talk], Awaitable[None]] | None) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(opening[:_AT_ONCE])
            connection.setblocking(False)
            talk = Talk(connection)
            async with asyncio.timeout(30):
                await talk.say(opening[_AT_ONCE:])
                if conversation is not None:
                    await conversation(talk)
                while await talk.listen():
                    pass
        return DATE.sub(b"", OWN.sub(rb"\g<1>" + b"0" * 32, talk.heard))

    async def busy(self) -> None:
        """Until both answer something."""
        async with asyncio.timeout(30):
            while not all(server.server_state.tasks for server in self._servers):
                await asyncio.sleep(0)

    async def silent(self) -> None:
        """Until both know of each connection that its client says no more."""
        async with asyncio.timeout(30):
            while not all(connection._said_all.is_set() for server in self._servers for connection in _open(server)):
                await asyncio.sleep(0)

    def leave(self) -> None:
        """Tell all connections that their servers are to end."""
        for server in self._servers:
            for connection in _open(server):
                assert isinstance(connection, LeavingProtocol)
                connection.leave()

    async def forgotten(self) -> None:
        """Until neither has a connection, nor a request, that it still holds on to."""
        for place in range(len(self.ports)):
            await self.until(place, held=False)

    async def until(self, place: int, *, held: bool) -> None:
        """Until one of the two holds on to something, or to nothing."""
        state = self._servers[place].server_state
        async with asyncio.timeout(30):
            while bool(state.connections or state.tasks) is not held:
                await asyncio.sleep(0)


class Talk:
    """The client's end of a connection, on a bare socket: what came before a reset is not lost."""

    def __init__(self, connection: socket.socket) -> None:
        self.heard = b""
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def say(self, request: bytes) -> None:
        with suppress(ConnectionError):  # it may have closed: what it said before that is heard all the same
            await self._loop.sock_sendall(self._connection, request)
        await asyncio.sleep(0)

    async def listen(self) -> bool:
        """Whether something more came before the end."""
        try:
            came = await self._loop.sock_recv(self._connection, 1 << 16)
        except ConnectionError:
            return False
        self.heard += came
        return bool(came)

    async def hear(self, answers: int) -> None:
        """Listen until so many answers are here in full."""
        while len(statuses(self.heard)) < answers:
            assert await self.listen(), self.heard

    def leave(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)


def _open(server: Server) -> list[LimitedProtocol]:
    return [connection for connection in server.server_state.connections if isinstance(connection, LimitedProtocol)]


async def _end(talk: Talk, *, rest: bytes = b"") -> None:
    if rest:
        await talk.say(rest)
    await talk.say(LAST)  # where it is swallowed the time limit closes


async def _heard(talk: Talk) -> None:
    while b"\r\n\r\n" not in talk.heard and await talk.listen():
        pass
    await talk.say(LAST)


def statuses(told: bytes) -> list[int]:
    """Of the answers that are here in full, each with a Content-Length or without a body."""
    found = []
    while match := re.match(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n", told):
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", match[0])
        end = match.end() + (int(length[1]) if length else 0)
        if len(told) < end:
            break
        found.append(int(match[1]))
        told = told[end:]
    return found


@asynccontextmanager
async def both(
    site: Site, limits: HeadLimits = LIMITS, admission: Admission | None = None, *, logged: bool = False
) -> AsyncIterator[Both]:
    plain = limited(limits, admission)
    made = await hot(plain, site.service, logged=logged)
    assert issubclass(made, HotProtocol)
    with ExitStack() as stack:
        servers: list[Server] = []
        ports = []
        async with asyncio.TaskGroup() as group:
            for protocol in (made, plain):
                # pytest's own handlers make uvicorn think that somebody reads an access log
                protocol = type("Quiet", (leaving(protocol),), {"access_log": property(lambda _: logged, lambda *_: None)})  # noqa: PLW2901
                listening = stack.enter_context(socket.socket())
                listening.bind(("127.0.0.1", 0))
                config = uvicorn.Config(
                    site.app, http=protocol, log_config=None, access_log=logged, lifespan="off", ws="none",
                    timeout_graceful_shutdown=5, timeout_keep_alive=1,
                )  # fmt: skip
                servers.append(Server(config))
                ports.append(listening.getsockname()[1])
                group.create_task(servers[-1].serve([listening]))
            for server in servers:
                await server.ready.wait()
            try:
                yield Both(site, (ports[0], ports[1]), servers)
            finally:
                for server in servers:
                    server.should_exit = True
