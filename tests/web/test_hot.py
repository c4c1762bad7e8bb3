"""The hot path against the plain route: the same connections to both, and the same bytes from both."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cachesvc.errors import Unauthenticated
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.realtime.identity import Identity
from cachesvc.web.app import create_app
from cachesvc.web.direct import DirectProtocol
from cachesvc.web.hot import HotProtocol, hot
from cachesvc.web.protocol import LimitedProtocol, limited
from tests.web.both import LIMITS, Both, both
from tests.web.site import Site, opened

PLAIN = b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def pair() -> AsyncIterator[Both]:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        await site.cache.write(Draft(Operation.SET, Key("short"), b"1", ttl=10.5))
        await site.cache.write(Draft(Operation.SET, Key("ü \U0001f600/b%"), b"", content_type="text/plain; charset=utf-8"))
        await site.cache.write(Draft(Operation.SET, Key("large"), b"x" * 300_000, content_type="application/octet-stream"))
        site.clock.advance(2.25)
        async with both(site) as pair:
            yield pair


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests the hot path answered."""
    counted: list[int] = []
    answer = HotProtocol._hit

    def counting(self: HotProtocol, *given: Any, **options: Any) -> tuple[int, bytes]:
        counted.append(1)
        return answer(self, *given, **options)

    monkeypatch.setattr(HotProtocol, "_hit", counting)
    return counted


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        b"HEAD /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/cache/short HTTP/1.1\r\nhost:x\r\nConnection: Keep-Alive\r\n\r\n",
        b"GET /v1/cache/a%3A1 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nUser-Agent: some client/1.0 (x; y)\r\n\r\n",
        b"GET /v1/cache/%C3%BC%20%F0%9F%98%80/b%25 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/cache/large HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n",
        b'GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: "1001"\r\n\r\n',
        b'GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: W/"7", "1001"\r\n\r\n',
        b'GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: "7"\r\n\r\n',
        b"HEAD /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n",
        PLAIN * 7,
        b"GET /v1/cache/large HTTP/1.1\r\nHost: x\r\n\r\n" * 15,
    ],
)
async def test_usual_requests_are_answered_hot_and_alike(pair: Both, answered: list[int], request_: bytes) -> None:
    hot_answer, plain_answer = await pair.ask(request_)
    assert hot_answer == plain_answer
    assert hot_answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 304 "))
    asked = request_.count(b"HTTP/1.1\r\n")
    # of many large ones the plain route takes the rest over when the transport has enough
    assert len(answered) == asked or (b"large" in request_ and 0 < len(answered) < asked)


