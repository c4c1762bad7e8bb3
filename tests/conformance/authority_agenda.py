"""The contract of conflicts and of reminders: settled, kept and told in the append that makes them, once, on whatever node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from cachesvc.errors import Refusal
from cachesvc.model.agenda import CONFLICT, REMINDER
from cachesvc.model.change import Change, Draft, Receipt, due, resolve
from cachesvc.model.conflict import Conflict, item_name, unpack_conflict
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.merging import Policy, Strategy
from cachesvc.model.moments import moment
from cachesvc.model.position import Position, Version
from cachesvc.ports import Authority, Retention
from tests.conformance.authority_store import Store, add, append, delete, passed, put, receipts, refusal, values

POLICIES = {
    "task": Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL),
    "event": Policy(Strategy.TIMESTAMP),
    "contact": Policy(Strategy.PRIORITY, sources=("manual", "google")),
    "journal": Policy(Strategy.MANUAL),
}
SETTLING = Terms(default_ttl=600.0, policies=POLICIES, reminds=("event:",))


def json(**value: Any) -> bytes:
    return orjson.dumps(value)


async def written(authority: Authority, draft: Draft) -> Receipt:
    [receipt] = receipts(await append(authority, draft))
    return receipt


async def told(authority: Authority, after: Position) -> list[tuple[str, dict[str, Any]]]:
    """The messages since, by their type."""
    return [message for change in await authority.read(after, 100) if (message := said(change)) is not None]


def said(change: Change) -> tuple[str, dict[str, Any]] | None:
    if change.publication is None:
        return None
    return change.publication.type, orjson.loads(change.publication.message)


async def kept(authority: Authority, conflict: str) -> Conflict:
    item = await authority.find_item(item_name(conflict))
    assert item is not None
    return unpack_conflict(item)


async def call(authority: Authority, *names: str) -> None:
    """What the node that holds the duty does with what is due."""
    for item in await authority.due_items(limit=100):
        if not names or item.name in names:
            await append(authority, due(item.name, item.due, Key(item.name.partition(":")[2])))


class Conflicts:
    """Updates with a `base`."""

    async def test_of_two_who_began_at_the_same_version_one_meets_a_conflict(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as one, _another(store, one) as other:
            base = (await written(one, put("task:1", json(a=1, b=1)))).version
            outcomes = await asyncio.gather(
                written(one, put("task:1", json(a=2, b=1), base=base)),
                written(other, put("task:1", json(a=1, b=2), base=base)),
            )
            assert sorted(bool(outcome.conflict) for outcome in outcomes) == [False, True]
            assert [orjson.loads(value or b"") for value in await values(other, "task:1")] == [{"a": 2, "b": 2}]

    async def test_fields_are_merged_over_what_the_log_has_of_the_base(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            base = (await written(authority, put("task:1", json(a=1, b=1)))).version
            await written(authority, put("task:1", json(a=2, b=1)))
            start = await authority.head()
            receipt = await written(authority, put("task:1", json(a=1, b=2), base=base, actor="ann"))
            assert orjson.loads(receipt.value or b"") == {"a": 2, "b": 2}
            [(detect, detected), (merge, merged)] = await told(authority, start)
            assert (detect, merge) == ("conflict:detect", "conflict:auto-merge")
            assert detected["versions"]["base"]["data"] == {"a": 1, "b": 1}
            assert detected["conflictType"] == "version"
            assert merged["strategy"] == "field-level"
            result = merged["result"]
            assert (result["merged"]["data"], result["rejected"], len(result["accepted"])) == ({"a": 2, "b": 2}, [], 2)
            assert merged["conflictId"] == detected["conflictId"] == receipt.conflict
            conflict = await kept(authority, receipt.conflict)
            assert (conflict.open, conflict.strategy, conflict.winner) == (False, Strategy.FIELD_LEVEL, receipt.version)

    async def test_a_clash_waits_for_somebody_and_what_stands_is_readable(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            base = (await written(authority, put("task:1", json(a=1)))).version
            await written(authority, put("task:1", json(a=2)))
            start = await authority.head()
            receipt = await written(authority, put("task:1", json(a=3), base=base))
            [_, (kind, asked)] = await told(authority, start)
            assert (kind, asked["ui"]["fields"]) == ("conflict:manual-resolution", ["a"])
            assert [option["data"] for option in asked["options"]] == [{"a": 2}, {"a": 3}, {"a": 3}]
            assert await values(authority, "task:1") == [json(a=3)]
            start = await authority.head()
            name = item_name(receipt.conflict)
            chosen = resolve(name, Key("task:1"), option=0)._replace(actor="ann")
            done = await written(authority, chosen)
            assert (done.conflict, await values(authority, "task:1")) == (receipt.conflict, [json(a=2)])
            [(kind, resolved)] = await told(authority, start)
            assert (kind, resolved["strategy"], resolved["resolvedBy"]) == ("conflict:resolved", "manual", "ann")
            assert resolved["result"]["version"] == done.version
            assert resolved["result"]["conflictResolution"]["strategy"] == "manual"
            assert refusal(await append(authority, chosen)) is Refusal.CONFLICT_CLOSED
            conflict = await kept(authority, receipt.conflict)
            assert (conflict.accepted, [held.entry.value for held in conflict.by_role(*conflict.rejected)]) == (
                ("local",),
                [json(a=3), json(a=3)],
            )

    async def test_what_a_choice_writes_over_is_kept(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            await written(authority, put("journal:1", b'"one"'))
            receipt = await written(authority, put("journal:1", b'"two"', base=Version(0)))
            await written(authority, put("journal:1", b'"meanwhile"', base=receipt.version))
            await written(authority, resolve(item_name(receipt.conflict), Key("journal:1"), option=None, value=b'"chosen"'))
            assert await values(authority, "journal:1") == [b'"chosen"']
            held = (await kept(authority, receipt.conflict)).held
            assert {one.role: one.entry.value for one in held} == {
                "local": b'"one"',
                "remote": b'"two"',
                "overwritten": b'"meanwhile"',
            }

    async def test_no_such_option_is_refused_and_the_conflict_stays(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            await written(authority, put("journal:1", b"1"))
            receipt = await written(authority, put("journal:1", b"2", base=Version(0)))
            name = item_name(receipt.conflict)
            assert refusal(await append(authority, resolve(name, Key("journal:1"), option=2))) is Refusal.NO_OPTION
            assert (
                refusal(await append(authority, resolve("conflict:no", Key("journal:1"), option=0))) is Refusal.CONFLICT_CLOSED
            )
            assert (await kept(authority, receipt.conflict)).open

    async def test_a_deletion_may_be_chosen_too(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            base = (await written(authority, put("journal:1", b"1"))).version
            await written(authority, put("journal:1", b"2"))
            receipt = await written(authority, delete("journal:1", base=base))
            assert await values(authority, "journal:1") == [None]
            await written(authority, resolve(item_name(receipt.conflict), Key("journal:1"), option=0))
            assert await values(authority, "journal:1") == [b"2"]

    async def test_what_nobody_settles_is_settled_by_the_last_write(self, store: Store) -> None:
        async with store.opened(terms=Terms(policies=POLICIES, conflicts_expire=0.01)) as authority:
            await written(authority, put("journal:1", b"1"))
            receipt = await written(authority, put("journal:1", b"2", base=Version(0)))
            start = await authority.head()
            name = item_name(receipt.conflict)
            [item] = [await authority.find_item(name)]
            assert item is not None
            await passed(authority, item.due)
            await asyncio.gather(call(authority, name), call(authority, name))
            [(kind, resolved)] = await told(authority, start)
            assert (kind, resolved["strategy"], resolved["resolvedBy"]) == ("conflict:resolved", "last-write-wins", "system")
            assert await values(authority, "journal:1") == [b"2"]
            conflict = await kept(authority, receipt.conflict)
            assert [one.entry.value for one in conflict.by_role(*conflict.rejected)] == [b"1"]
            chosen = resolve(name, Key("journal:1"), option=0)
            assert refusal(await append(authority, chosen)) is Refusal.CONFLICT_CLOSED

    async def test_a_settled_one_is_forgotten_in_time(self, store: Store) -> None:
        async with store.opened(terms=Terms(conflicts_kept=0.01)) as authority:
            await written(authority, put("a:1", b"1"))
            receipt = await written(authority, put("a:1", b"2", base=Version(0)))
            item = await authority.find_item(item_name(receipt.conflict))
            assert item is not None
            await passed(authority, item.due)
            await call(authority)
            assert await authority.find_item(item.name) is None

    async def test_the_source_that_ranks_first_stays(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            await written(authority, put("contact:1", json(source="manual", v=1)))
            receipt = await written(authority, put("contact:1", json(source="google", v=2), base=Version(0)))
            assert orjson.loads((await values(authority, "contact:1"))[0] or b"") == {"source": "manual", "v": 1}
            assert orjson.loads(receipt.value or b"")["v"] == 1
            conflict = await kept(authority, receipt.conflict)
            assert (conflict.strategy, conflict.accepted, conflict.rejected) == (Strategy.PRIORITY, ("local",), ("remote",))

    async def test_without_its_base_a_merge_is_left_to_somebody(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            base = (await written(authority, put("task:1", json(a=1, b=1)))).version
            await written(authority, put("task:1", json(a=2, b=1)))
            await authority.trim(Retention(count=1))
            receipt = await written(authority, put("task:1", json(a=1, b=2), base=base))
            assert (await kept(authority, receipt.conflict)).open

    async def test_an_increment_meets_no_conflict(self, authority: Authority) -> None:
        await written(authority, put("n:1", b"1"))
        assert (await written(authority, add("n:1", base=Version(0)))).conflict == ""

    async def test_they_are_listed_the_newest_first_and_those_over_a_number_named(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            made = []
            for place in range(4):
                await written(authority, put(f"a:{place}", b"1"))
                made.append(item_name((await written(authority, put(f"a:{place}", b"2", base=Version(0)))).conflict))
            made.sort()
            assert [item.name for item in await authority.list_items(CONFLICT, limit=10)] == made[::-1]
            assert [item.name for item in await authority.list_items(CONFLICT, before=made[2], limit=1)] == [made[1]]
            assert [item.name for item in await authority.excess_items(CONFLICT, most=1, limit=2)] == made[:2]
            assert not await authority.excess_items(CONFLICT, most=4, limit=2)
            assert not await authority.list_items(REMINDER, limit=10)

    async def test_conflicts_are_as_durable_as_their_authority(self, store: Store) -> None:
        if not store.shared:
            return
        async with store.opened(terms=SETTLING) as authority:
            await written(authority, put("journal:1", b'{"n": 1.10}'))
            receipt = await written(authority, put("journal:1", b"2", base=Version(0)))
            conflict = await kept(authority, receipt.conflict)
        async with store.opened(terms=SETTLING) as authority:
            assert await kept(authority, receipt.conflict) == conflict
            await written(authority, resolve(item_name(receipt.conflict), Key("journal:1"), option=0))
            assert await values(authority, "journal:1") == [b'{"n": 1.10}']


def event(start: float, *minutes: float, title: str = "Talk") -> bytes:
    reminders = [{"reminderType": "popup", "minutesBefore": before} for before in minutes]
    return json(title=title, startTime=moment(start), reminders=reminders)


class Reminders:
    """Writes of events that carry reminders."""

    async def test_a_reminder_is_told_once_by_whoever_comes_first(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as one, _another(store, one) as other:
            start = await one.time() + 300.0
            await written(one, put("event:7", event(start, 10)))
            before = await one.head()
            await asyncio.gather(call(one), call(other))
            await asyncio.gather(call(one), call(other))
            expected = {
                "eventId": "7",
                "key": "event:7",
                "title": "Talk",
                "startTime": moment(start),
                "reminderType": "popup",
                "minutesBefore": 10,
            }
            assert await told(other, before) == [("calendar:reminder", expected)]
            await written(one, put("event:7", event(start, 10, title="Another name")))
            await call(one)
            assert len(await told(one, before)) == 1

    async def test_it_waits_for_its_time(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            start = await authority.time() + 3_600.0
            await written(authority, put("event:7", event(start, 10, 30)))
            [item] = await authority.list_items(REMINDER, limit=10)
            assert item.due == pytest.approx(start - 1_800.0, abs=0.001)
            assert not await authority.due_items(limit=10)

    async def test_it_moves_with_its_event_and_is_told_anew(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            now = await authority.time()
            await written(authority, put("event:7", event(now + 300.0, 10)))
            before = await authority.head()
            await call(authority)
            await written(authority, put("event:7", event(now + 7_200.0, 10)))
            await call(authority)
            [item] = await authority.list_items(REMINDER, limit=10)
            assert item.due == pytest.approx(now + 6_600.0, abs=0.001)
            await written(authority, put("event:7", event(now + 400.0, 10)))
            await call(authority)
            await written(authority, put("event:7", event(now + 300.0, 10)))  # where it was told already
            await call(authority)
            starts = [message["startTime"] for _, message in await told(authority, before)]
            assert starts == [moment(now + 300.0), moment(now + 400.0)]

    async def test_it_is_cancelled_with_its_event(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            start = await authority.time() + 300.0
            await written(authority, put("event:7", event(start, 10)))
            before = await authority.head()
            await written(authority, delete("event:7"))
            assert not await authority.list_items(REMINDER, limit=10)
            await call(authority)
            assert await told(authority, before) == []

    async def test_an_event_that_ends_in_another_way_is_not_told_of(self, store: Store) -> None:
        async with store.opened(terms=SETTLING) as authority:
            start = await authority.time() + 300.0
            await written(authority, put("event:7", event(start, 10), ttl=0.001))
            await passed(authority, await authority.time() + 0.01)
            before = await authority.head()
            await call(authority)
            assert await told(authority, before) == []
            assert not await authority.list_items(REMINDER, limit=10)

    @pytest.mark.parametrize("late", [3_600.0, 1.0])
    async def test_what_nobody_was_there_to_tell_is_told_later_but_not_for_ever(self, store: Store, late: float) -> None:
        async with store.opened(terms=Terms(reminds=("event:",), reminder_late=late)) as authority:
            start = await authority.time() + 300.0
            await written(authority, put("event:7", event(start, 10)))  # due five minutes ago
            before = await authority.head()
            await call(authority)
            assert len(await told(authority, before)) == (late > 300.0)
            await call(authority)
            assert len(await told(authority, before)) == (late > 300.0)

    async def test_reminders_are_as_durable_as_their_authority(self, store: Store) -> None:
        if not store.shared:
            return
        async with store.opened(terms=SETTLING) as authority:
            start = await authority.time() + 300.0
            await written(authority, put("event:7", event(start, 10, 8)))
            before = await authority.head()
        async with store.opened(terms=SETTLING) as authority:
            await call(authority)
        async with store.opened(terms=SETTLING) as authority:
            await call(authority)
            assert [message["minutesBefore"] for _, message in await told(authority, before)] == [10, 8]


@asynccontextmanager
async def _another(store: Store, authority: Authority) -> AsyncIterator[Authority]:
    """Another handle where there can be one, else the same."""
    if not store.shared:
        yield authority
        return
    async with store.opened(terms=SETTLING) as another:
        yield another
