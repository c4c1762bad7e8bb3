"""The rows: each sets both sides up as their own users would, and measures them in turns."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg
import redis.asyncio
import zstandard

from cachesvc.engine.cache import Cache
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.settings import load_settings
from tests import servers
from tests.bench.overload import overload
from tests.bench.records import UPSERT, records
from tests.bench.sides import Bounded, Row, Side, by_many, compare, on_the_other_core
from tests.bench.visibility import visibility

Measure = Callable[[Path | None, int, float], Awaitable[Sequence[Row | Bounded]]]


@asynccontextmanager
async def node(
    stack: AsyncExitStack, *, database: str, redis_url: str = "", memory: int = 100_000, **level: object
) -> AsyncIterator[Cache]:
    directory = stack.enter_context(TemporaryDirectory(prefix="cachesvc-bench-"))
    settings = load_settings(
        overrides={
            "server": {"data_dir": directory},
            "levels": {
                "memory": {"max_size": memory},
                "redis": {"enabled": bool(redis_url), "url": redis_url, "embedded": False},
                "database": {"url": database, **level},
            },
        },
        environ={},
    )
    async with opened(settings) as running:
        yield running.cache


async def fresh_database(server: servers.Server) -> str:
    name = f"bench_{uuid4().hex}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.url.removesuffix("/postgres") + f"/{name}"


async def load(cache: Cache, keys: list[Key], values: list[bytes]) -> None:
    drafts = [Draft(Operation.SET, key, values[i % len(values)]) for i, key in enumerate(keys)]
    for at in range(0, len(drafts), 2_000):
        await cache.write_many(drafts[at : at + 2_000])
        await cache.puts.drained()


async def in_process(file: Path | None, rounds: int, seconds: float) -> list[Row]:
    """`await cache.get()` of a hit in memory, against caches of one process."""
    from aiocache import SimpleMemoryCache  # noqa: PLC0415
    from cachebox import VTTLCache  # noqa: PLC0415
    from cashews import Cache as Cashews  # noqa: PLC0415
    from dogpile.cache import make_region  # noqa: PLC0415
    from theine import Cache as Theine  # noqa: PLC0415

    values = records(file)
    keys = [Key(f"product:{i}") for i in range(1_000)]
    rows = []
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(node(stack, database="sqlite:bench.db"))
        await load(cache, keys, values)
        cashews = Cashews()
        cashews.setup("mem://", size=10_000)
        aio: Any = SimpleMemoryCache()
        region = make_region().configure("dogpile.cache.memory")  # without an expiry to look at
        theine: Any = Theine(10_000)
        cachebox: Any = VTTLCache(10_000)
        for i, key in enumerate(keys):
            value = values[i % len(values)]
            await cashews.set(key, value, expire=300)
            await aio.set(key, value, ttl=300)
            region.set(key, value)
            theine.set(key, value, timedelta(minutes=5))
            cachebox.insert(key, value, 300)

        peers: list[tuple[str, Any, float]] = [
            ("cashews", _awaiting(cashews.get, keys), 6),
            ("aiocache", _awaiting(aio.get, keys), 20),
            ("dogpile.cache (synchronous)", _calling(region.get, keys), 1.5),
            ("theine (synchronous, Rust)", _calling(theine.get, keys), 0),
            ("cachebox (synchronous, Rust)", _calling(cachebox.get, keys), 0),
        ]
        for name, run, goal in peers:
            ours = Side("cachesvc", _awaiting(cache.get, keys))
            row = Row("`await cache.get()` in process, memory hit", ours, Side(name, run), goal)
            rows.append(await compare(row, rounds=rounds, seconds=seconds))
    return rows


def _awaiting(get: Callable[[Key], Awaitable[object]], keys: Sequence[Key]) -> Callable[[float], Awaitable[int]]:
    async def run(seconds: float) -> int:
        until, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            for key in keys:
                await get(key)
            done += len(keys)
            await asyncio.sleep(0)  # a node whose loop stands still for seconds takes itself for frozen
        return done

    return run


def _calling(get: Callable[[Key], object], keys: Sequence[Key]) -> Callable[[float], Awaitable[int]]:
    async def run(seconds: float) -> int:
        until, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            for key in keys:
                get(key)
            done += len(keys)
        return done

    return run


async def redis_hits(file: Path | None, rounds: int, seconds: float) -> list[Row]:
    """64 readers, each read a miss in memory and a hit in Redis, against redis-py with one GET each."""
    values = records(file)
    keys = [Key(f"product:{i}") for i in range(20_000)]
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            valkey = stack.enter_context(servers.valkey())
        database = "sqlite:bench.db"
        cache = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url, memory=100))
        await load(cache, keys, values)
        client = redis.asyncio.Redis.from_url(valkey.url, db=1)
        stack.push_async_callback(client.aclose)
        for i, key in enumerate(keys):
            await client.set(key, values[i % len(values)])
        before = cache.reads.counts.hits["redis"], cache.reads.counts.misses["redis"]
        row = Row(
            "64 concurrent readers, misses in memory, hits in Redis",
            Side("cachesvc", lambda s: by_many(64, s, lambda n: cache.get(keys[n % len(keys)]))),
            Side("redis-py, one GET each", lambda s: by_many(64, s, lambda n: client.get(keys[n % len(keys)]))),
            4,
        )
        await compare(row, rounds=rounds, seconds=seconds)
        hits = cache.reads.counts.hits["redis"] - before[0]
        misses = cache.reads.counts.misses["redis"] - before[1]
        if hits < 0.99 * (hits + misses):
            raise RuntimeError(f"only {hits} of {hits + misses} reads were hits in Redis")
    return [row]


async def database_hits(file: Path | None, rounds: int, seconds: float) -> list[Row]:
    """64 readers, each read a hit in PostgreSQL, against asyncpg with a pool of 16 and one SELECT each."""
    values = records(file)
    keys = [Key(f"product:{i}") for i in range(20_000)]
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            server = stack.enter_context(servers.postgres())
        cache = await stack.enter_async_context(node(stack, database=await fresh_database(server), memory=100))
        await load(cache, keys, values)
        pool = await stack.enter_async_context(asyncpg.create_pool(server.url, min_size=16, max_size=16))
        await pool.execute("CREATE TABLE plain (key text PRIMARY KEY, value bytea)")
        await pool.executemany(
            "INSERT INTO plain VALUES ($1, $2)", [(key, values[i % len(values)]) for i, key in enumerate(keys)]
        )
        await pool.execute("VACUUM ANALYZE plain")
        row = Row(
            "the same, hits in PostgreSQL",
            Side("cachesvc", lambda s: by_many(64, s, lambda n: cache.get(keys[n % len(keys)]))),
            Side(
                "asyncpg, pool of 16, one SELECT each",
                lambda s: by_many(
                    64, s, lambda n: pool.fetchval("SELECT value FROM plain WHERE key = $1", keys[n % len(keys)])
                ),
            ),
            8,
        )
        await compare(row, rounds=rounds, seconds=seconds)
    return [row]


async def writers(file: Path | None, rounds: int, seconds: float) -> list[Row]:
    """Write-through to PostgreSQL and Redis, durable, against an upsert and a SET each with a pool of 16."""
    return [await _writers(64, 3.0, file, rounds, seconds), await _writers(256, 4.0, file, rounds, seconds)]


async def _writers(many: int, goal: float, file: Path | None, rounds: int, seconds: float) -> Row:
    values = records(file)
    async with AsyncExitStack() as stack:
        with on_the_other_core():
            server = stack.enter_context(servers.postgres())
            valkey = stack.enter_context(servers.valkey())
        database = await fresh_database(server)
        cache = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url))
        pool = await stack.enter_async_context(asyncpg.create_pool(server.url, min_size=16, max_size=16))
        await pool.execute("CREATE TABLE plain (key text PRIMARY KEY, value bytea, updated timestamptz)")
        client = redis.asyncio.Redis.from_url(valkey.url, db=1, max_connections=2 * many)
        stack.push_async_callback(client.aclose)

        def write(n: int) -> Awaitable[object]:
            return cache.write(Draft(Operation.SET, Key(f"product:{n % 10_000}"), values[n % len(values)]))

        async def ours(seconds: float) -> int:
            done = await by_many(many, seconds, write)
            await cache.puts.drained()
            return done

        async def naive(n: int) -> None:
            key, value = f"product:{n % 10_000}", values[n % len(values)]
            await pool.execute(UPSERT, key, value)
            await client.set(key, value, ex=3600)

        row = Row(
            f"{many} concurrent writers, write-through to PostgreSQL and Redis, durable, with the log",
            Side("cachesvc", ours),
            Side("one upsert and one SET each, pool of 16", lambda s: by_many(many, s, naive)),
            goal,
        )
        await compare(row, rounds=rounds, seconds=seconds)
        if cache.puts.dropped:
            raise RuntimeError(f"{cache.puts.dropped} writes did not reach Redis")
    return row


async def bytes_in_redis(file: Path | None, rounds: int, seconds: float) -> list[Row]:
    """Bytes of small JSON records as they lie in Redis, half of them seen before; here the rates are bytes."""
    values = records(file)
    random.Random(7).shuffle(values)  # which half was seen is chance
    seen, measured = values[: len(values) // 2], values[len(values) // 2 :]
    numbers = count()
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(servers.valkey())
        database = "sqlite:bench.db"
        cache = await stack.enter_async_context(node(stack, database=database, redis_url=valkey.url))
        await load(cache, [Key(f"product:{next(numbers)}") for _ in seen], seen)
        maintain: Any = cache.redis
        for _ in range(3):
            await maintain.maintain()
        client = redis.asyncio.Redis.from_url(valkey.url)
        stack.push_async_callback(client.aclose)
        await client.config_resetstat()
        keys = [Key(f"product:{next(numbers)}") for _ in measured]
        await load(cache, keys, measured)
        stored = 0
        names = {f"product:{i}" for i in range(len(seen), len(values))}
        async for name in client.scan_iter(count=1_000):
            if (
                any(name.decode().endswith(":" + key) for key in names)
                or name.decode().split("}")[-1].split(":", 2)[-1] in names
            ):
                stored += await client.strlen(name)
    raw = sum(map(len, measured))
    plain = sum(len(zstandard.ZstdCompressor(level=3).compress(value)) for value in measured)
    return [
        _bytes_row("uncompressed", raw, stored, 3.5),
        _bytes_row("zstd without a dictionary", plain, stored, 2.5),
    ]


def _bytes_row(name: str, theirs: int, ours: int, goal: float) -> Row:
    async def nothing(_: float) -> int:
        return 0

    # fewer is better: the sides change places, so that the ratio says how many times smaller
    return Row(
        f"bytes in Redis ({ours:,} B), small JSON records",
        Side("cachesvc", nothing, [float(theirs)]),
        Side(f"{name}, bytes (left) ÷ ours", nothing, [float(ours)]),
        goal,
    )


ROWS: dict[str, Measure] = {
    "process": in_process,
    "redis": redis_hits,
    "postgres": database_hits,
    "writers": writers,
    "bytes": bytes_in_redis,
    "overload": overload,
    "visibility": visibility,
}
