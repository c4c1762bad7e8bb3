"""Who a session is of: challenges that are signed, by nodes and by who must prove more than a token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import pytest

from cachesvc.errors import Unauthenticated
from cachesvc.protocol.challenge import Challenge
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.frames import Auth
from cachesvc.realtime.authentication import Authentication, AuthLimits, Names, Proofs, Rejected
from cachesvc.realtime.identity import Identity
from tests.fakes import FakeClock
from tests.realtime.sessions import NOW, Said

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
PROOFS = Proofs(nodes=(OLD, NEW), step_up=(OTHER,), scopes=("admin",))


class Issuer:
    """A doorman whose tokens say their scopes."""

    def greet(self, token: str | None) -> Identity | None:
        return None

    def authenticate(self, token: str, user_id: str) -> Identity:
        if not token:
            raise Unauthenticated("no token")
        return Identity(user_id, token.split())

    def knows(self, identity: Identity) -> bool:
        return True


def node() -> Said:
    said = Said(identity=None, doorman=Issuer(), proofs=PROOFS, node=True)
    said.session.open()
    return said


def challenged(said: Said) -> Challenge:
    frame = said.frame()
    assert frame["type"] == "auth:challenge"
    payload = frame["payload"]
    return Challenge(payload["nonce"], payload["connectionId"], payload["timestamp"])


def closed(said: Said) -> CloseCode | None:
    return said.session.closing.code if said.session.closing is not None else None


def test_a_ping_tells_nothing_of_the_log_to_who_has_not_said_who_it_is() -> None:
    said = Said(identity=None, doorman=Issuer())
    said.session.open()
    said.send("ping", requestId="r")
    pong = said.frame()
    assert (pong["type"], pong.keys() & {"epoch", "position"}) == ("pong", set())
    said.send("auth", token="read:*", userId="ann")
    said.raw()
    said.send("ping")
    assert said.frame().items() >= {"epoch": 7, "position": 1000}.items()


def test_the_signature_is_what_is_specified() -> None:
    asked = Challenge("nonce", "connection", "2024-01-15T10:30:00.000Z")
    expected = hmac.new(NEW, b"nonceconnectionnode:west2024-01-15T10:30:00.000Z", "sha256").hexdigest()
    assert asked.signature(NEW, "node:west") == expected
    assert asked.met([OLD, NEW], "node:west", expected)
    assert not asked.met([OLD], "node:west", expected)
    assert not asked.met([OLD, NEW], "node:east", expected)
    assert not asked.met([NEW], "node:west", "ünequal\udc80")


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_node_signs_what_it_is_sent_first(secret: bytes) -> None:
    said = node()
    asked = challenged(said)
    said.golden("cache:get")
    assert said.error()[0] == "UNAUTHENTICATED"
    said.send("auth", userId="node:west", signature=asked.signature(secret, "node:west"), requestId="r-1")
    established, ack = said.frames()
    assert (established["type"], established["payload"]["userId"], ack["type"]) == (
        "connection:established",
        "node:west",
        "ack",
    )
    identity = said.session.identity
    assert identity is said.session.stream.identity
    assert identity is not None
    assert [identity.may_all(action, "*") for action in ("node", "read", "write", "invalidate")] == [True, True, False, False]


@pytest.mark.parametrize(
    "signed",
    [
        lambda asked: ("node:west", asked.signature(OTHER, "node:west")),
        lambda asked: ("node:west", asked.signature(NEW, "node:east")),
        lambda asked: ("ann", asked.signature(NEW, "ann")),  # nobody but nodes
        lambda asked: ("node:west", asked._replace(connection="c-2").signature(NEW, "node:west")),
        lambda asked: ("node:west", asked._replace(nonce="n").signature(NEW, "node:west")),
        lambda asked: ("node:west", ""),
    ],
)
def test_what_is_signed_otherwise_closes(signed: Callable[[Challenge], tuple[str, str]]) -> None:
    said = node()
    subject, signature = signed(challenged(said))
    said.send("auth", userId=subject, signature=signature, requestId="r-1")
    assert said.error() == ("UNAUTHENTICATED", None, "r-1")
    assert (closed(said), said.session.identity) == (CloseCode.BAD_TOKEN, None)


def test_a_challenge_is_good_for_its_time() -> None:
    said = node()
    asked = challenged(said)
    said.clock.advance(29.9)
    said.session.tick()
    assert closed(said) is None
    said.clock.advance(0.1)
    said.send("auth", userId="node:west", signature=asked.signature(NEW, "node:west"))
    assert closed(said) is CloseCode.BAD_TOKEN
    late = node()
    late.clock.advance(30.0)
    late.session.tick()
    assert closed(late) is CloseCode.AUTH_TIMEOUT


def test_a_challenge_is_used_once() -> None:
    said = node()
    signature = challenged(said).signature(NEW, "node:west")
    said.send("auth", userId="node:west", signature=signature)
    said.frames()
    said.send("auth", userId="node:west", signature=signature, requestId="again")
    assert said.error()[0] == "UNAUTHENTICATED"
    assert closed(said) is CloseCode.BAD_TOKEN


@pytest.mark.parametrize("members", [{}, {"token": "admin"}])
def test_who_may_everything_proves_more_than_a_token_that_came_with_the_upgrade(members: dict[str, Any]) -> None:
    said = Said(identity=Identity("ann", ["admin"]), doorman=Issuer(), proofs=PROOFS)
    said.session.open()
    asked = challenged(said)
    said.golden("cache:get")
    assert said.error()[0] == "UNAUTHENTICATED"
    said.send("auth", userId="ann", signature=asked.signature(OTHER, "ann"), **members)
    assert said.frame()["type"] == "connection:established"


def test_so_does_who_sends_it_in_a_message() -> None:
    said = Said(identity=None, doorman=Issuer(), proofs=PROOFS)
    said.session.open()
    said.send("auth", token="admin", userId="ann")
    asked = challenged(said)
    said.send("auth", token="admin", userId="ann")  # and no signature
    assert said.error()[0] == "UNAUTHENTICATED"
    assert closed(said) is CloseCode.BAD_TOKEN
    other = Said(identity=None, doorman=Issuer(), proofs=PROOFS)
    other.session.open()
    other.send("auth", token="admin", userId="ann")
    asked = challenged(other)
    other.send("auth", userId="ann", signature=asked.signature(OTHER, "ann"))
    assert other.frame()["type"] == "connection:established"


def test_a_secret_of_nodes_is_none_of_those_who_step_up() -> None:
    said = Said(identity=Identity("ann", ["admin"]), doorman=Issuer(), proofs=PROOFS)
    said.session.open()
    said.send("auth", userId="ann", signature=challenged(said).signature(NEW, "ann"))
    assert closed(said) is CloseCode.BAD_TOKEN


def test_whatever_answers_a_challenge_uses_it_up() -> None:
    clock = FakeClock(NOW)
    client = Authentication(Names("c", "s", "n"), AuthLimits(), clock, Issuer(), None, proofs=PROOFS, node=True)
    assert client.asks
    payload = client.ask()
    asked = Challenge(str(payload["nonce"]), str(payload["connectionId"]), str(payload["timestamp"]))
    for signature in ("0" * 64, asked.signature(NEW, "node:west")):
        with pytest.raises(Rejected):
            client.take(Auth(type="auth", user_id="node:west", signature=signature))
    assert client.identity is None


def test_who_has_no_such_scope_is_asked_for_nothing() -> None:
    said = Said(identity=Identity("ann", ["read:*"]), doorman=Issuer(), proofs=PROOFS)
    said.session.open()
    assert said.frame()["type"] == "connection:established"


def test_a_signature_takes_the_place_of_no_token() -> None:
    said = Said(identity=None, doorman=Issuer(), proofs=PROOFS)
    said.session.open()
    said.send("auth", userId="ann", signature="0" * 64)
    assert said.error()[0] == "UNAUTHENTICATED"
    assert closed(said) is CloseCode.BAD_TOKEN
