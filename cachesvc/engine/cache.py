"""The cache: one interface over memory, Redis, the authority and the loaders.

A hit in memory is answered without an await; everything else follows the rules of `floors.py`, `reads.py` and `writes.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cachesvc.breaker import Breaker
from cachesvc.engine.answers import ANY, Answer, Want, Written
from cachesvc.engine.flight import Flights
from cachesvc.engine.floors import Floors
from cachesvc.engine.leash import Leash
from cachesvc.engine.load_terms import Loading
from cachesvc.engine.no_memory import NoMemory
from cachesvc.engine.puts import Puts
from cachesvc.engine.reads import Reads
from cachesvc.engine.writes import Writes
from cachesvc.errors import CacheError, PositionLost, Unavailable
from cachesvc.model.change import Appended, Change, Draft, Kind
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import MANY, InForce, Invalidation, in_force
from cachesvc.model.keys import Key
from cachesvc.model.pattern import ENUMERATED, enumerate_keys
from cachesvc.model.position import Gap, Position, Seq, Version
from cachesvc.ports import Authority, Clock, Loader, Memory, Tier

TIMED = 64  # one of so many hits in memory is timed: asking the time costs as much as a hit


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the engine; counts of items, bytes, and seconds."""

    floors: int = 200_000
    pending_reads: int = 50_000
    pending_writes: int = 50_000
    pending_puts: int = 10_000
    pending_write_bytes: int = 64 << 20
    pending_put_bytes: int = 64 << 20
    batch_reads: int = 512
    batch_drafts: int = 512
    batch_bytes: int = 4 << 20
    read_lanes: int = 4
    min_version_wait: float = 1.0


