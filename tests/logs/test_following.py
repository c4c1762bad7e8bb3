"""Following: nothing is read twice or passed over, whatever rings and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachesvc.logs.following import Bell, following
from cachesvc.model.change import Change, Kind
from cachesvc.model.position import Epoch, Position, Seq

START = Position(Epoch(1), Seq(0))


class Log:
    """Changes, and what was asked for."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.reads: list[int] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            self.changes.append(Change(Seq(len(self.changes) + 1), Kind.PUBLISH, "", 0.0))

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        self.reads.append(after.sequence)
        return self.changes[after.sequence : after.sequence + limit]


async def test_full_batches_are_read_on_without_waiting() -> None:
    log, bell = Log(), Bell()
    log.add(5)
    async with asyncio.timeout(10), following(log.read, START, bell=bell, poll_interval=3_600, limit=2) as batches:
        assert [len(await anext(batches)) for _ in range(3)] == [2, 2, 1]
    assert log.reads == [0, 2, 4]


async def test_what_is_rung_during_a_read_is_heard() -> None:
    log, bell = Log(), Bell()

    async def read(after: Position, limit: int) -> Sequence[Change]:
        found = await log.read(after, limit)
        if len(log.reads) == 1:
            log.add(1)  # committed right behind the read
            bell.ring()
        return found

    async with asyncio.timeout(10), following(read, START, bell=bell, poll_interval=3_600) as batches:
        assert len(await anext(batches)) == 1


async def test_what_is_rung_is_heard_once() -> None:
    log, bell = Log(), Bell()
    async with following(log.read, START, bell=bell, poll_interval=3_600) as batches:

        async def listen() -> None:
            await anext(batches)

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(listen())
            while len(log.reads) < 2:
                bell.ring()
                await asyncio.sleep(0)
            bell.ring()
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(log.reads) <= 4
            log.add(1)
            bell.ring()


async def test_without_a_ring_the_poll_finds_it() -> None:
    log, bell = Log(), Bell()

    async def read(after: Position, limit: int) -> Sequence[Change]:
        found = await log.read(after, limit)
        log.add(1)
        return found

    async with asyncio.timeout(10), following(read, START, bell=bell, poll_interval=0.001) as batches:
        assert len(await anext(batches)) == 1


async def test_what_is_known_is_passed_over() -> None:
    log, bell = Log(), Bell()
    log.add(10)
    known = Position(Epoch(1), Seq(7))
    async with asyncio.timeout(10), following(log.read, START, bell=bell, poll_interval=3_600, known=lambda: known) as batches:
        assert [change.sequence for change in await anext(batches)] == [8, 9, 10]


async def test_who_has_left_is_not_rung() -> None:
    log, bell = Log(), Bell()
    log.add(1)
    async with following(log.read, START, bell=bell, poll_interval=3_600) as batches:
        await anext(batches)
        assert len(bell._hearing) == 1
    assert not bell._hearing
