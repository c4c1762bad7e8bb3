"""The client's session without a socket: what it sends when, and what it makes of what comes."""

from __future__ import annotations

from random import Random
from typing import Any

import orjson
import pytest

from cachesvc.client import commands
from cachesvc.client.commands import Command
from cachesvc.client.effects import Answered, Dial, Effect, Hang, Opened, Prove, Renew, Send, Stopped, Told
from cachesvc.client.errors import Away, Conflict, Ended, NotTheService, ServiceError, Unknown, Unreachable
from cachesvc.client.options import SessionOptions
from cachesvc.client.session import Session
from cachesvc.client.told import Missed, Other
from cachesvc.errors import InvalidInput
from cachesvc.protocol.challenge import Challenge
from cachesvc.protocol.pushed import TaskUpdate
from cachesvc.realtime.batches import packed
from tests.fakes import FakeClock

LIMITS = {"maxFrameSize": 4_000, "maxSubscriptions": 10, "maxInFlight": 4, "maxBatch": 3}
NOW = "2024-01-15T10:30:00Z"


class Desk:
    """A session with its effects, and the service at the other end played by hand."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.session = Session(SessionOptions(**options), self.clock, Random(1))
        self.connections = 0

    def effects(self) -> list[Effect]:
        self.session.tick()
        found = list(self.session.effects)
        self.session.effects.clear()
        return found

    def sent(self) -> list[dict[str, Any]]:
        found = self.effects()
        assert all(isinstance(effect, Send) for effect in found), found
        return [orjson.loads(effect.frame) for effect in found if isinstance(effect, Send)]

    def come_back(self, *, position: int) -> dict[str, Any]:
        """Lose the connection, and follow `task` again on another; the recovery that is asked for."""
        self.session.lost(1006, "")
        self.clock.advance(1)
        (subscribe,) = self.connect()
        self.answer(subscribe, "ack", {"resources": ["task"]}, epoch=7, position=position)
        _, recovery = self.effects()
        assert isinstance(recovery, Send)
        asked: dict[str, Any] = orjson.loads(recovery.frame)
        return asked

    def connect(self) -> list[dict[str, Any]]:
        """Get through; what is sent first."""
        assert self.effects() == [Dial()]
        self.session.opened()
        self.connections += 1
        self.say(
            "connection:established",
            {
                "connectionId": f"c-{self.connections}",
                "sessionId": f"s-{self.connections}",
                "userId": "ann",
                "heartbeat": {"interval": 20_000, "timeout": 20_000},
                "limits": LIMITS,
                "epoch": 7,
                "position": 1000,
            },
        )
        return self.sent()

    def say(self, kind: str, payload: dict[str, Any], **more: Any) -> None:
        self.session.received(orjson.dumps({"type": kind, "payload": payload, "timestamp": NOW, **more}).decode())

    def answer(self, asked: dict[str, Any], kind: str, payload: dict[str, Any], **more: Any) -> None:
        self.say(kind, payload, correlationId=asked["requestId"], **more)

    def push(self, seq: int, version: int, key: str = "task:1", position: int | None = None) -> None:
        payload = {"action": "updated", "task": version, "source": "internal", "key": key}
        self.say("task:update", payload, seq=seq, version=version, epoch=7, position=position or version)

    def follow(self, *resources: str) -> int:
        """Subscribe to something, live since 1000."""
        number = self.session.subscribe({"resources": resources}, resources)
        (asked,) = self.sent()
        self.answer(asked, "ack", {"resources": list(resources)}, epoch=7, position=1000)
        assert self.effects() == [Opened(number)]
        return number

    def told(self) -> list[Any]:
        """Versions, or what was missed."""
        found = []
        for effect in self.effects():
            assert isinstance(effect, Told), effect
            found.append("missed" if isinstance(effect.event, Missed) else getattr(effect.event, "version", None))
        return found

    def outcome(self) -> object:
        (effect,) = self.effects()
        assert isinstance(effect, Answered), effect
        return effect.outcome

    def ask(self, command: Command[Any], timeout: float = 30.0) -> int:
        return self.session.ask([command], timeout)[0]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_asked_before_there_is_a_connection_is_sent_then(desk: Desk) -> None:
    desk.ask(commands.get("a"))
    (asked,) = desk.connect()
    assert (asked["type"], asked["payload"]) == ("cache:get", {"key": "a"})
    desk.answer(asked, "cache:value", {"key": "a", "found": False, "value": None, "version": 0})
    assert desk.outcome() is None


def test_several_go_in_frames_of_what_a_batch_may_have(desk: Desk) -> None:
    desk.connect()
    desk.session.ask([commands.increment("a")] * 4, 30.0)
    batch, single = desk.sent()
    assert [len(batch["payload"]["updates"]), batch["type"], single["type"]] == [3, "batch:update", "cache:update"]


def test_a_write_without_an_answer_is_sent_again_under_the_same_key(desk: Desk) -> None:
    desk.connect()
    desk.ask(commands.increment("a"))
    (first,) = desk.sent()
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    assert first["payload"]["idempotencyKey"]
    (again,) = desk.connect()
    assert again["payload"] == first["payload"]
    desk.answer(again, "ack", {"key": "a", "operation": "increment", "version": 1001, "value": 1})
    assert getattr(desk.outcome(), "value", None) == b"1"


@pytest.mark.parametrize(
    ("command", "sent", "error"),
    [
        (commands.get("a"), False, Unreachable),
        (commands.get("a"), True, Unreachable),
        (commands.increment("a"), False, Unreachable),
        (commands.increment("a"), True, Unknown),
    ],
)
def test_when_the_time_is_up_a_write_that_was_sent_is_not_known(
    desk: Desk, command: Command[Any], sent: bool, error: type[Exception]
) -> None:
    if sent:
        desk.connect()
    desk.ask(command, 10.0)
    desk.effects()
    desk.clock.advance(10)
    outcomes = [effect.outcome for effect in desk.effects() if isinstance(effect, Answered)]
    assert [type(outcome) for outcome in outcomes] == [error]
    if error is Unknown:
        assert isinstance(outcomes[0], Unknown)
        assert outcomes[0].request_id == command.key


def refusal(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": "no", "recoverable": True, **more}


@pytest.mark.parametrize("code", ["UNAVAILABLE", "TOO_MANY_REQUESTS", "OUTCOME_UNKNOWN"])
def test_what_may_work_later_is_asked_again_after_the_time_that_was_named(desk: Desk, code: str) -> None:
    desk.connect()
    desk.ask(commands.increment("a"))
    (asked,) = desk.sent()
    desk.answer(asked, "error", refusal(code, retryAfter=2.0))
    assert desk.sent() == []
    desk.clock.advance(2.5)
    assert [frame["payload"] for frame in desk.sent()] == [asked["payload"]]


def rate_limit(desk: Desk, remaining: int, reset_at: str) -> None:
    desk.say("rate-limit", {"limit": 10, "remaining": remaining, "resetAt": reset_at, "window": "20s"})


def test_no_more_is_sent_than_a_rate_limit_leaves(desk: Desk) -> None:
    """Half a token comes back each second; when all of them are there again, as many as wanted are sent."""
    desk.connect()
    rate_limit(desk, 2, "2024-01-15T10:30:16Z")
    desk.session.ask([commands.get("a")] * 5, 60.0)
    assert [frame["requestId"] for frame in desk.sent()[0]["payload"]["updates"]] == ["c-1", "c-2"]
    assert desk.session.due == desk.clock.monotonic() + 2.0
    desk.clock.advance(1.9)
    assert desk.sent() == []
    desk.clock.advance(0.1)
    assert [frame["requestId"] for frame in desk.sent()] == ["c-3"]
    desk.clock.advance(20.0)
    desk.session.ask([commands.get("a")] * 12, 60.0)
    assert sum(len(frame["payload"]["updates"]) if frame["type"] == "batch:update" else 1 for frame in desk.sent()) == 14


def test_what_was_refused_by_the_rate_goes_before_what_was_asked_since(desk: Desk) -> None:
    desk.connect()
    desk.ask(commands.increment("a"))
    (asked,) = desk.sent()
    rate_limit(desk, 0, "2024-01-15T10:30:20Z")
    desk.answer(asked, "error", refusal("TOO_MANY_REQUESTS", retryAfter=8.0))
    desk.ask(commands.get("b"))
    desk.clock.advance(7.9)
    assert desk.sent() == []
    desk.clock.advance(0.5)
    assert [frame["payload"] for frame in desk.sent()] == [asked["payload"]]
    desk.clock.advance(2.0)
    assert [frame["type"] for frame in desk.sent()] == ["cache:get"]


def test_another_connection_is_not_held_to_what_was_told_of_the_last(desk: Desk) -> None:
    desk.connect()
    rate_limit(desk, 0, "2024-01-15T10:30:20Z")
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    desk.ask(commands.get("a"))
    assert [frame["type"] for frame in desk.connect()] == ["cache:get"]


@pytest.mark.parametrize("reset_at", ["2024-01-15T10:29:00Z", "soon"])
def test_a_rate_limit_that_makes_no_sense_holds_nothing_back(desk: Desk, reset_at: str) -> None:
    desk.connect()
    rate_limit(desk, 0, reset_at)
    desk.ask(commands.get("a"))
    assert [frame["type"] for frame in desk.sent()] == ["cache:get"]


def test_a_subscription_that_is_refused_by_the_rate_is_asked_for_again_when_it_can_be_paid(desk: Desk) -> None:
    desk.connect()
    desk.session.subscribe({"resources": ["task"]}, ["task"])
    (asked,) = desk.sent()
    desk.answer(asked, "error", refusal("TOO_MANY_REQUESTS", retryAfter=8.0))
    assert desk.effects() == [Hang()]
    desk.session.lost(1006, "")
    desk.clock.advance(7.9)
    assert desk.effects() == []
    desk.clock.advance(1.0)
    assert [frame["type"] for frame in desk.connect()] == ["subscribe"]


def test_what_is_refused_is_raised_as_over_http(desk: Desk) -> None:
    desk.connect()
    desk.ask(commands.put("a", 1, expected_version=3))
    (asked,) = desk.sent()
    desk.answer(asked, "error", refusal("VERSION_CONFLICT", details={"currentVersion": 4, "field": "expectedVersion"}))
    conflict = desk.outcome()
    assert isinstance(conflict, Conflict)
    assert (conflict.status, conflict.current_version) == (412, 4)


def test_not_in_time_after_a_refusal_is_that_refusal(desk: Desk) -> None:
    desk.connect()
    desk.ask(commands.increment("a"), 1.0)
    (asked,) = desk.sent()
    desk.answer(asked, "error", refusal("UNAVAILABLE", retryAfter=5.0))
    error = desk.outcome()
    assert isinstance(error, Away)
    assert not isinstance(error, Unknown)


def test_an_answer_that_cannot_be_read_fails_its_command_alone(desk: Desk) -> None:
    desk.connect()
    desk.ask(commands.get("a"))
    (asked,) = desk.sent()
    desk.answer(asked, "cache:value", {"key": "a"})
    assert isinstance(desk.outcome(), NotTheService)
    assert desk.session.error is None


def test_the_hint_of_the_service_says_when_to_come_back(desk: Desk) -> None:
    desk.connect()
    desk.say("connection:status", {"status": "reconnecting", "reconnectAttempts": 0, "nextReconnectIn": 2500})
    desk.session.lost(4001, "the node restarts")
    assert desk.session.due == 2.5
    assert desk.effects() == []
    desk.clock.advance(2.5)
    assert desk.effects() == [Dial()]


def test_without_a_hint_it_is_a_random_time_that_grows_up_to_a_limit() -> None:
    pauses: list[list[float]] = []
    for seed in range(200):
        clock = FakeClock()
        session = Session(SessionOptions(first_pause=1.0, longest_pause=8.0), clock, Random(seed))
        found = []
        for _ in range(6):
            session.tick()
            session.failed("refused")
            assert session.due is not None
            found.append(session.due - clock.monotonic())
            clock.advance(10)
        pauses.append(found)
    for attempt, most in enumerate([1, 2, 4, 8, 8, 8]):
        of_all = [found[attempt] for found in pauses]
        assert 0 <= min(of_all) < most * 0.1
        assert most * 0.9 < max(of_all) <= most


def test_a_busy_service_says_how_long_to_stay_away(desk: Desk) -> None:
    assert desk.effects() == [Dial()]
    desk.session.failed("HTTP 503", 503, 3.0)
    assert desk.session.due is not None
    assert 3.0 <= desk.session.due <= 3.5


def test_a_connection_that_lasted_begins_the_pauses_anew() -> None:
    desk = Desk(first_pause=1.0, longest_pause=64.0)
    for _ in range(6):
        desk.effects()
        desk.session.failed("refused")
        desk.clock.advance(64)
    desk.connect()
    desk.clock.advance(10)
    desk.session.lost(1006, "")
    assert desk.session.due is not None
    assert desk.session.due - desk.clock.monotonic() <= 1.0


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1012, 4001, 4003, 4008, 4009, 4011, 4029])
def test_below_4500_it_connects_again(desk: Desk, code: int) -> None:
    desk.connect()
    desk.session.lost(code, "why")
    desk.clock.advance(60)
    assert desk.effects() == [Dial()]


@pytest.mark.parametrize("code", [1009, 4500, 4501, 4502, 4503, 4504, 4505, 4509])
def test_from_4500_on_it_does_not_and_says_why(desk: Desk, code: int) -> None:
    desk.connect()
    number = desk.follow("task")
    asked = desk.ask(commands.get("a"))
    desk.sent()
    desk.session.lost(code, "why")
    answered, stopped = desk.effects()
    assert isinstance(answered, Answered)
    assert isinstance(stopped, Stopped)
    assert (answered.number, stopped.number) == (asked, number)
    for error in (answered.outcome, stopped.error):
        assert isinstance(error, Ended)
        assert (error.code, "why" in str(error)) == (code, True)
    desk.clock.advance(60)
    assert desk.effects() == []
    with pytest.raises(Ended):
        desk.ask(commands.get("a"))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_handshake_that_is_refused_for_good(desk: Desk, status: int) -> None:
    assert desk.effects() == [Dial()]
    desk.session.failed("HTTP", status)
    assert desk.session.error is not None
    assert desk.session.error.code == status


def test_a_greeting_that_does_not_come(desk: Desk) -> None:
    desk.effects()
    desk.session.opened()
    desk.clock.advance(15)
    assert desk.effects() == [Hang()]
    desk.session.lost(None, "")
    desk.clock.advance(1)
    assert desk.effects() == [Dial()]


def test_a_subscription_that_is_not_acknowledged(desk: Desk) -> None:
    desk.connect()
    desk.session.subscribe({"resources": ["task"]}, ["task"])
    desk.sent()
    desk.clock.advance(30)
    assert desk.effects() == [Hang()]
    assert desk.effects() == []


def test_a_token_is_asked_for_and_said(desk: Desk) -> None:
    desk.connect()
    desk.say("auth:challenge", {"nonce": "n", "timestamp": NOW, "expiresAt": NOW})
    assert desk.effects() == [Renew()]
    desk.session.renew("another")
    (frame,) = desk.sent()
    assert (frame["type"], frame["token"], frame["userId"]) == ("auth", "another", "ann")


CHALLENGE = Challenge("n", "c-1", NOW)


def challenged(desk: Desk) -> None:
    """Connected, and asked for a proof before the greeting."""
    assert desk.effects() == [Dial()]
    desk.session.opened()
    desk.say("auth:challenge", {"nonce": "n", "timestamp": NOW, "expiresAt": NOW, "connectionId": "c-1"})


def test_a_challenge_before_the_greeting_is_signed(desk: Desk) -> None:
    challenged(desk)
    assert desk.effects() == [Prove(CHALLENGE)]
    desk.session.prove(CHALLENGE, "ann", "s1gn3d")
    (frame,) = desk.sent()
    assert (frame["type"], frame["userId"], frame["signature"]) == ("auth", "ann", "s1gn3d")
    desk.session.prove(CHALLENGE, "ann", "s1gn3d")
    assert desk.sent() == []  # it is of use once


def test_a_challenge_of_a_connection_that_is_gone_is_not_answered(desk: Desk) -> None:
    challenged(desk)
    desk.effects()
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    assert desk.effects() == [Dial()]
    desk.session.opened()
    desk.session.prove(CHALLENGE, "ann", "s1gn3d")
    assert desk.sent() == []


def test_who_cannot_sign_is_at_an_end(desk: Desk) -> None:
    challenged(desk)
    desk.effects()
    desk.session.cannot_prove()
    assert desk.effects() == [Hang()]
    with pytest.raises(Ended, match="no signer"):
        desk.ask(commands.get("a"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type":"batch:update","payload":{}}', '{"type":"task:update","seq":"x"}'])
def test_what_is_no_message_ends_it(desk: Desk, text: str) -> None:
    desk.connect()
    number = desk.follow("task")
    desk.session.received(text)
    hang, stopped = desk.effects()
    assert hang == Hang()
    assert isinstance(stopped, Stopped)
    assert (stopped.number, type(stopped.error)) == (number, NotTheService)


@pytest.mark.parametrize("compression", [None, "gzip", "brotli"])
@pytest.mark.parametrize("value", ["1e400", "9" * 5_000, "[" * 490 + "]" * 490, "12345678901234567890123"])
def test_a_message_of_any_value_is_told(desk: Desk, value: str, compression: str | None) -> None:
    """Larger than a double holds, longer than Python reads as an int, and as deep as the service takes."""
    desk.connect()
    desk.follow("task")
    messages = [
        f'{{"type":"task:update","payload":{{"action":"updated","task":{value},"source":"internal","key":"task:1"}},'
        f'"timestamp":"{NOW}","seq":{seq},"version":{version},"epoch":7,"position":{version}}}'
        for seq, version in ((1, 1001), (2, 1002))
    ]
    if compression is None:
        for message in messages:
            desk.session.received(message)
    else:
        desk.session.received(packed(f"[{','.join(messages)}]".encode(), compression, 0.0, name="b-1").decode())
    assert desk.told() == [1001, 1002]


def test_a_refused_subscription_ends(desk: Desk) -> None:
    desk.connect()
    number = desk.session.subscribe({"resources": ["email"]}, ["email"])
    (asked,) = desk.sent()
    desk.answer(asked, "error", {"code": "FORBIDDEN", "message": "not yours", "recoverable": False})
    (stopped,) = desk.effects()
    assert isinstance(stopped, Stopped)
    assert (stopped.number, type(stopped.error)) == (number, ServiceError)


def test_a_resource_is_followed_once(desk: Desk) -> None:
    desk.connect()
    desk.follow("task")
    with pytest.raises(InvalidInput, match="task is followed"):
        desk.session.subscribe({"resources": ["task"]}, ["task"])


def test_an_event_is_typed_and_one_that_is_not_known_comes_as_it_is(desk: Desk) -> None:
    desk.connect()
    desk.follow("task", "note")
    desk.push(1, 1001)
    desk.say("note:update", {"key": "note:1", "note": 1}, seq=2, version=1002, epoch=7, position=1002)
    first, second = [effect.event for effect in desk.effects() if isinstance(effect, Told)]
    assert isinstance(first, TaskUpdate)
    assert isinstance(second, Other)
    assert (second.type, second.payload["note"]) == ("note:update", 1)


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        ("publish", {"resource": "task"}, "task"),
        ("publish", {"resource": "task:1"}, "task"),
        ("publish", {"resource": "cache:task:?:*"}, "task"),
        ("publish", {"resource": "cache:note:1"}, "cache:note:*"),
        ("publish", {"resource": "cache:note:*"}, "cache:note:*"),
        ("publish", {"resource": "cache:note:[ab]*"}, "cache:note:*"),
        ("task:sync", {"syncId": "s-1", "status": "started", "progress": 0.0, "processed": 0, "total": 1}, "task"),
    ],
)
def test_what_has_no_key_is_told_to_who_follows_what_it_is_to(
    desk: Desk, kind: str, payload: dict[str, Any], told: str
) -> None:
    desk.connect()
    numbers = {desk.follow(name): name for name in ("contact", "task", "cache:note:*")}
    members = {"message": 1, "publishedBy": "ann"} if kind == "publish" else {}
    desk.say(kind, {**payload, **members}, seq=1, version=1001, epoch=7, position=1001)
    assert [numbers[effect.number] for effect in desk.effects() if isinstance(effect, Told)] == [told]


def test_after_a_reconnect_it_asks_for_what_it_missed_and_drops_what_it_had(desk: Desk) -> None:
    desk.connect()
    number = desk.follow("task")
    desk.push(1, 1001)
    desk.push(2, 1003, position=1002)
    assert desk.told() == [1001, 1003]
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    (subscribe,) = desk.connect()
    assert subscribe["type"] == "subscribe"
    desk.answer(subscribe, "ack", {"resources": ["task"]}, epoch=7, position=1000)
    opened, request = desk.effects()
    assert opened == Opened(number)
    assert isinstance(request, Send)
    asked = orjson.loads(request.frame)
    assert asked["payload"] == {
        "sessionId": "s-1",
        "lastSequenceNumber": 2,
        "missingRanges": [],
        "epoch": 7,
        "position": 1002,
    }
    desk.push(1, 1006)  # live, held back until what was missed has been told
    assert desk.told() == []
    data = [
        {"type": "task:update", "payload": {"action": "updated", "task": v, "source": "x", "key": "task:1"}, "timestamp": NOW}
        | {"seq": seq, "version": v, "epoch": 7, "position": v}
        for seq, v in ((2, 1003), (3, 1004), (4, 1005))
    ]
    desk.answer(asked, "recovery:response", {"sequenceNumber": 4, "data": data, "isComplete": False, "sessionId": "s-1"})
    assert desk.told() == [1004, 1005]
    desk.answer(asked, "recovery:response", {"sequenceNumber": 4, "data": [], "isComplete": True})
    assert desk.told() == [1006]
    asked = desk.come_back(position=1006)
    assert (asked["payload"]["sessionId"], asked["payload"]["lastSequenceNumber"]) == ("s-2", 1)
    assert asked["payload"]["position"] == 1006


def test_who_is_followed_while_what_was_missed_is_told_asks_for_nothing(desk: Desk) -> None:
    desk.connect()
    desk.follow("task")
    asked = desk.come_back(position=1000)
    desk.follow("note")  # a second recovery would be refused while the first goes on, and both told as missed
    desk.answer(asked, "recovery:response", {"sequenceNumber": 0, "data": [], "isComplete": True})
    desk.push(1, 1001)
    assert desk.told() == [1001]


def test_what_a_throttle_passed_over_is_not_told_by_the_log_after_what_superseded_it(desk: Desk) -> None:
    desk.connect()
    desk.follow("task")
    desk.push(1, 1004, key="task:1", position=1001)  # 1003 of it was conflated, and 1002 of another key still waits
    assert desk.told() == [1004]
    asked = desk.come_back(position=1004)
    data = [
        {"type": "task:update", "payload": {"action": "updated", "task": v, "source": "x", "key": key}, "timestamp": NOW}
        | {"seq": v - 1001, "version": v, "epoch": 7, "position": v}
        for v, key in ((1002, "task:2"), (1003, "task:1"), (1004, "task:1"))
    ]
    desk.answer(asked, "recovery:response", {"sequenceNumber": 3, "data": data, "isComplete": False, "sessionId": "s-2"})
    assert desk.told() == [1002]


def test_what_cannot_be_recovered_is_told_as_missed_before_what_comes_after(desk: Desk) -> None:
    desk.connect()
    desk.follow("task")
    asked = desk.come_back(position=1010)
    desk.push(1, 1011)
    error = refusal("RECOVERY_UNAVAILABLE")
    desk.answer(asked, "recovery:response", {"sequenceNumber": 0, "data": [], "isComplete": False, "error": error})
    assert desk.told() == ["missed", 1011]


def test_a_hole_in_the_numbers_is_asked_for(desk: Desk) -> None:
    desk.connect()
    desk.follow("task")
    desk.push(1, 1001)
    assert desk.told() == [1001]
    desk.push(4, 1004)
    (asked,) = desk.sent()
    assert asked["type"] == "recovery:request"
    assert asked["payload"] == {
        "sessionId": "s-1",
        "lastSequenceNumber": 4,
        "missingRanges": [{"start": 2, "end": 3}],
        "epoch": 7,
        "position": 1001,
    }
    data = [
        {"type": "task:update", "payload": {"action": "updated", "task": v, "source": "x", "key": "task:1"}, "timestamp": NOW}
        | {"seq": v - 1000, "version": v, "epoch": 7, "position": v}
        for v in (1002, 1003)
    ]
    desk.answer(asked, "recovery:response", {"sequenceNumber": 3, "data": data, "isComplete": False, "sessionId": "s-1"})
    desk.answer(asked, "recovery:response", {"sequenceNumber": 3, "data": [], "isComplete": True})
    assert desk.told() == [1002, 1003, 1004]
    desk.push(5, 1005)
    assert desk.told() == [1005]


def test_who_was_followed_since_is_not_left_to_a_session_that_does_not_know_of_it(desk: Desk) -> None:
    """The second connection is lost before it has recovered: the first one's session never heard of notes."""
    desk.connect()
    desk.follow("task")
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    number = desk.session.subscribe({"resources": ["note"]}, ["note"])
    tasks, notes = desk.connect()
    desk.answer(tasks, "ack", {"resources": ["task"]}, epoch=7, position=1000)
    desk.answer(notes, "ack", {"resources": ["note"]}, epoch=7, position=1003)
    assert Opened(number) in desk.effects()
    desk.session.lost(1006, "")
    desk.clock.advance(2)
    for asked, name in zip(desk.connect(), ("task", "note"), strict=True):
        desk.answer(asked, "ack", {"resources": [name]}, epoch=7, position=1000)
    (request,) = [effect for effect in desk.effects() if isinstance(effect, Send)]
    asked = orjson.loads(request.frame)["payload"]
    assert asked["sessionId"] not in ("s-1", "s-2", "s-3")  # so that the log is read, from what is whole of all
    assert (asked["epoch"], asked["position"]) == (7, 1000)


