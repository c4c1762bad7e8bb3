"""Retirements replayed into real servers: what the pattern killed is gone, and cannot come back, before the cursor passes."""

from __future__ import annotations

import time

import pytest

from cachesvc.model.change import Change, Kind
from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Seq, Version
from cachesvc.tiers import redis_look, redis_retire
from cachesvc.tiers.redis import RedisTier
from tests.fakes import FakeClock
from tests.servers import cluster_url
from tests.tiers.shelf import AT, places, redis_tier

EVERYTHING = parse_pattern("*")
INVALIDATED, RETIRED = 1_500, 1_600


@pytest.fixture(params=["valkey_server", "redis7_server", "valkey_cluster_servers"])
def url(request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue(request.param)
    return cluster_url(server) if isinstance(server, list) else str(server.url)


def to(sequence: int) -> Position:
    return Position(AT.epoch, Seq(sequence))


def an_entry(key: str, version: int) -> Entry:
    now = time.time()
    return Entry(Key(key), Version(version), b"{}", JSON, now, now, None, content_hash(JSON, b"{}"))


def invalidation(pattern: str = "", *keys: str) -> Change:
    return Change(Seq(INVALIDATED), Kind.INVALIDATE, "i", 0.0, invalidation=Invalidation(pattern, tuple(map(Key, keys))))


def retirement(pattern: str) -> Change:
    named = Invalidation(pattern, retires=Seq(INVALIDATED))
    return Change(Seq(RETIRED), Kind.RETIRE, "r", 0.0, invalidation=named)


async def held(tier: RedisTier) -> dict[str, int]:
    return {key: version async for key, version in tier.scan(EVERYTHING)}


async def test_what_is_older_goes_and_what_is_newer_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_retire, "STEP", 7)
    async with redis_tier(url, FakeClock(time.time())) as tier:
        await tier.put([an_entry(f"task:{i}", 1_400) for i in range(40)], token=AT)
        await tier.put([an_entry("task:new", 1_501), an_entry("note:1", 1_400)], token=AT)
        await tier.replay([invalidation("task:*")], upto=to(1_550))
        assert len(await held(tier)) == 42  # nodes know that they are dead
        await tier.replay([retirement("task:*")], upto=to(RETIRED))
        assert await held(tier) == {"task:new": 1_501, "note:1": 1_400}
        assert await places(tier) == {to(RETIRED)}


async def test_what_was_read_before_the_invalidation_comes_back_no_more(url: str) -> None:
    async with redis_tier(url, FakeClock(time.time())) as tier:
        await tier.replay([invalidation("task:*"), retirement("task:*")], upto=to(1_700))
        await tier.put([an_entry("task:1", 1_400)], token=to(1_450))
        assert await held(tier) == {}
        await tier.put([an_entry("task:1", 1_400)], token=to(INVALIDATED))  # read after it: another key's, or written anew
        assert await held(tier) == {"task:1": 1_400}


async def test_it_cannot_come_back_while_the_sweep_is_under_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with redis_tier(url, FakeClock(time.time())) as tier:
        await tier.put([an_entry("task:1", 1_400)], token=AT)
        scan = redis_look.scan

        async def late(*args: object) -> object:
            async for found in scan(*args):  # type: ignore[arg-type]
                yield found
            await tier.put([an_entry("task:2", 1_400)], token=to(1_450))  # the walk is over

        monkeypatch.setattr(redis_retire, "scan", late)
        await tier.replay([retirement("task:*")], upto=to(RETIRED))
        assert await held(tier) == {}


async def test_keys_that_are_named_are_dropped_by_the_replay(url: str) -> None:
    async with redis_tier(url, FakeClock(time.time())) as tier:
        await tier.put([an_entry(key, 1_400) for key in ("a", "b", "c")], token=AT)
        await tier.replay([invalidation("", "a", "b")], upto=to(1_550))
        assert await held(tier) == {"c": 1_400}
        await tier.put([an_entry("a", 1_400)], token=to(1_450))
        assert await held(tier) == {"c": 1_400}


async def test_changes_around_a_retirement_are_replayed_too(url: str) -> None:
    async with redis_tier(url, FakeClock(time.time())) as tier:
        await tier.put([an_entry(key, 1_400) for key in ("a", "b", "c", "task:1")], token=AT)
        changes = [
            Change(Seq(sequence), Kind.WRITE, "w", 0.0, Key(key), an_entry(key, sequence))
            for key, sequence in (("a", 1_599), ("b", 1_601))
        ]
        await tier.replay([changes[0], retirement("task:*"), changes[1]], upto=to(1_700))
        assert await held(tier) == {"c": 1_400}
        assert await places(tier) == {to(1_700)}
