"""The change log as server-sent events, over a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from cachesvc.model.change import Kind
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.web.changes import described
from cachesvc.web.service import Limits
from tests.web.site import Site, opened


class Stream:
    """Events as a client reads them: (id, event, data)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        """The next block, comments as ""."""
        block: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line:
                    return block
                name, _, value = line.partition(":")
                block[name] = value.removeprefix(" ")
        raise StopAsyncIteration

    async def change(self) -> dict[str, Any]:
        """The data of the next change."""
        while True:
            block = await self.next()
            if "data" in block:
                change: dict[str, Any] = orjson.loads(block["data"])
                assert block["id"].endswith(f":{change['sequence']}")
                assert block["event"] == change["kind"]
                return change


@asynccontextmanager
async def following(port: int, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    url = f"http://127.0.0.1:{port}/v1/changes{query}"
    async with httpx.AsyncClient() as http, http.stream("GET", url, headers=headers) as response:
        yield Stream(response)


async def put(site: Site, key: str, value: bytes = b"1", **headers: str) -> int:
    async with site.client() as http:
        answer = await http.put(f"/v1/cache/{key}?tags=x", content=value, headers=headers)
        version: int = answer.json()["version"]
        return version


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_says_no_more_has_left(site: Site, *, at_once: bool) -> None:
    followers = site.service.streams["changes"]
    async with site.served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(30):
            writer.write(b"GET /v1/changes HTTP/1.1\r\nHost: x\r\n\r\n")
            if at_once:
                writer.write_eof()
            await reader.readuntil(b"\r\n\r\n")
            if not at_once:
                writer.write_eof()
            await reader.read()
            while followers.open:
                await asyncio.sleep(0)
        writer.close()


async def test_changes_from_now_on(site: Site) -> None:
    await put(site, "before")
    async with site.served() as port, following(port) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert await stream.next() == {"retry": "1000", "id": str(site.feed.position)}
        version = await put(site, "a", b'{\n"x":\r\n1e400}')
        block = await stream.next()
        assert (block["id"], block["event"]) == (f"7:{version}", "write")
        assert '"value":{ "x":  1e400}' in block["data"]
        async with site.client() as http:
            await http.delete("/v1/cache/a")
        change = await stream.change()
        assert (change["kind"], change["key"], change["version"]) == ("delete", "a", version + 1)
        await put(site, "raw", b"\x00", **{"Content-Type": "image/png"})
        change = await stream.change()
        assert (change["encoding"], change["contentType"], change["value"]) == ("base64", "image/png", "AA==")
        assert change["tags"] == ["x"]


async def test_resuming_misses_and_repeats_nothing(site: Site) -> None:
    start = site.feed.position
    versions = [await put(site, f"k{i}") for i in range(5)]
    async with site.served() as port:
        async with following(port, f"?after={start}") as stream:
            assert [(await stream.change())["version"] for _ in range(2)] == versions[:2]
        last = f"7:{versions[1]}"
        async with following(port, "?after=1:1", **{"Last-Event-ID": last}) as stream:
            assert [(await stream.change())["version"] for _ in range(3)] == versions[2:]


async def test_a_pattern_filters_and_the_id_moves_on() -> None:
    limits = Limits(heartbeat=0.02)
    async with opened(limits=limits) as site, site.served() as port, following(port, "?pattern=a:*") as stream:
        await stream.next()
        await put(site, "b:1")
        async with asyncio.timeout(10):
            while (block := await stream.next()) == {"": ""}:
                pass
        assert block == {"id": str(site.feed.position)}
        await put(site, "a:1")
        assert (await stream.change())["key"] == "a:1"


async def test_of_an_invalidation_is_told_what_the_pattern_covers(site: Site) -> None:
    """Whoever may read no more than the pattern is told of no other key."""
    async with site.served() as port, following(port, "?pattern=a:*") as stream, site.client() as http:
        await stream.next()
        for named in ({"keys": ["b:1"]}, {"pattern": "b:*"}, {"keys": ["a:1", "b:1"]}, {"pattern": "a*", "keys": ["b:1"]}):
            await http.post("/v1/invalidate", json=named)
        await put(site, "a:9")
        told = [await stream.change() for _ in range(3)]
        assert [(change["kind"], change.get("keys"), change.get("pattern")) for change in told] == [
            ("invalidate", ["a:1"], None),
            ("invalidate", None, "a*"),
            ("write", None, None),
        ]


async def test_an_idle_stream_has_a_heartbeat() -> None:
    async with opened(limits=Limits(heartbeat=0.02)) as site, site.served() as port, following(port) as stream:
        await stream.next()
        assert await stream.next() == {"": ""}


async def test_a_position_that_is_lost(site: Site, http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await put(site, "a")
    site.feed._held.clear()
    site.feed._since = site.feed.position.sequence
    site.store.trimmed = site.feed.position.sequence - 1
    trimmed = await http.get("/v1/changes?after=7:1000")
    other = await http.get("/v1/changes", headers={"Last-Event-ID": "6:1000"})
    for answer in (trimmed, other):
        assert (answer.status_code, answer.json()["code"]) == (410, "RECOVERY_UNAVAILABLE")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_position_lost_midway_ends_the_stream_with_the_problem(site: Site) -> None:
    async with site.served() as port, following(port) as stream:
        await stream.next()
        site.feed.start_over(Position(Epoch(8), Seq(5000)))
        block = await stream.next()
        assert block["event"] == "error"
        assert orjson.loads(block["data"])["code"] == "RECOVERY_UNAVAILABLE"
        with pytest.raises(StopAsyncIteration):
            await stream.next()


async def test_the_number_of_streams_is_bounded() -> None:
    async with opened(limits=Limits(max_followers=1)) as site, site.served() as port:
        async with following(port) as stream:
            await stream.next()
            async with following(port) as second:
                assert second.response.status_code == 503
                assert second.response.headers["retry-after"] == "5"
        async with asyncio.timeout(10):
            while True:  # the server notices on its own time that the first has left
                async with following(port) as third:
                    if third.response.status_code == 200:
                        break


async def test_closing_ends_the_streams(site: Site) -> None:
    async with site.served() as port, following(port) as stream:
        await stream.next()
        site.service.closing.set()
        with pytest.raises(StopAsyncIteration):
            await stream.next()


async def test_a_reader_that_stalls_loses_its_stream() -> None:
    async with opened(limits=Limits(request_timeout=0.2)) as site, site.served() as port:
        for i in range(10):
            await put(site, f"k{i}")
        start = Position(Epoch(7), Seq(1000))
        big = b'"%s"' % (b"x" * 60_000)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(f"GET /v1/changes?after={start} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        task = asyncio.create_task(_flood(site, big))
        async with asyncio.timeout(20):
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await task
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _flood(site: Site, value: bytes) -> None:
    """Write until the follower's connection takes no more and its stream is given up."""
    while site.service.streams["changes"].open:
        await put(site, "k", value)


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("?after=x", {}, "after"),
        ("?after=", {}, "after"),
        ("?after=1:99999999999999999", {}, "after"),
        ("?pattern=%5B", {}, "pattern"),
        ("?since=1:1", {}, "since"),
        ("", {"Last-Event-ID": "5"}, "Last-Event-ID"),
    ],
)
async def test_bad_requests(http: httpx.AsyncClient, query: str, headers: dict[str, str], field: str) -> None:
    answer = await http.get("/v1/changes" + query, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_a_value_that_is_not_held_is_not_told(site: Site) -> None:
    await put(site, "a")
    told = described(site.store.log[0]._replace(value_held=False, distribute=False, conflict="c-1"))
    assert (told["truncated"], told["distribute"], told["conflictId"]) == (True, False, "c-1")
    assert "value" not in told


async def test_an_invalidation_is_told_by_what_it_names(site: Site) -> None:
    await put(site, "a")
    change = site.store.log[0]._replace(
        kind=Kind.INVALIDATE, key=None, entry=None, invalidation=Invalidation("a*", (Key("b"),))
    )
    told = described(change)
    assert (told["kind"], told["key"], told["pattern"], told["keys"]) == ("invalidate", None, "a*", ("b",))
    assert told["at"] == change.at
    told = described(change._replace(kind=Kind.RETIRE, invalidation=Invalidation("a*", retires=Seq(7))))
    assert (told["kind"], told["pattern"], told["retires"]) == ("retire", "a*", 7)
