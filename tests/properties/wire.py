"""The wire between nodes and stores: a call arrives at its store in one step, and its answer at the node in another.

Whatever is on the wire may be held, lost, or go on after its caller has given up; what happens at the store is one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tests.properties.loop import Loop

T = TypeVar("T")


class Caller(Protocol):
    """A node, as the wire sees it."""

    name: str
    loop: Loop
    alive: bool


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way, or, once it has `arrived`, its answer."""

    caller: Caller
    store: str
    name: str
    run: Callable[[], Any]
    answer: asyncio.Future[Any]
    arrived: bool = False
    found: Any = None
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.caller.name} {self.store}.{self.name} {'answer' if self.arrived else 'asked'}"


@dataclass(slots=True)
class Wire:
    """All calls under way, in the order in which they were made. `lost` are those whose callers gave up before they arrived."""

    calls: list[Call] = field(default_factory=list)
    lost: list[Call] = field(default_factory=list)

    async def call(self, caller: Caller, store: str, name: str, run: Callable[[], T]) -> T:
        if not caller.alive:
            raise asyncio.CancelledError
        one = Call(caller, store, name, run, caller.loop.create_future())
        self.calls.append(one)
        try:
            found: T = await one.answer
        except asyncio.CancelledError:
            self.give_up(one)
            raise
        return found

    def arrive(self, call: Call) -> None:
        """It happens at the store."""
        call.arrived = True
        try:
            call.found = call.run()
        except Exception as exc:
            call.error = exc

    def deliver(self, call: Call) -> None:
        """The caller has its answer, and goes on when its loop runs."""
        self.calls.remove(call)
        if call.answer.done():
            return
        if call.error is not None:
            call.answer.set_exception(call.error)
        else:
            call.answer.set_result(call.found)

    def cut(self, call: Call, error: Exception) -> None:
        """The caller hears of an error instead. If it had not arrived, it may still do so later."""
        if not call.arrived:
            self.lost.append(call)
        call.error = error
        self.deliver(call)

    def give_up(self, call: Call) -> None:
        """Nobody waits for it any more."""
        if call in self.calls:
            self.calls.remove(call)
            if not call.arrived:
                self.lost.append(call)

    def arrive_late(self, call: Call) -> None:
        """What was thought lost happens at the store after all; nobody hears what came of it."""
        self.lost.remove(call)
        self.arrive(call)

    def drop(self, caller: Caller) -> None:
        """The caller is gone: no answer reaches it, but what it asked for may."""
        gone = [call for call in self.calls if call.caller is caller]
        self.lost += [call for call in gone if not call.arrived]
        self.calls = [call for call in self.calls if call.caller is not caller]
