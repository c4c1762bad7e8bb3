"""Commands of the cache over the socket: the same as over HTTP, many in flight, each answered once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import orjson
import pytest

from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.web.live import LiveLimits
from cachesvc.web.service import Limits
from tests.web.site import Site, opened
from tests.web.sockets import LIMIT, Socket, connected


def update(key: str, operation: str = "set", **more: object) -> dict[str, object]:
    return {"key": key, "operation": operation, "distribute": True, **more}


async def result(socket: Socket, kind: str, payload: object) -> dict[str, Any]:
    """What a command is answered with."""
    frame = await socket.ask(kind, payload)
    FROM_SERVER[frame["type"]].model_validate(frame)
    told: dict[str, Any] = frame["payload"]
    return told


async def test_set_get_increment_delete(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        written = await result(socket, "cache:update", update("task:1", value={"n": 1}, ttl=60, tags=["x"], dependsOn=["p"]))
        assert written.items() >= {"key": "task:1", "version": 1001, "operation": "set"}.items()
        got = await result(socket, "cache:get", {"key": "task:1"})
        assert (got["found"], got["value"], got["version"], got["contentType"]) == (True, {"n": 1}, 1001, "application/json")
        assert 0 < got["ttl"] <= 60
        entry = site.store.rows["task:1"]  # type: ignore[index]
        assert (entry.tags, entry.parents) == (("x",), ("p",))
        counted = [await result(socket, "cache:update", update("n", "increment", value=amount)) for amount in (2, 40)]
        assert [answer["value"] for answer in counted] == [2, 42]
        assert (await result(socket, "cache:update", update("task:1", "delete")))["found"] is True
        assert (await result(socket, "cache:update", update("task:1", "delete")))["found"] is False
        missed = await result(socket, "cache:get", {"key": "task:1"})
        assert (missed["found"], missed["value"], missed["version"]) == (False, None, 0)


async def test_what_http_writes_the_socket_reads_and_the_other_way_round(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as socket:
        put = await http.put("/v1/cache/a", content=b"\x00\x01", headers={"Content-Type": "image/png"})
        got = await result(socket, "cache:get", {"key": "a"})
        assert (got["value"], got["encoding"], got["version"]) == ("AAE=", "base64", put.json()["version"])
        payload = '{"key":"b","operation":"set","value":1.10e400}'
        await socket.connection.send(f'{{"type":"cache:update","payload":{payload},"requestId":"r"}}')
        await socket.until(lambda frame: frame.get("correlationId") == "r")
        assert (await http.get("/v1/cache/b")).content == b"1.10e400"


async def test_an_expected_version_refuses(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        await result(socket, "cache:update", update("a", value=1, expectedVersion=0))
        refused = await result(socket, "cache:update", update("a", value=2, expectedVersion=0))
        assert (refused["code"], refused["details"]["currentVersion"]) == ("VERSION_CONFLICT", 1001)
        assert refused["details"]["field"] == "payload.key"
        assert refused["recoverable"] is True


async def test_a_value_that_was_computed_since_a_miss_is_refused_if_anything_changed(
    site: Site, http: httpx.AsyncClient
) -> None:
    async with site.served() as port, connected(port) as socket:
        token = (await result(socket, "cache:get", {"key": "a"}))["fillToken"]
        filled = await result(socket, "cache:update", update("a", value=1, dependsOn=["b"], fillToken=token))
        assert filled["operation"] == "set"
        await result(socket, "cache:update", update("b", value=1))
        for key in ("a", "b"):
            refused = await result(socket, "cache:update", update(key, value=2, dependsOn=["b"], fillToken=token))
            assert (refused["code"], refused["details"]["field"]) == ("VERSION_CONFLICT", "payload.fillToken")
        over_http = {"operation": "set", "value": 2, "fillToken": token}
        assert (await http.post("/v1/cache/b", json=over_http)).status_code == 412
        twice = await http.post("/v1/cache/b", json=over_http, headers={"Fill-Token": token})
        assert (twice.status_code, twice.json()["field"]) == (422, "fillToken")
        assert (await http.post("/v1/cache/c", json=over_http)).status_code == 201


async def test_a_key_of_another_request_is_refused_by_the_name_that_it_has_here(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        await result(socket, "cache:update", update("a", value=1, idempotencyKey="k"))
        refused = await result(socket, "cache:update", update("a", value=2, idempotencyKey="k"))
        assert (refused["code"], refused["details"]["field"]) == ("BAD_MESSAGE", "payload.idempotencyKey")
        assert refused["message"] == "payload.idempotencyKey: came with another request before"


async def test_a_retry_gets_the_first_answer(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as socket:
        first = await result(socket, "cache:update", update("n", "increment", idempotencyKey="once"))
        again = await result(socket, "cache:update", update("n", "increment", idempotencyKey="once"))
        assert again == first | {"replayed": True, "idempotencyKey": "once"}
        over_http = await http.post("/v1/cache/n", json={"operation": "increment"}, headers={"Idempotency-Key": "once"})
        assert over_http.json()["version"] == first["version"]
        other = await result(socket, "cache:update", update("n", "increment", value=2, idempotencyKey="once"))
        assert other["code"] == "BAD_MESSAGE"


async def test_invalidate(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        for key, parents in (("task:1", []), ("task:2", ["task:1"]), ("event:1", [])):
            await result(socket, "cache:update", update(key, value=1, dependsOn=parents))
        seen = await result(socket, "cache:invalidate", {"keys": ["task:1"], "cascade": True, "dryRun": True})
        assert (seen["matched"], seen["cascaded"]) == (1, 1)
        done = await result(socket, "cache:invalidate", {"keys": ["task:1"], "cascade": True})
        assert (done["operation"], done["matched"], done["cascaded"]) == ("invalidate", 1, 1)
        for key, found in (("task:1", False), ("task:2", False), ("event:1", True)):
            assert (await result(socket, "cache:get", {"key": key}))["found"] is found
        assert (await result(socket, "cache:invalidate", {"keys": [], "pattern": "e*", "cascade": False}))["matched"] == 1
        assert (await result(socket, "cache:get", {"key": "event:1"}))["found"] is False


@pytest.mark.parametrize(
    ("kind", "payload", "code", "field"),
    [
        ("cache:get", {"key": ""}, "BAD_MESSAGE", "payload.key"),
        ("cache:get", {"key": "\n"}, "BAD_MESSAGE", "payload.key"),
        ("cache:update", update("a"), "BAD_MESSAGE", "payload.value"),
        ("cache:update", update("a", value="x" * 200), "TOO_LARGE", "payload.value"),
        ("cache:update", update("a", value=1, baseVersion=1, expectedVersion=1), "BAD_MESSAGE", "payload.baseVersion"),
        ("cache:update", update("a", "increment", value="x"), "BAD_MESSAGE", "payload.value"),
        ("cache:update", update("a", value=1, tags=[""]), "BAD_MESSAGE", "payload.tags[0]"),
        ("cache:update", update("a", value=1, fillToken="yesterday"), "BAD_MESSAGE", "payload.fillToken"),
        ("cache:update", update("a", value=1, fillToken=7), "BAD_MESSAGE", "payload.fillToken"),
        ("cache:invalidate", {"keys": []}, "BAD_MESSAGE", "payload.keys"),
        ("cache:invalidate", {"keys": ["a"] * 4}, "LIMIT_EXCEEDED", "payload.keys"),
        ("cache:invalidate", {"keys": ["a", ""]}, "BAD_MESSAGE", "payload.keys[1]"),
        ("cache:invalidate", {"pattern": "["}, "BAD_MESSAGE", "payload.pattern"),
    ],
)
async def test_bad_commands(kind: str, payload: object, code: str, field: str) -> None:
    limits = Limits(max_value_size=100, max_invalidate_keys=3)
    async with opened(limits=limits) as site, site.served() as port, connected(port) as socket:
        refused = await result(socket, kind, payload)
        assert (refused["code"], refused["details"]["field"]) == (code, field)
        assert (await socket.ask("ping", {}))["type"] == "pong"


async def test_many_in_flight_are_answered_in_any_order_each_once(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        await result(socket, "cache:update", update("warm", value=1))
        site.store.gates["asked"].close()
        await socket.send("cache:get", {"key": "cold"}, requestId="slow")
        for i in range(20):
            await socket.send("cache:get", {"key": "warm"}, requestId=f"fast-{i}")
        fast = [(await socket.next())["correlationId"] for _ in range(20)]
        assert sorted(fast) == sorted(f"fast-{i}" for i in range(20))
        site.store.gates["asked"].open()
        assert (await socket.next())["correlationId"] == "slow"


async def test_what_is_in_flight_is_bounded() -> None:
    limits = LiveLimits(SessionLimits(max_in_flight=4))
    async with opened(live_limits=limits) as site, site.served() as port, connected(port) as socket:
        site.store.gates["asked"].close()
        for i in range(50):
            await socket.send("cache:get", {"key": f"k{i}"}, requestId=str(i))
        async with asyncio.timeout(LIMIT):
            await site.store.gates["asked"].reached.wait()
        assert site.live.stats()["inFlight"] == 4
        site.store.gates["asked"].open()
        assert sorted([(await socket.next())["correlationId"] for _ in range(50)], key=int) == [str(i) for i in range(50)]


async def test_the_authority_away(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        site.store.away = True
        refused = await result(socket, "cache:update", update("a", value=1))
        assert (refused["code"], refused["recoverable"], refused["retryAfter"] > 0) == ("UNAVAILABLE", True, True)


async def test_a_write_that_takes_too_long_may_still_happen() -> None:
    async with opened(limits=Limits(request_timeout=0.1)) as site, site.served() as port, connected(port) as socket:
        site.store.gates["commits"].close()
        refused = await result(socket, "cache:update", update("a", value=1, idempotencyKey="x"))
        assert (refused["code"], refused["details"]) == ("OUTCOME_UNKNOWN", {"idempotencyKey": "x"})
        site.store.gates["asked"].close()
        assert (await result(socket, "cache:get", {"key": "b"}))["code"] == "UNAVAILABLE"
        site.store.gates["commits"].open()
        site.store.gates["asked"].open()


async def test_stats_tell_of_the_sockets(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as socket:
        await result(socket, "cache:get", {"key": "a"})
        told = orjson.loads((await http.get("/v1/stats")).content)["realtime"]
        assert (told["open"], told["connections"], told["received"], told["sent"]) == (1, 1, 1, 2)
        assert "cachesvc_ws_connections 1.0" in (await http.get("/metrics")).text
        assert json.dumps(told)


async def test_a_warm_up_is_told_until_it_has_ended(site: Site, http: httpx.AsyncClient) -> None:
    async with site.served() as port, connected(port) as socket:
        begun = await result(socket, "cache:warm", {"keys": ["a", "b"]})
        assert begun.items() >= {"kind": "warm", "state": "waiting"}.items()
        progress = await socket.next()
        FROM_SERVER["cache:warm"].model_validate(progress)
        assert progress["correlationId"] == socket.seen[-2]["correlationId"]
        assert progress["payload"].items() >= {"job": begun["id"], "status": "waiting", "done": 0}.items()
        await http.delete(f"/v1/jobs/{begun['id']}")
        async with asyncio.timeout(LIMIT):
            while not site.clock.sleepers:
                await asyncio.sleep(0)
        site.clock.advance(1)
        assert (await socket.next())["payload"]["status"] == "cancelled"
        refused = await result(socket, "cache:warm", {"module": "task", "userId": "ann", "dataTypes": ["list"]})
        assert (refused["code"], refused["details"]["field"]) == ("BAD_MESSAGE", "payload.module")


async def test_who_watches_a_warm_up_may_leave(site: Site) -> None:
    async with site.served() as port:
        async with connected(port) as socket:
            await result(socket, "cache:warm", {"keys": ["a"]})
            assert (await socket.next())["type"] == "cache:warm"
            await site.live.drain()
            assert (await socket.closed())[0] == 4001
        assert site.live.stats()["open"] == 0
