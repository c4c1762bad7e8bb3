"""Feed: the log as this node has applied it, for whoever listens on this node.

The latest changes are held here; what is older is read from the log. A listener that falls behind costs a read, not memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice

from cachesvc.errors import EpochChanged
from cachesvc.model.change import Change
from cachesvc.model.position import Position, Seq
from cachesvc.ports import ChangeLog

MAX_BYTES = 16 << 20


class Feed:
    """Changes after a position, as soon as this node has applied them. Holds at most `count` changes and 16 MiB."""

    def __init__(self, log: ChangeLog, start: Position, *, count: int = 10_000) -> None:
        self.position = start
        self._log = log
        self._count = count
        self._bytes = 0
        self._since = start.sequence  # the held changes are all those after it
        self._held: deque[Change] = deque()
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of the changes that are held."""
        return self._bytes

    @property
    def held(self) -> Sequence[tuple[Seq, str]]:
        """The latest changes by sequence and id, the oldest first."""
        return [(change.sequence, change.id) for change in self._held]

    def publish(self, changes: Sequence[Change]) -> None:
        """Changes that this node has just applied, in order."""
        if not changes:
            return
        for change in changes:
            self._held.append(change)
            self._bytes += change.size
        while len(self._held) > self._count or self._bytes > MAX_BYTES:
            oldest = self._held.popleft()
            self._bytes -= oldest.size
            self._since = oldest.sequence
        self.position = Position(self.position.epoch, changes[-1].sequence)
        self._wake()

    def start_over(self, at: Position) -> None:
        """The log goes on from elsewhere; who listens from an older position is told to start over."""
        self._held.clear()
        self._bytes = 0
        self._since = at.sequence
        self.position = at
        self._wake()

    async def head(self) -> Position:
        """Up to where the log has come. Raises `Unavailable`."""
        return await self._log.head()

    async def next(self, after: Position, limit: int) -> Sequence[Change]:
        """Up to `limit` changes after a position; waits until there is one. Raises `PositionLost`."""
        while True:
            moved = self._moved  # taken first: what comes while the log is read is not slept over
            if after.epoch != self.position.epoch or after.sequence > self.position.sequence:
                # not here yet, or of another history: the log knows
                changes = await self._log.read(after, limit)
                if changes:
                    return changes
                if after.epoch != self.position.epoch:
                    raise EpochChanged(after.epoch, self.position.epoch)
            elif after.sequence < self._since:
                return await self._log.read(after, limit)
            elif after.sequence < self.position.sequence:
                # sequences are dense, so the place follows from the number; counted from the end, where most listeners are
                behind = self.position.sequence - after.sequence
                changes = list(islice(reversed(self._held), max(0, behind - limit), behind))
                changes.reverse()
                return changes
            await moved.wait()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
