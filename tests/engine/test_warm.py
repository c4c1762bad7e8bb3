"""Warming, over the real engine: what goes up, what does not, and how it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from cachesvc.engine import warm as module
from cachesvc.engine.cache import Cache
from cachesvc.engine.warm import Warmer
from cachesvc.errors import InvalidInput, JobFailed, TierUnavailable, Unavailable
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.warming import Warming, WarmSource, keys_of, pack_warming, unpack_warming
from cachesvc.ports import Loaded
from cachesvc.tiers.memory import MemoryTier
from tests.engine.stores import FakeRedis
from tests.fakes import FakeClock
from tests.web.site import Store

K = Key


class Site:
    def __init__(self, cache: Cache, store: Store, redis: FakeRedis, memory: MemoryTier, clock: FakeClock) -> None:
        self.cache, self.store, self.redis, self.memory, self.clock = cache, store, redis, memory, clock
        self.hot: Sequence[Key] = ()

    async def _hot(self, node: str, limit: int) -> Sequence[Key]:
        if node == "gone":
            raise JobFailed("the node gone is not there")
        return self.hot[:limit]

    async def put(self, *keys: str, value: bytes = b"1", **more: Any) -> None:
        await self.cache.write_many([Draft(Operation.SET, K(key), value, **more) for key in keys])

    async def cold(self) -> None:
        await self.cache.puts.drained()
        self.memory.clear()
        self.redis.entries.clear()
        self.store.gets.clear()

    async def warm(self, source: str, job: Job | None = None, **more: Any) -> list[Job]:
        """Every step of a warm-up, the clock moving on whenever it rests."""
        warming = Warming(WarmSource(source), **more)
        assert unpack_warming(pack_warming(warming)) == warming
        warmer = Warmer(self.cache, self.clock, hot=self._hot)
        steps: list[Job] = []

        async def run() -> None:
            async with aclosing(warmer.work(job or Job("j", "warm", ""), pack_warming(warming))) as work:
                async for step in work:
                    steps.append(step)

        running = asyncio.create_task(run())
        while not running.done():
            await asyncio.sleep(0)
            if self.clock.sleepers:
                self.clock.advance(0.05)
        await running
        return steps


@asynccontextmanager
async def opened(*, room: int = 100, loaders: Any = None) -> AsyncIterator[Site]:
    clock = FakeClock()
    store = Store(clock)
    redis = FakeRedis(store.position)
    memory = MemoryTier(ttl=300.0, max_size=room, max_bytes=1 << 20, clock=clock)
    cache = Cache(
        memory=memory,
        redis=redis,
        authority=store,
        start=store.position,
        clock=clock,
        new_batch=iter(f"{number:032x}" for number in range(10_000)).__next__,
        loaders=loaders,
        appended=lambda made: cache.apply(made.changes),
    )
    lanes = [asyncio.create_task(_run(lane)) for lane in cache.lanes()]
    try:
        yield Site(cache, store, redis, memory, clock)
    finally:
        cache.close()
        await asyncio.wait(lanes)


async def _run(lane: Any) -> None:
    await lane


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as site:
        yield site


async def test_by_keys_from_the_authority_with_one_read_a_batch(site: Site) -> None:
    await site.put("a", "b", "c")
    await site.cold()
    [step] = await site.warm("database", keys=(K("a"), K("none"), K("c")))
    assert (step.done, step.total, step.counts) == (3, 3, {"warmed": 2, "skipped": 0, "absent": 1})
    assert site.store.gets == [["a", "none", "c"]]
    assert set(site.redis.entries) == {"a", "c"}
    assert [key for key, _ in site.memory.hot(9)] == ["c", "a"]
    site.store.gets.clear()
    assert (await site.cache.read(K("a"))).tier == "memory"
    assert site.store.gets == []


async def test_by_pattern_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    await site.put("t:1", "t:2", "t:3", "n:1")
    await site.put("t:2b", ttl=1.0)
    await site.cold()
    site.clock.advance(2.0)
    steps = await site.warm("database", pattern="t:*")
    assert [(step.done, step.total, step.checkpoint) for step in steps] == [(2, 3, "t:2"), (3, 3, "t:3")]
    assert set(site.redis.entries) == {"t:1", "t:2", "t:3"}


async def test_a_page_of_large_values_is_read_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    await site.put("a", "b", "c", value=b"x" * 60)
    await site.cold()
    assert [step.done for step in await site.warm("database", pattern="*")] == [1, 2, 3]


async def test_it_goes_on_from_where_it_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    keys = tuple(K(f"k{number}") for number in range(5))
    await site.put(*keys)
    for more in ({"keys": keys}, {"pattern": "k*"}):
        await site.cold()
        first, *_ = await site.warm("database", **more)
        await site.cold()
        last = (await site.warm("database", first, **more))[-1]
        assert (last.done, last.counts["warmed"]) == (5, 5)
        assert set(site.redis.entries) == {"k2", "k3", "k4"}


async def test_memory_keeps_what_is_hot() -> None:
    async with opened(room=2) as site:
        await site.put("a", "b", "c", "d")
        await site.cold()
        await site.cache.read(K("a"))
        before = (await site.memory.stats()).evictions
        [step] = await site.warm("database", keys=(K("b"), K("c"), K("d")))
        assert step.counts["warmed"] == 3
        assert set(site.redis.entries) >= {"b", "c", "d"}
        assert [key for key, _ in site.memory.hot(9)] == ["b", "a"]
        assert (await site.memory.stats()).evictions == before


async def test_what_comes_nowhere_since_redis_is_away_is_an_error() -> None:
    async with opened(room=2) as site:
        await site.put("a", "b", "c", "d")
        await site.cold()
        site.redis.away = True
        [step] = await site.warm("database", keys=(K("a"), K("b"), K("c"), K("d"), K("none")))
        assert (step.done, step.counts, step.error_count) == (5, {"warmed": 2, "skipped": 0, "absent": 1}, 2)
        assert [key for key, _ in step.errors] == ["c", "d"]


async def test_nothing_newer_is_replaced(site: Site) -> None:
    """The authority has answered; before that reaches memory and Redis, the key is written and another invalidated."""
    await site.put("a", "b", "c", value=b"old")
    await site.cold()
    site.store.gates["answers"].close()
    warming = asyncio.create_task(site.warm("database", keys=(K("a"), K("b"), K("c"))))
    await site.store.gates["answers"].reached.wait()
    await site.put("a", value=b"new")
    await site.cache.write(invalidate(Invalidation("b*")))
    site.store.gates["answers"].open()
    [step] = await warming
    assert step.counts == {"warmed": 1, "skipped": 2, "absent": 0}
    await site.cache.puts.drained()
    held: Mapping[Key, Entry] = site.redis.entries
    assert held[K("a")].value == b"new"
    assert "b" not in held
    assert [(key, site.memory.peek(K(key)).value if site.memory.peek(K(key)) else None) for key in "abc"] == [  # type: ignore[union-attr]
        ("a", b"new"),
        ("b", None),
        ("c", b"old"),
    ]


class Origin:
    """A loader that notes how many keys it is asked for at once."""

    def __init__(self) -> None:
        self.calls: list[list[Key]] = []
        self.fails: dict[Key, Exception] = {}

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        self.calls.append(list(keys))
        for key in keys:
            if key in self.fails:
                raise self.fails[key]
        return {key: Loaded(b"1", JSON) for key in keys if "none" not in key}


async def test_through_a_loader() -> None:
    origin = Origin()
    async with opened(loaders={"p": origin}) as site:
        await site.put("p:1")
        keys = tuple(K(f"p:{name}") for name in ("1", "2", "3", "none", "5"))
        steps = await site.warm("loader", keys=keys, concurrency=2)
        assert steps[-1].counts == {"warmed": 3, "skipped": 1, "absent": 1}
        assert [step.done for step in steps] == [2, 4, 5]
        assert max(map(len, origin.calls)) <= 2
        assert (await site.store.get([K("p:5")], horizon=site.cache.applied))[K("p:5")].source == "loader"


async def test_what_a_loader_cannot_give_is_told_by_key() -> None:
    origin = Origin()
    origin.fails = {K("p:2"): Unavailable("loader p: no answer within 5 s"), K("p:3"): TierUnavailable("loader p", "TypeError")}
    async with opened(loaders={"p": origin}) as site:
        keys = tuple(K(f"p:{number}") for number in range(1, 5))
        last = (await site.warm("loader", keys=keys, concurrency=1))[-1]
        assert (last.done, last.counts["warmed"], last.error_count) == (4, 2, 2)
        assert last.errors == (("p:2", "loader p: no answer within 5 s"), ("p:3", "loader p: TypeError"))


@pytest.mark.parametrize("source", ["loader", "database"])
async def test_while_the_authority_is_away_it_waits(source: str) -> None:
    async with opened(loaders={"p": Origin()}) as site:
        await site.put("p:1")
        await site.cold()
        site.store.away = True
        with pytest.raises(TierUnavailable):
            await site.warm(source, keys=(K("p:1"),))


async def test_from_a_peer(site: Site) -> None:
    await site.put("a", "b", "c")
    await site.cold()
    site.hot = [K("c"), K("none"), K("a")]
    [step] = await site.warm("peer")
    assert (step.total, step.counts["warmed"], step.counts["absent"]) == (3, 2, 1)
    await site.cold()
    [step] = await site.warm("peer", pattern="c*")
    assert list(site.redis.entries) == ["c"]
    with pytest.raises(JobFailed, match="gone"):
        await site.warm("peer", peer="gone")


async def test_from_a_peer_nothing_is_left_out_when_it_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer ranks its keys anew in between, or it is another peer."""
    monkeypatch.setattr(module, "BATCH", 2)
    keys = [K(f"k{number}") for number in range(5)]
    await site.put(*keys)
    await site.cold()
    site.hot = keys
    first, *_ = await site.warm("peer")
    await site.cold()
    site.hot = keys[::-1]
    last = (await site.warm("peer", first))[-1]
    assert (last.done, last.total, last.counts["warmed"]) == (5, 5, 5)
    assert set(site.redis.entries) == set(keys)


