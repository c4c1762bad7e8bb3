"""The change log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.invalidation import InForce
from cachesvc.model.position import Position


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
