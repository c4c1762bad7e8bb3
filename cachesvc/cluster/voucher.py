"""Voucher: looks whether what Redis was replayed up to is in the log, before this node believes Redis.

Redis may have outlived a history: the database was restored from a backup while it kept what was written since. The rule that
must not break: the log is looked at after Redis, so what Redis has of the log's history, the log has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from cachesvc.cluster.losses import Losses
from cachesvc.errors import EpochChanged, Unavailable
from cachesvc.model.position import Position, Seq
from cachesvc.ports import ChangeLog, Clock, Mark, Replica, Trail

_PAUSE = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Survey:
    """Where the log stands, where the partitions do that are of its history, and which can be of no use any more.

    Those that did not answer are in neither.
    """

    head: Mark
    kept: Mapping[int, Position]
    useless: frozenset[int]


class _Judgement(Enum):
    KEPT = auto()
    USELESS = auto()
    FOREIGN = auto()


class Voucher:
    """Vouches for the partitions of a replica. Where one is of a history that the log does not have, a new epoch begins."""

    def __init__(self, replica: Replica, log: ChangeLog, losses: Losses, clock: Clock) -> None:
        self._replica = replica
        self._log = log
        self._losses = losses
        self._clock = clock
        self._turn = asyncio.Lock()  # what is vouched for is what the replica said last

    async def run(self) -> None:
        """For ever: whenever a partition was met that nobody has vouched for, at most ten times a second."""
        while True:
            await self._replica.strange.wait()
            self._replica.strange.clear()
            try:
                await self.survey()
            except (Unavailable, EpochChanged):
                self._replica.strange.set()
            await self._clock.sleep(_PAUSE)

    async def survey(self) -> Survey:
        """Look at all partitions, and vouch for those that are of the log's history.

        Raises `Unavailable`; `EpochChanged` when one was of another, and a new epoch has begun for that.
        """
        async with self._turn:
            marks = await self._replica.cursors()
            trail = await self._log.trail({mark.position.sequence for mark in marks.values() if mark is not None})
            judged = {number: _judge(mark, trail) for number, mark in marks.items()}
            foreign = [m for n, m in marks.items() if m is not None and judged[n] is _Judgement.FOREIGN]
            if foreign:
                raise await self._begin(max(mark.position for mark in foreign), trail.head)
            kept = {n: m.position for n, m in marks.items() if m is not None and judged[n] is _Judgement.KEPT}
            self._replica.vouch(kept)
            head = Mark(trail.head, trail.ids.get(trail.head.sequence, ""))
            return Survey(head, kept, frozenset(marks.keys() - kept.keys()))

    async def _begin(self, seen: Position, head: Position) -> EpochChanged:
        await self._log.new_epoch(seen, kept=Seq(min(head.sequence, seen.sequence - 1)))
        self._losses.note(seen, await self._log.standing(), who="Redis")
        return EpochChanged(seen.epoch, head.epoch)


def _judge(mark: Mark | None, trail: Trail) -> _Judgement:
    """A cursor that the log was trimmed past is of no use, whosever it is: what it missed cannot be replayed."""
    if mark is None or mark.position.epoch < trail.head.epoch:
        return _Judgement.USELESS
    sequence = mark.position.sequence
    if mark.position.epoch > trail.head.epoch or sequence > trail.head.sequence:
        return _Judgement.FOREIGN
    if sequence == trail.oldest.sequence == int(trail.head.epoch):
        return _Judgement.KEPT  # where the epoch begins
    if sequence <= trail.oldest.sequence or not mark.id:
        return _Judgement.USELESS
    return _Judgement.KEPT if trail.ids.get(sequence) == mark.id else _Judgement.FOREIGN
