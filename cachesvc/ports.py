"""The contracts between the engine and what it stands on. Nothing else is in here.

The deepest enabled level is the *authority*: `Authority` is its contract. The levels above it are *tiers*, derived, and may
be lost at any time. Every implementation passes the conformance suite of its contract, on the real server behind it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce, Invalidation, Related
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Epoch, Position, Seq, Version


class Clock(Protocol):
    """The only source of time. Tests hand in one that stands still."""

    def now(self) -> float:
        """Unix seconds, of the authority as far as this node can tell. It decides expiry and nothing else."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for time limits and intervals."""
        ...

    async def sleep(self, seconds: float) -> None: ...


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
    `held` is for how many seconds it has been there as it is, None where that is not known.
    """

    entry: Entry | None = None
    version: Version | None = None
    stays: float | None = None
    stored: int | None = None
    replayed: Position | None = None
    doubt: str = ""
    held: float | None = None


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
        entries and tombstones may be in the answer of the authority (its callers need the version), never of a tier.
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
        """The entry, counted and refreshed; None when absent, or past its stay or its life."""
        ...

    def peek(self, key: Key) -> Entry | None:
        """The entry if it is held at all, also past its time; neither counted nor refreshed."""
        ...

    def store(self, entry: Entry) -> Entry:
        """Keep the newer of the two; returns the winner. A tombstone removes what is older."""
        ...

    def drop(self, key: Key, *, below: int) -> None:
        """Forget a copy of a version lower than `below`."""
        ...

    def held(self) -> Iterable[Entry]:
        """All that is held, neither counted nor refreshed."""
        ...

    def doubt(self, pattern: InForce) -> None:
        """From now on what matches and is older is not held, whatever the number of keys."""
        ...

    async def settle(self) -> None:
        """Forget, paced, what is in doubt and dead, so that it takes no room and hits need not be tested any more."""
        ...

    def clear(self) -> None: ...


@runtime_checkable
class Replica(Protocol):
    """A tier that outlives this process and says itself how far the log has been replayed into it, by partition."""

    doubted: int  # how many keys were asked for, ever, in partitions that were not believed

    def behind(self, key: Key, *, horizon: Position) -> bool:
        """Whether the key's partition, as it was last read, has not seen every change up to `horizon`. Asks nothing."""
        ...

    async def lagging(self, *, horizon: Position) -> int:
        """How many partitions have not seen every change up to `horizon`. Raises `TierUnavailable`."""
        ...

    async def cursors(self) -> Mapping[int, Position | None]:
        """For each partition the position up to which it has been replayed; None where it does not say."""
        ...

    async def replay(self, changes: Sequence[Change], *, upto: Position) -> None:
        """Drop what is older than these changes, note their versions, move the cursors of all partitions to `upto`.

        `changes` are all changes after the partitions' cursors up to `upto`, in order. A partition whose cursor is not
        where this node left it is not moved, so a second replayer does no harm; the next `cursors()` tells.
        A retirement is passed only when all that its pattern killed is gone from here and can come back no more.
        """
        ...

    async def restart(self, partitions: Collection[int], *, at: Position) -> None:
        """Empty these partitions in O(1) and let them begin at `at`."""
        ...


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the log is kept: whatever is first reached. Seconds, records, bytes."""

    age: float = 86_400.0
    count: int = 1_000_000
    bytes: int = 1 << 30


class Standing(NamedTuple):
    """Where a log stands, and the patterns that are active there."""

    position: Position
    patterns: Sequence[InForce] = ()


class Listed(NamedTuple):
    """An entry as it is listed: without its value, whose bytes are `size`."""

    entry: Entry
    size: int

    @property
    def key(self) -> Key:
        return self.entry.key


class Burial(NamedTuple):
    """How far ending what a pattern kills has come: keys looked at and entries ended, since it came into force."""

    done: bool
    looked: int = 0
    buried: int = 0


class ChangeLog(Protocol):
    """Ordered, as durable as its authority."""

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        """Fold the drafts and commit what comes of it, at once and durably, before returning.

        `batch` is a new UUIDv7 in hex. The outcomes are remembered under it (and under the drafts' own idempotency keys).
        Raises `TierUnavailable` when nothing was written, `OutcomeUnknown` when that cannot be found out.
        """
        ...

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        """Up to `limit` changes after a position, in order; empty at the head. Raises `LogTrimmed`, `EpochChanged`."""
        ...

    async def head(self) -> Position: ...

    async def standing(self) -> Standing:
        """The head and what is in force there, of one moment: from where a node begins."""
        ...

    async def oldest(self) -> Position:
        """The lowest position that `read` can still start after."""
        ...

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        """Changes after a position as they come, in batches. Wake-ups may be lost: then the next poll finds them.

        `known()`, asked before each read, says how far the follower has come in another way; it is not told of that again.
        The iterator raises as `read` does.
        """
        ...

    async def trim(self, retention: Retention) -> int:
        """Forget the oldest records beyond the retention, in paced steps, never the last; how many were dropped."""
        ...

    async def new_epoch(self, seen: Position) -> Position:
        """Begin a new epoch, numbered past `seen` and the head; returns its first position. Once, if several ask at once."""
        ...


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node tells of itself with every heartbeat."""

    node: str
    started_at: float
    seen_at: float
    applied: Position
    version: str
    address: str = ""
    info: Mapping[str, object] = field(default_factory=dict)


class Registry(Protocol):
    """What the nodes of a site share beside the entries: who is there, who does what, and the dictionaries."""

    async def heartbeat(self, record: NodeRecord) -> None: ...

    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]:
        """The nodes that were heard of in the last `seen_within` seconds, by the authority's clock."""
        ...

    async def leave(self, node: str) -> None: ...

    async def acquire(self, lease: str, holder: str, ttl: float) -> bool:
        """Take or renew a lease for `ttl` seconds; False while another holds it."""
        ...

    async def release(self, lease: str, holder: str) -> None: ...

    async def add_dictionary(self, module: str, data: bytes) -> int:
        """Store a compression dictionary for good; its id, from 1, never used again."""
        ...

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        """`(id, module, data)` of the dictionaries with an id over `after`, in order."""
        ...


