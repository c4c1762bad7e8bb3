"""Live: the socket at `/v1/ws/realtime`. It moves bytes between connections and their sessions, and decides nothing.

A connection is a reader, a writer and the commands in flight, in one task group; each of its queues has a limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final
from uuid import uuid4

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from cachesvc.errors import CacheError, Forbidden, PositionLost, Unauthenticated, Unavailable
from cachesvc.protocol.challenge import NODE_PROTOCOL
from cachesvc.protocol.codes import CloseCode
from cachesvc.realtime.authentication import NO_PROOFS, Names, Proofs
from cachesvc.realtime.commands import CARRIED_OUT, Commands
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.identity import Doorman, Identity
from cachesvc.realtime.large import completed
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.recovery import KeptLimits, KeptSessions, Recovery
from cachesvc.realtime.session import Request, Session, SessionLimits
from cachesvc.web.call import raw_path, read_headers
from cachesvc.web.live_protocol import PEER, LiveProtocol
from cachesvc.web.problems import problem_of
from cachesvc.web.service import Service

AT_ONCE: Final = 256  # changes that are read at a time
PATH: Final = "/v1/ws/realtime"
VERSION: Final = "v1"  # the subprotocol that is selected
_TOKEN: Final = "jwt."  # noqa: S105 - what a subprotocol begins with that carries one
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Limits of the sockets of a node; bytes, counts, seconds."""

    session: SessionLimits = field(default_factory=SessionLimits)
    kept: KeptLimits = field(default_factory=KeptLimits)
    send_timeout: float = 10.0
    drain_spread: float = 5.0  # over which clients are asked to come back after a restart
    drain_timeout: float = 2.0  # for them to be told
    proofs: Proofs = NO_PROOFS
    allowed_origins: Collection[str] = ()


@dataclass(slots=True)
class LiveCounts:
    """Since the start."""

    connections: int = 0
    refused: int = 0  # by Origin or credentials
    received: int = 0
    sent: int = 0
    sent_bytes: int = 0
    closed: dict[str, int] = field(default_factory=dict)  # by the server, by its code


