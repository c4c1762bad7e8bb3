"""Stream: the messages that are pushed to one session: filtered, conflated, numbered, and remembered for a while.

The rules that must not break: numbers have no holes, for they are given when a message goes into the outbox and not before; and
a position says that every change up to it was sent, or is superseded by one that was.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

import orjson

from cachesvc.ports import Clock
from cachesvc.protocol.exact import RawJson, read_value
from cachesvc.realtime.batches import MOST, WINDOW
from cachesvc.realtime.conflate import Conflator
from cachesvc.realtime.framing import Framing
from cachesvc.realtime.identity import NOBODY, Identity
from cachesvc.realtime.outbox import Outbox
from cachesvc.realtime.reading import Filters
from cachesvc.realtime.resources import Resource
from cachesvc.realtime.told import UNKNOWN, Told

_ABSENT: Final = object()
_NONE: Final[deque[Told]] = deque(maxlen=0)  # stands for a queue that was never needed


class Sent(NamedTuple):
    """A message that went out, with the number and position that it had."""

    seq: int
    told: Told
    position: int


class Remembered:
    """The latest messages that went out, whose numbers have no holes.

    No object for each: what is sent to thousands at once would be as many for the collector. The position of nearly all is the
    version of what is told; that of others is kept by their number.
    """

    __slots__ = ("_last", "_positions", "_told", "most", "most_bytes", "size")

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.size = 0  # bytes
        self._last = 0
        self._told: deque[Told] = _NONE
        self._positions: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._told)

    def __iter__(self) -> Iterator[Sent]:
        positions = self._positions or {}
        for seq, told in enumerate(self._told, self._last - len(self._told) + 1):
            yield Sent(seq, told, positions.get(seq, told.version))

    def position_of(self, seq: int) -> int | None:
        """What a message had as its position; None for one that is not remembered."""
        place = seq - self._last + len(self._told) - 1
        if not 0 <= place < len(self._told):
            return None
        return (self._positions or {}).get(seq, self._told[place].version)

    def add(self, seq: int, told: Told, position: int) -> None:
        """The next one; the oldest are forgotten."""
        if self._told is _NONE:
            self._told = deque()
        self._last = seq
        self._told.append(told)
        self.size += told.size
        if position != told.version:
            self._positions = self._positions or {}
            self._positions[seq] = position
        while self.size > self.most_bytes or len(self._told) > self.most:
            if self._positions:
                self._positions.pop(self._last - len(self._told) + 1, None)
            self.size -= self._told.popleft().size


@dataclass(slots=True, eq=False)
class Subscription:
    """A resource that a session follows: filters, throttle in seconds, and since which change."""

    stream: Stream
    resource: Resource
    filters: Filters
    throttle: float
    since: int
    next_at: float = 0.0  # of its throttle

    def wants(self, told: Told) -> bool:
        """Whether the filters hold. What says nothing of its content (a deletion, one too large) is not kept back for it."""
        return not self.filters or all(_holds(told, names, allowed) for names, allowed in self.filters.items())


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bytes and counts of one stream."""

    queue_size: int = 1 << 20
    remembered: int = 1_000  # messages, for who missed some
    remembered_bytes: int = 256 << 10


