"""Combining: what is asked for within one tick of the event loop goes out as one batch.

While all lanes are busy the next batch grows, up to a limit; past that, callers are refused at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cachesvc.errors import Overloaded

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Combiner(Generic[T]):
    """A queue, bounded in items and units, that `lanes` tasks empty in batches of up to `most` items and `weight` units.

    `run` answers each item of its batch itself; what it raises beyond that is logged and handed to `fail` for each item.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[T]], Awaitable[None]],
        fail: Callable[[T, Exception], None],
        *,
        most: int,
        pending: int,
        lanes: int,
        now: Callable[[], float] = lambda: 0.0,  # without one it knows of no delay
        weigh: Callable[[T], int] | None = None,
        weight: int = 1,
        pending_weight: int = 1,
    ) -> None:
        self.name = name
        self.lanes = lanes
        self.batches = 0
        self.items = 0
        self.refused = 0
        self._run = run
        self._fail = fail
        self._most = most
        self._pending = pending
        self._weigh = weigh
        self._weight = weight
        self._pending_weight = pending_weight
        self.waiting = 0  # units that are queued
        self._now = now
        self._began = 0.0
        self._took = 0.0
        self._queue: deque[T] = deque()
        self._weights: deque[int] = deque()  # of what is queued, where it is weighed
        self._ready = asyncio.Event()
        self._closing = False

    def __len__(self) -> int:
        return len(self._queue)

    def delay(self) -> float:
        """Seconds that what is queued now will wait beyond the next batch, going by the latest one."""
        behind = len(self._queue) // self._most
        if not behind:
            return 0.0
        return behind * max(self._took, self._now() - self._began) / self.lanes

    def add(self, item: T) -> None:
        """Queue an item for the next batch. Raises `Overloaded` when the queue is full."""
        if len(self._queue) >= self._pending or self._closing:
            self.refused += 1
            raise Overloaded(f"{self.name}: {len(self._queue)} are waiting already")
        if self._weigh is not None:
            weight = self._weigh(item)
            if self._queue and self.waiting + weight > self._pending_weight:
                self.refused += 1
                raise Overloaded(f"{self.name}: {self.waiting} bytes are waiting already")
            self.waiting += weight
            self._weights.append(weight)
        self._queue.append(item)
        self._ready.set()

    async def serve(self) -> None:
        """One lane. Ends when `close` was called and the queue is empty."""
        while True:
            await self._ready.wait()
            batch = self._take()
            if not batch:
                if self._closing:
                    return
                self._ready.clear()
                continue
            self.batches += 1
            self.items += len(batch)
            began = self._began = self._now()
            try:
                await self._run(batch)
                self._took = self._now() - began
            except Exception as exc:  # noqa: BLE001 - a batch that fails must not end the lane
                _log.exception("a batch failed", extra={"combiner": self.name, "items": len(batch)})
                for item in batch:
                    self._fail(item, exc)
            except BaseException as exc:
                for item in batch:
                    self._fail(item, Overloaded(f"{self.name}: stopped ({type(exc).__name__})"))
                raise

    def close(self) -> None:
        """Take nothing new; the lanes end when the queue is empty."""
        self._closing = True
        self._ready.set()

    def _take(self) -> list[T]:
        queue = self._queue
        if self._weigh is None:
            return [queue.popleft() for _ in range(min(len(queue), self._most))]
        batch: list[T] = []
        weight = 0
        while queue and len(batch) < self._most:
            if batch and weight + self._weights[0] > self._weight:
                break
            weight += self._weights.popleft()
            batch.append(queue.popleft())
        self.waiting -= weight
        return batch
