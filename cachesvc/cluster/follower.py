"""Follower: applies every change of the log to this node, in order, once.

What this node appended itself is taken over directly when nothing of others lies between; the rest is read from the log.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from cachesvc.cluster.delays import Delays
from cachesvc.cluster.feed import Feed
from cachesvc.cluster.losses import Losses
from cachesvc.errors import EpochChanged, PositionLost, Unavailable
from cachesvc.model.change import Appended, Change
from cachesvc.model.position import Position, Seq
from cachesvc.ports import ChangeLog, Clock, Standing

_log = logging.getLogger(__name__)
_RETRY = 0.25  # seconds
OWN = 1_000  # own appends to be told from others': of what is older, the delay counts as another node's


class Follower:
    """Moves a node along the log. `apply(changes)` and `start_over(standing)` change the node, each without an await."""

    def __init__(
        self,
        log: ChangeLog,
        feed: Feed,
        clock: Clock,
        *,
        start: Position,
        apply: Callable[[Sequence[Change]], None],
        start_over: Callable[[Standing], None],
        losses: Losses,
    ) -> None:
        self.position = start
        self._losses = losses
        self.following = False  # whether the log could be reached when last asked
        self.started_over = 0
        self.direct = 0  # changes taken over without reading
        self.read = 0
        # from the authority's time of a change until it was in force here
        self.delays = {"own": Delays(clock.monotonic), "others": Delays(clock.monotonic)}
        self._own: deque[tuple[int, int]] = deque(maxlen=OWN)  # first and last of own appends that come with others' changes
        self._log = log
        self._feed = feed
        self._clock = clock
        self._apply = apply
        self._start_over = start_over

    def offer(self, appended: Appended) -> None:
        """Changes that this node has just appended."""
        if appended.before == self.position and appended.changes:
            self.direct += len(appended.changes)
            self._take(appended.changes)
        elif appended.changes:
            self._own.append((appended.changes[0].sequence, appended.changes[-1].sequence))
        self._measure("own", appended.changes)

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                async with self._log.follow(self.position, known=lambda: self.position) as batches:
                    self.following = True
                    async for changes in batches:
                        new = [change for change in changes if change.sequence > self.position.sequence]
                        self.read += len(new)
                        self._take(new)
                        self._measure("others", [change for change in new if not self._is_own(change)])
            except PositionLost as exc:
                await self._lost(exc)
            except Unavailable as exc:
                _log.log(logging.WARNING if self.following else logging.DEBUG, "the log cannot be followed: %s", exc)
                self.following = False
                await self._clock.sleep(_RETRY)

    def _take(self, changes: Sequence[Change]) -> None:
        if changes:
            self._apply(changes)
            self.position = Position(self.position.epoch, changes[-1].sequence)
            self._feed.publish(changes)

    def _measure(self, whose: str, changes: Sequence[Change]) -> None:
        now = self._clock.now()
        for at, times in Counter(change.at for change in changes).items():  # those of one append have one time
            self.delays[whose].note(now - at, times)

    def _is_own(self, change: Change) -> bool:
        """Whether this node appended it; asked in the order of the log."""
        while self._own and self._own[0][1] < change.sequence:
            self._own.popleft()
        return bool(self._own) and self._own[0][0] <= change.sequence

    async def _lost(self, exc: PositionLost) -> None:
        """Start over at the head; where the log does not have what this node has seen of it, in a new epoch."""
        try:
            if isinstance(exc, EpochChanged) and exc.history_lost:
                await self._log.new_epoch(self.position, kept=await self._kept())
            standing = await self._log.standing()
        except Unavailable:
            await self._clock.sleep(_RETRY)
            return
        _log.warning("this node starts over at %s: %s", standing.position, exc)
        if standing.position.epoch != self.position.epoch:
            self._losses.note(self.position, standing, who="this node")
        self.started_over += 1
        self.position = standing.position
        self._start_over(standing)
        self._feed.start_over(standing.position)

    async def _kept(self) -> Seq:
        """The newest change here that the log is known to have too, or may have where none of the latest is there.

        Two histories are the same up to one place, so it is found by halving.
        """
        held = self._feed.held or [(self.position.sequence, "")]
        low, high = 0, len(held)
        while low < high:
            middle = (low + high) // 2
            sequence, change_id = held[middle]
            if (await self._log.trail([sequence])).ids.get(sequence) == change_id:
                low = middle + 1
            else:
                high = middle
        return held[low - 1][0] if low else Seq(held[0][0] - 1)
