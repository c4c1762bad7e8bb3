"""Invalidation in the engine: in force in one step, on this node and on those that follow."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.engine import floors
from cachesvc.engine.cache import Limits
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq
from tests.engine.conftest import Site, put

A, B = Key("a:1"), Key("b:1")


def wipe(pattern: str = "", *keys: Key) -> Draft:
    return invalidate(Invalidation(pattern, keys))


async def test_what_is_older_is_gone_at_once_on_the_node_that_invalidates(site: Site) -> None:
    async with site.node() as cache:
        await cache.write_many([put(A), put(B)])
        await cache.puts.drained()
        await cache.write(wipe("a:*"))
        assert await cache.get(A) is None
        assert await cache.get(B) is not None
        await cache.write(put(A, b"2"))
        found = await cache.get(A)
        assert found is not None
        assert found.value == b"2"


async def test_redis_is_passed_by_for_what_a_pattern_kills(site: Site) -> None:
    async with site.node() as one, site.node() as other:
        await one.write_many([put(A), put(B)])
        await one.puts.drained()
        site.catch_up(other)
        await one.write(wipe("a:*"))
        assert (await other.read(A)).tier == "redis"  # it has not heard of it
        site.catch_up(other)
        assert (await other.read(A)).entry is None
        assert A in site.redis.entries
        assert (await other.read(B)).tier == "redis"


async def test_keys_that_are_named_are_gone(site: Site) -> None:
    async with site.node() as one, site.node() as other:
        await one.write_many([put(A), put(B)])
        site.catch_up(other)
        await other.read_many([A, B])
        await one.write(wipe("", A))
        site.catch_up(other)
        for cache in (one, other):
            assert await cache.get(A) is None
            assert await cache.get(B) is not None


async def test_a_slow_read_does_not_put_it_back(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A))
        await cache.puts.drained()
        cache.memory.clear()
        site.redis.entries.clear()
        gate = site.authority.gates["answers"]
        gate.close()
        slow = asyncio.create_task(cache.read(A))
        await gate.reached.wait()  # the row was read
        await cache.write(wipe("a:*"))
        gate.open()
        assert (await slow).entry is None
        assert cache.memory.peek(A) is None
        await cache.puts.drained()
        assert A not in site.redis.entries


async def test_a_retired_pattern_is_known_until_the_horizon_has_passed(site: Site) -> None:
    async with site.node(limits=Limits(floors=4)) as cache:
        await cache.write(put(A))
        sequence = (await cache.write(wipe("a:*"))).receipt.version
        await cache.write(invalidate(Invalidation("a:*", retires=Seq(sequence))))
        site.catch_up(cache)
        assert cache.floors.floor(A) == sequence
        for number in range(8):
            await cache.write(Draft(Operation.SET, Key(f"c:{number}"), b"1"))
        site.catch_up(cache)
        assert cache.floors.horizon.sequence > sequence
        assert len(cache.floors.patterns) == 0


async def test_retired_patterns_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "MAX_RETIRED", 4)
    async with site.node() as cache:
        for number in range(10):
            sequence = (await cache.write(wipe(f"{number}*"))).receipt.version
            await cache.write(invalidate(Invalidation(f"{number}*", retires=Seq(sequence))))
            site.catch_up(cache)
            assert len(cache.floors.patterns) <= 5
        assert cache.floors.horizon.sequence > site.authority.base.sequence
