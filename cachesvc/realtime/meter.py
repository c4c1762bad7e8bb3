"""Meter: what one connection has asked for, counted by connection, user and address."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cachesvc.ports import Clock
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.rates import HAIR, Rates, Standing
from cachesvc.realtime.replies import rate_limit

LOW: Final = 0.2  # the share of a burst at which a client is told how little is left
_WELL: Final = 0.4  # and at which it may be told anew


class Halted(NamedTuple):
    """A message that is not taken up as a whole yet, and how it goes on: at once, or when what it waits for is drawn."""

    again: Callable[[], list[Any]]
    drawn: Future[None] | None = None

    @property
    def waits(self) -> bool:
        return self.drawn is not None and not self.drawn.done()


class Meter:
    """Of one connection from an address."""

    def __init__(self, rates: Rates, address: str, clock: Clock) -> None:
        self._rates = rates
        self._address = address
        self._clock = clock
        self._connection = rates.connection()
        self._told: set[str] = set()  # of which scopes

    def affords(self, kind: str, identity: Identity | None) -> bool:
        """Whether `take` would raise nothing now; nothing is paid."""
        user = identity.subject if identity is not None else ""
        return self._rates.affords(kind, user=user, address=self._address, connection=self._connection)

    def take(self, kind: str, identity: Identity | None) -> dict[str, object] | None:
        """Pay for a message; the payload of a `rate-limit` where that is to be told. Raises what `Rates.take` does."""
        user = identity.subject if identity is not None else ""
        standing = self._rates.take(kind, user=user, address=self._address, connection=self._connection)
        return self._telling(standing) if standing is not None else None

    def _telling(self, standing: Standing) -> dict[str, object] | None:
        if standing.left > LOW * standing.rate.burst + HAIR:
            if self._told and standing.share > _WELL:
                self._told.clear()
            return None
        if standing.scope in self._told:
            return None
        self._told.add(standing.scope)
        rate = standing.rate
        return rate_limit(round(rate.burst), int(standing.left + HAIR), standing.full_in, rate.window, self._clock.now())