class Cache:
    """All tiers behind one interface.

    Its lanes (`lanes()`) run in a task group of the caller's; `applied_changed` is awaited by readers that need a version
    not applied yet, and returns after each applied change.
    """

    def __init__(
        self,
        *,
        memory: Memory | None,
        redis: Tier | None,
        authority: Authority,
        start: Position,
        patterns: Iterable[InForce] = (),
        gaps: Sequence[Gap] = (),
        clock: Clock,
        new_batch: Callable[[], str],
        loaders: Mapping[str, Loader] | None = None,
        loading: Loading | None = None,
        limits: Limits | None = None,
        appended: Callable[[Appended], None] = lambda _: None,
    ) -> None:
        limits = limits or Limits()
        self.authority = authority
        self.memory: Memory = memory if memory is not None else NoMemory()
        self.redis = redis
        self.clock = clock
        self.breaker = Breaker(clock)
        self.authority_reads = Breaker(clock)
        # Of its own, since what cannot append (a lock) may well be read; and opened by one failure: there is one append at a
        # time, with a time limit for itself, and all behind it would wait for the next to fail. Being wrong costs one pause.
        self.authority_writes = Breaker(clock, threshold=1)
        self.flights = Flights()
        self.floors = Floors(
            start, limit=limits.floors, on_raise=self._forget_older, on_raise_all=self._forget_all_older, patterns=patterns
        )
        self.puts = Puts(
            redis,
            self.breaker,
            most=limits.batch_drafts,
            pending=limits.pending_puts,
            most_bytes=limits.batch_bytes,
            pending_bytes=limits.pending_put_bytes,
        )
        self.writes = Writes(
            memory=self.memory,
            authority=authority,
            floors=self.floors,
            puts=self.puts,
            breaker=self.authority_writes,
            invalidate=self._invalidate,
            appended=appended,
            new_batch=new_batch,
            clock=clock,
            most=limits.batch_drafts,
            weight=limits.batch_bytes,
            pending=limits.pending_writes,
            pending_weight=limits.pending_write_bytes,
        )
        self.reads = Reads(
            memory=self.memory,
            redis=redis,
            authority=authority,
            loaders=loaders or {},
            loading=loading or Loading(),
            fill=self._fill,
            floors=self.floors,
            flights=self.flights,
            puts=self.puts,
            breaker=self.breaker,
            authority_breaker=self.authority_reads,
            clock=clock,
            most=limits.batch_reads,
            pending=limits.pending_reads,
            lanes=limits.read_lanes,
        )
        self._gaps = gaps
        self.leash = Leash(clock)
        self._hit = self.memory.hit
        self._min_version_wait = limits.min_version_wait
        self._moved = asyncio.Event()
        self.invalidated = asyncio.Event()  # set by each invalidation that was applied: whoever waits for it clears it
        self._doubtful = asyncio.Event()  # patterns came into force: memory is to be settled
        self._closing = False
        self._loads = frozenset(loaders or ())
        self._asked = 0

    # reading

    async def get(self, key: Key) -> Entry | None:
        """The live entry, from wherever it is first found; None when there is none."""
        entry = self._hit(key)
        if entry is not None:
            return entry
        self.memory.missed()
        return (self._unhit(key, ANY) or (await self.reads.ask(key, load=True)).within(0.0)).entry

    def hit(self, key: Key) -> Entry | None:
        """The live entry that memory has, without an await. A miss is not counted: who is not answered goes on to `read`."""
        return self._sampled_hit(key)

    async def read(self, key: Key, want: Want = ANY) -> Answer:
        """The entry with where it was found, read as `want` says. Raises `Unavailable`."""
        while True:
            answer = await self._read(key, want)
            if self.clock.monotonic() < self.leash.until:
                return answer
            try:
                async with asyncio.timeout(self._min_version_wait):
                    await self.leash.held()  # what this node knew when it was frozen is read again
            except TimeoutError:
                raise Unavailable("this node was frozen, and has not found out yet what was written meanwhile") from None

    async def _read(self, key: Key, want: Want) -> Answer:
        if want.min_version is not None and any(gap.holds(want.min_version) for gap in self._gaps):
            return await self._of_a_lost_history(key, want.min_version)
        if want.min_version is not None and want.min_version > self.floors.applied.sequence:
            caught_up = await self._applied(want.min_version)
            if not caught_up:
                return await self._at_least(key, want.min_version, load=not want.only_cached)
        if want.fresh:
            return (await self.reads.ask_authority(key, load=not want.only_cached)).within(want.max_stale)
        entry = self._sampled_hit(key)
        if entry is not None:
            return Answer(entry, self.memory.name, self.floors.applied, self.clock.now())
        self.memory.missed()
        unhit = self._unhit(key, want)
        if unhit is not None:
            return unhit
        return (await self.reads.ask(key, load=not want.only_cached)).within(want.max_stale)

    def _unhit(self, key: Key, want: Want) -> Answer | None:
        """What memory has that is no hit, where it is an answer all the same."""
        known = self.reads.stale.in_memory(key, load=not want.only_cached)
        if known is not None:
            return Answer(known[0], self.memory.name, self.floors.applied, self.clock.now(), mark=known[1])
        if want.max_stale:
            held, now = self.memory.peek(key), self.clock.now()
            if held is not None and held.expires_at is not None and now < held.expires_at + want.max_stale:
                return Answer(held, self.memory.name, self.floors.applied, now)
        return None

    async def read_many(self, keys: Collection[Key]) -> list[Answer | CacheError]:
        """`read` of many keys at once, in order: one round trip to each tier below memory. One that fails leaves the others."""
        return list(await asyncio.gather(*map(self._read_or_not, keys)))

    async def _read_or_not(self, key: Key) -> Answer | CacheError:
        try:
            return await self.read(key)
        except CacheError as exc:
            return exc

    async def lift(self, keys: Collection[Key]) -> tuple[int, int, Collection[Key]]:
        """Bring what the authority has of these keys up into Redis, and into memory where there is room for it.

        How many are up there now that were not, and how many live ones there was no need or no place for; and those that are
        nowhere up there, since Redis is away. Raises `Unavailable`.
        """
        if self.authority_reads.refuses:
            raise self.authority_reads.away(self.authority.name)
        token = self.floors.applied
        found = await self.authority.get(keys, horizon=self.floors.horizon)
        now = self.clock.now()
        # from here to the storing is one step: no await
        live = [entry for entry in found.values() if entry.live(now)]
        up = [entry for entry in live if self.floors.admits(entry.key, entry.version, token)]
        stored = 0
        for entry in up:
            if self.memory.peek(entry.key) is None and self.memory.room(entry):
                self.floors.take(entry.key, entry.version, token)
                self.memory.store(entry)
                stored += 1
        if self.redis is None or not up or await self.puts.put([(entry, token) for entry in up]):
            kept = len(up) if self.redis is not None else stored
            return kept, len(live) - kept, ()
        lost = [entry.key for entry in up if self.memory.peek(entry.key) is None]
        return stored, len(live) - stored - len(lost), lost

    # writing

    async def write(self, draft: Draft) -> Written:
        """Append one draft. Raises `Refused`, `Unavailable`, `OutcomeUnknown`."""
        written, _ = await self.writes.write(draft)
        return written

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]:
        """Append many at once, in order; one that is refused leaves the others."""
        asked: list[asyncio.Future[tuple[Written, Change | None] | CacheError] | CacheError] = []
        for draft in drafts:
            try:
                asked.append(self.writes.ask(draft))
            except Unavailable as exc:
                asked.append(exc)
        outcomes: list[Written | CacheError] = []
        for future in asked:
            outcome = future if isinstance(future, CacheError) else await future
            outcomes.append(outcome if isinstance(outcome, CacheError) else outcome[0])
        return outcomes

    async def _fill(self, draft: Draft) -> Entry:
        _, change = await self.writes.write(draft)
        entry = change.entry if change is not None else None
        if change is not None and not change.value_held:
            entry = (await self.reads.ask_authority(draft.key, load=False)).entry
        if entry is None:
            raise Unavailable("a loaded value was not kept")
        return entry

    @property
    def modules_loaded(self) -> Collection[str]:
        """The modules that have a loader."""
        return self._loads

    # following

    @property
    def applied(self) -> Position:
        """How far this node has applied the log."""
        return self.floors.applied

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes of the log, in order: raise floors, forget what is older. No await in here."""
        floors = self.floors
        for change in changes:
            if change.key is not None:
                floors.raise_to(change.key, change.sequence)
            elif change.invalidation is not None:
                self._follow_invalidation(change, change.invalidation)
        if changes:
            floors.apply(changes[-1].sequence)
            self._wake()

    def start_over(self, at: Position, patterns: Iterable[InForce] = (), gaps: Sequence[Gap] = ()) -> None:
        """The log cannot be followed from where this node stood: forget everything, and stand at `at`."""
        self._gaps = gaps
        self.memory.clear()
        self.reads.stale.absences.clear()
        self.flights.part_all()
        self.floors.start_over(at, patterns)
        self._wake()

    def _follow_invalidation(self, change: Change, named: Invalidation) -> None:
        if change.kind is Kind.RETIRE:
            self.floors.retire(named.name, named.retires, at=change.sequence)
        else:
            self._invalidate(change, named)

    def _invalidate(self, change: Change, named: Invalidation) -> None:
        """What an invalidation names is gone from here, in one step."""
        self.invalidated.set()
        self.floors.raise_all(named.keys, change.sequence)
        if named.pattern:
            pattern = in_force(change.sequence, named.pattern, at=change.at, soft=named.soft)
            self.floors.invalidate(pattern)
            self.memory.doubt(pattern)
            self.flights.part_all()
            self._doubtful.set()

    async def _settle(self) -> None:
        while not self._closing:
            await self._doubtful.wait()
            self._doubtful.clear()
            await self.memory.settle()

    # running

    def lanes(self) -> list[Coroutine[Any, Any, None]]:
        """The coroutines that do the work; each ends after `close`."""
        return [
            self.writes.combiner.serve(),
            *(stage.serve() for stage in self.reads.stages for _ in range(stage.lanes)),
            self.reads.loads.serve(),
            self.puts.serve(),
            self._settle(),
        ]

    def close(self) -> None:
        """Take nothing new; finish what was taken."""
        self.writes.combiner.close()
        for stage in self.reads.stages:
            stage.close()
        self.reads.loads.close()
        self.puts.close()
        self._closing = True
        self._doubtful.set()

    def _forget_older(self, key: Key, version: int) -> None:
        self.memory.drop(key, below=version)
        self.flights.part(key)
        self.reads.stale.absences.drop(key, below=version)
        self.reads.loads.room.wake(key)

    def _forget_all_older(self, keys: Collection[Key], version: int) -> None:
        if len(keys) > MANY:  # a hundred thousand take a tenth of a second: they are no hits, and forgotten in their time
            self.memory.doubt(InForce(Seq(version), enumerate_keys(keys, text=f"{ENUMERATED}{version}")))
            self._doubtful.set()
        else:
            self.memory.drop_all(keys, below=version)
        self.flights.part_each(keys)
        self.reads.stale.absences.drop_all(keys, below=version)
        self.reads.loads.room.wake_all(keys)

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _applied(self, version: Version) -> bool:
        """Wait until this node has applied `version`; False when that takes too long."""
        try:
            async with asyncio.timeout(self._min_version_wait):
                while self.floors.applied.sequence < version:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _sampled_hit(self, key: Key) -> Entry | None:
        self._asked += 1
        return self._hit(key) if self._asked % TIMED else self._timed_hit(key)

    def _timed_hit(self, key: Key) -> Entry | None:
        began = self.clock.monotonic()
        entry = self._hit(key)
        self.reads.latencies[self.memory.name].note(self.clock.monotonic() - began)
        return entry

    async def _of_a_lost_history(self, key: Key, version: Version) -> Answer:
        """What was this version may be lost: an entry at least as new will do, but that there is none says nothing.

        Raises `PositionLost`.
        """
        answer = await self._at_least(key, version, load=False)
        if answer.entry is None or answer.entry.version < version:
            raise PositionLost(f"version {version} may be of a history that was lost")
        return answer

    async def _at_least(self, key: Key, version: Version, *, load: bool) -> Answer:
        if self.authority_reads.refuses:
            raise self.authority_reads.away(self.authority.name)
        head = await self.authority.head()
        if head.sequence < version:
            raise Unavailable(f"version {version} is not known here (the log is at {head.sequence})")
        return (await self.reads.ask_authority(key, load=load)).within(0.0)
