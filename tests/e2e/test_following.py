"""Following: what is written on one node is served by the other, and an old value never returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from tests.e2e.services import connected, connected_to_each, node_of, put, started, version_of
from tests.processes.services import LIMIT

WRITES = 30


@asynccontextmanager
async def two_services(directory: Path, **settings: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A connection to each of two services over one database."""
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("a", "b"):
            _, url = stack.enter_context(started(directory / name, **settings))
            clients.append(await stack.enter_async_context(connected(url)))
        yield clients


async def write_and_watch(writer: httpx.AsyncClient, watcher: httpx.AsyncClient, key: str) -> None:
    """Each write is waited for on the other node; what was seen there is the least that it serves from then on."""
    seen = await version_of(watcher, key)
    for number in range(WRITES):
        version = await put(writer, key, {"number": number})
        assert await version_of(writer, key) == version
        async with asyncio.timeout(LIMIT):
            while seen < version:
                now = await version_of(watcher, key)
                assert now >= seen
                seen = now
        assert await version_of(watcher, key) == version


async def contend(client: httpx.AsyncClient, key: str) -> None:
    """Both nodes write one key: each sees versions that only rise."""
    seen = 0
    for number in range(WRITES):
        seen = max(seen, await put(client, key, {"number": number}))
        now = await version_of(client, key)
        assert now >= seen
        seen = now


async def check_following(clients: list[httpx.AsyncClient]) -> None:
    nodes = [await node_of(client) for client in clients]
    assert len(set(nodes)) == 2
    one, two = clients
    async with asyncio.TaskGroup() as group:
        group.create_task(write_and_watch(one, two, "from:one"))
        group.create_task(write_and_watch(two, one, "from:two"))
        group.create_task(contend(one, "both"))
        group.create_task(contend(two, "both"))
    async with asyncio.timeout(LIMIT):
        while await version_of(one, "both") != await version_of(two, "both"):
            pass
    assert [await node_of(client) for client in clients] == nodes


async def check_endings(one: httpx.AsyncClient, two: httpx.AsyncClient) -> None:
    """What was deleted, or is past its life, stays away on both nodes."""
    keys = ("deleted", "short")
    for key in keys:
        version = await put(one, key, 1)
        async with asyncio.timeout(LIMIT):
            while await version_of(two, key) < version:
                pass
    assert (await one.delete("/v1/cache/deleted")).status_code == 204
    await one.put("/v1/cache/short?ttl=0.01", json=2)
    async with asyncio.timeout(LIMIT):
        while await version_of(two, "deleted") or await version_of(two, "short"):
            pass
    for _ in range(20):
        assert [await version_of(client, key) for client in (one, two) for key in keys] == [0, 0, 0, 0]


async def test_two_services_over_postgresql(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    stores = {"levels__database__url": postgres_url, "levels__redis__url": valkey_url}
    async with two_services(tmp_path, **stores) as clients:
        await check_following(clients)


async def test_two_workers_over_sqlite(tmp_path: Path) -> None:
    with started(tmp_path, "--workers", "2") as (_, url):
        async with connected_to_each(url, 2) as clients:
            await check_following(clients)
            await check_endings(*clients)
