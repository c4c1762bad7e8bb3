"""Connections that are to leave: each is answered once more, on whatever route, and told that this was the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from tests.web.both import Both, Talk, both
from tests.web.site import opened

HIT = b"GET /v1/cache/a:1 HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v1/cache/a:2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
CLOSES = b"\r\nconnection: close\r\n"


@pytest.fixture
async def pair() -> AsyncIterator[Both]:
    async with opened() as site:
        await site.cache.write(Draft(Operation.SET, Key("a:1"), b'{"a": 1}'))
        async with both(site) as pair:
            yield pair


@pytest.mark.parametrize("asked", [HIT, PUT, HIT.replace(b"/v1/cache/a:1", b"/healthz")])
async def test_an_idle_connection_is_answered_once_more(pair: Both, asked: bytes) -> None:
    idle = asyncio.Barrier(2)

    async def talking(talk: Talk) -> None:
        await talk.hear(1)
        await idle.wait()
        pair.leave()
        await talk.say(asked)
        await talk.hear(2)

    for told in await pair.converse(HIT, talking):
        assert told.count(b"HTTP/1.1 20") == 2
        assert told.count(CLOSES) == 1
