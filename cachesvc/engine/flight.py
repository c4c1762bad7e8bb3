"""Flights: callers that miss the same key at the same time share one read.

A flight that began before a change is not joined by callers that come after it: they start their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from cachesvc.engine.answers import Answer
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Position


@dataclass(slots=True)
class LoadState:
    """What there is to know of a flight that goes on to its loader, beside what every flight has."""

    known: int = 0  # what is no newer than this version is to be loaded anew, live or not
    background: bool = False  # it goes on though nobody waits for it
    stale: Entry | None = None  # what is past its life, found on the way, that may be served in need
    tier: str = ""  # where that was found
    since: float | None = None  # monotonic: when it came to its loader first
    floor: int = 0  # its key's, when it came to its loader last
    looks: int = 0  # how often it found that another node loads the key


class Flight:
    """One read under way. Every caller has a future of its own, so that one's cancellation is no other's."""

    __slots__ = ("attempts", "direct", "key", "load", "loading", "token", "waiters")

    def __init__(self, key: Key, token: Position, *, load: bool, direct: bool = False) -> None:
        self.key = key
        self.token = token
        self.attempts = 0
        self.direct = direct  # whether only the authority is to be asked
        self.load = load  # whether a miss may call a loader
        self.loading: LoadState | None = None  # before it comes to its loader
        self.waiters: list[asyncio.Future[Answer]] = []

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Answer]:
        waiter: asyncio.Future[Answer] = loop.create_future()
        self.waiters.append(waiter)
        return waiter

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more."""
        for waiter in self.waiters:  # noqa: SIM110 - `all` takes twice as long where one waits
            if not waiter.done():
                return False
        return True

    def land(self, answer: Answer) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(answer)

    def fail(self, error: Exception) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


class Flights:
    """The flights that may still be joined, by key: those that may load, and those that only read."""

    def __init__(self) -> None:
        self._loading: dict[Key, Flight] = {}
        self._reading: dict[Key, Flight] = {}

    def joinable(self, *, load: bool) -> dict[Key, Flight]:
        """Those of one kind; whoever begins one puts it there."""
        return self._loading if load else self._reading

    def part(self, key: Key) -> None:
        """The key changed: who comes now starts anew."""
        self._loading.pop(key, None)
        self._reading.pop(key, None)

    def part_each(self, keys: Iterable[Key]) -> None:
        if self._loading or self._reading:
            for key in keys:
                self.part(key)

    def close(self, flight: Flight) -> None:
        """It has landed, or is about to."""
        mine = self._loading if flight.load else self._reading
        if mine.get(flight.key) is flight:
            del mine[flight.key]

    def part_all(self) -> None:
        self._loading.clear()
        self._reading.clear()
