"""Recovery: on the same node and on another, after trims, for whom it was: what is sent again, and what is said to be lost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cachesvc.errors import InvalidInput
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.frames import RecoveryRequestPayload
from cachesvc.realtime.identity import ANONYMOUS, Identity
from tests.fakes import FakeClock
from tests.realtime.changes import BEFORE, deleted, written
from tests.realtime.nodes import Log, Node, connected, ended, node, recovered, tell
from tests.realtime.sessions import Said
from tests.wire import golden_frames


def following(here: Node, name: str = "s-1", **limits: Any) -> Said:
    said = connected(here, name, **limits)
    said.send("subscribe", {"resources": ["task"]})
    return said


def happened(here: Node, count: int) -> None:
    """So many changes are told."""
    tell(here, count)
    here.follow()


async def test_missing_ranges_of_the_same_connection() -> None:
    here = node()
    said = following(here)
    happened(here, 8)
    sent = said.frames()
    messages, last = await recovered(here, said, lastSequenceNumber=6, missingRanges=[{"start": 2, "end": 3}])
    assert messages == [sent[1], sent[2], sent[6], sent[7]]
    assert (last["isComplete"], last["sequenceNumber"]) == (True, 8)
    messages, last = await recovered(here, said, lastSequenceNumber=8)
    assert (messages, last["isComplete"]) == ([], True)


async def test_recovery_response_frames() -> None:
    here = node()
    said = following(here)
    happened(here, 5)
    said.raw()
    request = said.golden("recovery:request", requestId="r-1")
    assert request is not None
    asked: RecoveryRequestPayload = request.frame.payload  # type: ignore[attr-defined]
    async for payload in here.recovery.recover(said.session.stream, "s-1", asked):
        said.session.answer(request.frame, "recovery:response", payload)
    first, last = said.raw()
    assert [message["seq"] for message in golden_frames.check(first)["payload"]["data"]] == [4, 5]
    assert orjson.loads(last)["payload"] == {"sequenceNumber": 5, "data": [], "isComplete": True}


@pytest.mark.parametrize(
    ("ranges", "field"),
    [
        ([{"start": 3, "end": 2}], "payload.missingRanges[0]"),
        ([{"start": 1, "end": 2}, {"start": 2, "end": 3}], "payload.missingRanges[1]"),
        ([{"start": 2, "end": 6}, {"start": 1, "end": 2}], "payload.missingRanges[0]"),
        ([{"start": 2, "end": 6}, {"start": 2, "end": 2}], "payload.missingRanges[1]"),
        ([{"start": 0, "end": 2}], "payload.missingRanges[0]"),
    ],
)
async def test_bad_ranges(ranges: list[dict[str, int]], field: str) -> None:
    here = node()
    with pytest.raises(InvalidInput) as wrong:
        await recovered(here, connected(here), lastSequenceNumber=0, missingRanges=ranges)
    assert wrong.value.field == field


@pytest.mark.parametrize(
    "asked",
    [
        {"lastSequenceNumber": 9},
        {"lastSequenceNumber": 0, "missingRanges": [{"start": 1, "end": 2**53 - 1}]},
        {"lastSequenceNumber": 0, "sessionId": "unknown"},
        {"lastSequenceNumber": 0, "sessionId": "unknown", "epoch": 6, "position": 1000},
    ],
)
async def test_what_cannot_be_recovered_is_said(asked: dict[str, Any]) -> None:
    here = node()
    said = connected(here)
    messages, last = await recovered(here, said, **asked)
    assert (messages, last["isComplete"], last["error"]["code"]) == ([], False, "RECOVERY_UNAVAILABLE")
    assert last["error"]["recoverable"] is True


async def test_ranges_in_any_order() -> None:
    here = node()
    said = following(here)
    happened(here, 8)
    sent = said.frames()
    ranges = [{"start": 5, "end": 5}, {"start": 6, "end": 6}, {"start": 2, "end": 3}]
    messages, last = await recovered(here, said, lastSequenceNumber=8, missingRanges=ranges)
    assert (messages, last["isComplete"]) == ([sent[1], sent[2], sent[4], sent[5]], True)


@pytest.mark.parametrize("session", [None, "s-1", "gone"])
async def test_ranges_that_nobody_can_look_up_are_said_to_be_lost(session: str | None) -> None:
    here = node()
    happened(here, 20)
    said = following(here)
    place = {"sessionId": session, "epoch": 7, "position": 1015}
    missing = [{"start": 3, "end": 4}]
    messages, last = await recovered(here, said, lastSequenceNumber=15, missingRanges=missing, **place)
    assert (messages, last["isComplete"], last["error"]["code"]) == ([], False, "RECOVERY_UNAVAILABLE")
    missing = [{"start": 16, "end": 17}]
    messages, last = await recovered(here, said, lastSequenceNumber=15, missingRanges=missing, **place)
    assert [message["version"] for message in messages] == [1016, 1017, 1018, 1019, 1020]
    assert last["isComplete"]


@pytest.mark.parametrize("live", [0, 4, 5, 7])
async def test_a_position_without_a_session_is_where_the_log_is_read_from(live: int) -> None:
    here = node()
    first = following(here)
    happened(here, 5)
    last = first.frames()[-1]
    ended(here, first)
    happened(here, 10)
    second = following(here, "s-2")
    happened(here, live)
    place = {"lastSequenceNumber": last["seq"], "epoch": last["epoch"], "position": last["position"]}
    messages, end = await recovered(here, second, **place)
    assert {message["version"] for message in messages} >= set(range(1006, 1016))
    assert end["isComplete"]


async def test_numbers_without_a_session_are_of_this_one_where_their_position_is() -> None:
    here = node()
    said = following(here)
    happened(here, 8)
    sent = said.frames()
    missing = [{"start": 2, "end": 3}]
    messages, last = await recovered(here, said, lastSequenceNumber=6, missingRanges=missing, epoch=7, position=1006)
    assert (messages, last["isComplete"]) == ([sent[1], sent[2], sent[6], sent[7]], True)


async def test_on_the_same_node_after_a_reconnect() -> None:
    here = node()
    first = following(here)
    happened(here, 4)
    sent = first.frames()
    ended(here, first)
    happened(here, 3)
    second = following(here, "s-2")
    happened(here, 2)
    live = [frame["version"] for frame in second.frames() if "seq" in frame]
    messages, last = await recovered(here, second, lastSequenceNumber=2, sessionId="s-1")
    assert messages[:2] == sent[2:4]
    assert [message["version"] for message in messages[2:]] == [1005, 1006, 1007]
    assert live == [1008, 1009]
    assert (last["isComplete"], [message["seq"] for message in messages[2:]]) == (True, [3, 4, 5])


@pytest.mark.parametrize("end", ["_slow", "end", "revoke"])
async def test_who_is_cut_off_amid_a_recovery_was_told_no_more_than_that(end: str) -> None:
    """Although the recovery ends after that, the position stays: who goes on from there is told the rest."""
    here = node()
    happened(here, 200)
    said = following(here)
    request = said.send("recovery:request", {"lastSequenceNumber": 1, "sessionId": "gone", "epoch": 7, "position": 1000})
    assert request is not None
    chunks = here.recovery.recover(said.session.stream, "s-1", request.frame.payload)  # type: ignore[attr-defined]
    told = len((await anext(chunks))["data"])  # type: ignore[arg-type]
    getattr(said.session, end)()
    await chunks.aclose()  # type: ignore[attr-defined]
    assert said.session.stream.position == 1000 + told < 1200
    happened(here, 1)
    assert said.session.stream.position == 1000 + told


async def test_what_is_not_remembered_comes_from_the_log_or_not_at_all() -> None:
    here = node()
    said = following(here, remembered=3)
    happened(here, 5)
    assert len(said.frames()) == 5
    _, last = await recovered(here, said, lastSequenceNumber=1)
    assert last["error"]["code"] == "RECOVERY_UNAVAILABLE"
    messages, last = await recovered(here, said, lastSequenceNumber=1, epoch=7, position=1001)
    assert [message["version"] for message in messages] == [1002, 1003, 1004, 1005]
    assert last["isComplete"] is True
    ended(here, said)
    again = following(here, "s-2")
    _, last = await recovered(here, again, lastSequenceNumber=1, sessionId="s-1")
    assert last["error"]["code"] == "RECOVERY_UNAVAILABLE"
    messages, last = await recovered(here, again, lastSequenceNumber=1, sessionId="s-1", epoch=7, position=1001)
    assert [message["version"] for message in messages] == [1002, 1003, 1004, 1005]


async def test_a_position_of_the_future_is_refused_and_one_that_this_node_has_yet_to_come_to_is_not() -> None:
    here = node()
    said = following(here)
    tell(here, 5)
    here.follow(3)
    messages, last = await recovered(
        here, connected(here, "s-2"), lastSequenceNumber=9, sessionId="s-0", epoch=7, position=1005
    )
    assert (messages, last["isComplete"]) == ([], True)
    for other in (said, connected(here, "s-3")):
        messages, last = await recovered(here, other, lastSequenceNumber=0, sessionId="s-0", epoch=7, position=1006)
        assert (messages, last["isComplete"], last["error"]["code"]) == ([], False, "RECOVERY_UNAVAILABLE")


async def test_somebody_elses_session_is_not_recovered() -> None:
    here = node()
    first = following(here)
    happened(here, 1)
    first.session.stream.identity = type(first.session.stream.identity)("bob", ["admin"])
    ended(here, first)
    _, last = await recovered(here, connected(here, "s-2"), lastSequenceNumber=0, sessionId="s-1")
    assert last["error"]["code"] == "RECOVERY_UNAVAILABLE"


async def test_on_another_node_from_the_log_and_when_it_was_trimmed() -> None:
    here = node()
    there = Node(here.log, here.clock)
    tell(here, 200)
    there.follow()
    said = connected(there, "s-2")
    said.send("subscribe", {"resources": ["task:1", "cache:task:2"], "filters": {"action": "updated"}})
    messages, last = await recovered(there, said, lastSequenceNumber=7, sessionId="s-1", epoch=7, position=1100)
    assert [message["version"] for message in messages] == [v for v in range(1101, 1201) if v % 5 in (1, 2)]
    assert [message["seq"] for message in messages] == list(range(1, 41))
    assert last["isComplete"] is True
    here.log.trimmed = 1101
    messages, last = await recovered(there, said, lastSequenceNumber=7, sessionId="s-1", epoch=7, position=1100)
    assert (messages, last["error"]["code"]) == ([], "RECOVERY_UNAVAILABLE")


async def test_no_position_is_told_that_is_past_what_is_still_to_be_recovered() -> None:
    here = node()
    happened(here, 300)
    said = following(here, "s-2")
    said.raw()
    request = said.send("recovery:request", {"lastSequenceNumber": 0, "sessionId": "s-1", "epoch": 7, "position": 1000})
    assert request is not None
    asked: RecoveryRequestPayload = request.frame.payload  # type: ignore[attr-defined]
    parts = here.recovery.recover(said.session.stream, "s-2", asked)
    await anext(parts)
    happened(here, 1)
    (live,) = said.frames()
    assert live["version"] == 1301
    assert live["position"] == 1064  # as far as the first part went
    with pytest.raises(Exception, match="going on"):
        await anext(here.recovery.recover(said.session.stream, "s-2", asked))
    rest = [payload async for payload in parts]
    assert rest[-1]["isComplete"] is True
    assert said.session.stream.position == 1301


async def test_who_was_dropped_for_being_slow_recovers_what_was_conflated() -> None:
    here = node()
    said = following(here, queue_size=3_000)
    said.raw()
    here.log.changes += [written(1001 + i, f"task:{i}", "x" * 100) for i in range(50)]
    here.follow()
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.SLOW
    ended(here, said)
    again = following(here, "s-2")
    messages, last = await recovered(here, again, lastSequenceNumber=0, sessionId="s-1")
    assert [message["version"] for message in messages] == list(range(1001, 1051))
    assert last["isComplete"] is True


def test_what_is_kept_is_bounded() -> None:
    here = node(retention=10.0, sessions=3, bytes=10_000)
    for i in range(6):
        said = following(here, f"s-{i}")
        ended(here, said)
        here.clock.advance(1)
    assert [here.kept.find(f"s-{i}", ANONYMOUS) is not None for i in range(6)] == [False] * 3 + [True] * 3
    here.clock.advance(8)
    assert [here.kept.find(f"s-{i}", ANONYMOUS) is not None for i in range(6)] == [False] * 5 + [True]
    big = following(here, "big")
    here.hub.route([written(1001 + i, "task:1", "x" * 900, before=BEFORE) for i in range(20)])
    ended(here, big)
    assert here.kept.size == 0
    idle = connected(here, "idle")
    ended(here, idle)
    assert here.kept.find("idle", ANONYMOUS) is None


# any interleaving


async def test_what_was_seen_on_a_node_that_is_further_is_told_to_be_gone() -> None:
    """Created and deleted is nothing only to who has not seen it."""
    log, clock = Log(), FakeClock()
    further, behind = Node(log, clock), Node(log, clock)
    log.changes += [written(1001, "task:0", 1), written(1002, "task:1", 1)]
    further.follow()
    log.changes.append(deleted(1003, "task:1"))
    for recovers_first in (True, False):
        here = behind if recovers_first else Node(log, clock)
        here.hub.position = Position(Epoch(7), Seq(1000))
        said = connected(here)
        said.send("subscribe", {"resources": ["task"], "throttle": 1000})
        if not recovers_first:
            here.follow()
        _, last = await recovered(here, said, lastSequenceNumber=5, sessionId="of-the-further", epoch=7, position=1002)
        if recovers_first:
            assert last["isComplete"]
            here.follow()
            here.clock.advance(1)
            told = [(frame["payload"]["key"], frame["payload"]["action"]) for frame in said.frames()]
            assert ("task:1", "deleted") in told
        else:
            assert (last["isComplete"], last["error"]["code"]) == (False, "RECOVERY_UNAVAILABLE")


async def test_what_was_sent_is_not_sent_again_to_who_may_read_less_now() -> None:
    here = node()
    said = following(here)
    happened(here, 5)
    ended(here, said)
    asked = {"lastSequenceNumber": 0, "sessionId": "s-1"}
    narrower = connected(here, "s-2", identity=Identity("anonymous", ["read:task:1"]))
    _, last = await recovered(here, narrower, **asked)
    assert last["error"]["code"] == "RECOVERY_UNAVAILABLE"
    messages, _ = await recovered(here, narrower, **asked, epoch=7, position=1000)
    assert messages == []
    messages, last = await recovered(here, connected(here, "s-3"), **asked)
    assert (len(messages), last["isComplete"]) == (5, True)