async def test_the_pace_is_kept(site: Site) -> None:
    keys = tuple(K(f"k{number}") for number in range(40))
    await site.put(*keys)
    await site.cold()
    began = site.clock.monotonic()
    steps = await site.warm("database", keys=keys, rate=20.0)
    assert len(steps) == 8  # a quarter of a second each, and no pause after the last
    assert 1.75 <= site.clock.monotonic() - began < 2.0


async def test_a_redis_that_is_away_is_passed_by(site: Site) -> None:
    await site.put("a")
    await site.cold()
    site.redis.away = True
    [step] = await site.warm("database", keys=(K("a"),))
    assert step.counts["warmed"] == 1
    assert [key for key, _ in site.memory.hot(9)] == ["a"]


def test_keys_of_a_module() -> None:
    assert keys_of("{module}:{userId}:{dataType}", "p", "u1", ["a", "b", "a"]) == ("p:u1:a", "p:u1:b")
    assert keys_of("{module}:v2/{dataType}@{userId}", "p", "{dataType}", ["a"]) == ("p:v2/a@{dataType}",)
    with pytest.raises(InvalidInput, match=r"dataTypes\[1\]"):
        keys_of("{module}:{userId}:{dataType}", "p", "u", ["a", "b\n"])
    with pytest.raises(InvalidInput, match="module"):
        keys_of("{module}:{userId}:{dataType}", "p:q", "u", ["a"])
