"""Invalidations of many keys over a database: in force with the append, their rows ended by the sweep, exactly once told."""

from __future__ import annotations

from typing import Any

import pytest

from cachesvc.errors import Refusal
from cachesvc.logs.database import DatabaseAuthority
from cachesvc.model import fold_invalidation, invalidation
from cachesvc.model.change import invalidate
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from tests.conformance.authority_invalidations import only_pattern
from tests.conformance.authority_store import (
    EVERYTHING,
    LONG,
    add,
    append,
    delete,
    entry_at,
    fill,
    put,
    receipts,
    refusal,
    values,
)
from tests.logs.database_store import DatabaseStore

KEYS = [f"k:{i}" for i in range(12)]


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidation, "MANY", 3)
    monkeypatch.setattr(fold_invalidation, "CHUNK", 5)


def named(*keys: str, cascade: bool = False) -> Invalidation:
    return Invalidation(keys=tuple(map(Key, keys)), cascade=cascade)


async def swept(authority: DatabaseAuthority, *, limit: int = 2) -> int:
    """Sweep until nothing is left; in how many steps."""
    steps = 0
    while await authority.sweep(limit=limit):
        steps += 1
    return steps


async def test_it_is_in_force_before_it_is_swept_and_stays_so(store: DatabaseStore) -> None:
    async with store.opened() as authority, store.opened() as second:
        await append(authority, *(put(key, tags=("t",), parents=("root",)) for key in KEYS), put("other", parents=("k:1",)))
        token = await authority.head()
        appended = await append(authority, invalidate(named(*KEYS, "none", "gone")), add("k:3"), put("k:4", b"4"))
        assert receipts(appended)[0][-2:] == (12, 0)
        assert [receipt.found for receipt in receipts(appended)[1:]] == [False, False]
        assert [len(change.touches) for change in appended.changes] == [5, 5, 4, 1, 1]
        since = await authority.head()
        for one in (authority, second):  # nobody has to be told
            assert await values(one, *KEYS[:6], "other") == [None, None, None, b"1", b"4", None, b"1"]
            assert [entry.key for entry in await one.list_entries(EVERYTHING, after=None, limit=99)] == ["k:3", "k:4", "other"]
        standing = await authority.standing()
        assert (standing.patterns, await authority.burials()) == ([], {})  # it is the authority's own business
        for halfway in (True, False):
            for key in ("k:1", "none", "k:11"):
                assert refusal(await append(second, fill(key, token))) is Refusal.STALE_FILL
            assert refusal(await append(second, fill("x", token, parents=("t",)))) is Refusal.STALE_FILL
            if halfway:
                await authority.sweep(limit=2)  # by whoever has the duty, and then by another
        assert await swept(second) == 7
        assert (await authority.head()) == since  # which is no change of anything
        for key in ("k:1", "none", "gone", "k:11"):
            assert refusal(await append(authority, fill(key, token))) is Refusal.STALE_FILL
        assert refusal(await append(authority, fill("x", token, parents=("t",)))) is Refusal.STALE_FILL
        receipts(await append(authority, fill("k:1", since)))
        assert await values(second, *KEYS[:6], "other") == [None, b"1", None, b"1", b"4", None, b"1"]
        assert await second.dependents("root", limit=9) == []


async def test_what_was_deleted_before_is_as_new_as_the_invalidation(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, put("k:1"), delete("k:1"))
        token = await authority.head()
        await append(authority, invalidate(named(*KEYS)))
        await swept(authority)
        assert refusal(await append(authority, fill("k:1", token))) is Refusal.STALE_FILL


async def test_a_soft_one_leaves_them_stale_before_it_is_swept_and_after(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, *(put(key, b"1", tags=("t",)) for key in KEYS))
        token = await authority.head()
        appended = await append(authority, invalidate(Invalidation(tags=("t",), soft=True)))
        assert receipts(appended)[0].matched == len(KEYS)
        before = [await entry_at(authority, key) for key in KEYS]
        assert {entry.expires_at for entry in before if entry is not None} == {appended.changes[0].at}
        await swept(authority)
        assert [await entry_at(authority, key) for key in KEYS] == before
        assert refusal(await append(authority, fill("k:7", token))) is Refusal.STALE_FILL
        again = await append(authority, invalidate(Invalidation(tags=("t",), soft=True)))
        assert receipts(again)[0].matched == 0  # they had no life left
        hard = await append(authority, invalidate(Invalidation(tags=("t",))))
        assert receipts(hard)[0].matched == len(KEYS)  # and their content is taken now
        assert await values(authority, *KEYS) == [None] * len(KEYS)


async def test_another_cascade_meanwhile_takes_what_depends_by_what_stands(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, put("root"), *(put(key, parents=("root",)) for key in KEYS), put("leaf", parents=("k:1",)))
        assert receipts(await append(authority, invalidate(named("root", cascade=True))))[0][-2:] == (1, 13)
        await append(authority, put("leaf", parents=("k:1",)), put("k:2", parents=("root",)), put("far", parents=("k:2",)))
        again = receipts(await append(authority, invalidate(named("root", cascade=True))))[0]
        assert again[-2:] == (0, 2)  # k:1 has not come back, so that nothing leads from the root to the leaf
        assert await values(authority, "leaf", "k:2", "far") == [b"1", None, None]


async def test_a_pattern_and_its_dependents_are_told_apart(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, put("p:1"), *(put(key, parents=("p:1",)) for key in KEYS))
        appended = await append(authority, invalidate(Invalidation("p:*", cascade=True)))
        assert receipts(appended)[0].cascaded == len(KEYS)
        [pattern] = (await authority.standing()).patterns
        assert (pattern.sequence, appended.changes[0].touches) == (appended.changes[0].sequence, ())
        assert await values(authority, "p:1", *KEYS) == [None] * 13
        await swept(authority)
        assert [one.sequence for one in (await authority.standing()).patterns] == [pattern.sequence]
        assert await values(authority, "p:1", *KEYS) == [None] * 13


async def test_so_many_may_wait_for_the_sweep_and_no_more(store: DatabaseStore) -> None:
    async with store.opened(terms=Terms(default_ttl=LONG, max_cascade=20)) as authority:
        receipts(await append(authority, invalidate(named(*KEYS))))
        await append(authority, *(put(key) for key in KEYS))
        again = invalidate(named(*KEYS))
        assert refusal(await append(authority, again)) is Refusal.TOO_MANY_PATTERNS
        assert await values(authority, *KEYS) == [b"1"] * len(KEYS)
        await swept(authority)
        assert await values(authority, *KEYS) == [b"1"] * len(KEYS)
        receipts(await append(authority, again))
        assert await values(authority, *KEYS) == [None] * len(KEYS)


async def test_who_finds_nothing_left_to_end_tells_what_another_ended(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.opened() as authority, store.opened() as second:
        await append(authority, *(put(key) for key in KEYS))
        await append(authority, invalidate(Invalidation("k:*")))
        one = await only_pattern(authority)
        look = authority._page

        async def late(*given: Any) -> Any:
            monkeypatch.undo()
            await second.bury(one, limit=100)
            return await look(*given)

        monkeypatch.setattr(authority, "_page", late)
        told = await authority.bury(one, limit=100)
        assert (told.done, told.buried) == (True, len(KEYS))
