"""The session, without a socket: what each frame is answered with."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import CacheError, OutcomeUnknown, Refusal, Refused, TokenExpired, Unauthenticated, Unavailable
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.frames import FROM_CLIENTS, RECEIVED
from cachesvc.realtime.identity import ANONYMOUS, Identity
from tests.fakes import FakeClock
from tests.realtime.sessions import NOW, Said
from tests.wire import golden_frames


def opened(**options: object) -> Said:
    said = Said(**options)  # type: ignore[arg-type]
    said.session.open()
    said.raw()
    return said


def test_connection_established() -> None:
    said = Said()
    said.session.open()
    (frame,) = said.raw()
    payload = golden_frames.check(frame)["payload"]
    assert (payload["connectionId"], payload["userId"], payload["sessionId"]) == ("c-1", "anonymous", "s-1")
    assert said.woken == 2  # for what is to be sent, and for what is due


def test_anyone_may_say_anything_of_himself_where_nobody_is_asked() -> None:
    said = opened()
    assert said.golden("auth") is None
    assert said.frames() == []
    said.golden("auth", requestId="r-1")
    assert (said.frame()["type"], said.session.identity) == ("ack", ANONYMOUS)


def test_pong_tells_the_latency() -> None:
    said = opened()
    said.clock.advance(0.25)
    said.golden("ping", requestId="r-1")
    (frame,) = said.raw()
    pong = golden_frames.check(frame)
    assert pong["payload"] == {"timestamp": "2024-01-15T10:30:00Z", "sequenceNumber": 7, "latency": 250.0}


@pytest.mark.parametrize(
    "payload", [None, {}, {"timestamp": "2024-01-15T12:30:00+02:00"}, {"timestamp": "2030-01-01T00:00:00Z"}]
)
def test_pong_without_a_latency_to_speak_of(payload: object) -> None:
    said = opened()
    said.send("ping", payload)
    assert said.frame()["payload"]["latency"] == 0


def test_authz_result() -> None:
    said = opened()
    said.golden("authz:check")
    (frame,) = said.raw()
    assert golden_frames.check(frame)["payload"]["allowed"] is True
    said.session.client.identity = Identity("ann", ["read:task:*", "write:task:4?"])
    for resource, action, allowed in [("task:42", "write", True), ("task:1", "write", False), ("task:1", "read", True)]:
        said.send("authz:check", {"resource": resource, "action": action}, requestId="r")
        assert said.frame()["payload"] == {"resource": resource, "action": action, "allowed": allowed}


@pytest.mark.parametrize("resource", ["task", "tasks", "task:4", "tasks:4", "cache:task:*", "cache:task:4", "event", "cache:*"])
def test_authz_check_tells_what_subscribing_does(resource: str) -> None:
    said = Said(identity=Identity("ann", ["read:task:*"]))
    said.session.open()
    said.raw()
    said.send("authz:check", {"resource": resource, "action": "read"}, requestId="r")
    allowed = said.frame()["payload"]["allowed"]
    said.send("subscribe", {"resources": [resource]}, requestId="r")
    assert (said.frame()["type"] == "ack") is allowed is ("task" in resource)


def test_connection_status_before_a_drain() -> None:
    said = opened()
    said.session.drain(1500, "the node restarts")
    said.session.drain(9000, "again")
    (frame,) = said.raw()
    assert golden_frames.check(frame)["payload"]["nextReconnectIn"] == 1500
    assert said.session.closing == (CloseCode.DRAIN, "the node restarts")
    assert said.golden("ping") is None
    assert said.frames() == []


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ("{", "BAD_MESSAGE", "message"),
        ("[]", "BAD_MESSAGE", "message"),
        (b"{}", "BAD_MESSAGE", "message"),
        ("[" * 100_000, "BAD_MESSAGE", "message"),
        ('{"type":"ping","payload":' + '{"a":' * 2000 + "1" + "}" * 2001, "BAD_MESSAGE", "message"),
        ("{}", "BAD_MESSAGE", "type"),
        ('{"type":7}', "BAD_MESSAGE", "type"),
        ('{"type":"nonsense"}', "UNKNOWN_TYPE", None),
        ('{"type":"pong"}', "UNKNOWN_TYPE", None),
        ('{"type":"cache:get"}', "BAD_MESSAGE", "payload"),
        ('{"type":"cache:get","payload":{"key":7}}', "BAD_MESSAGE", "payload.key"),
        ('{"type":"cache:update","payload":{"key":"a","value":1}}', "BAD_MESSAGE", "payload.operation"),
        ('{"type":"cache:update","payload":{"key":"a","operation":"set","value":1,"ttl":-1}}', "BAD_MESSAGE", "payload.ttl"),
        ('{"type":"subscribe","payload":{"resources":["task"],"throttle":true}}', "BAD_MESSAGE", "payload.throttle"),
        ('{"type":"ping","payload":{"timestamp":"yesterday"}}', "BAD_MESSAGE", "payload.timestamp"),
        ('{"type":"ping","payload":{"timestamp":"2024-01-15"}}', "BAD_MESSAGE", "payload.timestamp"),
        ('{"type":"ping","requestId":7}', "BAD_MESSAGE", "requestId"),
        ('{"type":"publish","payload":{"resource":"task","message":1,"distribute":1}}', "BAD_MESSAGE", "payload.distribute"),
        ('{"type":"publish","payload":{"resource":"task","message":1,"distribute":0.0}}', "BAD_MESSAGE", "payload.distribute"),
    ],
)
def test_what_is_wrong_is_named(frame: str | bytes, code: str, field: str | None) -> None:
    said = opened()
    assert said.session.receive(frame) == []
    assert said.error() == (code, field, None)
    assert said.session.closing is None


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ('{"requestId":"r-1","type":"ping","payload":' + '{"requestId":"x","b":[' * 600 + "]}" * 600 + "}", "message"),
        ('{"type":"ping","payload":' + "[" * 600_000 + "]" * 600_000 + ',"requestId" : "r-1"}', "message"),
        ('{"type":"ping","payload":{"requestId":"x","timestamp":"\\ud800"},"requestId":"r\\u002d1"}', "message"),
        ('{"type":"cache:update","requestId":"r-1","payload":{"key":"a","operation":"set","value":"\\udfff"}}', "message"),
        ('{"type":"ping","payload":"a \\"requestId\\":\\"x\\" {","requestId":"r-1",}', "message"),
        ('{"requestId":"x","type":"ping","type":"ping","requestId":"r-1"}', "message"),
    ],
)
def test_an_error_tells_whose_it_is_where_the_frame_cannot_be_read(frame: str, field: str) -> None:
    said = opened()
    assert said.session.receive(frame) == []
    assert said.error() == ("BAD_MESSAGE", field, "r-1")
    assert said.session.closing is None


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ('{"type":"ping","requestId":"%s"}' % ("x" * 201), "requestId"),
        ('{"type":"ping","requestId":"%s","payload":"\\ud800"}' % ("x" * 201), "message"),
        ('{"type":"ping","requestId":"\\ud800"}', "message"),
        ('{"type":"ping","requestId":"r-1', "message"),
        ('[{"requestId":"r-1"},]', "message"),
        ('{"payload":{"requestId":"r-1"},}', "message"),
    ],
)
def test_an_id_that_cannot_be_told_again_is_not(frame: str, field: str) -> None:
    said = opened()
    assert said.session.receive(frame) == []
    assert said.error() == ("BAD_MESSAGE", field, None)


def twice(text: str, name: str) -> str:
    """The text with the first member of that name once more before it, as null."""
    return text.replace(f'"{name}":', f'"{name}":null,"{name}":', 1)


@pytest.mark.parametrize("name", ["type", "requestId", "timestamp", "payload"])
@pytest.mark.parametrize("kind", sorted(RECEIVED))
def test_a_member_of_the_envelope_is_given_once(kind: str, name: str) -> None:
    said = opened()
    envelope = {"type": kind, "requestId": "r-1", "timestamp": "2024-01-15T10:30:00Z", "payload": {}}
    text = orjson.dumps(golden_frames.read(kind, "client") | envelope).decode()
    assert said.session.receive(twice(text, name)) == []
    frame = said.frame()
    assert (frame["payload"]["code"], frame["correlationId"]) == ("BAD_MESSAGE", "r-1")
    assert f"message: is not JSON: the member '{name}' is given twice" in frame["payload"]["message"]


@pytest.mark.parametrize("kind", sorted(RECEIVED.keys() - {"auth"}))
def test_a_member_of_the_payload_is_given_once(kind: str) -> None:
    said = opened()
    golden = golden_frames.read(kind, "client")
    name = next(iter(golden["payload"]))
    text = orjson.dumps(golden | {"requestId": "r-1"}).decode()
    assert said.session.receive(twice(text, name)) == []
    assert said.error() == ("BAD_MESSAGE", "message", "r-1")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("7", "payload: must be an object"),
        ('{"resources":"task"}', "payload.resources: must be an array"),
        ('{"resources":["task"],"filters":[]}', "payload.filters: must be an object"),
    ],
)
def test_it_is_named_in_the_words_of_json(payload: str, reason: str) -> None:
    said = opened()
    said.session.receive(f'{{"type":"subscribe","payload":{payload}}}')
    assert said.frames()[0]["payload"]["message"] == reason


def test_an_error_frame() -> None:
    said = opened()
    said.send("cache:get", {}, requestId="r-1")
    (frame,) = said.raw()
    assert golden_frames.check(frame)["correlationId"] == "r-1"


@pytest.mark.parametrize("kind", ["cache:get", "cache:update", "cache:invalidate"])
def test_a_command_becomes_a_request(kind: str) -> None:
    said = opened()
    request = said.golden(kind)
    assert request is not None
    assert (request.type, request.frame.request_id, request.identity) == (kind, "r-1", ANONYMOUS)
    assert said.frames() == []


def test_a_value_is_kept_as_it_was_written() -> None:
    said = opened()
    (request,) = said.session.receive('{"type":"cache:update","payload":{"key":"a","operation":"set","value": 1.10e400 }}')
    assert request.frame.payload.value == b"1.10e400"  # type: ignore[attr-defined]


def test_answers() -> None:
    said = opened()
    request = said.golden("cache:get")
    assert request is not None
    said.session.answer(request.frame, "cache:value", {"key": "a"})
    said.session.answer(request.frame, "ack", {"version": 1})
    told = [(frame["type"], frame["correlationId"]) for frame in said.frames()]
    assert told == [("cache:value", "r-1"), ("ack", "r-1")]
    silent = said.send("cache:get", {"key": "a"})
    assert silent is not None
    said.session.answer(silent.frame, "ack", {})
    assert said.frames() == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            Unavailable("away", retry_after=2.0),
            {"code": "UNAVAILABLE", "message": "away", "recoverable": True, "retryAfter": 2.0},
        ),
        (
            Refused(Refusal.VERSION_CONFLICT, "key", "is not", current=9),
            {
                "code": "VERSION_CONFLICT",
                "message": "payload.key: is not",
                "recoverable": True,
                "details": {"field": "payload.key", "currentVersion": 9},
            },
        ),
        (
            OutcomeUnknown("lost", request_id="x"),
            {
                "code": "OUTCOME_UNKNOWN",
                "message": "outcome unknown: lost",
                "recoverable": True,
                "details": {"idempotencyKey": "x"},
            },
        ),
        (
            CacheError("a secret"),
            {
                "code": "INTERNAL",
                "message": "an error that is not yours; the log of the service has it",
                "recoverable": True,
            },
        ),
    ],
)
def test_failures(error: CacheError, told: dict[str, object]) -> None:
    said = opened(max_errors=1)
    request = said.golden("cache:get")
    assert request is not None
    for _ in range(3):
        said.session.fail(request.frame, error)
        assert said.frame()["payload"] == told
    assert said.session.closing is None  # no fault of the client's


def test_scopes_are_checked_on_every_message() -> None:
    said = opened(identity=Identity("ann", ["read:task:*", "invalidate:task:*"]))
    assert said.golden("cache:get") is not None
    assert said.golden("cache:update") is None
    assert said.error() == ("FORBIDDEN", None, "r-1")
    assert said.send("cache:invalidate", {"keys": ["task:1"], "pattern": "task:*"}) is not None
    for named in ({"keys": ["task:1", "event:1"]}, {"pattern": "*"}, {"tags": ["x"]}, {"keys": ["task:1"], "cascade": True}):
        assert said.send("cache:invalidate", named) is None
        assert said.error()[0] == "FORBIDDEN"


@pytest.mark.parametrize(
    ("scope", "key", "may"),
    [
        ("read:task:*", "task:1", True),
        ("read:task:*", "task:[", True),
        ("read:task:*", "\\task:1", False),  # as a glob it would be task:1
        ("read:task:[ab]", "task:[ab]", False),  # as a glob it would be the scope's own
        ("read:task:\\*", "task:\\*", False),
        ("read:task:\\*", "task:*", True),
    ],
)
def test_a_key_is_no_glob(scope: str, key: str, may: bool) -> None:
    said = opened(identity=Identity("ann", [scope]))
    assert (said.send("cache:get", {"key": key}) is not None) is may


class Guard:
    """A doorman who knows one token; `refusal` is what becomes of the others."""

    def __init__(self, refusal: Unauthenticated | None = None) -> None:
        self.refusal = refusal or Unauthenticated("the token is not valid")

    def greet(self, token: str | None) -> Identity | None:
        return None

    def authenticate(self, token: str, user_id: str) -> Identity:
        if token != "good":
            raise self.refusal
        return Identity(user_id, ["admin"])

    def knows(self, identity: Identity) -> bool:
        return True


def test_the_first_message_says_who_it_is() -> None:
    said = Said(identity=None, doorman=Guard())
    said.session.open()
    assert said.frames() == []
    assert said.session.due == 10.0
    said.golden("cache:get")
    assert said.error() == ("UNAUTHENTICATED", None, "r-1")
    said.send("auth", token="good", userId="ann")
    assert said.frame()["payload"]["userId"] == "ann"
    assert said.session.due is None
    said.golden("cache:get")
    assert said.frames() == []


def test_a_bad_token_closes() -> None:
    said = Said(identity=None, doorman=Guard())
    said.golden("auth", requestId="r-1")
    assert said.error() == ("UNAUTHENTICATED", None, "r-1")
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.BAD_TOKEN


def test_a_token_whose_time_is_over_closes_so_that_the_client_comes_back_with_another() -> None:
    said = Said(identity=None, doorman=Guard(TokenExpired("the token is not believed: it has expired")))
    said.golden("auth", requestId="r-1")
    assert said.error() == ("TOKEN_EXPIRED", None, "r-1")
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.TOKEN_EXPIRED


def test_who_says_nothing_is_closed() -> None:
    said = Said(identity=None, doorman=Guard())
    said.clock.advance(9.9)
    said.session.tick()
    assert said.session.closing is None
    said.clock.advance(0.1)
    said.session.tick()
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.AUTH_TIMEOUT


class Issuer(Guard):
    """A doorman whose tokens say subject and scopes, and last for a minute from when they are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(NOW)

    def authenticate(self, token: str, user_id: str) -> Identity:
        return Identity(user_id, token.split(), self.clock.now() + 60.0)

    def opened(self) -> Said:
        return opened(identity=self.authenticate("read:task:*", "ann"), doorman=self, clock=self.clock)


