"""Intake: what another site tells, taken in by this one.

The rule that must not break: what was told is counted as taken in only when the authority has it, or has refused it for good.
What is of a time far ahead waits until then, and is not lost: comparing digests finds it again, whatever becomes of this node.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from cachesvc.engine.answers import Written
from cachesvc.errors import CacheError, InvalidInput, OutcomeUnknown, Refused, Unavailable
from cachesvc.model.change import Draft, Idempotency, Publication, invalidate, merge, publish
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, parse_key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.replica import mark_of
from cachesvc.ports import Clock, Reply
from cachesvc.protocol.api import parse
from cachesvc.protocol.drafts import names
from cachesvc.protocol.frames import BatchPayload
from cachesvc.protocol.replicated import InvalidationTold, PublicationTold, entry_of
from cachesvc.realtime.alarm import Alarm
from cachesvc.realtime.batches import unpacked
from cachesvc.sites.report import PeerCounts
from cachesvc.sites.witness import Witness

_log = logging.getLogger(__name__)
MOST_MESSAGES: Final = 1_000
MOST_BYTES: Final = 256 << 20


class Writes(Protocol):
    """What is needed of the cache."""

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]: ...


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Seconds that another site's clock may be ahead, and how many entries beyond that wait, with so many bytes of values."""

    ahead: float = 60.0
    held: int = 10_000
    held_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a batch: all keys of which it told, the entries that were news, and those that wait.

    `ends`: those of the news that ended at one of the sites, without a write, and are alike from now on.
    """

    came: Collection[Key]
    news: Mapping[Key, Entry]
    ends: Collection[Key]
    held: Collection[Key]
    refused: int


class Intake:
    """Takes in what one other site tells."""

    def __init__(
        self, writes: Writes, clock: Clock, *, witness: Witness, peer: str, counts: PeerCounts, limits: IntakeLimits
    ) -> None:
        self._writes = writes
        self._witness = witness
        self._clock = clock
        self._peer = peer
        self._counts = counts
        self._limits = limits
        self._held: list[tuple[float, bytes, Entry]] = []  # a heap, by when each is due
        self._marks: set[bytes] = set()  # of those: what waits is found by every comparison, and waits once
        self._held_bytes = 0
        self._alarm = Alarm(_log, logging.ERROR)

    async def take(self, reply: Reply) -> Taken:
        """Take in a `batch:update`. Raises `InvalidInput` where it is none, `Unavailable` and `OutcomeUnknown`, some taken.

        `EpochChanged` where it knows of more writes of this site than there are: nothing was taken.
        """
        batch = parse(BatchPayload, reply.payload)
        updates = unpacked(reply.text, batch, most=MOST_MESSAGES, size=MOST_BYTES)
        drafts: list[Draft] = []
        held: set[Key] = set()
        refused = 0
        for update in updates:
            try:
                draft = self._draft(update)
            except InvalidInput as wrong:
                refused += 1
                self._alarm("what %s told cannot be understood: %s", self._peer, wrong)
                continue
            if draft.original is not None and draft.original.updated_at > self._clock.now() + self._limits.ahead:
                held.add(draft.key)
                self._hold(draft.original)
            else:
                drafts.append(draft)
        await self._witness.knew([draft.original for draft in drafts if draft.original is not None], who=self._peer)
        self._counts.batches += 1
        written = await self._write(drafts)
        refused += written.refused
        self._counts.refused += refused
        return Taken({draft.key for draft in drafts} | held, written.news, written.ends, held, refused)

    async def take_due(self) -> None:
        """Take in what has waited for its time."""
        due: list[Draft] = []
        now = self._clock.now()
        while self._held and self._held[0][0] <= now + self._limits.ahead:
            _, mark, entry = heapq.heappop(self._held)
            self._marks.remove(mark)
            self._held_bytes -= len(entry.value)
            due.append(merge(entry, peer=self._peer))
        self._counts.held = len(self._held)
        if due:
            await self._write(due)

    def _hold(self, entry: Entry) -> None:
        mark = mark_of(entry, self._peer)
        if mark in self._marks:
            return
        self._counts.held_ever += 1
        self._alarm(
            "AHEAD OF TIME: %s tells of a write of %s that is %.0f s from now; it waits",
            self._peer,
            entry.key,
            entry.updated_at - self._clock.now(),
        )
        if len(self._held) >= self._limits.held or self._held_bytes + len(entry.value) > self._limits.held_bytes:
            self._counts.held_dropped += 1
            return
        heapq.heappush(self._held, (entry.updated_at, mark, entry))
        self._marks.add(mark)
        self._held_bytes += len(entry.value)
        self._counts.held = len(self._held)

    async def _write(self, drafts: Sequence[Draft]) -> Taken:
        """What came of it. Raises `Unavailable`, `OutcomeUnknown`."""
        news: dict[Key, Entry] = {}
        ends: set[Key] = set()
        refused = 0
        for draft, outcome in zip(drafts, await self._writes.write_many(drafts) if drafts else (), strict=True):
            if isinstance(outcome, (Unavailable, OutcomeUnknown)):
                raise outcome
            if isinstance(outcome, CacheError):
                refused += not isinstance(outcome, Refused) or draft.invalidation is None
                self._alarm("what %s told cannot be carried out: %s", self._peer, outcome)
            elif draft.original is not None:
                self._counts.entries += 1
                if outcome.receipt.matched:
                    self._counts.taken += 1
                    self._counts.conflicts += bool(outcome.receipt.conflict)
                    news[draft.key] = draft.original
                    if outcome.receipt.cascaded:
                        ends.add(draft.key)
            elif draft.invalidation is not None:
                self._counts.invalidations += 1
            else:
                self._counts.published += 1
        return Taken((), news, ends, (), refused)

    def _draft(self, update: Mapping[str, Any]) -> Draft:
        kind, payload = update.get("type"), update.get("payload")
        if not isinstance(payload, dict):
            raise InvalidInput("payload", "is missing")
        match kind:
            case "cache:update":
                return merge(entry_of(payload), peer=self._peer)
            case "cache:invalidate":
                return self._invalidation(parse(InvalidationTold, payload))
            case "publish":
                said = parse(PublicationTold, payload)
                publication = Publication(said.resource, bytes(said.message or b"null"), said.published_by)
                return publish(publication, distribute=False)._replace(idempotency=self._once(said.origin.sequence))
            case _:
                raise InvalidInput("type", "is none that sites tell each other")

    def _invalidation(self, said: InvalidationTold) -> Draft:
        named = Invalidation(
            parse_pattern(said.pattern, field="payload.pattern").text if said.pattern is not None else "",
            tuple(parse_key(key, field=f"payload.keys[{place}]") for place, key in enumerate(said.keys)),
            names(said.tags, field="payload.tags"),
            said.cascade,
            soft=said.soft,
            origin=f"{said.origin.site}:{said.origin.sequence}",
            at=said.at if said.at is not None else inf,  # a site of an older version does not say
        )
        return invalidate(named, idempotency=self._once(said.origin.sequence), actor=f"site:{self._peer}", source=self._peer)

    def _once(self, sequence: int) -> Idempotency:
        """Told again, after a cut, it is not carried out again."""
        return Idempotency(f"site:{self._peer}", str(sequence), "")
