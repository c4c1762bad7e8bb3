"""Overload over real sockets: what is refused gets its 503 at once and in order, and who asks how the node fares an answer."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import uvicorn

from cachesvc.web.accepting import Acceptor
from cachesvc.web.admission import Admission, AdmissionLimits
from cachesvc.web.protocol import HeadLimits, limited
from tests.fakes import FakeClock
from tests.web.site import Server
from tests.web.test_protocol import App, connected, told

READ = b"GET /v1/cache/a HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSING = b"GET /v1/cache/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v1/cache/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"


@asynccontextmanager
async def served(admission: Admission, app: App | None = None, limits: HeadLimits | None = None) -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        protocol = limited(limits or HeadLimits(), admission)
        server = Server(uvicorn.Config(app or App(), http=protocol, log_config=None, lifespan="off", ws="none"))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listening]))
            await server.ready.wait()
            try:
                yield listening.getsockname()[1]
            finally:
                server.should_exit = True


def shut(*, reads: bool = True, writes: bool = True) -> Admission:
    """One whose gates let nobody in."""
    admission = Admission(FakeClock())
    admission.reads.share = 0.0 if reads else 1.0
    admission.writes.share = 0.0 if writes else 1.0
    return admission


async def answer(reader: asyncio.StreamReader, *, body: bool = True) -> tuple[int, bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head.lower())
    assert found is not None
    return int(head[9:12]), head.lower(), await reader.readexactly(int(found[1])) if body else b""


async def test_what_is_refused_is_told_so_and_the_connection_goes_on() -> None:
    async with served(shut()) as port, connected(port) as (reader, writer):
        for request in (READ, PUT, READ, b"GET /v1/keys?pattern=* HTTP/1.1\r\nHost: x\r\n\r\n"):
            writer.write(request)
            status, head, body = await answer(reader)
            problem = orjson.loads(body)
            assert (status, problem["code"], problem["retryAfter"]) == (503, "UNAVAILABLE", 1.0)
            assert b"retry-after: 1\r\n" in head
            assert problem["requestId"].encode() in head
            writer.write(HEALTH)
            assert (await answer(reader))[0] == 200
        writer.write(READ.replace(b"GET", b"HEAD") + HEALTH)
        assert (await answer(reader, body=False))[0] == 503
        assert (await answer(reader))[0] == 200


async def test_unparsed_and_parsed_are_refused_alike() -> None:
    """One whole request in one piece is refused as it lies there, any other once it is parsed."""
    async with served(shut()) as port, connected(port) as (reader, writer):
        answers = []
        for pieces in ([READ], [READ[:20], READ[20:]]):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # so that it arrives in pieces; if it did not, the answer is the same
            answers.append(await answer(reader))
        ids = [orjson.loads(body)["requestId"].encode() for _, _, body in answers]
        assert ids[0] != ids[1]
        assert len({repr(told_).replace(id_.decode(), "") for told_, id_ in zip(answers, ids, strict=True)}) == 1


async def test_each_of_many_in_one_piece_gets_its_own_answer_in_order() -> None:
    async with served(shut(writes=False)) as port:
        answers = await told(port, READ + PUT + READ + HEALTH + CLOSING)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"503", b"200", b"200", b"200", b"200"]  # behind one in progress: waits


async def test_one_more_than_may_be_in_progress_is_refused_at_once() -> None:
    admission = Admission(FakeClock(), AdmissionLimits(max_requests=3))
    app = App()
    late = b"GET /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with served(admission, app) as port:
        async with asyncio.TaskGroup() as group:
            waiting = []
            for _ in range(3):
                waiting.append(group.create_task(told(port, late)))
                await app.began.wait()
                app.began.clear()
            for _ in range(50):
                assert (await told(port, CLOSING)).startswith(b"HTTP/1.1 503")
            assert (await told(port, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).startswith(b"HTTP/1.1 200")
            assert admission.stats()["crowdedOut"] == 50
            app.may_answer.set()
        assert all(task.result().startswith(b"HTTP/1.1 200") for task in waiting)
        async with asyncio.timeout(20):
            while admission.stats()["requests"]:  # though nothing more is asked for
                await asyncio.sleep(0)
        assert (await told(port, CLOSING)).startswith(b"HTTP/1.1 200")


async def test_a_connection_too_many_may_only_ask_how_the_node_fares() -> None:
    admission = Admission(FakeClock(), AdmissionLimits(max_connections=1))
    async with served(admission) as port, connected(port) as (reader, writer):
        writer.write(READ)
        assert (await answer(reader))[0] == 200
        assert (await told(port, READ)).startswith(b"HTTP/1.1 503")
        async with connected(port) as (second, asking):
            asking.write(HEALTH)
            assert (await answer(second))[0] == 200
        assert admission.stats()["connectionsRefused"] == 2
        writer.write(READ)
        assert (await answer(reader))[0] == 200


async def ask_for_ever(client: socket.socket) -> None:
    while True:
        await asyncio.get_running_loop().sock_sendall(client, READ * 100)


async def test_who_never_reads_is_dropped() -> None:
    """Also while it goes on asking: neither answers nor refusals are kept for it without end."""
    for admission in (Admission(FakeClock()), shut()):
        async with served(admission, limits=HeadLimits(stall=0.05)) as port:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.setblocking(False)
                async with asyncio.timeout(20):
                    with pytest.raises(ConnectionError):
                        await ask_for_ever(client)


async def test_over_so_many_that_wait_for_the_one_before_the_rest_is_not_answered() -> None:
    app = App()
    async with served(Admission(FakeClock()), app, HeadLimits(pipelined=5)) as port, connected(port) as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n" + READ * 50)
        await app.began.wait()
        app.may_answer.set()
        assert (await reader.read()).count(b"HTTP/1.1 200") == 6


async def test_many_connections_are_accepted_in_one_turn() -> None:
    made = 0

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal made
            made += 1
            transport.close()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(200)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(100)]
        async with asyncio.TaskGroup() as group:
            acceptor = Acceptor(listening, Protocol, group)
            turns = 0
            while made < len(clients):
                await asyncio.sleep(0)
                turns += 1
                assert turns < 50
            acceptor.close()
        for client in clients:
            client.close()


async def test_who_waits_at_the_end_is_taken_and_who_comes_then_is_refused() -> None:
    made = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set()
            transport.close()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = listening.getsockname()
        with socket.create_connection(address):
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                Acceptor(listening, Protocol, group).close()
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address)
                await made.wait()