class Sparing(Issuer):
    """One whose tokens end a minute after the test began, whenever they are shown."""

    def authenticate(self, token: str, user_id: str) -> Identity:
        return Identity(user_id, token.split(), NOW + 60.0)


def test_a_token_near_its_end_is_asked_for_again_and_closes_after_its_grace() -> None:
    said = Issuer().opened()
    said.clock.advance(29.9)
    said.session.tick()
    assert (said.frames(), said.session.due) == ([], 30.0)
    said.clock.advance(0.1)
    said.session.tick()
    (frame,) = said.raw()
    challenge = golden_frames.check(frame)["payload"]
    assert (challenge["timestamp"], challenge["expiresAt"]) == ("2024-01-15T10:30:30.000Z", "2024-01-15T10:31:25.000Z")
    assert said.session.due == 85.0
    said.clock.advance(54.9)
    said.session.tick()
    assert (said.frames(), said.session.closing) == ([], None)
    said.clock.advance(0.1)
    said.session.tick()
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.TOKEN_EXPIRED


def test_a_token_that_is_renewed_lasts_as_long_as_the_new_one() -> None:
    said = Issuer().opened()
    said.clock.advance(50.0)
    said.session.tick()
    first = said.frame()["payload"]["nonce"]
    said.send("auth", token="read:task:*", userId="ann", requestId="r-1")
    assert said.frame()["payload"] == {"userId": "ann"}
    assert said.session.due == 80.0
    said.clock.advance(30.0)
    said.session.tick()
    assert said.frame()["payload"]["nonce"] != first
    assert said.session.closing is None
    assert said.session.due == 135.0


