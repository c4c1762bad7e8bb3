"""What changes are told as, module by module; each message type once as a golden frame."""

from __future__ import annotations

from typing import Any

import pytest

from cachesvc.model.change import Change, Kind
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.modules import Module, Modules
from cachesvc.realtime.told import MAX_PUSHED, tell
from tests.realtime.changes import BEFORE, deleted, expired, invalidated, published, written
from tests.realtime.sessions import Said
from tests.wire import golden_frames


def pushed(*changes: Change, resources: tuple[str, ...] = ("cache:*",)) -> list[bytes]:
    """The frames that a subscriber is sent."""
    said = Said()
    said.session.open()
    said.send("subscribe", {"resources": list(resources)})
    said.raw()
    said.hub.route(changes)
    return said.raw()


def told(change: Change, modules: Modules | None = None) -> dict[str, Any]:
    """The payload that one change is told with."""
    made = tell(change, modules or Modules(), 7)
    assert made is not None
    import orjson  # noqa: PLC0415

    frame = orjson.loads(made.frame(1, change.sequence))
    if modules is None:
        FROM_SERVER[frame["type"]].model_validate(frame)
    payload: dict[str, Any] = frame["payload"]
    return {"type": frame["type"], **payload}


def test_dashboard_update() -> None:
    (frame,) = pushed(written(1001, "dashboard:tasks:completed", 24, before=BEFORE, previous=b"23"))
    payload = golden_frames.check(frame)["payload"]
    assert payload["change"] == {"previous": 23, "current": 24, "delta": 1}
    assert (payload["module"], payload["metric"], payload["value"]) == ("tasks", "completed", 24)


def test_task_update() -> None:
    (frame,) = pushed(written(1001, "task:42", {"id": "42", "title": "Write"}, source="motion"))
    payload = golden_frames.check(frame)["payload"]
    assert (payload["action"], payload["task"]["title"], payload["source"]) == ("created", "Write", "motion")


def test_calendar_update() -> None:
    event = {"id": "7", "title": "Talk", "source": "google", "attendees": [{"email": "ann@example.com"}]}
    (frame,) = pushed(written(1001, "event:7", event, before=BEFORE))
    payload = golden_frames.check(frame)["payload"]
    assert (payload["action"], payload["event"], payload["source"]) == ("updated", event, "google")
    assert payload["attendees"] == event["attendees"]


def test_email_new() -> None:
    (frame,) = pushed(written(1001, "email:9", {"subject": "Hi", "folder": "work", "importance": "high"}))
    payload = golden_frames.check(frame)["payload"]
    assert (payload["folder"], payload["importance"], payload["message"]["subject"]) == ("work", "high", "Hi")


def test_email_status() -> None:
    change = written(
        1001, "email:9", {"subject": "Hi", "status": "read"}, before=BEFORE, previous=b'"unread"', updated_by="ann"
    )
    (frame,) = pushed(change)
    payload = golden_frames.check(frame)["payload"]
    assert (payload["messageId"], payload["status"], payload["changedBy"]) == ("9", "read", "ann")


def test_contact_update() -> None:
    (frame,) = pushed(written(1001, "contact:ann", {"name": "Ann", "mergeConflict": True}, before=BEFORE))
    payload = golden_frames.check(frame)["payload"]
    assert (payload["contact"]["name"], payload["source"], payload["mergeConflict"]) == ("Ann", "internal", True)


def test_cache_update() -> None:
    (frame,) = pushed(written(1001, "journal:2024", "dear diary"))
    payload = golden_frames.check(frame)["payload"]
    assert payload.items() >= {"key": "journal:2024", "value": "dear diary", "operation": "set", "ttl": 60.0}.items()


def test_cache_invalidate() -> None:
    (frame,) = pushed(invalidated(1001, "task:1", pattern="task:4*", cascade=True))
    payload = golden_frames.check(frame)["payload"]
    assert payload == {"keys": ["task:1"], "pattern": "task:4*", "cascade": True}


