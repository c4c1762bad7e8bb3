"""Subscriptions of sessions to a hub: who is told what, when, and with which numbers."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.change import Change
from cachesvc.model.pattern import parse_pattern
from cachesvc.protocol.codes import CloseCode
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.resources import parse_resource
from tests.realtime.changes import BEFORE, deleted, invalidated, published, written
from tests.realtime.sessions import Said
from tests.wire import golden_frames


def subscribed(*resources: str, hub: Any = None, **more: Any) -> Said:
    limits = more.pop("limits", {})
    said = Said(hub=hub, **limits)
    said.session.open()
    said.send("subscribe", {"resources": list(resources), **more}, requestId="r")
    ack = said.frames()[-1]
    assert ack["type"] == "ack", ack
    return said


def loads(frame: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame)
    return message


def keys(said: Said) -> list[str]:
    return [frame["payload"].get("key") or "+".join(frame["payload"].get("keys", ["?"])) for frame in said.frames()]


def test_the_ack_tells_since_when() -> None:
    said = Said()
    said.session.open()
    said.raw()
    said.golden("subscribe", requestId="r-1")
    (frame,) = said.raw()
    ack = golden_frames.check(frame)
    assert (ack["payload"], ack["epoch"], ack["position"]) == ({"resources": ["task"]}, 7, 1000)
    said.golden("unsubscribe", requestId="r-2")
    assert said.frame()["payload"] == {"resources": ["task"]}
    said.hub.route([written(1001, "task:1", 1)])
    assert said.frames() == []
    assert said.hub.index.size == 0


def test_who_is_in_step_is_sent_the_very_same_bytes() -> None:
    """And who is not, frames of its own: the same but for the number."""
    first = subscribed("task")
    second, late = subscribed("task", hub=first.hub), subscribed("note", "task", hub=first.hub)
    first.hub.route([written(1001, "note:1", 1), written(1002, "task:1", 2)])
    (one,), (same,), (_, other) = first.raw(), second.raw(), late.raw()
    assert one is same
    assert other == one.replace(b'"seq":1,', b'"seq":2,')


@pytest.mark.parametrize(
    ("resource", "key", "covered"),
    [
        ("task", "task:1", True),
        ("tasks", "task:1", True),
        ("task", "tasks:1", False),
        ("task", "task", True),
        ("task:4", "task:4", True),
        ("tasks:4", "task:4", True),
        ("task:4", "task:42", False),
        ("task:4", "task:4:notes", True),
        ("calendar", "event:1", True),
        ("dashboard:tasks", "dashboard:tasks:completed", True),
        ("dashboard:tasks", "dashboard:calendar:x", False),
        ("other", "other:1", True),
        ("cache:task:*", "task:1", True),
        ("cache:*:1", "task:1", True),
        ("cache:task:1", "task:1", True),
        ("cache:task:1", "task:1:2", False),
        ("cache:[ab]?", "b1", True),
        ("cache:[ab]?", "c1", False),
    ],
)
def test_what_a_resource_covers(resource: str, key: str, covered: bool) -> None:
    said = subscribed(resource)
    said.hub.route([written(1001, key, 1)])
    assert len(said.frames()) == covered


RESOURCES = ["task", "task:1", "task:1:a", "event", "cache:*", "cache:task:*", "cache:t*1", "cache:task:1", "cache:?ask:1:[ab]"]
RESOURCES += ["cache:event*"]  # its prefix is as long as another
KEYS = ["task", "task:1", "task:1:a", "task:1:b", "task:2", "event:1", "tusk:1", "x"]


@given(st.lists(st.sampled_from(RESOURCES), unique=True), st.lists(st.sampled_from(RESOURCES), unique=True))
def test_the_index_finds_what_a_loop_would(added: list[str], removed: list[str]) -> None:
    said = Said()
    said.session.open()
    if added:
        said.send("subscribe", {"resources": added})
    if removed:
        said.send("unsubscribe", {"resources": removed})
    left = [parse_resource(text, Modules(), field="") for text in added if text not in removed]
    index = said.hub.index
    assert index.size == len(left)
    for key in KEYS:
        found = [subscription.resource for subscription in index.covering(key)]
        assert sorted(found) == sorted(one for one in left if covers(one, key))
        for glob in (key, f"{key}*", "*", "t*", "task:?"):
            pattern = parse_pattern(glob)
            reached = [subscription.resource for subscription in index.reached(pattern)]
            assert len(reached) == len(set(reached))
            needed = {one for one in left for other in KEYS if pattern.matches(other) and covers(one, other)}
            assert needed <= set(reached)


def covers(resource: Any, key: str) -> bool:
    if resource.pattern is not None:
        return bool(resource.pattern.matches(key))
    return key == resource.name or key.startswith(resource.name + ":")


def test_numbers_have_no_holes_and_one_change_is_told_once() -> None:
    said = subscribed("task", "task:1", "cache:task:*")
    said.hub.route(
        [written(1001, "task:1", 1), written(1002, "event:1", 1), written(1003, "task:2", 1), deleted(1004, "task:1")]
    )
    told = [(f["seq"], f["version"], f["epoch"], f["position"], f["payload"]["action"]) for f in said.frames()]
    assert told == [(1, 1001, 7, 1001, "created"), (2, 1003, 7, 1003, "created"), (3, 1004, 7, 1004, "deleted")]


@pytest.mark.parametrize(
    ("filters", "versions"),
    [
        ({"status": "open"}, [1001, 1003, 1004, 1005]),
        ({"task.status": "open"}, [1001, 1003, 1004, 1005]),
        ({"status": ["open", "done"]}, [1001, 1002, 1003, 1004, 1005]),
        ({"status": "open", "owner.id": 7}, [1003, 1004, 1005]),
        ({"action": "deleted"}, [1004]),
        ({"action": ["created", "deleted"]}, [1001, 1002, 1003, 1004, 1005]),
        ({"owner.id": True}, [1004, 1005]),
        ({"source": "motion"}, [1002]),
        ({"nothing": None}, [1004, 1005]),
    ],
)
def test_filters(filters: dict[str, object], versions: list[int]) -> None:
    said = subscribed("task", filters=filters)
    said.hub.route(
        [
            written(1001, "task:1", {"status": "open", "owner": {"id": 1}}),
            written(1002, "task:2", {"status": "done", "owner": {"id": 1}}, source="motion"),
            written(1003, "task:3", {"status": "open", "owner": {"id": 7}}),
            deleted(1004, "task:4"),
            written(1005, "task:5", b"", held=False),
        ]
    )
    assert [frame["version"] for frame in said.frames()] == versions


def test_a_throttle_tells_the_first_at_once_and_then_the_latest() -> None:
    said = subscribed("task", throttle=1000)
    said.hub.route([written(1001, "task:1", 1)])
    assert [(f["version"], f["position"]) for f in said.frames()] == [(1001, 1001)]
    said.hub.route(
        [written(1002, "task:1", 2, before=BEFORE), written(1003, "task:2", 1), written(1004, "task:1", 3, before=BEFORE)]
    )
    assert said.frames() == []
    assert said.session.due == 1.0
    assert said.session.stream.position == 1001
    said.clock.advance(1.0)
    assert [(f["seq"], f["version"], f["position"]) for f in said.frames()] == [(2, 1004, 1002), (3, 1003, 1004)]
    said.hub.route([written(1005, "task:1", 4, before=BEFORE)])
    assert said.frames() == []
    assert said.session.due == 2.0


def test_what_was_there_when_one_subscribed_is_told_to_be_gone() -> None:
    """Who subscribes reads what there is, although the creation of some of it still waits for a throttle of before."""
    said = subscribed("task", throttle=1000)
    said.hub.route([written(1001, "task:1", 1), written(1002, "task:2", 2)])
    said.send("unsubscribe", {"resources": ["task"]})
    said.send("subscribe", {"resources": ["task"], "throttle": 1000})
    said.hub.route([deleted(1003, "task:2"), written(1004, "task:3", 3), deleted(1005, "task:3")])
    said.clock.advance(1.0)
    told = [(frame["version"], frame["payload"]["action"]) for frame in said.frames() if "seq" in frame]
    assert told == [(1001, "created"), (1003, "deleted")]


def test_what_waits_is_not_told_after_one_has_unsubscribed() -> None:
    said = subscribed("task", "note:1", throttle=1000)
    said.hub.route([written(1001, "task:1", 1), written(1002, "note:1", 1)])
    said.raw()
    said.hub.route(
        [written(1003, "task:1", 2, before=BEFORE), written(1004, "task:2", 1), written(1005, "note:1", 2, before=BEFORE)]
    )
    said.send("unsubscribe", {"resources": ["task"]}, requestId="u")
    assert [(frame["type"], frame["position"]) for frame in said.frames()] == [("ack", 1004)]
    said.clock.advance(1.0)
    assert [(frame["version"], frame["seq"]) for frame in said.frames()] == [(1005, 3)]
    assert (said.session.stream.position, said.session.stream.waiting, said.session.stream.due) == (1005, 0, None)


@pytest.mark.parametrize("left", ["task:1", "cache:task:*", "cache:*"])
def test_what_waits_is_told_to_who_follows_it_by_another_name(left: str) -> None:
    said = subscribed("task", left, throttle=1000)
    said.hub.route([written(1001, "task:1", 1), written(1002, "task:1", 2, before=BEFORE)])
    said.send("unsubscribe", {"resources": ["task"]})
    said.clock.advance(1.0)
    assert [frame["version"] for frame in said.frames()] == [1001, 1002]


def test_news_that_waits_for_its_batch_is_not_told_after_one_has_unsubscribed() -> None:
    said = subscribed("task", "note", compression="gzip")
    said.hub.route([written(1001, "note:1", 1), invalidated(1002, "task:1"), invalidated(1003, "x", pattern="note:*")])
    said.hub.route([published(1004, "task:1", 1), published(1005, "note", 1), invalidated(1006, pattern="ta*")])
    said.send("unsubscribe", {"resources": ["task"]})
    said.clock.advance(1.0)
    (batch,) = said.frames()
    told = orjson.loads(gzip.decompress(base64.b64decode(batch["payload"]["data"])))
    assert [message["version"] for message in told] == [1001, 1003, 1005]


def test_an_acknowledgement_is_not_before_what_was_pushed() -> None:
    said = subscribed("task", limits={"queue_size": 10_000})
    said.hub.route([written(1001, "task:1", 1)])
    said.send("ping", {})
    said.send("unsubscribe", {"resources": ["task"]}, requestId="u")
    assert [(frame["type"], frame.get("position")) for frame in said.frames()] == [
        ("pong", None),
        ("task:update", 1001),
        ("ack", 1001),
    ]
    said.send("ping", {})
    assert said.frame()["position"] == 1001


@pytest.mark.parametrize("name", ["task.status", "status"])
def test_filters_hold_back_what_has_no_such_field(name: str) -> None:
    """Only of what is gone, or too large, it is not known what the field would be."""
    said = subscribed("task", filters={name: "open"})
    values: list[object] = [None, 7, "open", [1], {"status": None}, b'{"status":"done","n":1e400}']
    said.hub.route([written(1001 + place, "task:1", value) for place, value in enumerate(values)])
    said.hub.route([written(1010, "task:1", b"\x00", content_type="image/png")])
    assert said.frames() == []
    told = [deleted(1011, "task:1"), written(1012, "task:1", b"", held=False), written(1013, "task:1", {"status": "open"})]
    said.hub.route([*told, written(1014, "task:1", b'{"status":"open","n":1e400}')])
    assert [frame["version"] for frame in map(loads, said.raw())] == [1011, 1012, 1013, 1014]


@pytest.mark.parametrize(
    ("filters", "versions"),
    [
        ({"value": 2}, [1002]),
        ({"change.delta": 0.5}, [1003]),
        ({"change.previous": [1, 2]}, [1002, 1003]),
        ({"change.current": 2.5, "module": "a"}, [1003]),
    ],
)
def test_filters_on_a_metric(filters: dict[str, object], versions: list[int]) -> None:
    said = subscribed("dashboard", filters=filters)
    said.hub.route(
        [
            written(1001, "dashboard:a:b", 1),
            written(1002, "dashboard:a:b", 2, before=BEFORE, previous=b"1"),
            written(1003, "dashboard:a:b", 2.5, before=BEFORE, previous=b"2"),
        ]
    )
    assert [frame["version"] for frame in said.frames()] == versions


def test_the_most_eager_subscription_counts() -> None:
    said = subscribed("task", throttle=1000)
    said.send("subscribe", {"resources": ["task:1"]})
    said.raw()
    said.hub.route([written(1001, "task:2", 1), written(1002, "task:1", 1), written(1003, "task:1", 2, before=BEFORE)])
    assert [frame["version"] for frame in said.frames()] == [1001, 1002, 1003]


def test_news_is_not_throttled() -> None:
    said = subscribed("email", throttle=60_000)
    said.hub.route([written(1001 + i, f"email:{i}", {}) for i in range(3)])
    assert [frame["version"] for frame in said.frames()] == [1001, 1002, 1003]


def test_subscribing_again_replaces_filters_and_throttle() -> None:
    said = subscribed("task", filters={"status": "open"}, throttle=1000)
    said.send("subscribe", {"resources": ["tasks"]})
    assert said.hub.index.size == 1
    said.hub.route([written(1001, "task:1", {}), written(1002, "task:1", {}, before=BEFORE)])
    assert [frame["version"] for frame in said.frames()] == [1001, 1002]


def test_an_invalidation_tells_each_what_concerns_it() -> None:
    said = subscribed("task:1", "event")
    other = subscribed("cache:task:*", hub=said.hub)
    nobody = subscribed("contact", hub=said.hub)
    said.hub.route([invalidated(1001, "task:1", "task:2", "event:1", pattern="ev*")])
    assert [(f["payload"]["keys"], f["payload"].get("pattern")) for f in said.frames()] == [(["task:1", "event:1"], "ev*")]
    assert [(f["payload"]["keys"], f["payload"].get("pattern")) for f in other.frames()] == [(["task:1", "task:2"], None)]
    assert nobody.frames() == []


def test_a_soft_invalidation_says_so() -> None:
    said = subscribed("task")
    change = invalidated(1001, "task:1")
    assert change.invalidation is not None
    said.hub.route([change._replace(invalidation=change.invalidation._replace(soft=True))])
    assert said.frame()["payload"] == {"keys": ["task:1"], "cascade": False, "soft": True}


def test_a_publication_reaches_the_subscribers_of_its_resource() -> None:
    said = Said(identity=Identity("ann", ["read:task:*"]))
    said.session.open()
    said.send("subscribe", {"resources": ["tasks:42"]})
    said.raw()
    other = subscribed("task:4", hub=said.hub)
    said.hub.route([published(1001, "task:42", 1), published(1002, "tasks:42", 2), published(1003, "event", 3)])
    assert [frame["payload"]["message"] for frame in said.frames()] == [1, 2]
    assert other.frames() == []


@pytest.mark.parametrize("resource", ["cache:task:*", "cache:task:[ab]", "cache:task:1", "task"])
def test_a_publication_to_a_glob_reaches_who_follows_it(resource: str) -> None:
    said = Said(identity=Identity("ann", ["read:task:*", "read:task:[ab]"]))
    said.session.open()
    said.send("subscribe", {"resources": [resource]})
    said.raw()
    wider, other = (subscribed(followed, hub=said.hub) for followed in ("cache:*", "cache:note:*"))
    said.hub.route([published(1001, resource, 1)])
    assert [frame["payload"] for frame in said.frames()] == [{"resource": resource, "message": 1, "publishedBy": "ann"}]
    assert [frame["payload"]["message"] for frame in wider.frames()] == [1]
    assert other.frames() == []


@pytest.mark.parametrize("narrower", ["cache:task:?", "cache:task:[*]", "cache:task:\\*", "task:*"])
def test_a_publication_to_a_glob_does_not_reach_who_follows_a_part_of_it(narrower: str) -> None:
    """Be it that what he follows, and may read, matches the text of the glob."""
    said = Said(identity=Identity("ann", ["read:task:?", "read:task:[*]", "read:task:\\*"]))
    said.session.open()
    said.send("subscribe", {"resources": [narrower]}, requestId="r")
    assert said.frames()[-1]["type"] == "ack"
    said.hub.route([published(1001, "cache:task:*", 1)])
    assert said.frames() == []


def test_deliveries_need_the_scope() -> None:
    said = Said(identity=Identity("ann", ["read:task:*", "read:cache:*"]))
    said.session.open()
    said.raw()
    for resource in ("event", "cache:*", "cache:t*", "cache:event:*"):
        said.send("subscribe", {"resources": ["task", resource]})
        assert said.error()[0] == "FORBIDDEN"
    assert said.hub.index.size == 0
    said.send("subscribe", {"resources": ["task", "task:4", "cache:task:*"]})
    said.session.client.identity = said.session.stream.identity = Identity("ann", ["read:task:1"])
    said.hub.route([written(1001, "task:1", 1), written(1002, "task:2", 1), invalidated(1003, "task:1", "task:2", pattern="*")])
    assert [frame["version"] for frame in said.frames()] == [1001, 1003]


@pytest.mark.parametrize(
    ("payload", "code", "field"),
    [
        ({"resources": []}, "BAD_MESSAGE", "payload.resources"),
        ({"resources": ["task", ""]}, "BAD_MESSAGE", "payload.resources[1]"),
        ({"resources": ["task:"]}, "BAD_MESSAGE", "payload.resources[0]"),
        ({"resources": [":1"]}, "BAD_MESSAGE", "payload.resources[0]"),
        ({"resources": ["cache:["]}, "BAD_MESSAGE", "payload.resources[0]"),
        ({"resources": ["cache:"]}, "BAD_MESSAGE", "payload.resources[0]"),
        ({"resources": ["task"], "throttle": -1}, "BAD_MESSAGE", "payload.throttle"),
        ({"resources": ["task"], "throttle": 1e9}, "BAD_MESSAGE", "payload.throttle"),
        ({"resources": ["task"], "filters": []}, "BAD_MESSAGE", "payload.filters"),
        ({"resources": ["task"], "filters": {"a": {}}}, "BAD_MESSAGE", "payload.filters.a"),
        ({"resources": ["task"], "filters": {"a": [1] * 101}}, "BAD_MESSAGE", "payload.filters.a"),
        ({"resources": ["task"], "filters": {"a." * 5_000: 1}}, "LIMIT_EXCEEDED", "payload.filters"),
        ({"resources": ["task"], "filters": {"a": ["x" * 100] * 50, "b": "x" * 5_000}}, "LIMIT_EXCEEDED", "payload.filters"),
        ({"resources": ["task"], "compression": "zip"}, "BAD_MESSAGE", "payload.compression"),
        ({"resources": [f"task:{i}" for i in range(6)]}, "LIMIT_EXCEEDED", "payload.resources"),
    ],
)
def test_bad_subscriptions(payload: object, code: str, field: str) -> None:
    said = Said(max_subscriptions=5)
    said.session.open()
    said.raw()
    said.send("subscribe", payload, requestId="r-1")
    assert said.error() == (code, field, "r-1")
    assert said.hub.index.size == 0


def test_globs_that_are_dear_are_bounded_for_a_connection() -> None:
    """Each that is more than a prefix is tried with every change that it may match."""
    said = Said(max_subscriptions=5_000)
    said.session.open()
    said.raw()
    dear = [f"cache:task:{place:03}:{'*a' * 40}" for place in range(100)]
    said.send("subscribe", {"resources": [f"cache:task:{place}:*" for place in range(1_000)]}, requestId="r-1")
    said.send("subscribe", {"resources": dear[:80]}, requestId="r-2")
    said.send("subscribe", {"resources": dear[:80]}, requestId="r-3")
    assert [one["type"] for one in said.frames()] == ["ack"] * 3
    said.send("subscribe", {"resources": dear[80:]}, requestId="r-4")
    assert said.error() == ("LIMIT_EXCEEDED", "payload.resources", "r-4")
    said.send("unsubscribe", {"resources": [*dear, *dear]}, requestId="r-5")
    assert said.error() == ("LIMIT_EXCEEDED", "payload.resources", "r-5")


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_a_message_names_no_more_than_a_connection_may_follow(kind: str) -> None:
    """However often it names the same: others wait while they are read."""
    said = subscribed("note", limits={"max_subscriptions": 3})
    said.send(kind, {"resources": ["task"] * 3}, requestId="r-1")
    assert said.frame()["type"] == "ack"
    said.send(kind, {"resources": ["task"] * 4}, requestId="r-2")
    assert said.error() == ("LIMIT_EXCEEDED", "payload.resources", "r-2")


def test_who_does_not_read_is_told_less_often_and_then_closed() -> None:
    said = subscribed("task", limits={"queue_size": 8_000})
    value = "x" * 100
    for i in range(1000):
        said.hub.route([written(1001 + i, f"task:{i % 10}", value, before=BEFORE)])
        assert said.session.stream.waiting <= 8_000
    assert said.session.closing is None
    assert said.session.stream.conflated > 900
    assert said.session.due is None  # it waits for room, not for time
    frames = said.frames()
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["position"] == 2000
    assert {f["payload"]["key"]: f["version"] for f in frames} == {f"task:{i % 10}": 1001 + i for i in range(990, 1000)}
    for i in range(1000):
        said.hub.route([written(2001 + i, f"task:{i}", value)])
        assert said.session.stream.waiting <= 8_000
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.SLOW
    assert said.frames() == []


@pytest.mark.parametrize("waits", [{"throttle": 60_000}, {"compression": "gzip"}])
def test_who_reads_is_told_before_the_time_rather_than_dropped(waits: dict[str, Any]) -> None:
    said = subscribed("task", limits={"queue_size": 10_000}, **waits)
    taken: list[bytes] = []

    def take(frame: bytes) -> bool:
        taken.append(frame)
        return True

    said.session.outbox.straight = take
    for i in range(100):
        said.hub.route([written(1001 + i, f"task:{i}", "x" * 300)])
        assert said.session.stream.waiting <= 10_000
    assert said.session.closing is None
    said.clock.advance(60.0)
    assert said.raw() == []
    told = [message for frame in taken for message in messages_of(loads(frame))]
    assert [(one["seq"], one["version"], one["position"]) for one in told] == [(1 + i, 1001 + i, 1001 + i) for i in range(100)]


def messages_of(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """What is in a batch, or the message itself."""
    if frame["type"] != "batch:update":
        return [frame]
    told: list[dict[str, Any]] = orjson.loads(gzip.decompress(base64.b64decode(frame["payload"]["data"])))
    return told


def test_what_is_remembered_is_bounded() -> None:
    said = subscribed("task", limits={"remembered": 10, "remembered_bytes": 3_000})
    changes: list[Change] = [written(1001 + i, f"task:{i}", "x" * (100 if i < 50 else 1_000)) for i in range(60)]
    stream = said.session.stream
    for change in changes:
        said.hub.route([change])
        said.raw()
        assert len(stream.sent) <= 10
        assert stream.sent.size == sum(sent.told.size for sent in stream.sent) <= 3_000
    assert list(stream.sent)[-1].seq == stream.seq == 60


def test_the_end_of_a_session_ends_its_subscriptions() -> None:
    said = subscribed("task", "cache:*", "cache:x")
    said.session.end()
    assert said.hub.index.size == 0
    assert not list(said.hub.index.reached(parse_pattern("*")))
