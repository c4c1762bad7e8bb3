"""What the nodes of a site share in the database: who is there, who holds which lease, the dictionaries.

All times are the database's, so nodes whose clocks differ agree on who holds a lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Insert, Table, bindparam, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import NodeRecord
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dictionaries, leases, nodes


class DatabaseRegistry:
    """`ports.Registry`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def heartbeat(self, record: NodeRecord) -> None:
        row = {
            "started_at": record.started_at,
            "seen_at": self._store.now(),
            "epoch": record.applied.epoch,
            "applied": record.applied.sequence,
            "version": record.version,
            "address": record.address,
            "info": orjson.dumps(dict(record.info)).decode(),
        }
        statement = self._upsert(nodes, {"node": record.node}, row)
        await self._store.change(lambda connection: connection.execute(statement))

    async def nodes(self, *, seen_within: float) -> Sequence[NodeRecord]:
        statement = select(nodes).where(nodes.c.seen_at > self._store.now() - seen_within).order_by(nodes.c.node)
        rows = await self._store.read(lambda connection: connection.execute(statement).all())
        return [
            NodeRecord(
                row.node,
                row.started_at,
                row.seen_at,
                Position(Epoch(row.epoch), Seq(row.applied)),
                row.version,
                row.address,
                orjson.loads(row.info),
            )
            for row in rows
        ]

    async def leave(self, node: str) -> None:
        statement = nodes.delete().where(nodes.c.node == node)
        await self._store.change(lambda connection: connection.execute(statement))

    async def acquire(self, lease: str, holder: str, ttl: float) -> bool:
        now = self._store.now()
        free = or_(leases.c.holder == holder, leases.c.expires_at <= now)
        upsert = self._upsert(leases, {"name": lease}, {"holder": holder, "expires_at": now + ttl}, where=free)
        statement = upsert.returning(leases.c.name)
        taken = await self._store.change(lambda connection: connection.execute(statement).one_or_none())
        return taken is not None

    async def release(self, lease: str, holder: str) -> None:
        statement = leases.delete().where(leases.c.name == lease, leases.c.holder == holder)
        await self._store.change(lambda connection: connection.execute(statement))

    async def add_dictionary(self, module: str, data: bytes) -> int:
        # under the log's lock, so that an id is never seen before a lower one
        following: ColumnElement[int] = select(func.coalesce(func.max(dictionaries.c.id), 0) + 1).scalar_subquery()
        insert = dictionaries.insert().values(id=following, module=module, data=data, at=self._store.now())
        statement = insert.returning(dictionaries.c.id)
        return await self._store.maintain(lambda connection: connection.execute(statement).scalar_one())

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        statement = (
            select(dictionaries.c.id, dictionaries.c.module, dictionaries.c.data)
            .where(dictionaries.c.id > bindparam("after"))
            .order_by(dictionaries.c.id)
        )
        rows = await self._store.read(lambda connection: connection.execute(statement, {"after": after}).all())
        return [(row[0], row[1], row[2]) for row in rows]

    def _upsert(
        self, table: Table, key: Mapping[str, Any], row: Mapping[str, Any], *, where: ColumnElement[bool] | None = None
    ) -> Insert:
        """Write a row, over the one with the same key if `where` holds of that."""
        values = {**key, **row}
        if self._store.dialect == "sqlite":
            return sqlite.insert(table).values(values).on_conflict_do_update(index_elements=list(key), set_=row, where=where)
        return postgresql.insert(table).values(values).on_conflict_do_update(index_elements=list(key), set_=row, where=where)
