"""What an invalidation of many keys leaves to the sweep: the rows of those keys, which are dead already.

The rule that must not break: keys are in force until all their rows say so themselves; a row that was written since
is left alone.
"""

from __future__ import annotations

import orjson
from sqlalchemy import Connection, select

from cachesvc.logs.database_rows import RowWriter
from cachesvc.model.entry import tombstone
from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key
from cachesvc.model.pattern import enumerate_keys
from cachesvc.model.position import Seq, Version
from cachesvc.tiers import database_patterns
from cachesvc.tiers.database import values_of_entry
from cachesvc.tiers.database_patterns import PatternsRead
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import entries, patterns


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
    _bury_absent(store, connection, one, keys, now=now, keep=keep)
    if row.looked + len(keys) < len(named):
        come = patterns.update().where(patterns.c.sequence == one.sequence)
        connection.execute(come.values(looked=row.looked + len(keys)))
    else:
        connection.execute(patterns.delete().where(patterns.c.sequence == one.sequence))
        database_patterns.moved(connection)
    return len(keys)


def _bury_absent(store: Store, connection: Connection, one: InForce, keys: list[Key], *, now: float, keep: float) -> None:
    """What is not there, or was deleted before, is known to be as new as the invalidation too."""
    named = store.one_of(entries.c.key, "keys")
    rows = connection.execute(
        select(entries.c.key, entries.c.version, entries.c.deleted).where(named), {"keys": store.texts(keys)}
    )
    there: set[str] = set()
    older: list[str] = []
    for key, version, deleted in rows:
        there.add(key)
        if deleted and version < one.sequence:
            older.append(key)
    if older:
        newer = entries.update().where(named).values(version=one.sequence, updated_at=now, expires_at=now + keep)
        connection.execute(newer, {"keys": store.texts(older)})
    gone = [tombstone(key, Version(one.sequence), now=now, keep=keep) for key in keys if key not in there]
    if gone:
        RowWriter(store.dialect).insert(connection, entries, [values_of_entry(entry, b"") for entry in gone])
