"""The quick way of `cache:get` against the plain one: the same bytes from both, or it is left to the plain one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.errors import CacheError
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.realtime.authentication import Names
from cachesvc.realtime.identity import ANONYMOUS, Identity
from cachesvc.realtime.quick import Quick
from cachesvc.realtime.session import Session
from tests.realtime.sessions import LIMITS
from tests.web.site import Site, opened
from tests.web.sockets import connected

ENTRIES: list[tuple[str, bytes, str, float | None]] = [
    ("a:1", b'{"a": 1}', "application/json", None),
    ("short", b"1", "application/json", 10.5),
    ("problem", b'{"a":  [1e999]}', "application/problem+json", None),
    ("ü \U0001f600/b%", b"\xff\x00", "application/octet-stream", 0.0014),
    ("empty", b"", "text/plain; charset=utf-8", None),
]
KEYS = [key for key, *_ in ENTRIES]


@pytest.fixture
async def filled() -> AsyncIterator[Site]:
    async with opened() as site:
        for key, value, kind, ttl in ENTRIES:
            await site.cache.write(Draft(Operation.SET, Key(key), value, content_type=kind, ttl=ttl))
        site.clock.advance(0.0007)
        yield site


class Ways:
    """One session for each way, which says whatever it says."""

    def __init__(self, site: Site, identity: Identity | None = ANONYMOUS) -> None:
        self.site = site
        self.quick = Quick(site.cache, site.clock)
        live = site.live

        def session() -> Session:
            made = Session(Names("c", "s", "c"), LIMITS, site.clock, live._doorman, live.hub, identity, lambda: None)
            made.open()
            said(made)
            return made

        self.sessions = session(), session()

    def at_once(self, text: str) -> bytes | None:
        """What the quick way says; None where it leaves it."""
        session = self.sessions[0]
        answered = self.quick.answers(session, text)
        told = said(session)
        assert answered or not told
        return told if answered else None

    async def plainly(self, text: str) -> bytes:
        session = self.sessions[1]
        for request in session.receive(text):
            try:
                async for reply in self.site.live.commands.carry_out(request):
                    session.answer(request.frame, reply.type, reply.payload)
            except CacheError as error:
                session.fail(request.frame, error)
        return said(session)


def said(session: Session) -> bytes:
    told = []
    while (frame := session.next_frame()) is not None:
        told.append(frame)
    return b"\n".join(told)


def asking(key: object, **more: object) -> str:
    return json.dumps({"type": "cache:get", "payload": {"key": key}, **more})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "more", [{}, {"requestId": "r-1"}, {"requestId": "ü", "timestamp": "whenever"}, {"requestId": None, "timestamp": None}]
)
async def test_the_usual_is_answered_at_once_with_the_same_bytes(filled: Site, key: str, more: dict[str, object]) -> None:
    ways = Ways(filled)
    told = ways.at_once(asking(key, **more))
    assert told is not None
    assert told == await ways.plainly(asking(key, **more))


async def test_what_is_left_of_its_life_is_told_to_the_millisecond(filled: Site) -> None:
    told = Ways(filled).at_once(asking("short"))
    assert told is not None
    assert json.loads(told)["payload"]["ttl"] == 10.499


@pytest.mark.parametrize(
    "text",
    [
        asking("absent"),
        asking(""),
        asking("x" * 513),
        asking("a\x00"),
        asking(1),
        asking(None),
        asking("a:1", requestId=""),
        asking("a:1", requestId="x" * 201),
        asking("a:1", requestId=7),
        asking("a:1", timestamp=7),
        asking("a:1", what="ever"),
        asking("a:1").replace('"type"', '"type": "ping", "type"'),
        asking("a:1").replace('"key"', '"key": "b", "key"'),
        asking("a:1", requestId="r").replace('"requestId"', '"requestId": 7, "requestId"'),
        asking("a:1", timestamp="t").replace('"timestamp"', '"timestam\\u0070": "t", "timestamp"'),
        json.dumps({"type": "cache:get", "payload": {"key": "a:1", "more": 1}}),
        json.dumps({"type": "cache:get", "payload": "a:1"}),
        json.dumps({"type": "cache:get"}),
        json.dumps({"type": "ping", "payload": {"timestamp": "cache:get"}}),
        json.dumps({"type": "batch:update", "payload": {"batchId": "b", "updates": [json.loads(asking("a:1"))]}}),
        '["cache:get"]',
        '{"type":"cache:get","payload":{"key":"a:1"}',
        '{"type":"cache:get","payload":{"key":"\\ud800"}}',
    ],
)
async def test_the_unusual_is_left_to_the_plain_way(filled: Site, text: str) -> None:
    ways = Ways(filled)
    assert ways.at_once(text) is None
    assert await ways.plainly(text)


async def test_who_may_not_read_is_refused_by_the_plain_way(filled: Site) -> None:
    for identity in (Identity("ann", ["read:b:*"]), None):
        ways = Ways(filled, identity)
        assert ways.at_once(asking("a:1")) is None
        assert b'"error"' in await ways.plainly(asking("a:1"))
    ways = Ways(filled, Identity("ann", ["read:a:*"]))
    assert ways.at_once(asking("a:1")) == await ways.plainly(asking("a:1"))


async def test_a_node_that_was_frozen_is_not_quick(filled: Site) -> None:
    ways = Ways(filled)
    filled.cache.leash.until = filled.clock.monotonic()
    assert ways.at_once(asking("a:1")) is None


_VALUES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(KEYS)
_PAYLOADS = _VALUES | st.dictionaries(st.sampled_from(["key", "x"]), _VALUES, max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(
        st.fixed_dictionaries(
            {"type": st.just("cache:get"), "payload": st.fixed_dictionaries({"key": st.sampled_from(KEYS)}) | _PAYLOADS},
            optional={"requestId": _VALUES, "timestamp": _VALUES, "x": _VALUES},
        ),
        max_size=20,
    )
)
async def test_whatever_is_answered_at_once_is_answered_alike(messages: list[dict[str, object]]) -> None:
    async with opened() as site:
        for key, value, kind, ttl in ENTRIES:
            await site.cache.write(Draft(Operation.SET, Key(key), value, content_type=kind, ttl=ttl))
        ways = Ways(site)
        for message in messages:
            text = json.dumps(message)
            told = ways.at_once(text)
            if told is not None:
                assert told == await ways.plainly(text)


async def test_many_at_once_are_answered_in_order_around_what_is_not_quick(filled: Site) -> None:
    async with filled.served() as port, connected(port) as socket:
        protocol = socket.connection.protocol
        for number in range(200):
            key = KEYS[number % len(KEYS)] if number % 7 else "absent"
            protocol.send_text(asking(key, requestId=f"r-{number}").encode())
        socket.connection.transport.write(b"".join(protocol.data_to_send()))
        told = [await socket.next() for _ in range(200)]
        assert {frame["correlationId"] for frame in told} == {f"r-{number}" for number in range(200)}
        found = [int(frame["correlationId"][2:]) for frame in told if frame["payload"]["found"]]
        assert found == sorted(found)
