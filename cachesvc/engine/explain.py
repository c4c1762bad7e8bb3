"""Explain: what each level holds of a key, whether it would be believed, and why the last read hit or missed.

It changes nothing: what is looked at is neither promoted nor counted. Each level is looked at by itself, so under writes the
answer may show two moments; it always shows the floors as they were before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cachesvc.engine.cache import Cache
from cachesvc.engine.last_reads import LastRead, Reason
from cachesvc.errors import PositionLost, Unavailable
from cachesvc.model.change import Change
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.ports import Holding, Inspected, Source

MOST_DEPENDENTS: Final = 100
MOST_PATTERNS: Final = 100


@dataclass(frozen=True, slots=True)
class Explained:
    """What one level has. `doubt` is why what it has, or lacks, would not be believed; `last` its last read on this node."""

    holding: Holding
    doubt: str
    last: LastRead | None

    @property
    def present(self) -> bool:
        """Whether it holds the key, be it past its life or in doubt; a tombstone is not an entry."""
        entry = self.holding.entry
        return not entry.deleted if entry is not None else self.holding.version is not None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a key, here and now.

    `levels` are the enabled ones by name, from the top; `newest` is the entry of the highest version among them. `change` is
    the record that wrote that version, None when it is trimmed. `dependents` are the first `MOST_DEPENDENTS` (then
    `more_dependents` tells whether there are more), None where the authority keeps no index of them. `patterns` are the
    newest `MOST_PATTERNS` in force here that match.
    """

    key: Key
    now: float
    levels: Mapping[str, Explained]
    newest: Entry | None
    change: Change | None
    dependents: Sequence[Key] | None
    more_dependents: bool
    last_load: LastRead | None
    patterns: Sequence[InForce]
    floor: int
    applied: Position
    horizon: Position


async def explain(cache: Cache, key: Key) -> Explanation:
    """Look at a key on every level. A level that does not answer says so; nothing is raised for it."""
    floors = cache.floors
    floor, applied, horizon = floors.floor(key), floors.applied, floors.horizon
    patterns = floors.patterns.matching(key)[:MOST_PATTERNS]
    levels: dict[str, Explained] = {}
    guarded = cache.redis.name if cache.redis is not None else ""
    sources: tuple[Source | None, ...] = (cache.memory, cache.redis, cache.authority)
    # a memory that is the authority is one level
    looked = {source.name: source for source in reversed(sources) if source is not None and isinstance(source, Inspected)}
    looks = [
        _look(source, key, horizon, cache.breaker.state if name == guarded else "closed") for name, source in looked.items()
    ]
    # all at once: one that hangs costs its own time limit and no other's
    dependents, holdings = await asyncio.gather(_dependents(cache, key), asyncio.gather(*looks))
    for source, holding in reversed(list(zip(looked.values(), holdings, strict=True))):
        doubt = holding.doubt
        if not doubt and source.name != cache.authority.name and holding.version is not None and holding.version < floor:
            doubt = f"its version is below the floor, {floor}"
        last = _last(cache, source.name, key)
        if holding.since is not None:
            last = _last_in_memory(doubt, last, since=holding.since)
        levels[source.name] = Explained(holding, doubt, last)
    held = [level.holding for level in levels.values() if level.holding.version is not None]
    newest = max(held, key=lambda holding: holding.version or 0, default=None)
    return Explanation(
        key,
        cache.clock.now(),
        levels,
        newest.entry if newest is not None else None,
        await _writer(cache, key, newest.version) if newest is not None and newest.version else None,
        dependents[:MOST_DEPENDENTS] if dependents is not None else None,
        dependents is not None and len(dependents) > MOST_DEPENDENTS,
        _last(cache, "loader", key),
        patterns,
        floor,
        applied,
        horizon,
    )


def _last(cache: Cache, level: str, key: Key) -> LastRead | None:
    noted = cache.reads.last.get(level)
    return noted.of(key) if noted is not None else None


def _last_in_memory(doubt: str, noted: LastRead | None, *, since: float) -> LastRead | None:
    """The last read of what memory holds `since` then: a hit, whenever it was; past its stay a miss, where one was noted."""
    if not doubt:
        return LastRead(Reason.HIT, since)
    return LastRead(Reason.EXPIRED, noted.at) if noted is not None and noted.at >= since else None


async def _look(source: Inspected, key: Key, horizon: Position, breaker: str) -> Holding:
    if breaker != "closed":
        return Holding(doubt=f"its breaker is {breaker}")
    try:
        return await source.inspect(key, horizon=horizon)
    except Unavailable as exc:
        return Holding(doubt=str(exc))


async def _writer(cache: Cache, key: Key, version: Version) -> Change | None:
    """The record of a version, which is its sequence; of what was invalidated, the invalidation."""
    try:
        changes = await cache.authority.read(Position(cache.applied.epoch, Seq(version - 1)), 1)
    except (PositionLost, Unavailable):
        return None
    return next((change for change in changes if int(change.sequence) == version and change.key in (key, None)), None)


async def _dependents(cache: Cache, key: Key) -> Sequence[Key] | None:
    try:
        return await cache.authority.dependents(key, limit=MOST_DEPENDENTS + 1)
    except Unavailable:
        return None
