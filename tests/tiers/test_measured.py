"""A dear measurement is taken now and then, however many ask."""

from __future__ import annotations

import asyncio

from cachesvc.errors import TierUnavailable
from cachesvc.tiers.measured import KEPT, Measured, Size
from tests.fakes import FakeClock


class Store:
    """Something whose measuring takes time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.takes = 0.0
        self.asked = 0
        self.away = False

    async def measure(self) -> Size:
        self.asked += 1
        await asyncio.sleep(0)
        self.clock.advance(self.takes)
        if self.away:
            raise TierUnavailable("redis", "away")
        return Size(self.asked, 0)


async def test_it_is_kept_for_a_while_and_shared() -> None:
    clock = FakeClock()
    store = Store(clock)
    measured = Measured(store.measure, clock.monotonic)
    assert await asyncio.gather(*(measured.latest() for _ in range(10))) == [(1, 0)] * 10
    clock.advance(KEPT - 0.1)
    assert await measured.latest() == (1, 0)
    clock.advance(0.1)
    assert await measured.latest() == (2, 0)


async def test_what_takes_long_is_kept_longer() -> None:
    clock = FakeClock()
    store = Store(clock)
    store.takes = 1.0
    measured = Measured(store.measure, clock.monotonic)
    await measured.latest()
    clock.advance(99.0)
    assert await measured.latest() == (1, 0)
    clock.advance(1.0)
    assert await measured.latest() == (2, 0)


async def test_a_store_that_is_away_is_not_asked_again_at_once() -> None:
    clock = FakeClock()
    store = Store(clock)
    store.away = True
    measured = Measured(store.measure, clock.monotonic)
    assert await measured.latest() == (None, None)
    assert await measured.latest() == (None, None)
    assert store.asked == 1
    store.away = False
    clock.advance(KEPT)
    assert await measured.latest() == (2, 0)
