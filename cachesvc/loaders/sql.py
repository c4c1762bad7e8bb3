"""A loader that asks a database by a statement of the operator's, on an engine of its own.

The rule that must not break: a key is a bound parameter, never a part of the statement. What the statement changes is rolled
back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final

import orjson
from sqlalchemy import URL, Connection, Text, bindparam, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from cachesvc.errors import SettingsError, Unavailable
from cachesvc.loaders.checked import checked, had, json_of, media_type
from cachesvc.model.entry import JSON
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded

_NAMED: Final = re.compile(r"(?<![:\w\\]):(keys|ids|key|id)\b(?!:)")
Rows = Sequence[Mapping[str, Any]]
Ask = Callable[[Callable[[Connection], Rows]], Awaitable[Rows]]


class SqlLoader:
    """`ports.Loader`. `ask(work)` runs work over a connection, in a transaction that is rolled back.

    A row's columns `value`, `content_type`, `ttl`, `tags` and `parents` mean what they say; without a `value` the other columns
    are one, as a JSON object. With `:keys` or `:ids` a row says in `key` or `id` whose it is.
    """

    def __init__(self, name: str, query: str, ask: Ask, *, content_type: str, max_value_size: int) -> None:
        self._name = name
        self._ask = ask
        self._content_type = media_type(content_type)
        self._max_value_size = max_value_size
        self._parameter = _NAMED.findall(query)[0]
        # as a text, whatever it is compared with: a database may ask what an untyped one is, and want a number
        self._statement = text(query).bindparams(bindparam(self._parameter, type_=Text(), expanding=self._many))

    @property
    def _many(self) -> bool:
        return bool(self._parameter.endswith("s"))

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        """See `ports.Loader`. One statement for all with `:keys` or `:ids`, else one for each, in one transaction."""
        bound = {key: key if self._parameter.startswith("key") else key.partition(":")[2] for key in keys}
        try:
            rows: Rows = await self._ask(lambda connection: self._rows(connection, bound))
        except (SQLAlchemyError, OSError) as exc:
            cause = exc.__cause__ or exc
            raise Unavailable(f"loader {self._name}: the database failed ({type(cause).__name__})") from exc
        by_key: dict[Key, list[Mapping[str, Any]]] = {key: [] for key in keys}
        named: dict[str, Key] = {value: key for key, value in bound.items()}
        for row in rows:
            owner = named.get(str(row.get(self._column)))
            if owner is not None:
                by_key[owner].append(row)
        found: dict[Key, Loaded | Unavailable] = {}
        untold = self._many and len(rows) > len(bound)  # not all rows were read: whose the others are is not known
        for key, mine in by_key.items():
            if mine:
                try:
                    found[key] = self._loaded(mine)
                except Unavailable as exc:
                    found[key] = exc
            elif untold:
                found[key] = Unavailable(f"loader {self._name}: the statement has more rows than keys")
        return had(found, keys)

    @property
    def _column(self) -> str:
        """The column that says whose a row is; where each key is asked for alone we put it there ourselves."""
        return {"keys": "key", "ids": "id"}.get(self._parameter, _OURS)

    def _rows(self, connection: Connection, bound: Mapping[Key, str]) -> Rows:
        if self._many:
            rows = connection.execute(self._statement, {self._parameter: list(bound.values())})
            if self._column not in set(rows.keys()):
                raise Unavailable(f"loader {self._name}: its rows have no column {self._column}, which says whose they are")
            return [dict(row) for row in rows.mappings().fetchmany(len(bound) + 1)]
        found: list[Mapping[str, Any]] = []
        for value in bound.values():
            rows = connection.execute(self._statement, {self._parameter: value})
            found += [{**row, _OURS: value} for row in rows.mappings().fetchmany(2)]
        return found

    def _loaded(self, rows: Rows) -> Loaded:
        if len(rows) > 1:
            raise Unavailable(f"loader {self._name}: the statement has more than one row of a key")
        row = {name: value for name, value in rows[0].items() if name != _OURS}
        if "value" in row:
            value, content_type = row["value"], media_type(str(row.get("content_type") or self._content_type))
        else:
            own = {"id", "key"} if self._many else set()
            value, content_type = {name: said for name, said in row.items() if name not in own}, JSON
        if value is None:
            raise Unavailable(f"loader {self._name}: the value is NULL")
        loaded = Loaded(
            self._bytes(value),
            content_type,
            ttl=self._seconds(row.get("ttl")) if "value" in row else None,
            tags=_names(row.get("tags")) if "value" in row else (),
            parents=_names(row.get("parents")) if "value" in row else (),
        )
        return checked(self._name, loaded, most=self._max_value_size)

    def _seconds(self, ttl: Any) -> float | None:
        try:
            return float(ttl) if ttl is not None else None
        except (TypeError, ValueError, OverflowError):
            raise Unavailable(f"loader {self._name}: ttl: is no number of seconds") from None

    def _bytes(self, value: object) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, str):
            return value.encode()
        return json_of(self._name, value, _as_json)


_OURS: Final = "\x1fasked"  # no column is named so


def _as_json(value: object) -> object:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(type(value).__name__)


def _names(said: object) -> tuple[str, ...]:
    """Names in a list, or in a text with commas between them."""
    if isinstance(said, str):
        return tuple(dict.fromkeys(name.strip() for name in said.split(",") if name.strip()))
    return tuple(map(str, said)) if isinstance(said, list | tuple) else ()


@asynccontextmanager
async def opened(
    name: str, url: str, query: str, *, connections: int, content_type: str, max_value_size: int
) -> AsyncIterator[SqlLoader]:
    """The loader over the database at `url`, with connections of its own. Raises `SettingsError` for a URL that is not one."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+asyncpg")
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
        asynchronous = dialect.is_async
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as exc:
        raise SettingsError(f"loaders.{name}.url", "***", f"is not a database that can be reached from here: {exc}") from exc
    opening = _asynchronous(parsed, connections) if asynchronous else _threaded(parsed, connections)
    async with opening as ask:
        yield SqlLoader(name, query, ask, content_type=content_type, max_value_size=max_value_size)


@asynccontextmanager
async def _asynchronous(url: URL, connections: int) -> AsyncIterator[Ask]:
    engine = create_async_engine(url, pool_size=connections, max_overflow=0)

    async def ask(work: Callable[[Connection], Rows]) -> Rows:
        async with engine.connect() as connection:  # never committed
            return await connection.run_sync(work)

    try:
        yield ask
    finally:
        await engine.dispose()


@asynccontextmanager
async def _threaded(url: URL, connections: int) -> AsyncIterator[Ask]:
    """A driver without asyncio (SQLite's): in threads of its own, so that one that hangs holds up nobody else."""
    engine = create_engine(url, pool_size=connections, max_overflow=0)
    threads = ThreadPoolExecutor(connections, thread_name_prefix="sql loader")

    def run(work: Callable[[Connection], Rows]) -> Rows:
        with engine.connect() as connection:  # never committed
            return work(connection)

    async def ask(work: Callable[[Connection], Rows]) -> Rows:
        return await asyncio.get_running_loop().run_in_executor(threads, run, work)

    try:
        yield ask
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        engine.dispose()
