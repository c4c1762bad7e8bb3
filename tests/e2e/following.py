"""How soon a write on one node is served by the other, and how long a busy node waits to write.

    python -m tests.e2e.following [--writes 300]

A delay counts from the moment the writer has its answer until the other node answers with that version; nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests import servers
from tests.e2e.services import NO_REDIS, connected, connected_to_each, node_of, put, started, version_of

BUSY = 4  # writers on each node, one after the other's answer, without pause


async def delays(writer: httpx.AsyncClient, watcher: httpx.AsyncClient, writes: int) -> list[float]:
    """In seconds, for each write."""
    found = []
    for number in range(writes):
        key = f"watched:{number % 10}"
        version = await put(writer, key, number)
        told = time.perf_counter()
        while await version_of(watcher, key) < version:
            pass
        found.append(time.perf_counter() - told)
    return found


async def keep_writing(url: str, node: str, name: str, waits: list[float], stop: asyncio.Event) -> None:
    """Write without pause over a connection to that node; how long each write took."""
    while True:
        async with connected(url) as client:
            if await node_of(client) != node:
                continue
            number = 0
            while not stop.is_set():
                number += 1
                began = time.perf_counter()
                await put(client, f"busy:{name}:{number % 100}", number)
                waits.append(time.perf_counter() - began)
            return


@asynccontextmanager
async def busy(places: Sequence[tuple[str, str]], waits: list[list[float]]) -> AsyncIterator[None]:
    """Writers on each node, given as URL and name, while the block runs."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for (url, node), own in zip(places, waits, strict=True):
            for writer in range(BUSY):
                group.create_task(keep_writing(url, node, f"{node}:{writer}", own, stop))
        try:
            yield
        finally:
            stop.set()


def say(what: str, seconds: Sequence[float]) -> None:
    if seconds:
        ranked = sorted(seconds)
        p50, p99 = (ranked[min(len(ranked) - 1, int(len(ranked) * share))] * 1000 for share in (0.5, 0.99))
        print(
            f"{what:<58} {len(ranked):>6} × p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   max {ranked[-1] * 1000:7.1f} ms", flush=True
        )


async def measure(title: str, urls: Sequence[str], writes: int) -> None:
    """`urls` names a URL for each of the two nodes."""
    one_service = urls[0] == urls[1]
    async with connected_to_each(urls[0], 2 if one_service else 1) as first, connected(urls[1]) as second:
        clients = [first[0], first[1] if one_service else second]
        places = [(url, await node_of(client)) for url, client in zip(urls, clients, strict=True)]
        say(f"{title}: quiet", await delays(clients[0], clients[1], writes))
        waits: list[list[float]] = [[], []]
        async with busy(places, waits):
            say(f"{title}: {BUSY} other writers on each node", await delays(clients[0], clients[1], writes))
        for number, own in enumerate(waits):
            say(f"{title}: writes of the busy node {number}", own)


async def main(writes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cachesvc-following-") as name:
        places = [Path(name) / place for place in "abcdef"]
        with servers.postgres() as postgres, servers.valkey() as valkey:
            for title, redis in (("PostgreSQL", NO_REDIS), ("PostgreSQL, Valkey", {"levels__redis__url": valkey.url})):
                settings = {"levels__database__url": postgres.url, **redis}
                with started(places.pop(), **settings) as (_, one), started(places.pop(), **settings) as (_, two):
                    await measure(f"two services, {title}", (one, two), writes)
        for title, redis in (("SQLite", NO_REDIS), ("SQLite, Valkey", {})):
            with started(places.pop(), "--workers", "2", **redis) as (_, url):
                await measure(f"two workers, {title}", (url, url), writes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=300)
    asyncio.run(main(parser.parse_args().writes))
