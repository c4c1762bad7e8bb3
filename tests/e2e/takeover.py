"""How soon a node that was killed is forgotten, and another has its duties: `taken_over`, for the test and the benchmark."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Set
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.e2e.services import NO_REDIS, connected, kill_at_once, started
from tests.processes.services import LIMIT


class Takeover(NamedTuple):
    """Seconds after the kill, and the duties that were taken over."""

    forgotten: float
    taken_over: float
    duties: Set[str]


async def taken_over(directory: Path, database: str, **settings: str) -> Takeover:
    """Two nodes over a PostgreSQL: the one that holds all duties is killed, the other is asked again and again."""
    settings |= NO_REDIS | {"levels__database__url": database}
    async with AsyncExitStack() as stack:
        doomed, first = stack.enter_context(started(directory / "a", **settings))
        holder = await stack.enter_async_context(connected(first))
        async with asyncio.timeout(LIMIT):
            while len(await _held(holder)) < len(await _all(holder)):
                await asyncio.sleep(0.02)
        duties = await _held(holder)
        _, second = stack.enter_context(started(directory / "b", **settings))
        other = await stack.enter_async_context(connected(second))
        async with asyncio.timeout(LIMIT):
            while await _nodes(other) < 2:
                await asyncio.sleep(0.02)
        kill_at_once(doomed.process.pid)
        killed = time.perf_counter()
        forgotten = found = 0.0
        async with asyncio.timeout(LIMIT):
            while not (forgotten and found):
                await asyncio.sleep(0.02)
                if not forgotten and await _nodes(other) == 1:
                    forgotten = time.perf_counter() - killed
                if not found and await _held(other) >= duties:
                    found = time.perf_counter() - killed
        return Takeover(forgotten, found, duties)


async def _nodes(client: httpx.AsyncClient) -> int:
    return len((await client.get("/v1/nodes")).json()["nodes"])


async def _all(client: httpx.AsyncClient) -> Set[str]:
    return set((await client.get("/v1/stats")).json()["duties"])


async def _held(client: httpx.AsyncClient) -> Set[str]:
    return {name for name, duty in (await client.get("/v1/stats")).json()["duties"].items() if duty["held"]}
