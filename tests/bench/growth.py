"""How the cost of an operation grows with keys by tier, values, tags, dependencies, patterns, subscriptions and nodes.

What it costs is CPU time of this process, so that what others on the machine take does not count. `BENCH_KEYS` is the most
keys of any curve, 100,000 unless set, and `BENCH_MEMORY_KEYS` the most in memory; each curve has a step for each power of ten.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import uvloop

from cachesvc.engine.cache import Cache
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.node.__main__ import GARBAGE
from cachesvc.node.building import opened
from cachesvc.realtime.hub import Index
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.resources import parse_resource
from cachesvc.realtime.stream import Subscription
from cachesvc.settings import load_settings
from tests import servers
from tests.bench.http import connections
from tests.bench.prepared import fill, warm
from tests.bench.records import records
from tests.bench.rows import fresh_database, load, node
from tests.bench.sides import Curve, by_many, on_the_other_core

MOST = int(os.environ.get("BENCH_KEYS", "100000"))
IN_MEMORY = int(os.environ.get("BENCH_MEMORY_KEYS", str(MOST)))
CALLERS = 64
COUNTS = (0, 8, 32, 128)
SIZES = (100, 1_000, 10_000, 100_000)


def steps(most: int) -> list[int]:
    """The powers of ten from 1,000 up to there."""
    return [10**power for power in range(3, 10) if 10**power <= most]


async def cpu(work: Callable[[], Awaitable[int]]) -> float:
    """Microseconds of this process's CPU for each of the operations that were done; the least of three times."""
    found = []
    for _ in range(3):
        began = time.process_time()
        done = await work()
        found.append((time.process_time() - began) / done * 1e6)
    return min(found)


async def of_memory(file: Path | None, rounds: int, seconds: float) -> list[Curve]:
    """With the keys in memory."""
    return await _memory(records(file))


async def of_tiers(file: Path | None, rounds: int, seconds: float) -> list[Curve]:
    """With the keys in the tiers below."""
    return await _tiers(records(file), seconds)


async def of_entries(file: Path | None, rounds: int, seconds: float) -> list[Curve]:
    """With what is in an entry, and with the patterns in force."""
    return await _entries(records(file), seconds)


async def of_followers(file: Path | None, rounds: int, seconds: float) -> list[Curve]:
    """With who is there beside the keys."""
    return [*_subscriptions(), await _nodes(records(file), seconds), await connections(rounds, seconds)]


@asynccontextmanager
async def alone(keys: int) -> AsyncIterator[Cache]:
    """A node that has nothing but its memory."""
    off = {"enabled": False}
    memory = {"max_size": 2 * keys + 1_000, "max_bytes": "16GiB", "ttl": "1d"}
    levels = {"memory": memory, "redis": off, "database": off}
    async with opened(load_settings(overrides={"levels": levels, "log": {"max_count": 1_000}}, environ={})) as running:
        yield running.cache


async def _memory(values: list[bytes]) -> list[Curve]:
    """Each size in a process of its own: what one has given back the next would be given, and its keys would weigh nothing."""
    hits, held = Curve("a hit in memory", "keys in memory"), Curve("a key in memory", "keys in memory", "bytes")
    context = multiprocessing.get_context("spawn")
    for size in steps(IN_MEMORY):
        with ProcessPoolExecutor(1, context) as process:
            took, bytes_of_key = await asyncio.get_running_loop().run_in_executor(process, _of_size, size, values)
        hits.points.append((size, took))
        held.points.append((size, bytes_of_key))
    return [hits, held]


def _of_size(size: int, values: list[bytes]) -> tuple[float, float]:
    """Microseconds of a hit with so many keys in memory, and bytes of each of them."""
    gc.set_threshold(*GARBAGE)
    return uvloop.run(_hits(size, values))


async def _hits(size: int, values: list[bytes]) -> tuple[float, float]:
    async with alone(size) as cache:
        await load(cache, [Key(f"before:{i}") for i in range(1_000)], values)  # what a node itself takes on
        before = psutil.Process().memory_info().rss
        keys = [Key(f"product:{i}") for i in range(size)]
        await load(cache, keys, values)
        held = (psutil.Process().memory_info().rss - before) / size
        some = keys[:: max(1, size // 1_000)]

        async def read() -> int:
            for _ in range(20):
                for key in some:
                    await cache.get(key)
            return 20 * len(some)

        assert all([await cache.get(key) for key in some])
        return await cpu(read), held


async def _tiers(values: list[bytes], seconds: float) -> list[Curve]:
    """Reads of Redis and PostgreSQL, and writes through both, each size with servers of its own."""
    redis_hits, database_hits = Curve("a hit in Redis", "keys in Redis"), Curve("a hit in PostgreSQL", "keys in PostgreSQL")
    writes = Curve("a write through all three tiers", "keys in them")
    in_redis, in_database = (Curve(f"a key in {name}", f"keys in {name}", "bytes") for name in ("Redis", "PostgreSQL"))
    for size in steps(MOST):
        async with AsyncExitStack() as stack:
            with on_the_other_core():
                server = stack.enter_context(servers.postgres())
                valkey = stack.enter_context(servers.valkey())
            database = await fresh_database(server)
            keys = [Key(f"product:{i}") for i in range(size)]
            await fill(database, keys, values, [""] * size)
            over_both = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url, memory=100))
            over_one = await stack.enter_async_context(node(stack, database=database, memory=100))
            await warm(over_both, "product:*")
            assert over_both.redis is not None
            for curve, tier in ((in_redis, over_both.redis), (in_database, over_both.authority)):
                curve.points.append((size, ((await tier.stats()).bytes or 0) / size))
            for curve, cache in ((redis_hits, over_both), (database_hits, over_one)):
                curve.points.append((size, await cpu(partial(_read, cache, keys, seconds / 2))))
            writes.points.append((size, await cpu(partial(_write, over_both, keys, values, seconds / 2))))
    return [redis_hits, database_hits, writes, in_redis, in_database]


