"""Databases that are ready: with the tables of this version, and nothing in them.

To migrate one costs more than most tests. So each process does it once for each kind, and what a test left is taken out again;
a test of the migrations themselves takes a database without tables.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from cachesvc.tiers.schema import metadata
from tests.logs.database_store import DatabaseStore

TABLES = [table.name for table in metadata.sorted_tables]
_EMPTYING = "; ".join(f"DELETE FROM {name}" for name in TABLES)
_LOCKED = f"LOCK TABLE {', '.join(TABLES)}"  # nobody is still committing who was connected
_ALONE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_NO_BACKUP = "DROP SCHEMA IF EXISTS backup CASCADE"  # of `tests.backups`
# Which tables and indexes there are, as whoever changed one last left them; and how many bytes they take.
_STATE = """
SELECT coalesce(string_agg(format('%s %s', oid, xmin), ',' ORDER BY oid), ''), coalesce(sum(pg_relation_size(oid)), 0)
FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
_MUCH = 1 << 20  # bytes, past which the tables are made anew: a test is not to find the statistics and the holes of a large one

_prepared: dict[str, str] = {}  # by the URL of a PostgreSQL database, the tables that were made in it


async def without_tables(url: str) -> None:
    """Nothing is left in a PostgreSQL database, and nobody else connected to it."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"{_ALONE}; {_NO_BACKUP}; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()


async def ready(url: str) -> None:
    """A PostgreSQL database has its tables and nothing in them, and nobody else is connected to it."""
    if await _emptied(url):
        return
    await without_tables(url)
    async with DatabaseStore(url, Path()).opened():
        pass
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_EMPTYING)
        _prepared[url] = await connection.fetchval(_STATE)
    finally:
        await connection.close()


async def _emptied(url: str) -> bool:
    """Empty the tables; whether they are those that were made, and never held much."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"{_ALONE}; {_NO_BACKUP}")
        [(tables, size)] = await connection.fetch(_STATE)
        if tables != _prepared.get(url) or size > _MUCH:
            return False
        await connection.execute(f"{_LOCKED}; {_EMPTYING}")
        return True
    finally:
        await connection.close()


def put_sqlite(file: Path) -> None:
    """A SQLite database with its tables and nothing in them, unless there is one."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_sqlite())


@functools.cache
def _sqlite() -> bytes:
    with TemporaryDirectory() as directory, ThreadPoolExecutor(1) as thread:  # which has no event loop yet
        file = Path(directory) / "made.db"
        thread.submit(asyncio.run, _open(DatabaseStore(f"sqlite:///{file}", file.parent))).result()
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.executescript(_EMPTYING)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


async def _open(store: DatabaseStore) -> None:
    async with store.opened():
        pass
