"""Time that is made up: a loop that has nothing to wait for goes on to when its next timer is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.fakes import FakeClock

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen any more")
        if not ready and timeout is not None:
            self.seconds += max(0.0, timeout)
        return ready


class Loop(asyncio.SelectorEventLoop):
    """Its hours pass in the time that its callbacks take."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.seconds


class VirtualClock(FakeClock):
    """`ports.Clock` of the loop that runs."""

    def now(self) -> float:
        return super().now() + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Carry out what takes hours, now."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)
