"""Following a log: read what is new, else wait for a wake-up or the poll interval, whichever is first.

A wake-up only makes it sooner: losing every one of them costs latency, never a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final

from cachesvc.model.change import Change
from cachesvc.model.position import MAX_SEQ, Position

BATCH: Final = 1_000


class Hearing:
    """What one follower has heard: the highest sequence that it was told of."""

    def __init__(self) -> None:
        self.upto = 0
        self._event = asyncio.Event()

    def tell(self, sequence: int) -> None:
        self.upto = max(self.upto, sequence)
        self._event.set()

    async def beyond(self, known: Callable[[], int]) -> None:
        """Wait until it was told of more than is known already."""
        while self.upto <= known():
            self._event.clear()
            await self._event.wait()


class Bell:
    """Wakes all who follow in this process. Rung more often than heard, it is heard once."""

    def __init__(self) -> None:
        self._hearing: set[Hearing] = set()

    def ring(self, sequence: int = MAX_SEQ) -> None:
        """There are changes up to `sequence`; without it, there may be."""
        for hearing in self._hearing:
            hearing.tell(sequence)

    @contextmanager
    def hearing(self) -> Iterator[Hearing]:
        hearing = Hearing()
        self._hearing.add(hearing)
        try:
            yield hearing
        finally:
            self._hearing.discard(hearing)


@asynccontextmanager
async def following(
    read: Callable[[Position, int], Awaitable[Sequence[Change]]],
    after: Position,
    *,
    bell: Bell,
    poll_interval: float,
    known: Callable[[], Position] | None = None,
    limit: int = BATCH,
) -> AsyncIterator[AsyncIterator[Sequence[Change]]]:
    """`ChangeLog.follow` over `read`: batches of up to `limit`, never empty. What `read` raises, the iterator raises.

    `known()` may be further than what was read: what lies before it is passed over.
    """
    with bell.hearing() as rung:
        async with aclosing(_batches(read, after, rung, poll_interval=poll_interval, known=known, limit=limit)) as batches:
            yield batches


async def _batches(
    read: Callable[[Position, int], Awaitable[Sequence[Change]]],
    after: Position,
    rung: Hearing,
    *,
    poll_interval: float,
    known: Callable[[], Position] | None,
    limit: int,
) -> AsyncGenerator[Sequence[Change], None]:
    def at() -> Position:
        return max(after, known()) if known is not None else after

    while True:
        rung.upto = 0  # before the read: what is appended during it rings again
        after = at()
        changes = await read(after, limit)
        if changes:
            after = after._replace(sequence=changes[-1].sequence)
            yield changes
        if len(changes) < limit:
            try:
                async with asyncio.timeout(poll_interval):
                    await rung.beyond(lambda: at().sequence)
            except TimeoutError:
                pass  # nothing was heard: look all the same
