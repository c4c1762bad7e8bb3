"""The proxy does to connections what it is told to, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.faults import proxy
from tests.faults.proxy import Proxy

LIMIT = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo(asyncio.Protocol):
    """Answers with what it hears."""

    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard.append(data)
        self._transport.write(data)


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Proxy, list[bytes]]]:
    """A proxy before a server that answers with what it hears, and what it has heard."""
    heard: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(lambda: Echo(heard), "127.0.0.1", 0)
    async with server, proxy.opened(server.sockets[0].getsockname()[1]) as opened:
        yield opened, heard
        opened.heal()
        opened.cut()
        while opened.links:
            await asyncio.sleep(0)


async def ask(streams: Streams, word: bytes) -> bytes:
    streams[1].write(word)
    async with asyncio.timeout(LIMIT):
        return await streams[0].read(100)


@asynccontextmanager
async def connected(to: Proxy) -> AsyncIterator[Streams]:
    streams = await asyncio.open_connection("127.0.0.1", to.port)
    try:
        yield streams
    finally:
        streams[1].close()
        with suppress(OSError):
            await streams[1].wait_closed()


async def test_passes_on_both_ways() -> None:
    async with echoing() as (between, heard), connected(between) as streams:
        assert await ask(streams, b"word") == b"word"
        assert heard == [b"word"]


async def test_cuts_what_is_open_and_refuses_what_is_new() -> None:
    async with echoing() as (between, _), connected(between) as before:
        await ask(before, b"word")
        between.refusing = True
        between.cut()
        async with connected(between) as meanwhile:
            for streams in (before, meanwhile):
                with pytest.raises(ConnectionError):
                    assert await ask(streams, b"more") == b"never"
        between.heal()
        async with connected(between) as after:
            assert await ask(after, b"word") == b"word"


async def test_what_is_held_arrives_when_it_is_healed() -> None:
    async with echoing() as (between, heard), connected(between) as streams:
        await ask(streams, b"one")
        between.hold()
        streams[1].write(b"two")
        await asyncio.sleep(0.05)  # for it to pass, if it could
        assert heard == [b"one"]
        between.heal()
        assert await ask(streams, b"") == b"two"


@pytest.mark.parametrize(("commits", "arrives"), [("before", []), ("after", [b"COMMIT"])])
async def test_cuts_a_commit(commits: proxy.Commits, arrives: list[bytes]) -> None:
    async with echoing() as (between, heard), connected(between) as streams:
        between.commits = commits
        with pytest.raises(ConnectionError):
            assert await ask(streams, b"COMMIT") == b"never"
        assert heard == arrives


async def test_only_who_listens_is_deaf() -> None:
    async with echoing() as (between, heard), connected(between) as listening, connected(between) as other:
        between.deafen()
        listening[1].write(b"LISTEN")
        assert await ask(other, b"word") == b"word"
        async with asyncio.timeout(LIMIT):
            while b"LISTEN" not in heard:
                await asyncio.sleep(0)
        between.cut(lambda link: link.listens)
        with pytest.raises(ConnectionError):
            assert await ask(listening, b"") == b"never"
        assert await ask(other, b"word") == b"word"


async def test_a_target_that_is_away() -> None:
    async with echoing() as (between, _):
        between.target = 1
        async with connected(between) as streams:
            with pytest.raises(ConnectionError):
                assert await ask(streams, b"word") == b"never"
