"""A database with very many entries in it, as a service would have left it that wrote them, and trimmed its log since.

Only how they come there is another: by COPY. From there the service itself brings them up into Redis and memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import asyncpg

from cachesvc.engine.cache import Cache
from cachesvc.engine.warm import Warmer
from cachesvc.model.change import Draft, Operation
from cachesvc.model.entry import JSON, Entry, content_hash, pack_details
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.model.warming import Warming, WarmSource, pack_warming
from cachesvc.tiers.database import values_of_entry
from cachesvc.tiers.schema import dependencies, entries
from tests.bench.rows import node

LIFE = 86_400.0


async def fill(database: str, keys: Sequence[Key], values: Sequence[bytes], parents: Sequence[str]) -> None:
    """Entries under these keys, in a database that no node has open; each depends on the parent at its place, "" for none."""
    async with AsyncExitStack() as stack:  # which makes the tables, and begins the log
        await stack.enter_async_context(node(stack, database=database))
    connection = await asyncpg.connect(database)
    try:
        now = time.time()
        head: int = await connection.fetchval("SELECT head FROM log_state")
        digests = [content_hash(JSON, value) for value in values]

        def row(place: int, key: Key) -> tuple[object, ...]:
            at = place % len(values)
            version = Version(head + 1 + place)
            entry = Entry(key, version, values[at], JSON, now, now, now + LIFE, digests[at])
            if parents[place]:
                entry = entry._replace(parents=(parents[place],))
            return values_of_entry(entry, pack_details(entry))

        columns = [column.name for column in entries.c]
        await connection.copy_records_to_table(
            "entries", records=(row(place, key) for place, key in enumerate(keys)), columns=columns
        )
        depending = [(key, parent) for key, parent in zip(keys, parents, strict=True) if parent]
        named = [column.name for column in dependencies.c]
        await connection.copy_records_to_table("dependencies", records=depending, columns=named)
        await connection.execute("UPDATE log_state SET head = head + $1, trimmed_to = head + $1", len(keys))
        await connection.execute("DELETE FROM changes")
        await connection.execute("ANALYZE entries, dependencies")
    finally:
        await connection.close()
    async with AsyncExitStack() as stack:  # trimming leaves the last record, by which Redis is known to be of this log
        cache = await stack.enter_async_context(node(stack, database=database))
        await cache.write(Draft(Operation.SET, Key("last"), b"{}"))


def warmer(cache: Cache) -> Warmer:
    """One that has no peers to ask."""

    async def none(_node: str, _limit: int) -> Sequence[Key]:
        return ()

    return Warmer(cache, cache.clock, hot=none)


async def warm(cache: Cache, pattern: str) -> None:
    """Bring what matches up from the database, as fast as it goes."""
    async for _ in warmer(cache).work(
        Job("", "warm", ""), pack_warming(Warming(WarmSource.DATABASE, pattern=pattern, rate=1e7))
    ):
        pass
