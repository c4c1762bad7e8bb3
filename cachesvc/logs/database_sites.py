"""What the database keeps for other sites: how far their logs were taken in; and its entries in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, LargeBinary, Text, bindparam, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from cachesvc.model.entry import Entry
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import Followed
from cachesvc.tiers.database import entry_of
from cachesvc.tiers.database_patterns import PatternsRead
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import entries, sites


class DatabaseSites:
    """`rows` and the positions of `ports.SiteStore`."""

    def __init__(self, store: Store, patterns: PatternsRead) -> None:
        self._store = store
        self._patterns = patterns
        outlined = [literal(b"", LargeBinary) if column is entries.c.value else column for column in entries.c]
        page = select(*outlined).where(entries.c.key > bindparam("after", type_=Text))
        self._rows_after = page.order_by(entries.c.key).limit(bindparam("limit"))

    async def rows(self, *, after: str, limit: int) -> Sequence[Entry]:
        return await self._store.read(partial(self._rows_page, after=after, limit=limit))

    def _rows_page(self, connection: Connection, *, after: str, limit: int) -> Sequence[Entry]:
        found = connection.execute(self._rows_after, {"after": after, "limit": limit}).all()
        patterns = self._patterns.now(connection)
        return [patterns.hide(entry_of(row)) for row in found]

    async def followed(self, site: str) -> Followed | None:
        statement = select(sites.c.epoch, sites.c.sequence, sites.c.at).where(sites.c.site == site)
        row = await self._store.read(lambda connection: connection.execute(statement).one_or_none())
        return Followed(Position(Epoch(row.epoch), Seq(row.sequence)), row.at) if row is not None else None

    async def follow_on(self, site: str, position: Position) -> None:
        row = {"epoch": position.epoch, "sequence": position.sequence, "at": self._store.now()}
        insert = (sqlite if self._store.dialect == "sqlite" else postgresql).insert(sites).values(site=site, **row)
        statement = insert.on_conflict_do_update(index_elements=["site"], set_=row)
        await self._store.change(lambda connection: connection.execute(statement))
