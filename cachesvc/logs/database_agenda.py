"""The agenda in the database: a row for each item."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from cachesvc.model.agenda import Item, Items
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import agenda

_COLUMNS = agenda.c.name, agenda.c.due_at, agenda.c.record


class DatabaseAgenda:
    """`ports.Agenda`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def due_items(self, *, limit: int) -> Sequence[Item]:
        due = select(*_COLUMNS).where(agenda.c.due_at <= self._store.now()).order_by(agenda.c.due_at).limit(limit)
        return await self._items(due)

    async def find_item(self, name: str) -> Item | None:
        found = await self._items(select(*_COLUMNS, agenda.c.body).where(agenda.c.name == name))
        return found[0] if found else None

    async def list_items(self, kind: str, *, before: str = "", limit: int) -> Sequence[Item]:
        below = (agenda.c.name < before,) if before else ()
        named = select(*_COLUMNS).where(*_of(kind), *below).order_by(agenda.c.name.desc()).limit(limit)
        return await self._items(named)

    async def excess_items(self, kind: str, *, most: int, limit: int) -> Sequence[Item]:
        counting = select(func.count()).select_from(agenda).where(*_of(kind))
        over = await self._store.read(lambda connection: connection.execute(counting).scalar_one()) - most
        if over <= 0:
            return []
        return await self._items(select(*_COLUMNS).where(*_of(kind)).order_by(agenda.c.name).limit(min(over, limit)))

    async def _items(self, statement: Select[Any]) -> list[Item]:
        return await self._store.read(lambda connection: [Item(*row) for row in connection.execute(statement)])


def _of(kind: str) -> tuple[Any, Any]:
    """Names that begin so: up to the next letter after its last."""
    return agenda.c.name >= kind, agenda.c.name < kind[:-1] + chr(ord(kind[-1]) + 1)


def held(connection: Connection, store: Store, names: Collection[str]) -> dict[str, Item]:
    """The items of these names, whole."""
    named = select(*_COLUMNS, agenda.c.body).where(store.one_of(agenda.c.name, "names"))
    return {row.name: Item(*row) for row in connection.execute(named, {"names": store.texts(names)})}


def write(connection: Connection, items: Items) -> None:
    """Bring items to what an append made of them."""
    names = [{"named": name} for name in items]
    connection.execute(agenda.delete().where(agenda.c.name == bindparam("named")), names)
    rows = [dict(zip(("name", "due_at", "record", "body"), item, strict=True)) for item in items.values() if item is not None]
    if rows:
        connection.execute(agenda.insert(), rows)
