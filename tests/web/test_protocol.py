"""The protocol over real sockets: what is no request, what is too much of one, who never ends, who leaves."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import orjson
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from cachesvc.web.live_protocol import live_protocol
from cachesvc.web.protocol import HeadLimits, LimitedProtocol, limited
from cachesvc.web.trial import Wire
from tests.web.site import Server

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: x\r\n"
SMALL = HeadLimits(request_line=1_000, header_bytes=2_000, headers=10)
SOON = HeadLimits(timeout=0.1)


@dataclass
class App:
    """Answers what it got; to `/early` before it has the body, to `/late` when it may."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"more_body": scope["path"] != "/early"}
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
        self.headers = scope["headers"]
        self.began.set()
        if scope["path"] == "/late":
            await self.may_answer.wait()
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(limits: HeadLimits, app: App | None = None) -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app or App(), http=limited(limits), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=5
        )
        server = Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listening]))
            await server.ready.wait()
            try:
                yield listening.getsockname()[1]
            finally:
                server.should_exit = True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


async def told(port: int, request: bytes) -> bytes:
    """Everything that is answered until the service closes the connection."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await reader.read()


async def refused(port: int, request: bytes) -> int:
    """The status of the problem that is all the answer."""
    head, _, body = (await told(port, request)).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"content-type: application/problem+json" in lines
    assert b"connection: close" in lines
    assert b"content-length: %d" % len(body) in lines
    problem = orjson.loads(body)
    assert lines[0].decode().split(" ", 2) == ["http/1.1", str(problem["status"]), problem["title"].lower()]
    return int(problem["status"])


def header(number: int, size: int = 0) -> bytes:
    return b"X-%d: %s\r\n" % (number, b"a" * size)


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        PUT + b"Content-Length: -1\r\n\r\n",
        PUT + b"Content-Length: 99999999999999999999999\r\n\r\n",
        PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        PUT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        GET + b"Host: y\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_told_so(request_: bytes) -> None:
    async with served(HeadLimits()) as port:
        assert await refused(port, request_) == 400


async def test_http_1_0_needs_no_host() -> None:
    async with served(HeadLimits()) as port:
        assert (await told(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("status", "phrase"), [(413, b"Content Too Large"), (422, b"Unprocessable Content")])
async def test_what_uvicorn_answers_is_called_as_problems_are(status: int, phrase: bytes) -> None:
    async with served(HeadLimits(), App(status=status)) as port:
        assert (await told(port, GET + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 %d %s\r\n" % (status, phrase))


async def test_what_waits_to_be_sent_when_it_closes_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = asyncio.Event()

    class Full(Wire):
        def get_write_buffer_size(self) -> int:
            return 1

        def abort(self) -> None:
            aborted.set()

    config = uvicorn.Config(App(), log_config=None, lifespan="off", ws="none")
    for sent in (GET + b"Connection: close\r\n\r\n", b"garbage\r\n\r\n"):
        made = limited(HeadLimits(stall=0.01))(config=config, server_state=ServerState(), app_state={})
        made.connection_made(Full())
        made.data_received(sent)
        async with asyncio.timeout(30):
            await aborted.wait()
        aborted.clear()
        made.connection_lost(None)


async def test_a_bad_chunk_ends_the_request_for_the_application_too() -> None:
    app = App()
    async with served(HeadLimits(), app) as port:
        assert await refused(port, PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n") == 400
        await app.left.wait()


async def test_what_is_at_the_limits_is_answered() -> None:
    async with served(SMALL) as port:
        headers = b"".join(header(number) for number in range(8)) + b"Connection: close\r\n"
        assert (await told(port, b"GET /%s HTTP/1.1\r\n%s\r\n" % (b"a" * 999, b"Host: x\r\n" + headers))).startswith(
            b"HTTP/1.1 200"
        )
        size = 2_000 - len(b"Host: x\r\nConnection: close\r\nX-1: \r\n")
        assert (await told(port, GET + b"Connection: close\r\n" + header(1, size) + b"\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("end", [b" HTTP/1.1\r\nHost: x\r\n\r\n", b""])
async def test_a_target_over_the_limit(end: bytes) -> None:
    async with served(SMALL) as port:
        assert await refused(port, b"GET /" + b"a" * 1_000 + end) == 414


async def test_headers_over_the_limit() -> None:
    async with served(SMALL) as port:
        size = 2_001 - len(b"Host: x\r\nX-1: \r\n")
        assert await refused(port, GET + header(1, size) + b"\r\n") == 431
        assert await refused(port, GET + b"".join(header(number) for number in range(10)) + b"\r\n") == 431


@pytest.mark.parametrize("begin", [GET, PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"])
async def test_headers_and_trailers_without_end_are_cut_off(begin: bytes) -> None:
    async with served(SMALL) as port, connected(port) as (reader, writer):
        writer.write(begin)
        answer = asyncio.ensure_future(reader.read(12))
        for number in range(100_000):
            writer.write(header(number, 100))
            try:
                await writer.drain()
            except ConnectionError:
                break
            if answer.done():
                break
        else:
            raise AssertionError("it takes them all")
        assert await answer == b"HTTP/1.1 431"


async def test_trailers_are_no_headers() -> None:
    app = App()
    async with served(SMALL, app) as port:
        request = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nIf-Match: 1\r\n\r\n"
        assert (await told(port, PUT + request)).startswith(b"HTTP/1.1 200")
        assert [name for name, _ in app.headers] == [b"host", b"connection", b"transfer-encoding"]


@pytest.mark.parametrize("request_", [b"G", b"GET / HTTP/1.1\r\nHo", GET])
async def test_a_head_that_does_not_end_in_time(request_: bytes) -> None:
    async with served(SOON) as port:
        assert await refused(port, request_) == 408


async def test_a_head_has_its_time_from_its_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[LimitedProtocol] = []
    connection_made = LimitedProtocol.connection_made

    def noting(self: LimitedProtocol, transport: asyncio.Transport) -> None:
        made.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(LimitedProtocol, "connection_made", noting)
    async with served(HeadLimits()) as port, connected(port) as (reader, writer):
        writer.write(b"GET / HT")
        while not (made and made[0]._in_head):
            await asyncio.sleep(0)
        made[0]._late()  # the time that was set when the connection was made is over
        writer.write(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("request_", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(request_: bytes) -> None:
    async with served(SOON) as port:
        assert await told(port, request_) == b""


async def test_a_head_in_time_has_no_deadline_afterwards() -> None:
    app = App()
    async with served(SOON, app) as port, connected(port) as (reader, writer):
        writer.write(b"PUT /late HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        await asyncio.sleep(3 * SOON.timeout)  # a deadline that is not taken away would be over
        writer.write(b"b")
        await app.began.wait()
        app.may_answer.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_never_ends_is_cut_off_after_the_answer() -> None:
    async with served(SOON) as port, connected(port) as (reader, writer):
        writer.write(b"PUT /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"/early")).startswith(b"HTTP/1.1 200")
        rest = asyncio.ensure_future(reader.read())
        while not rest.done():
            writer.write(b"a")
            await asyncio.wait([rest], timeout=0.02)
        assert rest.exception() is not None or rest.result() == b""


async def test_what_was_asked_before_garbage_is_answered_before_that_is_refused() -> None:
    app = App()
    async with served(HeadLimits(), app) as port, connected(port) as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\n\r\ngarbage\r\n\r\n")
        await app.began.wait()
        app.may_answer.set()
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200") == 2
        assert answers.index(b"/late") < answers.index(b"/two") < answers.index(b"HTTP/1.1 400")


async def test_a_bad_body_behind_others_is_refused_after_their_answers() -> None:
    app = App()
    async with served(HeadLimits(), app) as port, connected(port) as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n" + PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")
        await app.began.wait()
        app.may_answer.set()
        answers = await reader.read()
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400"]


def test_a_client_that_leaves_with_requests_unanswered_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """On the loop that workers run on, which unlike asyncio's own raises where one writes to a connection that is lost."""
    caplog.set_level(logging.INFO)
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(leave_unanswered())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []


async def leave_unanswered() -> None:
    app = App()
    async with served(HeadLimits(), app) as port:
        clients = []
        for _ in range(10):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            await app.began.wait()
            app.began.clear()
            clients.append(client)
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
            client.close()
        await told(port, GET + b"Connection: close\r\n\r\n")  # by then it has seen them leave
        app.may_answer.set()
        await told(port, GET + b"Connection: close\r\n\r\n")


async def test_a_socket_begins_when_the_answers_before_it_are_taken() -> None:
    wire = Wire()
    config = uvicorn.Config(App(), log_config=None, lifespan="off", ws=live_protocol())
    connection = limited(HeadLimits())(config=config, server_state=ServerState(), app_state={})
    wire.protocol = connection
    connection.connection_made(wire)
    connection.pause_writing()
    connection.data_received(GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (wire.protocol, wire.written) == (connection, b""), "it would not be told that its client takes nothing"
    connection.resume_writing()
    assert wire.protocol is not connection
    assert wire.written.startswith(b"HTTP/1.1 426 ")
    wire.protocol.connection_lost(None)


@pytest.mark.parametrize("path", ["/v1/stats", "/v1/nodes", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
async def test_operations_answer_head(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.head(path)).headers["content-type"] == (await http.get(path)).headers["content-type"]
    assert (await http.head(path)).status_code == 200
