"""The agenda's keeper: looks at what is due, so that reminders are told, and conflicts settled and forgotten.

It may be done by two nodes at once: the fold lets one of them come first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cachesvc.errors import Unavailable
from cachesvc.model.agenda import CONFLICT, REMINDER, Item
from cachesvc.model.change import NO_KEY, Draft, due
from cachesvc.model.reminders import key_of
from cachesvc.ports import Agenda

BATCH: Final = 100  # items looked at in one append
ROUNDS: Final = 100  # of them before the lease is looked at again


class Keeper:
    """One round at a time, by the node that holds the duty. `write` appends drafts; `max_kept` is of conflicts."""

    def __init__(
        self, agenda: Agenda, write: Callable[[Sequence[Draft]], Awaitable[Sequence[object]]], *, max_kept: int
    ) -> None:
        self.looked = 0
        self._agenda = agenda
        self._write = write
        self._max_kept = max_kept

    async def step(self) -> None:
        """Look at all that is due. Raises `Unavailable`."""
        for _ in range(ROUNDS):
            if not await self._look(await self._agenda.due_items(limit=BATCH)):
                return

    async def forget(self) -> None:
        """End the oldest conflicts where more are kept than is allowed: an open one by the last write. Raises `Unavailable`."""
        for _ in range(ROUNDS):
            if not await self._look(await self._agenda.excess_items(CONFLICT, most=self._max_kept, limit=BATCH)):
                return

    async def _look(self, items: Sequence[Item]) -> bool:
        """False when there was nothing, or not all could be looked at."""
        if not items:
            return False
        outcomes = await self._write([_draft(item) for item in items])
        failed = next((outcome for outcome in outcomes if isinstance(outcome, Unavailable)), None)
        if failed is not None:
            raise failed
        self.looked += len(items)
        return len(items) == BATCH


def _draft(item: Item) -> Draft:
    return due(item.name, item.due, key_of(item.name) if item.name.startswith(REMINDER) else NO_KEY)
