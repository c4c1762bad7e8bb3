"""Keeper: the digest of what this site holds, on a node that is asked for it.

It is built by one ordered scan of the authority and then follows the log. The rule that must not break: whatever a record does
not say itself is read from the authority after the record, so that what the digest says was true at some time since.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from cachesvc.errors import PositionLost, Unavailable
from cachesvc.model.change import Change, Kind
from cachesvc.model.digest import Digest
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import mark_of as tag_mark
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Position, Seq
from cachesvc.model.replica import mark_of, shared
from cachesvc.ports import Clock, SiteStore

_log = logging.getLogger(__name__)
PAGE: Final = 1_000  # entries of one statement, and changes of one step
REST: Final = 0.1  # seconds that changes gather while nobody asks: together they cost less
_RETRY: Final = 0.5
_TAG: Final = tag_mark("")


class Log(Protocol):
    """The log as this node has applied it."""

    @property
    def position(self) -> Position: ...

    async def next(self, after: Position, limit: int) -> Sequence[Change]: ...


class Keeper:
    """Keeps the digest while it is asked for, and for `idle` seconds after."""

    def __init__(self, store: SiteStore, log: Log, clock: Clock, *, site: str, idle: float = 600.0) -> None:
        self.digest = Digest()
        self.built = 0  # how often
        self.seconds = 0.0  # that the last time took
        self.applied: Position | None = None  # None: there is none
        self._store = store
        self._log = log
        self._clock = clock
        self._site = site
        self._idle = idle
        self._wanted_until = 0.0
        self._wanted = asyncio.Event()
        self._asked: Position | None = None
        self._hurried = asyncio.Event()
        self._moved = asyncio.Event()
        self._ends: list[tuple[float, Key]] = []  # a heap: when tombstones are no longer kept

    async def current(self) -> Digest:
        """The digest, with all that this node has applied when it is asked for. May take long, since it may have to be built.

        Raises `Unavailable`.
        """
        asked = self._log.position
        self._wanted_until = self._clock.monotonic() + self._idle
        self._wanted.set()
        self._asked = asked
        self._hurried.set()
        while self.applied is None or (self.applied.epoch == asked.epoch and self.applied < asked):
            moved = self._moved
            await moved.wait()
        await self._forget_ended()
        return self.digest

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wanted.wait()
            try:
                await self._build()
                await self._follow()
            except PositionLost as lost:
                _log.info("the digest is built anew: %s", lost)
            except Unavailable as exc:
                _log.info("the digest waits: %s", exc)
                await self._clock.sleep(_RETRY)
            self.applied = None

    async def _build(self) -> None:
        began = self._clock.monotonic()
        start = self._log.position
        digest, self._ends = Digest(), []
        after = ""
        while True:
            rows = await self._store.rows(after=after, limit=PAGE)
            self._put_all(digest, rows)
            if len(rows) < PAGE:
                break
            after = rows[-1].key
            await asyncio.sleep(0)  # others have their turn
        self.digest, self.built = digest, self.built + 1
        self.seconds = self._clock.monotonic() - began
        self._stand(start)

    async def _follow(self) -> None:
        """Until nobody has asked for long."""
        while self._clock.monotonic() < self._wanted_until:
            assert self.applied is not None
            try:
                async with asyncio.timeout(max(0.0, self._wanted_until - self._clock.monotonic())):
                    changes = await self._log.next(self.applied, PAGE)
            except TimeoutError:
                break
            await self._apply(changes)
            self._stand(Position(self.applied.epoch, Seq(changes[-1].sequence)))
            await self._rest()
        self._wanted.clear()
        self.digest = Digest()

    async def _rest(self) -> None:
        """Until somebody asks, or for so long."""
        self._hurried.clear()
        assert self.applied is not None
        if self._asked is None or self._asked.epoch != self.applied.epoch or self._asked <= self.applied:
            with suppress(TimeoutError):
                async with asyncio.timeout(REST):
                    await self._hurried.wait()

    async def _apply(self, changes: Sequence[Change]) -> None:
        read: set[Key] = set()
        for change in changes:
            if change.key is not None and (change.entry is not None or change.kind is Kind.EXPIRE):
                read.discard(change.key)
                self._put(self.digest, change.key, change.entry)
            elif change.invalidation is not None and change.kind is Kind.INVALIDATE:
                read.update(change.invalidation.keys)
                if change.invalidation.pattern:
                    read.update(self._matching(change.invalidation.pattern))
        await self._read(sorted(read), Position(self._log.position.epoch, Seq(changes[-1].sequence)))

    async def _read(self, keys: Sequence[Key], horizon: Position) -> None:
        for start in range(0, len(keys), PAGE):
            some = keys[start : start + PAGE]
            found = await self._store.outline(some, horizon=horizon)
            for key in some:
                self._put(self.digest, key, found.get(key))

    def _matching(self, text: str) -> Iterable[Key]:
        pattern = parse_pattern(text)
        return (key for key, _ in self.digest.marks("") if pattern.matches(key))

    def _put_all(self, digest: Digest, rows: Iterable[Entry]) -> None:
        for row in rows:
            self._put(digest, row.key, row)

    def _put(self, digest: Digest, key: Key, entry: Entry | None) -> None:
        entry = shared(entry) if entry is not None else None
        if entry is None or key.startswith(_TAG):
            digest.put(key, None)
            return
        if entry.deleted:
            if entry.expires_at is not None and entry.expires_at <= self._clock.now():
                digest.put(key, None)
                return
            heapq.heappush(self._ends, (entry.expires_at or 0.0, key))
        digest.put(key, mark_of(entry, self._site))

    async def _forget_ended(self) -> None:
        """Tombstones past their time are swept without a record: look at those that are due, which may be none any more."""
        now = self._clock.now()
        due: set[Key] = set()
        while self._ends and self._ends[0][0] <= now:
            due.add(heapq.heappop(self._ends)[1])
        if due:
            await self._read(sorted(due), self._log.position)

    def _stand(self, position: Position) -> None:
        self.applied = position
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
