"""SQLite: reads in a few threads, writes in one, which takes a fair turn among all processes first.

A transaction runs in its thread from begin to end, so a caller that goes away leaves neither it nor the lock behind.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from queue import Full, Queue
from stat import S_IMODE
from tempfile import NamedTemporaryFile
from typing import Any, Final, Literal, TypeVar

import orjson
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Select,
    TableValuedAlias,
    Text,
    bindparam,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from cachesvc.errors import OutcomeUnknown, SettingsError, TierUnavailable
from cachesvc.ports import Clock
from cachesvc.tiers.database_store import NAME, Rows, sentence, settled, translated
from cachesvc.tiers.database_turns import Turns
from cachesvc.tiers.database_wakeups import Sockets

T = TypeVar("T")
MAX_WAITING: Final = 1_024  # transactions of this process that wait for their turn
_WAL_LIMIT: Final = f"journal_size_limit = {64 << 20}"  # what a burst of writes left is given back
_CLOSING: Final = 5.0
_SHM_SIZE: Final = 32 << 10  # bytes with which SQLite begins its index of the WAL
_HOPELESS: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
)


@asynccontextmanager
async def opened(
    url: URL, *, data_dir: Path, pool_size: int, timeout: float, clock: Clock, wake: Callable[[int], None]
) -> AsyncIterator[SqliteStore]:
    """The file of the URL, created where it is missing. `wake` is told up to where a process has appended."""
    if not url.database or url.database == ":memory:":
        raise TierUnavailable(NAME, "an SQLite database in memory is not durable; name a file")
    with translated():
        turns = _turns(data_dir, Path(url.database).parent)
    await asyncio.to_thread(_try_file, url.database)
    with Sockets(data_dir / "wake", wake) as sockets:
        engine = _engine(url, pool_size, timeout)
        store = SqliteStore(engine, turns, sockets, readers=pool_size, timeout=timeout, clock=clock)
        try:
            yield store
        finally:
            await store.close()


def _try_file(path: str) -> None:
    """Raise `SettingsError` for a file that no waiting will make usable."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA schema_version")  # reads the file, and takes no lock that another's start would meet
    except sqlite3.Error as exc:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _HOPELESS:
            raise SettingsError("levels.database.url", f"sqlite:{path}", f"cannot be used: {exc}") from exc
    _keep_room(path)


def _keep_room(path: str) -> None:
    """Leave the `-shm` file that SQLite removes with its last connection: on a full disk nobody could make it, nor read.

    SQLite begins it anew, in its own blocks. It is put there whole, by a link: one in use is never touched.
    """
    shm = Path(f"{path}-shm")
    with suppress(OSError):  # there is one, or no room even now
        if not shm.exists():
            with NamedTemporaryFile(dir=shm.parent, prefix=f"{shm.name}-") as reserved:
                os.fchmod(reserved.fileno(), S_IMODE(os.stat(path).st_mode))
                reserved.write(bytes(_SHM_SIZE))
                reserved.flush()
                os.link(reserved.name, shm)


def _turns(data_dir: Path, directory: Path) -> Turns:
    for path in (data_dir, directory):
        path.mkdir(parents=True, exist_ok=True)
    return Turns(data_dir)


def _engine(url: URL, pool_size: int, timeout: float) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        isolation_level="AUTOCOMMIT",  # each transaction is begun by hand, IMMEDIATE
        pool_size=pool_size + 1,
        max_overflow=0,
        pool_timeout=timeout,
        connect_args={"check_same_thread": False, "timeout": timeout, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = OFF", "temp_store = MEMORY", _WAL_LIMIT):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class SqliteStore:
    """`Store` over one file."""

    dialect: Literal["sqlite", "postgresql"] = "sqlite"

    def __init__(self, engine: Engine, turns: Turns, sockets: Sockets, *, readers: int, timeout: float, clock: Clock) -> None:
        self._engine = engine
        self._turns = turns
        self._sockets = sockets
        self._timeout = timeout
        self._clock = clock
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="sqlite-read")
        self._jobs: Queue[Callable[[], None] | None] = Queue(MAX_WAITING)
        # not of an executor: the interpreter would wait for it at its end, and another process may hold the lock for ever
        self._writer = threading.Thread(target=self._write_all, name="sqlite-write", daemon=True)
        self._writer.start()

    async def read(self, ask: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                return ask(connection)

        with translated():
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(self, work: Callable[[Connection], T], *, within: float | None = None) -> T:
        future: Future[T] = Future()

        def job() -> None:
            try:
                with self._turns.taken():
                    if not future.set_running_or_notify_cancel():
                        return
                    result = self._transact(work)
            except BaseException as exc:  # noqa: BLE001 - the caller gets it, and this thread goes on
                with suppress(InvalidStateError):  # a caller that went away while this waited for its turn
                    future.set_exception(exc)
            else:
                future.set_result(result)

        try:
            self._jobs.put_nowait(job)
        except Full:
            raise TierUnavailable(NAME, f"{MAX_WAITING} transactions are waiting") from None
        try:
            with translated():
                async with asyncio.timeout(within or self._timeout):
                    return await asyncio.wrap_future(future)
        except TierUnavailable as exc:
            if isinstance(exc.__cause__, TimeoutError) and not future.cancelled():
                raise OutcomeUnknown("the transaction did not end in time") from exc
            raise

    async def change(self, work: Callable[[Connection], T]) -> T:
        return await self.maintain(work)

    async def maintain(self, work: Callable[[Connection], T]) -> T:
        return await settled(self.write(work))

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                result = work(connection)
            except BaseException:
                driver.rollback()
                raise
            try:
                connection.exec_driver_sql("COMMIT")
            except SQLAlchemyError as exc:
                driver.rollback()
                raise OutcomeUnknown(f"the commit failed: {sentence(exc)}") from exc
            return result

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def ready(self, statement: Select[Any]) -> Rows:
        return lambda connection, bound: connection.execute(statement, bound).all()

    def announce(self, sequence: int) -> None:
        self._sockets.send(sequence)

    def now(self) -> ColumnElement[float]:
        return bindparam(None, type_=Double, callable_=self._clock.now)

    def one_of(self, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
        return column.in_(select(self.among(name).c.value))

    def among(self, name: str) -> TableValuedAlias:
        return func.json_each(bindparam(name, type_=Text)).table_valued("value", name=f"{name}_texts")

    def texts(self, values: Collection[str]) -> object:
        return orjson.dumps(list(values)).decode()

    joined = texts

    async def close(self) -> None:
        """End the threads; what is under way ends first."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._jobs.put(None, timeout=_CLOSING)
        self._writer.join(_CLOSING)
        if not self._writer.is_alive():  # else it waits for a lock that another process does not let go
            self._turns.close()
        self._readers.shutdown()
        self._engine.dispose()
        if self._engine.url.database:
            _keep_room(self._engine.url.database)
