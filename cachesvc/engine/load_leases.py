"""Load leases: which node loads a key, agreed on in Redis, else in the database, else not at all.

A lease is a hint: without one a key is loaded twice, and the fill is decided by its token all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from cachesvc.breaker import Breaker
from cachesvc.engine.combine import Combiner
from cachesvc.errors import Overloaded, Unavailable
from cachesvc.model.keys import Key
from cachesvc.ports import Leases

_log = logging.getLogger(__name__)


class Lease(NamedTuple):
    """A key's lease: `left` is for how many seconds another has it, 0 where it is ours. `place` None: nobody was asked."""

    key: Key
    holder: str
    left: float
    place: Leases | None


@dataclass(slots=True, eq=False)
class _Ask:
    key: Key
    ttl: float
    answer: asyncio.Future[Lease]


class LoadLeases:
    """Leases of keys. Those that are asked for within one tick go out in one round trip.

    `places` are asked in their order, each unless its breaker keeps callers away; what they fail at is not their breakers'
    business, since the reads before have just told how they fare.
    """

    def __init__(self, places: Sequence[tuple[Leases, Breaker]], *, holder: str, most: int, pending: int, lanes: int) -> None:
        self.without = 0  # keys that were loaded without one
        self._places = places
        self._holder = holder
        self._numbers = count()
        self.stage: Combiner[_Ask] = Combiner("leases", self._run, _fail, most=most, pending=pending, lanes=lanes)

    async def take(self, keys: Collection[Key], ttl: float) -> list[Lease]:
        """A lease of each key for `ttl` seconds, in order. Raises `Overloaded`, and then none is taken."""
        loop = asyncio.get_running_loop()
        asks = [_Ask(key, ttl, loop.create_future()) for key in keys]
        try:
            for ask in asks:
                self.stage.add(ask)
        except Overloaded:
            for ask in asks:
                ask.answer.cancel()
            raise
        return list(await asyncio.gather(*(ask.answer for ask in asks)))

    async def release(self, leases: Collection[Lease]) -> None:
        """Give back what is ours. One that cannot be given back runs out."""
        mine: dict[tuple[Leases, str], list[str]] = defaultdict(list)
        for lease in leases:
            if lease.place is not None and not lease.left:
                mine[lease.place, lease.holder].append(_name(lease.key))
        for (place, holder), names in mine.items():
            try:
                await place.release(names, holder)
            except Unavailable as exc:
                _log.debug("leases run out instead of being released: %s", exc)

    async def _run(self, batch: list[_Ask]) -> None:
        lives: dict[float, list[_Ask]] = defaultdict(list)
        for ask in batch:
            if not ask.answer.done():
                lives[ask.ttl].append(ask)
        for ttl, asks in lives.items():
            # a token of its own for each batch: a node that loads a key twice waits for itself
            holder = f"{self._holder}/{next(self._numbers)}"
            leases = await self._acquire([ask.key for ask in asks], holder, ttl)
            for ask, lease in zip(asks, leases, strict=True):
                if not ask.answer.done():
                    ask.answer.set_result(lease)

    async def _acquire(self, keys: Sequence[Key], holder: str, ttl: float) -> list[Lease]:
        """A lease of each, of the first place that answers for it, or of none."""
        taken: dict[str, Lease] = {}
        for place, breaker in self._places:
            names = {_name(key): key for key in keys if _name(key) not in taken}
            if not names or breaker.refuses:
                continue
            try:
                left = await place.acquire(list(names), holder, ttl)
            except Unavailable as exc:
                _log.debug("leases are asked for elsewhere: %s", exc)
            else:
                taken |= {name: Lease(names[name], holder, seconds, place) for name, seconds in left.items()}
        self.without += sum(_name(key) not in taken for key in keys)
        return [taken.get(_name(key)) or Lease(key, holder, 0.0, None) for key in keys]


def _name(key: Key) -> str:
    return f"load {key}"


def _fail(ask: _Ask, error: Exception) -> None:
    if not ask.answer.done():
        ask.answer.set_exception(error)