class Live:
    """The sockets of one node."""

    def __init__(
        self,
        service: Service,
        limits: LiveLimits | None = None,
        *,
        modules: Modules | None = None,
    ) -> None:
        self.limits = limits or LiveLimits()
        self.counts = LiveCounts()
        self.hub = Hub(service.feed.position, modules)
        self.kept = KeptSessions(self.limits.kept, service.clock)
        self.commands = Commands(
            service.cache,
            service.clock,
            self.hub.modules,
            Recovery(self.hub, service.feed, service.cache, self.kept),
            service.jobs,
            service.limits.warming,
            service.limits.max_value_size,
            service.limits.max_invalidate_keys,
            service.limits.request_timeout,
        )
        self.service = service
        self._doorman = service.doorman
        self._open: set[Connection] = set()
        self._draining = False
        service.revocations.told.append(self._revoked)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its handshake to its end."""
        await receive()  # websocket.connect
        try:
            identity = self._greet(scope)
        except CacheError as error:
            self.counts.refused += 1
            await _refuse(send, problem_of(error).response(uuid4().hex))
            return
        selected = VERSION if VERSION in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": selected})
        node = NODE_PROTOCOL in scope["subprotocols"]
        connection = Connection(self, scope["extensions"][PEER], identity, self._doorman, node=node)
        self._open.add(connection)
        self.counts.connections += 1
        try:
            await connection.run(receive, send)
        finally:
            self._open.discard(connection)
            self.kept.keep(connection.session.names.session, connection.session.stream, self.hub.position.epoch)
            closing = connection.session.closing
            if closing is not None:
                name = closing.code.name.lower()
                self.counts.closed[name] = self.counts.closed.get(name, 0) + 1

    async def drain(self) -> None:
        """Tell every client when to come back, spread so that they do not come at once, and wait for them to leave."""
        self._draining = True
        waiting = list(self._open)
        spread = self.limits.drain_spread * 1000 / max(1, len(waiting))
        for place, connection in enumerate(waiting):
            connection.session.drain(round(spread * (place + 1)), "the node restarts")
        ends = [connection.ended.wait() for connection in waiting]
        try:
            async with asyncio.timeout(self.limits.drain_timeout):
                await asyncio.gather(*ends)
        except TimeoutError:
            for connection in self._open:
                connection.peer.abort()

    async def run(self) -> None:
        """Tell the sessions what happens, for ever: one reader of the log for all of them."""
        feed, hub = self.service.feed, self.hub
        while True:
            try:
                changes = await feed.next(hub.position, AT_ONCE)
            except PositionLost as lost:
                self._start_over(lost)
                continue
            except Unavailable as exc:
                _log.info("the log cannot be read for the sockets: %s", exc)
                await self.service.clock.sleep(exc.retry_after)
                continue
            told = hub.deliveries
            for change in await completed(self.service.cache, changes, hub.audience.concerns):
                hub.route((change,))
                if hub.deliveries - told >= AT_ONCE * 8:
                    told = hub.deliveries
                    await asyncio.sleep(0)  # others have their turn

    def _revoked(self) -> None:
        """A revocation has come into force: close the connections that it is of."""
        for connection in self._open:
            identity = connection.session.client.claimed
            if identity is not None and self.service.revocations.cover(identity.subject, identity.token_id, identity.issued_at):
                connection.session.revoke()

    def _start_over(self, lost: PositionLost) -> None:
        _log.warning("the sockets start over: %s", lost)
        self.hub.start_over(self.service.feed.position)
        for connection in self._open:
            connection.session.close(CloseCode.STATE_LOST, "the log goes on from elsewhere: start over")

    def stats(self) -> dict[str, object]:
        counts = self.counts
        return {
            "open": len(self._open),
            "connections": counts.connections,
            "refused": counts.refused,
            "received": counts.received,
            "sent": counts.sent,
            "sentBytes": counts.sent_bytes,
            "queuedBytes": sum(c.session.stream.waiting + c.session.outbox.answered for c in self._open),
            "kept": len(self.kept),
            "keptBytes": self.kept.size,
            "subscriptions": self.hub.index.size,
            "changesTold": self.hub.told,
            "deliveries": self.hub.deliveries,
            "conflated": sum(c.session.stream.conflated for c in self._open),
            "inFlight": sum(c.in_flight for c in self._open),
            "closed": dict(counts.closed),
        }

    def _greet(self, scope: Scope) -> Identity | None:
        headers = read_headers(scope)
        if self._draining:
            raise Unavailable("this node is about to stop")
        origin = headers.get("origin")
        if origin is not None and origin not in self.limits.allowed_origins:
            raise Forbidden("use", f"the socket from the origin {origin}")
        tokens = [offered.removeprefix(_TOKEN) for offered in scope["subprotocols"] if offered.startswith(_TOKEN)]
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            tokens.append(credentials.strip())
        if len(tokens) > 1:
            raise Unauthenticated("more than one token is given")
        return self._doorman.greet(tokens[0] if tokens else None)


class Connection:
    """One socket and its session."""

    def __init__(self, live: Live, peer: LiveProtocol, identity: Identity | None, doorman: Doorman, *, node: bool) -> None:
        self.peer = peer
        self.in_flight = 0
        self.ended = asyncio.Event()
        self._live = live
        self._clock = live.service.clock
        self._gone = False
        self._watching: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._sent = asyncio.Event()
        self._slots = asyncio.Semaphore(live.limits.session.max_in_flight)
        self.session = Session(
            Names(uuid4().hex, uuid4().hex, token_hex(16)),
            live.limits.session,
            self._clock,
            doorman,
            live.hub,
            identity,
            self._wake,
            live.limits.proofs,
            node,
        )

    async def run(self, receive: Receive, send: Send) -> None:
        """Until either side closes."""
        self.session.open()
        try:
            async with asyncio.TaskGroup() as group:
                ends = [group.create_task(self._read(receive, group)), group.create_task(self._write())]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self._gone = True
                self._stop_watching()
                self._sent.set()  # nobody waits for room any more
                await self._close(send)
                for task in ends:
                    task.cancel()
        finally:
            self.session.end()
            self.ended.set()

    def _wake(self) -> None:
        closing = self.session.closing
        if closing is not None:
            self._stop_watching()
        if closing is not None and closing.code is CloseCode.SLOW and not self.peer.writable.is_set():
            self.peer.abort()  # who takes nothing takes no goodbye either
        self._woken.set()

    def _stop_watching(self) -> None:
        for task in self._watching:
            task.cancel()

    async def _read(self, receive: Receive, group: asyncio.TaskGroup) -> None:
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            self._live.counts.received += 1
            text = message.get("text")
            for request in self.session.receive(text if text is not None else message["bytes"]):
                await self._slots.acquire()  # more wait where they are: in the client's own buffers
                self.in_flight += 1
                task = group.create_task(self._carry_out(request))
                if CARRIED_OUT[request.type].watches:
                    self._watching.add(task)
                    task.add_done_callback(self._watching.discard)

    async def _carry_out(self, request: Request) -> None:
        session = self.session
        try:
            async for reply in self._live.commands.carry_out(request):
                session.answer(request.frame, reply.type, reply.payload)
                await self._room()
                if self._gone:
                    return
        except CacheError as error:
            session.fail(request.frame, error)
        except Exception as error:  # noqa: BLE001 - the connection lives; the log has it
            _log.exception("a command failed", extra={"type": request.type})
            session.fail(request.frame, CacheError(str(error)))
        finally:
            self.in_flight -= 1
            self._slots.release()
            self._woken.set()

    async def _room(self) -> None:
        """Wait until a good part of what was answered is sent: what comes in many parts is not kept for who does not read."""
        while not self._gone and self.session.closing is None and self.session.outbox.crowded:
            self._sent.clear()
            await self._sent.wait()

    async def _write(self) -> None:
        """Send what the session has to say, until it wants to close and all of it is said."""
        session, counts = self.session, self._live.counts
        while True:
            self._woken.clear()
            session.tick()
            while (frame := session.next_frame()) is not None:
                if not self.peer.writable.is_set():
                    if not await self._writable():
                        session.close(CloseCode.SLOW, "what was to be read was not read")
                        return
                    session.tick()  # time went by, and there may always be more to send
                self.peer.write(frame)
                self._sent.set()
                counts.sent += 1
                counts.sent_bytes += len(frame)
            if session.closing is not None and not (self.in_flight and session.closing.code is CloseCode.DRAIN):
                return
            due = session.due
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _writable(self) -> bool:
        """Whether there is room for more before the time is up."""
        try:
            async with asyncio.timeout(self._live.limits.send_timeout):
                await self.peer.writable.wait()
        except TimeoutError:
            return False
        return True

    async def _close(self, send: Send) -> None:
        closing = self.session.closing
        if closing is None or not self.peer.open:
            return
        try:
            async with asyncio.timeout(self._live.limits.send_timeout):
                await send({"type": "websocket.close", "code": int(closing.code), "reason": closing.reason})
        except TimeoutError:
            self.peer.abort()


class LiveRoute(BaseRoute):
    """The path of the socket."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = scope["type"] == "websocket" and raw_path(scope) == PATH.encode()
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._live.serve(scope, receive, send)


async def _refuse(send: Send, response: Response) -> None:
    """Answer the handshake with a problem."""
    headers = [header for header in response.raw_headers if header[0] != b"content-length"]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
