"""How soon a write on one node is served by the other, and how long a busy node waits to write.

    python -m tests.e2e.following [--writes 300]

A delay counts from the moment the writer has its answer until the other node answers with that version; nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx

from tests import servers
from tests.e2e.services import NO_REDIS, connected, connected_to_each, node_of, put, started, version_of
from tests.processes.services import LIMIT

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


async def keep_writing(url: str, node: str, name: str, stop: Event) -> list[float]:
    """Write without pause over a connection to that node; how long each write took."""
    while True:
        async with connected(url) as client:
            if await node_of(client) != node:
                continue
            waits: list[float] = []
            while not stop.is_set():
                began = time.perf_counter()
                await put(client, f"busy:{name}:{len(waits) % 100}", len(waits))
                waits.append(time.perf_counter() - began)
            return waits


def keep_busy(url: str, node: str, stop: Event, told: Queue[list[float]]) -> None:
    """The writers on one node, in a process of their own, so that they do not hold up who measures."""

    async def write() -> list[list[float]]:
        return await asyncio.gather(*(keep_writing(url, node, f"{node}:{writer}", stop) for writer in range(BUSY)))

    told.put([wait for waits in asyncio.run(write()) for wait in waits])


@contextmanager
def busy(url: str, node: str) -> Iterator[list[float]]:
    """Writers on a node while the block runs; after it, how long each of their writes took."""
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.Queue()
    writers = context.Process(target=keep_busy, args=(url, node, stop, told))
    waits: list[float] = []
    writers.start()
    try:
        yield waits
    finally:
        stop.set()
        waits += told.get(timeout=LIMIT)
        writers.join(LIMIT)


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
        names = [await node_of(client) for client in clients]
        say(f"{title}: quiet", await delays(clients[0], clients[1], writes))
        with busy(urls[0], names[0]) as first_waits, busy(urls[1], names[1]) as second_waits:
            say(f"{title}: {BUSY} writers without pause on each", await delays(clients[0], clients[1], writes))
        say(f"{title}: writes of one busy node", first_waits)
        say(f"{title}: writes of the other", second_waits)


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
