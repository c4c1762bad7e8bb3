"""Vigil: notices that this process was frozen, and lets it serve again once it has caught up with the log.

While it is awake it renews the leash long before that runs out. A pause as long as the leash is one in which anything may have
been written elsewhere, be it a stopped process, a stalled machine or an event loop that was held up.
"""

from __future__ import annotations

import logging

from cachesvc.cluster.follower import Follower
from cachesvc.engine.leash import Leash
from cachesvc.errors import PositionLost, Unavailable
from cachesvc.ports import ChangeLog, Clock

_log = logging.getLogger(__name__)


class Vigil:
    """Renews the leash for `lease` seconds at a time."""

    def __init__(self, leash: Leash, log: ChangeLog, follower: Follower, clock: Clock, *, lease: float) -> None:
        self.frozen = 0  # how often
        self._leash = leash
        self._log = log
        self._follower = follower
        self._clock = clock
        self._lease = lease
        leash.renew(clock.monotonic() + lease)

    async def run(self) -> None:
        """For ever. No await between the time and the leash that is counted from it."""
        while True:
            now = self._clock.monotonic()
            if now < self._leash.until:
                self._leash.renew(now + self._lease)
            else:
                self.frozen += 1
                _log.warning("this node was frozen for %.1f s or more: it serves nothing until it has caught up", self._lease)
                await self._catch_up()
            await self._clock.sleep(self._lease / 4)

    async def _catch_up(self) -> None:
        while True:
            asked = self._clock.monotonic()
            if await self._at_head() and self._clock.monotonic() < asked + self._lease:
                self._leash.renew(asked + self._lease)
                return
            await self._clock.sleep(min(0.02, self._lease / 4))

    async def _at_head(self) -> bool:
        """Whether the log has nothing that has not been applied here. It is asked, not remembered."""
        at = self._follower.position
        try:
            return not await self._log.read(at, 1) and self._follower.position >= at
        except (PositionLost, Unavailable):
            return False  # the follower starts over, or waits, as well
