"""Rows into tables, many by one statement: arrays on PostgreSQL, a repeated statement on SQLite.

Columns are given in the order of `tiers/schema.py`.
"""

# ruff: noqa: S608 - statements are put together from names of tables and columns, never from a value

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Connection, Double, Integer, LargeBinary, Table, Text

from cachesvc.tiers.database_store import fetched
from cachesvc.tiers.schema import CHANNEL, idempotency
from cachesvc.tiers.schema import changes as changes_table
from cachesvc.tiers.schema import entries as entries_table

Rows = Sequence[tuple[object, ...]]

_ARRAYS: Final = {
    BigInteger: "bigint[]",
    Integer: "integer[]",
    Double: "float8[]",
    Boolean: "boolean[]",
    LargeBinary: "bytea[]",
    Text: "text[]",
}
_STATE: Final = "UPDATE log_state SET head = {}, bytes_total = {}"


class RowWriter:
    """Statements of the driver, with its own placeholders: nothing is worked out per row."""

    def __init__(self, dialect: Literal["sqlite", "postgresql"]) -> None:
        self._many = dialect == "sqlite"
        self._append = _append_at_once()

    def append(
        self, connection: Connection, *, entries: Rows, changes: Rows, answers: Rows, head: int, bytes_total: int
    ) -> None:
        """The rows of an append, and where the log stands after it; wakes who listens when anything was changed."""
        if not self._many:
            arrays = (*_columns(entries_table, entries), *_columns(changes_table, changes), *_columns(idempotency, answers))
            fetched(connection, self._append, (*arrays, head, bytes_total, bool(changes)))
            return
        self.insert(connection, idempotency, answers)
        if changes:
            self.insert(connection, changes_table, changes)
            connection.exec_driver_sql(_STATE.format("?", "?"), (head, bytes_total))
        if entries:
            connection.exec_driver_sql(f"{_insert(entries_table)} {_values(entries_table)} {_REPLACE}", list(entries))

    def insert(self, connection: Connection, table: Table, rows: Rows) -> None:
        """New rows; one that is there already stays as it is."""
        if self._many:
            statement = f"{_insert(table)} {_values(table)} ON CONFLICT DO NOTHING"
            connection.exec_driver_sql(statement, list(rows))
        else:
            statement = f"{_insert(table)} SELECT * FROM {_unnest(table, 1)} ON CONFLICT DO NOTHING"
            connection.exec_driver_sql(statement, tuple(_columns(table, rows)))

    def delete(self, connection: Connection, table: Table, keys: Sequence[str]) -> None:
        """The rows of those keys."""
        if self._many:
            where, bound = "IN (SELECT value FROM json_each(?))", (orjson.dumps(list(keys)).decode(),)
            connection.exec_driver_sql(f"DELETE FROM {table.name} WHERE key {where}", bound)
        else:
            connection.exec_driver_sql(f"DELETE FROM {table.name} WHERE key = ANY($1::text[])", (list(keys),))


def _append_at_once() -> str:
    """Everything that a plain append writes, as one statement of PostgreSQL; its last rows notify those who listen."""
    a, b = 1 + len(entries_table.c), 1 + len(entries_table.c) + len(changes_table.c)
    c = b + len(idempotency.c)
    return f"""
WITH rows AS ({_insert(entries_table)} SELECT * FROM {_unnest(entries_table, 1)} {_REPLACE}),
records AS ({_insert(changes_table)} SELECT * FROM {_unnest(changes_table, a)}),
answers AS ({_insert(idempotency)} SELECT * FROM {_unnest(idempotency, b)} ON CONFLICT DO NOTHING),
state AS ({_STATE.format(f"${c}::bigint", f"${c + 1}::bigint")} WHERE ${c + 2}::boolean)
SELECT pg_notify('{CHANNEL}', ${c}::bigint::text) WHERE ${c + 2}::boolean"""


def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} ({', '.join(column.name for column in table.c)})"


def _values(table: Table) -> str:
    return f"VALUES ({', '.join('?' * len(table.c))})"


def _unnest(table: Table, first: int) -> str:
    arrays = (f"${place}::{_array(column)}" for place, column in enumerate(table.c, first))
    return f"unnest({', '.join(arrays)})"


def _array(column: Column[object]) -> str:
    kind = type(column.type)
    return next(name for known, name in _ARRAYS.items() if issubclass(kind, known))


def _columns(table: Table, rows: Rows) -> Sequence[Sequence[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * len(table.c)


_REPLACE: Final = "ON CONFLICT (key) DO UPDATE SET " + ", ".join(
    f"{column.name} = excluded.{column.name}" for column in entries_table.c if not column.primary_key
)
