"""Puts: what was written or read goes on into Redis, behind the caller's back.

A put that is lost costs a hit and never a lie, since the replay of the log drops what is older. So the queue may let go of
its oldest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from cachesvc.breaker import Breaker
from cachesvc.errors import Unavailable
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq
from cachesvc.ports import Tier

_log = logging.getLogger(__name__)


class Puts:
    """A queue of entries for the Redis tier, the newest of each key, bounded in number and in bytes of their values."""

    def __init__(
        self,
        redis: Tier | None,
        breaker: Breaker,
        *,
        most: int,
        pending: int,
        most_bytes: int = 4 << 20,
        pending_bytes: int = 64 << 20,
    ) -> None:
        self.dropped = 0
        self.done = 0
        self._redis = redis
        self._breaker = breaker
        self._most = most
        self._most_bytes = most_bytes
        self._pending = pending
        self._pending_bytes = pending_bytes
        self.waiting = 0  # bytes of the values that are queued
        self._queue: dict[Key, tuple[Entry, Position]] = {}
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: Entry, *, token: Position) -> None:
        """Queue an entry that was read by someone who began at `token` (written: whose token is its own version)."""
        self.add_all((entry,), token=token)

    def add_all(self, entries: Iterable[Entry], *, token: Position) -> None:
        """The same for many at once."""
        if self._redis is None:
            return
        queue = self._queue
        for entry in entries:
            queued = queue.get(entry.key)
            if queued is not None:
                if queued[0].version >= entry.version:
                    continue
                self.waiting -= len(queued[0].value)
            queue[entry.key] = (entry, token)
            self.waiting += len(entry.value)
        while len(queue) > self._pending or (self.waiting > self._pending_bytes and len(queue) > 1):
            oldest, _ = queue.pop(next(iter(queue)))
            self.waiting -= len(oldest.value)
            self.dropped += 1
        if queue:
            self._ready.set()
            self._idle.clear()

    async def drained(self) -> None:
        """Wait until everything queued so far has been put or let go."""
        await self._idle.wait()

    async def serve(self) -> None:
        """Put what is queued, batch by batch; ends when `close` was called and the queue is empty."""
        while True:
            await self._ready.wait()
            batch = self._take()
            if batch:
                try:
                    await self.put(batch)
                except Exception:  # noqa: BLE001 - one odd entry must not end the node; a lost put is no lie
                    _log.exception("entries could not be put into Redis", extra={"entries": len(batch)})
                    self.dropped += len(batch)
                continue
            self._idle.set()
            if self._closing:
                return
            self._ready.clear()

    def close(self) -> None:
        self._closing = True
        self._ready.set()

    def _take(self) -> list[tuple[Entry, Position]]:
        """The oldest, as many as fit into a batch; one that does not fit goes alone."""
        keys: list[Key] = []
        size = 0
        for key, (entry, _) in self._queue.items():
            size += len(entry.value)
            if len(keys) == self._most or (keys and size > self._most_bytes):
                size -= len(entry.value)
                break
            keys.append(key)
        self.waiting -= size
        return [self._queue.pop(key) for key in keys]

    async def put(self, batch: Sequence[tuple[Entry, Position]]) -> bool:
        """Put entries now, past the queue, each with the position before it was read; False when they were let go."""
        if self._redis is None or not batch:
            return False
        if not self._breaker.allows():
            self.dropped += len(batch)
            return False
        epoch = max(token.epoch for _, token in batch)
        batch = [(entry, token) for entry, token in batch if token.epoch == epoch]
        # one token for all, no younger than that of any: an entry's own version counts for it anyway
        token = min(max(token.sequence, entry.version) for entry, token in batch)
        try:
            await self._redis.put([entry for entry, _ in batch], token=Position(epoch, Seq(token)))
        except Unavailable:
            self._breaker.failed()
            self.dropped += len(batch)
            return False
        except BaseException:
            self._breaker.abandoned()
            raise
        else:
            self._breaker.succeeded()
            self.done += len(batch)
            return True
