"""Recovery: what a session missed, from what was sent to it, or from the log through what it subscribes to now.

The rule that must not break: never a silent gap. What cannot be covered without one is answered `RECOVERY_UNAVAILABLE`, and no
position is told that is past what a recovery still has to tell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import orjson

from cachesvc.errors import InvalidInput, LimitExceeded, PositionLost
from cachesvc.model.change import Change
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import Clock
from cachesvc.protocol.codes import Code
from cachesvc.protocol.frames import RecoveryRequestPayload
from cachesvc.realtime.hub import Audience, Hub
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.large import Reads, completed
from cachesvc.realtime.replies import refusal
from cachesvc.realtime.stream import Sent, Stream, Subscription
from cachesvc.realtime.told import Told

CHUNK: Final = 64  # messages in one response
CHUNK_BYTES: Final = 128 << 10
_READ: Final = 256  # changes read at a time
Payload = dict[str, object]


class Log(Protocol):
    """The log as this node has applied it, or as the authority has it."""

    @property
    def position(self) -> Position: ...

    async def next(self, after: Position, limit: int) -> Sequence[Change]: ...

    async def head(self) -> Position:
        """Up to where the log has come, which this node may be behind. Raises `Unavailable`."""
        ...


class Kept(NamedTuple):
    """What is kept of a session that ended: whose it was, what it was sent, up to where it was told everything, and up to
    where its client had seen things, on other nodes too."""

    identity: Identity
    sent: Sequence[Sent]
    seq: int
    position: Position
    seen: int
    until: float
    size: int


@dataclass(frozen=True, slots=True)
class KeptLimits:
    """Seconds, counts and bytes of what is kept of ended sessions."""

    retention: float = 120.0
    sessions: int = 10_000
    bytes: int = 64 << 20


class KeptSessions:
    """Sessions of this node that ended lately; the oldest are forgotten first."""

    def __init__(self, limits: KeptLimits, clock: Clock) -> None:
        self.size = 0
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, session: str, stream: Stream, epoch: int) -> None:
        """A session has ended; nothing is kept of one that followed nothing, or another epoch than this."""
        if stream.epoch != epoch or not (stream.seq or stream.subscriptions):
            return
        until = self._clock.monotonic() + self._limits.retention
        position = Position(Epoch(epoch), Seq(stream.position))
        size = stream.sent.size + 500
        kept = Kept(stream.identity, tuple(stream.sent), stream.seq, position, stream.seen, until, size)
        self._kept[session] = kept
        self.size += kept.size
        self._forget()

    def find(self, session: str | None, identity: Identity) -> Kept | None:
        """What is kept of a session, for whose it was as long as he may do the same: he was sent what he might read."""
        self._forget()
        kept = self._kept.get(session) if session is not None else None
        return kept if kept is not None and identity.continues(kept.identity) else None

    def _forget(self) -> None:
        now, limits = self._clock.monotonic(), self._limits
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if oldest.until > now and len(self._kept) <= limits.sessions and self.size <= limits.bytes:
                return
            self._kept.popitem(last=False)
            self.size -= oldest.size


@dataclass(frozen=True, slots=True)
class Recovery:
    """Recoveries on a node."""

    hub: Hub
    log: Log
    cache: Reads
    kept: KeptSessions

    async def recover(self, stream: Stream, session: str, asked: RecoveryRequestPayload) -> AsyncIterator[Payload]:
        """The payloads of the responses, in order; the last is complete, or says that it cannot be. Raises `InvalidInput`."""
        _check(asked)
        place = _place(asked)
        if place is not None and place > self.hub.position and place > await self.log.head():
            yield _lost(stream, "the log has not come to that position")
            return
        if stream.recovering is not None:
            raise LimitExceeded("type", "a recovery of this session is going on", 1)
        own = asked.session_id == session or (asked.session_id is None and _is_of(stream, asked, place))
        ended = None if own else self.kept.find(asked.session_id, stream.identity)
        after: Position | None = None
        again: Sequence[Sent] | None = None
        told: frozenset[int] = frozenset()
        if own and asked.last_sequence_number <= stream.seq:
            again = _missed(stream.sent, stream.seq, asked)
        elif ended is not None and ended.position.epoch == self.hub.position.epoch:
            again = _missed(ended.sent, ended.seq, asked)
            after, told = ended.position, frozenset(sent.told.version for sent in ended.sent)
        if again is None:
            # what was sent is not known any more: what happened since is
            told = frozenset()
            after = place
        lost = _beyond(asked, place) if again is None else None
        if lost is not None:
            yield _lost(stream, lost)
            return
        seen = max(asked.position or 0, ended.seen if ended is not None else 0)
        if not own and not stream.resume(seen):
            yield _lost(stream, "an entry that you have seen was taken for one that you have not, and its end was not told")
            return
        stream.recovering = after.sequence if after is not None else None
        try:
            last = asked.last_sequence_number
            for chunk in _chunks(again or ()):
                last = chunk[-1].seq
                yield _response(chunk, last, session if own else asked.session_id)
            if after is not None:
                everything = again is None and asked.session_id in (None, session)
                async for chunk in self._replayed(stream, after, told, everything):
                    last = chunk[-1].seq
                    yield _response(chunk, last, session)
            yield _response((), last, None)
        except PositionLost as lost:
            yield _lost(stream, str(lost))
        finally:
            stream.recovering = None

    async def _replayed(
        self, stream: Stream, after: Position, told: frozenset[int], everything: bool
    ) -> AsyncIterator[Sequence[Sent]]:
        """The log from a position to where live delivery goes on, by what the session subscribes to now.

        What was told live is not told again, unless `everything` is asked for. Raises `PositionLost`.
        """
        if after.epoch != self.hub.position.epoch:
            raise PositionLost(f"epoch {after.epoch} is over")
        upto = self.hub.position.sequence
        missed, live = (Audience(self.hub.modules, self.hub.alarm) for _ in range(2))
        waiting = sorted(stream.subscriptions.values(), key=lambda subscription: -subscription.since)
        for subscription in waiting:
            missed.index.add(subscription)
        chunk: list[Sent] = []
        while after.sequence < upto:
            changes = await self.log.next(after, min(_READ, upto - after.sequence))
            after = Position(after.epoch, changes[-1].sequence)
            for change in await completed(self.cache, changes, missed.concerns):
                while waiting and waiting[-1].since < change.sequence:
                    live.index.add(waiting.pop())
                found = self._told(missed, change, after.epoch).get(stream)
                stream.recovering = change.sequence
                if found is None or change.sequence in told:
                    continue
                if not everything and stream in self._told(live, change, after.epoch):
                    continue
                chunk.append(stream.number(found[0]))
                if len(chunk) >= CHUNK or sum(sent.told.size for sent in chunk) >= CHUNK_BYTES:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def _told(self, audience: Audience, change: Change, epoch: int) -> Mapping[Stream, tuple[Told, Subscription]]:
        try:
            return audience.of(change, epoch)
        except Exception as wrong:  # whoever asks has to know that there is a gap
            self.hub.alarm("a recovery cannot tell change %d", change.sequence, exc_info=True)
            raise PositionLost("what happened cannot be told") from wrong


def _missed(sent: Iterable[Sent], last: int, asked: RecoveryRequestPayload) -> Sequence[Sent] | None:
    """The messages that are asked for; None where one of them is not remembered, or was never sent."""
    ranges = [(missing.start, missing.end) for missing in asked.missing_ranges]
    ranges.append((asked.last_sequence_number + 1, last))
    if asked.last_sequence_number > last or any(end > last for _, end in ranges):
        return None
    remembered = list(sent)
    first = remembered[0].seq if remembered else last + 1
    if any(start < first for start, end in ranges if start <= end):
        return None
    wanted = {number for start, end in ranges for number in range(start, end + 1)}
    return [one for one in remembered if one.seq in wanted]


def _is_of(stream: Stream, asked: RecoveryRequestPayload, place: Position | None) -> bool:
    """Whether numbers that nobody says whose they are can be this session's: so they are taken without a position, and with
    that of its message."""
    known = stream.sent.position_of(asked.last_sequence_number)
    return place is None or (known is not None and (place.epoch, place.sequence) == (stream.epoch, known))


def _beyond(asked: RecoveryRequestPayload, place: Position | None) -> str | None:
    """Why the log cannot tell what is asked for, if it cannot: a position says nothing of what is missing before it."""
    if place is None:
        return "neither what was sent nor a position of this log is known"
    if any(missing.start <= asked.last_sequence_number for missing in asked.missing_ranges):
        return "what had the numbers of payload.missingRanges is not known any more"
    return None


def _place(asked: RecoveryRequestPayload) -> Position | None:
    if asked.position is None or asked.epoch is None:
        return None
    return Position(Epoch(asked.epoch), Seq(asked.position))


def _chunks(messages: Iterable[Sent]) -> Iterable[Sequence[Sent]]:
    chunk: list[Sent] = []
    size = 0
    for message in messages:
        chunk.append(message)
        size += message.told.size
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _response(chunk: Sequence[Sent], last: int, session: str | None) -> Payload:
    """Messages with the numbers of a session; without one, the end."""
    data = [orjson.Fragment(sent.told.frame(sent.seq, sent.position)) for sent in chunk]
    payload: Payload = {"sequenceNumber": last, "data": data, "isComplete": session is None}
    return payload if session is None else payload | {"sessionId": session}


def _lost(stream: Stream, reason: str) -> Payload:
    error = refusal(Code.RECOVERY_UNAVAILABLE, f"{reason}: read again what you need, and go on from here")
    return {"sequenceNumber": stream.seq, "data": [], "isComplete": False, "error": error}


def _check(asked: RecoveryRequestPayload) -> None:
    end = 0
    for place, missing in sorted(enumerate(asked.missing_ranges), key=lambda placed: placed[1].start):
        field = f"payload.missingRanges[{place}]"
        if missing.end < missing.start:
            raise InvalidInput(field, "runs backwards")
        if not missing.start:
            raise InvalidInput(field, "begins at 0: messages are numbered from 1")
        if missing.start <= end:
            raise InvalidInput(field, "overlaps another")
        end = missing.end
