"""The contract of invalidations: one record each, in force at once, whatever the number of keys; swept and retired in time."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.clock import SystemClock
from cachesvc.engine.preview import preview
from cachesvc.errors import Refusal, Refused
from cachesvc.logs import redis_patterns
from cachesvc.model import fold_invalidation, invalidation
from cachesvc.model.change import ABSENT, Appended, Kind, Operation, Receipt, invalidate
from cachesvc.model.fold_state import Terms
from cachesvc.model.invalidation import InForce, Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.ports import Authority
from cachesvc.tiers import database_patterns
from tests.conformance.authority_store import (
    EVERYTHING,
    LONG,
    Store,
    add,
    append,
    delete,
    entry_at,
    expire,
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
    while not (await authority.bury(one, limit=2)).done:
        pass
    named = Invalidation(one.pattern.text, retires=one.sequence, soft=one.soft)
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
            dead = await one.inspect(Key("a:1"), horizon=await one.head())
            assert dead.entry is None or "was invalidated at" in dead.doubt

    async def test_what_is_dead_is_gone_since_the_pattern(self, authority: Authority) -> None:
        await append(authority, put("a:1"))
        await append(authority, invalidate(wipe("a:*")))
        one = await only_pattern(authority)
        for _ in range(2):  # before it is buried, and after
            found = await authority.get([Key("a:1")], horizon=await authority.head())
            assert {row.version for row in found.values()} <= {one.sequence}  # an authority may know nothing of it any more
            while not (await authority.bury(one, limit=10)).done:
                pass

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
        assert (await authority.bury(first, limit=10)).done  # it is none of its business any more
        named = Invalidation("a*", retires=first.sequence)
        assert refusal(await append(authority, invalidate(named))) is Refusal.VERSION_CONFLICT
        assert await values(authority, "a1") == [None]

    async def test_burying_goes_on_where_it_ended(self, authority: Authority, second: Authority) -> None:
        keys = [f"k:{i}" for i in range(7)]
        await append(authority, *(put(key) for key in (*keys, "j:1", "l:1")))
        await append(authority, invalidate(wipe("k:*")), put("k:3", b"new"))
        one = await only_pattern(authority)
        burials = [await authority.bury(one, limit=3)]
        while not burials[-1].done:
            burials.append(await second.bury(one, limit=3))
        if len(burials) > 1:  # an authority may have it done at once
            assert [burial.looked for burial in burials] == [3, 6, 7]
        assert burials[-1].buried == 6
        retired = await retire(second, one)
        [(kept, burial)] = (await authority.burials()).items()
        assert (kept.sequence, kept.retired) == (one.sequence, retired)
        assert burial == burials[-1]._replace(done=True, ended_at=burial.ended_at)
        assert burial.ended_at is not None
        assert kept.at <= burial.ended_at <= await authority.time()
        assert (await authority.head()).sequence == retired
        assert await values(authority, *keys) == [None, None, None, b"new", None, None, None]
        assert [key async for key, _ in second.scan(EVERYTHING)] == ["j:1", "k:3", "l:1"]
        assert (await authority.bury(one, limit=3))[:3] == burial[:3]  # whoever asks late is told what it came to

    async def test_what_is_hit_is_what_a_look_before_it_says(self, authority: Authority) -> None:
        """Of what is past its life a soft one takes nothing, a hard one the content; of what is gone neither does."""
        await append(authority, *(put(f"k:{n}") for n in range(4)), put("other"))
        await append(authority, delete("k:3"))
        told: list[tuple[int, int]] = []
        for soft in (True, True, False, False):
            for named in (Invalidation("k:[01]*", soft=soft), Invalidation(keys=(Key("k:2"), Key("k:3")), soft=soft)):
                at = await authority.head()
                seen = await preview(authority, named, at=at, clock=SystemClock(), loaders=())
                [receipt] = receipts(await append(authority, invalidate(named)))
                buried = 0
                for one in (one for one in (await authority.standing()).patterns if one.sequence > at.sequence):
                    buried = (await authority.bury(one, limit=100)).buried
                told.append((seen.matched, receipt.matched + buried))
        assert told == [(2, 2), (1, 1), (0, 0), (0, 0), (2, 2), (1, 1), (0, 0), (0, 0)]

    async def test_two_who_bury_at_once_tell_the_same(self, authority: Authority, second: Authority) -> None:
        await append(authority, *(put(f"k:{i}") for i in range(30)))
        await append(authority, invalidate(wipe("k:*")))
        one = await only_pattern(authority)
        told = await asyncio.gather(*(handle.bury(one, limit=100) for handle in (authority, second) * 3))
        assert {(burial.done, burial.buried) for burial in told} == {(True, 30)}

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
                position, patterns, *_ = await authority.standing()
                changes = await authority.read(Position(position.epoch, Seq(start.sequence)), 1_000)
                told = {c.sequence for c in changes if c.sequence <= position.sequence}
                assert told <= {one.sequence for one in patterns}

        start = await authority.head()
        await asyncio.gather(write(), look())


class Soft:
    """`append` of soft invalidations: what they name is past its life, at their version, and nothing older is fresher."""

    async def test_a_soft_pattern_leaves_the_content_past_its_life(self, authority: Authority, second: Authority) -> None:
        await append(authority, put("a:1", b"1", tags=("t",), parents=("p",)), put("a:2", b"2", ttl=500.0), put("b:1"))
        before = await entry_at(authority, "a:1")
        appended = await append(authority, invalidate(Invalidation("a:*", soft=True)), put("a:2", b"3"))
        at, sequence = appended.changes[0].at, appended.changes[0].sequence
        assert list(await second.read(appended.before, 10)) == list(appended.changes)
        for one in (authority, second):
            stale = await entry_at(one, "a:1")
            assert before is not None
            assert stale == before._replace(version=Version(sequence), expires_at=at)
            fresh = await entry_at(one, "a:2")
            assert fresh is not None
            assert fresh.live(await one.time())
            assert [entry.key for entry in await one.list_entries(EVERYTHING, after=None, limit=10)] == ["a:2", "b:1"]
            [pattern] = (await one.standing()).patterns
            assert (pattern.soft, pattern.at) == (True, at)
            assert pattern.sequence == sequence

    async def test_it_stays_so_when_it_is_swept_and_forgotten(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (database_patterns, redis_patterns):
            monkeypatch.setattr(module, "ENDED_KEPT", -1.0)
        await append(authority, put("a:1", b"1"), put("a:2", b"2", ttl=0.001), put("a:3", b"3"), put("a:4", b"4"))
        short = await entry_at(authority, "a:2")
        assert short is not None
        assert short.expires_at is not None
        while await authority.time() <= short.expires_at:
            pass
        await append(authority, invalidate(Invalidation("a:*", soft=True)), put("a:3", b"33"), delete("a:4"))
        stale = [await entry_at(authority, key) for key in ("a:1", "a:2")]
        await retire(authority, await only_pattern(authority))
        [(_, burial)] = (await authority.burials()).items()
        assert (burial.done, burial.buried) == (True, 1)  # only a:1 had any life to lose
        await authority.sweep(limit=10)
        assert [await entry_at(authority, key) for key in ("a:1", "a:2")] == stale
        assert await values(authority, "a:3", "a:4") == [b"33", None]
        assert stale[0] is not None
        assert (Key("a:1"), stale[0].version) in await authority.expired(limit=10)
        receipts(await append(authority, expire("a:1", stale[0].version)))
        assert await entry_at(authority, "a:1") is None

    async def test_what_was_computed_before_is_refused(self, authority: Authority) -> None:
        await append(authority, put("a:1"))
        token = await authority.head()
        await append(authority, invalidate(Invalidation("a:*", (Key("k"), Key("none")), soft=True)))
        for key in ("a:1", "a:7", "k", "none"):
            assert refusal(await append(authority, fill(key, token))) is Refusal.STALE_FILL
        receipts(await append(authority, fill("a:1", await authority.head(), b"new")))
        assert await values(authority, "a:1") == [b"new"]

    async def test_to_conditions_it_is_absent(self, authority: Authority) -> None:
        await append(authority, put("a:1", b"5"), put("k", b"5"))
        await append(authority, invalidate(Invalidation("a:*", (Key("k"),), soft=True)))
        outcomes = receipts(await append(authority, put("a:1", expected=ABSENT), add("k")))
        assert [receipt.found for receipt in outcomes] == [False, False]
        assert await values(authority, "k") == [b"1"]

    async def test_by_keys(self, authority: Authority, second: Authority) -> None:
        await append(authority, put("k", b"value", tags=("t",)), put("other"))
        appended = await append(authority, invalidate(Invalidation(keys=(Key("k"), Key("none")), soft=True)))
        [receipt] = receipts(appended)
        assert receipt.matched == 1
        assert receipt.version == Version(appended.changes[0].sequence)
        stale = await entry_at(second, "k")
        assert stale is not None
        assert (stale.value, stale.version, stale.expires_at, stale.tags) == (
            b"value",
            receipt.version,
            appended.changes[0].at,
            ("t",),
        )
        again = receipts(await append(authority, invalidate(Invalidation(keys=(Key("k"),), soft=True))))[0]
        assert again.matched == 0
        stale = await entry_at(second, "k")
        assert stale is not None
        assert (stale.version, stale.expires_at) == (again.version, appended.changes[0].at)

    async def test_what_a_harder_one_kills_is_gone(self, authority: Authority) -> None:
        await append(authority, put("a:1"), put("a:2"), put("b:1"))
        await append(authority, invalidate(wipe("a:1*")))
        await append(authority, invalidate(Invalidation("a:*", soft=True)), invalidate(Invalidation("*", soft=True)))
        await append(authority, invalidate(wipe("b:*")))
        assert await values(authority, "a:1", "a:2", "b:1") == [None, b"1", None]
        softer = [one for one in (await authority.standing()).patterns if one.soft]
        for one in softer:  # swept before the harder ones
            await retire(authority, one)
        assert await values(authority, "a:1", "a:2", "b:1") == [None, b"1", None]
        for one in (await authority.standing()).patterns:
            await retire(authority, one)
        assert await values(authority, "a:1", "a:2", "b:1") == [None, b"1", None]

    async def test_the_same_text_soft_and_hard_are_two(self, authority: Authority) -> None:
        await append(authority, put("a:1"))
        for _ in range(2):
            await append(authority, invalidate(wipe("a:*")))
            await append(authority, invalidate(Invalidation("a:*", soft=True)))
        head = (await authority.head()).sequence
        assert await in_force(authority) == [("a:*", head - 1), ("a:*", head)]
        assert await values(authority, "a:1") == [None]


class Relations:
    """Tags and cascades; an authority that keeps no index of them refuses them by name."""

    @pytest.fixture(params=[invalidation.MANY, 0], ids=["few", "many"])
    async def indexed(self, authority: Authority, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Authority:
        monkeypatch.setattr(invalidation, "MANY", request.param)  # what is many may be left to the sweep
        if refuses_relations(await append(authority, invalidate(Invalidation(tags=("probe",))))):
            pytest.skip("keeps no index of tags and parents")
        return authority

    async def test_it_is_refused_or_done_never_half(self, authority: Authority) -> None:
        await append(authority, put("a", tags=("t",)))
        appended = await append(authority, invalidate(Invalidation(tags=("t",), keys=(Key("a"),))))
        if refuses_relations(appended):
            assert await values(authority, "a") == [b"1"]
        else:
            assert await values(authority, "a") == [None]

    async def test_by_tag(self, indexed: Authority) -> None:
        await append(indexed, put("a", tags=("t", "u")), put("b", tags=("t",)), put("c", tags=("v",)), put("t"))
        appended = await append(indexed, invalidate(Invalidation(tags=("t", "none"))))
        assert receipts(appended)[0][-2:] == (2, 0)
        assert await values(indexed, "a", "b", "c", "t") == [None, None, b"1", b"1"]
        assert sorted(appended.changes[0].touches) == ["a", "b"]
        assert receipts(await append(indexed, invalidate(Invalidation(tags=("t",)))))[0][-2:] == (0, 0)

    async def test_a_cascade_takes_what_depends_through_cycles(self, indexed: Authority) -> None:
        await append(
            indexed,
            put("root"),
            put("b", parents=("root",)),
            put("c", parents=("b", "d")),
            put("d", parents=("c",)),
            put("e", parents=("other",)),
        )
        kept = await append(indexed, invalidate(Invalidation(keys=(Key("root"),))), put("root"))
        assert receipts(kept)[0][-2:] == (1, 0)
        assert await values(indexed, "b", "c", "d") == [b"1"] * 3
        appended = await append(indexed, invalidate(Invalidation(keys=(Key("root"),), cascade=True)))
        assert receipts(appended)[0][-2:] == (1, 3)
        assert await values(indexed, "root", "b", "c", "d", "e") == [None] * 4 + [b"1"]

    async def test_a_soft_one_keeps_the_content_of_all_of_them(self, indexed: Authority) -> None:
        await append(
            indexed,
            put("root", tags=("t",)),
            put("b", b"2", parents=("root",)),
            put("p:1", b"3"),
            put("c", b"4", parents=("p:1",)),
            put("e"),
        )
        named = Invalidation("p:*", tags=("t",), cascade=True, soft=True)
        appended = await append(indexed, invalidate(named))
        assert receipts(appended)[0][-2:] == (1, 2)
        assert await values(indexed, "root", "b", "p:1", "c", "e") == [b"1", b"2", b"3", b"4", b"1"]
        live = await indexed.list_entries(EVERYTHING, after=None, limit=10)
        assert [entry.key for entry in live] == ["e"]
        again = await append(indexed, invalidate(Invalidation(keys=(Key("root"),), cascade=True)))
        assert receipts(again)[0][-2:] == (1, 1)  # none of them was live, but their content is taken now
        assert await values(indexed, "root", "b") == [None, None]

    async def test_a_cascade_of_a_parent_that_is_no_entry(self, indexed: Authority) -> None:
        await append(indexed, put("b", parents=("somewhere:else",)))
        appended = await append(indexed, invalidate(Invalidation(keys=(Key("somewhere:else"),), cascade=True)))
        assert receipts(appended)[0][-2:] == (0, 1)
        assert await values(indexed, "b") == [None]

    async def test_a_cascade_goes_by_tags_too(self, indexed: Authority) -> None:
        await append(indexed, put("p:1", tags=("products",)), put("list", parents=("products",)), put("top", parents=("list",)))
        appended = await append(indexed, invalidate(Invalidation(keys=(Key("p:1"),), cascade=True)))
        assert receipts(appended)[0][-2:] == (1, 2)
        await append(indexed, put("p:2", tags=("products",)), put("list", parents=("products",)))
        assert receipts(await append(indexed, invalidate(Invalidation(tags=("products",), cascade=True))))[0][-2:] == (1, 1)
        assert await values(indexed, "p:2", "list") == [None, None]

    async def test_a_cascade_of_a_pattern(self, indexed: Authority) -> None:
        await append(
            indexed,
            put("p:1", tags=("products",)),
            put("p:2", parents=("p:1",)),
            put("view", parents=("p:2",)),
            put("list", parents=("products",)),
            put("else", parents=("q:1",)),
        )
        appended = await append(indexed, invalidate(Invalidation("p:*", cascade=True)))
        assert receipts(appended)[0].cascaded == 2
        assert await values(indexed, "p:1", "p:2", "view", "list", "else") == [None] * 4 + [b"1"]

    async def test_dependents_that_changed_their_parents_are_forgotten(self, indexed: Authority) -> None:
        await append(indexed, put("a"), put("b", parents=("a",)), put("c", parents=("a",)), put("d", parents=("a",)))
        await append(indexed, put("b", parents=("x",)), put("c"), delete("d"), put("d"))
        assert receipts(await append(indexed, invalidate(Invalidation(keys=(Key("a"),), cascade=True))))[0].cascaded == 0
        assert await values(indexed, "b", "c", "d") == [b"1"] * 3

    async def test_a_fill_from_older_parents_is_refused(self, indexed: Authority) -> None:
        await append(indexed, put("a"), put("p:1", tags=("t",)), put("p:2", tags=("t",)))
        tokens = [await indexed.head()]
        await append(indexed, invalidate(Invalidation(keys=(Key("a"),), cascade=True)))
        assert refusal(await append(indexed, fill("late", tokens[0], parents=("a",)))) is Refusal.STALE_FILL
        changes = [put("p:1", tags=("t",)), delete("p:1"), invalidate(Invalidation(tags=("t",))), put("p:1", tags=("t",))]
        for change in [*changes, invalidate(Invalidation("p:*", cascade=True))]:
            token = await indexed.head()
            await append(indexed, change)
            assert refusal(await append(indexed, fill("late", token, parents=("t",)))) is Refusal.STALE_FILL
        receipts(await append(indexed, fill("late", await indexed.head(), parents=("a", "t"))))

    @pytest.mark.parametrize("soft", [False, True])
    async def test_a_fill_from_what_had_a_tag_is_refused_after_a_pattern(self, indexed: Authority, soft: bool) -> None:
        await append(indexed, put("p:1", tags=("t",)), put("q:1", tags=("u",)), put("a:1", tags=("t",)))
        token = await indexed.head()
        pattern, late = invalidate(Invalidation("p:*", soft=soft)), fill("late", token, parents=("t",))
        at_once = await append(indexed, pattern, late, fill("other", token, parents=("u", "none")))
        assert refusal(at_once, 1) is Refusal.STALE_FILL
        assert isinstance(at_once.outcomes[2], Receipt)
        assert refusal(await append(indexed, late)) is Refusal.STALE_FILL
        await retire(indexed, await only_pattern(indexed))
        assert refusal(await append(indexed, late)) is Refusal.STALE_FILL
        receipts(await append(indexed, fill("late", await indexed.head(), parents=("t",))))

    @pytest.mark.parametrize("soft", [False, True])
    async def test_a_fill_with_a_tag_that_was_invalidated_meanwhile_is_refused(self, indexed: Authority, soft: bool) -> None:
        await append(indexed, put("a", tags=("t", "u")))
        token = await indexed.head()
        late = fill("late", token, tags=("v", "t"))
        by_tag = invalidate(Invalidation(tags=("t",), soft=soft))
        at_once = await append(indexed, by_tag, late, fill("b", token, tags=("u",)))
        assert refusal(at_once, 1) is Refusal.STALE_FILL
        assert isinstance(at_once.outcomes[2], Receipt)  # that another entry was ended that has its tag is nothing to it
        assert refusal(await append(indexed, late)) is Refusal.STALE_FILL
        receipts(await append(indexed, fill("late", await indexed.head(), tags=("v", "t"))))

    async def test_many_keys_are_several_records(self, indexed: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fold_invalidation, "CHUNK", 10)
        await append(indexed, *(put(f"k{i}", parents=("root",)) for i in range(25)))
        start = await indexed.head()
        appended = await append(indexed, invalidate(Invalidation(keys=(Key("root"),), cascade=True)), put("k0"))
        assert [len(change.touches) for change in appended.changes] == [10, 10, 6, 1]
        assert receipts(appended)[0].version == start.sequence + 3
        assert list(await indexed.read(start, 10)) == list(appended.changes)
        assert await values(indexed, *(f"k{i}" for i in range(25))) == [b"1"] + [None] * 24

    async def test_reach_tells_what_it_would_come_to(self, indexed: Authority) -> None:
        await append(
            indexed, put("a", tags=("t",)), put("b", parents=("a",)), put("c", parents=("t",)), put("d", parents=("c",))
        )
        head = await indexed.head()
        related = await indexed.reach(Invalidation(tags=("t",), cascade=True))
        assert (related.tagged, set(related.dependents)) == (("a",), {"b", "c", "d"})
        assert (await indexed.reach(Invalidation("a", cascade=True))).marks == ("t",)
        assert await indexed.head() == head

    async def test_too_deep_is_refused_and_nothing_done(self, store: Store) -> None:
        async with store.opened(terms=Terms(default_ttl=LONG, max_cascade_depth=3)) as authority:
            await append(authority, *(put(f"{i + 1}", parents=(f"{i}",)) for i in range(5)), put("0"))
            appended = await append(authority, invalidate(Invalidation(keys=(Key("0"),), cascade=True)))
            assert refusal(appended) in (Refusal.TOO_MUCH, Refusal.UNSUPPORTED)
            assert await values(authority, "0", "1", "5") == [b"1"] * 3
            deep = await append(authority, invalidate(Invalidation(keys=(Key("3"),), cascade=True)))
            assert refuses_relations(deep) or receipts(deep)[0].cascaded == 2


def refuses_relations(appended: Appended) -> bool:
    outcome = appended.outcomes[0]
    return isinstance(outcome, Refused) and outcome.code is Refusal.UNSUPPORTED
