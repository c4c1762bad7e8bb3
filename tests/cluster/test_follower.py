"""The follower over a log in a list: whose changes it takes, and how long they took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cachesvc.cluster.feed import Feed
from cachesvc.cluster.follower import OWN, Follower
from cachesvc.cluster.losses import Losses
from cachesvc.model.change import Appended, Change, Kind
from cachesvc.model.position import Epoch, Position, Seq
from tests.fakes import FakeClock

START = Position(Epoch(7), Seq(100))


class PushedLog:
    """What is pushed comes as a batch."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Change]] = asyncio.Queue()

    @asynccontextmanager
    async def follow(self, after: Position, *, known: Callable[[], Position]) -> AsyncIterator[AsyncIterator[Any]]:
        async def come() -> AsyncIterator[Sequence[Change]]:
            while True:
                yield await self.batches.get()
                self.batches.task_done()

        yield come()


@asynccontextmanager
async def following(clock: FakeClock) -> AsyncIterator[tuple[Follower, PushedLog]]:
    log: Any = PushedLog()
    nothing: Any = lambda _: None  # noqa: E731
    follower = Follower(log, Feed(log, START), clock, start=START, apply=nothing, start_over=nothing, losses=Losses())
    running = asyncio.create_task(follower.run())
    try:
        yield follower, log
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def changes(clock: FakeClock, first: int, last: int, *, before: float) -> list[Change]:
    return [Change(Seq(n), Kind.PUBLISH, str(n), clock.now() - before) for n in range(first, last + 1)]


def appended(made: Sequence[Change]) -> Appended:
    return Appended(Position(START.epoch, Seq(made[0].sequence - 1)), "b", made, [])


async def test_own_changes_are_counted_apart_however_they_come() -> None:
    clock = FakeClock()
    async with following(clock) as (follower, log):
        follower.offer(appended(changes(clock, 101, 102, before=0.25)))  # taken over at once
        others, own, more = (
            changes(clock, 103, 104, before=0.5),
            changes(clock, 105, 107, before=0.25),
            changes(clock, 108, 108, before=0.5),
        )
        follower.offer(appended(own))  # comes behind those of others
        await log.batches.put([*others, *own[:1]])
        await log.batches.put([*own[1:], *more])
        await asyncio.wait_for(log.batches.join(), 20)
    assert (follower.direct, follower.read, follower.position.sequence) == (2, 6, 108)
    assert follower.delays["own"].latest() == {"count": 5, "p50": 0.25, "p99": 0.25, "max": 0.25}
    assert follower.delays["others"].latest() == {"count": 3, "p50": 0.5, "p99": 0.5, "max": 0.5}


async def test_what_is_remembered_of_own_changes_is_bounded() -> None:
    clock = FakeClock()
    async with following(clock) as (follower, _):
        for n in range(OWN + 10):
            follower.offer(appended(changes(clock, 200 + n, 200 + n, before=0.0)))
        assert len(follower._own) == OWN