def test_a_token_that_ends_as_soon_as_the_last_is_not_asked_for_again_at_once() -> None:
    """Who keeps its token until it has ended would answer each challenge with it, and be challenged for each answer."""
    said = Sparing().opened()
    due = [30.0]
    for _ in range(6):
        said.clock.advance(due[-1] - said.clock.monotonic())
        said.session.tick()
        assert said.frame()["type"] == "auth:challenge"
        said.send("auth", token="read:task:*", userId="ann", requestId="r-1")
        assert said.frame()["type"] == "ack"
        assert said.session.due is not None
        due.append(said.session.due)
    assert due == [30.0, 45.0, 52.5, 56.25, 58.125, 59.125, 60.125]
    said.clock.advance(1.0)
    said.session.tick()
    assert said.session.due == 85.0


@pytest.mark.parametrize(("scopes", "subject"), [("read:task:1", "ann"), ("read:task:*", "bob"), ("admin", "ann")])
def test_a_session_is_not_taken_over_by_who_may_do_something_else(scopes: str, subject: str) -> None:
    said = Issuer().opened()
    said.send("auth", token=scopes, userId=subject, requestId="r-1")
    assert said.error() == ("UNAUTHENTICATED", None, "r-1")
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.STATE_LOST
    assert said.session.identity is said.session.stream.identity


