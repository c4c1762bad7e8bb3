"""Whatever JSON an entry is changed from and to, its subscribers are told of it, in messages that are what they should be."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal, DecimalException
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.change import Change, Draft, Operation, pack_change, unpack_change
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State, Terms
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime import hub as hubs
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.stream import Stream
from cachesvc.realtime.told import Told
from tests.fakes import FakeClock
from tests.realtime.changes import AT, BEFORE, deleted, published, written
from tests.realtime.nodes import node, recovered, tell
from tests.realtime.sessions import Said

TERMS = Terms(remembers=Modules().remembers, default_ttl=60.0)
KEYS = ("dashboard:a:b", "task:1", "event:1", "email:1", "contact:1", "journal:1", "x")
MEMBERS = ("status", "attendees", "source", "folder", "importance", "changedBy", "conflict", "mergeConflict", "other")

scalars = st.sampled_from(
    (
        "null",
        "true",
        "0",
        "-0.0",
        "24.1",
        "18446744073709551616",
        "-9223372036854775809",
        "1" + "0" * 400,
        "9" * 5000,
        "1e308",
        "-1e308",
        "1e400",
        "-1e-400",
        "1e99999999999999999999",
        '"read"',
        '"starred"',
        '"NaN"',
        '"\\u2028\\ud83d\\ude00"',
        '""',
    )
) | st.integers().map(str)
deep = st.sampled_from((250, 260, 490)).flatmap(lambda n: scalars.map(lambda text: "[" * n + text + "]" * n))
inner = (
    scalars
    | deep
    | scalars.map(lambda text: f'{{"a":[{text}]}}')
    | st.lists(scalars, max_size=2).map(lambda i: f"[{','.join(i)}]")
)
objects = st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4).map(
    lambda members: "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items()) + "}"
)
steps = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | inner | objects), min_size=1, max_size=6)


def folded(made: Sequence[tuple[str, str | None]]) -> list[Change]:
    """The changes as a node reads them from the log."""
    rows: dict[Key, Entry] = {}
    changes: list[Change] = []
    for place, (name, text) in enumerate(made):
        key = Key(name)
        draft = Draft(Operation.DELETE, key) if text is None else Draft(Operation.SET, key, text.encode(), JSON)
        done = fold(State(Position(Epoch(7), Seq(1000 + place)), AT, dict(rows)), [draft], batch="c", terms=TERMS)
        (change,) = done.changes or (None,)
        if change is None:
            continue
        record, value = pack_change(change)
        assert change.entry is not None
        rows[key] = change.entry
        changes.append(unpack_change(change.sequence, change.kind.value, key, record, value))
    return changes


def number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except DecimalException:  # past any exponent
        return float(text)


def decoded(text: bytes | str) -> Any:
    return json.loads(text, parse_int=number, parse_float=number)


def read(frame: bytes) -> dict[str, Any]:
    """A frame with exact numbers, as its model says."""
    message: dict[str, Any] = decoded(frame)
    FROM_SERVER[message["type"]].model_validate(message)
    return message


def following(hub: hubs.Hub, clock: FakeClock, *resources: str, **more: Any) -> Said:
    said = Said(hub=hub, clock=clock)
    said.session.open()
    said.send("subscribe", {"resources": list(resources or ("cache:*",)), **more})
    said.raw()
    return said


@given(steps)
def test_any_change_is_told(made: list[tuple[str, str | None]]) -> None:
    here = node()
    plain, throttled = following(here.hub, here.clock), following(here.hub, here.clock, throttle=1_000)
    changes = folded(made)
    here.hub.route(changes)
    here.clock.advance(1.0)
    assert [read(frame)["version"] for frame in plain.raw()] == [change.sequence for change in changes]
    for frame in throttled.raw():
        read(frame)
    assert (here.hub.alarm.raised, plain.session.closing, throttled.session.closing) == (0, None, None)


@pytest.mark.parametrize(
    ("before", "after", "delta"),
    [
        ("12345678901234567890", "20", "-12345678901234567870"),
        ("24", "24.1", "0.1"),
        ("0." + "1" * 99, "0", "-0." + "1" * 99),
        ("-1" + "0" * 99, "0", "1" + "0" * 99),
        ('"up"', "7", "7"),
        ("true", "[1]", "0"),
        ("1e308", "-1e308", f"-{int(sys.float_info.max)}"),  # a double holds no more
    ],
)
def test_a_metric_moves_exactly(before: str, after: str, delta: str) -> None:
    here = node()
    plain, throttled = following(here.hub, here.clock), following(here.hub, here.clock, throttle=1_000)
    steps = [("dashboard:a:b", "0"), ("dashboard:a:b", "1"), ("dashboard:a:b", before), ("dashboard:a:b", after)]
    here.hub.route(folded(steps)[2:])
    here.clock.advance(1.0)
    change = read(plain.raw()[-1])["payload"]["change"]
    assert change == {"previous": decoded(before), "current": decoded(after), "delta": Decimal(delta)}
    first, last = (read(frame)["payload"]["change"] for frame in throttled.raw())
    assert (first["previous"], last["current"]) == (1, decoded(after))


def test_conflated_moves_are_summed_exactly() -> None:
    here = node()
    throttled = following(here.hub, here.clock, throttle=1_000)
    values = ("0", "0.1", "0.2", "9000000000000000000", "-9000000000000000000")
    here.hub.route(folded([("dashboard:a:b", text) for text in values]))
    here.clock.advance(1.0)
    _, conflated = (read(frame)["payload"]["change"] for frame in throttled.raw())
    assert conflated == {"previous": 0, "current": -9 * 10**18, "delta": -9 * 10**18}


def broken(*_: object) -> None:
    raise RuntimeError("broken on purpose")


async def test_what_cannot_be_told_is_told_without_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    here = node()
    said = following(here.hub, here.clock, "task", "dashboard")
    changes = [written(1001, "task:1", 1, before=BEFORE), deleted(1002, "task:1"), published(1003, "task:1", 1)]
    here.log.changes += changes
    with monkeypatch.context() as broken_here:
        broken_here.setattr(hubs, "tell", broken)
        here.follow()
        first, gone, third = (read(frame) for frame in said.raw())
        back = following(here.hub, here.clock, "task")
        asked = {"lastSequenceNumber": 0, "sessionId": "gone", "epoch": 7, "position": 1000}
        again, end = await recovered(here, back, **asked)
    assert (first["type"], first["payload"]["value"], first["payload"]["truncated"]) == ("cache:update", None, True)
    assert (gone["payload"]["operation"], "truncated" in gone["payload"]) == ("delete", False)
    assert (third["type"], third["payload"]["message"], third["payload"]["truncated"]) == ("publish", None, True)
    told_again = [{**message["payload"], "version": message["version"]} for message in again]
    assert told_again == [{**frame["payload"], "version": frame["version"]} for frame in (first, gone, third)]
    assert (end["isComplete"], here.hub.alarm.raised) == (True, 6)
    here.log.changes.append(written(1004, "task:1", 4))
    here.follow()
    assert [frame["version"] for frame in said.frames()] == [1004]


@pytest.mark.parametrize("place", [(hubs.Index, "covering"), (Stream, "offer"), (Told, "frame")])
async def test_whom_nothing_can_be_told_has_to_read(place: tuple[type, str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = node()
    said = following(here.hub, here.clock, "task")
    tell(here, 2)
    here.follow()
    last = said.frames()[-1]
    tell(here, 1)
    with monkeypatch.context() as broken_here:
        broken_here.setattr(*place, broken)
        here.follow()
    assert said.session.closing is not None
    assert (said.session.closing.code, here.hub.alarm.raised) == (CloseCode.STATE_LOST, 1)
    tell(here, 1)
    here.follow()
    said.session.end()
    here.kept.keep("s-1", said.session.stream, 7)
    back = following(here.hub, here.clock, "task")
    messages, end = await recovered(
        here, back, lastSequenceNumber=last["seq"], sessionId="s-1", epoch=7, position=last["position"]
    )
    assert ([message["version"] for message in messages], end["isComplete"]) == ([1003, 1004], True)


async def test_a_recovery_over_what_cannot_be_told_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    here = node()
    tell(here, 2)
    here.follow()
    said = following(here.hub, here.clock, "task")
    monkeypatch.setattr(hubs.Index, "covering", broken)
    messages, last = await recovered(here, said, lastSequenceNumber=1, sessionId="gone", epoch=7, position=1001)
    assert (messages, last["isComplete"], last["error"]["code"]) == ([], False, "RECOVERY_UNAVAILABLE")
