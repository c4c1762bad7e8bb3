"""The memory authority: rows in the memory tier and a ring of the latest changes, when memory is all that is enabled.

The rule that must not break: `append` has no await, so nobody sees a batch half done. What the tier evicts is lost, as
memory loses it: the key is absent then. What changed since when is known from the ring, not from the rows.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import islice
from typing import Final

from cachesvc.errors import InvalidInput
from cachesvc.logs.following import Bell, following
from cachesvc.logs.memory_agenda import MemoryAgenda
from cachesvc.logs.memory_answers import Answers
from cachesvc.logs.memory_jobs import MemoryJobs
from cachesvc.logs.memory_ring import Ring
from cachesvc.logs.outcomes import pack_batch
from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.entry import Entry, tombstone
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State, Terms, asked, base_of, based, doubted, noted, touched
from cachesvc.model.invalidation import InForce, Invalidation, Patterns, Related, hit
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Gap, Position, Seq, Version, first_sequence, pack_gaps, parse_gaps
from cachesvc.model.relations import related
from cachesvc.model.revocation import Revocation
from cachesvc.ports import (
    LONGEST_LEASE,
    NODES_KEPT,
    Burial,
    Clock,
    Holding,
    Listed,
    Memory,
    NodeRecord,
    Retention,
    Standing,
    TierStats,
    Trail,
)

RING: Final = Retention(count=100_000, bytes=64 << 20)
_TRIM_STEP: Final = 10_000


class MemoryAuthority(MemoryJobs, MemoryAgenda):
    """`ports.Authority` of one process, over a memory tier that nothing else writes differently.

    `ring` bounds the log by itself; `trim` may make it shorter. Answers are kept `idempotency_ttl` seconds at most, the oldest
    less when they are many.
    """

    name = "memory"

    def __init__(
        self,
        rows: Memory,
        *,
        terms: Terms,
        clock: Clock,
        poll_interval: float = 0.25,
        idempotency_ttl: float = 86_400.0,
        nodes_kept: float = NODES_KEPT,
        ring: Retention = RING,
    ) -> None:
        MemoryJobs.__init__(self)
        MemoryAgenda.__init__(self, clock)
        self._rows = rows
        self._terms = terms
        self._clock = clock
        self._poll_interval = poll_interval
        self._ring = Ring(first_sequence(clock.now()), ring)
        self._gaps: tuple[Gap, ...] = ()
        self._nodes_kept = nodes_kept
        self._answers = Answers(clock, idempotency_ttl)
        self._patterns = Patterns()
        self._revocations: dict[str, Revocation] = {}
        self._burials: dict[Seq, Burial] = {}
        self._ends: list[tuple[float, Key, Version]] = []  # a heap; entries written since stay in it for a while
        self._ends_held = 0  # how many of them were held when last looked at
        self._bell = Bell()
        self._nodes: dict[str, NodeRecord] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._dictionaries: list[tuple[int, str, bytes]] = []

    # the log

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        ring, now = self._ring, self._clock.now()
        before = ring.head
        rows = {key: row for key in touched(drafts) if (row := self._row(key, now)) is not None}
        relations = self._related(drafts)
        rows |= {key: row for key in (*relations.tagged, *relations.dependents) if (row := self._row(key, now)) is not None}
        state = State(
            before,
            now,
            rows,
            self._answers.find(asked(drafts)),
            ring.since,
            self._patterns,
            relations,
            items=self._held(noted(drafts, self._terms)),
            bases=dict(filter(None, map(base_of, ring.at(based(drafts))))),
            members=self._members(drafts),
        )
        folded = fold(state, drafts, batch=batch, terms=self._terms)
        self._store(folded.rows.values())
        self._put_in_force(folded.patterns)
        self._note(folded.items)
        if drafts:
            self._answers.keep(folded.results, batch, pack_batch(drafts, folded.outcomes))
        if folded.changes:
            ring.extend(folded.changes)
            ring.note(folded.rows)
            for revoked in folded.revocations:
                held = self._revocations.get(revoked.name, revoked)
                self._revocations[revoked.name] = max(held, revoked)
            self._bell.ring(ring.head.sequence)
        return Appended(before, batch, folded.changes, folded.outcomes, frozenset(folded.replayed))

    def _put_in_force(self, patterns: Patterns) -> None:
        for one in patterns:
            self._patterns.add(one)
            if not one.retired:
                rows, now = list(self._rows.held()), self._clock.now()
                older = [row for row in rows if row.version < one.sequence and one.pattern.matches(row.key)]
                dead = sum(hit(row, now, soft=one.soft) for row in older)
                self._ring.mark({tag for row in older for tag in row.tags}, one.sequence)
                self._burials[one.sequence] = Burial(True, len(rows), dead, one.at)
                if one.soft:
                    self._store(map(self._patterns.hide, rows))
                self._rows.doubt(one)

    def _members(self, drafts: Sequence[Draft]) -> set[tuple[str, str]]:
        """Of the patterns of these drafts only: those in force have moved the marks of their tags already."""
        named = doubted(drafts, Patterns())
        rows = [row for row in self._rows.held() if row.tags] if named else []
        return {
            (one.text, tag) for one, tags in named.items() for row in rows if one.matches(row.key) for tag in tags & {*row.tags}
        }

    def _related(self, drafts: Sequence[Draft]) -> Related:
        named = drafts[0].invalidation if drafts else None
        return self._reach(named) if named is not None and named.relates else Related()

    def _reach(self, named: Invalidation) -> Related:
        return related(named, self._rows.held(), depth=self._terms.max_cascade_depth, most=self._terms.max_cascade)

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        return self._ring.read(after, limit)

    async def head(self) -> Position:
        return self._ring.head

    async def standing(self) -> Standing:
        active = [one for one in self._patterns if not one.retired]
        return Standing(self._ring.head, active, self._gaps, list(self._revocations.values()))

    async def oldest(self) -> Position:
        return Position(self._ring.head.epoch, self._ring.since)

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        return following(self.read, after, bell=self._bell, poll_interval=self._poll_interval, known=known)

    async def trim(self, retention: Retention) -> int:
        return self._ring.trim(retention, before=self._clock.now() - retention.age, limit=_TRIM_STEP)

    async def trail(self, sequences: Collection[int]) -> Trail:
        ring = self._ring
        ids = {Seq(sequence): found for sequence in (*sequences, ring.head.sequence) if (found := ring.id_at(sequence))}
        return Trail(ring.head, Position(ring.head.epoch, ring.since), ids)

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position:
        ring = self._ring
        if ring.head.epoch <= seen.epoch or ring.head.sequence < seen.sequence:
            last_kept = min(ring.head.sequence, seen.sequence if kept is None else kept)
            ring.restart(first_sequence(self._clock.now(), max(ring.head.sequence, seen.sequence)))
            gap = Gap(Seq(last_kept + 1), Seq(ring.head.sequence - 1))
            self._gaps = parse_gaps(pack_gaps([*self._gaps, gap]))
            self._bell.ring()
        return Position(ring.head.epoch, Seq(ring.head.epoch))  # an epoch is named by its first sequence

    # the rows

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """The rows, whatever the `horizon`: nothing has seen more than they have."""
        live = await self._rows.get(keys, horizon=horizon)
        found = ((key, live.get(key) or self._rows.peek(key)) for key in keys)
        return {key: entry for key, entry in found if entry is not None}

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        found = ((key, self._rows.peek(key)) for key in keys)
        return {key: entry._replace(value=b"") for key, entry in found if entry is not None}

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        for found in sorted([found async for found in self._rows.scan(pattern)]):  # code points sort as their UTF-8 does
            yield found

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False) -> Sequence[Listed]:
        now = self._clock.now()
        keys = [key async for key, _ in self._rows.scan(pattern) if after is None or key > after]
        entries = (self._rows.peek(key) for key in sorted(keys))
        found = (entry for entry in entries if entry is not None and hit(entry, now, soft=not stale))
        return [Listed(entry._replace(value=b""), len(entry.value)) for entry in islice(found, limit)]

    async def reach(self, invalidation: Invalidation) -> Related:
        return self._reach(invalidation)

    async def backfill(self) -> None:
        """Nothing: there is no index."""

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        raise InvalidInput(next(iter(fields), "query"), "is not indexed: that needs the database level")

    async def stats(self) -> TierStats:
        return await self._rows.stats()

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        row = self._rows.peek(key)
        return Holding(row, row.version if row is not None else None)

    async def dependents(self, name: str, *, limit: int) -> Sequence[Key] | None:
        return None

    async def expired(self, *, limit: int, past: float = 0.0) -> Sequence[tuple[Key, Version]]:
        now = self._clock.now() - past
        due: list[tuple[float, Key, Version]] = []
        while self._ends and self._ends[0][0] <= now and len(due) < limit:
            end = heapq.heappop(self._ends)
            if self._is_held(end):
                due.append(end)
        for end in due:
            heapq.heappush(self._ends, end)  # they are due until an EXPIRE has ended them
        return [(key, version) for _, key, version in due]

    async def sweep(self, *, limit: int) -> int:
        """Drop kept answers past their time; a deletion leaves no row here, the ring remembers it."""
        now = self._clock.now()
        self._nodes = {name: node for name, node in self._nodes.items() if now - node.seen_at <= self._nodes_kept}
        self._leases = {lease: held for lease, held in self._leases.items() if held[1] > now}
        self._patterns.forget_retired(self._ring.since)
        self._revocations = {name: one for name, one in self._revocations.items() if not one.past(now)}
        remembered = {one.sequence for one in self._patterns}
        self._burials = {sequence: burial for sequence, burial in self._burials.items() if sequence in remembered}
        return self._answers.sweep(limit)

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        """The tier lets go of all that is dead, in paces of its own."""
        await self._rows.settle()
        return self._burials.get(pattern.sequence, Burial(done=True))

    async def burials(self) -> Mapping[InForce, Burial]:
        return {one: self._burials.get(one.sequence, Burial(done=True)) for one in self._patterns}

    async def time(self) -> float:
        return self._clock.now()

    # what nodes share

    async def heartbeat(self, record: NodeRecord) -> None:
        self._nodes[record.node] = replace(record, seen_at=self._clock.now())

    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]:
        since = self._clock.now() - seen_within
        return [node for node in self._nodes.values() if node.seen_at >= since]

    async def leave(self, node: str) -> None:
        self._nodes.pop(node, None)

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        now = self._clock.now()
        left: dict[str, float] = {}
        for lease in leases:
            held_by, until = self._leases.get(lease, (holder, now))
            left[lease] = until - now if held_by != holder and now < until <= now + LONGEST_LEASE * ttl else 0.0
            if not left[lease]:
                self._leases[lease] = holder, now + ttl
        return left

    async def release(self, leases: Collection[str], holder: str) -> None:
        for lease in leases:
            if self._leases.get(lease, ("", 0.0))[0] == holder:
                del self._leases[lease]

    async def add_dictionary(self, module: str, data: bytes) -> int:
        self._dictionaries.append((len(self._dictionaries) + 1, module, data))
        return len(self._dictionaries)

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        return self._dictionaries[after:]

    def _row(self, key: Key, now: float) -> Entry | None:
        """The row; where it was deleted, ended or evicted since the ring begins, a tombstone at its last change."""
        row = self._rows.peek(key)
        last = self._ring.last.get(key, 0)
        if last and (row is None or row.version < last):
            return tombstone(key, Version(last), now=now, keep=0.0)
        return row

    def _store(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._rows.store(entry)
            if entry.expires_at is not None and not entry.deleted:
                heapq.heappush(self._ends, (entry.expires_at, entry.key, entry.version))
        if len(self._ends) > self._ends_held * 2 + 1_000:
            self._ends = [end for end in self._ends if self._is_held(end)]
            heapq.heapify(self._ends)
            self._ends_held = len(self._ends)

    def _is_held(self, end: tuple[float, Key, Version]) -> bool:
        row = self._rows.peek(end[1])
        return row is not None and row.version == end[2]
