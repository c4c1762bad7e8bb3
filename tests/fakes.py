"""Fakes of what the outside gives: a clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """`ports.Clock` that only `advance` moves; who sleeps wakes, in order, when it has been advanced far enough."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    @property
    def sleepers(self) -> int:
        """How many are asleep now."""
        return sum(not future.done() for _, _, future in self._sleeping)

    def advance(self, seconds: float) -> None:
        """Move both times on and wake whoever slept until then."""
        self._now += seconds
        self._monotonic += seconds
        while self._sleeping and self._sleeping[0][0] <= self._monotonic:
            _, _, future = heapq.heappop(self._sleeping)
            if not future.done():
                future.set_result(None)

    def set_now(self, now: float) -> None:
        """The wall clock is set, forwards or backwards; nobody wakes of it."""
        self._now = now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self._monotonic + seconds, next(self._order), future))
        await future
