"""Tiers: the places above the authority where entries are kept for a while, and what every level tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from cachesvc.model.change import Change
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version


@dataclass(frozen=True, slots=True)
class TierStats:
    """What a tier knows of itself; counts since its start. `entries` and `bytes` are None where they are not known.

    What is dear to count is counted now and then, and may be an estimate.
    """

    entries: int | None = None
    bytes: int | None = None
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one level has under a key, looked at without being used.

    `entry` is None where nothing is held, or nothing that can be read. `stays` is in seconds, None where it is not by time
    that this level lets go of it. `stored` is its bytes as they lie there, `replayed` how far the log was replayed into it,
    where that is something else than the entry's own. `doubt` is why a read would not believe it, "" where it would.
    `since` is when it came there as it is, in Unix seconds, None where that is not known.
    """

    entry: Entry | None = None
    version: Version | None = None
    stays: float | None = None
    stored: int | None = None
    replayed: Position | None = None
    doubt: str = ""
    since: float | None = None


class Copy(NamedTuple):
    """An entry as a tier above the authority holds it, looked at without being used.

    Every change up to `told` has been applied to what this tier holds under its key. `size` is in bytes, as it lies there.
    """

    entry: Entry
    told: Position
    size: int


@runtime_checkable
class Inspected(Protocol):
    """A level that can be looked into."""

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        """What is held under a key, neither counted nor refreshed. `horizon` as for `Source.get`. Raises `TierUnavailable`."""
        ...


class Source(Protocol):
    """Where entries are read."""

    @property
    def name(self) -> str:
        """`"memory"`, `"redis"` or `"database"`: in settings, answers, metrics."""
        ...

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """The entries of those keys that are held and can be believed, in one round trip; others are not in the answer.

        An entry counts only if this source is of `horizon`'s epoch and has seen every change up to `horizon`. Expired
        entries and tombstones may be in the answer of the authority (its callers need the version); of a tier only what is past
        its life for no longer than the tier was told to keep it.
        Raises `TierUnavailable`.
        """
        ...

    def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        """Every key that matches and is not deleted, with its version, paced; from the authority in byte order of the keys."""
        ...

    async def stats(self) -> TierStats: ...


class Tier(Source, Protocol):
    """A place above the authority where entries are kept for a while."""

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        """Keep the newer: each entry enters unless a newer version is held or known; returns the winners, in order.

        `token` is the position this node had applied before the entries were read. A tier that has forgotten what
        happened since then, or is of another epoch, refuses silently: the entry itself is returned and nothing is kept. An
        entry's own version is a token too, so what was just written is put with a token of sequence 0. A tombstone removes
        what is older. Raises `TierUnavailable`.
        """
        ...

    async def evict(self, keys: Collection[Key]) -> None:
        """Forget these keys, which is not a change of anything."""
        ...


class Memory(Tier, Protocol):
    """The tier inside this process. The engine uses its synchronous core, so that a step over shared state has no await.

    It is kept coherent by the engine alone: `get` and `put` believe what they hold.
    """

    def hit(self, key: Key) -> Entry | None:
        """The entry, counted and refreshed; None, uncounted, when absent, or past its stay or its life."""
        ...

    def missed(self) -> None:
        """Count a miss: what was no hit is looked for further down."""
        ...

    def peek(self, key: Key) -> Entry | None:
        """The entry if it is held at all, also past its time; neither counted nor refreshed."""
        ...

    def store(self, entry: Entry) -> Entry:
        """Keep the newer of the two; returns the winner. A tombstone removes what is older."""
        ...

    def store_all(self, entries: Iterable[Entry]) -> None:
        """`store` each."""
        ...

    def drop(self, key: Key, *, below: int) -> None:
        """Forget a copy of a version lower than `below`."""
        ...

    def drop_all(self, keys: Iterable[Key], *, below: int) -> None:
        """The same of many keys."""
        ...

    def held(self) -> Iterable[Entry]:
        """All that is held, neither counted nor refreshed."""
        ...

    def room(self, entry: Entry) -> bool:
        """Whether it would enter without anything else going."""
        ...

    def hot(self, limit: int) -> Sequence[tuple[Key, Version]]:
        """Keys that are held, with their versions, those first that would stay the longest."""
        ...

    def doubt(self, pattern: InForce) -> None:
        """From now on what matches and is older is not held, whatever the number of keys."""
        ...

    async def settle(self) -> None:
        """Forget, paced, what is in doubt and dead, so that it takes no room and hits need not be tested any more."""
        ...

    def clear(self) -> None: ...


class Mark(NamedTuple):
    """Where a partition stands in the log: a position, and the id of the change there, which tells whose log it is.

    The id is "" where there is no change, as where an epoch begins.
    """

    position: Position
    id: str


@runtime_checkable
class Replica(Protocol):
    """A tier that outlives this process and says itself how far the log has been replayed into it, by partition.

    It may have outlived the log's history too, so a partition is believed only once it was vouched for: once this process
    has seen that the change at its cursor is in the log. That holds until the partition begins anew.
    """

    doubted: int  # how many keys were asked for, ever, in partitions that were not believed
    strange: asyncio.Event  # set when a partition was met that nobody has vouched for

    def behind(self, key: Key, *, horizon: Position) -> bool:
        """Whether the key's partition, as it was last read, has not seen every change up to `horizon`. Asks nothing."""
        ...

    def away(self, key: Key) -> bool:
        """Whether the key's partition did not answer when it was last asked, while others did. Asks nothing."""
        ...

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        """What is held under those keys, live and readable, be it believed or not; neither counted nor refreshed.

        An entry and what its partition has been told are of one moment. Raises `TierUnavailable`, also where it is the
        partition of only one key that does not answer.
        """
        ...

    async def lagging(self, *, horizon: Position) -> int:
        """How many partitions have not seen every change up to `horizon`, or do not answer. Raises `TierUnavailable`."""
        ...

    async def cursors(self) -> Mapping[int, Mark | None]:
        """How far each partition that answers has been replayed; None where it does not say. Raises `TierUnavailable`."""
        ...

    def vouch(self, partitions: Collection[int]) -> None:
        """What these partitions said last of themselves, to `cursors()`, is of the log's history."""
        ...

    async def replay(self, changes: Sequence[Change], *, upto: Position, after: Position | None = None) -> int:
        """Drop what is older than these changes, note their versions, move the cursors of all partitions to `upto`.

        Returns how many are not known to be there.

        `changes` are all changes after `after` (None: after the partitions' cursors) up to `upto`, in order. A partition
        that stands before `after`, or whose cursor is not where this node left it or last saw it, is not moved, so a second
        replayer does no harm; the next `cursors()` tells.
        A retirement is passed only when all that its pattern killed is gone from here and can come back no more.
        """
        ...

    async def restart(self, partitions: Collection[int], *, at: Mark) -> None:
        """Empty these partitions in O(1) and let them begin at `at`, vouched for; not one that does not answer."""
        ...
