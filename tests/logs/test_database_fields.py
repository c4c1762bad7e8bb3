"""Indexed fields: found by the index on both databases, what was there before as well as what is written now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from cachesvc.errors import InvalidInput, TierUnavailable
from cachesvc.logs.database import DatabaseAuthority
from cachesvc.model.entry import JSON, Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Version
from cachesvc.tiers.database_fields import meanings, values_of
from tests.conformance.authority_store import append, delete, expire, passed, put, receipts
from tests.logs.database_store import DatabaseStore

FIELDS = ("status", "assignee.id", "tags")


async def found(authority: DatabaseAuthority, limit: int = 1_000, **fields: str | Sequence[str]) -> list[str]:
    wanted: Mapping[str, Sequence[str]] = {
        name.replace("__", "."): [texts] if isinstance(texts, str) else texts for name, texts in fields.items()
    }
    keys: list[str] = []
    after: Key | None = None
    while page := await authority.query(wanted, after=after, limit=limit):
        assert len(page) <= limit
        keys += [entry.key for entry in page]
        after = page[-1].key
    return keys


@pytest.fixture
def postgres_store(bare_postgres_url: str, tmp_path: Path) -> DatabaseStore:
    """Its tables are made anew: how PostgreSQL looks through them depends on what they held."""
    return DatabaseStore(bare_postgres_url, tmp_path)


@pytest.fixture
def indexed(store: DatabaseStore) -> DatabaseStore:
    return replace(store, indexed_fields=FIELDS)


async def test_query(indexed: DatabaseStore) -> None:
    async with indexed.opened() as authority:
        long = "x" * 1_000
        await append(
            authority,
            put("a", b'{"status": "open", "assignee": {"id": 5}, "tags": ["red", "blue"]}'),
            put("b", b'{"status": "open", "assignee": {"id": "5"}, "tags": []}'),
            put("c", b'{"status": "done", "assignee": {"id": 5.0}, "tags": ["red"]}'),
            put("d", b'{"status": null, "assignee": [{"id": true}, {"id": -1.5e3}]}'),
            put("e", b'{"status": "nul\\u0000l"}'),
            put("f", b'{"status": "%s"}' % long.encode()),
            put("g", b"not json", content_type="text/plain"),
            put("h", b'{"status": {"deep": 1}, "assignee.id": 5}'),
            put("i", b'{"status": "large", "assignee": {"id": 99999999999999999999}, "x": {"y": [-1e309]}}'),
            put("j", b'{"status": "large", "assignee": {"id": -%s}}' % (b"9" * 5_000)),
            put("k", b'{"status": "typed"}', content_type="application/Task+JSON; v=1"),
            put("l", b'{"status": "typed"}', content_type="application/x-ndjson"),
        )
        assert await found(authority, status="open") == ["a", "b"]
        assert await found(authority, status=["open", "done"], limit=1) == ["a", "b", "c"]
        assert await found(authority, assignee__id="5") == ["a", "b", "c"]
        assert await found(authority, assignee__id="5", status="open", tags="blue") == ["a"]
        assert await found(authority, tags=["red", "blue"]) == ["a", "c"]
        assert await found(authority, status="null") == ["d"]
        assert await found(authority, assignee__id="true") == ["d"]
        assert await found(authority, assignee__id="-1500") == ["d"]
        assert await found(authority, status="large") == ["i", "j"]
        assert await found(authority, assignee__id="1e20") == ["i"]
        assert await found(authority, assignee__id="-1e309") == ["j"]
        assert await found(authority, assignee__id="1e309") == []
        assert await found(authority, status="nul\0l") == ["e"]
        assert await found(authority, status=long) == ["f"]
        assert await found(authority, status=long[:-1]) == []
        assert await found(authority, status="typed") == ["k"]
        with pytest.raises(InvalidInput, match="color: is not an indexed field"):
            await found(authority, color="red")
        with pytest.raises(InvalidInput, match="status: has 0 values"):
            await found(authority, status=[])


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ("10000000000000000", ["a", "b"]), ("1e16", ["a", "b"]), ("1.0e16", ["a", "b"]), ("9007199254740993", ["c"]),
        ("9007199254740992", ["d", "e"]), ("9007199254740992.0", ["d", "e"]), ("-9223372036854775808", ["f"]),
        ("-9.223372036854775808e18", ["f"]), ("2.50", ["g"]),
    ],
)  # fmt: skip
def test_a_number_is_found_however_it_is_written(asked: str, keys: list[str]) -> None:
    told = ["10000000000000000", "1e16", "9007199254740993", "9007199254740992", "9007199254740992.0", str(-(2**63)), "2.5"]
    entries = [
        Entry(Key(key), Version(1), b'{"n":%s}' % number.encode(), JSON, 0.0, 0.0, None, b"")
        for key, number in zip("abcdefg", told, strict=True)
    ]
    meant = {("n", meaning) for meaning in meanings(asked)}
    assert [entry.key for entry in entries if values_of(entry, ["n"]) & meant] == keys


async def test_the_index_follows_every_write(indexed: DatabaseStore) -> None:
    async with indexed.opened() as authority:
        old = receipts(
            await append(
                authority, *(put(key, b'{"status": "open"}') for key in "abcd"), put("e", b'{"status": "open"}', ttl=0.01)
            )
        )
        await append(
            authority, put("a", b'{"status": "done"}'), delete("b"), put("c", b'"plain"'), put("d", b'{"status": "open"}')
        )
        await passed(authority, await authority.time() + 0.01)
        assert await found(authority, status="open") == ["d"]
        await append(authority, expire("e", old[4].version), put("b", b'{"status": "open"}'))
        assert await found(authority, status="open") == ["b", "d"]
        assert await found(authority, status="done") == ["a"]
        assert await authority._store.read(_rows) == 3  # and nothing else is left in the table


async def test_a_new_field_is_built_and_one_that_goes_is_dropped(store: DatabaseStore) -> None:
    async with store.opened() as authority:
        await append(authority, *(put(f"k{i:03}", b'{"status": "open", "n": %d}' % (i % 3)) for i in range(500)))
    async with replace(store, indexed_fields=("status", "n")).opened() as authority:
        with pytest.raises(TierUnavailable, match="field n is still being built"):
            await found(authority, n="1")
        await append(authority, put("k000", b'{"status": "done", "n": 1}'), delete("k001"))
        await authority.backfill()
        assert len(await found(authority, status="open")) == 498
        assert (await found(authority, n="1"))[:2] == ["k000", "k004"]
    async with replace(store, indexed_fields=("n",)).opened() as authority:
        await authority.backfill()
        assert len(await found(authority, n="2")) == 166
        with pytest.raises(InvalidInput, match="status"):
            await found(authority, status="open")
        assert await authority._store.read(_rows) == 499


def _rows(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM entry_field").scalar_one())


async def test_the_index_is_used(indexed: DatabaseStore) -> None:
    async with indexed.opened() as authority:
        for start in range(0, 4_000, 500):
            drafts = [
                put(f"task:{i}", b'{"status": "%s", "assignee": {"id": %d}}' % (b"open" if i % 2 else b"done", i))
                for i in range(start, start + 500)
            ]
            await append(authority, *drafts)
        await authority._store.read(lambda connection: connection.exec_driver_sql("ANALYZE"))
        plans = await authority._store.read(lambda connection: _plans(authority, connection))
        assert await found(authority, status="open", assignee__id="7") == ["task:7"]
    assert len(plans) >= 4
    for plan in plans:
        if "log_state" in str(plan):
            continue  # its one row says which patterns are in force
        assert "entry_field_values" in plan or "entries" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN entries" not in plan, plan
        assert "SCAN entry_field" not in plan, plan


def _plans(authority: DatabaseAuthority, connection: Connection) -> list[str]:
    """How the database runs the statements of a query."""
    said: list[tuple[str, Any]] = []

    def hear(_c: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool) -> None:
        if not statement.startswith("EXPLAIN"):
            said.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", hear)
    wanted = {"status": meanings("open"), "assignee.id": meanings("7")}
    authority._match(connection, wanted=wanted, after="")
    event.remove(connection, "before_cursor_execute", hear)
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    return [
        "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
        for statement, parameters in said
    ]
