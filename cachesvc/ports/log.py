"""The change log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.invalidation import InForce
from cachesvc.model.position import Gap, Position, Seq
from cachesvc.model.revocation import Revocation


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the log is kept: whatever is first reached. Seconds, records, bytes."""

    age: float = 86_400.0
    count: int = 1_000_000
    bytes: int = 1 << 30


class Standing(NamedTuple):
    """Where a log stands, the active patterns, what of its past is lost (the newest loss last), the tokens that are revoked."""

    position: Position
    patterns: Sequence[InForce] = ()
    gaps: Sequence[Gap] = ()
    revocations: Sequence[Revocation] = ()


class Trail(NamedTuple):
    """What a log has at some sequences: the ids of the changes there, of those and of the head, where it keeps them."""

    head: Position
    oldest: Position
    ids: Mapping[Seq, str]


class ChangeLog(Protocol):
    """Ordered, as durable as its authority.

    A handle on the log remembers the newest change that it has read or appended. While the log does not have it (an older
    backup was put in its place, a replica promoted) it appends nothing and reads nothing; `standing` begins anew from
    what there is.
    """

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

    async def trail(self, sequences: Collection[int]) -> Trail:
        """Which changes there are at these sequences, of one moment."""
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

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position:
        """Begin a new epoch, numbered past `seen` and the head; returns its first position. Once, if several ask at once.

        `kept` is the last sequence up to which what was seen and the log are the same, as far as is known; without it, the
        lower of their ends. What comes after it, up to the epoch's first, is a gap from then on.
        """
        ...
