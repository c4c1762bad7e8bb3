"""Restore: what a snapshot holds is put back, batch by batch, where nothing newer is known.

The rule that must not break: an entry comes back only if the key has no newer version, and was neither deleted nor
invalidated since. What happened since the snapshot is read from the log; what happens meanwhile the fold knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from cachesvc.engine.answers import Written
from cachesvc.errors import CacheError, OutcomeUnknown, PositionLost, Refusal, Refused, Unavailable
from cachesvc.model.change import Change, Draft, Kind, restore
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Patterns, in_force
from cachesvc.model.job import Job
from cachesvc.model.position import Position

READ: Final = 500  # records of the log read at a time


class Restorable(Protocol):
    """What is needed of the cache."""

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]: ...


class Logged(Protocol):
    """What is needed of the authority."""

    async def read(self, after: Position, limit: int) -> Sequence[Change]: ...


class Restoring:
    """One restore. `since` is the snapshot's position; None where what happened since cannot be known, and need not be."""

    def __init__(self, cache: Restorable, log: Logged, since: Position | None) -> None:
        self._cache = cache
        self._log = log
        self._read_to = since
        self._patterns = Patterns()

    async def put(self, job: Job, entries: Sequence[Entry]) -> Job:
        """Put entries back; what became of each is counted. Raises `Unavailable`: then none or some of them are back."""
        await self._catch_up()
        kept = [entry for entry in entries if not self._patterns.newest(entry.key, entry.version)]
        outcomes = await self._cache.write_many([restore(entry) for entry in kept])
        counts = {"restored": 0, "skipped": 0, "refused": len(entries) - len(kept)}
        errors: list[tuple[str, str]] = []
        for entry, outcome in zip(kept, outcomes, strict=True):
            if isinstance(outcome, Written):
                counts["restored"] += 1
            elif isinstance(outcome, Refused):
                counts["refused" if outcome.code is Refusal.STALE_FILL else "skipped"] += 1
            elif isinstance(outcome, Unavailable):
                raise outcome
            elif isinstance(outcome, OutcomeUnknown):  # what came back is passed over the next time
                raise Unavailable(str(outcome)) from outcome
            else:
                errors.append((entry.key, str(outcome)))
        return job.counted(**counts).failed_for(errors)

    async def _catch_up(self) -> None:
        """Read what was invalidated by pattern since; each key's own changes are known by its row."""
        while self._read_to is not None:
            changes = await self._log.read(self._read_to, READ)
            for change in changes:
                named = change.invalidation
                if named is not None and named.pattern and change.kind is Kind.INVALIDATE:
                    self._patterns.add(in_force(change.sequence, named.pattern))
            if not changes:
                return
            self._read_to = Position(self._read_to.epoch, changes[-1].sequence)


async def reaches(log: Logged, since: Position) -> bool:
    """Whether all that happened since a position can still be read."""
    try:
        await log.read(since, 1)
    except PositionLost:
        return False
    return True