@dataclass(slots=True, eq=False)
class Stream:
    """The pushed messages of one session. `at` tells up to where the hub has come."""

    outbox: Outbox
    limits: StreamLimits
    clock: Clock
    at: Callable[[], int]
    wake: Callable[[], None]
    overflow: Callable[[], None]
    lost: Callable[[], None]
    framing: Framing
    epoch: int = 0
    identity: Identity = NOBODY
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    seq: int = 0
    sent: Remembered = field(init=False)
    conflated: int = 0
    closed: bool = False
    compression: str | None = None  # of batches; None: every message comes alone
    recovering: int | None = None  # up to where what it missed was told, while that goes on
    frozen: int | None = None  # the position from which on nothing is told any more
    _waiting: Conflator[Subscription] = field(default_factory=Conflator)
    _collects: float = 0.0  # until then (monotonic seconds) what comes goes into one batch

    def __post_init__(self) -> None:
        self.sent = Remembered(self.limits.remembered, self.limits.remembered_bytes)

    @property
    def position(self) -> int:
        """Every change up to it that is due was told."""
        if self.frozen is not None:
            return self.frozen
        position = self.at()
        if self._waiting.size and (oldest := self._waiting.oldest) is not None:
            position = min(position, oldest - 1)
        return position if self.recovering is None else min(position, self.recovering)

    @property
    def waiting(self) -> int:
        """Bytes that are not sent yet."""
        return self._waiting.size + self.outbox.pushed

    @property
    def due(self) -> float | None:
        """When `release` has something to do; what waits for room is not waited for by time."""
        return self._waiting.due if self._room else None

    def may_read(self, resource: str) -> bool:
        return self.identity.unrestricted or self.identity.may("read", resource)

    def may_be_told(self, told: Told) -> bool:
        return self.may_read(told.resource) and (not told.needs or self.identity.may(told.needs, told.resource))

    def offer(self, told: Told, subscription: Subscription) -> None:
        """A message that concerns this session, by the most eager of the subscriptions that want it."""
        if self.closed:
            return
        outbox = self.outbox
        if not (subscription.throttle or self.compression or self._waiting.size or outbox.pushed):
            # there is room: nothing is before it, and the hub has come just up to it
            frame = self._numbered(told, told.version if self.recovering is None else self.position)
            if not outbox.passed(frame):
                self.push(frame)
                self.wake()
            return
        now = self.clock.monotonic() if subscription.throttle or self.compression else 0.0
        due = subscription.next_at if subscription.throttle and told.entity else 0.0
        if self.compression:
            if now >= self._collects:
                self._collects = now + WINDOW
            due = max(due, self._collects)
        if not len(self._waiting) and due <= now and self._room:
            self._send(told)
            if subscription.throttle:
                subscription.next_at = now + subscription.throttle
        else:
            conflates = subscription.throttle > 0 or self.waiting * 4 > self.limits.queue_size
            self.conflated += conflates and told in self._waiting
            self._waiting.add(told, due, subscription, conflates=conflates)
            if self.waiting > self.limits.queue_size:
                self._make_room()
        self.wake()

    def keep(self, wanted: Callable[[Told], bool]) -> None:
        """Drop what waits and is of nothing that is followed any more: it is not due to this session."""
        if len(self._waiting):
            self._waiting.keep(wanted)

    def release(self, *, early: bool = False) -> None:
        """Send what is due, or all of it before its time, as far as there is room for it."""
        if not len(self._waiting):
            return
        now = self.clock.monotonic()
        until = math.inf if early else now
        frames: list[bytes] = []
        while self._room and (waiting := self._waiting.take(until)) is not None:
            waiting.owner.next_at = now + waiting.owner.throttle
            if self.compression is None:
                self._send(waiting.told)
                continue
            frames.append(self._numbered(waiting.told, self.position))
            if len(frames) == MOST:
                self._send_batch(frames, self.compression)
                frames = []
        if frames and self.compression is not None:
            self._send_batch(frames, self.compression)

    def number(self, told: Told) -> Sent:
        """Give a message its number and remember it; it goes out in whatever way the caller sends it."""
        sent = Sent(self.seq + 1, told, self.position)
        self.seq = sent.seq
        self.sent.add(*sent)
        return sent

    @property
    def seen(self) -> int:
        """Up to where its client may have seen what happened, on whatever node."""
        return max(self._waiting.seen, self.position)

    def saw(self, seen: int) -> None:
        """Its client may have seen this much."""
        self._waiting.seen = max(self._waiting.seen, seen)

    def resume(self, seen: int) -> bool:
        """Its client comes from where it had seen this much. False when something of that was taken for unseen already."""
        self.saw(seen)
        return self._waiting.vanished is None or self._waiting.vanished > seen

    def clear(self) -> None:
        """Nothing can be sent any more."""
        self.freeze()
        self.closed = True
        self._waiting.clear()

    def lose(self, sequence: int) -> None:
        """This change cannot be told, and so nothing after it."""
        if not self.closed:
            self.frozen = min(self.position, sequence - 1)
            self.clear()
            self.lost()

    def freeze(self) -> None:
        """Nothing is told from here on: the position stays where it is, be a recovery going on or not."""
        self.frozen = self.position

    def _make_room(self) -> None:
        """More waits than may: who reads is told before the time of a throttle or a batch is over, and only who does not read
        is too slow."""
        self.release(early=True)
        if self.waiting > self.limits.queue_size:
            self.overflow()

    @property
    def _room(self) -> bool:
        """Over a quarter of the queue what comes is conflated instead of queued."""
        return self.outbox.pushed * 4 <= self.limits.queue_size

    def _send(self, told: Told) -> None:
        self.push(self._numbered(told, self.position))

    def _send_batch(self, frames: Sequence[bytes], compression: str) -> None:
        if len(frames) == 1:
            self.push(frames[0])
            return
        name = f"b-{self.seq - len(frames) + 1}-{self.seq}"
        self.push(self.framing.batch(b"[%b]" % b",".join(frames), compression, self.clock.now(), name=name))

    def _numbered(self, told: Told, position: int) -> bytes:
        self.seq = seq = self.seq + 1
        self.sent.add(seq, told, position)
        return self.framing.frame(told, seq, position)

    def push(self, frame: bytes) -> None:
        """Send a frame behind what was pushed before."""
        if not self.outbox.push(frame):
            self.overflow()


def _holds(told: Told, names: Sequence[str], allowed: Sequence[Any]) -> bool:
    found = _at(told.payload, names)
    if isinstance(found, Decimal):
        found = float(found)
    elif isinstance(found, orjson.Fragment):  # the content itself
        found = told.content
    elif found is _ABSENT:
        if told.content is UNKNOWN:
            return True
        found = _at(told.content, names)
        if found is _ABSENT and len(names) > 1:  # as in `task.status`: the payload's member is the content itself
            found = _at(told.content, names[1:])
    return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in allowed)


def _at(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        if isinstance(value, RawJson):
            value = read_value(value)
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return read_value(value) if isinstance(value, RawJson) else value
