"""Leash: until when this node may serve what it knows.

The rule that must not break: it is renewed to a time that is counted from before the node was seen to be up to date. So a node
that was frozen finds it run out, whatever runs first when it goes on.
"""

from __future__ import annotations

import asyncio
from math import inf

from cachesvc.ports import Clock


class Leash:
    """A monotonic time, and whoever waits for a later one. It never runs out unless somebody renews it."""

    def __init__(self, clock: Clock) -> None:
        self.until = inf
        self._clock = clock
        self._renewed = asyncio.Event()

    def renew(self, until: float) -> None:
        self.until = until
        renewed, self._renewed = self._renewed, asyncio.Event()
        renewed.set()

    async def held(self) -> None:
        """Wait until this node may serve."""
        while self._clock.monotonic() >= self.until:
            await self._renewed.wait()