def test_who_has_no_token_is_never_asked_for_another() -> None:
    said = opened()
    said.clock.advance(1e9)
    said.session.tick()
    assert (said.frames(), said.session.closing, said.session.due) == ([], None, None)


def test_too_many_errors_within_a_window_close() -> None:
    said = opened(max_errors=3)
    for _ in range(3):
        said.session.receive("{")
    said.clock.advance(60)
    for _ in range(3):
        said.session.receive("{")
    assert said.session.closing is None
    said.session.receive("{")
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.TOO_MANY_ERRORS


def test_answers_that_are_not_read_are_bounded() -> None:
    said = opened(queue_size=10_000)
    for _ in range(1_000):
        said.golden("ping")
        assert said.session.outbox.answered <= 10_000
    assert said.session.closing is not None
    assert said.session.closing.code is CloseCode.SLOW
    assert said.frames() == []


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("key", "keys", "value", "operation", "ttl", "resources", "pattern", "timestamp", "lastSequenceNumber")
payloads = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, json))


@given(st.sampled_from(sorted(FROM_CLIENTS)), json | payloads, json)
def test_any_frame_is_answered_once_or_becomes_a_request(kind: str, payload: object, asked: object) -> None:
    said = opened()
    request = said.send(kind, payload, requestId=asked)
    frames = said.frames()
    assert len(frames) + (request is not None) <= 1
    if frames and frames[0]["type"] == "error":
        assert frames[0]["payload"]["code"] != "INTERNAL"
        assert frames[0].get("correlationId") == (asked if isinstance(asked, str) else None)


@given(st.text() | st.binary())
def test_any_bytes_are_answered(data: str | bytes) -> None:
    said = opened()
    assert said.session.receive(data) == []
    assert said.error()[0] == "BAD_MESSAGE"


def test_a_frame_with_what_is_not_known_is_understood() -> None:
    said = opened()
    assert said.send("cache:get", {"key": "a", "unheard": {}}, unheard=1) is not None
