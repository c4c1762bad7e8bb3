"""What an invalidation of many keys leaves to the sweep: the rows of those keys, which are dead already.

The rule that must not break: keys are in force until all their rows say so themselves; a row that was written since
is left alone.
"""

from __future__ import annotations

import orjson
from sqlalchemy import Connection, select

from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key
from cachesvc.model.pattern import enumerate_keys
from cachesvc.model.position import Seq
from cachesvc.tiers import database_patterns
from cachesvc.tiers.database_patterns import PatternsRead
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import patterns


def end_some(store: Store, patterns_read: PatternsRead, connection: Connection, *, limit: int, keep: float) -> int:
    """End up to `limit` keys more of the oldest such invalidation, and keep tombstones for so long; how many were looked at."""
    oldest = select(patterns).where(patterns.c.named != b"").order_by(patterns.c.sequence).limit(1)
    row = connection.execute(oldest).one_or_none()
    if row is None:
        return 0
    named: list[Key] = orjson.loads(row.named)
    keys = named[row.looked : row.looked + limit]
    one = InForce(Seq(row.sequence), enumerate_keys(keys, text=row.pattern), at=row.at, soft=row.soft)
    now: float = connection.execute(select(store.now())).scalar_one()
    database_patterns.end(connection, store, one, keys, patterns_read.now(connection), now=now, keep=keep)
    database_patterns.as_new(connection, store, one, keys, now=now, keep=keep)
    if row.looked + len(keys) < len(named):
        come = patterns.update().where(patterns.c.sequence == one.sequence)
        connection.execute(come.values(looked=row.looked + len(keys)))
    else:
        connection.execute(patterns.delete().where(patterns.c.sequence == one.sequence))
        database_patterns.moved(connection)
    return len(keys)
