"""Leases: which node does what one node is enough for.

A lease is a hint, never the truth: it may be lost at any time, and two who do the same must do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol, runtime_checkable

LONGEST_LEASE: Final = 2  # times as long as is asked for


@runtime_checkable
class Leases(Protocol):
    """Where nodes agree on who does what, many things in one round trip."""

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        """Take or renew each for `ttl` seconds where no other holds it; 0 for what is held now, else the seconds it is taken.

        One that ends later than `LONGEST_LEASE` allows is free: the clock was set back since it was taken. Those that the part
        for them did not answer are left out. Raises `TierUnavailable`.
        """
        ...

    async def release(self, leases: Collection[str], holder: str) -> None:
        """Give back those that are still the holder's. Raises `TierUnavailable`."""
        ...