async def _read(cache: Cache, keys: Sequence[Key], seconds: float) -> int:
    return await by_many(CALLERS, seconds, lambda n: cache.get(keys[n * 7_919 % len(keys)]))


async def _write(cache: Cache, keys: Sequence[Key], values: Sequence[bytes], seconds: float) -> int:
    def draft(n: int) -> Draft:
        return Draft(Operation.SET, keys[n * 7_919 % len(keys)], values[n % len(values)])

    done = await by_many(CALLERS, seconds, lambda n: cache.write(draft(n)))
    await cache.puts.drained()
    return done


async def _entries(values: list[bytes], seconds: float) -> list[Curve]:
    """What is in an entry: its size, its tags, its parents; and the patterns in force."""
    tags, parents = Curve("a write", "tags of the entry", bound="proportion"), Curve("a write", "parents", bound="proportion")
    size_w, size_r = Curve("a write", "bytes of the value", bound="proportion"), Curve("a hit in memory", "bytes of the value")
    patterns = Curve("a hit in memory", "patterns in force")
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            server = stack.enter_context(servers.postgres())
        cache = await stack.enter_async_context(node(stack, database=await fresh_database(server)))

        async def written(seconds: float, **more: Any) -> int:
            value = more.pop("value", values[0])
            return await by_many(
                CALLERS, seconds, lambda n: cache.write(Draft(Operation.SET, Key(f"a:{n % 1_000}"), value, **more))
            )

        for number in COUNTS:
            named = tuple(f"tag-{i}" for i in range(number))
            tags.points.append((number, await cpu(lambda named=named: written(seconds / 4, tags=named))))  # type: ignore[misc]
            above = tuple(Key(f"p:{i}") for i in range(number))
            parents.points.append(
                (number, await cpu(lambda above=above: written(seconds / 4, parents=above)))  # type: ignore[misc]
            )
        hot = Key("hot")

        async def read() -> int:
            for _ in range(20_000):
                await cache.get(hot)
            return 20_000

        for size in SIZES:
            value = os.urandom(size)
            size_w.points.append((size, await cpu(lambda value=value: written(seconds / 4, value=value))))  # type: ignore[misc]
            await cache.write(Draft(Operation.SET, hot, value))
            size_r.points.append((size, await cpu(read)))
        made = 0
        for number in (10, 100, 1_000):
            await cache.write_many([invalidate(Invalidation(pattern=f"none:{made + i}:*")) for i in range(number - made)])
            made = number
            patterns.points.append((number, await cpu(read)))
    return [size_r, size_w, tags, parents, patterns]


def _subscriptions() -> list[Curve]:
    """Who is told of a change: half follow a key each, half a glob of their own."""
    finding, adding = (Curve(work, "subscriptions of a node") for work in ("finding who follows a key", "subscribing"))
    modules, nobody = Modules(), Any
    index = Index()
    for size in steps(MOST):
        made = [
            Subscription(nobody, parse_resource(text, modules, field="resource"), {}, 0.0, number)  # type: ignore[arg-type]
            for number in range(index.size, size)
            for text in [f"task:{number}" if number % 2 else f"cache:task:{number}:*"]
        ]
        for subscription in made[:-1_000]:
            index.add(subscription)
        began = time.process_time()
        for subscription in made[-1_000:]:
            index.add(subscription)
        adding.points.append((size, (time.process_time() - began) / min(len(made), 1_000) * 1e6))
        keys = [Key(f"task:{number * 7_919 % size}:title") for number in range(10_000)]
        found = []
        for _ in range(3):
            began = time.process_time()
            for key in keys:
                for _subscription in index.covering(key):
                    pass
            found.append((time.process_time() - began) / len(keys) * 1e6)
        finding.points.append((size, min(found)))
    return [finding, adding]


async def _nodes(values: list[bytes], seconds: float) -> Curve:
    """Nodes that follow the same log, all in this process: what one write costs all of them."""
    curve = Curve("a write, at all nodes together", "nodes", bound="proportion")
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            server = stack.enter_context(servers.postgres())
        database = await fresh_database(server)
        caches: list[Cache] = []
        for number in (1, 2, 4):
            while len(caches) < number:
                caches.append(await stack.enter_async_context(node(stack, database=database)))

            async def write() -> int:
                drafts = (Draft(Operation.SET, Key(f"a:{n}"), values[n % len(values)]) for n in count())
                done = await by_many(CALLERS, seconds / 2, lambda _: caches[0].write(next(drafts)))
                head = await caches[0].authority.head()
                while any(cache.applied < head for cache in caches):
                    await asyncio.sleep(0.01)
                return done

            curve.points.append((number, await cpu(write)))
    return curve
