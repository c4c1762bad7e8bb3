"""What the nodes of a site share in the database: who is there, who holds which lease, the dictionaries.

All times are the database's, so nodes whose clocks differ agree on who holds a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Insert, Table, Text, bindparam, case, cast, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import LONGEST_LEASE, Drawn, NodeRecord
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import dictionaries, nodes
from cachesvc.tiers.schema import leases as table


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
        # who was seen long after now was seen before the clock was set back
        lately = nodes.c.seen_at.between(self._store.now() - seen_within, self._store.now() + seen_within)
        statement = select(nodes).where(lately).order_by(nodes.c.node)
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

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        if not leases:
            return {}
        now = self._store.now()
        # in one order, so that two who ask for the same do not wait for each other
        rows = [{"name": lease, "holder": holder, "expires_at": now + ttl} for lease in sorted(set(leases))]
        insert = (sqlite if self._store.dialect == "sqlite" else postgresql).insert(table).values(rows)
        # no lease lasts that long: the clock was set back since it was taken
        never = table.c.expires_at > now + LONGEST_LEASE * ttl
        free = or_(table.c.holder == holder, table.c.expires_at <= now, never)
        # what another holds is written as it was, so that it is told of too
        kept = {name: case((free, insert.excluded[name]), else_=table.c[name]) for name in ("holder", "expires_at")}
        upsert = insert.on_conflict_do_update(index_elements=["name"], set_=kept)
        statement = upsert.returning(table.c.name, table.c.holder, table.c.expires_at - now)
        found = await self._store.change(lambda connection: connection.execute(statement).all())
        return {name: 0.0 if held_by == holder else max(left, 0.001) for name, held_by, left in found}

    async def release(self, leases: Collection[str], holder: str) -> None:
        if leases:
            statement = table.delete().where(self._store.one_of(table.c.name, "names"), table.c.holder == holder)
            bound = {"names": self._store.texts(leases)}
            await self._store.change(lambda connection: connection.execute(statement, bound))

    async def draw(self, name: str, *, asked: float, most: float) -> Drawn:
        """See `ports.Quotas`. A budget is a row of the leases that ends when it is full; its holder is what was drawn last."""
        now = self._store.now()
        sqlite_ = self._store.dialect == "sqlite"
        least, most_of = (func.min, func.max) if sqlite_ else (func.least, func.greatest)
        first = min(asked, most)
        row = {"name": f"quota:{name}", "holder": repr(first), "expires_at": now + first}
        insert = (sqlite if sqlite_ else postgresql).insert(table).values(row)
        full = least(most_of(table.c.expires_at, now), now + most)
        moved = most_of(full, least(full + asked, now + most))
        changed = {"expires_at": moved, "holder": cast(moved - full, Text)}
        upsert = insert.on_conflict_do_update(index_elements=["name"], set_=changed)
        statement = upsert.returning(table.c.holder, table.c.expires_at - now)
        given, used = await self._store.change(lambda connection: connection.execute(statement).one())
        return Drawn(float(given), max(0.0, float(used)))

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

    def _upsert(self, table: Table, key: Mapping[str, Any], row: Mapping[str, Any]) -> Insert:
        """Write a row, over the one with the same key."""
        values = {**key, **row}
        if self._store.dialect == "sqlite":
            return sqlite.insert(table).values(values).on_conflict_do_update(index_elements=list(key), set_=row)
        return postgresql.insert(table).values(values).on_conflict_do_update(index_elements=list(key), set_=row)
