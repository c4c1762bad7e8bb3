"""Live: the sockets of a node at `/v1/ws/realtime`: who is let in, what they are told, and how all of them end."""

from __future__ import annotations

import asyncio
import logging
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Final
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from cachesvc.errors import CacheError, Forbidden, InvalidInput, PositionLost, Unauthenticated, Unavailable
from cachesvc.protocol.challenge import NODE_PROTOCOL
from cachesvc.protocol.codes import CloseCode
from cachesvc.protocol.versions import SPOKEN, chosen
from cachesvc.realtime.alarm import Alarm
from cachesvc.realtime.authentication import NO_PROOFS, Names, Proofs
from cachesvc.realtime.commands import Commands
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.large import completed
from cachesvc.realtime.meter import Meter
from cachesvc.realtime.modules import Modules
from cachesvc.realtime.quick import Quick
from cachesvc.realtime.recovery import KeptLimits, KeptSessions, Recovery
from cachesvc.realtime.session import Session
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.web.call import raw_path, read_headers
from cachesvc.web.ids import new_id
from cachesvc.web.live_connection import Connection, Driver
from cachesvc.web.live_protocol import PEER, LiveProtocol
from cachesvc.web.outlet import Traffic
from cachesvc.web.problems import Problem, problem_of
from cachesvc.web.service import Service

AT_ONCE: Final = 256  # changes that are read at a time
PATH: Final = "/v1/ws/realtime"
CONNECT: Final = "connect"  # what a handshake is counted as
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
    max_connections: int = 10_000
    max_per_address: int = 10_000
    allowed_origins: Collection[str] = ()


