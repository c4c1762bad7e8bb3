"""Looking into Redis: what is held is told with its doubts, on standalone servers and on a Cluster."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator

import pytest
import redis

from cachesvc.model.keys import Key, partition_of
from cachesvc.ports import Mark
from cachesvc.tiers.redis import RedisTier
from tests import servers
from tests.fakes import FakeClock
from tests.tiers.shelf import ALL, AT, MemoryShelf, redis_tier
from tests.tiers.test_redis import KEY, a_change, an_entry, entry_keys, to


@pytest.fixture(params=["valkey_server", "redis7_server", "valkey_cluster_servers"])
async def tier(request: pytest.FixtureRequest) -> AsyncIterator[RedisTier]:
    server = request.getfixturevalue(request.param)
    for one in server if isinstance(server, list) else [server]:
        with redis.Redis(port=one.port) as client:
            client.flushall()
    url = servers.cluster_url(server) if isinstance(server, list) else server.url
    async with redis_tier(url, FakeClock(time.time())) as tier:
        yield tier


async def test_what_is_held(tier: RedisTier) -> None:
    entry = an_entry(value=b'"' + b"x" * 2_000 + b'"', life=60.0)
    await tier.put([entry], token=AT)
    held = await tier.inspect(KEY, horizon=AT)
    assert (held.entry, held.version, held.replayed, held.doubt) == (entry, 1_500, AT, "")
    assert held.stored is not None
    assert held.stored < 200
    assert held.stays is not None
    assert 0 < held.stays < 120.0
    stats = await tier.stats()
    assert (stats.hits, stats.misses) == (0, 0)
    other = await tier.inspect(Key("task:2"), horizon=AT)
    assert (other.entry, other.version, other.stored, other.doubt) == (None, None, None, "")


async def test_what_is_behind(tier: RedisTier) -> None:
    entry = an_entry()
    await tier.put([entry], token=AT)
    assert await tier.lagging(horizon=AT) == 0
    horizon = to(AT.sequence + 1)
    held = await tier.inspect(KEY, horizon=horizon)
    assert held.entry == entry
    assert "replayed up to 7:1000, not to the horizon 7:1001" in held.doubt
    assert "epoch 7, not 8" in (await tier.inspect(KEY, horizon=to(1, epoch=8))).doubt
    assert tier.behind(KEY, horizon=horizon)
    assert await tier.lagging(horizon=horizon) == len(ALL)
    doubted = tier.doubted
    await tier.get([KEY], horizon=horizon)
    assert tier.doubted == doubted + 1
    await tier.cursors()
    await tier.replay([a_change(1_001, Key("other"))], upto=horizon)
    assert await tier.lagging(horizon=horizon) == 0
    assert (await tier.inspect(KEY, horizon=horizon)).doubt == ""


async def test_a_restart_by_another_node_is_noticed(valkey_url: str) -> None:
    clock = FakeClock(time.time())
    async with redis_tier(valkey_url, clock) as tier, redis_tier(valkey_url, clock, at=None) as other:
        await tier.put([an_entry()], token=AT)
        held = await other.inspect(KEY, horizon=AT)
        assert held.entry is not None
        assert held.doubt == "its partition is not known yet to be of the log's history"
        await other.restart([partition_of(KEY)], at=Mark(AT, ""))
        held = await tier.inspect(KEY, horizon=AT)
        assert held.entry is None
        await tier.restart([partition_of(KEY)], at=Mark(AT, ""))
        newer = an_entry(1_600)
        await tier.put([newer], token=AT)
        assert (await other.inspect(KEY, horizon=AT)).entry == newer


async def test_what_cannot_be_read(valkey_url: str) -> None:
    clock, shelf = FakeClock(time.time()), MemoryShelf()
    async with redis_tier(valkey_url, clock, dictionaries=shelf) as tier:
        await tier.put([an_entry()], token=AT)
        with redis.Redis.from_url(valkey_url) as client:
            (name,) = entry_keys(client)
            client.set(name, b"rubbish" * 10)
            held = await tier.inspect(KEY, horizon=AT)
            assert (held.entry, held.version, held.stored, held.doubt) == (None, None, 70, "is corrupt")
            client.delete(*(f"test:{{{number}}}:state" for number in ALL))
        assert "has not been replayed" in (await tier.inspect(KEY, horizon=AT)).doubt


async def test_how_much_there_is(tier: RedisTier) -> None:
    await tier.put([an_entry(key=Key(f"k:{n}")) for n in range(500)], token=AT)
    stats = await tier.stats()
    assert stats.entries is not None
    assert 500 + len(ALL) <= stats.entries <= 500 + 2 * len(ALL)
    assert stats.bytes is not None
    assert stats.bytes > 500_000


async def test_many_are_looked_at_with_what_they_were_told(tier: RedisTier) -> None:
    entries = [an_entry(key=Key(f"task:{n}"), value=b'"%d"' % n) for n in range(300)]
    large = [an_entry(key=Key(f"large:{n}"), value=random.Random(n).randbytes(700_000)) for n in range(3)]
    await tier.put([*entries, *large], token=AT)
    keys = [entry.key for entry in (*entries, *large)]
    found = await tier.look([*keys, Key("never")])
    assert {key: copy.entry for key, copy in found.items()} == {entry.key: entry for entry in (*entries, *large)}
    assert {copy.told for copy in found.values()} == {AT}
    assert found[large[0].key].size > 700_000
    stats = await tier.stats()
    assert (stats.hits, stats.misses) == (0, 0)
    await tier.cursors()
    await tier.replay([a_change(1_501, keys[0])], upto=to(1_501))
    found = await tier.look(keys[:2])
    assert {key: copy.told for key, copy in found.items()} == {keys[1]: to(1_501)}
    await tier.restart(ALL, at=Mark(to(1_600), ""))
    assert await tier.look(keys) == {}
    assert await tier.look([]) == {}


async def test_what_is_no_value_is_passed_over(valkey_url: str) -> None:
    async with redis_tier(valkey_url, FakeClock(time.time())) as tier:
        await tier.put([an_entry(), an_entry(key=Key("task:2")), an_entry(key=Key("task:3"))], token=AT)
        with redis.Redis.from_url(valkey_url) as client:
            two, three = (next(name for name in entry_keys(client) if name.endswith(b":task:%d" % n)) for n in (2, 3))
            client.delete(two)
            client.hset(two, "a", "b")
            client.set(three, b"x" * 40)
        assert set(await tier.look([KEY, Key("task:2"), Key("task:3")])) == {KEY}