def test_publish() -> None:
    (frame,) = pushed(published(1001, "tasks:42", {"typing": True}), resources=("task:42",))
    payload = golden_frames.check(frame)["payload"]
    assert payload == {"resource": "tasks:42", "message": {"typing": True}, "publishedBy": "ann"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (deleted(1001, "task:42"), {"action": "deleted", "task": {"id": "42"}, "source": "internal"}),
        (expired(1001, "task:42"), {"action": "deleted", "task": {"id": "42"}, "reason": "expired"}),
        (deleted(1001, "x"), {"type": "cache:update", "operation": "delete", "value": None}),
        (expired(1001, "x"), {"operation": "delete", "reason": "expired"}),
        (deleted(1001, "dashboard:a:b", previous=b"7"), {"change": {"previous": 7, "current": None, "delta": -7}}),
        (written(1001, "dashboard:a:b", 2.5), {"change": {"previous": None, "current": 2.5, "delta": 2.5}}),
        (
            written(1001, "dashboard:a:b", "up", previous=b'"down"'),
            {"change": {"previous": "down", "current": "up", "delta": 0}},
        ),
        (written(1001, "dashboard:a", 1), {"type": "cache:update"}),
        (written(1001, "email:9", {"status": "read"}, before=BEFORE, previous=b'"read"'), {"type": "cache:update"}),
        (written(1001, "email:9", {"a": 1}, before=BEFORE), {"type": "cache:update"}),
        (deleted(1001, "email:9"), {"type": "cache:update", "operation": "delete"}),
        (written(1001, "task:1", b"\x00", content_type="image/png"), {"task": "AA==", "encoding": "base64"}),
        (written(1001, "task:1", b"1e400"), {"source": "internal"}),
        (written(1001, "task:1", 1, conflict="c-9"), {"conflict": {"conflictId": "c-9"}}),
        (written(1001, "task:1", {"source": "manual"}, source="motion"), {"source": "manual"}),
        (written(1001, "task:1", {"source": 5, "conflict": "x"}, source="google"), {"source": "internal"}),
        (written(1001, "event:1", {"source": "motion", "attendees": "bob"}), {"source": "internal"}),
        (written(1001, "email:1", {"folder": 5, "importance": "dire"}), {"folder": "inbox", "importance": "normal"}),
        (written(1001, "contact:1", {"source": 5}, source="google"), {"source": "google"}),
        (written(1001, "contact:1", {"mergeConflict": False}, conflict="c-9"), {"mergeConflict": True}),
        (
            written(1001, "email:9", {"status": "read", "changedBy": 5}, before=BEFORE, previous=b'"unread"'),
            {"type": "email:status", "changedBy": "anonymous"},
        ),
        (written(1001, "email:9", {"status": "gone"}, before=BEFORE, previous=b'"unread"'), {"type": "cache:update"}),
        (written(1001, "task:1", b"", held=False), {"task": None, "truncated": True}),
        (written(1001, "x", b"", held=False), {"value": None, "truncated": True}),
        (written(1001, "dashboard:a:b", b"", held=False), {"type": "cache:update", "truncated": True}),
        (written(1001, "x", "x" * MAX_PUSHED), {"value": None, "truncated": True}),
        (written(1001, "task:1", 1, kind=Kind.FILL), {"action": "created"}),
        (written(1001, "task:1", 1, kind=Kind.FILL, before=BEFORE), {"action": "updated"}),
    ],
)
def test_how_it_is_told(change: Change, expected: dict[str, object]) -> None:
    if change.entry is not None and change.entry.value == b"1e400":
        made = tell(change, Modules(), 7)
        assert made is not None
        assert b'"task":1e400' in made.head
        return
    assert told(change).items() >= expected.items()


@pytest.mark.parametrize(
    ("key", "value", "member"),
    [
        ("contact:1", {"mergeConflict": "yes"}, "mergeConflict"),
        ("event:1", {"attendees": "bob"}, "attendees"),
        ("task:1", {"conflict": "x"}, "conflict"),
    ],
)
def test_what_is_not_of_its_type_is_left_out(key: str, value: object, member: str) -> None:
    assert member not in told(written(1001, key, value))


def test_what_nobody_is_told() -> None:
    same = written(1001, "task:1", 1)
    assert same.entry is not None
    assert tell(same._replace(kind=Kind.FILL, before=same.entry.content_hash), Modules(), 7) is None
    absent = deleted(1001, "task:1")
    assert tell(absent._replace(kind=Kind.FILL, before=None), Modules(), 7) is None
    assert tell(Change(same.sequence, Kind.REVOKE, "", 0.0), Modules(), 7) is None


def test_settings_add_modules() -> None:
    modules = Modules([Module("note", "note:update", entity="note", also=("notes",))])
    assert told(written(1001, "note:1", 1), modules).items() >= {"type": "note:update", "note": 1}.items()
    assert (modules.called("notes"), modules.called("tasks"), modules.called("other")) == ("note", "task", "other")
    assert modules.remembers == {"email": "status", "dashboard": ""}
