"""Every clock passes the contract of clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cachesvc.clock import SystemClock
from cachesvc.ports import Clock
from tests.fakes import FakeClock


def system() -> tuple[Clock, Callable[[], None]]:
    return SystemClock(), lambda: None


def fake() -> tuple[Clock, Callable[[], None]]:
    clock = FakeClock()
    return clock, lambda: clock.advance(1.0)


@pytest.mark.parametrize("make", [system, fake])
class TestClocks:
    async def test_time_is_unix_seconds_and_monotonic_time_never_runs_backwards(
        self, make: Callable[[], tuple[Clock, Callable[[], None]]]
    ) -> None:
        clock, move = make()
        assert clock.now() > 1_600_000_000
        before = clock.monotonic()
        move()
        assert clock.monotonic() >= before

    async def test_who_sleeps_wakes_after_that_time_and_not_before(
        self, make: Callable[[], tuple[Clock, Callable[[], None]]]
    ) -> None:
        clock, move = make()
        began = clock.monotonic()
        sleeping = asyncio.create_task(clock.sleep(0.02))
        await asyncio.sleep(0)
        assert not sleeping.done()
        move()
        await sleeping
        assert clock.monotonic() - began >= 0.02


def test_the_system_clock_is_moved_to_the_authoritys_time() -> None:
    clock = SystemClock()
    here = clock.now()
    clock.offset = 600.0
    assert clock.now() >= here + 600.0
