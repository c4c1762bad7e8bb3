"""Session: one client's side of the protocol, sans-IO: frames in, effects out.

Effects are frames in the outbox, requests that `receive` returns to be carried out, and `closing`. Each request is answered
once, by `answer` or `fail`. It is told the time by a clock and wakes its driver by `wake`; it never waits for anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cachesvc.errors import CacheError, Forbidden, InvalidInput, LimitExceeded, Unauthenticated
from cachesvc.ports import Clock
from cachesvc.protocol.api import parse
from cachesvc.protocol.codes import CloseCode, Code
from cachesvc.protocol.exact import read_object
from cachesvc.protocol.frames import (
    EXACT,
    FROM_CLIENTS,
    Auth,
    AuthzCheck,
    BatchUpdate,
    Frame,
    Ping,
    Subscribe,
    Unsubscribe,
)
from cachesvc.realtime import needs
from cachesvc.realtime.batches import unpacked
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.identity import Doorman, Identity
from cachesvc.realtime.outbox import Outbox
from cachesvc.realtime.reading import filters_of, members_of, request_id_of, seconds_of
from cachesvc.realtime.replies import frame, moment, refusal, refusal_of
from cachesvc.realtime.resources import Resource, parse_resource
from cachesvc.realtime.stream import Stream, StreamLimits, Subscription


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one session: bytes, counts, seconds."""

    max_frame_size: int = (1 << 20) + (64 << 10)
    max_subscriptions: int = 1_000
    max_in_flight: int = 64
    max_batch: int = 256
    queue_size: int = 1 << 20
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    auth_timeout: float = 10.0
    renewal_notice: float = 30.0  # before the end of a token its client is asked for another
    renewal_grace: float = 25.0  # after it, for that to come
    max_errors: int = 100
    error_window: float = 60.0
    remembered: int = 1_000  # messages that were pushed, for who missed some
    remembered_bytes: int = 256 << 10


class Names(NamedTuple):
    """The ids of a session."""

    connection: str
    session: str


class Closing(NamedTuple):
    """Why the socket is to be closed, once what is in the outbox is sent."""

    code: CloseCode
    reason: str


class Request(NamedTuple):
    """A command to be carried out for an identity; `type` is that of its frame."""

    type: str
    frame: Frame
    identity: Identity
    session: Session


_NOT_COUNTED: Final = frozenset(  # against the budget: no fault of the client's
    {Code.INTERNAL, Code.UNAVAILABLE, Code.OUTCOME_UNKNOWN, Code.VERSION_CONFLICT, Code.NOT_FOUND, Code.RECOVERY_UNAVAILABLE}
)


