"""The SQL loader: rows as values, one statement for a batch, and what a key may not do to a statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import orjson
import pytest

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.loaders.sql import opened
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

A, B, C = Key("task:1"), Key("task:2"), Key("task:3")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(
            "CREATE TABLE tasks (id TEXT, title TEXT, done BOOLEAN, points NUMERIC);"
            "INSERT INTO tasks VALUES ('1', 'one', 0, 1.5), ('2', 'two', 1, 2), ('twice', 'a', 0, 0), ('twice', 'b', 0, 0);"
        )
    return file


async def load(url: str, query: str, *keys: Key, content_type: str = "application/json") -> Mapping[Key, Loaded | Unavailable]:
    async with opened("task", url, query, connections=2, content_type=content_type, max_value_size=1_000) as loader:
        return await loader.load(keys)


@pytest.mark.parametrize("query", ["SELECT title, points FROM tasks WHERE id = :id", "SELECT * FROM tasks WHERE id IN :ids"])
async def test_a_row_is_a_json_object(file: Path, query: str) -> None:
    found = await load(f"sqlite:///{file}", query, A, B, C)
    assert set(found) == {A, B}
    one = found[A]
    assert isinstance(one, Loaded)
    assert orjson.loads(one.value) | {"done": 0} == {"title": "one", "points": 1.5, "done": 0}
    assert one.content_type == "application/json"


async def test_a_batch_is_one_statement(file: Path) -> None:
    seen: list[str] = []
    async with opened(
        "t",
        f"sqlite:///{file}",
        "SELECT id, title FROM tasks WHERE id IN :ids",
        connections=1,
        content_type="",
        max_value_size=1_000,
    ) as loader:
        original = loader._rows

        def rows(connection: object, bound: object) -> object:
            connection.connection.driver_connection.set_trace_callback(seen.append)  # type: ignore[attr-defined]
            return original(connection, bound)  # type: ignore[arg-type]

        loader._rows = rows  # type: ignore[method-assign,assignment]
        await loader.load([Key(f"task:{number}") for number in range(100)])
    assert len([one for one in seen if one.startswith("SELECT")]) == 1


async def test_a_key_is_never_a_part_of_the_statement(file: Path) -> None:
    evil = Key("task:1' OR '1'='1")
    assert await load(f"sqlite:///{file}", "SELECT title FROM tasks WHERE id = :id", evil) == {}
    assert (
        await load(f"sqlite:///{file}", "SELECT id FROM tasks WHERE id IN :ids", evil, Key("task:'); DROP TABLE tasks; --"))
        == {}
    )
    assert await load(f"sqlite:///{file}", "SELECT title FROM tasks WHERE id = :id", A)


async def test_what_a_statement_changes_is_rolled_back(file: Path) -> None:
    query = "UPDATE tasks SET title = 'changed' WHERE id = :id RETURNING title"
    assert A in await load(f"sqlite:///{file}", query, A)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT title FROM tasks WHERE id = '1'").fetchall() == [("one",)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nothing FROM nowhere WHERE id = :id", "the database failed"),
        ("SELECT 'no json' AS value FROM tasks WHERE id = :id", "JSON"),
        ("SELECT NULL AS value FROM tasks WHERE id = :id", "NULL"),
        ("SELECT hex(zeroblob(600)) AS value FROM tasks WHERE id = :id", "bytes"),
        ("SELECT x'ff' AS blob FROM tasks WHERE id = :id", "not JSON"),
        ("SELECT title FROM tasks WHERE id IN :ids", "no column id"),
        ("SELECT title FROM tasks WHERE id <> :id", "more than one row"),
    ],
)
async def test_bad_answers_are_failures(file: Path, query: str, said: str) -> None:
    with pytest.raises(Unavailable, match=said) as caught:
        await load(f"sqlite:///{file}", query, A)
    assert str(caught.value).startswith("loader task: ")


async def test_one_bad_row_fails_alone(file: Path) -> None:
    query = "SELECT id, CASE id WHEN '1' THEN 'x' ELSE '2' END AS value FROM tasks WHERE id IN :ids"
    found = await load(f"sqlite:///{file}", query, A, B)
    assert isinstance(found[A], Unavailable)
    assert found[B] == Loaded(b"2", "application/json")


async def test_a_bad_ttl_fails_alone(file: Path) -> None:
    query = "SELECT id, '1' AS value, CASE id WHEN '1' THEN 'soon' ELSE '5' END AS ttl FROM tasks WHERE id IN :ids"
    found = await load(f"sqlite:///{file}", query, A, B)
    assert str(found[A]) == "loader task: ttl: is no number of seconds"
    assert found[B] == Loaded(b"1", "application/json", ttl=5.0)


async def test_what_too_many_rows_hide_is_not_absent(file: Path) -> None:
    query = "SELECT '1' AS id, title FROM tasks UNION ALL SELECT id, title FROM tasks WHERE id IN :ids AND id = '2'"
    found = await load(f"sqlite:///{file}", query, A, B, C)
    assert {key: type(value) for key, value in found.items()} == dict.fromkeys((A, B, C), Unavailable)


async def test_numbers_times_and_documents_of_postgresql(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(
            "CREATE TABLE tasks (id bigint, points numeric, at timestamptz, more jsonb);"
            "INSERT INTO tasks VALUES (1, 12345678901234567890.5, '2026-01-02T03:04:05Z', '{\"a\": [1]}')"
        )
    finally:
        await connection.close()
    query = "SELECT points, at, more::text AS more FROM tasks WHERE id = CAST(:id AS bigint)"
    found = (await load(postgres_url, query, A, B))[A]
    assert isinstance(found, Loaded)
    assert found.value == b'{"points":12345678901234567890.5,"at":"2026-01-02T03:04:05+00:00","more":"{\\"a\\": [1]}"}'


@pytest.mark.parametrize("url", ["nonsense", "mysql+nothing://x", "mysql://x", "sqlite+none:///x"])
async def test_a_database_that_cannot_be_reached_from_here_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"loaders\.task\.url"):
        await load(url, "SELECT :id", A)
