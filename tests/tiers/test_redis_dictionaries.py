"""Dictionaries across the nodes that share a Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from tests.fakes import FakeClock
from tests.tiers.shelf import AT, MemoryShelf, redis_tier, vouch


async def test_values_are_compressed_with_a_dictionary_that_every_node_finds(valkey_url: str) -> None:
    shelf, clock = MemoryShelf(), FakeClock(time.time())
    now = clock.now()
    values = [b'{"id": %d, "name": "someone %d", "state": "open", "labels": ["a", "b"]}' % (i, i * 7) for i in range(400)]

    def entries(version: int) -> Sequence[Entry]:
        return [
            Entry(Key(f"task:{i}"), Version(version), value, JSON, now, now, now + 3_600, content_hash(JSON, value))
            for i, value in enumerate(values)
        ]

    async with redis_tier(valkey_url, clock, dictionaries=shelf) as tier:
        await tier.put(entries(1_500), token=AT)
        await tier.maintain()
        assert len(shelf.rows) == 1
        await tier.put(written := entries(1_501), token=AT)
        counts = (await tier.stats()).extra
        assert counts["bytes_stored"] < counts["bytes_put"]
        async with redis_tier(valkey_url, clock, at=None, dictionaries=shelf, compression=False) as other:
            await vouch(other)
            assert await other.get([entry.key for entry in written], horizon=AT) == {entry.key: entry for entry in written}
        async with redis_tier(valkey_url, clock, at=None) as stranger:
            await vouch(stranger)
            assert await stranger.get([entry.key for entry in written], horizon=AT) == {}
            assert (await stranger.stats()).extra["dictionary_unknown"] == len(written)
        assert len(await tier.get([entry.key for entry in written], horizon=AT)) == len(written)  # and left alone