@dataclass(slots=True)
class LiveCounts(Traffic):
    """Since the start."""

    connections: int = 0
    refused: int = 0  # by Origin, credentials or rate
    nodes_refused: int = 0  # by the version of their protocol, or what they were to prove
    crowded_out: int = 0  # too many were open
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
            service.sites,
        )
        self.service = service
        self._doorman = service.doorman
        self._open: set[Connection] = set()
        self._draining = False
        self._ended = asyncio.Event()  # by each connection that ends: whoever waits for it clears it
        self._driver: Driver | None = None  # while it runs
        self._alarm = Alarm(_log)
        self._addresses: Counter[str] = Counter()  # of the open ones
        service.revocations.told.append(self._revoked)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its handshake to its end."""
        await receive()  # websocket.connect
        address = scope["client"][0] if scope.get("client") else ""
        node = NODE_PROTOCOL in scope["subprotocols"]
        try:
            if self.service.rates is not None:
                await self.service.rates.taken(CONNECT, address=address)
            driver, identity = self._drives(), self._greet(scope)
        except CacheError as error:
            self.counts.refused += 1
            if node:
                self._refuse_node(address, error)
            await refuse(send, problem_of(error))
            return
        await send({"type": "websocket.accept", "subprotocol": chosen(scope["subprotocols"])})
        most, most_here = self.limits.max_connections, self.limits.max_per_address
        if len(self._open) >= most or self._addresses[address] >= most_here:
            self.counts.crowded_out += 1
            reason = "too many connections are open" + (" from this address" if len(self._open) < most else "")
            await send({"type": "websocket.close", "code": int(CloseCode.TOO_MANY_CONNECTIONS), "reason": reason})
            return
        peer: LiveProtocol = scope["extensions"][PEER]
        session = partial(self._session, identity, address, node=node)
        connection = Connection(driver, peer, session)
        self._open.add(connection)
        self._addresses[address] += 1
        self.counts.connections += 1
        try:
            connection.session.open()
            peer.listen(connection)
            await connection.left
            await self._close(connection, peer, send)
        finally:
            await connection.ended()
            connection.session.end()
            self._open.discard(connection)
            self._ended.set()
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
            self.kept.keep(connection.session.names.session, connection.session.stream, self.hub.position.epoch)
            closing = connection.session.closing
            if closing is not None:
                if node and connection.session.client.identity is None:
                    self._refuse_node(address, closing.reason)
                name = closing.code.name.lower()
                self.counts.closed[name] = self.counts.closed.get(name, 0) + 1

    def _refuse_node(self, address: str, why: object) -> None:
        self.counts.nodes_refused += 1
        self._alarm("a node at %s is refused: %s", address, why)

    @property
    def running(self) -> bool:
        """Whether sockets are served: `run` has begun and not ended."""
        return self._driver is not None

    def _drives(self) -> Driver:
        if self._driver is None:
            raise Unavailable("this node has yet to begin")
        return self._driver

    def _session(self, identity: Identity | None, address: str, connection: Connection, *, node: bool) -> Session:
        rates = self.service.rates
        return Session(
            Names(uuid4().hex, uuid4().hex, token_hex(16)),
            self.limits.session,
            self.service.clock,
            self._doorman,
            self.hub,
            identity,
            connection.wake,
            self.limits.proofs,
            node,
            connection.peer.outlet.write,
            Meter(rates, address, self.service.clock) if rates is not None else None,
        )

    async def _close(self, connection: Connection, peer: LiveProtocol, send: Send) -> None:
        """Say goodbye, if it is there to hear it."""
        closing = connection.session.closing
        if closing is None or not peer.open:
            return
        try:
            async with asyncio.timeout(self.limits.send_timeout):
                await send({"type": "websocket.close", "code": int(closing.code), "reason": closing.reason})
        except TimeoutError:
            peer.abort()

    async def drain(self) -> None:
        """Tell every client when to come back, spread so that they do not come at once, and wait for them to leave."""
        self._draining = True
        waiting = list(self._open)
        spread = self.limits.drain_spread * 1000 / max(1, len(waiting))
        for place, connection in enumerate(waiting):
            connection.session.drain(round(spread * (place + 1)), "the node restarts")
        try:
            async with asyncio.timeout(self.limits.drain_timeout):
                while self._open:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            for connection in self._open:
                connection.peer.abort()

    async def run(self) -> None:
        """Tell the sessions what happens and carry out what they ask for, for ever."""
        limits = self.limits
        async with asyncio.TaskGroup() as group:
            in_flight = limits.session.max_in_flight
            clock = self.service.clock
            quick = Quick(self.service.cache, clock)
            self._driver = Driver(group, self.commands, quick, clock, self.counts, in_flight, limits.send_timeout)
            try:
                await self._follow()
            finally:
                self._driver = None

    async def _follow(self) -> None:
        """One reader of the log for all sessions."""
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
            "nodesRefused": counts.nodes_refused,
            "crowdedOut": counts.crowded_out,
            "received": counts.received,
            "sent": counts.sent,
            "sentBytes": counts.sent_bytes,
            "queuedBytes": sum(c.session.stream.waiting + c.session.outbox.answered for c in self._open),
            "kept": len(self.kept),
            "keptBytes": self.kept.size,
            "subscriptions": self.hub.index.size,
            "changesTold": self.hub.told,
            "deliveries": self.hub.deliveries,
            "untold": self.hub.alarm.raised,
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
        if NODE_PROTOCOL in scope["subprotocols"] and chosen(scope["subprotocols"]) is None:
            raise InvalidInput("Sec-WebSocket-Protocol", f"names none of the versions spoken here: {', '.join(SPOKEN)}")
        tokens = [_offered(offered.removeprefix(_TOKEN)) for offered in scope["subprotocols"] if offered.startswith(_TOKEN)]
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            tokens.append(credentials.strip())
        if len(tokens) > 1:
            raise Unauthenticated("more than one token is given")
        proofs = self.limits.proofs
        if not tokens and NODE_PROTOCOL in scope["subprotocols"] and (proofs.nodes or proofs.sites):
            return None  # it proves who it is, even where nobody else has to
        return self._doorman.greet(tokens[0] if tokens else None)


class LiveRoute(BaseRoute):
    """The path of the socket."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if raw_path(scope) == PATH.encode() else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise HTTPException(426, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        await self._live.serve(scope, receive, send)


def _offered(token: str) -> str:
    """A token as a subprotocol carries it: as base64url, which has no dots, or as it is."""
    if "." in token:
        return token
    try:
        decoded = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
    except ValueError:
        return token
    return decoded if "." in decoded else token


async def refuse(send: Send, problem: Problem) -> None:
    """Answer the handshake with a problem, as a request of HTTP would be."""
    request_id = new_id()
    response = problem.response(request_id)
    headers = [header for header in response.raw_headers if header[0] != b"content-length"]
    headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
