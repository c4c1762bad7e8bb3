"""Subscription: what is followed, as its user sees it."""

from __future__ import annotations

import asyncio
from collections import deque

from cachesvc.client.errors import ClientError
from cachesvc.client.told import Event, Missed


class Subscription:
    """What is followed, by its events: `async for event in subscription`, each once, in order for each key.

    It ends with the client, and raises `ClientError` where the service ended it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[Event] = deque()
        self.live = asyncio.Event()
        self._woken = asyncio.Event()
        self._ended = False
        self._error: ClientError | None = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()
        return self._events.popleft()

    def tell(self, event: Event) -> None:
        """Something was told. What is not taken up is bounded, and known to be missed past that."""
        if len(self._events) >= self._most:
            self._events.clear()
            self._events.append(Missed(f"more than {self._most} events were not taken up"))
        self._events.append(event)
        self._woken.set()

    def stop(self, error: ClientError | None) -> None:
        """Nothing is told any more."""
        self._ended, self._error = True, error
        self.live.set()
        self._woken.set()

    async def opened(self) -> None:
        """Wait until it is live; raises `ClientError` where it was refused."""
        await self.live.wait()
        if self._error is not None:
            raise self._error
