"""Conflation: one message for what was not seen."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.change import Change
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.realtime.conflate import Conflator, merge
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.told import Told, tell, tell_invalidation
from tests.realtime.changes import BEFORE, deleted, invalidated, written


def told(change: Change) -> Told:
    made = tell(change, Modules(), 7)
    assert made is not None
    return made


def metric(sequence: int, previous: int, value: int) -> Told:
    return told(written(sequence, "dashboard:a:b", value, before=BEFORE, previous=b"%d" % previous))


def change_of(told: Told) -> object:
    return orjson.loads(told.frame(1, 1))["payload"]["change"]


def test_the_latest_wins() -> None:
    merged = merge(told(written(1, "task:1", 1, before=BEFORE)), told(written(2, "task:1", 2, before=BEFORE)))
    assert merged is not None
    assert (merged.action, merged.version, merged.content) == ("updated", 2, 2)


def test_created_then_updated_is_created() -> None:
    merged = merge(told(written(1, "task:1", 1)), told(written(2, "task:1", 2, before=BEFORE)))
    assert merged is not None
    assert (merged.payload["action"], merged.version, merged.content) == ("created", 2, 2)


def test_a_deletion_beats_an_update() -> None:
    merged = merge(told(written(1, "task:1", 1, before=BEFORE)), told(deleted(2, "task:1")))
    assert merged is not None
    assert (merged.action, merged.version) == ("deleted", 2)


def test_created_then_deleted_is_nothing() -> None:
    assert merge(told(written(1, "task:1", 1)), told(deleted(2, "task:1"))) is None


def test_deleted_then_created_is_updated() -> None:
    merged = merge(told(deleted(1, "task:1")), told(written(2, "task:1", 2)))
    assert merged is not None
    assert (merged.payload["action"], merged.version) == ("updated", 2)


def test_a_metric_keeps_the_first_previous_and_sums_its_moves() -> None:
    merged = merge(merge(metric(1, 5, 7), metric(2, 7, 4)) or metric(1, 0, 0), metric(3, 4, 10))
    assert merged is not None
    assert change_of(merged) == {"previous": 5, "current": 10, "delta": 5}
    gone = merge(metric(1, 5, 7), told(deleted(2, "dashboard:a:b", previous=b"7")))
    assert gone is not None
    assert change_of(gone) == {"previous": 5, "current": None, "delta": -5}


def test_new_mail_is_never_conflated() -> None:
    waiting: Conflator[None] = Conflator()
    waiting.add(told(written(1, "email:1", {})), 0.0, None)
    waiting.add(told(written(2, "email:1", {"status": "read"}, before=BEFORE, previous=b'"unread"')), 0.0, None)
    waiting.add(told(written(3, "email:1", {"status": "starred"}, before=BEFORE, previous=b'"read"')), 0.0, None)
    taken = [waiting.take(0.0), waiting.take(0.0), waiting.take(0.0)]
    assert [(one.told.type, one.told.version) for one in taken if one] == [("email:new", 1), ("email:status", 3)]


def mail(sequence: int, content: dict[str, Any], was: str) -> Told:
    return told(written(sequence, "email:1", content, before=BEFORE, previous=orjson.dumps(was), updated_by=f"by-{sequence}"))


def test_a_status_is_told_with_what_became_of_its_mail() -> None:
    """Who knows the messages of mail only has the status, and who reads all of them has the rest."""
    before, read = (
        mail(1, {"subject": "a", "status": "unread"}, "unread"),
        mail(2, {"subject": "b", "status": "read"}, "unread"),
    )
    after, again = mail(3, {"subject": "c", "status": "read"}, "read"), mail(4, {"subject": "d", "status": "starred"}, "read")
    assert [one.type for one in (before, read, after)] == ["cache:update", "email:status", "cache:update"]
    conflated, payload = None, {}
    for expected, one in ((1, before), (2, read), (3, after), (4, again)):
        conflated = merge(conflated, one) if conflated is not None else one
        assert conflated is not None
        assert conflated.version == expected
        payload = orjson.loads(conflated.frame(1, 1))["payload"]
        if expected == 3:
            assert (conflated.type, conflated.content) == ("email:status", {"subject": "c", "status": "read"})
            assert payload == {
                "messageId": "1",
                "status": "read",
                "changedBy": "by-2",
                "message": {"subject": "c", "status": "read"},
                "key": "email:1",
            }
    assert payload["message"]["subject"] == "d"
    gone = merge(read, told(deleted(5, "email:1")))
    assert gone is not None
    assert (gone.type, gone.action) == ("cache:update", "deleted")
    other = merge(read, mail(6, {"status": "gone"}, "read"))
    assert other is not None
    assert (other.type, other.payload["operation"]) == ("cache:update", "set")


def concerning(sequence: int, *keys: str, pattern: str = "") -> Told:
    named = Invalidation(pattern, tuple(map(Key, keys)))
    return tell_invalidation(invalidated(sequence, *keys, pattern=pattern), named, 7)


@pytest.mark.parametrize("named", [concerning(2, "task:1"), concerning(2, pattern="tas*")])
def test_what_comes_after_an_invalidation_is_told_after_it(named: Told) -> None:
    waiting: Conflator[None] = Conflator()
    waiting.add(told(written(1, "task:1", 1, before=BEFORE)), 5.0, None)
    waiting.add(named, 0.0, None)
    waiting.add(told(written(3, "task:1", 3)), 5.0, None)
    waiting.add(told(written(4, "task:1", 4, before=BEFORE)), 5.0, None)
    now, later = [], []
    while (one := waiting.take(0.0)) is not None:
        now.append(one.told.version)
    while (one := waiting.take(5.0)) is not None:
        later.append(one.told.version)
    assert (now, later) == ([1, 2], [4])


def test_an_invalidation_of_others_parts_nothing() -> None:
    waiting: Conflator[None] = Conflator()
    waiting.add(told(written(1, "task:1", 1, before=BEFORE)), 0.0, None)
    waiting.add(concerning(2, "task:2", pattern="note:*"), 0.0, None)
    waiting.add(told(written(3, "task:1", 3, before=BEFORE)), 0.0, None)
    taken = [waiting.take(0.0), waiting.take(0.0), waiting.take(0.0)]
    assert [one.told.version for one in taken if one] == [3, 2]


operations = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["set", "delete"]), st.floats(0, 5)), max_size=20)


@given(operations, st.floats(0, 6))
def test_what_is_taken_leads_to_where_the_changes_led(steps: list[tuple[str, str, float]], now: float) -> None:
    """A view that applies what is taken, whenever it is, is that of one who saw everything; the books are right."""
    waiting: Conflator[str] = Conflator()
    truth: dict[str, Any] = {}
    view: dict[str, Any] = {}

    def apply(one: Told) -> None:
        if one.action == "deleted":
            del view[one.entity]  # it was there: a deletion of what was never told is not told
        else:
            assert (one.action == "created") == (one.entity not in view)
            view[one.entity] = one.content

    for sequence, (key, operation, due) in enumerate(steps, 1):
        name = f"task:{key}"
        if operation == "set":
            waiting.add(told(written(sequence, name, sequence, before=BEFORE if name in truth else None)), due, key)
            truth[name] = sequence
        elif truth.pop(name, None) is not None:
            waiting.add(told(deleted(sequence, name)), due, key)
        if sequence % 5 == 0:
            while (one := waiting.take(now)) is not None:
                apply(one.told)
    left = []
    while (last := waiting.take(10.0)) is not None:
        left.append(last.oldest)
        apply(last.told)
    assert view == truth
    assert left == sorted(left)
    assert (waiting.size, len(waiting), waiting.oldest, waiting.due) == (0, 0, None, None)
