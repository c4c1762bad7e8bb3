"""Interleavings that were once lost: each fails with the code as it was before its rule."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cachesvc.engine.cache import Limits
from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from tests.engine.conftest import Site, put
from tests.engine.stores import FakeAuthority

A, B = Key("a:1"), Key("a:2")


async def test_a_reader_that_comes_after_a_flight_landed_flies_anew(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A))
        await cache.puts.drained()
        cache.memory.clear()
        gate = site.authority.gates["asked"]
        gate.close()
        both = asyncio.create_task(cache.read_many([A, B]))  # A lands from Redis while B is held at the authority
        await gate.reached.wait()
        cache.memory.clear()
        async with asyncio.timeout(5):
            late = await cache.read(A)
        assert late.tier == "redis"
        gate.open()
        await both


async def test_a_reader_that_comes_after_a_flight_was_abandoned_flies_anew(site: Site) -> None:
    async with site.node(redis=False) as cache:
        await cache.write(put(A))
        cache.memory.clear()
        gate = site.authority.gates["asked"]
        lanes = Limits().read_lanes
        gate.close()
        held = [asyncio.create_task(cache.read(Key(f"b:{i}"))) for i in range(lanes)]
        for task in held:  # each takes a lane
            await asyncio.sleep(0)
            assert not task.done()
        gave_up = asyncio.create_task(cache.read(A))
        await asyncio.sleep(0)
        gave_up.cancel()
        await asyncio.sleep(0)
        again = asyncio.create_task(cache.read(A))
        await asyncio.sleep(0)
        gate.open()
        async with asyncio.timeout(5):
            answer = await again
            await asyncio.gather(*held)
        assert answer.entry is not None


async def test_a_horizon_that_moves_while_redis_is_asked(site: Site) -> None:
    async with site.node() as other, site.node(limits=Limits(floors=8)) as cache:
        await other.write(put(A, b"old"))
        await other.puts.drained()
        site.catch_up(cache)
        site.replay()
        old = site.redis.entries[A]
        await other.write(put(A, b"new"))
        for i in range(5):
            await other.write(put(f"b:{i}"))
        await other.puts.drained()
        site.catch_up(cache)
        site.redis.entries[A] = old  # the put of the new one was lost
        gate = site.redis.gates["answers"]
        gate.close()
        reading = asyncio.create_task(cache.read(A))
        await gate.reached.wait()
        for i in range(5, 12):
            await other.write(put(f"b:{i}"))
        site.catch_up(cache)
        assert cache.floors.floor(A) == 0  # forgotten, since the floors overflowed
        gate.open()
        answer = await reading
        assert answer.entry is not None
        assert answer.entry.value == b"new"


async def test_starting_over_keeps_the_floors_of_what_came_after(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"old"))
        await cache.puts.drained()
        old = site.redis.entries[A]
        head = site.authority.position  # asked for by a node that starts over …
        await cache.write(put(A, b"new"))  # … which writes meanwhile
        await cache.puts.drained()
        cache.start_over(head)
        site.redis.entries[A], site.redis.cursor = old, head
        answer = await cache.read(A)
        assert answer.entry is not None
        assert answer.entry.value == b"new"


async def test_a_value_that_the_log_does_not_hold_is_not_served_empty(site: Site) -> None:
    class InDoubt(FakeAuthority):
        async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
            appended = await super().append(drafts, batch=batch)
            looked_up = [_without_value(change) for change in appended.changes]
            return Appended(appended.before, batch, looked_up, appended.outcomes)

    site.authority = InDoubt()
    async with site.node() as cache:
        await cache.write(put(A, b"x" * 70_000))
        await cache.puts.drained()
        answer = await cache.read(A)
        assert answer.entry is not None
        assert len(answer.entry.value) == 70_000


async def test_a_loader_that_hangs_holds_up_nobody_else(site: Site) -> None:
    released = asyncio.Event()

    class Hangs:
        async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
            await released.wait()
            return {}

    async with site.node(loaders={"slow": Hangs()}) as cache:
        await cache.write(put(A))
        await cache.puts.drained()
        cache.memory.clear()
        hung = [asyncio.create_task(cache.read(Key(f"slow:{i}"))) for i in range(20)]
        for _ in range(20):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert (await cache.read(A)).tier == "redis"
            cache.memory.clear()
            site.redis.entries.clear()
            assert (await cache.read(A)).tier == "database"
        released.set()
        await asyncio.gather(*hung)


def _without_value(change: Change) -> Change:
    assert change.entry is not None
    return change._replace(entry=change.entry._replace(value=b""), value_held=False)
