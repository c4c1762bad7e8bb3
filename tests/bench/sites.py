"""What other sites cost, and how far they are behind: the digest beside writes, following at several rates; workers beside it.

`--rows sites`. The workers need `wrk`.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import count
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.settings import load_settings
from tests import servers
from tests.bench.digests import fill
from tests.bench.operations import SIZE
from tests.bench.records import records
from tests.bench.rows import fresh_database
from tests.bench.sides import Bounded, Row, Side, by_many, compare, on_the_other_core
from tests.e2e.services import started
from tests.e2e.takeover import Takeover, taken_over
from tests.sites.deployments import deployed
from tests.sites.network import network

WRITERS: Final = 64
RATES: Final = (50, 200, 1_000)  # writes a second
LAG: Final = 1.0  # seconds
KILLED: Final = 3  # nodes
NOTICED: Final = 5.0  # seconds until a dead one is forgotten
TAKEN: Final = 10.0  # and its duties are taken over
WORKERS: Final = (1, 2, 4)
NOBODY: Final = "http://127.0.0.1:9"  # where no other site is


async def sites(file: Path | None, rounds: int, seconds: float) -> list[Row | Bounded]:
    """The tree at start, its share of a write, how far a site is behind, workers."""
    lags = [await _lag(rate, seconds) for rate in RATES]
    taken = await _taken_over()
    return [await _built(), await _beside_writes(file, rounds, seconds), *lags, *taken, *await _workers(seconds)]


async def _built() -> Bounded:
    async with network("berlin", "oslo") as both:
        fill(both["berlin"].store, SIZE)
        began = time.perf_counter()
        await both["berlin"].keeper.current()
        took = time.perf_counter() - began
    bound = 10e-6 * SIZE
    return Bounded(f"digest tree of {SIZE:,} keys, built without the scan", f"{took:.2f} s", f"{bound:.2f} s", bound / took)


async def _beside_writes(file: Path | None, rounds: int, seconds: float) -> Row:
    """Two nodes of sites with another; one keeps its digest, since it was asked for it."""
    values, numbers = records(file), count()
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            server = stack.enter_context(servers.postgres())
        nodes = [await stack.enter_async_context(_node(stack, await fresh_database(server))) for _ in range(2)]
        assert nodes[0].sites is not None
        await nodes[0].sites.keeper.current()

        def writing(node: Node, seconds: float) -> Awaitable[int]:
            def write(_: int) -> Awaitable[object]:
                number = next(numbers)
                return node.cache.write(Draft(Operation.SET, Key(f"product:{number % 10_000}"), values[number % len(values)]))

            return by_many(WRITERS, seconds, write)

        row = Row(
            f"{WRITERS} concurrent writers to PostgreSQL, the digest kept beside",
            Side("cachesvc", lambda s: writing(nodes[0], s)),
            Side("the same without a digest", lambda s: writing(nodes[1], s)),
            0.95,
        )
        await compare(row, rounds=rounds, seconds=seconds)
    return row


def _node(stack: AsyncExitStack, database: str) -> AbstractAsyncContextManager[Node]:
    directory = stack.enter_context(TemporaryDirectory(prefix="cachesvc-bench-"))
    peers = {"oslo": {"url": NOBODY, "secret": "a secret of a site that is not there"}}
    levels = {"redis": {"enabled": False}, "database": {"url": database}}
    overrides = {"server": {"data_dir": directory}, "cluster": {"site": "berlin"}, "sites": {"peers": peers}, "levels": levels}
    return opened(load_settings(overrides=overrides, environ={}))


async def _lag(rate: int, seconds: float) -> Bounded:
    """Two sites over SQLite: the age of what one has taken in last from the other, looked at again and again."""
    seen: list[float] = []
    with TemporaryDirectory(prefix="cachesvc-bench-") as directory:
        async with deployed(Path(directory), "berlin", "oslo") as (berlin, oslo):
            ended = asyncio.Event()

            async def look() -> None:
                while not ended.is_set():
                    before = (await oslo.stats("berlin"))["taken"]
                    await asyncio.sleep(0.05)
                    counts = await oslo.stats("berlin")
                    if counts["taken"] > before:
                        seen.append(counts["lag"])

            async with asyncio.TaskGroup() as group:
                group.create_task(look())
                began, done = time.perf_counter(), 0
                async with httpx.AsyncClient(base_url=berlin.url, trust_env=False) as client:
                    while (now := time.perf_counter() - began) < 2 * seconds:
                        due = int(now * rate) + 1 - done
                        operations = [{"operation": "set", "key": f"k:{(done + n) % 5_000}", "value": n} for n in range(due)]
                        if operations:
                            await client.post("/v1/batch", json={"operations": operations})
                        done += due
                        await asyncio.sleep(0.01)
                ended.set()
    cuts = quantiles(seen, n=100)
    told = f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms ({len(seen)} looks)"
    return Bounded(f"a site is behind another that makes {rate:,} writes a second", told, f"{LAG:g} s at p99", LAG / cuts[98])


async def _taken_over() -> list[Bounded]:
    """As the settings are by default; the longest of a few."""
    found: list[Takeover] = []
    with servers.postgres() as server:
        for _ in range(KILLED):
            with TemporaryDirectory(prefix="cachesvc-bench-") as directory:
                found.append(await taken_over(Path(directory), await fresh_database(server)))
    forgotten, taken = max(one.forgotten for one in found), max(one.taken_over for one in found)
    return [
        Bounded(
            f"a killed node is forgotten, at most of {KILLED}", f"≤ {forgotten:.1f} s", f"{NOTICED:g} s", NOTICED / forgotten
        ),
        Bounded(f"its duties are taken over, {KILLED} times", f"≤ {taken:.1f} s", f"{TAKEN:g} s", TAKEN / taken),
    ]


async def _workers(seconds: float) -> list[Bounded]:
    wrk = shutil.which("wrk")
    if wrk is None:
        return []
    rates: dict[int, float] = {}
    for workers in WORKERS:
        with (
            TemporaryDirectory(prefix="cachesvc-bench-") as directory,
            started(Path(directory), "--workers", str(workers), levels__redis__enabled="false") as (_, url),
        ):
            httpx.put(f"{url}/v1/cache/key", json=1)
            command = (wrk, "-t1", "-c32", f"-d{max(1, round(2 * seconds))}", f"{url}/v1/cache/key")
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            said, _ = await process.communicate()
        found = re.search(rb"Requests/sec:\s*([0-9.]+)", said)
        assert found is not None, said
        rates[workers] = float(found[1])
    return [
        Bounded(
            f"hits over HTTP with {workers} workers, wrk on the same two cores",
            f"{rate:,.0f} /s",
            f"linear: {workers * rates[1]:,.0f} /s",
            rate / (workers * rates[1]),
        )
        for workers, rate in rates.items()
        if workers > 1
    ]
