"""The databases that the tests are given: whatever one test did to one, the next finds it as it was made."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests import databases
from tests.conformance.authority_store import append, put, values
from tests.logs.database_store import DatabaseStore


async def test_postgresql_is_ready_again_whatever_was_done_to_it(postgres_url: str, tmp_path: Path) -> None:
    store = DatabaseStore(postgres_url, tmp_path)
    for spoiling in ("SELECT 1", "CREATE INDEX more ON tags (key)", "ALTER TABLE tags ADD more int", "DROP TABLE tags"):
        async with store.opened() as authority:
            assert await values(authority, "a") == [None]
            await append(authority, put("a", tags=("t",)))
            connection = await asyncpg.connect(postgres_url)
            await connection.execute(spoiling)
            await connection.close()
        await databases.ready(postgres_url)
        connection = await asyncpg.connect(postgres_url)
        left = [await connection.fetch(f"SELECT * FROM {table}") for table in databases.TABLES]
        indexes = await connection.fetch("SELECT FROM pg_indexes WHERE tablename = 'tags' AND indexname = 'more'")
        columns = await connection.fetch("SELECT FROM information_schema.columns WHERE table_name = 'tags'")
        await connection.close()
        assert (left, indexes, len(columns)) == ([[]] * len(left), [], 2)
