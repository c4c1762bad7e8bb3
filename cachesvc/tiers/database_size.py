"""How much a database holds: counted where that is cheap, else as the database itself estimates it.

The rule that must not break: it reads no value, and of PostgreSQL no more rows than `COUNTED`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from cachesvc.tiers.database_store import Store
from cachesvc.tiers.measured import Size

COUNTED: Final = 10_000

# by three indexes, since `deleted` lies behind the value in a row
_SQLITE: Final = text("""
SELECT (SELECT count(*) FROM entries)
    - (SELECT count(*) FROM entries WHERE deleted)
    - (SELECT count(*) FROM entries
        WHERE NOT deleted AND expires_at IS NOT NULL AND expires_at <= (julianday('now') - 2440587.5) * 86400.0),
    (SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size())
""")
_POSTGRES: Final = text("""
SELECT count(*) FILTER (WHERE NOT deleted AND (expires_at IS NULL OR expires_at > extract(epoch FROM statement_timestamp()))),
    count(*), (SELECT reltuples FROM pg_class WHERE oid = 'entries'::regclass), pg_total_relation_size('entries')
FROM (SELECT deleted, expires_at FROM entries LIMIT :most) AS first
""")


async def size(store: Store) -> Size:
    """Live entries, and bytes: of SQLite's whole file, of PostgreSQL's table with its indexes. Raises `TierUnavailable`.

    Of more than `COUNTED` rows in PostgreSQL the entries are its planner's estimate, deleted ones among them, or None while
    it has made none.
    """
    return await store.read(_of_sqlite if store.dialect == "sqlite" else _of_postgres)


def _of_sqlite(connection: Connection) -> Size:
    live, nbytes = connection.execute(_SQLITE).one()
    return Size(live, nbytes)


def _of_postgres(connection: Connection) -> Size:
    live, counted, estimate, nbytes = connection.execute(_POSTGRES, {"most": COUNTED + 1}).one()
    if counted <= COUNTED:
        return Size(live, nbytes)
    return Size(max(counted, int(estimate)) if estimate > 0 else None, nbytes)
