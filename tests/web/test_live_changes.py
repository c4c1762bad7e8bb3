"""Changes over the socket: what one client writes, others are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import httpx
import pytest

from cachesvc.model.change import MAX_RECORDED_VALUE, Change, pack_change, unpack_change
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.web.live import LiveLimits
from tests.web.site import Site, opened
from tests.web.sockets import LIMIT, connected


def update(key: str, value: object, operation: str = "set") -> dict[str, object]:
    return {"key": key, "operation": operation, "distribute": True, "value": value}


async def test_the_specifications_subscription(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as reader, connected(port) as writer:
        await reader.send("subscribe", {"resources": ["tasks"], "filters": {}, "throttle": 0}, timestamp="2024-01-15T10:30:00Z")
        assert (await reader.ask("ping", {}))["type"] == "pong"  # what was sent before it is in force
        await writer.ask("cache:update", update("task:42", {"id": "42", "title": "Write"}))
        await writer.ask("cache:update", update("event:1", {}))
        await http.delete("/v1/cache/task:42")
        created, deleted = await reader.next(), await reader.next()
        assert (created["type"], created["payload"]["action"], created["payload"]["task"]["title"]) == (
            "task:update",
            "created",
            "Write",
        )
        assert (created["seq"], created["version"]) == (1, 1001)
        assert (deleted["seq"], deleted["version"], deleted["payload"]["action"]) == (2, 1003, "deleted")
        for frame in reader.seen:
            FROM_SERVER[frame["type"]].model_validate(frame)


async def test_every_write_of_a_thousand_is_told_in_order(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as reader:
        await reader.ask("subscribe", {"resources": ["cache:*"]})
        for start in range(0, 1000, 250):
            operations = [update(f"k:{i % 7}", i) for i in range(start, start + 250)]
            await http.post("/v1/batch", json={"operations": operations})
        frames = [await reader.next() for _ in range(1000)]
        assert [frame["seq"] for frame in frames] == list(range(1, 1001))
        assert [frame["payload"]["value"] for frame in frames] == list(range(1000))
        assert [frame["position"] for frame in frames] == list(range(1001, 2001))


async def test_publish(site: Site) -> None:
    async with site.served() as port, connected(port) as reader, connected(port) as writer:
        await reader.ask("subscribe", {"resources": ["task:42"]})
        done = await writer.ask("publish", {"resource": "tasks:42", "message": {"typing": True}})
        assert done["payload"]["operation"] == "publish"
        frame = await reader.next()
        assert (frame["type"], frame["version"]) == ("publish", done["payload"]["sequence"])
        assert frame["payload"] == {"resource": "tasks:42", "message": {"typing": True}, "publishedBy": "anonymous"}
        assert (await writer.ask("cache:get", {"key": "tasks:42"}))["payload"]["found"] is False


WRONG = {"type": "cache:update", "payload": {"key": "task:1", "operation": "paint"}}
RIGHT = {"type": "cache:update", "payload": {"key": "note:1", "operation": "set", "value": 1}}


@pytest.mark.parametrize(
    ("updates", "end", "errors"),
    [
        ([WRONG, RIGHT, {"type": "paint"}], "completed", ["BAD_MESSAGE", "UNKNOWN_TYPE"]),
        ([WRONG, WRONG], "error", ["BAD_MESSAGE", "BAD_MESSAGE"]),
        ([], "completed", None),
    ],
)
async def test_a_sync_tells_of_its_begin_and_its_end_and_what_was_wrong(
    site: Site, updates: list[object], end: str, errors: list[str] | None
) -> None:
    async with site.served() as port, connected(port) as socket, connected(port) as writer:
        await socket.ask("subscribe", {"resources": ["task"]})
        await writer.send("batch:update", {"batchId": "b", "syncId": "s", "updates": updates})
        begun, ended = [(await socket.next())["payload"] for _ in range(2)]
        assert (begun["status"], ended["status"], ended.get("errors")) == ("started", end, errors)
        assert (ended["processed"], ended["total"]) == (len(updates), len(updates))


@pytest.mark.parametrize("resource", ["cache:note:*", "cache:note:1"])
async def test_publishing_to_a_glob(site: Site, resource: str) -> None:
    async with site.served() as port, connected(port) as socket, connected(port) as writer:
        await socket.ask("subscribe", {"resources": ["cache:note:*"]})
        await writer.ask("publish", {"resource": resource, "message": 1})
        assert (await socket.next())["payload"] == {"resource": resource, "message": 1, "publishedBy": "anonymous"}


@pytest.mark.parametrize(
    ("payload", "code", "field"),
    [
        ({"resource": "task:42"}, "BAD_MESSAGE", "payload.message"),
        ({"resource": "task:", "message": 1}, "BAD_MESSAGE", "payload.resource"),
        ({"message": 1}, "BAD_MESSAGE", "payload.resource"),
        ({"resource": "task:42", "message": "x" * (256 << 10)}, "TOO_LARGE", "payload.message"),
    ],
)
async def test_bad_publications(site: Site, payload: object, code: str, field: str) -> None:
    async with site.served() as port, connected(port) as socket:
        refused = (await socket.ask("publish", payload))["payload"]
        assert (refused["code"], refused["details"]["field"]) == (code, field)


async def test_a_value_that_the_log_does_not_hold_is_told_all_the_same(
    site: Site, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = site.feed.publish

    def as_recorded(changes: Sequence[Change]) -> None:
        """What another node reads of them."""
        publish([pack_and_unpack(change) for change in changes])

    monkeypatch.setattr(site.feed, "publish", as_recorded)
    async with site.served() as port, connected(port) as reader:
        await reader.ask("subscribe", {"resources": ["big"]})
        text = "x" * (MAX_RECORDED_VALUE + 1)
        await http.put("/v1/cache/big:1", json=text)
        assert (await reader.next())["payload"]["value"] == text
        await http.put("/v1/cache/big:1", json="x" * (300 << 10))
        assert (await reader.next())["payload"].items() >= {"value": None, "truncated": True}.items()
        operations = [update("big:2", text), update("big:2", text + "y")]
        await http.post("/v1/batch", json={"operations": operations})
        older, newer = await reader.next(), await reader.next()
        assert older["payload"].items() >= {"value": None, "truncated": True}.items()  # there is a newer one
        assert newer["payload"]["value"] == text + "y"


def pack_and_unpack(change: Change) -> Change:
    return unpack_change(change.sequence, change.kind, change.key, *pack_change(change))


async def test_throttle(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as reader:
        await reader.ask("subscribe", {"resources": ["task"], "throttle": 60_000})
        for i in range(3):
            await http.put("/v1/cache/task:1", json=i)
        assert (await reader.next())["payload"]["task"] == 0
        assert (await reader.ask("ping", {}))["position"] == 1001
        site.clock.advance(60)
        site.live._open.copy().pop().wake()
        latest = await reader.next()
        assert (latest["payload"]["task"], latest["version"], latest["position"]) == (2, 1003, 1003)


async def test_another_epoch_loses_the_state(site: Site) -> None:
    async with site.served() as port:
        async with connected(port) as reader:
            await reader.ask("subscribe", {"resources": ["task"]})
            site.feed.start_over(Position(Epoch(8), Seq(5000)))
            assert (await reader.closed())[0] == 4009
        async with connected(port) as reader:
            assert (reader.seen[0]["payload"]["epoch"], reader.seen[0]["payload"]["position"]) == (8, 5000)


async def test_who_does_not_read_is_dropped() -> None:
    limits = LiveLimits(SessionLimits(queue_size=200_000), send_timeout=30)
    async with (
        opened(live_limits=limits) as site,
        site.client() as http,
        site.served() as port,
        connected(port, max_queue=1) as stalled,
        connected(port) as reader,
    ):
        for socket in (stalled, reader):
            await socket.ask("subscribe", {"resources": ["cache:*"]})
        stalled.connection.transport.pause_reading()
        async with asyncio.timeout(LIMIT):
            number = 0
            while site.live.stats()["closed"] != {"slow": 1}:
                await http.put(f"/v1/cache/k:{number}", content=json.dumps("x" * 50_000))
                assert site.live.stats()["queuedBytes"] <= 400_000  # type: ignore[operator]
                assert (await reader.next())["payload"]["key"] == f"k:{number}"
                number += 1
        assert (await reader.ask("ping", {}))["type"] == "pong"
        stalled.connection.transport.abort()


@pytest.mark.parametrize("size", [0, 10, 100, 126, 65_400, 65_536, 70_000])
async def test_frames_of_all_sizes_are_whole(site: Site, size: int) -> None:
    async with site.served() as port, connected(port) as socket:
        await socket.ask("cache:update", update("k", "x" * size))
        assert (await socket.ask("cache:get", {"key": "k"}))["payload"]["value"] == "x" * size


async def test_a_send_that_takes_too_long_drops_the_connection() -> None:
    limits = LiveLimits(SessionLimits(queue_size=100 << 20), send_timeout=0.2)
    async with (
        opened(live_limits=limits) as site,
        site.client() as http,
        site.served() as port,
        connected(port, max_queue=1) as stalled,
    ):
        await stalled.ask("subscribe", {"resources": ["cache:*"]})
        stalled.connection.transport.pause_reading()
        async with asyncio.timeout(LIMIT):
            while site.live.stats()["closed"] != {"slow": 1}:
                await http.put("/v1/cache/k", content=json.dumps("x" * 200_000))
        stalled.connection.transport.abort()
