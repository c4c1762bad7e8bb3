"""The event loop of one node of an interleaving: it has no I/O, its time stands still, and it runs only when it is told to.

Between two things that reach a node (an answer, a wake-up, a timer) the node runs in the order that asyncio promises. So all
that is left to chance is what reaches which node when, and the schedule of `history.py` decides that.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from asyncio import events
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from cachesvc.errors import CacheError

_STEP = 2**-16
_MOST = 200_000  # callbacks in one run: more, and they call each other for ever


class Time:
    """The one time of an interleaving, in seconds: both clocks of every node and of the authority.

    It goes in steps that a double holds exactly, also added to the time of day, so that nothing ends a little too late.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.began = now
        self.seconds = 0.0

    def reach(self, seconds: float) -> None:
        """It is at least so late."""
        self.seconds = max(self.seconds, math.ceil(seconds / _STEP) * _STEP)

    def now(self) -> float:
        return self.began + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Loop(asyncio.AbstractEventLoop):
    """A node's loop. `run()` runs all that is ready; `due` is when its next timer is, None when there is none."""

    def __init__(self, time: Time) -> None:
        self.errors: list[str] = []
        self._time = time
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self) -> None:
        """Run what is ready, and what that makes ready, in order."""
        ready = self._ready
        if not ready:
            return
        # a test that has a loop of its own is left and entered again
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for _ in range(_MOST):
                if not ready:
                    return
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
            raise RuntimeError("a node does not come to rest")
        finally:
            events._set_running_loop(before)

    def end(self) -> None:
        """Every task ends here and now; what they would still wait for never comes."""
        for _ in range(10):
            tasks = [task for task in self._tasks if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.run()
        self._ready.clear()
        self._timers.clear()

    @property
    def due(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def ring(self) -> None:
        """Make ready what is due."""
        now = self._time.seconds
        while self._timers and self._timers[0][0] <= now:
            self._ready.append(heapq.heappop(self._timers)[2])

    # what asyncio asks of a loop

    def time(self) -> float:
        return self._time.seconds

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self._time.seconds + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CacheError):
            self.errors.append(f"{task.get_coro().__qualname__}: {error!r}")  # type: ignore[union-attr]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")
