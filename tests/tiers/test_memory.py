"""The memory tier's own rules; what it shares with other tiers is in the conformance suite."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.entry import JSON, NO_CONTENT, Entry, tombstone
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Memory
from cachesvc.tiers.memory import EvictionPolicy, MemoryTier
from tests.fakes import FakeClock

POLICIES: tuple[EvictionPolicy, ...] = get_args(EvictionPolicy)
AT = Position(Epoch(1), Seq(0))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> EvictionPolicy:
    policy: EvictionPolicy = request.param
    return policy


@pytest.fixture
def tier(policy: EvictionPolicy, clock: FakeClock) -> MemoryTier:
    return MemoryTier(ttl=300.0, max_size=5, max_bytes=10_000, eviction_policy=policy, clock=clock)


def an_entry(key: str, version: int = 1, value: bytes = b"1", *, expires_at: float | None = None) -> Entry:
    return Entry(Key(key), Version(version), value, JSON, 0.0, 0.0, expires_at, NO_CONTENT)


def sized(key: str, size: int, version: int = 1) -> Entry:
    """An entry that is counted for `size` bytes."""
    entry = an_entry(key, version, b"")
    return entry._replace(value=b"x" * (size - entry.size))


def test_it_is_the_memory_of_the_ports(tier: MemoryTier) -> None:
    memory: Memory = tier
    assert memory.name == "memory"


def test_a_hit_is_the_very_entry(tier: MemoryTier) -> None:
    entry = an_entry("a")
    tier.store(entry)
    assert tier.hit(Key("a")) is entry


async def test_hits_and_misses_are_counted_and_peeks_are_not(tier: MemoryTier) -> None:
    tier.store(an_entry("a"))
    tier.hit(Key("a"))
    tier.hit(Key("a"))
    tier.hit(Key("b"))
    tier.missed()
    tier.peek(Key("a"))
    tier.peek(Key("b"))
    stats = await tier.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.evictions) == (1, 2, 1, 0)
    assert stats.bytes == tier.nbytes == an_entry("a").size


def test_an_entry_is_a_hit_for_the_tiers_ttl(tier: MemoryTier, clock: FakeClock) -> None:
    tier.store(an_entry("a", expires_at=clock.now() + 1_000.0))
    clock.advance(299.9)
    assert tier.hit(Key("a"))
    clock.advance(0.1)
    assert tier.hit(Key("a")) is None
    assert tier.peek(Key("a"))


def test_an_entry_is_a_hit_to_the_end_of_its_own_life(tier: MemoryTier, clock: FakeClock) -> None:
    tier.store(an_entry("a", expires_at=clock.now() + 2.0))
    clock.advance(1.9)
    assert tier.hit(Key("a"))
    clock.advance(0.1)
    assert tier.hit(Key("a")) is None
    assert tier.peek(Key("a"))


async def test_what_is_past_its_time_counts_as_a_miss(tier: MemoryTier, clock: FakeClock) -> None:
    tier.store(an_entry("a"))
    clock.advance(300.0)
    assert await tier.get([Key("a")], horizon=AT) == {}
    assert (await tier.stats()).misses == 1


def test_the_same_version_again_begins_a_new_stay(tier: MemoryTier, clock: FakeClock) -> None:
    tier.store(an_entry("a"))
    clock.advance(200.0)
    tier.store(an_entry("a"))
    clock.advance(200.0)
    assert tier.hit(Key("a"))


def test_an_older_version_does_not_begin_a_new_stay(tier: MemoryTier, clock: FakeClock) -> None:
    tier.store(an_entry("a", 2))
    clock.advance(200.0)
    assert tier.store(an_entry("a", 1)).version == 2
    clock.advance(200.0)
    assert tier.hit(Key("a")) is None


def test_drop_forgets_only_what_is_older(tier: MemoryTier) -> None:
    tier.store(an_entry("a", 5))
    tier.drop(Key("a"), below=5)
    assert tier.peek(Key("a"))
    tier.drop_all([Key("a"), Key("none")], below=5)
    assert tier.peek(Key("a")) is not None
    tier.drop_all([Key("none"), Key("a")], below=6)
    assert tier.peek(Key("a")) is None
    tier.drop(Key("a"), below=7)
    assert (len(tier), tier.nbytes) == (0, 0)


def test_clear_forgets_everything(tier: MemoryTier) -> None:
    for name in "abc":
        tier.store(an_entry(name))
    tier.clear()
    assert (len(tier), tier.nbytes, tier.peek(Key("a"))) == (0, 0, None)


async def test_no_more_items_than_allowed(tier: MemoryTier) -> None:
    for i in range(12):
        tier.store(an_entry(f"k{i}"))
    assert len(tier) == 5
    assert (await tier.stats()).evictions == 7


async def test_no_more_bytes_than_allowed(tier: MemoryTier) -> None:
    for i in range(12):
        tier.store(sized(f"k{i:02}", 2_500))
    assert (len(tier), tier.nbytes) == (4, 10_000)
    assert (await tier.stats()).evictions == 8


async def test_an_entry_as_large_as_all_of_it_is_kept(tier: MemoryTier) -> None:
    tier.store(an_entry("b"))
    tier.store(sized("a", 10_000))
    assert (len(tier), tier.nbytes) == (1, 10_000)


async def test_an_entry_too_large_passes_by(tier: MemoryTier) -> None:
    tier.store(an_entry("b"))
    large = sized("a", 10_001)
    assert tier.store(large) is large
    assert (tier.peek(Key("a")), len(tier)) == (None, 1)
    assert (await tier.stats()).evictions == 0


def test_an_entry_too_large_still_removes_the_older(tier: MemoryTier) -> None:
    tier.store(an_entry("a", 1))
    tier.store(sized("a", 10_001, version=2))
    assert (len(tier), tier.nbytes) == (0, 0)


def test_what_grows_in_its_place_stays_within_the_bytes(tier: MemoryTier) -> None:
    for name in "abcd":
        tier.store(sized(name, 2_500))
    tier.store(sized("a", 9_000, version=2))
    assert tier.nbytes <= 10_000
    assert tier.nbytes == sum(entry.size for name in "abcd" if (entry := tier.peek(Key(name))))


def test_lru_evicts_what_was_not_asked_for_the_longest(clock: FakeClock) -> None:
    tier = MemoryTier(ttl=300.0, max_size=2, max_bytes=10_000, eviction_policy="LRU", clock=clock)
    tier.store(an_entry("a"))
    tier.store(an_entry("b"))
    tier.hit(Key("a"))
    tier.peek(Key("b"))
    tier.store(an_entry("c"))
    assert [name for name in "abc" if tier.peek(Key(name))] == ["a", "c"]


def test_fifo_evicts_what_came_first(clock: FakeClock) -> None:
    tier = MemoryTier(ttl=300.0, max_size=2, max_bytes=10_000, eviction_policy="FIFO", clock=clock)
    tier.store(an_entry("a"))
    tier.store(an_entry("b"))
    tier.hit(Key("a"))
    tier.store(an_entry("c"))
    assert [name for name in "abc" if tier.peek(Key(name))] == ["b", "c"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "delete", "drop", "hit", "evict", "clear", "wait"]),
        st.sampled_from("abcdefgh"),
        st.integers(1, 6),
        st.sampled_from([250, 1_000, 4_000, 9_999, 10_001]),
    ),
    max_size=60,
)


@pytest.mark.parametrize("policy", POLICIES)
@given(steps=STEPS)
async def test_whatever_happens_the_bytes_are_right_and_nothing_goes_back(
    policy: EvictionPolicy, steps: list[tuple[str, str, int, int]]
) -> None:
    clock = FakeClock()
    tier = MemoryTier(ttl=300.0, max_size=5, max_bytes=10_000, eviction_policy=policy, clock=clock)
    least = dict.fromkeys(map(Key, "abcdefgh"), 0)  # of each key, the version that it may not be below
    for step, name, version, size in steps:
        key = Key(name)
        if step == "store":
            winner = tier.store(sized(name, size, version))
            assert winner.version >= version
            if tier.peek(key) is not None:
                least[key] = max(least[key], version)
        elif step == "delete":
            tier.store(tombstone(key, Version(version), now=clock.now(), keep=60.0))
            held = tier.peek(key)
            assert held is None or held.version > version
        elif step == "drop":
            tier.drop(key, below=version)
            held = tier.peek(key)
            assert held is None or held.version >= version
        elif step == "hit":
            tier.hit(key)
        elif step == "evict":
            await tier.evict([key])
            assert tier.peek(key) is None
        elif step == "clear":
            tier.clear()
        else:
            clock.advance(200.0)
        entries = {key: entry for key in least if (entry := tier.peek(key)) is not None}
        for key, lowest in least.items():
            if key in entries:
                assert entries[key].version >= lowest
            else:
                least[key] = 0
        assert len(tier) == len(entries) <= 5
        assert tier.nbytes == sum(entry.size for entry in entries.values()) <= 10_000
