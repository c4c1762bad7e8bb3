"""Usual requests that memory does not answer: past uvicorn's request cycle, and yet as the plain route answers them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import orjson
import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.realtime.rates import USER, Rate, RateLimits, Rates
from cachesvc.web.admission import Admission
from cachesvc.web.app import create_app
from cachesvc.web.direct import DirectProtocol
from cachesvc.web.service import Limits
from cachesvc.web.usual import Request
from tests.engine.stores import Gate
from tests.web.both import LAST, LIMITS, Both, Talk, both, statuses
from tests.web.site import Site, opened

VERSION = re.compile(rb'(etag: "|"version":|"currentVersion":|at version |-id: 0{32}-)\d+')  # both write, one after the other
MISS = b"GET /v1/cache/absent HTTP/1.1\r\nHost: x\r\n\r\n"
HIT = MISS.replace(b"absent", b"a:1")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that were begun past uvicorn's cycle."""
    counted: list[Request] = []
    begin = DirectProtocol.begin

    def counting(self: DirectProtocol, request: Request, data: bytes) -> bool:
        taken = begin(self, request, data)
        if taken and self.transport.get_extra_info("peername"):  # no trial
            counted.append(request)
        return taken

    monkeypatch.setattr(DirectProtocol, "begin", counting)
    return counted


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        await site.cache.write(Draft(Operation.SET, Key("n"), b"1", ttl=100.0))
        yield site


@pytest.fixture
async def pair(site: Site) -> AsyncIterator[Both]:
    async with both(site) as pair:
        yield pair


@pytest.fixture
async def patient(site: Site) -> AsyncIterator[Both]:
    async with both(site, replace(LIMITS, timeout=60.0)) as pair:
        yield pair


def asking(line: str, body: bytes | None = None, **headers: str) -> bytes:
    if body is not None:
        headers["Content-Length"] = str(len(body))
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *named, "", ""]).encode() + (body or b"")


BATCH = orjson.dumps(
    {"operations": [{"operation": "get", "key": "a:1"}, {"operation": "set", "key": "b", "value": 1}, {"operation": "no"}]}
)
ALIKE = [
    # reads
    (MISS, 404),
    (MISS.replace(b"GET", b"HEAD"), 404),
    (asking("GET /v1/cache/a:1?x=1"), 422),
    (asking("GET /v1/cache/a:1?"), 200),
    (asking("GET /v1/cache/a%00"), 422),
    (asking("GET /v1/cache/%FF"), 400),
    (asking("GET /v1/cache/"), 422),
    (asking("HEAD /v1/cache/a:1", Cache_Control="no-cache"), 200),
    (asking("GET /v1/cache/absent", Cache_Control="only-if-cached"), 504),
    (asking("GET /v1/cache/a:1", Cache_Control="no-cache", If_None_Match='"1001"'), 304),
    (asking("GET /v1/cache/a:1", If_Match='"7"'), 412),
    (asking("GET /v1/cache/a:1", Min_Version="x"), 422),
    # writes
    (asking("PUT /v1/cache/b%3A%C3%BC", b"[1]"), 200),
    (asking("PUT /v1/cache/b?ttl=5&tags=a&tags=b", b"", Content_Type="text/plain"), 200),
    (asking("PUT /v1/cache/b"), 400),
    (asking("PUT /v1/cache/b?ttl=-1", b"1"), 422),
    (asking("PUT /v1/cache/b", b"no JSON"), 400),
    (asking("PUT /v1/cache/b", b"1", If_Match='"7"'), 412),
    (asking("PUT /v1/cache/b", b"1", Idempotency_Key="one"), 201),
    (asking("POST /v1/cache/n", b'{"operation": "set", "value": 2}', Content_Type="application/json"), 200),
    (asking("POST /v1/cache/n", b'{"operation": "increment"}', Content_Type="text/plain"), 415),
    (asking("DELETE /v1/cache/absent"), 404),
    (asking("POST /v1/batch", BATCH, Content_Type="application/json"), 200),
    (asking("POST /v1/batch", b"[", Content_Type="application/json"), 400),
]


@pytest.mark.parametrize(("request_", "status"), ALIKE)
async def test_both_ways_answer_alike(pair: Both, begun: list[Request], request_: bytes, status: int) -> None:
    await pair.ask_each(request_)  # the first to write finds another state than the second
    begun.clear()
    answers = [VERSION.sub(rb"\g<1>0", answer) for answer in await pair.ask_each(request_)]
    assert answers[0] == answers[1]
    assert int(answers[0][9:12]) == status
    assert len(begun) == 1


@pytest.mark.parametrize(
    "request_",
    [
        HIT,
        HIT.replace(b"GET", b"HEAD"),
        asking("GET /v1/cache/n"),
        asking("GET /v1/cache/%6E", If_None_Match='"1002"'),
        asking("GET /v1/cache/n", If_None_Match='"7"'),
    ],
)
async def test_hits_below_memory_are_told_alike(site: Site, pair: Both, begun: list[Request], request_: bytes) -> None:
    site.clock.advance(2.25)
    answers = []
    for place in range(2):
        site.cache.memory.clear()
        answers.append(await pair.ask_alone(place, request_))
    assert answers[0] == answers[1]
    assert b" detail=database\r\n" in answers[0]
    assert len(begun) == 1


