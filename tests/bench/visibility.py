"""How soon an acknowledged write is in force on four nodes.

Each node is a process over one PostgreSQL and one Valkey. From each a stream of its changes is read: an event comes when
the node has applied the change, from when on it serves nothing older. A delay counts from when the writer had read its answer
until the last of the four has told; what was told before the answer counts as 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests import servers
from tests.bench.sides import Bounded
from tests.e2e.following import busy
from tests.e2e.services import connected, node_of, put, started, version_of
from tests.processes.services import LIMIT

NODES = 4
GOAL = 0.05  # seconds, at the 99th percentile


class Watcher:
    """When a node has told of each change of what is watched."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}
        self._came = asyncio.Event()

    def note(self, sequence: int) -> None:
        self.seen[sequence] = time.perf_counter()
        self._came.set()

    async def when(self, sequence: int) -> float:
        async with asyncio.timeout(LIMIT):
            while sequence not in self.seen:
                self._came.clear()
                await self._came.wait()
        return self.seen[sequence]


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    async with connected(url) as client, client.stream("GET", "/v1/changes?pattern=watched:*") as stream:
        lines = stream.aiter_lines()
        while not (await anext(lines)).startswith("id:"):  # where it begins
            pass

        async def read() -> None:
            async for line in lines:
                if line.startswith("id:"):
                    watcher.note(int(line.rsplit(":", 1)[1]))

        reading = asyncio.create_task(read())
        try:
            yield watcher
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def delays(
    writer: httpx.AsyncClient, others: Sequence[httpx.AsyncClient], watchers: Sequence[Watcher], count: int
) -> list[float]:
    found = []
    for number in range(count):
        key = f"watched:{number % 10}"
        version = await put(writer, key, number)
        told = time.perf_counter()
        last = max([await watcher.when(version) for watcher in watchers])
        found.append(max(0.0, last - told))
        for other in others:
            if await version_of(other, key) < version:
                raise RuntimeError("a node served less than it had told of")
    return sorted(found)


def _row(what: str, found: Sequence[float]) -> Bounded:
    p50, p99 = (found[min(len(found) - 1, int(len(found) * share))] for share in (0.5, 0.99))
    says = f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, max {found[-1] * 1000:.1f} ms ({len(found)} writes)"
    return Bounded(f"acknowledged write to visibility on four nodes, {what}", says, "50 ms at p99", GOAL / max(p99, 1e-6))


async def visibility(_: Path | None, rounds: int, seconds: float) -> list[Bounded]:
    count = int(100 * rounds * seconds / 2)
    with TemporaryDirectory(prefix="cachesvc-bench-") as name, servers.postgres() as postgres, servers.valkey() as valkey:
        async with AsyncExitStack() as stack:
            urls = [
                stack.enter_context(
                    started(Path(name) / str(n), levels__database__url=postgres.url, levels__redis__url=valkey.url)
                )[1]
                for n in range(NODES)
            ]
            watchers = [await stack.enter_async_context(watching(url)) for url in urls]
            clients = [await stack.enter_async_context(connected(url)) for url in urls]
            quiet = await delays(clients[0], clients[1:], watchers, count)
            with busy(urls[0], await node_of(clients[0])), busy(urls[1], await node_of(clients[1])):
                loud = await delays(clients[0], clients[1:], watchers, count)
    return [_row("quiet", quiet), _row("with 8 writers without pause on two of them", loud)]
