"""The specification's own examples, run as they are written by a client that knows nothing else.

It sends only members that the specification has, gives no `requestId`, and holds whatever it is told against the specification.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.web.site import Site
from tests.wire.specification import PAYLOADS, SENT, wrong

LIMIT = 30.0
TIME = "2024-01-15T10:30:00Z"
Frame = dict[str, Any]


class Naive:
    """The client of the specification's implementation example: what it does not know it leaves alone."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.told: list[str] = []

    async def send(self, kind: str, payload: object) -> None:
        await self.socket.send(json.dumps({"type": kind, "payload": payload, "timestamp": TIME}))

    async def update(self, key: str, value: object, operation: str = "set") -> None:
        await self.send("cache:update", {"key": key, "value": value, "operation": operation, "distribute": True})

    async def next(self, kind: str) -> Frame:
        """The next message of a type. All that come are as specified, those of types that are not specified apart."""
        async with asyncio.timeout(LIMIT):
            while True:
                frame: Frame = json.loads(await self.socket.recv())
                if frame["type"] in PAYLOADS and not (
                    frame["type"] == "batch:update" and "compression" not in frame["payload"]
                ):
                    assert wrong(frame) == []
                self.told.append(frame["type"])
                if frame["type"] == kind:
                    payload: Frame = frame["payload"]
                    return payload


@asynccontextmanager
async def naive(port: int, *protocols: str) -> AsyncIterator[Naive]:
    subprotocols = [Subprotocol(name) for name in protocols] or None
    async with connect(f"ws://127.0.0.1:{port}/v1/ws/realtime", subprotocols=subprotocols, proxy=None) as socket:
        client = Naive(socket)
        await socket.send(json.dumps({"type": "auth", "token": "jwt_token_here", "userId": "user_id_here"}))
        await client.next("connection:established")
        yield client


async def test_the_connection_example(site: Site) -> None:
    async with site.served() as port, naive(port, "jwt", "v1") as client:
        await client.send("ping", SENT["ping"])
        assert await client.next("pong") | {"latency": 0} == {**SENT["ping"], "latency": 0}


async def test_the_client_of_the_implementation_example(site: Site) -> None:
    """It offers no subprotocol, subscribes by resources alone, and subscribes to all of them again after a reconnect."""
    async with site.served() as port:
        async with naive(port) as client:
            await client.send("subscribe", {"resources": ["tasks"]})
            await client.update("task:1", {"id": "1"})
            assert (await client.next("task:update"))["action"] == "created"
        async with naive(port) as client:
            await client.send("subscribe", {"resources": ["tasks"]})
            await client.update("task:1", {"id": "1", "title": "Write"})
            assert (await client.next("task:update"))["task"] == {"id": "1", "title": "Write"}
            assert set(client.told) <= {"connection:established", "task:update"}


async def test_the_dashboard_example(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        await client.send("subscribe", {"resources": ["dashboard"], "filters": {}, "throttle": 0})
        await client.update("dashboard:tasks:completed", 23)
        await client.next("dashboard:update")
        await client.update("dashboard:tasks:completed", 24)
        told = await client.next("dashboard:update")
        shown = {"module": "tasks", "metric": "completed", "value": 24, "change": {"previous": 23, "current": 24, "delta": 1}}
        assert {**told, **shown} == told


@pytest.mark.parametrize(
    ("resource", "key", "value", "changed", "kinds"),
    [
        ("tasks", "task:1", {"source": "motion"}, {"source": "manual"}, ["task:update"] * 3),
        ("calendar", "event:1", {"attendees": ["ann"]}, {"source": "google"}, ["calendar:update"] * 3),
        ("contacts", "contact:1", {"source": "google"}, {"mergeConflict": True}, ["contact:update"] * 3),
        ("email", "email:1", {"importance": "high"}, {"status": "read"}, ["email:new", "email:status", "cache:update"]),
        ("journal", "journal:1", {"text": "a"}, {"text": "b"}, ["cache:update"] * 3),
    ],
)
async def test_the_messages_of_modules(
    site: Site, resource: str, key: str, value: Frame, changed: Frame, kinds: list[str]
) -> None:
    async with site.served() as port, naive(port) as client:
        await client.send("subscribe", {"resources": [resource], "filters": {}, "throttle": 0})
        await client.update(key, value)
        await client.update(key, changed)
        await client.send("cache:update", {"key": key, "value": None, "operation": "delete", "distribute": True})
        for kind in kinds:
            await client.next(kind)
        assert client.told == ["connection:established", *kinds]


async def test_the_messages_of_the_cache(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        await client.send("subscribe", SENT["subscribe"])
        await client.send("cache:update", SENT["cache:update"])
        await client.next("task:update")
        await client.send("cache:invalidate", SENT["cache:invalidate"])
        told = await client.next("cache:invalidate")
        assert (told["keys"], told["pattern"], told["cascade"]) == (["task:1"], "task:*", True)
        await client.update("visits", 1, "increment")
        await client.send("authz:check", SENT["authz:check"])
        assert (await client.next("authz:result"))["allowed"] is True
        await client.send("unsubscribe", SENT["unsubscribe"])
        await client.send("cache:update", SENT["cache:update"])
        await client.send("ping", SENT["ping"])
        await client.next("pong")
        assert client.told[-2:] == ["authz:result", "pong"]


async def test_the_warming_example_says_what_it_lacks(site: Site) -> None:
    """No loader of tasks is configured here: an error as specified, and the connection lives."""
    async with site.served() as port, naive(port) as client:
        await client.send("cache:warm", SENT["cache:warm"])
        assert (await client.next("error"))["recoverable"] is False
        await client.send("ping", SENT["ping"])
        await client.next("pong")


async def test_the_recovery_example(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        await client.send("subscribe", SENT["subscribe"])
        for number in range(4):
            await client.update(f"task:{number}", number)
            await client.next("task:update")
        await client.send("recovery:request", {"lastSequenceNumber": 4, "missingRanges": [{"start": 2, "end": 3}]})
        first = await client.next("recovery:response")
        assert [message["seq"] for message in first["data"]] == [2, 3]
        assert [fault for message in first["data"] for fault in wrong(message)] == []
        assert (await client.next("recovery:response"))["isComplete"] is True


async def test_the_batch_example(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        updates = [{"type": kind, "payload": SENT[kind], "timestamp": TIME} for kind in ("subscribe", "cache:update", "ping")]
        await client.send("batch:update", {"batchId": "b-1", "updates": updates})
        await client.next("task:update")
        if "pong" not in client.told:  # an answer goes before what is pushed
            await client.next("pong")


async def test_what_is_wrong_is_told_as_specified(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        await client.update("", 1)
        told = await client.next("error")
        assert told["recoverable"] is False
        await client.send("ping", SENT["ping"])
        await client.next("pong")


async def test_the_end_of_a_node_is_told_as_specified(site: Site) -> None:
    async with site.served() as port, naive(port) as client:
        draining = asyncio.ensure_future(site.live.drain())
        assert (await client.next("connection:status"))["status"] == "reconnecting"
        await draining
