"""What is in doubt in memory since a pattern came into force: no hit from then on, and forgotten in its time."""

from __future__ import annotations

import asyncio

from cachesvc.model.entry import JSON, NO_CONTENT, Entry
from cachesvc.model.invalidation import InForce, in_force
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock

MANY = 1_000  # keys: settled in several steps


def a_tier(*keys: str) -> MemoryTier:
    tier = MemoryTier(ttl=300.0, max_size=10_000, max_bytes=64 << 20, clock=FakeClock())
    for key in keys:
        tier.store(an_entry(key))
    return tier


def an_entry(key: str, version: int = 1) -> Entry:
    return Entry(Key(key), Version(version), b"1", JSON, 0.0, 0.0, None, NO_CONTENT)


def a_pattern(text: str, sequence: int) -> InForce:
    return in_force(Seq(sequence), text)


async def test_what_matches_is_no_hit_at_once_and_the_others_stay() -> None:
    tier = a_tier("a:1", "b:1")
    tier.doubt(a_pattern("a:*", 5))
    assert tier.hit(Key("a:1")) is None
    assert tier.peek(Key("a:1")) is None
    assert tier.hit(Key("b:1")) is not None
    tier.store(an_entry("a:1", 6))
    assert tier.hit(Key("a:1")) is not None
    await tier.settle()
    assert [entry.version for entry in tier.held()] == [1, 6]


async def test_what_one_pattern_spared_the_next_may_kill() -> None:
    tier = a_tier("a:1", "b:1")
    tier.doubt(a_pattern("a:*", 5))
    assert tier.hit(Key("b:1")) is not None
    tier.doubt(a_pattern("b:*", 4))  # one that is told late
    assert tier.hit(Key("b:1")) is None
    assert tier.hot(10) == []


async def test_what_comes_into_doubt_while_it_is_settled_is_left_for_the_next_time() -> None:
    keys = [f"a:{place}" for place in range(MANY)]
    tier = a_tier("first", *keys)
    tier.doubt(a_pattern("none:*", 5))
    settling = asyncio.ensure_future(tier.settle())
    await asyncio.sleep(0)  # it is past the first ones
    tier.doubt(a_pattern("first", 4))
    await settling
    assert tier.hit(Key("first")) is None
    await tier.settle()
    assert len(tier) == MANY
    assert tier.hit(Key("first")) is None
    assert tier.hit(Key("a:1")) is not None


async def test_others_have_their_turn_while_it_is_settled() -> None:
    tier = a_tier(*(f"a:{place}" for place in range(MANY)))
    tier.doubt(a_pattern("a:*", 5))
    settling = asyncio.ensure_future(tier.settle())
    await asyncio.sleep(0)
    assert 0 < len(tier) < MANY
    await settling
    assert len(tier) == 0
