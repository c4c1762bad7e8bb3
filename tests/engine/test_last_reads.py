"""Why the last read of a key hit or missed, and how many keys are remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cachesvc.engine.cache import Cache
from cachesvc.engine.explain import MOST_DEPENDENTS, explain
from cachesvc.engine.last_reads import KEPT, LastRead, LastReads, Reason
from cachesvc.errors import Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from cachesvc.tiers.memory import MemoryTier
from tests.engine.conftest import Site, put

A = Key("a:1")
Forget = Callable[[Cache, str], None]


def why(cache: Cache, level: str, key: Key = A) -> Reason | None:
    last = cache.reads.last[level].of(key)
    return last.reason if last is not None else None


def test_the_latest_are_kept_and_no_more_than_twice_as_many() -> None:
    last = LastReads()
    for n in range(10 * KEPT):
        last.note(Key(f"k{n}"), Reason.HIT, float(n))
    assert last.of(Key(f"k{9 * KEPT}")) == (Reason.HIT, 9.0 * KEPT)
    assert sum(last.of(Key(f"k{n}")) is not None for n in range(10 * KEPT)) <= 2 * KEPT
    for n in range(20):
        last.note_many([Key(f"m{n}-{place}") for place in range(500)], Reason.HIT, float(n))
    assert sum(last.of(Key(f"m{n}-{place}")) is not None for n in range(20) for place in range(500)) <= 2 * (KEPT + 500)
    last.note(A, Reason.ABSENT, 1.0)
    last.note(A, Reason.HIT, 2.0)
    assert last.of(A) == (Reason.HIT, 2.0)
    assert last.of(Key("never")) is None


async def test_absent_deleted_and_hit(site: Site, forgotten: Forget) -> None:
    async with site.node() as cache:
        await cache.read(A)
        assert (why(cache, "redis"), why(cache, "database")) == (Reason.ABSENT, Reason.ABSENT)
        await cache.write(put(A))
        await cache.read(A)
        assert why(cache, "database") is Reason.ABSENT  # a hit in memory is not noted
        await cache.puts.drained()
        forgotten(cache, A)
        await cache.read(A)
        assert (why(cache, "redis"), why(cache, "database")) == (Reason.HIT, Reason.ABSENT)
        forgotten(cache, A)
        site.redis.entries.clear()
        await cache.read(A)
        assert (why(cache, "redis"), why(cache, "database")) == (Reason.ABSENT, Reason.HIT)
        await cache.write(Draft(Operation.DELETE, A))
        await cache.read(A)
        assert why(cache, "database") is Reason.DELETED


async def test_expired(site: Site, forgotten: Forget) -> None:
    async with site.node(redis=False) as cache:
        await cache.write(put(A, ttl=5.0))
        forgotten(cache, A)
        site.clock.advance(6.0)
        await cache.read(A)
        assert why(cache, "database") is Reason.EXPIRED
        assert cache.reads.last["database"].of(A) == (Reason.EXPIRED, site.clock.now())


async def no_dependents(name: str, *, limit: int) -> None:
    return None


async def test_what_memory_tells_though_its_hits_are_not_noted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.authority, "dependents", no_dependents, raising=False)
    memory = MemoryTier(ttl=300.0, max_size=10, max_bytes=1 << 20, clock=site.clock)
    async with site.node(redis=False, memory=memory) as cache:

        async def in_memory() -> LastRead | None:
            return (await explain(cache, A)).levels["memory"].last

        assert await in_memory() is None
        await cache.read(A)
        assert await in_memory() == (Reason.ABSENT, site.clock.now())
        site.clock.advance(1.0)
        written = site.clock.now()
        await cache.write(put(A, ttl=5.0))
        site.clock.advance(3.0)
        await cache.read(A)
        assert await in_memory() == (Reason.HIT, written)
        site.clock.advance(2.0)
        assert await in_memory() is None  # past its life, and not read since
        await cache.read(A)
        assert await in_memory() == (Reason.EXPIRED, site.clock.now())


async def test_below_the_floor_and_away(site: Site, forgotten: Forget) -> None:
    async with site.node() as cache, site.node() as other:
        await cache.write(put(A, b"1"))
        await cache.puts.drained()
        site.redis.gates["puts"].close()
        await other.write(put(A, b"2"))
        site.catch_up(cache)
        forgotten(cache, A)
        await cache.read(A)
        assert (why(cache, "redis"), why(cache, "database")) == (Reason.BELOW_FLOOR, Reason.HIT)
        site.redis.gates["puts"].open()
        site.redis.away = True
        for reason in (Reason.HIT, Reason.HIT, Reason.HIT):  # answers nothing, then is not asked
            forgotten(cache, A)
            await cache.read(A)
            assert (why(cache, "redis"), why(cache, "database")) == (Reason.AWAY, reason)
        site.authority.away = True
        forgotten(cache, A)
        with pytest.raises(Unavailable):
            await cache.read(A)
        assert why(cache, "database") is Reason.AWAY


class Origin:
    """A loader that has one key, or is away."""

    def __init__(self) -> None:
        self.away = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        if self.away:
            raise Unavailable("away")
        return {key: Loaded(b"1", "application/json") for key in keys if key == A}


async def test_loaders(site: Site) -> None:
    origin = Origin()
    async with site.node(loaders={"a": origin}) as cache:
        await cache.read(A)
        assert (why(cache, "database"), why(cache, "loader")) == (Reason.ABSENT, Reason.HIT)
        await cache.read(Key("a:2"))
        assert why(cache, "loader", Key("a:2")) is Reason.NOT_LOADED
        origin.away = True
        with pytest.raises(Unavailable):
            await cache.read(Key("a:3"))
        assert why(cache, "loader", Key("a:3")) is Reason.AWAY


async def test_dependents_are_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Key(f"d:{n}") for n in range(MOST_DEPENDENTS + 1)]

    async def dependents(name: str, *, limit: int) -> Any:
        return names[:limit]

    monkeypatch.setattr(site.authority, "dependents", dependents, raising=False)
    async with site.node() as cache:
        explanation = await explain(cache, A)
        assert (explanation.dependents, explanation.more_dependents) == (names[:MOST_DEPENDENTS], True)
        names.pop()
        explanation = await explain(cache, A)
        assert (explanation.dependents, explanation.more_dependents) == (names, False)