@pytest.mark.parametrize(
    "request_",
    [
        asking("PUT /v1/cache/b", b"1", Expect="100-continue"),
        asking("PUT /v1/cache/b", b"1", Content_Encoding="gzip"),
        asking("PUT /v1/cache/b", b"1", Content_Range="bytes 0-0/1"),
        asking("GET /v1/cache/absent", b""),
        asking("GET /v1/batch"),
        asking("GET /v1/batches"),
        asking("GET /v1/stats"),
        MISS + MISS,
    ],
)
async def test_what_is_unusual_is_left_to_the_plain_route(pair: Both, begun: list[Request], request_: bytes) -> None:
    hot, plain = await pair.ask_each(request_)
    assert VERSION.sub(rb"\g<1>0", hot.replace(b" 201 Created", b" 200 OK")) == VERSION.sub(rb"\g<1>0", plain)
    assert not begun


@contextmanager
def shut(gate: Gate) -> Iterator[None]:
    gate.close()
    try:
        yield
    finally:
        gate.open()


async def test_what_comes_behind_waits_until_it_is_answered(site: Site, pair: Both, begun: list[Request]) -> None:
    async def conversation(talk: Talk) -> None:
        await pair.busy()
        for piece in (HIT, b"PUT /v1/cache/b HTTP/1.1\r\nHost: x\r\nContent-Le", b"ngth: 1\r\n\r\n2", HIT + MISS):
            await talk.say(piece)
        site.store.gates["asked"].open()
        await talk.hear(5)
        await talk.say(LAST)

    with shut(site.store.gates["asked"]):
        answers = await pair.converse(MISS, conversation)
    for answer in answers:
        assert [status // 200 for status in statuses(answer)] == [2, 1, 1, 1, 2, 1]
    assert begun[0].key == "absent"


WRITE = asking("PUT /v1/cache/b", b"1")


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ([MISS], [404]),
        ([WRITE], [200]),
        ([WRITE.replace(b"Host", b"X-Some: thing\r\nHost")], [200]),
        ([MISS, HIT], [404, 200]),
        ([MISS, MISS + HIT], [404, 404, 200]),
        ([MISS, HIT + WRITE[:-1]], [404, 200]),
        ([MISS, HIT[:-1]], [404]),
        ([MISS, HIT + b"garbage\r\n\r\n"], [404, 200, 400]),
    ],
)
async def test_who_says_no_more_is_answered_what_it_asked_in_full(
    site: Site, patient: Both, said: list[bytes], answered: list[int]
) -> None:
    await patient.ask_each(WRITE)  # the first to write finds another state than the second

    async def conversation(talk: Talk) -> None:
        await patient.busy()
        for piece in said[1:]:
            await talk.say(piece)
        talk.leave()
        if not said[1:]:  # behind others the end is not read yet
            await patient.silent()
        site.store.gates["asked"].open()
        site.store.gates["commits"].open()

    with shut(site.store.gates["asked"]), shut(site.store.gates["commits"]):
        hot, plain = await patient.converse(said[0], conversation)
    assert VERSION.sub(rb"\g<1>0", hot) == VERSION.sub(rb"\g<1>0", plain)
    assert statuses(hot) == answered
    await patient.forgotten()


async def test_who_says_no_more_in_the_middle_of_a_body_is_forgotten(patient: Both) -> None:
    async def conversation(talk: Talk) -> None:
        talk.leave()

    assert await patient.converse(WRITE[:-1], conversation) == [b"", b""]
    await patient.forgotten()


async def test_what_is_in_progress_is_answered_before_the_end(site: Site, pair: Both, begun: list[Request]) -> None:
    async def conversation(_: Talk) -> None:
        await pair.busy()
        pair.leave()
        site.store.gates["asked"].open()

    with shut(site.store.gates["asked"]):
        hot, plain = await pair.converse(MISS, conversation)
    assert hot == plain
    assert statuses(hot) == [404]
    assert b"\r\nconnection: close\r\n" in hot
    assert len(begun) == 1


async def test_what_takes_too_long_is_told_so(begun: list[Request]) -> None:
    async with opened(limits=Limits(request_timeout=0.05)) as site, both(site) as pair:
        with shut(site.store.gates["asked"]):
            hot, plain = await pair.ask_each(MISS)
        assert hot == plain
        assert statuses(hot)[0] == 503
        assert len(begun) == 1


async def test_what_nobody_foresaw_is_told_without_its_inside(
    site: Site, begun: list[Request], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(site.cache, "read", failing)
    async with both(site) as pair:
        hot, plain = await pair.ask_each(MISS)
    assert hot == plain
    assert statuses(hot)[0] == 500
    assert b"secret" not in hot
    assert caplog.text.count("ZeroDivisionError: secret") == 2


async def test_a_node_that_was_frozen_meanwhile_says_nothing_of_an_entry(site: Site, pair: Both, begun: list[Request]) -> None:
    site.cache.leash.until = site.clock.monotonic() - 1.0
    answers = await pair.ask_each(asking("GET /v1/cache/a%00"))
    assert answers[0] == answers[1]
    assert statuses(answers[0])[0] == 503
    assert len(begun) == 1


async def test_a_shut_gate_refuses_both_ways_alike(site: Site, begun: list[Request]) -> None:
    admission = Admission(site.clock)
    admission.reads.share = admission.writes.share = 0.0
    async with both(site, admission=admission) as pair:
        for request in (MISS, MISS.replace(b"GET", b"HEAD"), asking("PUT /v1/cache/b", b"1")):
            hot, plain = await pair.ask_each(request)
            assert hot == plain
            assert hot.startswith(b"HTTP/1.1 503 ")
    assert len(begun) == 3


async def test_requests_are_paid_for(site: Site, begun: list[Request]) -> None:
    rates = Rates(RateLimits({USER: Rate(0.001, 2.0)}), site.clock)
    site.service = replace(site.service, rates=rates)
    site.app = create_app(site.service)
    async with both(site) as pair:
        answers = [(await pair.ask_each(MISS))[0] for _ in range(2)]
    assert [statuses(answer)[0] for answer in answers] == [404, 429]
    assert len(begun) == 1
