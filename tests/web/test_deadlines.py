"""Time limits of requests by one timer: each is kept, whichever was asked for first, and nobody else's end is taken for one."""

from __future__ import annotations

import asyncio

import pytest

from cachesvc.web.deadlines import Deadlines, Late


async def test_each_limit_is_kept_whichever_came_first() -> None:
    deadlines, ended = Deadlines(), []
    never = asyncio.Event()

    async def wait(seconds: float) -> None:
        with pytest.raises(Late):
            await deadlines.hold(never.wait(), seconds)
        ended.append(seconds)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for seconds in (0.06, 0.02, 0.04):
            group.create_task(wait(seconds))
    assert ended == [0.02, 0.04, 0.06]


async def test_what_is_in_time_comes_to_what_it_is() -> None:
    deadlines = Deadlines()

    async def three() -> int:
        await asyncio.sleep(0)
        return 3

    async def failing() -> int:
        raise ValueError("three")

    assert await deadlines.hold(three(), 30.0) == 3
    with pytest.raises(ValueError, match="three"):
        await deadlines.hold(failing(), 30.0)
    assert await deadlines.hold(three(), 30.0) == 3


async def test_who_is_cancelled_by_another_is_not_late() -> None:
    deadlines, begun, never = Deadlines(), asyncio.Event(), asyncio.Event()

    async def work() -> bool:
        begun.set()
        return await never.wait()

    task = asyncio.ensure_future(deadlines.hold(work(), 30.0))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
