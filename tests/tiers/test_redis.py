"""The rules of the Redis tier, one by one, on real servers. What every tier promises is in the conformance suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import pytest
import redis

from cachesvc.model.change import Change, Kind
from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Mark
from cachesvc.tiers import redis_offers, redis_replay
from cachesvc.tiers.redis import RedisTier
from tests import servers
from tests.fakes import FakeClock
from tests.tiers.shelf import ALL, AT, places, redis_tier, vouch

KEY = Key("task:1")
PARTITION = partition_of(KEY)
STATE = f"test:{{{PARTITION}}}:state"
RECENT = f"test:{{{PARTITION}}}:recent"


@pytest.fixture(params=["valkey_server", "redis7_server"])
def server(request: pytest.FixtureRequest) -> servers.Server:
    found: servers.Server = request.getfixturevalue(request.param)
    with redis.Redis(port=found.port) as client:
        client.flushall()
    return found


@pytest.fixture
def client(server: servers.Server) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


def to(sequence: int, epoch: int = AT.epoch) -> Position:
    return Position(Epoch(epoch), Seq(sequence))


def an_entry(version: int = 1_500, value: bytes = b"{}", key: Key = KEY, life: float | None = 3_600.0) -> Entry:
    now = time.time()
    ends = None if life is None else now + life
    return Entry(key, Version(version), value, JSON, now, now, ends, content_hash(JSON, value))


def a_change(sequence: int, key: Key = KEY) -> Change:
    return Change(Seq(sequence), Kind.WRITE, f"c{sequence}", 0.0, key, an_entry(sequence, key=key))


def a_publication(sequence: int) -> Change:
    return Change(Seq(sequence), Kind.PUBLISH, f"c{sequence}", 0.0)


async def held(tier: RedisTier, horizon: Position = AT, key: Key = KEY) -> Entry | None:
    return (await tier.get([key], horizon=horizon)).get(key)


def entry_keys(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if not key.endswith((b":state", b":recent"))]


class TestRead:
    """An answer counts only with a state of the same epoch that has reached the horizon."""

    async def test_a_cursor_behind_the_horizon_is_not_believed(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            assert await held(tier, to(1_000)) is not None
            assert await held(tier, to(1_001)) is None
            await tier.replay([], upto=to(1_001))
            assert await held(tier, to(1_001)) is not None

    async def test_another_epoch_is_not_believed(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            assert await held(tier, to(0, epoch=6)) is None
            assert await held(tier, to(0, epoch=8)) is None

    async def test_a_flushed_server_is_empty_and_says_so(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            client.flushall()
            client.script_flush()
            assert await held(tier) is None
            assert set((await tier.cursors()).values()) == {None}
            entry = an_entry()
            assert list(await tier.put([entry], token=AT)) == [entry]
            assert entry_keys(client) == []
            await tier.restart(ALL, at=Mark(to(2_000), ""))
            await tier.put([an_entry(2_001)], token=to(0))
            assert await held(tier, to(2_000)) is not None

    async def test_a_node_that_knows_nothing_yet_reads_and_writes(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier, redis_tier(server.url, clock, at=None) as other:
            await other.put([an_entry()], token=AT)
            await vouch(other)
            assert await held(tier) == await held(other) is not None
            async with redis_tier(server.url, clock, at=None) as fourth:
                await fourth.evict([KEY])
            assert await held(tier) is None

    async def test_a_restart_by_another_node_is_noticed(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            assert await held(tier) is not None
            async with redis_tier(server.url, clock, at=to(1_600)) as other:
                assert await held(tier) is None
                await other.put([an_entry(1_700)], token=to(0))
                await vouch(tier)
                assert await held(tier) is not None
            async with redis_tier(server.url, clock, at=to(1_800)):
                await tier.put([an_entry(1_900)], token=to(0))
                await vouch(tier)
                assert await held(tier, to(1_800)) is not None

    async def test_what_nobody_vouched_for_is_not_believed(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier, redis_tier(server.url, clock, at=None) as other:
            await tier.put([an_entry()], token=AT)
            assert not other.strange.is_set()
            assert await held(other) is None
            assert other.strange.is_set()
            assert await other.lagging(horizon=AT) == len(ALL)
            assert other.behind(KEY, horizon=AT)
            await vouch(other)
            assert await held(other) == await held(tier) is not None
            async with redis_tier(server.url, clock):  # begins anew what had been vouched for
                pass
            assert await held(other) is None

    async def test_a_partition_says_whose_log_it_follows(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier, redis_tier(server.url, clock, at=None) as other:
            assert (await other.cursors())[PARTITION] == Mark(AT, "")
            await tier.replay([a_change(1_500)], upto=to(1_500))
            told = Mark(to(1_500), a_change(1_500).id)
            assert (await other.cursors())[PARTITION] == told
            await tier.put([an_entry(1_600)], token=to(0))
            assert (await other.cursors())[PARTITION] == told
            await tier.restart([PARTITION], at=Mark(to(1_700), "an-id"))
            assert (await other.cursors())[PARTITION] == Mark(to(1_700), "an-id")


class TestPut:
    """An entry is refused below `low`, by `recent`, and by what is held."""

    async def test_below_low_is_refused(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            entry = an_entry(999)
            assert list(await tier.put([entry], token=to(999))) == [entry]
            assert await held(tier) is None
            await tier.put([entry], token=to(1_000))
            assert await held(tier) == entry

    async def test_a_newer_recent_change_refuses(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([a_change(1_500)], upto=to(1_500))
            await tier.put([an_entry(1_499)], token=to(1_499))
            assert await held(tier) is None
            await tier.put([an_entry(1_500)], token=to(1_200))
            assert await held(tier) is not None

    async def test_another_epoch_refuses(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(1_500)], token=to(1_500, epoch=8))
            await tier.put([an_entry(1_500)], token=to(1_500, epoch=6))
            assert entry_keys(client) == []

    async def test_every_entry_goes_by_itself(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock, ttl=100.0, ttl_jitter=0.5, random=Random(2)) as tier:
            keys = [Key(f"k:{i}") for i in range(50)]
            await tier.put([an_entry(key=key, life=None) for key in keys], token=AT)
            left = [int(client.pttl(key)) for key in entry_keys(client)]
            assert len(set(left)) > 40
            assert all(49_000 < ms <= 100_000 for ms in left)

    async def test_none_outlives_its_logical_life(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(life=20.0)], token=AT)
            (key,) = entry_keys(client)
            assert 10_000 < int(client.pttl(key)) <= 21_000

    async def test_past_its_life_it_is_a_miss_by_the_clock_given(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(life=3_600.0)], token=AT)
            clock.advance(3_590)
            assert await held(tier) is not None
            clock.advance(20)
            assert await held(tier) is None

    async def test_a_large_put_goes_in_bounded_calls(
        self, server: servers.Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_offers, "MAX_CALL_ENTRIES", 7)
        monkeypatch.setattr(redis_offers, "MAX_CALL_BYTES", 4_000)
        async with redis_tier(server.url, clock, compression=False) as tier:
            entries = [an_entry(value=b"%d" % i * 300, key=Key(f"k:{i % 150}"), version=1_500 + i) for i in range(300)]
            await tier.put(entries, token=AT)
            assert await tier.get([entry.key for entry in entries], horizon=AT) == {e.key: e for e in entries[150:]}


class TestReplay:
    """Older entries go, versions are noted, and a partition moves only from where it was left."""

    async def test_the_older_is_dropped_the_newer_stays(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            other = Key("task:2")
            await tier.put([an_entry(1_500), an_entry(1_700, key=other)], token=AT)
            await tier.replay([a_change(1_600), a_change(1_650, other)], upto=to(1_650))
            assert await held(tier, to(1_650)) is None
            assert await held(tier, to(1_650), other) is not None

    async def test_the_same_version_stays(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(1_500)], token=AT)
            await tier.replay([a_change(1_500)], upto=to(1_500))
            assert await held(tier, to(1_500)) is not None

    async def test_changes_without_a_key_only_move_the_cursors(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([a_publication(1_001), a_publication(1_002)], upto=to(1_002))
            assert await places(tier) == {to(1_002)}

    async def test_of_two_replayers_one_moves(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as one, redis_tier(server.url, clock, at=None) as two:
            await two.cursors()
            await one.replay([a_change(1_500)], upto=to(1_500))
            await two.replay([], upto=to(1_600))  # it believes that there was nothing between 1,000 and 1,600
            assert await places(two) == {to(1_500)}
            await two.replay([], upto=to(1_600))
            assert await places(one) == {to(1_600)}

    async def test_never_backwards_nor_in_another_epoch(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([], upto=to(900))
            await tier.replay([], upto=to(2_000, epoch=8))
            assert await places(tier) == {AT}

    async def test_what_is_behind_a_partitions_cursor_is_passed_over(self, server: servers.Server, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.restart([PARTITION], at=Mark(to(1_500), ""))
            await tier.put([an_entry(1_300)], token=to(1_500))
            await tier.replay([a_change(1_400)], upto=to(1_600))
            assert await held(tier, to(1_600)) is not None

    async def test_many_changes_go_in_bounded_calls(
        self, server: servers.Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_replay, "MAX_CALL_CHANGES", 10)
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(1_001)], token=AT)
            await tier.replay([a_change(1_001 + i, Key(f"k:{i}")) for i in range(95)] + [a_change(1_200)], upto=to(1_300))
            assert await places(tier) == {to(1_300)}
            assert await held(tier, to(1_300)) is None

    async def test_a_change_of_many_keys_goes_in_bounded_calls(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_replay, "MAX_CALL_KEYS", 64)
        keys = (KEY, *(Key(f"k:{i}") for i in range(1_000)))
        cascade = Change(Seq(1_200), Kind.INVALIDATE, "c1200", 0.0, invalidation=Invalidation(keys=keys))
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(1_001)], token=AT)
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            await tier.replay([cascade], upto=to(1_200))
            assert await places(tier) == {to(1_200)}
            assert await held(tier, to(1_200)) is None
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
            assert calls >= len(keys) / 64

    async def test_recent_is_bounded_and_dropping_raises_low(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock, max_recent=16) as tier:
            mine = [key for i in range(5_000) if partition_of(key := Key(f"k:{i}")) == PARTITION][:40]
            await tier.replay([a_change(2_000 + i, key) for i, key in enumerate(mine)], upto=to(2_100))
            assert client.zcard(RECENT) == 17
            assert client.get(STATE).split()[2] == b"2023"  # type: ignore[union-attr]
            await tier.put([an_entry(1_500)], token=to(2_022))
            assert await held(tier, to(2_100)) is None
            await tier.put([an_entry(1_500)], token=to(2_023))
            assert await held(tier, to(2_100)) is not None
            await tier.put([an_entry(1_500, key=mine[30])], token=to(2_023))
            assert await held(tier, to(2_100), mine[30]) is None


class TestRestart:
    async def test_it_empties_without_touching_the_entries(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            entries = [an_entry(key=Key(f"k:{i}")) for i in range(200)]
            await tier.put(entries, token=AT)
            await tier.restart(ALL, at=Mark(to(2_000), ""))
            assert await tier.get([entry.key for entry in entries], horizon=AT) == {}
            assert len(entry_keys(client)) == 200
            assert await places(tier) == {to(2_000)}

    async def test_it_forgets_what_changed_before(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([a_change(1_500)], upto=to(1_500))
            assert client.zcard(RECENT) == 2
            await tier.restart(ALL, at=Mark(to(1_100), ""))
            assert client.zcard(RECENT) == 1

    async def test_a_generation_never_comes_back(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            client.delete(STATE)  # the state alone is evicted, and the generation with it
            assert await held(tier) is None
            async with redis_tier(server.url, clock, random=Random(1)) as other:
                assert await held(other) is None
                assert await held(tier) is None


class TestEviction:
    """Redis may drop any single key at any moment; nobody is told anything wrong."""

    @pytest.mark.parametrize("key", [STATE, RECENT])
    async def test_a_refused_put_stays_refused(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock, key: str
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([a_change(1_500)], upto=to(1_500))
            client.delete(key)
            await tier.put([an_entry(1_400)], token=to(1_450))
            assert await held(tier, AT) is None
            await tier.put([an_entry(1_400)], token=to(1_450))
            assert await held(tier, AT) is None

    async def test_a_lost_recent_is_noticed_by_the_replay_too(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.replay([a_change(1_500)], upto=to(1_500))
            client.delete(RECENT)
            other = next(key for i in range(5_000) if partition_of(key := Key(f"k:{i}")) == PARTITION)
            await tier.replay([a_change(1_501, other)], upto=to(1_501))
            await tier.put([an_entry(1_400)], token=to(1_450))
            assert await held(tier) is None
            await tier.put([an_entry(1_502)], token=to(0))
            assert await held(tier) is not None

    async def test_an_old_snapshot_is_not_believed_until_replayed(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry(1_500)], token=AT)
            snapshot = {key: client.dump(key) for key in client.scan_iter()}
            await tier.put([an_entry(1_600)], token=to(0))
            await tier.replay([a_change(1_600)], upto=to(1_600))
            client.flushall()
            for key, dump in snapshot.items():
                client.restore(key, 0, dump)  # type: ignore[arg-type]
            assert await held(tier, to(1_600)) is None
            await tier.replay([], upto=to(1_700))  # nothing moves: the cursor is not where it was left
            assert await places(tier) == {AT}
            await tier.replay([a_change(1_600)], upto=to(1_700))
            assert await held(tier, to(1_700)) is None
            await tier.put([an_entry(1_600)], token=to(0))
            assert (await held(tier, to(1_700))).version == 1_600  # type: ignore[union-attr]


class TestCorruption:
    @pytest.mark.parametrize("rubbish", [b"", b"short", b"\x10" + b"\xff" * 60, b"\x90" * 40])
    async def test_it_is_a_miss_counted_and_repaired(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock, rubbish: bytes
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            entry = an_entry()
            await tier.put([entry], token=AT)
            (key,) = entry_keys(client)
            client.set(key, rubbish)
            assert await held(tier) is None
            assert (await tier.stats()).extra["corrupt"] == 1
            await tier.put([entry], token=AT)
            assert await held(tier) == entry

    async def test_it_never_wins(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            entry = an_entry()
            await tier.put([entry], token=AT)
            (key,) = entry_keys(client)
            client.set(key, b"\x10" + b"\xff" * 60)
            assert list(await tier.put([entry], token=AT)) == [entry]
            assert list(await tier.put([entry], token=AT)) == [entry]
            assert await held(tier) == entry

    async def test_a_key_of_another_type_holds_nothing_up(
        self, server: servers.Server, client: redis.Redis, clock: FakeClock
    ) -> None:
        async with redis_tier(server.url, clock) as tier:
            await tier.put([an_entry()], token=AT)
            (key,) = entry_keys(client)
            client.delete(key)
            client.lpush(key, "x")
            assert await held(tier) is None
            await tier.put([an_entry()], token=AT)
            assert await held(tier) is not None

    async def test_a_state_of_rubbish_is_none(self, server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
        async with redis_tier(server.url, clock) as tier:
            client.set(STATE, "rubbish")
            assert await held(tier) is None
            await tier.put([an_entry()], token=AT)
            await tier.replay([a_change(1_600)], upto=to(1_600))
            assert (await tier.cursors())[PARTITION] is None


async def test_a_tombstone_is_not_kept(server: servers.Server, client: redis.Redis, clock: FakeClock) -> None:
    async with redis_tier(server.url, clock) as tier:
        await tier.put([an_entry()], token=AT)
        await tier.put([tombstone(KEY, Version(1_600), now=time.time(), keep=60)], token=AT)
        assert entry_keys(client) == []


@pytest.mark.parametrize("name", [b"state", b"recent"])
async def test_what_is_of_a_foreign_type_is_replaced(
    server: servers.Server, client: redis.Redis, clock: FakeClock, name: bytes
) -> None:
    """Whatever somebody put there: it costs the partition what it held at most, and nobody an error."""
    async with redis_tier(server.url, clock) as tier:
        await tier.put([an_entry()], token=AT)
        (key,) = (found for found in client.scan_iter() if found.endswith(b"{%d}:%b" % (PARTITION, name)))
        for odd in ("string", "list"):
            client.delete(key)
            client.set(key, "odd") if odd == "string" else client.rpush(key, "odd")
            await tier.put([an_entry(1_501)], token=AT)
            await tier.cursors()
            await tier.replay([a_change(1_600)], upto=to(1_600), after=AT)
            await held(tier)
            useless = [number for number, mark in (await tier.cursors()).items() if mark is None]
            assert useless == ([PARTITION] if name == b"state" else [])
            await tier.restart(useless or [PARTITION], at=Mark(to(1_700), ""))
            await tier.put([an_entry(1_800)], token=to(0))
            assert await held(tier, to(1_700)) is not None
            await tier.restart(ALL, at=Mark(AT, ""))
