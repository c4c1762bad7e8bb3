"""The socket over a real server, as a bare client sees it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from base64 import urlsafe_b64encode
from dataclasses import replace
from itertools import pairwise
from random import Random

import httpx
import orjson
import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from cachesvc.errors import Unauthenticated
from cachesvc.protocol.messages import FROM_SERVER
from cachesvc.realtime.authentication import AuthLimits
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.web.admission import Admission, AdmissionLimits
from cachesvc.web.live import LiveLimits
from tests.web.site import Site, opened
from tests.web.sockets import LIMIT, connected


async def test_the_specifications_first_example(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        assert socket.connection.subprotocol == "v1"
        await socket.send("auth", token="jwt_token_here", userId="user_id_here")
        established = socket.seen[0]
        assert established["payload"]["userId"] == "anonymous"
        assert (established["payload"]["epoch"], established["payload"]["position"]) == site.feed.position
        await socket.send("ping", {"timestamp": "2024-01-15T10:30:00Z", "sequenceNumber": 1})
        pong = await socket.next()
        assert (pong["type"], pong["payload"]["sequenceNumber"]) == ("pong", 1)
        for frame in socket.seen:
            FROM_SERVER[frame["type"]].model_validate(frame)


async def test_a_connection_whose_task_is_cancelled_is_forgotten(site: Site) -> None:
    async with site.served() as port, connected(port):
        (task,) = (task for task in asyncio.all_tasks() if "LiveProtocol.run_asgi" in str(task.get_coro()))
        task.cancel()
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([task])
        assert (site.live._open, site.live._addresses) == (set(), {})


async def test_a_page_of_another_origin_is_refused() -> None:
    limits = LiveLimits(allowed_origins=["https://app.example.com"])
    async with opened(live_limits=limits) as site, site.served() as port:
        async with connected(port, origin="https://app.example.com"):
            pass
        for origin in ("https://app.example.com.evil.com", "https://APP.example.com", "null", "http://app.example.com"):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(port, origin=origin):
                    pass
            response = refused.value.response
            assert response.status_code == 403
            assert response.body is not None
            assert json.loads(response.body)["code"] == "FORBIDDEN"
        assert site.live.counts.refused == 4


async def test_without_subprotocols_none_is_selected(site: Site) -> None:
    async with site.served() as port, connected(port, "v2", established=False) as socket:
        assert socket.connection.subprotocol is None


async def test_who_asks_without_an_upgrade_is_told_to(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/ws/realtime")
    assert (answer.status_code, answer.headers["Upgrade"], answer.headers["Connection"]) == (426, "websocket", "Upgrade")
    assert answer.json()["detail"] == "this path is a WebSocket's"
    assert (await http.get("/v1/ws/realtime/")).status_code == 404


@pytest.mark.parametrize(
    ("first", "answers"),
    [("PUT /v1/cache/a", [b"201", b"200"]), ("GET /v1/cache/b", [b"404", b"404"]), ("GET /v1/stats", [b"200", b"200"])],
)
async def test_what_was_asked_before_an_upgrade_is_answered_before_it(site: Site, first: str, answers: list[bytes]) -> None:
    body = b"1" if first.startswith("PUT") else b""
    head = f"{first} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    upgrade = (
        "GET /v1/ws/realtime HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with site.served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((head.encode() + body) * 2 + upgrade.encode())
        async with asyncio.timeout(LIMIT):
            told = await reader.readuntil(b"connection:established")
        writer.close()
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [*answers, b"101"]


class Guard:
    def __init__(self, ends: float = math.inf) -> None:
        self.ends = ends

    def greet(self, token: str | None) -> Identity | None:
        if token == "bad":
            raise Unauthenticated("the token is not valid")
        return Identity(token, ["admin"], self.ends) if token is not None else None

    def authenticate(self, token: str, user_id: str) -> Identity:
        return Identity(user_id, ["admin"], self.ends)

    def knows(self, identity: Identity) -> bool:
        return True


async def test_a_token_may_come_with_the_upgrade(site: Site) -> None:
    site.live._doorman = Guard()
    async with site.served() as port:
        async with connected(port, "v1", "jwt.ann") as socket:
            assert (socket.seen[0]["payload"]["userId"], socket.connection.subprotocol) == ("ann", "v1")
        for shown in ("e30.e30.ann", urlsafe_b64encode(b"e30.e30.ann").decode().rstrip("=")):
            async with connected(port, "v1", f"jwt.{shown}") as socket:
                assert socket.seen[0]["payload"]["userId"] == "e30.e30.ann"
        async with connected(port, additional_headers={"Authorization": "Bearer bob"}) as socket:
            assert socket.seen[0]["payload"]["userId"] == "bob"
        async with connected(port, established=False) as socket:
            await socket.send("auth", token="x", userId="eve")
            assert (await socket.next())["payload"]["userId"] == "eve"
        with pytest.raises(InvalidStatus) as refused:
            async with connected(port, additional_headers={"Authorization": "Bearer bad"}):
                pass
        assert refused.value.response.status_code == 401


def in_haste(**auth: float) -> LiveLimits:
    return LiveLimits(SessionLimits(auth=AuthLimits(**auth)))


async def test_who_does_not_say_who_it_is_is_closed_in_time() -> None:
    async with opened(live_limits=in_haste(timeout=0.1)) as site, site.served() as port:
        site.live._doorman = Guard()
        async with connected(port, established=False) as socket:
            assert (await socket.ask("cache:get", {"key": "a"}))["payload"]["code"] == "UNAUTHENTICATED"
            site.clock.advance(0.1)
            assert await socket.closed() == (4502, "no auth message came in time")


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_shows_no_other_token_is_closed_when_it_has_ended(at_once: bool) -> None:
    async with opened(live_limits=in_haste(notice=0.1, grace=0.1)) as site, site.served() as port:
        site.live._doorman = Guard(site.clock.now() + 0.3)
        shown = ("v1", "jwt.ann") if at_once else ("v1",)
        async with connected(port, *shown, established=False) as socket:
            if not at_once:
                await socket.send("auth", token="x", userId="ann")
            assert (await socket.next())["type"] == "connection:established"
            site.clock.advance(0.2)
            assert (await socket.next())["type"] == "auth:challenge"
            site.clock.advance(0.2)
            assert await socket.closed() == (4003, "the token has expired, and no other came")


async def test_no_pong_closes() -> None:
    async with opened() as site, site.served(ping_interval=0.05, ping_timeout=0.2) as port, connected(port) as socket:
        original = socket.connection.protocol.send_frame

        def deaf(frame: Frame) -> None:
            if frame.opcode is not Opcode.PONG:
                original(frame)

        socket.connection.protocol.send_frame = deaf  # type: ignore[method-assign]
        assert (await socket.closed())[0] == 4011


async def test_a_drain_tells_everyone_when_to_come_back() -> None:
    async with opened(live_limits=LiveLimits(drain_spread=3.0)) as site, site.served() as port:
        async with connected(port) as one, connected(port) as two, connected(port) as three:
            task = asyncio.create_task(site.live.drain())
            ends = [await socket.closed() for socket in (one, two, three)]
            assert ends == [(4001, "the node restarts")] * 3
            status = [socket.seen[-1] for socket in (one, two, three)]
            assert [frame["type"] for frame in status] == ["connection:status"] * 3
            assert sorted(frame["payload"]["nextReconnectIn"] for frame in status) == [1000, 2000, 3000]
            await task
        with pytest.raises(InvalidStatus) as refused:
            async with connected(port):
                pass
        assert refused.value.response.status_code == 503


async def test_a_command_in_flight_is_answered_before_a_drain(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        site.store.gates["commits"].close()
        await socket.send("cache:update", {"key": "a", "operation": "set", "value": 1, "distribute": True}, requestId="r-1")
        async with asyncio.timeout(LIMIT):
            await site.store.gates["commits"].reached.wait()
        task = asyncio.create_task(site.live.drain())
        await socket.until(lambda frame: frame["type"] == "connection:status")
        site.store.gates["commits"].open()
        assert (await socket.until(lambda frame: frame["type"] == "ack"))["correlationId"] == "r-1"
        assert (await socket.closed())[0] == 4001
        await task


async def test_what_is_no_message_is_answered_and_the_connection_lives(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        await socket.connection.send("{")
        await socket.connection.send(b"\x00")
        await socket.connection.send(["[", "[" * 5000])
        for _ in range(3):
            assert (await socket.next())["payload"]["code"] == "BAD_MESSAGE"
        assert (await socket.ask("nonsense", {}))["payload"]["code"] == "UNKNOWN_TYPE"
        assert (await socket.ask("ping", {}))["type"] == "pong"


async def test_too_large_a_message_closes(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        await socket.connection.send("x" * (site.live.limits.session.max_frame_size + 1))
        assert (await socket.closed())[0] == 1009


async def test_a_message_in_endless_empty_fragments_closes(site: Site) -> None:
    async with site.served() as port, connected(port) as socket:
        protocol = socket.connection.protocol
        protocol.send_text(b"", fin=False)
        for _ in range(2_000):
            protocol.send_continuation(b"", fin=False)
        socket.connection.transport.write(b"".join(protocol.data_to_send()))
        assert (await socket.closed())[0] == 4501
        assert (await socket.closed())[1] == "a message in too many fragments"


async def test_too_many_errors_close() -> None:
    limits = LiveLimits(replace(SessionLimits(), max_errors=5))
    async with opened(live_limits=limits) as site, site.served() as port, connected(port) as socket:
        for _ in range(7):
            await socket.send("nonsense")
        assert await socket.closed() == (4509, "more than 5 errors")
        assert site.live.counts.closed == {"too_many_errors": 1}


async def test_sockets_are_counted_among_the_connections(site: Site) -> None:
    admission = Admission(site.clock, AdmissionLimits(max_connections=2))
    async with site.served(admission=admission) as port:
        async with connected(port), connected(port) as socket:
            assert admission.connections == 2
            with pytest.raises(InvalidStatus) as refused:
                async with connected(port):
                    pass
            response = refused.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            assert (await socket.ask("ping", {}))["type"] == "pong"
        async with asyncio.timeout(LIMIT):
            while admission.connections:
                await asyncio.sleep(0)
        async with connected(port):
            pass


async def test_a_crowded_node_takes_up_fewer_sockets(site: Site) -> None:
    admission = Admission(site.clock)
    admission.reads.share = 0.0
    async with site.served(admission=admission) as port:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(port):
                pass
        assert refused.value.response.status_code == 503
        admission.reads.share = 1.0
        async with connected(port):
            pass


async def test_sockets_are_no_requests_in_progress(site: Site) -> None:
    admission = Admission(site.clock, AdmissionLimits(max_requests=2))
    async with site.served(admission=admission) as port, connected(port), connected(port), connected(port) as last:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.get("/v1/cache/a")).status_code == 404
        assert admission.sockets == 3
        await last.connection.close()
        async with asyncio.timeout(LIMIT):
            while admission.sockets != 2:
                await asyncio.sleep(0)


async def test_no_bytes_disturb_anyone_else(site: Site) -> None:
    async with site.served() as port, connected(port) as other:
        for seed in range(40):
            noise = Random(seed).randbytes(300)
            async with connected(port) as socket:
                socket.connection.transport.write(noise)
                socket.connection.transport.abort()
            assert (await other.ask("ping", {}))["type"] == "pong"
        async with asyncio.timeout(LIMIT):
            while site.live.stats()["open"] != 1:
                await asyncio.sleep(0)


async def test_who_asks_much_at_once_leaves_others_their_turn(site: Site) -> None:
    """What came in one piece is taken up in pieces, and whoever else there is comes in between."""
    async with site.served() as port, connected(port) as socket:
        frames = (Frame(Opcode.TEXT, orjson.dumps({"type": "ping", "requestId": f"p-{number}"})) for number in range(1_000))
        socket.connection.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
        taken = [before := site.live.counts.received]
        async with asyncio.timeout(LIMIT):
            while taken[-1] < before + 1_000:
                await asyncio.sleep(0)
                taken.append(site.live.counts.received)
        assert max(later - earlier for earlier, later in pairwise(taken)) < 300
        answers = [(await socket.next())["correlationId"] for _ in range(1_000)]
        assert answers == [f"p-{number}" for number in range(1_000)]
