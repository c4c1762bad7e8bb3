"""Following a log: read what is new, else wait for a wake-up or the poll interval, whichever is first.

A wake-up only makes it sooner: losing every one of them costs latency, never a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final

from cachesvc.model.change import Change
from cachesvc.model.position import Position

BATCH: Final = 1_000


class Bell:
    """Wakes all who follow in this process. Rung more often than heard, it is heard once."""

    def __init__(self) -> None:
        self._hearing: set[asyncio.Event] = set()

    def ring(self) -> None:
        for event in self._hearing:
            event.set()

    @contextmanager
    def hearing(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._hearing.add(event)
        try:
            yield event
        finally:
            self._hearing.discard(event)


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
    rung: asyncio.Event,
    *,
    poll_interval: float,
    known: Callable[[], Position] | None,
    limit: int,
) -> AsyncGenerator[Sequence[Change], None]:
    while True:
        rung.clear()  # before the read: what is appended during it rings again
        if known is not None:
            after = max(after, known())
        changes = await read(after, limit)
        if changes:
            after = after._replace(sequence=changes[-1].sequence)
            yield changes
        if len(changes) < limit:
            try:
                async with asyncio.timeout(poll_interval):
                    await rung.wait()
            except TimeoutError:
                pass  # nothing was heard: look all the same
