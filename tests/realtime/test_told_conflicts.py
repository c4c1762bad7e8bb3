"""Conflicts, reminders and how a batch goes on, as they are told: each message type once as a golden frame, from the fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from cachesvc.model.agenda import Item
from cachesvc.model.change import (
    MAX_RECORDED_VALUE,
    Change,
    Draft,
    Operation,
    due,
    pack_change,
    publish,
    resolve,
    unpack_change,
)
from cachesvc.model.conflict import MAX_TOLD, item_name
from cachesvc.model.entry import Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import Folded, State, Terms
from cachesvc.model.keys import Key
from cachesvc.model.merging import Policy, Strategy
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.model.syncs import Sync
from cachesvc.realtime.identity import Identity
from tests.realtime.changes import AT, entry, written
from tests.realtime.nodes import connected, node, recovered
from tests.realtime.sessions import Said
from tests.wire import golden_frames

TASK = Key("task:42")
BASE = entry(TASK, 900, {"title": "Write", "due": "Monday", "size": 1})
LOCAL = entry(TASK, 950, {"title": "Write", "due": "Friday", "size": 1}, updated_by="bob")._replace(updated_at=AT + 1)
NOW = AT + 2
TERMS = Terms(
    policies={
        "task": Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL),
        "note": Policy(Strategy.LAST_WRITE_WINS),
        "email": Policy(Strategy.MANUAL),
    },
    reminds=("event:",),
)


def folded(
    *drafts: Draft,
    rows: Sequence[Entry] = (LOCAL,),
    items: Sequence[Item] = (),
    bases: Sequence[Entry] = (BASE,),
    now: float = NOW,
) -> Folded:
    held = {row.key: row for row in rows}
    known = {(base.key, base.version): base for base in bases}
    state = State(Position(Epoch(7), Seq(1000)), now, held, items={item.name: item for item in items}, bases=known)
    done = fold(state, drafts, batch="c", terms=TERMS)
    assert not [outcome for outcome in done.outcomes if isinstance(outcome, Exception)]
    return done


def update(value: object, key: Key = TASK, base: int = 900) -> Draft:
    return Draft(Operation.SET, key, orjson.dumps(value), base=Version(base), actor="ann")


def pushed(changes: Sequence[Change], *scopes: str, **more: Any) -> dict[str, bytes]:
    """The frames that a subscriber is sent who may do that, by their type."""
    said = Said(identity=Identity("ann", scopes or ("admin",)))
    said.session.open()
    said.send("subscribe", {"resources": ["cache:*"], **more})
    said.raw()
    said.hub.route(changes)
    return {orjson.loads(frame)["type"]: frame for frame in said.raw()}


MERGED = update({"title": "Write it", "due": "Monday", "size": 1})
CLASHING = update({"title": "Write", "due": "Sunday", "size": 1})


def test_conflict_detect_and_auto_merge() -> None:
    frames = pushed(folded(MERGED).changes)
    assert list(frames) == ["task:update", "conflict:detect", "conflict:auto-merge"]
    detected = golden_frames.check(frames["conflict:detect"])["payload"]
    assert (detected["conflictType"], detected["versions"].keys()) == ("version", {"local", "remote", "base"})
    merge = golden_frames.check(frames["conflict:auto-merge"])["payload"]
    assert merge["result"]["merged"]["data"] == {"title": "Write it", "due": "Friday", "size": 1}
    assert merge["result"]["merged"]["conflictResolution"]["resolvedBy"] == "system"  # which no person is
    task = orjson.loads(frames["task:update"])["payload"]
    assert (task["task"], task["conflict"]) == (merge["result"]["merged"]["data"], {"conflictId": "c-0"})


def test_conflict_manual_resolution() -> None:
    frames = pushed(folded(CLASHING).changes)
    asked = golden_frames.check(frames["conflict:manual-resolution"])["payload"]
    assert ([option["data"]["due"] for option in asked["options"]], asked["ui"]["fields"]) == (
        ["Friday", "Sunday", "Sunday"],
        ["due"],
    )


def test_conflict_resolved() -> None:
    made = folded(CLASHING)
    item = made.items[item_name("c-0")]
    assert item is not None
    chosen = resolve(item.name, TASK, option=0)._replace(actor="ann")
    done = folded(chosen, rows=[made.rows[TASK]], items=[item], now=NOW + 60)
    resolved = golden_frames.check(pushed(done.changes)["conflict:resolved"])["payload"]
    assert (resolved["strategy"], resolved["result"]["data"]["due"], resolved["resolvedBy"]) == ("manual", "Friday", "ann")


def test_calendar_reminder() -> None:
    event = entry(
        "event:7", 900, {"title": "Talk", "startTime": "2024-01-15T10:40:00.000Z", "reminders": [{"minutesBefore": 10}]}
    )
    item = Item("reminder:event:7", AT, b"[]")
    done = folded(due(item.name, AT, event.key), rows=[event], items=[item])
    reminder = golden_frames.check(pushed(done.changes)["calendar:reminder"])["payload"]
    assert (reminder["eventId"], reminder["title"], reminder["minutesBefore"]) == ("7", "Talk", 10)


def test_a_reminder_is_told_by_each_way_that_was_asked_for_at_its_time() -> None:
    asked = [{"reminderType": kind, "minutesBefore": 10} for kind in ("popup", "email", "popup")]
    event = entry("event:7", 900, {"title": "Talk", "startTime": "2024-01-15T10:40:00.000Z", "reminders": asked})
    item = Item("reminder:event:7", AT, b"[]")
    done = folded(due(item.name, AT, event.key), rows=[event], items=[item])
    told = [orjson.loads(change.publication.message) for change in done.changes if change.publication is not None]
    assert [message["reminderType"] for message in told] == ["popup", "email"]
    kept = done.items[item.name]
    assert kept is not None
    assert len(orjson.loads(kept.record)) == 1


def due_event(pad: str = "") -> tuple[Change, Sequence[Change]]:
    """The write of an event, and what is appended when its reminder is due."""
    said = {"title": "Talk", "room": {"floor": 2}, "startTime": "2024-01-15T10:40:00.000Z", "pad": pad}
    written_ = written(1000, "event:7", said | {"reminders": [{"minutesBefore": 10}]}, source="google")
    item = Item("reminder:event:7", AT, b"[]")
    assert written_.entry is not None
    return written_, folded(due(item.name, AT, Key("event:7")), rows=[written_.entry], items=[item]).changes


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"room.floor": 2}, True),
        ({"room.floor": [1, 3]}, False),
        ({"event.title": "Talk"}, True),
        ({"title": "Talk", "room.floor": 3}, False),
        ({"source": "google"}, True),
        ({"source": "internal"}, False),
        ({"nothing": None}, False),
    ],
)
async def test_filters_judge_a_reminder_by_its_event(filters: dict[str, object], wanted: bool) -> None:
    """As they judge a change of it, live and recovered from the log as it is written down."""
    written_, changes = due_event()
    kinds = ["calendar:update", "calendar:reminder"] if wanted else []
    assert list(pushed([written_, *changes], filters=filters)) == kinds
    other = node()
    said = connected(other)
    said.send("subscribe", {"resources": ["calendar"], "filters": filters})
    for change in (written_, *changes):
        record, value = pack_change(change)
        other.log.changes.append(unpack_change(1001 + len(other.log.changes), change.kind.value, change.key, record, value))
    other.follow()
    messages, _ = await recovered(other, said, lastSequenceNumber=9, epoch=7, position=1000)
    assert [message["type"] for message in messages] == kinds


def test_filters_do_not_hold_back_a_reminder_that_cannot_be_looked_into() -> None:
    """Of an event that is too large for a record, or told by a node of an older version."""
    _, [large] = due_event(pad="x" * MAX_RECORDED_VALUE)
    _, [change] = due_event()
    assert change.publication is not None
    older = change._replace(publication=change.publication._replace(about=None))
    for one in (large, older):
        assert list(pushed([one], filters={"room.floor": 3})) == ["calendar:reminder"]
        assert not pushed([one], filters={"reminderType": "email"})


@pytest.mark.parametrize(("actor", "source", "by"), [("", None, "anonymous"), ("ann", "manual", "ann")])
def test_who_wrote_and_where_it_came_from_is_told_as_everywhere(actor: str, source: str | None, by: str) -> None:
    note = Key("note:1")
    value = {"a": 2} | ({"source": source} if source else {})
    draft = update(value, note, 800)._replace(actor=actor)
    frames = pushed(folded(draft, rows=[entry(note, 950, 1)], bases=()).changes)
    detected, resolved = (orjson.loads(frames[kind])["payload"] for kind in ("conflict:detect", "conflict:resolved"))
    assert detected["versions"]["local"]["metadata"]["updatedBy"] == "anonymous"
    remote = detected["versions"]["remote"]["metadata"]
    assert (remote["updatedBy"], remote["source"]) == (by, source or "internal")
    assert resolved["resolvedBy"] == resolved["result"]["conflictResolution"]["resolvedBy"] == by


def test_task_sync() -> None:
    sync = Sync("import-7", 4)
    assert sync.next() is not None
    sync.note(1, "VERSION_CONFLICT")
    said = sync.next()
    assert said is not None
    payload = golden_frames.check(pushed(folded(publish(said)).changes)["task:sync"])["payload"]
    assert payload == {
        "syncId": "import-7",
        "status": "progress",
        "progress": 0.25,
        "processed": 1,
        "total": 4,
        "errors": ["VERSION_CONFLICT"],
    }


@pytest.mark.parametrize(
    ("scopes", "told"),
    [(("read:task:*",), False), (("read:task:*", "resolve:task:*"), True), (("read:email:*", "resolve:task:*"), None)],
)
def test_who_may_not_resolve_is_not_asked_to(scopes: tuple[str, ...], told: bool | None) -> None:
    said = Said(identity=Identity("ann", scopes))
    said.session.open()
    said.send("subscribe", {"resources": ["task" if told is not None else "email"]})
    said.raw()
    said.hub.route(folded(CLASHING).changes)
    kinds = [orjson.loads(frame)["type"] for frame in said.raw()]
    asked = ["conflict:manual-resolution"] if told else []
    assert kinds == ([] if told is None else ["task:update", "conflict:detect", *asked])


def test_a_throttle_conflates_no_conflict() -> None:
    said = Said()
    said.session.open()
    said.send("subscribe", {"resources": ["task"], "throttle": 3_600_000})
    said.raw()
    for step in range(2):
        changes = folded(CLASHING).changes
        said.hub.route([change._replace(sequence=Seq(change.sequence + 10 * step)) for change in changes])
    kinds = [orjson.loads(frame)["type"] for frame in said.raw()]
    assert [kinds.count(kind) for kind in ("conflict:detect", "conflict:manual-resolution")] == [2, 2]


def test_filters_look_at_what_is_said_of_a_conflict() -> None:
    changes = folded(MERGED).changes
    assert "conflict:detect" in pushed(changes, filters={"conflictType": "version"})
    assert "conflict:detect" not in pushed(changes, filters={"conflictType": "data"})


def test_no_digit_is_lost_and_what_is_large_is_left_out() -> None:
    exact = entry(TASK, 950, b'{"n": 1.10}')
    frames = pushed(folded(update({"n": 2}), rows=[exact], bases=[]).changes)
    assert b'{"n": 1.10}' in frames["conflict:detect"]
    large = entry(TASK, 950, {"n": "x" * MAX_TOLD})
    detected = orjson.loads(pushed(folded(update({"n": 2}), rows=[large], bases=[]).changes)["conflict:detect"])
    local = detected["payload"]["versions"]["local"]
    assert (local["data"], local["truncated"]) == (None, True)


def test_a_conflict_that_the_last_write_settles_is_told_as_settled() -> None:
    note = entry("note:1", 950, "one")
    frames = pushed(folded(update("two", note.key), rows=[note], bases=[]).changes)
    assert list(frames) == ["cache:update", "conflict:detect", "conflict:resolved"]
    resolved = orjson.loads(frames["conflict:resolved"])["payload"]
    assert (resolved["strategy"], resolved["result"]["data"]) == ("last-write-wins", "two")
