"""The contract of invalidations: one record each, in force at once, whatever the number of keys; swept and retired in time."""

from __future__ import annotations

import asyncio

from cachesvc.errors import Refusal
from cachesvc.model.change import Kind, Operation, invalidate
from cachesvc.model.fold import Terms
from cachesvc.model.invalidation import InForce, Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq
from cachesvc.ports import Authority
from tests.conformance.authority_store import (
    EVERYTHING,
    LONG,
    Store,
    add,
    append,
    delete,
    fill,
    put,
    receipts,
    refusal,
    values,
)


def wipe(pattern: str = "", *keys: str) -> Invalidation:
    return Invalidation(pattern, tuple(map(Key, keys)))


async def in_force(authority: Authority) -> list[tuple[str, int]]:
    return sorted((one.pattern.text, one.sequence) for one in (await authority.standing()).patterns)


async def only_pattern(authority: Authority) -> InForce:
    [one] = (await authority.standing()).patterns
    return one


async def retire(authority: Authority, one: InForce) -> int:
    while not await authority.bury(one, limit=2):
        pass
    named = Invalidation(one.pattern.text, retires=one.sequence)
    return receipts(await append(authority, invalidate(named)))[0].version


class Invalidations:
    """`append` of invalidations, `standing` and `bury`."""

    async def test_a_pattern_is_one_record_and_kills_what_is_older(self, authority: Authority) -> None:
        await append(authority, put("task:1"), put("task:2"), put("note:1"))
        start = await authority.head()
        appended = await append(authority, invalidate(wipe("task:*")), put("task:2", b"2"))
        assert [change.kind for change in appended.changes] == [Kind.INVALIDATE, Kind.WRITE]
        assert [receipt.operation for receipt in receipts(appended)] == [Operation.INVALIDATE, Operation.SET]
        assert appended.changes[0].sequence == start.sequence + 1
        assert list(await authority.read(start, 10)) == list(appended.changes)
        assert appended.changes[0].invalidation == wipe("task:*")
        assert await values(authority, "task:1", "task:2", "note:1") == [None, b"2", b"1"]
        assert await in_force(authority) == [("task:*", start.sequence + 1)]

    async def test_what_is_dead_is_found_by_nobody(self, authority: Authority, second: Authority) -> None:
        await append(authority, put("a:1"), put("a:2", ttl=0.001), put("b:1"))
        await append(authority, invalidate(wipe("a:*")))
        for one in (authority, second):
            assert [key async for key, _ in one.scan(EVERYTHING)] == ["b:1"]
            assert [entry.key for entry in await one.list_entries(EVERYTHING, after=None, limit=10)] == ["b:1"]
            assert await one.expired(limit=10) == []
            assert await values(one, "a:1", "b:1") == [None, b"1"]

    async def test_the_fold_takes_the_dead_for_absent(self, authority: Authority) -> None:
        await append(authority, put("n", b"41"), put("m"))
        await append(authority, invalidate(wipe("n")))
        appended = await append(authority, add("n"), put("m", b"2"))
        assert [receipt.found for receipt in receipts(appended)] == [False, True]
        assert await values(authority, "n") == [b"1"]
        await append(authority, invalidate(wipe("n")))
        assert receipts(await append(authority, delete("n")))[0].found is False

    async def test_a_fill_from_before_is_refused(self, authority: Authority) -> None:
        token = await authority.head()
        await append(authority, invalidate(wipe("page:*")))
        since = await authority.head()
        assert refusal(await append(authority, fill("page:1", token))) is Refusal.STALE_FILL
        assert refusal(await append(authority, fill("x", token, parents=("page:2",)))) is Refusal.STALE_FILL
        assert await values(authority, "page:1", "x") == [None, None]
        receipts(await append(authority, fill("page:1", since), fill("y", token, parents=("other",))))

    async def test_a_fill_from_before_is_refused_after_the_retirement_too(self, authority: Authority) -> None:
        token = await authority.head()
        await append(authority, put("page:1"), invalidate(wipe("page:*")))
        await retire(authority, await only_pattern(authority))
        assert await in_force(authority) == []
        assert refusal(await append(authority, fill("page:1", token))) is Refusal.STALE_FILL
        assert refusal(await append(authority, fill("page:7", token))) is Refusal.STALE_FILL

    async def test_named_keys_are_deleted_by_one_record(self, authority: Authority) -> None:
        token = await authority.head()
        await append(authority, put("a"), put("b"), put("c"))
        appended = await append(authority, invalidate(wipe("", "a", "b", "gone")))
        assert len(appended.changes) == 1
        assert receipts(appended)[0].found
        assert await values(authority, "a", "b", "c") == [None, None, b"1"]
        assert await in_force(authority) == []
        assert refusal(await append(authority, fill("gone", token))) is Refusal.STALE_FILL
        assert not receipts(await append(authority, invalidate(wipe("", "a"))))[0].found

    async def test_the_same_pattern_again_takes_its_place(self, authority: Authority, second: Authority) -> None:
        await append(authority, invalidate(wipe("a*")))
        first = await only_pattern(authority)
        await append(second, put("a1"), invalidate(wipe("a*")), invalidate(wipe("b*")))
        head = await authority.head()
        assert await in_force(authority) == [("a*", head.sequence - 1), ("b*", head.sequence)]
        assert await authority.bury(first, limit=10)  # it is none of its business any more
        named = Invalidation("a*", retires=first.sequence)
        assert refusal(await append(authority, invalidate(named))) is Refusal.VERSION_CONFLICT
        assert await values(authority, "a1") == [None]

    async def test_burying_goes_on_where_it_ended(self, authority: Authority, second: Authority) -> None:
        keys = [f"k:{i}" for i in range(7)]
        await append(authority, *(put(key) for key in (*keys, "j:1", "l:1")))
        await append(authority, invalidate(wipe("k:*")), put("k:3", b"new"))
        one = await only_pattern(authority)
        await authority.bury(one, limit=3)
        while not await second.bury(one, limit=3):
            pass
        retired = await retire(second, one)
        assert (await authority.head()).sequence == retired
        assert await values(authority, *keys) == [None, None, None, b"new", None, None, None]
        assert [key async for key, _ in second.scan(EVERYTHING)] == ["j:1", "k:3", "l:1"]
        assert await authority.bury(one, limit=3)

    async def test_a_retirement_is_a_record_and_happens_once(self, authority: Authority) -> None:
        await append(authority, invalidate(wipe("a*")))
        one = await only_pattern(authority)
        start = await authority.head()
        await retire(authority, one)
        [change] = await authority.read(start, 10)
        assert (change.kind, change.invalidation) == (Kind.RETIRE, Invalidation("a*", retires=one.sequence))
        again = await append(authority, invalidate(Invalidation("a*", retires=one.sequence)))
        assert refusal(again) is Refusal.VERSION_CONFLICT
        await append(authority, put("a1"), invalidate(wipe("a*")))
        assert len((await authority.standing()).patterns) == 1
        assert await values(authority, "a1") == [None]

    async def test_patterns_in_force_are_limited(self, store: Store) -> None:
        async with store.opened(terms=Terms(default_ttl=LONG, max_patterns=2)) as authority:
            appended = await append(authority, *(invalidate(wipe(text)) for text in ("a*", "b*", "c*", "a*")))
            assert refusal(appended, 2) is Refusal.TOO_MANY_PATTERNS
            assert len(await in_force(authority)) == 2
            for one in (await authority.standing()).patterns:
                await retire(authority, one)
            receipts(await append(authority, invalidate(wipe("c*"))))

    async def test_another_handle_knows_at_once(self, authority: Authority, second: Authority) -> None:
        await append(authority, put("a"), put("b"))
        assert await values(second, "a") == [b"1"]
        await append(authority, invalidate(wipe("a")))
        assert await values(second, "a", "b") == [None, b"1"]
        receipts(await append(second, add("a")))
        assert await values(authority, "a") == [b"1"]

    async def test_standing_is_of_one_moment(self, authority: Authority, second: Authority) -> None:
        async def write() -> None:
            for number in range(20):
                await append(second, invalidate(wipe(f"{number}*")))

        async def look() -> None:
            for _ in range(20):
                position, patterns = await authority.standing()
                changes = await authority.read(Position(position.epoch, Seq(start.sequence)), 1_000)
                told = {c.sequence for c in changes if c.sequence <= position.sequence}
                assert told <= {one.sequence for one in patterns}

        start = await authority.head()
        await asyncio.gather(write(), look())
