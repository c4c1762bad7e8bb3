"""What a site's database has: its log, read as it grows, since it is trimmed; and its rows, when all has come to rest.

Read directly from the database, by nobody whom the faults concern.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg

from cachesvc.model.change import Change, unpack_change
from cachesvc.model.entry import Entry
from cachesvc.model.position import Version
from cachesvc.tiers.database import entry_of

_PAUSE: Final = 0.2  # seconds between two looks
_GONE: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error)


class Reader(Protocol):
    async def fetch(self, statement: str, /) -> Iterable[Any]:
        """The rows."""
        ...


class _Server:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, /) -> Iterable[Any]:
        found: Iterable[Any] = await self._connection.fetch(statement)
        return found


@asynccontextmanager
async def opened_server(port: int) -> AsyncIterator[Reader]:
    """Of a PostgreSQL."""
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres", timeout=5)
    try:
        yield _Server(connection)
    finally:
        connection.terminate()


class _File:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, /) -> Iterable[Any]:
        return await asyncio.to_thread(lambda: self._connection.execute(statement).fetchall())


@asynccontextmanager
async def opened_file(directory: Path) -> AsyncIterator[Reader]:
    """Of the SQLite in a service's directory."""
    file = next(directory.glob("*.db"))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10, check_same_thread=False)) as connection:
        yield _File(connection)


@dataclass(slots=True)
class Records:
    """The log of one site, as far as it was read, and its rows at the end. `lost` says what was trimmed before it was read."""

    opened: Callable[[], AbstractAsyncContextManager[Reader]]
    log: dict[Version, Change] = field(default_factory=dict)
    rows: Mapping[str, Entry] = field(default_factory=dict)
    lost: str = ""
    head: int = 0

    async def follow(self, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                async with self.opened() as reader:
                    while not until.is_set():
                        await self._read(reader)
                        await asyncio.sleep(_PAUSE)
            except _GONE:
                await asyncio.sleep(_PAUSE)  # it is restarted

    async def finish(self) -> None:
        """The rest of the log, and the rows. The database is there."""
        async with self.opened() as reader:
            await self._read(reader)
            self.rows = {row[0]: entry_of(tuple(row)) for row in await reader.fetch("SELECT * FROM entries")}

    async def _read(self, reader: Reader) -> None:
        statement = f"SELECT sequence, kind, key, record, value FROM changes WHERE sequence > {self.head} ORDER BY sequence"
        found = list(await reader.fetch(statement))
        if found and self.head and found[0][0] != self.head + 1:
            self.lost = f"the log was trimmed when only {self.head} was read: {found[0][0]} is the next"
        for row in found:
            change = unpack_change(*row)
            self.log[Version(change.sequence)] = change
            self.head = change.sequence
