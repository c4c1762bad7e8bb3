"""The engine over fake stores: falling through, sharing, combining, and the interleavings that would lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import pytest

from cachesvc.engine.answers import Want
from cachesvc.engine.cache import Cache, Limits
from cachesvc.errors import Overloaded, Refusal, Refused, TierUnavailable, Unavailable
from cachesvc.model.change import ABSENT, Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Loaded
from tests.engine.conftest import Site, put

A = Key("a:1")
Forget = Callable[[Cache, str], None]


async def test_a_read_falls_through_the_tiers_and_promotes(site: Site, forgotten: Forget) -> None:
    async with site.node() as cache:
        assert (await cache.read(A)).entry is None
        await cache.write(put(A, b"7"))
        assert (await cache.read(A)).tier == "memory"
        await cache.puts.drained()
        forgotten(cache, A)
        assert (await cache.read(A)).tier == "redis"
        assert (await cache.read(A)).tier == "memory"
        forgotten(cache, A)
        site.redis.entries.clear()
        answer = await cache.read(A)
        assert answer.tier == "database"
        assert answer.entry is not None
        assert answer.entry.value == b"7"
        await cache.puts.drained()
        forgotten(cache, A)
        assert (await cache.read(A)).tier == "redis"


async def test_callers_of_one_key_share_one_read(site: Site) -> None:
    async with site.node() as cache:
        answers = await asyncio.gather(*(cache.get(A) for _ in range(50)))
        assert answers == [None] * 50
        assert len(site.authority.gets) == 1
        assert cache.reads.counts.joined == 49


async def test_one_callers_cancellation_leaves_the_others(site: Site) -> None:
    async with site.node(redis=False) as cache:
        await cache.write(put(A))
        cache.memory.clear()
        site.authority.gates["asked"].close()
        first, second = asyncio.create_task(cache.get(A)), asyncio.create_task(cache.get(A))
        await site.authority.gates["asked"].reached.wait()
        first.cancel()
        site.authority.gates["asked"].open()
        assert await second is not None
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_the_keys_of_one_tick_go_out_together(site: Site) -> None:
    keys = [Key(f"k:{i}") for i in range(100)]
    async with site.node() as cache:
        await cache.read_many(keys)
        assert [sorted(batch) for batch in site.redis.gets] == [sorted(keys)]
        assert [sorted(batch) for batch in site.authority.gets] == [sorted(keys)]
        await asyncio.gather(*(cache.write(put(key)) for key in keys))
        assert site.authority.batches == [100]


async def test_a_flight_that_began_before_a_write_is_not_joined_after_it(site: Site) -> None:
    async with site.node(redis=False) as cache:
        await cache.write(put(A, b"1"))
        cache.memory.clear()
        site.authority.gates["answers"].close()
        early = asyncio.create_task(cache.read(A))
        await site.authority.gates["answers"].reached.wait()
        await cache.write(put(A, b"2"))
        cache.memory.clear()  # evicted at once
        coming = asyncio.create_task(cache.read(A))
        async with asyncio.timeout(5):
            while len(site.authority.gets) < 2:
                await asyncio.sleep(0)
        site.authority.gates["answers"].open()
        late = await coming
        assert cache.reads.counts.joined == 0
        assert late.entry is not None
        assert late.entry.value == b"2"
        early_answer = await early
        assert early_answer.entry is not None
        assert early_answer.entry.value == b"2"  # what it had read was overtaken: it read again


async def test_a_slow_reader_does_not_put_the_old_value_back(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"1"))
        await cache.puts.drained()
        cache.memory.clear()
        site.redis.entries.clear()
        site.authority.gates["answers"].close()
        slow = asyncio.create_task(cache.read(A))
        await site.authority.gates["answers"].reached.wait()
        deleting = asyncio.create_task(cache.write(Draft(Operation.DELETE, A)))
        await deleting
        site.authority.gates["answers"].open()
        assert (await slow).entry is None
        assert cache.memory.peek(A) is None
        await cache.puts.drained()
        assert A not in site.redis.entries


async def test_a_reader_that_found_nothing_before_a_write_reads_again(site: Site) -> None:
    async with site.node(redis=False) as cache:
        site.authority.gates["answers"].close()
        slow = asyncio.create_task(cache.read(A))
        await site.authority.gates["answers"].reached.wait()
        await cache.write(put(A, b"2"))
        site.authority.gates["answers"].open()
        answer = await slow
        assert answer.entry is not None
        assert answer.entry.value == b"2"


async def test_an_entry_of_redis_below_its_floor_is_a_miss(site: Site) -> None:
    async with site.node() as here, site.node() as there:
        await there.write(put(A, b"1"))
        await there.puts.drained()
        old = site.redis.entries[A]
        site.catch_up(here)
        await there.write(put(A, b"2"))
        await there.puts.drained()
        site.catch_up(here)
        site.redis.entries[A] = old  # a Redis that was away while the second was put
        answer = await here.read(A)
        assert answer.tier == "database"
        assert answer.entry is not None
        assert answer.entry.value == b"2"


async def test_what_was_seen_is_the_floor_even_before_its_change_is_applied(site: Site, forgotten: Forget) -> None:
    async with site.node() as here, site.node() as there:
        await there.write(put(A, b"1"))
        await there.puts.drained()
        site.catch_up(here)
        old = site.redis.entries[A]
        await there.write(put(A, b"2"))
        await there.puts.drained()
        seen = await here.read(A)
        assert seen.entry is not None
        assert seen.entry.value == b"2"
        assert here.applied.sequence < seen.entry.version
        forgotten(here, A)
        site.redis.entries[A] = old
        again = await here.read(A)
        assert again.entry is not None
        assert again.entry.value == b"2"


async def test_a_forgotten_floor_makes_old_readers_read_again(site: Site) -> None:
    async with site.node(limits=Limits(floors=2)) as cache:
        await cache.write(put(A, b"1"))
        cache.apply(site.authority.log)
        cache.memory.clear()
        site.redis.entries.clear()
        gate = site.authority.gates["answers"]
        gate.close()
        slow = asyncio.create_task(cache.read(A))
        await gate.reached.wait()
        # another node writes; here the change is applied and its floor forgotten again
        async with site.node(redis=False) as there:
            await there.write(put(A, b"2"))
            for i in range(4):
                await there.write(put(f"b:{i}"))
        site.catch_up(cache)
        assert cache.floors.floor(A) == 0
        gate.open()
        answer = await slow
        assert answer.entry is not None
        assert answer.entry.value == b"2"


async def test_redis_behind_the_horizon_is_not_believed(site: Site) -> None:
    async with site.node(limits=Limits(floors=2)) as cache:
        await cache.write(put(A, b"1"))
        await cache.puts.drained()
        old = site.redis.entries[A]
        async with site.node(redis=False) as there:
            await there.write(put(A, b"2"))
            for i in range(4):
                await there.write(put(f"b:{i}"))
        site.catch_up(cache)
        site.redis.entries[A] = old
        assert (await cache.read(A)).tier == "database"
        cache.memory.clear()
        site.redis.entries[A] = old
        site.replay()
        assert A not in site.redis.entries


async def test_mixed_writes_of_one_tick_on_one_key(site: Site) -> None:
    async with site.node() as cache:
        outcomes = await cache.write_many(
            [
                Draft(Operation.INCREMENT, A, amount=Decimal("0.1")),
                Draft(Operation.INCREMENT, A, amount=Decimal("0.2")),
                put(A, b"9", expected=ABSENT),
                Draft(Operation.INCREMENT, Key("t"), amount=Decimal(10) ** 60),
                put("t", b'"text"'),
                Draft(Operation.INCREMENT, Key("t")),
                Draft(Operation.DELETE, A),
                put(A, b"5", expected=ABSENT),
            ]
        )
        refused = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Refused)]
        assert refused == [2, 5]
        assert site.authority.batches == [8]
        entry = await cache.get(A)
        assert entry is not None
        assert entry.value == b"5"


async def test_a_fill_token_refuses_what_changed_since(site: Site) -> None:
    async with site.node() as cache:
        miss = await cache.read(A)
        await cache.write(put(A, b"2"))
        with pytest.raises(Refused) as caught:
            await cache.write(put(A, b"1", token=miss.token))
        assert caught.value.code is Refusal.STALE_FILL
        child = await cache.read(Key("child"))
        await cache.write(put("parent", b"2"))
        with pytest.raises(Refused, match="parent changed since"):
            await cache.write(put("child", b"1", token=child.token, parents=("parent",)))


class CountingLoader:
    def __init__(self) -> None:
        self.calls: list[list[Key]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        self.calls.append(list(keys))
        await self.hold.wait()
        return {key: Loaded(b"0", "application/json") for key in keys if not key.endswith("none")}


async def test_a_miss_calls_the_loader_once_and_keeps_what_it_gives(site: Site) -> None:
    loader = CountingLoader()
    async with site.node(loaders={"a": loader}) as cache:
        entries = await asyncio.gather(*(cache.get(A) for _ in range(20)))
        assert {entry.value for entry in entries if entry is not None} == {b"0"}
        assert loader.calls == [[A]]
        assert site.authority.rows[A].value == b"0"
        assert (await cache.read(Key("a:none"))).entry is None
        assert (await cache.read(Key("a:2"), Want(only_cached=True))).entry is None
        assert len(loader.calls) == 2


async def test_a_loaded_value_that_was_overtaken_is_not_kept(site: Site) -> None:
    loader = CountingLoader()
    async with site.node(loaders={"a": loader}) as cache:
        loader.hold.clear()
        loading = asyncio.create_task(cache.read(A))
        while not loader.calls:
            await asyncio.sleep(0)
        await cache.write(put(A, b"new"))
        loader.hold.set()
        answer = await loading
        assert answer.entry is not None
        assert answer.entry.value == b"new"


async def test_min_version_waits_then_asks_the_authority_then_gives_up(site: Site) -> None:
    async with site.node(limits=Limits(min_version_wait=0.02)) as here, site.node() as there:
        written = await there.write(put(A, b"2"))
        version = written.receipt.version
        waiting = asyncio.create_task(here.read(A, Want(min_version=version)))
        await asyncio.sleep(0)
        site.catch_up(here)
        answer = await waiting
        assert answer.entry is not None
        assert answer.entry.version == version
        later = (await there.write(put(A, b"3"))).receipt.version
        site.clock.advance(1)
        asked = await here.read(A, Want(min_version=later))
        assert asked.entry is not None
        assert asked.entry.version == later
        assert asked.tier == "database"
        with pytest.raises(Unavailable, match="not known here"):
            await here.read(A, Want(min_version=Version(later + 1)))


async def test_a_redis_that_is_away_is_left_alone_and_harms_nobody(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"1"))
        await cache.puts.drained()
        site.redis.away = True
        for _ in range(10):
            cache.memory.clear()
            assert (await cache.read(A)).tier == "database"
            await cache.write(put("b:1"))
            await cache.puts.drained()
        assert cache.breaker.state == "open"
        assert cache.breaker.opened == 1
        site.redis.away = False
        site.clock.advance(10)
        cache.memory.clear()
        assert (await cache.read(A)).tier == "redis"
        assert cache.breaker.state == "closed"


async def test_an_authority_that_is_away_fails_reads_and_writes_and_changes_nothing(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"1"))
        site.authority.away = True
        with pytest.raises(TierUnavailable):
            await cache.write(put(A, b"2"))
        held = await cache.get(A)
        assert held is not None
        assert held.value == b"1"
        with pytest.raises(TierUnavailable):
            await cache.get(Key("other"))


async def test_a_full_queue_refuses_at_once(site: Site) -> None:
    async with site.node(limits=Limits(pending_writes=2)) as cache:
        site.authority.gates["commits"].close()
        under_way = [asyncio.create_task(cache.write(put(A)))]
        await site.authority.gates["commits"].reached.wait()
        under_way += [asyncio.create_task(cache.write(put(A))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await cache.write(put(A))
        site.authority.gates["commits"].open()
        await asyncio.gather(*under_way)


async def test_starting_over_forgets_everything(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"1"))
        site.authority.base = Position(Epoch(8), Seq(10_000))
        site.authority.log.clear()
        site.authority.rows.clear()
        cache.start_over(site.authority.position)
        site.redis.away = True
        assert (await cache.read(A)).entry is None
        written = await cache.write(put(A, b"2"))
        assert written.receipt.version == 10_001


async def test_a_stale_entry_is_served_only_when_asked_for(site: Site) -> None:
    async with site.node() as cache:
        await cache.write(put(A, b"1", ttl=10.0))
        site.clock.advance(15)
        site.authority.now += 15
        assert (await cache.read(A)).entry is None
        stale = await cache.read(A, Want(max_stale=10.0))
        assert stale.entry is not None
        assert stale.ttl == -5
        assert (await cache.read(A, Want(max_stale=3.0))).entry is None
        cache.memory.clear()
        assert (await cache.read(A, Want(max_stale=10.0))).entry is not None
