"""Fake stores whose every call can be held at a gate, to play one interleaving on purpose."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from cachesvc.errors import Refused, TierUnavailable
from cachesvc.logs.memory_agenda import MemoryAgenda
from cachesvc.model.change import Appended, Change, Draft, Receipt
from cachesvc.model.entry import Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State, Terms, noted
from cachesvc.model.invalidation import InForce, Patterns
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Epoch, Position, Seq, Version
from cachesvc.ports import Copy, TierStats


class Gate:
    """Calls pass while it is open; closed, they wait, and `reached` tells that one does."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = asyncio.Event()

    def close(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    async def __call__(self) -> None:
        if not self._open.is_set():
            self.reached.set()
        await self._open.wait()


class FakeLeases:
    """Leases in a dict, by a clock that is given. Gate: `leases` before they are asked for."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.held: dict[str, tuple[str, float]] = {}
        self.asked: list[list[str]] = []
        self.refused = False
        self.lease_gate = Gate()
        self._time = now

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        await self.lease_gate()
        if self.refused:
            raise TierUnavailable("redis", "away")
        self.asked.append(list(leases))
        now, left = self._time(), {}
        for lease in leases:
            held_by, until = self.held.get(lease, (holder, now))
            left[lease] = until - now if held_by != holder and until > now else 0.0
            if not left[lease]:
                self.held[lease] = holder, now + ttl
        return left

    async def release(self, leases: Collection[str], holder: str) -> None:
        if self.refused:
            raise TierUnavailable("redis", "away")
        for lease in leases:
            if self.held.get(lease, ("", 0.0))[0] == holder:
                del self.held[lease]


class FakeAuthority(FakeLeases, MemoryAgenda):
    """An authority in a dict. Gates: `asked` before a read, `answers` after it, `commits` before and `acks` after an append."""

    name = "database"

    def __init__(self) -> None:
        FakeLeases.__init__(self, lambda: self.now)
        self._items = {}
        self._time = lambda: self.now
        self.terms = Terms()
        self.rows: dict[Key, Entry] = {}
        self.patterns = Patterns()
        self.log: list[Change] = []
        self.base = Position(Epoch(7), Seq(1000))
        self.now = 1000.0
        self.gets: list[list[Key]] = []
        self.batches: list[int] = []
        self.gates: dict[str, Gate] = defaultdict(Gate)
        self.away = False

    @property
    def position(self) -> Position:
        return Position(self.base.epoch, Seq(self.base.sequence + len(self.log)))

    def _check(self) -> None:
        if self.away:
            raise TierUnavailable(self.name, "away")

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        await self.gates["asked"]()
        self._check()
        self.gets.append(list(keys))
        found = {key: self.patterns.hide(self.rows[key]) for key in keys if key in self.rows}
        await self.gates["answers"]()
        return found

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        self._check()
        found = {key: self.patterns.hide(self.rows[key])._replace(value=b"") for key in keys if key in self.rows}
        await self.gates["outlines"]()
        return found

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        await self.gates["commits"]()
        self._check()
        self.batches.append(len(drafts))
        before = self.position
        items = self._held(noted(drafts, self.terms))
        state = State(before, self.now, dict(self.rows), patterns=self.patterns, items=items)
        folded = fold(state, drafts, batch=batch, terms=self.terms)
        self._note(folded.items)
        self.rows |= folded.rows
        for pattern in folded.patterns:
            self.patterns.add(pattern)
        self.log += folded.changes
        outcomes: list[Receipt | Refused] = folded.outcomes
        await self.gates["acks"]()
        return Appended(before, batch, folded.changes, outcomes, frozenset(folded.replayed))

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        self._check()
        first = after.sequence - self.base.sequence
        return self.log[first : first + limit]

    async def head(self) -> Position:
        self._check()
        return self.position

    async def time(self) -> float:
        return self.now

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        for key, entry in self.rows.items():
            yield key, entry.version

    async def stats(self) -> TierStats:
        return TierStats(len(self.rows))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the fake authority has no {name}")


class FakeRedis:
    """The Redis tier as the coherence model describes it, one partition, in a dict."""

    name = "redis"

    def __init__(self, at: Position) -> None:
        self.entries: dict[Key, Entry] = {}
        self.cursor = at
        self.low = at.sequence
        self.recent: dict[Key, int] = {}
        self.gets: list[list[Key]] = []
        self.away = False
        self.gates: dict[str, Gate] = defaultdict(Gate)

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        await self.gates["asked"]()
        if self.away:
            raise TierUnavailable("redis", "away")
        self.gets.append(list(keys))
        trusted = self.cursor.epoch == horizon.epoch and self.cursor.sequence >= horizon.sequence
        found = {key: self.entries[key] for key in keys if key in self.entries} if trusted else {}
        await self.gates["answers"]()
        return found

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        if self.away:
            raise TierUnavailable("redis", "away")
        found = {key: Copy(self.entries[key], self.cursor, 1) for key in keys if key in self.entries}
        await self.gates["looks"]()
        return found

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        await self.gates["puts"]()
        if self.away:
            raise TierUnavailable("redis", "away")
        winners = []
        for entry in entries:
            held = self.entries.get(entry.key)
            if max(token.sequence, entry.version) < self.low or self.recent.get(entry.key, 0) > entry.version:
                winners.append(entry)
            elif held is not None and held.version >= entry.version:
                winners.append(held)
            else:
                self.entries.pop(entry.key, None)
                if not entry.deleted:
                    self.entries[entry.key] = entry
                winners.append(entry)
        return winners

    async def evict(self, keys: Collection[Key]) -> None:
        for key in keys:
            self.entries.pop(key, None)

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        for key, entry in list(self.entries.items()):
            yield key, entry.version

    async def stats(self) -> TierStats:
        return TierStats(len(self.entries))

    def replay(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for key in change.touches:
                held = self.entries.get(key)
                if held is not None and held.version < change.sequence:
                    del self.entries[key]
                self.recent[key] = change.sequence
            self.cursor = Position(self.cursor.epoch, change.sequence)


class FakeMemory:
    """The memory tier as a dict that evicts only when told to."""

    name = "memory"

    def __init__(self, authority: FakeAuthority) -> None:
        self.entries: dict[Key, Entry] = {}
        self._authority = authority

    def hit(self, key: Key) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.live(self._authority.now) else None

    def missed(self) -> None:
        pass

    def peek(self, key: Key) -> Entry | None:
        return self.entries.get(key)

    def store(self, entry: Entry) -> Entry:
        held = self.entries.get(entry.key)
        if held is not None and held.version >= entry.version:
            return held
        self.entries.pop(entry.key, None)
        if not entry.deleted:
            self.entries[entry.key] = entry
        return entry

    def store_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.store(entry)

    def drop(self, key: Key, *, below: int) -> None:
        held = self.entries.get(key)
        if held is not None and held.version < below:
            del self.entries[key]

    def drop_all(self, keys: Iterable[Key], *, below: int) -> None:
        for key in keys:
            self.drop(key, below=below)

    def held(self) -> list[Entry]:
        return list(self.entries.values())

    def room(self, entry: Entry) -> bool:
        return True

    def hot(self, limit: int) -> list[tuple[Key, Version]]:
        return [(key, entry.version) for key, entry in self.entries.items()][:limit]

    def doubt(self, pattern: InForce) -> None:
        for key, entry in list(self.entries.items()):
            if entry.version < pattern.sequence and pattern.pattern.matches(key):
                del self.entries[key]

    async def settle(self) -> None:
        pass

    def clear(self) -> None:
        self.entries.clear()

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        return {key: entry for key in keys if (entry := self.hit(key)) is not None}

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        return [self.store(entry) for entry in entries]

    async def evict(self, keys: Collection[Key]) -> None:
        for key in keys:
            self.entries.pop(key, None)

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        for key, entry in list(self.entries.items()):
            yield key, entry.version

    async def stats(self) -> TierStats:
        return TierStats(len(self.entries))
