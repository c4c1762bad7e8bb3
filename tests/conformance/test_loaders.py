"""Every loader passes the contract of loaders, made for values of up to 1,000 bytes, over a real origin behind it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from cachesvc.loaders import http, sql
from cachesvc.loaders.python import PythonLoader
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded, Loader
from tests.conformance.loader_contract import A, B, LoaderContract, Origin
from tests.loaders.origin import HttpOrigin

MOST = 1_000


class _Failing:
    """A loader over what `origin` has, put there before each load; where the origin fails, so does what is behind it."""

    def __init__(self, loader: Loader, prepare: Callable[[Mapping[Key, Loaded] | None], object]) -> None:
        self.loader = loader
        self.prepare = prepare
        self.origin: Origin = lambda _: {}

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, object]:
        try:
            prepared = self.prepare(self.origin([A, B]))
        except ConnectionError:
            prepared = self.prepare(None)
        if asyncio.iscoroutine(prepared):
            await prepared
        return await self.loader.load(keys)


@pytest.fixture(params=["plain", "coroutine", "http", "sqlite", "postgres"])
async def loader_of(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[Origin], object]]:
    kind = request.param
    async with AsyncExitStack() as stack:
        if kind in ("plain", "coroutine"):
            threads = stack.enter_context(ThreadPoolExecutor(2))

            def python(origin: Origin) -> Loader:
                async def load(keys: Sequence[Key]) -> Mapping[Key, Loaded]:
                    return origin(keys)

                return PythonLoader(kind, origin if kind == "plain" else load, threads=threads, max_value_size=MOST)

            yield python
            return
        if kind == "http":
            server = await stack.enter_async_context(HttpOrigin().served())
            origin = http.Origin(f"{server.url}/values/{{key}}", use_max_age=True)
            loader: Loader = await stack.enter_async_context(http.opened("h", origin, connections=4, max_value_size=MOST))
            failing = _Failing(loader, server.has)
        elif kind == "sqlite":
            file = tmp_path / "origin.db"
            with sqlite3.connect(file) as connection:
                connection.execute(TABLE.format(bytes="BLOB"))
            loader = await stack.enter_async_context(
                sql.opened("s", f"sqlite:///{file}", MANY, connections=2, content_type="text/plain", max_value_size=MOST)
            )

            def fill(values: Mapping[Key, Loaded] | None) -> None:
                with sqlite3.connect(file) as connection:
                    if values is None:
                        connection.execute("DROP TABLE origin")
                    else:
                        connection.executemany("INSERT INTO origin VALUES (?, ?, ?, ?, ?, ?)", rows(values))

            failing = _Failing(loader, fill)
        else:
            url = request.getfixturevalue("postgres_server").url
            await _execute(url, "DROP TABLE IF EXISTS origin")
            await _execute(url, TABLE.format(bytes="bytea"))
            loader = await stack.enter_async_context(
                sql.opened("p", url, EACH, connections=2, content_type="text/plain", max_value_size=MOST)
            )

            async def fill_postgres(values: Mapping[Key, Loaded] | None) -> None:
                if values is None:
                    await _execute(url, "DROP TABLE origin")
                else:
                    for row in rows(values):
                        await _execute(url, "INSERT INTO origin VALUES ($1, $2, $3, $4, $5, $6)", *row)

            failing = _Failing(loader, fill_postgres)

        def with_origin(given: Origin) -> object:
            failing.origin = given
            return failing

        yield with_origin


TABLE = "CREATE TABLE origin (key text, value {bytes}, content_type text, ttl float, tags text, parents text)"
MANY = "SELECT * FROM origin WHERE key IN :keys"
EACH = "SELECT * FROM origin WHERE key = :key"


def rows(values: Mapping[Key, Loaded]) -> list[tuple[object, ...]]:
    return [
        (key, one.value, one.content_type, one.ttl, ",".join(one.tags), ",".join(one.parents)) for key, one in values.items()
    ]


async def _execute(url: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


class TestLoaders(LoaderContract):
    """The contract, over each."""
