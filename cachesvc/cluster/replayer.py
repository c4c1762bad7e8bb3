"""Replayer: moves the log into the Redis tier, in order, so that Redis knows itself how far it can be believed.

A partition that does not say where it stands, stands in another epoch, or is behind the log, is emptied and begins at the head.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cachesvc.cluster.feed import Feed
from cachesvc.cluster.voucher import Voucher
from cachesvc.errors import PositionLost
from cachesvc.model.keys import PARTITIONS
from cachesvc.model.position import Position
from cachesvc.ports import Clock, Replica

MOST = 1_000  # changes a step
_SURVEY_INTERVAL = 1.0  # seconds


@dataclass(slots=True)
class ReplayCounts:
    """What the replay of this node came to."""

    replayed: int = 0
    restarted: int = 0  # partitions emptied
    behind: int = 0  # partitions that did not stand at the log's head when last looked at, or did not answer
    position: Position | None = None


class Replayer:
    """One step at a time, by the node that holds the duty."""

    def __init__(self, replica: Replica, voucher: Voucher, feed: Feed, clock: Clock) -> None:
        self.counts = ReplayCounts()
        self._replica = replica
        self._voucher = voucher
        self._feed = feed
        self._clock = clock
        self._survey_at = 0.0
        self._at: Position | None = None  # where all partitions that answer stand, as far as this node knows

    async def step(self) -> None:
        """Replay what is new, or return after a while without news. Looks every so often whether Redis still says the same."""
        now = self._clock.monotonic()
        try:
            if self._at is None or now >= self._survey_at:
                self._at = await self._survey()
                self._survey_at = now + _SURVEY_INTERVAL
            async with asyncio.timeout(_SURVEY_INTERVAL):
                changes = await self._feed.next(self._at, MOST)
        except (TimeoutError, PositionLost):
            self._at = None
            return
        after, upto = self._at, Position(self._at.epoch, changes[-1].sequence)
        self._at = None  # unknown again, should the replay fail half-way
        self.counts.behind = await self._replica.replay(changes, upto=upto, after=after)
        self.counts.replayed += len(changes)
        self._at = self.counts.position = upto

    async def _survey(self) -> Position:
        """The lowest cursor, after restarting the partitions whose cursors are of no use. Raises `PositionLost`."""
        survey = await self._voucher.survey()
        if survey.useless:
            await self._replica.restart(survey.useless, at=survey.head)
            self.counts.restarted += len(survey.useless)
        head = survey.head.position
        self.counts.behind = PARTITIONS - sum(cursor == head for cursor in survey.kept.values())
        lowest = Position(head.epoch, min([*(cursor.sequence for cursor in survey.kept.values()), head.sequence]))
        self.counts.position = lowest
        return lowest
