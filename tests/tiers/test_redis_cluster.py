"""One of three masters does not answer: its keys are missed, those of the others are not, and nothing is taken as moved."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from cachesvc.errors import TierUnavailable
from cachesvc.model.change import Change, Kind
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import PARTITIONS, Key, partition_of
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Seq
from cachesvc.ports import Mark
from cachesvc.tiers.redis import RedisTier
from cachesvc.tiers.redis_cluster import Master
from cachesvc.tiers.redis_connection import Command
from cachesvc.tiers.redis_leases import RedisLeases
from tests import servers
from tests.fakes import FakeClock
from tests.tiers.shelf import ALL, AT, redis_tier
from tests.tiers.test_redis import a_change, an_entry, to

KEYS = [Key(f"k:{n}") for n in range(64)]
EVERYTHING = parse_pattern("*")


class Pausing(FakeClock):
    """Breakers' pauses pass, lives do not."""

    def pause(self) -> None:
        self._monotonic += 60.0


def of(master: int, masters: int = 3) -> set[int]:
    """The partitions that lie on one master."""
    return {n for n in ALL if key_slot(f"test:{{{n}}}:state".encode()) * masters // 16_384 == master}


GONE = of(2)
LOST = {key for key in KEYS if partition_of(key) in GONE}
LEFT = set(KEYS) - LOST


@pytest.fixture
def nodes() -> Iterator[list[servers.Server]]:
    with servers.valkey_cluster() as nodes:
        yield nodes


@pytest.fixture
def clock() -> Pausing:
    return Pausing(time.time())


@pytest.fixture
async def tier(nodes: list[servers.Server], clock: Pausing) -> AsyncIterator[RedisTier]:
    async with redis_tier(servers.cluster_url(nodes), clock, timeout=1.0) as tier:
        await tier.put([an_entry(key=key) for key in KEYS], token=AT)
        assert set(await tier.get(KEYS, horizon=AT)) == set(KEYS)
        yield tier


async def walk(tier: RedisTier, walked: set[Key]) -> None:
    async for key, _ in tier.scan(EVERYTHING):
        walked.add(key)


async def answering(tier: RedisTier, clock: Pausing) -> None:
    """Until the master is asked again and takes part."""
    async with asyncio.timeout(30):
        while True:
            clock.pause()
            if len(await tier.cursors()) == PARTITIONS:
                return


async def test_a_killed_master_takes_only_its_own_keys(nodes: list[servers.Server], tier: RedisTier, clock: Pausing) -> None:
    assert LOST
    assert LEFT
    nodes[2].kill()
    assert set(await tier.get(KEYS, horizon=AT)) == LEFT
    assert await tier.get(list(LOST), horizon=AT) == {}
    assert all(tier.away(key) and tier.behind(key, horizon=AT) for key in LOST)
    assert not any(tier.away(key) or tier.behind(key, horizon=AT) for key in LEFT)
    await tier.put([an_entry(1_600, key=key) for key in KEYS], token=to(1_600))
    assert {entry.version for entry in (await tier.get(KEYS, horizon=AT)).values()} == {1_600}
    extra = (await tier.stats()).extra
    assert (extra["masters"], extra["masters_away"], extra["unanswered_puts"]) == (3, 1, len(LOST))
    assert extra["unanswered_reads"] == 3 * len(LOST)
    # those who look say so
    [lost, *_] = LOST
    assert "does not answer" in (await tier.inspect(lost, horizon=AT)).doubt
    assert await tier.lagging(horizon=AT) == len(GONE)
    assert (await tier.cursors()).keys() == set(ALL) - GONE
    with pytest.raises(TierUnavailable):
        await tier.look(KEYS)
    assert (await tier.look(list(LEFT))).keys() == LEFT
    walked: set[Key] = set()
    with pytest.raises(TierUnavailable, match=f"{len(GONE)} of 64 partitions"):
        await walk(tier, walked)
    assert walked == LEFT
    assert (await tier.stats()).entries is None
    names = [f"n{n}" for n in range(30)]
    leases = RedisLeases(tier._connection, key_prefix="test")
    taken = await leases.acquire(names, "holder", 10.0)
    assert set(taken) == {name for name in names if key_slot(f"test:lease:{name}".encode()) * 3 // 16_384 != 2}
    # back, and empty
    nodes[2].start()
    await answering(tier, clock)
    assert set(await tier.get(KEYS, horizon=AT)) == LEFT
    await tier.restart(GONE, at=Mark(AT, ""))
    await tier.put([an_entry(1_600, key=key) for key in LOST], token=to(1_600))
    assert set(await tier.get(KEYS, horizon=AT)) == set(KEYS)


async def test_an_old_snapshot_is_believed_only_once_it_was_replayed(
    nodes: list[servers.Server], tier: RedisTier, clock: Pausing
) -> None:
    with redis.Redis(port=nodes[2].port) as client:
        client.save()
    changed, kept, *_ = sorted(LOST)
    await tier.cursors()
    assert await tier.replay([a_change(1_501, changed)], upto=to(1_501), after=AT) == 0
    nodes[2].kill()
    # what comes while it is away is not taken as moved there
    assert await tier.replay([a_change(1_502, KEYS[0])], upto=to(1_502), after=to(1_501)) == len(GONE)
    assert set(await tier.get(KEYS, horizon=to(1_502))) == LEFT - {KEYS[0]}
    nodes[2].start()
    await answering(tier, clock)
    marks = await tier.cursors()
    assert {marks[number].position for number in GONE} == {AT}  # type: ignore[union-attr]
    # replayed from where the others are it moves not
    assert await tier.replay([a_change(1_503, KEYS[1])], upto=to(1_503), after=to(1_502)) == len(GONE)
    assert not LOST & set(await tier.get(KEYS, horizon=to(1_502)))
    missed = [a_change(1_501, changed), a_change(1_502, KEYS[0]), a_change(1_503, KEYS[1])]
    assert await tier.replay(missed, upto=to(1_503), after=AT) == 0
    found = await tier.get(KEYS, horizon=to(1_503))
    assert changed not in found
    assert kept in found


async def test_a_frozen_master_costs_one_time_limit_and_is_not_asked_again_until_probed(
    nodes: list[servers.Server], tier: RedisTier, clock: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[int | str] = Counter()
    exchange = Master._exchange

    async def counted(self: Master, *arguments: object) -> list[object]:
        asked[self.node.port] += 1
        return await exchange(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Master, "_exchange", counted)
    nodes[2].freeze()
    for _ in range(10):
        assert set(await tier.get(KEYS, horizon=AT)) == LEFT
        await tier.put([an_entry(key=key) for key in KEYS], token=AT)
    assert (asked[nodes[0].port], asked[nodes[1].port], asked[nodes[2].port]) == (20, 20, 1)
    clock.pause()  # it may be asked: still no read waits for it
    assert set(await tier.get(KEYS, horizon=AT)) == LEFT
    assert asked[nodes[2].port] == 1
    assert await tier.lagging(horizon=AT) == len(GONE)
    assert asked[nodes[2].port] == 2
    nodes[2].thaw()
    await answering(tier, clock)
    assert set(await tier.get(KEYS, horizon=AT)) == set(KEYS)
    assert tier.masters_away == 0


async def test_a_retirement_is_passed_only_where_it_was_swept(
    nodes: list[servers.Server], tier: RedisTier, clock: Pausing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master answers the fence and the replay, but not the walk between them."""
    change = Change(Seq(1_700), Kind.RETIRE, "r", 0.0, invalidation=Invalidation(pattern="k:*", retires=Seq(1_600)))
    ask = Master.ask
    deaf = True

    async def partly(self: Master, commands: Sequence[Command], **options: Any) -> list[Any] | None:
        if deaf and self.node.port == nodes[2].port and commands[0][0] == "SCAN":
            self.missed += 1
            return None
        return await ask(self, commands, **options)

    monkeypatch.setattr(Master, "ask", partly)
    await tier.cursors()
    assert await tier.replay([change], upto=to(1_700), after=AT) == len(GONE)
    marks = await tier.cursors()
    assert {number for number, mark in marks.items() if mark is not None and mark.position < to(1_700)} == GONE
    assert await tier.get(KEYS, horizon=to(1_700)) == {}
    deaf = False
    assert await tier.replay([change], upto=to(1_700), after=AT) == 0
    walked: set[Key] = set()
    await walk(tier, walked)
    assert not walked


async def test_without_any_master_it_is_away(nodes: list[servers.Server], tier: RedisTier) -> None:
    for node in nodes:
        node.kill()
    with pytest.raises(TierUnavailable, match="no master"):
        await tier.get(KEYS, horizon=AT)
    with pytest.raises(TierUnavailable):
        await tier.cursors()
