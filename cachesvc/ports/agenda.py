"""The agenda, as the authority keeps it: durable as it is, written by appends alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cachesvc.model.agenda import Item


class Agenda(Protocol):
    """What the authority is to look at again. Every call raises `TierUnavailable`."""

    async def due_items(self, *, limit: int) -> Sequence[Item]:
        """What is due by its clock, the longest first, without bodies."""
        ...

    async def find_item(self, name: str) -> Item | None: ...

    async def list_items(self, kind: str, *, before: str = "", limit: int) -> Sequence[Item]:
        """Those whose names begin so, without bodies, the highest name first, from below `before` where one is given."""
        ...

    async def excess_items(self, kind: str, *, most: int, limit: int) -> Sequence[Item]:
        """Those of a kind that are more than `most`, by their names the lowest, without bodies."""
        ...
