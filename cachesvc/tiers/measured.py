"""Measured: a size that is dear to find out, taken now and then.

The rule that must not break: measuring takes at most a hundredth of the time, whoever asks and however often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from cachesvc.errors import TierUnavailable

KEPT: Final = 10.0  # seconds, or so many that measuring takes a hundredth of the time
_SHARE: Final = 100.0


class Size(NamedTuple):
    """Entries and bytes, None where they are not known."""

    entries: int | None = None
    bytes: int | None = None


class Measured:
    """A measurement and its latest outcome. `now` gives monotonic seconds."""

    def __init__(self, measure: Callable[[], Awaitable[Size]], now: Callable[[], float]) -> None:
        self._measure = measure
        self._now = now
        self._until = 0.0
        self._latest: Size | None = None
        self._turn = asyncio.Lock()

    async def latest(self) -> Size:
        """The latest size, measured anew when it is old; unknown while the store does not answer."""
        async with self._turn:
            began = self._now()
            if self._latest is None or began >= self._until:
                try:
                    self._latest = await self._measure()
                except TierUnavailable:
                    self._latest = Size()  # why is told by the breaker and by readiness
                ended = self._now()
                self._until = ended + max(KEPT, _SHARE * (ended - began))
            return self._latest
