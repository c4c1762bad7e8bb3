"""Witness: the newest change of a log that this process has seen. A log that does not have it is of another history.

The rule that must not break: the look at the witness and what it is to guard, a read or a commit, are of one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cachesvc.errors import EpochChanged
from cachesvc.model.change import Change, opening
from cachesvc.model.position import Epoch, Position, Seq


class Seen(NamedTuple):
    """A change at its position, and what its record begins with. Of an epoch's first position there is no record."""

    position: Position
    opening: bytes = b""

    def check(self, *, epoch: int, head: int, trimmed_to: int, found: bytes | None) -> None:
        """Raise `EpochChanged` unless a log that stands there may have it. `found` is as many bytes of the record in its place.

        Of a record that was trimmed nothing can be told: it counts as the one that was seen.
        """
        known, sequence = self.position
        if epoch > known or (epoch == known and (int(sequence) == known or sequence <= trimmed_to)):
            return  # nobody begins an epoch over a history without making its sequences a gap
        if epoch < known or head < sequence or found != self.opening:
            raise EpochChanged(known, epoch)


NOTHING: Final = Seen(Position(Epoch(0), Seq(0)))


class Witness:
    """What one handle on a log has seen."""

    def __init__(self) -> None:
        self.seen = NOTHING

    def begin(self, at: Position, change_id: str) -> None:
        """The log is taken as it is: standing at a change, or where an epoch begins."""
        self.seen = Seen(at, opening(change_id) if change_id else b"")

    def saw(self, epoch: int, changes: Sequence[Change]) -> None:
        """These changes were read or appended."""
        if changes:
            position = Position(Epoch(epoch), changes[-1].sequence)
            if position > self.seen.position:
                self.seen = Seen(position, opening(changes[-1].id))
