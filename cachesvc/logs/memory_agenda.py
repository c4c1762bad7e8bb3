"""The agenda of the memory authority: kept as long as the process lives, as everything of it is."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

from cachesvc.model.agenda import Item, Items
from cachesvc.ports import Clock


class MemoryAgenda:
    """`ports.Agenda`."""

    def __init__(self, clock: Clock) -> None:
        self._items: dict[str, Item] = {}
        self._time = clock.now

    async def due_items(self, *, limit: int) -> Sequence[Item]:
        now = self._time()
        due = heapq.nsmallest(limit, (item for item in self._items.values() if item.due <= now), key=lambda item: item.due)
        return [item._replace(body=b"") for item in due]

    async def find_item(self, name: str) -> Item | None:
        return self._items.get(name)

    async def list_items(self, kind: str, *, before: str = "", limit: int) -> Sequence[Item]:
        names = (name for name in self._items if name.startswith(kind) and (not before or name < before))
        return [self._items[name]._replace(body=b"") for name in heapq.nlargest(limit, names)]

    async def excess_items(self, kind: str, *, most: int, limit: int) -> Sequence[Item]:
        names = [name for name in self._items if name.startswith(kind)]
        over = heapq.nsmallest(max(0, min(len(names) - most, limit)), names)
        return [self._items[name]._replace(body=b"") for name in over]

    def _held(self, names: Collection[str]) -> Mapping[str, Item]:
        return {name: item for name in names if (item := self._items.get(name)) is not None}

    def _note(self, items: Items) -> None:
        for name, item in items.items():
            if item is None:
                self._items.pop(name, None)
            else:
                self._items[name] = item
