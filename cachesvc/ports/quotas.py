"""Quotas: budgets that the nodes of a site share, each a bucket that fills at its rate.

A budget is counted in seconds of its rate, so that one number says all of a bucket: when it will be full again (the generic
cell rate algorithm, ITU-T I.371).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Drawn(NamedTuple):
    """Seconds of a budget: how many were given, and how many are used now, these among them."""

    given: float
    used: float


@runtime_checkable
class Quotas(Protocol):
    """Where they are kept. One that nobody draws from is forgotten when it is full."""

    async def draw(self, name: str, *, asked: float, most: float) -> Drawn:
        """Take up to `asked` seconds from a budget of `most`, in one step. Raises `TierUnavailable`."""
        ...
