"""Deadlines: time limits of the requests in progress, kept by one timer for all of them.

`asyncio.timeout` makes a timer for each and takes it back, which costs as much as half a hit in memory. A limit is kept no
sooner than asked for, and no later than the next turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from typing import TypeVar

T = TypeVar("T")


class Late(Exception):
    """The time is over."""


class Deadlines:
    """Of the tasks of one event loop."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[object], float] = {}
        self._over: set[asyncio.Task[object]] = set()  # cancelled because of their time
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: each time it is a system call
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = inf

    async def hold(self, work: Awaitable[T], seconds: float) -> T:
        """What `work` comes to. Raises `Late` when that takes longer; a task has one limit at a time."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        due = self._due[task] = loop.time() + seconds
        if due < self._looks_at:
            self._look_at(loop, due)
        try:
            return await work
        except asyncio.CancelledError as exc:
            if task in self._over and not task.uncancel():  # nobody else wants its end
                raise Late from exc
            raise
        finally:
            self._due.pop(task, None)
            self._over.discard(task)

    def _look_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = due
        self._timer = loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._looks_at = None, inf
        now = loop.time()
        for task in [task for task, due in self._due.items() if due <= now]:
            del self._due[task]
            self._over.add(task)
            task.cancel()
        if self._due:
            self._look_at(loop, min(self._due.values()))