def test_what_is_held_back_is_bounded() -> None:
    desk = Desk(max_held=3)
    desk.connect()
    number = desk.follow("task")
    desk.session.lost(1006, "")
    desk.clock.advance(1)
    (subscribe,) = desk.connect()
    desk.answer(subscribe, "ack", {"resources": ["task"]}, epoch=7, position=1000)
    desk.effects()
    for seq in range(1, 5):
        desk.push(seq, 1000 + seq)
    assert desk.effects() == [Hang()]
    desk.session.lost(None, "")
    desk.clock.advance(2)
    (subscribe,) = desk.connect()
    desk.answer(subscribe, "ack", {"resources": ["task"]}, epoch=7, position=1004)
    opened, told = desk.effects()  # once it is live, so that what is read then is new enough; and nothing is recovered
    assert opened == Opened(number)
    assert isinstance(told, Told)
    assert isinstance(told.event, Missed)


def test_what_is_known_to_have_been_told_is_bounded() -> None:
    desk = Desk(max_seen=3)
    desk.connect()
    desk.follow("task")
    for seq in range(1, 5):
        desk.push(seq, 1000 + seq, key=f"task:{seq}", position=1000)
    *told, hang = desk.effects()
    assert len(told) == 4
    assert hang == Hang()


def test_who_leaves_and_comes_back_is_not_taken_for_who_left(desk: Desk) -> None:
    desk.connect()
    first = desk.follow("task")
    desk.session.unsubscribe(first)
    second = desk.session.subscribe({"resources": ["task"]}, ["task"])
    desk.session.unsubscribe(second)
    third = desk.session.subscribe({"resources": ["task"]}, ["task"])
    frames = [orjson.loads(effect.frame) for effect in desk.effects() if isinstance(effect, Send)]
    assert [frame["type"] for frame in frames] == ["unsubscribe", "subscribe", "unsubscribe", "subscribe"]
    for frame in frames:
        desk.answer(frame, "ack", {"resources": ["task"]}, epoch=7, position=1000)
    assert desk.effects() == [Opened(third)]


def test_an_end_by_the_client(desk: Desk) -> None:
    desk.connect()
    number = desk.follow("task")
    asked = desk.ask(commands.get("a"))
    desk.sent()
    desk.session.close()
    hang, answered, stopped = desk.effects()
    assert (hang, stopped) == (Hang(), Stopped(number, None))
    assert isinstance(answered, Answered)
    assert (answered.number, type(answered.outcome)) == (asked, Ended)
    desk.session.lost(1000, "")
    assert desk.effects() == []