UNUSUAL = [
    b"GET /v1/cache/absent HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1?x=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1#x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a%3 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/%FF HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/" + b"a" * 513 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET  /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1  HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\nHost: x\n\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.0\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nAccept : */*\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nAccept: a\r\n b\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nAccept: a\0b\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nCache-Control: no-cache\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nMin-Version: 5\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nMin-Version: x\r\n\r\n",
    b'GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-Match: "5"\r\n\r\n',
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: garbage\r\n\r\n",
    b'GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: "7"\r\nIf-None-Match: "1001"\r\n\r\n',
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n" + b"X-Some: thing\r\n" * 20 + b"\r\n",
    b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"a" * 3_000 + b"\r\n\r\n",
    b"get /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\nGET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/cache/a:1 HTTP/1.2\r\nHost: x\r\n\r\n",
]


# After a refusal that closes, what comes later may reset the connection before the refusal is read.
STAYS_OPEN = [
    *(
        request
        for request in UNUSUAL
        if re.match(rb"GET /v1/cache/[a-z:%0-9A-F]{0,9}(\?x=1)? HTTP/1.1\r\nHost: x\r\n\r\n", request)
    ),
    *(request for request in UNUSUAL if re.search(rb"Cache-Control|Min-Version|If-|hello", request)),
]


@pytest.mark.parametrize("request_", UNUSUAL)
async def test_unusual_requests_are_left_to_the_plain_route(pair: Both, answered: list[int], request_: bytes) -> None:
    hot_answer, plain_answer = await pair.ask(request_)
    assert hot_answer == plain_answer
    assert not answered


async def test_pipelined_requests_are_answered_in_order_whoever_answers(pair: Both, answered: list[int]) -> None:
    mixed = [
        PLAIN,
        b"GET /v1/cache/absent HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/cache/short HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n2",
        PLAIN,
    ]
    told = await pair.ask(b"".join(mixed))
    assert [part[9:12] for part in re.findall(rb"HTTP/1.1 \d\d\d", told[0])] == [b"200", b"404", b"200", b"200", b"200", b"200"]
    assert len(answered) == 1  # from the first that is not for the hot path on, all wait for it


USUAL = [PLAIN, PLAIN.replace(b"GET", b"HEAD"), PLAIN.replace(b"a:1", b"short")]
CONVERSATIONS = st.tuples(
    st.lists(st.sampled_from(USUAL * 5 + STAYS_OPEN), min_size=1, max_size=6).map(b"".join), st.floats(0, 1)
)


@settings(max_examples=8, deadline=None)
@given(conversations=st.lists(CONVERSATIONS, min_size=20, max_size=40))
async def test_requests_in_any_company_and_pieces_are_answered_alike(conversations: list[tuple[bytes, float]]) -> None:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        await site.cache.write(Draft(Operation.SET, Key("short"), b"1", ttl=10.5))
        async with both(site) as pair:
            asked = (pair.ask(request, cut=int(share * len(request))) for request, share in conversations)
            for hot_answer, plain_answer in await asyncio.gather(*asked):
                assert hot_answer == plain_answer


async def test_what_is_not_in_memory_any_more_is_not_answered_hot(pair: Both, answered: list[int]) -> None:
    site = pair.site
    await site.cache.write(Draft(Operation.DELETE, Key("a:1")))
    hot_answer, plain_answer = await pair.ask(PLAIN)
    assert hot_answer.split(b"fill-token")[0] == plain_answer.split(b"fill-token")[0]
    assert hot_answer.startswith(b"HTTP/1.1 404 ")
    site.clock.advance(9.0)
    hot_answer, plain_answer = await pair.ask(PLAIN.replace(b"a:1", b"short"))
    assert hot_answer.startswith(b"HTTP/1.1 404 ")
    assert not answered


async def test_both_write_the_same_lines_to_the_access_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answered: list[int]
) -> None:
    told = logging.handlers.BufferingHandler(1_000)
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "handlers", [told])
    caplog.set_level(logging.INFO, "uvicorn.access")
    asked = [
        (PLAIN, 1),
        (PLAIN * 2, 2),
        (b'HEAD /v1/cache/a%3a1 HTTP/1.1\r\nHost: x\r\nIf-None-Match: "1001"\r\n\r\n', 1),
        (b"GET /v1/cache/%C3%BC%20%25 HTTP/1.1\r\nHost: x\r\n\r\n", 0),
        (b"PUT /v1/cache/a:1?ttl=5&tags=%C3%BC HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", 0),
        (b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", 0),
        (b"DELETE /v1/cache/absent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0),
    ]
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b"1"))
        async with both(site, logged=True) as pair:
            for request, hits in asked:
                answered.clear()
                lines = []
                for place in (0, 1):
                    await pair.ask_alone(place, request)
                    lines.append([re.sub(r":\d+ - ", " - ", record.getMessage()) for record in told.buffer])
                    told.flush()
                assert lines[0] == lines[1]
                assert len(lines[0]) == request.count(b"HTTP/1.1\r\n") + (b"close" not in request)
                assert len(answered) == hits


async def test_a_client_that_does_not_read_costs_bounded_memory(pair: Both, answered: list[int]) -> None:
    """The hot path hands over no more than the transport takes; the rest waits at the plain route, which stops reading."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.ports[0])
    asked = b"GET /v1/cache/large HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        while True:
            writer.write(asked * 15)
            async with asyncio.timeout(0.5):
                await writer.drain()
            if len(answered) > 2_000:
                break
    except TimeoutError:
        pass
    assert len(answered) < 200  # of 300 kB each; the system's buffers hold some megabytes
    writer.transport.abort()
    del reader


async def test_hot_answers_are_counted(pair: Both) -> None:
    before = await pair.site.cache.memory.stats()
    await pair.ask(PLAIN * 3)
    after = await pair.site.cache.memory.stats()
    assert (after.hits - before.hits, after.misses - before.misses) == (6, 0)
    rendered = pair.site.service.metrics.render({}, {}).decode()
    assert 'cachesvc_http_requests_total{method="GET",route="/v1/cache/{key}",status="2xx"} 6.0' in rendered
    assert 'cachesvc_http_request_seconds_count{method="GET",route="/v1/cache/{key}"} 6.0' in rendered


@pytest.mark.parametrize("key", [b"absent", b"short"])
async def test_a_miss_is_counted_once(pair: Both, key: bytes) -> None:
    pair.site.clock.advance(60.0)  # short is still held, and past its life
    before = (await pair.site.cache.memory.stats()).misses
    await pair.ask(b"GET /v1/cache/%b HTTP/1.1\r\nHost: x\r\n\r\n" % key)
    assert (await pair.site.cache.memory.stats()).misses - before == 2  # one of each


async def test_another_uvicorn_falls_back_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, site: Site
) -> None:
    plain = limited(LIMITS)
    assert issubclass(await hot(plain, site.service), HotProtocol)
    assert await hot(plain, site.service, at_once=False) is plain
    assert not caplog.records
    for owner, name in ((HotProtocol, "_hit"), (DirectProtocol, "_send"), (LimitedProtocol, "between_requests")):
        with monkeypatch.context() as patched:
            patched.delattr(owner, name)
            assert await hot(plain, site.service) is plain
        assert "take the plain route" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "name",
    [
        "_unset_keepalive_if_required",
        "_should_upgrade_to_ws",
        "handle_websocket_upgrade",
        "_start_asgi_task",
        "on_message_complete",
    ],
)
async def test_a_uvicorn_on_which_nothing_can_be_built_serves_by_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, site: Site, name: str
) -> None:
    monkeypatch.delattr(HttpToolsProtocol, name)
    assert await hot(limited(LIMITS), site.service) is HttpToolsProtocol
    assert "limits of requests and connections are not kept" in caplog.text


class Names:
    """A doorman to whom a token is a name, with the scope of its own module, until it is withdrawn."""

    def __init__(self) -> None:
        self.known: dict[str, Identity] = {}
        self.ends = 1e12

    def greet(self, token: str | None) -> Identity | None:
        if token is None:
            return None
        if token == "bad":
            raise Unauthenticated("the token is not believed")
        return self.known.setdefault(token, Identity(token, [f"read:{token}:*"], self.ends))

    def authenticate(self, token: str, user_id: str) -> Identity:
        raise AssertionError("over HTTP nobody is authenticated so")

    def knows(self, identity: Identity) -> bool:
        return identity in self.known.values()


def by(name: str, key: str = "a:1") -> bytes:
    return b"GET /v1/cache/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (key.encode(), name.encode())


async def test_tokens_are_looked_at_here_too(answered: list[int]) -> None:
    names = Names()
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b"1"))
        await site.cache.write(Draft(Operation.SET, Key("b:1"), b"1"))
        site.service = replace(site.service, doorman=names)
        site.app = create_app(site.service)
        async with both(site) as pair:
            answered.clear()  # of the trial
            for request, status, hot_answers in (
                (by("a"), b"200", 1),
                (by("a"), b"200", 2),
                (by("b"), b"403", 2),
                (by("a", "b:1"), b"403", 2),
                (by("bad"), b"401", 2),
                (PLAIN, b"401", 2),
                (by("a").replace(b"Bearer", b"bearer"), b"200", 3),
                (by("b", "b:1"), b"200", 4),
            ):
                hot_answer, plain_answer = await pair.ask(request)
                assert hot_answer == plain_answer
                assert hot_answer[9:12] == status, request
                assert len(answered) == hot_answers
            names.known.clear()  # withdrawn: what is remembered of it counts no more, and it is asked for anew
            await pair.ask(by("a"))
            assert len(answered) == 4
            names.known.clear()
            names.ends = site.clock.now() + 5.0
            await pair.ask(by("a"))
            await pair.ask(by("a"))
            assert len(answered) == 6
            site.clock.advance(5.0)
            await pair.ask(by("a"))
            assert len(answered) == 6