class Authority(Source, Inspected, ChangeLog, Registry, Protocol):
    """The deepest enabled level: it holds the truth and gives the versions."""

    async def time(self) -> float:
        """Unix seconds of its clock."""
        ...

    async def expired(self, *, limit: int) -> Sequence[tuple[Key, Version]]:
        """Entries past their life, the oldest first, for the sweep to append as expired."""
        ...

    async def sweep(self, *, limit: int) -> int:
        """Drop up to `limit` tombstones and kept answers past their time; how many. Not a change of anything.

        Retired patterns are forgotten here too, when they were retired long ago.
        """
        ...

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        """Go on with ending what an active pattern kills: look at up to `limit` keys more.

        How far it came is kept with the pattern. Nothing of this is a change: what is dead is only taken away.
        """
        ...

    async def burials(self) -> Mapping[InForce, Burial]:
        """How far that has come, for each pattern in force."""
        ...

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int) -> Sequence[Listed]:
        """Live entries that match, in byte order of their keys, from after `after`. No value is read."""
        ...

    async def reach(self, invalidation: Invalidation) -> Related:
        """What an invalidation by tags or with a cascade would come to now; nothing is done."""
        ...

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        """Live entries whose indexed fields have one of the given values, each field; ordered and paged as `list_entries`.

        Raises `InvalidInput` for a field that is not indexed, or where the authority keeps no index.
        """
        ...

    async def dependents(self, name: str, *, limit: int) -> Sequence[Key] | None:
        """Keys, in byte order, of what names this parent (a key or a tag); None where the authority keeps no index of that."""
        ...

    async def backfill(self) -> None:
        """Bring the index of fields to what is set, paced; can be stopped and gone on with. Nothing where there is none."""
        ...


class Loader(Protocol):
    """Where a miss gets its value from."""

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        """The values of those keys that exist at the origin. Raises `Unavailable`; a failure is never a value."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader got."""

    value: bytes
    content_type: str
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


__all__ = [
    "Authority",
    "Burial",
    "ChangeLog",
    "Clock",
    "Epoch",
    "Holding",
    "Inspected",
    "Listed",
    "Loaded",
    "Loader",
    "Memory",
    "NodeRecord",
    "Registry",
    "Replica",
    "Retention",
    "Seq",
    "Source",
    "Standing",
    "Tier",
    "TierStats",
]
