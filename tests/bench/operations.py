"""The operator's tools over many keys in three tiers (Valkey and PostgreSQL): invalidation, its sweep, cascades, warming.

`BENCH_KEYS` says how many; the goals are set for 1,000,000 of them, and for 100,000 dependents and warmed keys.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import redis.asyncio

from cachesvc.engine.cache import Cache
from cachesvc.engine.invalidate import invalidate
from cachesvc.model.change import invalidate as draft_of
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.warming import Warming, WarmSource, pack_warming
from tests import servers
from tests.bench.prepared import fill, warm, warmer
from tests.bench.records import records
from tests.bench.rows import fresh_database, load, node
from tests.bench.sides import Bounded, by_many

SIZE = int(os.environ.get("BENCH_KEYS", "100000"))
DEPENDENTS = min(SIZE, 100_000)
DEEP = 1_000
READERS = 64
PATTERNS = 1_000


async def timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def operations(file: Path | None, rounds: int, seconds: float) -> list[Bounded]:
    """Everything on one pair of nodes, one after the other."""
    values = records(file)
    doomed = [Key(f"task:{i}") for i in range(SIZE)]
    others = [Key(f"note:{i}") for i in range(10_000)]
    async with AsyncExitStack() as stack:
        server = stack.enter_context(servers.postgres())
        valkey = stack.enter_context(servers.valkey())
        database = await fresh_database(server)
        dependents = [Key(f"wide:{i}") for i in range(DEPENDENTS)]
        deep = [Key(f"deep:{i}") for i in range(DEEP - 1)]
        cold = [Key(f"cold:{i}") for i in range(DEPENDENTS)]
        keys = [*doomed, *others, *cold, *dependents, *deep]
        parents = [""] * (len(keys) - len(dependents) - len(deep)) + ["root"] * len(dependents)
        await fill(database, keys, values, [*parents, "deep", *deep[:-1]])
        first = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url, memory=SIZE // 2))
        second = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url, memory=SIZE // 2))
        for one in (first, second):
            for pattern in ("note:*", "task:*", "wide:*", "deep:*"):
                await warm(one, pattern)
        client = redis.asyncio.Redis.from_url(valkey.url, db=1)
        stack.push_async_callback(client.aclose)
        pool = await stack.enter_async_context(asyncpg.create_pool(server.url, min_size=4, max_size=4))
        await pool.execute("CREATE TABLE plain (key text PRIMARY KEY, value bytea)")
        for at in range(0, SIZE, 10_000):
            some = doomed[at : at + 10_000]
            await client.mset({str(key): values[i % len(values)] for i, key in enumerate(some)})
            await pool.copy_records_to_table("plain", records=[(key, values[i % len(values)]) for i, key in enumerate(some)])

        async def read_others(seconds: float) -> float:
            began = time.perf_counter()
            done = await by_many(READERS, seconds, lambda n: first.get(others[n * 7 % len(others)]))
            return done / (time.perf_counter() - began)

        rows = []
        calm = await read_others(seconds)
        await gone_on(first, second, "nothing:*")  # what is made once in the life of a node is made
        await until(lambda: not any(one.floors.patterns.active for one in (first, second)))  # nor is it still swept
        ours = await gone_on(first, second, "task:*")
        swept = asyncio.create_task(until(lambda: not first.floors.patterns.active))
        during = await read_others(min(seconds, 1.0) if SIZE < 1_000_000 else seconds)
        still = not swept.done()
        await swept
        assert not any([await one.get(key) for one in (first, second) for key in doomed[:: SIZE // 100]])
        work = f"pattern over {SIZE:,} keys in three tiers: until no node serves a match"
        scanned = await timed(scan_unlink(client))
        deleted = await timed(pool.execute("DELETE FROM plain WHERE key LIKE 'task:%'"))
        by_hand = f"SCAN + UNLINK: {scanned:.2f} s, and DELETE … LIKE: {deleted:.2f} s"
        rows.append(Bounded(work, f"{ours * 1_000:.1f} ms", by_hand, (scanned + deleted) / ours, 500))
        name = "reads of other keys while it is swept" + ("" if still else " (the sweep ended first)")
        rows.append(Bounded(name, f"{during:,.0f} /s", f"before: {calm:,.0f} /s", during / calm, 0.8))
        rows += await cascades(first, second, len(deep))
        await ended(database)
        rows += await warmed(first, cold, others)
    rows.append(await many_patterns(values, rounds, seconds))
    return rows


async def gone_on(first: Cache, second: Cache, pattern: str) -> float:
    """Invalidate on one node; seconds until neither serves what matches. The answer comes later: it counts first."""
    began = time.perf_counter()
    asked = asyncio.create_task(invalidate(first, draft_of(Invalidation(pattern))))
    await until(lambda: all(node.floors.patterns.find(pattern) for node in (first, second)), every=0.0002)
    took = time.perf_counter() - began
    await asked
    return took


async def until(true: Callable[[], bool], *, every: float = 0.001) -> None:
    async with asyncio.timeout(1_800):
        while not true():
            await asyncio.sleep(every)


async def scan_unlink(client: redis.asyncio.Redis) -> None:
    batch: list[bytes] = []
    async for key in client.scan_iter(match="task:*", count=1_000):
        batch.append(key)
        if len(batch) == 1_000:
            await client.unlink(*batch)
            batch.clear()
    if batch:
        await client.unlink(*batch)


async def cascades(first: Cache, second: Cache, deep: int) -> list[Bounded]:
    """Wide: all depend on one key. Deep: each on the one before it."""
    rows = []
    shapes = {
        f"cascade over {DEPENDENTS:,} dependents, in effect on both nodes": ("root", DEPENDENTS),
        f"cascade {DEEP:,} levels deep": ("deep", deep),
    }
    for name, (root, reached) in shapes.items():
        began = time.perf_counter()
        done = await invalidate(first, draft_of(Invalidation(keys=(Key(root),), cascade=True)))
        version = done.written.receipt.version
        await until(lambda version=version: second.applied.sequence >= version)  # type: ignore[misc]
        took = time.perf_counter() - began
        assert done.written.receipt.cascaded == reached
        rows.append(Bounded(name, f"{took:.2f} s", "1 s", 1 / took))
    return rows


async def ended(database: str) -> None:
    """Wait until nothing is left to the sweep, which would be measured with what comes next."""
    connection = await asyncpg.connect(database)
    try:
        async with asyncio.timeout(1_800):
            while await connection.fetchval("SELECT count(*) FROM patterns WHERE retired = 0"):
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def warmed(cache: Cache, keys: Sequence[Key], others: Sequence[Key]) -> list[Bounded]:
    """Keys a second from the database, against reading them one by one, with the latency of who reads meanwhile."""
    one_by_one = keys[: min(2_000, len(keys))]

    async def reading() -> None:
        for key in one_by_one:
            assert await cache.get(key) is not None

    single = len(one_by_one) / await timed(reading())
    await cool(cache, one_by_one)
    half = len(others) // 2  # what was read before is in memory
    calm = await latency(cache, others[:half], asyncio.sleep(1.0))
    body = pack_warming(Warming(WarmSource.DATABASE, tuple(keys), rate=1e7))

    async def warming() -> None:
        async for job in warmer(cache).work(Job("", "warm", ""), body):
            assert job.counts["absent"] == 0

    began = time.perf_counter()
    busy = await latency(cache, others[half:], warming())
    rate = len(keys) / (time.perf_counter() - began)
    name = f"warming {len(keys):,} keys from the database"
    return [
        Bounded(f"{name}, as fast as it may", f"{rate:,.0f} /s", f"one by one: {single:,.0f} /s", rate / single, 10),
        # half of what it was is twice as long
        Bounded("p99 of reads from Redis meanwhile", f"{busy * 1e3:.1f} ms", f"before: {calm * 1e3:.1f} ms", calm / busy, 0.5),
    ]


async def cool(cache: Cache, keys: Sequence[Key]) -> None:
    """Leave these keys in the database only."""
    await cache.puts.drained()
    assert cache.redis is not None
    for at in range(0, len(keys), 500):
        await cache.redis.evict(keys[at : at + 500])
    cache.memory.clear()


async def latency(cache: Cache, keys: Sequence[Key], meanwhile: Awaitable[None]) -> float:
    """The 99th percentile of reads by one caller, a millisecond apart."""
    taken: list[float] = []
    work = asyncio.ensure_future(meanwhile)
    while not work.done():
        taken.append(await timed(cache.get(keys[len(taken) % len(keys)])))
        await asyncio.sleep(0.001)
    await work
    return sorted(taken)[int(len(taken) * 0.99)]


async def many_patterns(values: Sequence[bytes], rounds: int, seconds: float) -> Bounded:
    """Reads below memory with many patterns in force, against none; medians of rounds."""
    keys = [Key(f"product:{i}") for i in range(min(SIZE, 20_000))]
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(servers.valkey())
        caches: list[Cache] = []
        for _ in range(2):
            valkey_url = f"{valkey.url}/{len(caches)}"
            # a sweep that gets nowhere keeps all patterns active
            slow = node(stack, database="sqlite:bench.db", redis_url=valkey_url, memory=100, sweep_batch=1, sweep_pause=600.0)
            cache = await stack.enter_async_context(slow)
            await load(cache, [*keys, *(Key(f"filler:{i}") for i in range(10))], list(values))
            caches.append(cache)

        def read(cache: Cache, number: int) -> Awaitable[object]:
            return cache.get(keys[number * 7 % len(keys)])

        texts = ["filler:*", *(f"product{i % 7}:{i}*" for i in range(PATTERNS - 1))]
        await caches[1].write_many([draft_of(Invalidation(text)) for text in texts])
        rates: list[list[float]] = [[], []]
        for _ in range(rounds):
            for cache, of in zip(caches, rates, strict=True):
                began = time.perf_counter()
                done = await by_many(READERS, seconds, partial(read, cache))
                of.append(done / (time.perf_counter() - began))
        plain, held = (sorted(of)[len(of) // 2] for of in rates)
        in_force = caches[1].floors.patterns.active
    name = f"reads in Redis with {in_force:,} patterns in force"
    return Bounded(name, f"{held:,.0f} /s", f"with none: {plain:,.0f} /s", held / plain, 0.8)
