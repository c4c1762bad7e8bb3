"""Session: one client's side of the protocol, sans-IO: frames in, effects out.

Effects are frames in the outbox, requests that `receive` returns to be carried out, and `closing`. Each request is answered
once, by `answer` or `fail`. It is told the time by a clock and wakes its driver by `wake`; it never waits for anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from cachesvc.errors import CacheError, InvalidInput, TooManyRequests, Unauthenticated
from cachesvc.model.moments import moment
from cachesvc.model.syncs import Sync
from cachesvc.ports import Clock
from cachesvc.protocol.api import parse
from cachesvc.protocol.codes import CloseCode, Code
from cachesvc.protocol.frames import RECEIVED, Auth, AuthzCheck, BatchUpdate, Frame, Ping, Subscribe, Unsubscribe
from cachesvc.realtime import needs
from cachesvc.realtime.authentication import NO_PROOFS, Authentication, Closing, Names, Proofs, Rejected
from cachesvc.realtime.batches import sync_of, unpacked
from cachesvc.realtime.budget import NOT_COUNTED, Budget
from cachesvc.realtime.hub import Hub
from cachesvc.realtime.identity import Doorman, Identity
from cachesvc.realtime.meter import Halted, Meter
from cachesvc.realtime.outbox import Outbox, nowhere
from cachesvc.realtime.rates import NotYet
from cachesvc.realtime.reading import exactly, members_of, request_id_in, request_id_of, seconds_of
from cachesvc.realtime.replies import frame, rate_limit, refusal, refusal_of
from cachesvc.realtime.resources import parse_resource
from cachesvc.realtime.session_limits import SessionLimits
from cachesvc.realtime.stream import Stream, StreamLimits
from cachesvc.realtime.subscribing import subscribe, unsubscribe

_TURN: Final = 0.005  # seconds, after which others have theirs before the rest of a batch is taken up


class Request(NamedTuple):
    """A command to be carried out for an identity; `type` is that of its frame."""

    type: str
    frame: Frame
    identity: Identity
    session: Session
    sync: Sync | None = None  # of the batch that it came in


@dataclass(slots=True, eq=False)
class Session:
    """The state of one connection to a node, whose `hub` tells it what happens."""

    names: Names
    limits: SessionLimits
    clock: Clock
    doorman: Doorman
    hub: Hub
    shown: InitVar[Identity | None]  # by the upgrade
    wake: Callable[[], None]
    proofs: InitVar[Proofs] = NO_PROOFS
    node: InitVar[bool] = False  # it asks to be challenged
    straight: InitVar[Callable[[bytes], bool]] = nowhere  # sends a frame at once, or says that it cannot
    meter: Meter | None = None  # None: nothing is counted
    halted: Halted | None = None  # what came last, while it is not taken up as a whole: nothing else is to be received then
    closing: Closing | None = None
    outbox: Outbox = field(init=False)
    stream: Stream = field(init=False)
    client: Authentication = field(init=False)
    errors: Budget = field(init=False)
    refusals: Budget = field(init=False)

    def __post_init__(self, shown: Identity | None, proofs: Proofs, node: bool, straight: Callable[[bytes], bool]) -> None:
        self.outbox = Outbox(self.limits.queue_size, straight)
        stream_limits = StreamLimits(self.limits.queue_size, self.limits.remembered, self.limits.remembered_bytes)
        hub = self.hub
        lost = partial(self.close, CloseCode.STATE_LOST, "what happened could not be told: start over")
        self.stream = Stream(
            self.outbox, stream_limits, self.clock, hub.sequence, self.wake, self._slow, lost, hub.framing, hub.position.epoch
        )
        self.client = Authentication(self.names, self.limits.auth, self.clock, self.doorman, shown, proofs=proofs, node=node)
        self.errors = Budget(self.limits.max_errors, self.limits.error_window, self.clock)
        self.refusals = Budget(self.limits.max_refusals, self.limits.error_window, self.clock)

    @property
    def identity(self) -> Identity | None:
        """Whom it is believed to be of."""
        return self.client.identity

    # effects

    def open(self) -> None:
        """The connection stands."""
        if self.client.open():
            self._establish()
        elif self.client.asks:
            self._challenge()
        self.wake()  # what has to be said goes out at once, but it is to be seen to when that is over

    def receive(self, data: str | bytes) -> list[Request]:
        """A frame came: the requests in it that are to be carried out. Whatever is wrong with it is answered."""
        if self.closing is not None:
            return []
        try:
            members = members_of(data)
        except CacheError as error:
            self._refuse(refusal_of(error), request_id_in(data))
            return []
        return self._understand(members, data.encode() if isinstance(data, str) else data)

    def go_on(self) -> list[Request]:
        """Take up more of what was halted, once it may go on: the requests in it, as of `receive`."""
        halted = self.halted
        if halted is None or halted.waits or self.closing is not None:
            return []
        self.halted = None
        return halted.again()

    def _understand(self, members: Mapping[str, Any], text: bytes | None, sync: Sync | None = None) -> list[Request]:
        """A message, whose exact values are in `text`, or in the members themselves when it came in a batch."""
        asked = request_id_of(members)
        try:
            kind = members.get("type")
            if not isinstance(kind, str):
                raise InvalidInput("type", "is missing: each message says what it is")
            served = SERVED.get(kind)
            if served is None:
                self._refuse(refusal(Code.UNKNOWN_TYPE, f"type: {kind!r} is not a message to this service"), asked, sync)
                return []
            self.pay(kind)
            if text is not None:
                members = exactly(members, kind, text)
            received = parse(RECEIVED[kind], members)
            if isinstance(received, BatchUpdate):
                return self._unpack(received, text)
            request = self._serve(kind, served, received)
            return [request] if request is not None else []
        except NotYet as not_yet:
            self.halted = Halted(partial(self._understand, members, text, sync), not_yet.drawn)
            not_yet.drawn.add_done_callback(lambda _: self.wake())
            return []
        except CacheError as error:
            self._refuse(refusal_of(error), asked, sync)
            return []

    def _unpack(self, received: BatchUpdate, text: bytes | None) -> list[Request]:
        if text is None:
            raise InvalidInput("type", "batches do not nest")
        updates = unpacked(text, received.payload, most=self.limits.max_batch, size=self.limits.max_frame_size * 4)
        return self._one_by_one(received, updates, 0, sync_of(received.payload, self.identity, len(updates)))

    def _one_by_one(
        self, batch: BatchUpdate, updates: Sequence[Mapping[str, Any]], at: int, sync: Sync | None
    ) -> list[Request]:
        """The messages of a batch from one on, up to one that waits for its tokens, or until others have their turn."""
        requests: list[Request] = []
        ends = self.clock.monotonic() + _TURN
        for place in range(at, len(updates)):
            again = partial(self._one_by_one, batch, updates, place, sync)
            if place > at and self.clock.monotonic() >= ends:
                self.halted = Halted(again)
                self.wake()
                return requests
            taken_up = self._understand(updates[place], None, sync)
            if self.halted is not None:
                self.halted = self.halted._replace(again=again)
                return requests
            if sync is not None and not taken_up:
                sync.note(1)
            requests += [request._replace(sync=sync) for request in taken_up]
        if sync is not None and not requests and self.identity is not None:
            return [Request("batch:update", batch, self.identity, self, sync)]  # its end is still to be told
        self.answer(batch, "ack", {"batchId": batch.payload.batch_id, "messages": len(updates)})
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
        if self.closing is not None or self.clock.monotonic() < self.client.due:
            return
        if (closing := self.client.end()) is not None:
            self.close(*closing)
        else:
            self._challenge()

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, by the monotonic clock."""
        due = self.client.due
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
        payload = {"status": "reconnecting", "reason": reason, "reconnectAttempts": 0, "nextReconnectIn": next_reconnect_in}
        if self.closing is None:
            self._send("connection:status", payload, None)
            self.close(CloseCode.DRAIN, reason)

    def revoke(self) -> None:
        """Whom it is of is not believed any more: nothing of what waits is sent."""
        self.outbox.clear()
        self.stream.clear()
        self.close(CloseCode.REVOKED, "the token was revoked")

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
            needs.require(self.identity, served.needs(received))
        if served.handle is not None:
            served.handle(self, received)
            return None
        assert self.identity is not None
        return Request(kind, received, self.identity, self)

    def _auth(self, received: Auth) -> None:
        known = self.identity
        try:
            believed = self.client.take(received)
        except Rejected as rejected:
            self.close(*rejected.closing)
            raise rejected.error from rejected
        self.wake()  # another time is due
        if not believed:
            self._challenge()
            return
        if known is None:
            self._establish()
        assert self.identity is not None
        self.stream.identity = self.identity
        self.answer(received, "ack", {"userId": self.identity.subject})

    def _ping(self, received: Ping) -> None:
        payload = received.payload
        now = self.clock.now()
        sent = seconds_of(payload.timestamp) if payload.timestamp is not None else now
        told = {
            "timestamp": payload.timestamp or moment(now),
            "sequenceNumber": payload.sequence_number,
            "latency": round(max(0.0, now - sent) * 1000, 3),
        }
        # it goes before what is pushed, and is no word of that; who has not said who it is learns nothing of the log
        place = {} if self.outbox.pushed or self.identity is None else self._place()
        self._send("pong", told, received.request_id, **place)

    def _check(self, received: AuthzCheck) -> None:
        assert self.identity is not None
        asked = received.payload
        resource = parse_resource(asked.resource, self.hub.modules, field="payload.resource")
        allowed = needs.of(asked.action, resource).met(self.identity)
        told = {"resource": asked.resource, "action": asked.action, "allowed": allowed}
        self._send("authz:result", told, received.request_id)

    def _subscribe(self, received: Subscribe) -> None:
        assert self.identity is not None
        most = self.limits.max_subscriptions
        followed = subscribe(self.stream, self.hub, self.identity, received.payload, most=most)
        self._behind(received, {"resources": followed})

    def _unsubscribe(self, received: Unsubscribe) -> None:
        left = unsubscribe(self.stream, self.hub, received.payload.resources, most=self.limits.max_subscriptions)
        self._behind(received, {"resources": left})

    def _behind(self, asked: Frame, payload: Mapping[str, object]) -> None:
        """Acknowledge it, not before what was pushed: the position that is told with it is past that."""
        if not self.outbox.pushed:
            self.answer(asked, "ack", payload, **self._place())
        elif asked.request_id is not None:
            self.stream.push(frame("ack", payload, self.clock.now(), answers=asked.request_id, **self._place()))
            self.wake()

    # sending

    def _challenge(self) -> None:
        self._send("auth:challenge", self.client.ask(), None)

    def _establish(self) -> None:
        identity = self.identity
        assert identity is not None
        self.stream.identity = identity
        payload = {
            "connectionId": self.names.connection,
            "userId": identity.subject,
            "sessionId": self.names.session,
            **self.limits.told(),
            **self._place(),
        }
        self._send("connection:established", payload, None)

    def _place(self) -> dict[str, object]:
        """Up to where the session was told of changes."""
        return {"epoch": self.hub.position.epoch, "position": self.stream.position}

    def _send(self, kind: str, payload: Mapping[str, object], asked: str | None, **more: object) -> None:
        self.reply(frame(kind, payload, self.clock.now(), answers=asked, **more))

    def reply(self, frame: bytes) -> None:
        """Send an answer, or another message that is no push."""
        if self.outbox.passed(frame):
            return
        if not self.outbox.answer(frame):
            self._slow()
        self.wake()

    def affords(self, kind: str) -> bool:
        """Whether `pay` would raise nothing now."""
        return self.meter is None or self.meter.affords(kind, self.client.identity)

    def pay(self, kind: str) -> None:
        """Pay for a message of a type. Raises what `Meter.take` does."""
        if self.meter is None:
            return
        try:
            told = self.meter.take(kind, self.client.identity)
        except TooManyRequests as error:
            told = rate_limit(error.limit, error.remaining, error.full_in, error.window, self.clock.now())
            self._send("rate-limit", told, None)
            raise
        if told is not None:
            self._send("rate-limit", told, None)

    def _refuse(self, payload: Mapping[str, object], asked: str | None, sync: Sync | None = None) -> None:
        if sync is not None:
            sync.note(0, str(payload["code"]))
        self._send("error", payload, asked)
        if payload["code"] == Code.TOO_MANY_REQUESTS:
            if not self.refusals.allows():
                self.close(CloseCode.RATE, f"more than {self.refusals.most} refusals by the rate")
        elif payload["code"] not in NOT_COUNTED and not self.errors.allows():
            self.close(CloseCode.TOO_MANY_ERRORS, f"more than {self.errors.most} errors")

    def _slow(self) -> None:
        """Nothing more fits: what waits would never be complete again, so none of it is sent."""
        self.outbox.clear()
        self.stream.clear()
        self.close(CloseCode.SLOW, "what was to be read was not read")


class Served(NamedTuple):
    """How a type is served: what one must be allowed to do (None: nothing, known or not), by which handler (None: outside)."""

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
    "publish": Served(needs.nothing),  # what its resource reaches, the modules say
    "cache:warm": Served(needs.nothing),  # which keys it comes to, the loaders say
    "conflict:resolve": Served(needs.nothing),  # of which key it is, the conflict says
    "recovery:request": Served(needs.nothing),
    "batch:update": Served(None),
    "cache:sync": Served(needs.synced),
}
