"""Waiting: flights whose key another node loads. A change of the key wakes them; failing that, they look again now and then.

The rule that must not break: nobody waits without a time at which it looks again, so that a lost wake-up costs a pause only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cachesvc.engine.flight import Flight
from cachesvc.errors import Overloaded
from cachesvc.model.keys import Key
from cachesvc.ports import Clock

TICK = 0.02  # seconds between two looks at who is due; only while somebody waits


class Waiting:
    """The flights that wait, by key. `resume(flight)` is called when its time has come, `fail` when the node closes."""

    def __init__(self, resume: Callable[[Flight], None], fail: Callable[[Flight, Exception], None], clock: Clock) -> None:
        self._resume = resume
        self._fail = fail
        self._clock = clock
        self._due: dict[Key, dict[Flight, float]] = {}
        self._some = asyncio.Event()
        self.closing = False

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, flight: Flight, *, due: float) -> None:
        """Let it wait, until `due` (monotonic) at most."""
        if self.closing:
            self._fail(flight, Overloaded("the node is closing"))
            return
        self._due.setdefault(flight.key, {})[flight] = due
        self._some.set()

    def wake(self, key: Key, *, but: Flight | None = None) -> None:
        """The key changed, or the flight `but`, which loaded it, has ended."""
        for flight in [flight for flight in self._due.get(key, ()) if flight is not but]:
            self._leave(flight)
            self._resume(flight)

    def wake_all(self, keys: Iterable[Key]) -> None:
        if self._due:
            for key in keys:
                self.wake(key)

    async def serve(self) -> None:
        """Resume who is due, for ever."""
        while True:
            if not self._due:
                self._some.clear()
                await self._some.wait()
                continue
            await self._clock.sleep(TICK)
            now = self._clock.monotonic()
            for flight in [one for flights in self._due.values() for one, due in flights.items() if due <= now]:
                self._leave(flight)
                self._resume(flight)

    def close(self) -> None:
        """Whoever waits is told so."""
        self.closing = True
        for flight in [one for flights in self._due.values() for one in flights]:
            self._leave(flight)
            self._fail(flight, Overloaded("the node is closing"))

    def _leave(self, flight: Flight) -> None:
        flights = self._due.get(flight.key)
        if flights is not None and flights.pop(flight, None) is not None and not flights:
            del self._due[flight.key]
