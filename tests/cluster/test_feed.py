"""The feed over a log in a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cachesvc.cluster.feed import Feed
from cachesvc.errors import EpochChanged
from cachesvc.model.change import Change, Kind
from cachesvc.model.position import Epoch, Position, Seq

START = Position(Epoch(7), Seq(100))


class ListedLog:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.asked = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.reached = asyncio.Event()

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        self.asked += 1
        found = [change for change in self.changes if change.sequence > after.sequence][:limit]
        self.reached.set()
        await self.hold.wait()
        return found


def change(sequence: int) -> Change:
    return Change(Seq(sequence), Kind.PUBLISH, str(sequence), 0.0)


def at(sequence: int) -> Position:
    return Position(START.epoch, Seq(sequence))


@pytest.fixture
def log() -> Any:
    return ListedLog()


async def test_what_is_held_is_not_read(log: ListedLog) -> None:
    feed = Feed(log, START)  # type: ignore[arg-type]  # it reads and nothing else
    feed.publish([change(n) for n in range(101, 111)])
    assert [c.sequence for c in await feed.next(at(104), 3)] == [105, 106, 107]
    assert log.asked == 0


async def test_what_is_held_no_longer_is_read(log: ListedLog) -> None:
    log.changes = [change(n) for n in range(101, 111)]
    feed = Feed(log, START, count=4)  # type: ignore[arg-type]
    feed.publish(log.changes)
    assert [c.sequence for c in await feed.next(at(102), 3)] == [103, 104, 105]
    assert log.asked == 1
    assert [c.sequence for c in await feed.next(at(106), 9)] == [107, 108, 109, 110]
    assert log.asked == 1


async def test_who_waits_is_told(log: ListedLog) -> None:
    feed = Feed(log, START)  # type: ignore[arg-type]
    waiting = asyncio.create_task(feed.next(START, 9))
    await asyncio.sleep(0)
    feed.publish([change(101)])
    assert [c.sequence for c in await waiting] == [101]


async def test_what_is_applied_while_the_log_is_read_is_not_slept_over(log: ListedLog) -> None:
    feed = Feed(log, START)  # type: ignore[arg-type]
    log.hold.clear()
    ahead = asyncio.create_task(feed.next(at(101), 9))  # told elsewhere of 101, which is not applied here yet
    await log.reached.wait()
    feed.publish([change(101), change(102)])
    log.hold.set()
    async with asyncio.timeout(5):
        assert [c.sequence for c in await ahead] == [102]


async def test_who_waits_is_told_to_start_over(log: ListedLog) -> None:
    feed = Feed(log, START)  # type: ignore[arg-type]
    waiting = asyncio.create_task(feed.next(START, 9))
    await asyncio.sleep(0)
    feed.start_over(Position(Epoch(8), Seq(500)))
    with pytest.raises(EpochChanged):
        await waiting
