"""The authority of an interleaving: a database in dicts. Each method of `Database` is one transaction, `Authority` asks for it.

It follows `logs/database_*.py`: rows hide what a pattern kills, are buried in pages, and tombstones are swept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from cachesvc.errors import EpochChanged, LogTrimmed
from cachesvc.logs.following import Bell, following
from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.entry import Entry, tombstone
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import ENDED_KEPT, Result, State, Terms, asked
from cachesvc.model.invalidation import InForce, Patterns, softened
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.model.relations import related
from cachesvc.ports import Burial, Retention, Standing, Trail
from tests.properties.loop import Time
from tests.properties.wire import Caller, Wire

TERMS = Terms(default_ttl=None, tombstone_ttl=600.0)
POLL = 0.25


class Database:
    """Rows, log, patterns and kept answers. `told(changes)` hears of every commit in the same step."""

    name = "database"

    def __init__(self, time: Time, told: Callable[[Sequence[Change]], None] = lambda _: None) -> None:
        self.rows: dict[Key, Entry] = {}
        self.log: list[Change] = []
        self.base = Position(Epoch(1_000), Seq(1_000))  # an epoch is named by its first sequence
        self.trimmed_to = self.base.sequence
        self.complete_since = Seq(0)
        self.patterns = Patterns()
        self._retired_at: dict[Seq, float] = {}
        self._buried_to: dict[Seq, tuple[str, Burial]] = {}
        self._results: dict[tuple[str, str], Result] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._time = time
        self._told = told

    @property
    def position(self) -> Position:
        return Position(self.base.epoch, Seq(self.base.sequence + len(self.log)))

    def get(self, keys: Collection[Key]) -> Mapping[Key, Entry]:
        return {key: self.patterns.hide(self.rows[key]) for key in keys if key in self.rows}

    def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        now, left = self._time.now(), {}
        for lease in leases:
            held_by, until = self._leases.get(lease, (holder, now))
            left[lease] = until - now if held_by != holder and until > now else 0.0
            if not left[lease]:
                self._leases[lease] = holder, now + ttl
        return left

    def release(self, leases: Collection[str], holder: str) -> None:
        for lease in leases:
            if self._leases.get(lease, ("", 0.0))[0] == holder:
                del self._leases[lease]

    def append(self, drafts: Sequence[Draft], batch: str) -> Appended:
        before = self.position
        state = State(before, self._time.now(), self.rows, self._results, self.complete_since, self.patterns)
        named = drafts[0].invalidation if drafts else None
        if named is not None and named.relates:
            found = related(named, map(self.patterns.hide, self.rows.values()), depth=1_000, most=1_000)
            state = State(before, state.now, self.rows, self._results, self.complete_since, self.patterns, found)
        folded = fold(state, drafts, batch=batch, terms=TERMS)
        self.rows |= folded.rows
        self._results |= {key: folded.results[key] for key in asked(drafts) if key in folded.results}
        for one in folded.patterns:
            self.patterns.add(one)
            if one.retired:
                self._retired_at[one.sequence] = self._time.now()
            else:
                self._buried_to[one.sequence] = "", Burial(done=False)
        self.log += folded.changes
        self._told(folded.changes)
        return Appended(before, batch, folded.changes, folded.outcomes, frozenset(folded.replayed))

    def read(self, after: Position, limit: int) -> Sequence[Change]:
        if after.epoch != self.base.epoch or after.sequence > self.position.sequence:
            raise EpochChanged(after.epoch, self.base.epoch)
        if after.sequence < self.trimmed_to:
            raise LogTrimmed(after.sequence, self.trimmed_to)
        first = after.sequence - self.base.sequence
        return self.log[first : first + limit]

    def standing(self) -> Standing:
        return Standing(self.position, [one for one in self.patterns if not one.retired])

    def trail(self, sequences: Collection[int]) -> Trail:
        last: dict[int, str] = {change.sequence: change.id for change in self.log if change.sequence > self.trimmed_to}
        ids = {Seq(one): last[one] for one in (*sequences, self.position.sequence) if one in last}
        return Trail(self.position, Position(self.base.epoch, self.trimmed_to), ids)

    def oldest(self) -> Position:
        return Position(self.base.epoch, self.trimmed_to)

    def trim(self, retention: Retention) -> int:
        before = self.trimmed_to
        self.trimmed_to = Seq(max(before, self.position.sequence - retention.count))
        return self.trimmed_to - before

    def expired(self, limit: int, past: float) -> Sequence[tuple[Key, Version]]:
        now = self._time.now() - past
        rows = (row for row in self.rows.values() if not row.deleted and not row.live(now))
        return [(row.key, row.version) for row in rows][:limit]

    def sweep(self, limit: int) -> int:
        now = self._time.now()
        gone = [row for row in self.rows.values() if row.deleted and (row.expires_at or 0.0) <= now][:limit]
        for row in gone:
            del self.rows[row.key]
        forgotten = [one.sequence for one in self.patterns if one.retired and self._retired_at[one.sequence] < now - ENDED_KEPT]
        retired = {one.sequence: one.retired for one in self.patterns}
        if forgotten:
            self.patterns.forget_retired(max(retired[sequence] for sequence in forgotten))
        self.complete_since = Seq(max([self.complete_since, *(row.version for row in gone), *forgotten]))
        return len(gone)

    def bury(self, one: InForce, limit: int) -> Burial:
        held = self.patterns.find(one.name)
        if held is None or held.sequence != one.sequence or held.retired:
            return Burial(done=True)
        after, burial = self._buried_to[one.sequence]
        page = sorted(key for key in self.rows if key > after)[:limit]
        others = Patterns(other for other in self.patterns if not other.soft)
        dead = [row for key in page if _kills(one, row := self.rows[key])]
        if one.soft:  # what a harder one kills is left to that
            dead = [row for row in dead if not others.newest(row.key, row.version)]
        for row in dead:
            ended = tombstone(row.key, Version(one.sequence), now=self._time.now(), keep=ENDED_KEPT)
            self.rows[row.key] = softened(row, one.sequence, at=one.at) if one.soft else ended
        burial = Burial(len(page) < limit, burial.looked + len(page), burial.buried + len(dead))
        self._buried_to[one.sequence] = (page[-1] if page else after), burial
        return burial


def _kills(one: InForce, row: Entry) -> bool:
    return not row.deleted and row.version < one.sequence and one.pattern.matches(row.key)


class Authority:
    """The database as one node reaches it: every method is a call on the wire."""

    name = "database"

    def __init__(self, database: Database, wire: Wire, node: Caller, bell: Bell) -> None:
        self._database = database
        self._wire = wire
        self._node = node
        self._bell = bell

    async def _ask(self, name: str, *arguments: Any) -> Any:
        method = getattr(self._database, name)
        return await self._wire.call(self._node, self.name, name, lambda: method(*arguments))

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Any:
        return await self._ask("get", keys)

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Any:
        return await self._ask("append", drafts, batch)

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Any:
        return await self._ask("acquire", leases, holder, ttl)

    async def release(self, leases: Collection[str], holder: str) -> Any:
        return await self._ask("release", leases, holder)

    async def read(self, after: Position, limit: int) -> Any:
        return await self._ask("read", after, limit)

    async def head(self) -> Any:
        return (await self._ask("standing")).position

    async def standing(self) -> Any:
        return await self._ask("standing")

    async def trail(self, sequences: Collection[int]) -> Any:
        return await self._ask("trail", sequences)

    async def oldest(self) -> Any:
        return await self._ask("oldest")

    async def trim(self, retention: Retention) -> Any:
        return await self._ask("trim", retention)

    async def expired(self, *, limit: int, past: float = 0.0) -> Any:
        return await self._ask("expired", limit, past)

    async def sweep(self, *, limit: int) -> Any:
        return await self._ask("sweep", limit)

    async def bury(self, pattern: InForce, *, limit: int) -> Any:
        return await self._ask("bury", pattern, limit)

    async def keep_job(self, job: Job) -> None:
        """Jobs are beside the log: no promise of these histories is about them."""

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        return following(self.read, after, bell=self._bell, poll_interval=POLL, known=known)