@dataclass(slots=True, eq=False)
class Session:
    """The state of one connection to a node, whose `hub` tells it what happens."""

    names: Names
    limits: SessionLimits
    clock: Clock
    doorman: Doorman
    hub: Hub
    identity: Identity | None
    wake: Callable[[], None]
    closing: Closing | None = None
    outbox: Outbox = field(init=False)
    stream: Stream = field(init=False)
    _opened_at: float = field(init=False)
    _token_ends_at: float = math.inf  # by the monotonic clock
    _challenges: int = 0
    _challenged: bool = False  # to renew the token that it has now
    _errors: int = 0
    _errors_since: float = 0.0

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.limits.queue_size)
        epoch = self.hub.position.epoch
        stream_limits = StreamLimits(self.limits.queue_size, self.limits.remembered, self.limits.remembered_bytes)
        self.stream = Stream(self.outbox, stream_limits, self.clock, self.hub.sequence, self.wake, self._slow, epoch)
        self._opened_at = self._errors_since = self.clock.monotonic()

    # effects

    def open(self) -> None:
        """The connection stands."""
        if self.identity is not None:
            self._establish(self.identity)

    def receive(self, data: str | bytes) -> list[Request]:
        """A frame came: the requests in it that are to be carried out. Whatever is wrong with it is answered."""
        if self.closing is not None:
            return []
        try:
            members = members_of(data)
        except CacheError as error:
            self._refuse(refusal_of(error), None)
            return []
        return self._understand(members, data.encode() if isinstance(data, str) else data)

    def _understand(self, members: Mapping[str, Any], text: bytes | None) -> list[Request]:
        """A message, whose exact values are in `text`, or in the members themselves when it came in a batch."""
        asked = request_id_of(members)
        try:
            kind = members.get("type")
            if not isinstance(kind, str):
                raise InvalidInput("type", "is missing: each message says what it is")
            served = SERVED.get(kind)
            if served is None:
                self._refuse(refusal(Code.UNKNOWN_TYPE, f"type: {kind!r} is not a message to this service"), asked)
                return []
            if text is not None and kind in EXACT:
                members = read_object(text, EXACT[kind], field="message")
            received = parse(FROM_CLIENTS[kind], members)
            if isinstance(received, BatchUpdate):
                return self._unpack(received, text)
            request = self._serve(kind, served, received)
            return [request] if request is not None else []
        except CacheError as error:
            self._refuse(refusal_of(error), asked)
            return []

    def _unpack(self, received: BatchUpdate, text: bytes | None) -> list[Request]:
        if text is None:
            raise InvalidInput("type", "batches do not nest")
        size = self.limits.max_frame_size * 4
        updates = unpacked(text, received.payload, most=self.limits.max_batch, size=size)
        requests = [request for update in updates for request in self._understand(update, None)]
        self.answer(received, "ack", {"batchId": received.payload.batch_id, "messages": len(updates)})
        return requests

    def answer(self, asked: Frame, kind: str, payload: Mapping[str, object], **more: object) -> None:
        """A request was carried out. An `ack` is only for who can tell what it is of."""
        if kind == "ack" and asked.request_id is None:
            return
        self._send(kind, payload, asked.request_id, **more)

    def fail(self, asked: Frame, error: CacheError) -> None:
        """A request could not be carried out."""
        self._refuse(refusal_of(error), asked.request_id)

    def next_frame(self) -> bytes | None:
        """What is to be sent next, if anything is."""
        frame = self.outbox.take()
        if frame is None and self.closing is None:
            self.stream.release()
            frame = self.outbox.take()
        return frame

    def tick(self) -> None:
        """Do what is due."""
        if self.closing is not None or self.clock.monotonic() < self._identity_due:
            return
        if self.identity is None:
            self.close(CloseCode.AUTH_TIMEOUT, "no auth message came in time")
        elif self._challenged:
            self.close(CloseCode.TOKEN_EXPIRED, "the token has expired, and no other came")
        else:
            self._challenge(self.identity)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, by the monotonic clock."""
        due = self._identity_due
        if self.identity is not None and self.stream.due is not None:
            due = min(due, self.stream.due)
        return due if due < math.inf else None

    def end(self) -> None:
        """The connection is gone."""
        self.stream.freeze()
        for subscription in self.stream.subscriptions.values():
            self.hub.remove(subscription)

    def drain(self, next_reconnect_in: int, reason: str) -> None:
        """The node is about to stop: tell when to come back (milliseconds), then close."""
        payload = {
            "status": "reconnecting",
            "reason": reason,
            "reconnectAttempts": 0,
            "nextReconnectIn": next_reconnect_in,
        }
        if self.closing is None:
            self._send("connection:status", payload, None)
            self.close(CloseCode.DRAIN, reason)

    def close(self, code: CloseCode, reason: str) -> None:
        """Close once the outbox is sent; the first reason counts."""
        if self.closing is None:
            self.closing = Closing(code, reason)
            self.wake()

    # what frames do

    def _serve(self, kind: str, served: Served, received: Frame) -> Request | None:
        if served.needs is not None:
            if self.identity is None:
                raise Unauthenticated("say who you are first, by an auth message")
            for need in served.needs(received):
                if not need.met(self.identity):
                    raise Forbidden(need.action, need.resource)
        if served.handle is not None:
            served.handle(self, received)
            return None
        assert self.identity is not None
        return Request(kind, received, self.identity, self)

    def _auth(self, received: Auth) -> None:
        known = self.identity
        try:
            identity = self.doorman.authenticate(received.token, received.user_id)
        except Unauthenticated:
            self.close(CloseCode.BAD_TOKEN, "the token is not accepted")
            raise
        if known is None:
            self._establish(identity)
        elif identity.continues(known):
            self._believe(identity)
        else:  # what it subscribed to, and was sent, was by what it might read
            reason = "the token is of another subject, or has other scopes: connect anew with it"
            self.close(CloseCode.STATE_LOST, reason)
            raise Unauthenticated(reason)
        self.answer(received, "ack", {"userId": identity.subject})

    def _ping(self, received: Ping) -> None:
        payload = received.payload
        now = self.clock.now()
        sent = seconds_of(payload.timestamp) if payload.timestamp is not None else now
        told = {
            "timestamp": payload.timestamp or moment(now),
            "sequenceNumber": payload.sequence_number,
            "latency": round(max(0.0, now - sent) * 1000, 3),
        }
        self._send("pong", told, received.request_id, **self._place())

    def _check(self, received: AuthzCheck) -> None:
        assert self.identity is not None
        asked = received.payload
        allowed = self.identity.may_all(asked.action, asked.resource)
        told = {"resource": asked.resource, "action": asked.action, "allowed": allowed}
        self._send("authz:result", told, received.request_id)

    def _subscribe(self, received: Subscribe) -> None:
        identity, stream, asked = self.identity, self.stream, received.payload
        assert identity is not None
        filters = filters_of(asked.filters)
        resources = self._resources(asked.resources)
        for resource in resources:
            if not identity.may_all("read", resource.reach):
                raise Forbidden("read", resource.text)
        most = self.limits.max_subscriptions
        if len(stream.subscriptions.keys() | {resource.text for resource in resources}) > most:
            raise LimitExceeded("payload.resources", "makes too many subscriptions of one connection", most)
        stream.compression = asked.compression or stream.compression
        for resource in resources:
            known = stream.subscriptions.get(resource.text)
            since = self.hub.sequence() if known is None else known.since
            if known is not None:
                self.hub.remove(known)
            made = Subscription(stream, resource, filters, asked.throttle / 1000, since)
            stream.subscriptions[resource.text] = made
            self.hub.add(made)
        self.answer(received, "ack", {"resources": [resource.text for resource in resources]}, **self._place())

    def _unsubscribe(self, received: Unsubscribe) -> None:
        resources = self._resources(received.payload.resources)
        for resource in resources:
            known = self.stream.subscriptions.pop(resource.text, None)
            if known is not None:
                self.hub.remove(known)
        self.answer(received, "ack", {"resources": [resource.text for resource in resources]}, **self._place())

    def _resources(self, texts: Sequence[str]) -> list[Resource]:
        modules = self.hub.modules
        return [parse_resource(text, modules, field=f"payload.resources[{place}]") for place, text in enumerate(texts)]

    # sending

    def _believe(self, identity: Identity) -> None:
        self.identity = self.stream.identity = identity
        self._token_ends_at = self.clock.monotonic() + identity.ends - self.clock.now()
        self._challenged = False

    def _challenge(self, identity: Identity) -> None:
        """The token ends soon: ask for another, by an auth message."""
        self._challenged = True
        self._challenges += 1
        payload = {
            "nonce": f"{self.names.connection}-{self._challenges}",
            "timestamp": moment(self.clock.now()),
            "expiresAt": moment(identity.ends + self.limits.renewal_grace),
        }
        self._send("auth:challenge", payload, None)

    def _establish(self, identity: Identity) -> None:
        self._believe(identity)
        limits = self.limits
        payload = {
            "connectionId": self.names.connection,
            "userId": identity.subject,
            "sessionId": self.names.session,
            "heartbeat": {"interval": round(limits.ping_interval * 1000), "timeout": round(limits.ping_timeout * 1000)},
            "limits": {
                "maxFrameSize": limits.max_frame_size,
                "maxSubscriptions": limits.max_subscriptions,
                "maxInFlight": limits.max_in_flight,
                "maxBatch": limits.max_batch,
            },
            **self._place(),
        }
        self._send("connection:established", payload, None)

    def _place(self) -> dict[str, object]:
        """Up to where the session was told of changes."""
        return {"epoch": self.hub.position.epoch, "position": self.stream.position}

    def _send(self, kind: str, payload: Mapping[str, object], asked: str | None, **more: object) -> None:
        if not self.outbox.answer(frame(kind, payload, self.clock.now(), answers=asked, **more)):
            self._slow()
        self.wake()

    def _refuse(self, payload: Mapping[str, object], asked: str | None) -> None:
        self._send("error", payload, asked)
        if payload["code"] in _NOT_COUNTED:
            return
        now = self.clock.monotonic()
        if now - self._errors_since >= self.limits.error_window:
            self._errors, self._errors_since = 0, now
        self._errors += 1
        if self._errors > self.limits.max_errors:
            self.close(CloseCode.TOO_MANY_ERRORS, f"more than {self.limits.max_errors} errors")

    def _slow(self) -> None:
        """Nothing more fits: what waits would never be complete again, so none of it is sent."""
        self.outbox.clear()
        self.stream.clear()
        self.close(CloseCode.SLOW, "what was to be read was not read")

    @property
    def _identity_due(self) -> float:
        """When the client must have said who it is, is asked to say it again, and must have said it again."""
        limits = self.limits
        if self.identity is None:
            return self._opened_at + limits.auth_timeout
        return self._token_ends_at + (limits.renewal_grace if self._challenged else -limits.renewal_notice)


class Served(NamedTuple):
    """How a type is served: what one must be allowed to do (None: even who has not said who it is), and by which handler (None:
    it is carried out outside)."""

    needs: Callable[[Any], Iterable[needs.Need]] | None
    handle: Callable[[Session, Any], None] | None = None


SERVED: Final[Mapping[str, Served]] = {
    "auth": Served(None, Session._auth),
    "ping": Served(None, Session._ping),
    "authz:check": Served(needs.nothing, Session._check),
    "subscribe": Served(needs.nothing, Session._subscribe),
    "unsubscribe": Served(needs.nothing, Session._unsubscribe),
    "cache:get": Served(needs.read),
    "cache:update": Served(needs.written),
    "cache:invalidate": Served(needs.invalidated),
    "publish": Served(needs.published),
    "cache:warm": Served(needs.warmed),
    "recovery:request": Served(needs.nothing),
    "batch:update": Served(None),
}
