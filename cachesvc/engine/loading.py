"""Loading: a miss of everything calls the loader of its module, and what comes is filled into the authority.

The rule that must not break: a loader's value is served only once the authority has it, and the authority takes it only if
nothing newer than the flight's token touches the key or a parent; otherwise it is read again. A failure is never a value.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from cachesvc.engine.answers import Answer
from cachesvc.engine.combine import Combiner
from cachesvc.engine.flight import Flight
from cachesvc.engine.last_reads import Reason
from cachesvc.errors import Refusal, Refused, Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.entry import Entry
from cachesvc.model.keys import module_of
from cachesvc.ports import Clock, Loaded, Loader


class Ends(NamedTuple):
    """How a flight goes on from a stage: those still wanted of a batch, landed, failed, or read again from the start."""

    wanted: Callable[[list[Flight]], list[Flight]]
    land: Callable[[Flight, Answer], None]
    fail: Callable[[Flight, Exception], None]
    again: Callable[[Flight], None]


class Loads:
    """The last stage of a read. `note(flights, reason)` and `timed(seconds, hits, asked)` are told how loads went."""

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        ends: Ends,
        *,
        fill: Callable[[Draft], Awaitable[Entry]],
        note: Callable[[list[Flight], Reason], None],
        timed: Callable[[float, int, int], None],
        clock: Clock,
        most: int,
        pending: int,
        lanes: int,
    ) -> None:
        self._loaders = loaders
        self._ends = ends
        self._fill = fill
        self._note = note
        self._timed = timed
        self._clock = clock
        self.stage: Combiner[Flight] = Combiner("loads", self._run, ends.fail, most=most, pending=pending, lanes=lanes)

    def loads(self, flight: Flight) -> bool:
        """Whether a miss of this flight calls a loader."""
        return flight.load and module_of(flight.key) in self._loaders

    async def _run(self, batch: list[Flight]) -> None:
        modules: dict[str, list[Flight]] = defaultdict(list)
        for flight in self._ends.wanted(batch):
            modules[module_of(flight.key)].append(flight)
        await asyncio.gather(*(self._load(self._loaders[name], flights) for name, flights in modules.items()))

    async def _load(self, loader: Loader, waiting: list[Flight]) -> None:
        """Load, and fill the authority with what came; a fill that was refused as stale is read again."""
        began = self._clock.monotonic()
        try:
            loaded = await loader.load([flight.key for flight in waiting])
        except Unavailable as exc:
            self._note(waiting, Reason.AWAY)
            for flight in waiting:
                self._ends.fail(flight, exc)
            return
        self._timed(self._clock.monotonic() - began, len(loaded), len(waiting))
        self._note([flight for flight in waiting if flight.key in loaded], Reason.HIT)
        self._note([flight for flight in waiting if flight.key not in loaded], Reason.NOT_LOADED)
        outcomes = await asyncio.gather(
            *(self._keep(flight, loaded.get(flight.key)) for flight in waiting), return_exceptions=True
        )
        for flight, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Refused) and outcome.code is Refusal.STALE_FILL:
                self._ends.again(flight)
            elif isinstance(outcome, Exception):
                self._ends.fail(flight, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _keep(self, flight: Flight, loaded: Loaded | None) -> None:
        if loaded is None:
            self._ends.land(flight, Answer(None, "loader", flight.token, self._clock.now()))
            return
        entry = await self._fill(
            Draft(
                Operation.FILL,
                flight.key,
                loaded.value,
                loaded.content_type,
                ttl=loaded.ttl,
                tags=loaded.tags,
                parents=loaded.parents,
                token=flight.token,
                source="loader",
            )
        )
        self._ends.land(flight, Answer(entry, "loader", flight.token, self._clock.now(), stored=True))
