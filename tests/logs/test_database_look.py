"""Looking into the database: its size without reading values, dependents, and what it holds of a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from cachesvc.logs.database import DatabaseAuthority
from cachesvc.model.invalidation import Invalidation, Patterns, Related
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq, Version
from cachesvc.tiers import database_size
from cachesvc.tiers.database_size import size
from tests.conformance.authority_store import append, delete, put
from tests.logs.database_store import DatabaseStore


@pytest.fixture
def postgres_store(bare_postgres_url: str, tmp_path: Path) -> DatabaseStore:
    """Its tables are made anew: how PostgreSQL looks through them depends on what they held."""
    return DatabaseStore(bare_postgres_url, tmp_path)


async def run(authority: DatabaseAuthority, statement: str) -> list[Any]:
    found = await authority._store.read(lambda connection: connection.execute(text(statement)).all())
    return list(found)


async def test_only_what_lives_is_counted(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, *(put(f"k{n}", b"x" * 1_000) for n in range(20)), put("eternal", ttl=None))
        await append(authority, delete("k0"), put("short", ttl=0.001))
        stats = await authority.stats()
        assert stats.entries in (20, 21)  # the short one may not have ended yet
        assert stats.bytes is not None
        assert stats.bytes > 20_000
        await append(authority, put("more"))
        assert (await authority.stats()).entries == stats.entries  # not counted anew at once
        assert (await size(authority._store)).entries == 21


async def test_a_large_table_is_estimated(postgres_store: DatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async with postgres_store.opened() as authority:
        await append(authority, *(put(f"k{n}") for n in range(50)))
        monkeypatch.setattr(database_size, "COUNTED", 10)
        assert (await size(authority._store)).entries is None
        await authority._store.change(lambda connection: connection.execute(text("ANALYZE entries")).close())
        assert (await size(authority._store)).entries == 50


async def test_sqlite_looks_through_indexes_only(sqlite_store: DatabaseStore) -> None:
    async with sqlite_store.opened() as authority:
        plan = await run(authority, f"EXPLAIN QUERY PLAN {database_size._SQLITE.text}")
        assert {row[3].partition(" USING ")[0] for row in plan if "entries" in row[3]} == {"SCAN entries", "SEARCH entries"}
        assert all("INDEX" in row[3] for row in plan if "entries" in row[3])
        expired = authority._expired.compile(dialect=authority._store._engine.dialect)  # type: ignore[attr-defined]
        looked_up = await authority._store.read(
            lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {expired}", (1.0, 0.0, 10, 0)).all()
        )
        assert "USING INDEX entries_expire" in looked_up[0][3]


async def test_postgresql_finds_what_is_past_its_life_by_its_index(postgres_store: DatabaseStore) -> None:
    async with postgres_store.opened() as authority:
        expired = authority._expired.params(past=0.0, limit=10).compile(dialect=authority._store._engine.dialect)  # type: ignore[attr-defined]
        given = tuple(expired.params[name] for name in expired.positiontup or ())
        explained = await authority._store.read(
            lambda connection: connection.exec_driver_sql(f"EXPLAIN {expired}", given).all()
        )
        plan = [row[0].strip() for row in explained]
        assert any(line.startswith("Index Cond: (expires_at <= ") for line in plan), plan


async def test_postgresql_looks_all_dependents_up_by_an_index(postgres_store: DatabaseStore) -> None:
    """By statistics of one parent that all depend on, to look through the whole table for each seems cheap."""
    children = [f"child:{place}" for place in range(3_000)]
    async with postgres_store.opened() as authority:
        await append(authority, *(put(key, parents=("root",), tags=("t",)) for key in children))
        await authority._store.change(
            lambda connection: connection.execute(text("ANALYZE entries, dependencies, tags")).close()
        )
        named = Invalidation(keys=(Key("root"),), cascade=True)

        def scanned(connection: Connection) -> int:
            """How often this connection has looked through the whole of a table."""
            return int(connection.execute(text("SELECT sum(seq_scan) FROM pg_stat_xact_user_tables")).scalar_one())

        def look(connection: Connection) -> tuple[Related, int]:
            before = scanned(connection)
            found = authority._relations.of(connection, named, Patterns())
            return found, scanned(connection) - before

        found, scans = await authority._store.write(look)  # one transaction: the counts are not handed in meanwhile
        assert sorted(found.dependents) == sorted(children)
        assert scans == 0


async def test_dependents_come_in_order_and_end_with_their_entry(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, *(put(name, parents=("p", "q")) for name in ("c", "a", "b", "é")), put("z", parents=("q",)))
        assert await authority.dependents("p", limit=10) == ["a", "b", "c", "é"]
        assert await authority.dependents("p", limit=2) == ["a", "b"]
        await append(authority, delete("a"), put("b"))
        assert await authority.dependents("p", limit=10) == ["c", "é"]
        assert await authority.dependents("nobody", limit=10) == []


async def test_what_it_holds_and_whether_it_is_behind(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, put("a", b"1"))
        head = await authority.head()
        held = await authority.inspect(put("a").key, horizon=head)
        assert held.entry is not None
        assert (held.entry.value, held.entry.version, held.doubt) == (b"1", Version(head.sequence), "")
        later = Position(head.epoch, Seq(head.sequence + 5))
        assert "which is not after" in (await authority.inspect(put("a").key, horizon=later)).doubt
        assert (await authority.inspect(put("no").key, horizon=head)).entry is None
        stats = await authority.stats()
        assert (stats.hits, stats.misses) == (0, 0)
