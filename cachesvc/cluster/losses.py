"""Losses: what was seen here of a history that the log does not have any more. It is told, never hidden.

A database that was restored from a backup, or whose lagging replica was promoted, forgets what it had acknowledged since.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cachesvc.model.position import Gap, Position, Seq
from cachesvc.ports import Standing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loss:
    """The changes up to where somebody had come that the epoch `begun` does not have, as far as that is known."""

    seen: Position
    lost: Gap
    begun: Position

    @property
    def count(self) -> int:
        """How many: within an epoch sequences are dense. 0 where all that was seen is still there."""
        return max(0, self.lost.last - self.lost.first + 1)

    def told(self) -> dict[str, str]:
        """By positions: the first and the last that was lost, and from where the log goes on."""
        first = self.seen._replace(sequence=self.lost.first)
        return {"from": str(first), "to": str(self.seen), "goesOnFrom": str(self.begun)}


def loss(seen: Position, standing: Standing) -> Loss:
    """What is lost of all up to `seen`, now that a later epoch stands there."""
    after = min((gap.first for gap in standing.gaps if gap.last >= seen.sequence), default=seen.sequence + 1)
    first = max(after, seen.epoch + 1)  # of earlier epochs it is not known how many there were
    return Loss(seen, Gap(Seq(first), seen.sequence), standing.position)


class Losses:
    """All of this node since its start: how many histories, how many changes, and the last."""

    def __init__(self) -> None:
        self.histories = 0
        self.changes = 0
        self.last: Loss | None = None

    def note(self, seen: Position, standing: Standing, *, who: str) -> None:
        """`who` had come to `seen`, and now a later epoch stands there."""
        one = loss(seen, standing)
        if not one.count:
            return  # what is lost had not been seen yet
        if self.last is not None and self.last.begun.epoch == one.begun.epoch:  # of one loss whoever had seen most tells most
            if one.count <= self.last.count:
                return
            self.histories -= 1
            self.changes -= self.last.count
        self.histories += 1
        self.changes += one.count
        self.last = one
        _log.error(
            "HISTORY LOST: %d changes (%d to %d of epoch %d) that %s had seen are not in the log any more, or cannot be told"
            " from others there: a backup was restored, or a replica that lagged was promoted. Epoch %d has begun",
            one.count,
            one.lost.first,
            one.lost.last,
            seen.epoch,
            who,
            one.begun.epoch,
        )

    def stats(self) -> dict[str, object]:
        last = {"lastLost": self.last.told()} if self.last is not None else {}
        return {"historiesLost": self.histories, "changesLost": self.changes, **last}
