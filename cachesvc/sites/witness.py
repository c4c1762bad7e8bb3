"""Witness: what other sites have seen of this one's log, so that a restored backup convicts itself before it writes on.

The rule that must not break: the log is asked, not what this node has applied of it; and a new epoch begins past all that was
seen, so that no version is given twice from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from cachesvc.cluster.losses import Losses
from cachesvc.errors import EpochChanged
from cachesvc.model.entry import Entry
from cachesvc.model.position import Position, Seq, first_sequence
from cachesvc.ports import Clock, Standing, Trail


class Epochs(Protocol):
    """What is needed of the log."""

    async def trail(self, sequences: Collection[int]) -> Trail: ...

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position: ...

    async def standing(self) -> Standing: ...


class Applied(Protocol):
    """The log as this node has applied it."""

    @property
    def position(self) -> Position: ...


class Witness:
    """Begins a new epoch where another site has seen more of this one's log than there is.

    What is further ahead than a clock may be cannot have been seen, and is no evidence.
    """

    def __init__(self, log: Epochs, applied: Applied, losses: Losses, clock: Clock, *, site: str, ahead: float = 60.0) -> None:
        self._log = log
        self._applied = applied
        self._losses = losses
        self._clock = clock
        self._site = site
        self._ahead = ahead

    async def knew(self, entries: Iterable[Entry], *, who: str) -> None:
        """What another site tells, which knows of writes of this one. Raises as `saw` does."""
        known = max((sequence for entry in entries for site, sequence in entry.vector if site == self._site), default=0)
        if known > self._applied.position.sequence:
            await self.saw(Position(self._applied.position.epoch, Seq(known)), who=who)

    async def saw(self, seen: Position, *, who: str) -> None:
        """Another site has come to that position. Raises `EpochChanged` where the log has not, and `Unavailable`."""
        if seen <= self._applied.position or seen.sequence > first_sequence(self._clock.now() + self._ahead):
            return
        head = (await self._log.trail(())).head
        if seen <= head:
            return
        await self._log.new_epoch(seen, kept=head.sequence)
        self._losses.note(seen, await self._log.standing(), who=f"the site {who}")
        raise EpochChanged(seen.epoch, head.epoch)
