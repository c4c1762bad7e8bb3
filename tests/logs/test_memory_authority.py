"""What is particular to the memory authority: what the tier evicts, and that all it remembers is bounded."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import pytest

from cachesvc.errors import LogTrimmed, Refusal, Refused
from cachesvc.logs import memory_answers
from cachesvc.logs.memory import RING, MemoryAuthority
from cachesvc.model.change import Appended, Draft, Idempotency, Operation, request_id
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Seq
from cachesvc.ports import Retention
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock


def made(clock: FakeClock, *, max_size: int = 1_000, ring: Retention = RING) -> MemoryAuthority:
    tier = MemoryTier(ttl=300.0, max_size=max_size, max_bytes=1 << 20, clock=clock)
    return MemoryAuthority(tier, terms=Terms(default_ttl=600.0), clock=clock, idempotency_ttl=60.0, ring=ring)


def put(key: str, value: bytes = b"1", ttl: float | None = None) -> Draft:
    return Draft(Operation.SET, Key(key), value, ttl=ttl)


async def append(authority: MemoryAuthority, *drafts: Draft) -> Appended:
    return await authority.append(drafts, batch=uuid4().hex)


async def keys(authority: MemoryAuthority) -> list[str]:
    return [entry.key for entry in await authority.list_entries(parse_pattern("*"), after=None, limit=100)]


async def test_an_evicted_key_is_absent_yet_known_to_have_changed() -> None:
    authority = made(FakeClock(), max_size=2)
    start = await authority.head()
    appended = await append(authority, put("a", b"5"), put("b"), put("c"))
    assert await keys(authority) == ["b", "c"]
    stale = await append(authority, Draft(Operation.FILL, Key("a"), b"0", token=start))
    assert isinstance(stale.outcomes[0], Refused)
    assert stale.outcomes[0].code is Refusal.STALE_FILL
    again = await append(authority, Draft(Operation.INCREMENT, Key("a"), amount=Decimal(1)))
    assert again.changes[0].before is None
    assert again.changes[0].sequence == appended.changes[-1].sequence + 1


async def test_what_is_read_is_not_evicted_first() -> None:
    authority = made(FakeClock(), max_size=2)
    await append(authority, put("a"), put("b"))
    await authority.get([Key("a")], horizon=await authority.head())
    await append(authority, put("c"))
    assert await keys(authority) == ["a", "c"]


async def test_the_ring_is_bounded_by_itself() -> None:
    authority = made(FakeClock(), ring=Retention(count=10))
    start = await authority.head()
    appended = await append(authority, *(put(f"k{i}") for i in range(25)))
    oldest = await authority.oldest()
    assert oldest == Position(start.epoch, Seq(appended.changes[14].sequence))
    assert list(await authority.read(oldest, 100)) == list(appended.changes[15:])
    with pytest.raises(LogTrimmed):
        await authority.read(start, 10)
    stale = await append(authority, Draft(Operation.FILL, Key("new"), b"0", token=start))
    assert str(stale.outcomes[0]) == "Fill-Token: is too old to be checked"
    assert len(authority._ring.last) == 10


async def test_an_entry_lives_longer_than_the_tier_lets_it_stay() -> None:
    clock = FakeClock()
    authority = made(clock)
    await append(authority, put("a"), put("short", ttl=10.0))
    clock.advance(599.0)
    assert await keys(authority) == ["a"]
    assert [key for key, _ in await authority.expired(limit=10)] == ["short"]
    clock.advance(1.0)
    assert await keys(authority) == []


async def test_the_ends_are_bounded() -> None:
    authority = made(FakeClock())
    for _ in range(5_000):
        await append(authority, put("a"))
    assert len(authority._ends) < 2_000


async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_answers, "_ANSWERS_BYTES", 5_000)
    authority = made(FakeClock())
    nameless = Idempotency("ann", "", "f")
    batches = []
    for _ in range(50):
        draft = Draft(Operation.SET, Key("k"), b"1", idempotency=nameless)
        batches.append((await append(authority, draft)).batch)
    found = []
    for batch in batches[:1] + batches[-1:]:
        asked = nameless._replace(key=request_id(batch, 0))
        found.append((await append(authority, Draft(Operation.SET, Key("k"), b"1", idempotency=asked))).replayed)
    assert found == [frozenset(), frozenset({0})]


async def test_the_sweep_forgets_answers_in_steps() -> None:
    clock = FakeClock()
    authority = made(clock)
    for i in range(5):
        await append(authority, put(f"k{i}"))
    assert await authority.sweep(limit=100) == 0
    clock.advance(60.0)
    assert [await authority.sweep(limit=3) for _ in range(3)] == [3, 2, 0]
