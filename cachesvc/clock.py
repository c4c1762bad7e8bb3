"""The system's time, the one place that reads it."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Time of this machine, moved by `offset` seconds to what the authority's clock shows."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return time.time() + self.offset

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
