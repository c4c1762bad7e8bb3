"""Conflicts and reminders over the service as a user runs it: two workers over one store, killed and started again."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cachesvc.protocol.conflicts import ConflictList, ConflictWhole
from tests.e2e.services import NO_REDIS, connected_to_each, kill_at_once, started
from tests.web.examples import play
from tests.web.sockets import Socket, connected
from tests.wire.specification import PAYLOADS, wrong

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "conflicts.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)$.*?^```frames\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
POLICIES = {
    "conflicts__modules": json.dumps({"task": {"strategy": "field-level", "otherwise": "manual"}}),
    "realtime__agenda_interval": "0.05",
}


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def update(key: str, value: object, **more: object) -> dict[str, object]:
    return {"key": key, "operation": "set", "value": value, **more}


async def told(socket: Socket, kind: str) -> dict[str, Any]:
    payload: dict[str, Any] = (await socket.until(lambda frame: frame["type"] == kind))["payload"]
    return payload


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("conflicts"), "--workers", "2", **NO_REDIS, **POLICIES) as (_, url):
        yield url


@pytest.mark.parametrize("title", EXAMPLES)
async def test_an_example_of_the_page_is_what_happens(service: str, title: str) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    async with connected(port_of(service)) as socket:
        await play(socket, EXAMPLES[title].replace("SOON", soon))


@asynccontextmanager
async def sockets_of_both(url: str) -> AsyncIterator[list[Socket]]:
    """Sockets of both workers, the first of one of them and the last of the other: the kernel deals them out."""
    async with connected_to_each(url, 2) as nodes, AsyncExitStack() as stack:
        sockets: list[Socket] = []
        while not all([(await node.get("/v1/stats")).json()["realtime"]["open"] for node in nodes]):
            assert len(sockets) < 200
            sockets.append(await stack.enter_async_context(connected(port_of(url))))
        yield sockets


async def test_a_conflict_is_told_everywhere_and_kept_for_who_asks(service: str) -> None:
    """Two clients on two nodes, and whoever else follows."""
    async with sockets_of_both(service) as sockets, connected(port_of(service)) as three:
        one, two = sockets[0], sockets[-1]
        for socket in (one, two, three):
            await socket.ask("subscribe", {"resources": ["task:everywhere"]})
        await one.ask("cache:update", update("task:everywhere", {"a": 1}, baseVersion=0))
        met = await two.ask("cache:update", update("task:everywhere", {"a": 2}, baseVersion=0))
        name = met["payload"]["conflictId"]
        for socket in (one, two, three):
            seen = [frame["payload"] for frame in socket.seen if frame["type"] == "conflict:manual-resolution"]
            asked = seen[0] if seen else await told(socket, "conflict:manual-resolution")
            assert asked["conflictId"] == name
        async with httpx.AsyncClient(base_url=service) as http:
            listed = ConflictList.model_validate((await http.get("/v1/conflicts?pattern=task:everywhere&state=open")).json())
            assert [one.conflict_id for one in listed.conflicts] == [name]
            whole = ConflictWhole.model_validate((await http.get(f"/v1/conflicts/{name}")).json())
            assert {one.role: one.version.data for one in whole.versions}["local"] == {"a": 1}
            assert (await http.get("/v1/conflicts/nobody")).status_code == 404
            assert (await http.get("/v1/conflicts?state=shut")).json()["field"] == "state"
        answer = await one.ask("conflict:resolve", {"conflictId": name, "data": {"a": 3}})
        assert (answer["type"], answer["payload"]["conflictId"]) == ("ack", name)
        for socket in (one, two, three):
            seen = [frame["payload"] for frame in socket.seen if frame["type"] == "conflict:resolved"]
            assert (seen[0] if seen else await told(socket, "conflict:resolved"))["result"]["data"] == {"a": 3}
        kinds = [
            "task:update",
            "task:update",
            "conflict:detect",
            "conflict:manual-resolution",
            "task:update",
            "conflict:resolved",
        ]
        for socket in (one, two, three):
            assert [frame["type"] for frame in socket.seen if "seq" in frame] == kinds
            assert [fault for frame in socket.seen if frame["type"] in PAYLOADS for fault in wrong(frame)] == []


@pytest.mark.parametrize(
    ("payload", "code", "field"),
    [
        ({}, "BAD_MESSAGE", "payload.conflictId"),
        ({"conflictId": 7, "option": 0}, "BAD_MESSAGE", "payload.conflictId"),
        ({"conflictId": "open"}, "BAD_MESSAGE", "payload.option"),
        ({"conflictId": "open", "option": 0, "data": 1}, "BAD_MESSAGE", "payload.option"),
        ({"conflictId": "open", "option": "0"}, "BAD_MESSAGE", "payload.option"),
        ({"conflictId": "open", "option": -1}, "BAD_MESSAGE", "payload.option"),
        ({"conflictId": "open", "option": 9}, "BAD_MESSAGE", "payload.option"),
        ({"conflictId": "nobody's", "option": 0}, "NOT_FOUND", "payload.conflictId"),
        ({"conflictId": "closed", "option": 0}, "CONFLICT_CLOSED", "payload.conflictId"),
    ],
)
async def test_what_is_wrong_with_a_choice_is_said(service: str, payload: dict[str, object], code: str, field: str) -> None:
    async with connected(port_of(service)) as socket:
        for name, value in (("open", {"a": 1}), ("closed", {"b": 1})):
            if payload.get("conflictId") == name:
                key = f"{'task' if name == 'open' else 'note'}:{json.dumps(payload)}"
                await socket.ask("cache:update", update(key, value, baseVersion=0))
                met = await socket.ask("cache:update", update(key, {"a": 2}, baseVersion=0))
                payload = payload | {"conflictId": met["payload"]["conflictId"]}
        answer = await socket.ask("conflict:resolve", payload)
        assert (answer["type"], answer["payload"]["code"], answer["payload"]["details"]["field"]) == ("error", code, field)
        assert (await socket.ask("cache:get", {"key": "a"}))["type"] == "cache:value"


async def test_how_far_a_batch_has_come_is_told_to_others(service: str) -> None:
    async with connected(port_of(service)) as sender, connected(port_of(service)) as other:
        await other.ask("subscribe", {"resources": ["task"]})
        wrong = {"type": "cache:update", "payload": update("sync:0", 0, expectedVersion=7)}
        right = [{"type": "cache:update", "payload": update(f"sync:{place}", place)} for place in range(9)]
        await sender.send("batch:update", {"batchId": "b", "syncId": "import", "updates": [wrong, *right]})
        end = await other.until(lambda frame: frame["type"] == "task:sync" and frame["payload"]["processed"] == 10)
        expected = {"syncId": "import", "status": "completed", "progress": 1, "total": 10, "errors": ["VERSION_CONFLICT"]}
        assert end["payload"].items() >= expected.items()
        steps = [frame["payload"] for frame in other.seen if frame["type"] == "task:sync"]
        assert [step["status"] for step in steps][:1] == ["started"]
        assert [step["processed"] for step in steps] == sorted({step["processed"] for step in steps})


async def test_how_far_a_restore_has_come_is_told(service: str) -> None:
    async with connected(port_of(service)) as socket, httpx.AsyncClient(base_url=service, timeout=30.0) as http:
        await socket.ask("cache:update", update("restored:1", 1))
        snapshot = (await http.get("/v1/snapshot?pattern=restored:*")).content
        await socket.ask("cache:update", update("restored:1", 2))
        await socket.ask("subscribe", {"resources": ["task"]})
        job = (await http.post("/v1/restore", content=snapshot, headers={"Content-Type": "application/x-ndjson"})).json()
        end = await socket.until(lambda frame: frame["type"] == "task:sync" and frame["payload"]["status"] == "completed")
        assert end["payload"].items() >= {"syncId": job["id"], "processed": 1, "total": 1}.items()


@pytest.mark.parametrize(
    ("sync", "field"),
    [(7, "payload.syncId"), ("", "payload.syncId"), ("x" * 201, "payload.syncId"), ("a\nb", "payload.syncId")],
)
async def test_a_sync_that_is_none_is_refused_and_nothing_is_done(service: str, sync: object, field: str) -> None:
    async with connected(port_of(service)) as socket:
        updates = [{"type": "cache:update", "payload": update("refused:1", 1)}]
        answer = await socket.ask("batch:update", {"batchId": "b", "syncId": sync, "updates": updates})
        assert (answer["payload"]["code"], answer["payload"]["details"]["field"]) == ("BAD_MESSAGE", field)
        assert not (await socket.ask("cache:get", {"key": "refused:1"}))["payload"]["found"]


async def test_a_reminder_survives_a_crash_and_is_told_once(tmp_path: Path) -> None:
    start = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    event = {"title": "Talk", "startTime": start, "reminders": [{"reminderType": "popup", "minutesBefore": 10}]}
    hour = {"realtime__agenda_interval": "1h"}  # looked at when it starts, and not again
    with started(tmp_path, **NO_REDIS, **hour) as (service, url):
        async with connected(port_of(url)) as socket:
            begun = await socket.ask("subscribe", {"resources": ["calendar"]})
            session = socket.seen[0]["payload"]["sessionId"]
            place = {"lastSequenceNumber": 0, "sessionId": session} | {name: begun[name] for name in ("epoch", "position")}
            assert (await socket.ask("cache:update", update("event:1", event)))["type"] == "ack"
        kill_at_once(service.process.pid)
    with started(tmp_path, "--workers", "2", **NO_REDIS, realtime__agenda_interval="0.05") as (_, url):
        async with connected(port_of(url)) as one, connected(port_of(url)) as two:
            for socket in (one, two):
                await socket.ask("subscribe", {"resources": ["calendar"]})
                await socket.send("recovery:request", place, requestId="recovery")
                await socket.until(lambda frame: reminders(frame, "1") != [])
            # of the first, everything is told before the second
            await one.ask("cache:update", update("event:2", {**event, "title": "Another"}))
            for socket in (one, two):
                await socket.until(lambda frame: reminders(frame, "2") != [])
                assert len({told for frame in socket.seen for told in reminders(frame, "1")}) == 1


def reminders(frame: dict[str, Any], event: str) -> list[int]:
    """The versions of the reminders of an event in a message, told live or recovered."""
    messages = frame["payload"].get("data", []) if frame["type"] == "recovery:response" else [frame]
    told = [message for message in messages if message["type"] == "calendar:reminder"]
    return [message["version"] for message in told if message["payload"]["eventId"] == event]
