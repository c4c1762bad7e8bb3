"""PostgreSQL: a few connections, one of them at a time writing, and one more that listens.

A transaction takes the log's advisory lock before its first statement, so sequences are in commit order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, TypeVar

import asyncpg
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Connection,
    Double,
    Select,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    cast,
    extract,
    func,
    literal_column,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from cachesvc.errors import OutcomeUnknown, SettingsError
from cachesvc.model.position import MAX_SEQ
from cachesvc.tiers.database_postgres_pool import DRIVER_ERRORS, Lost, Pool
from cachesvc.tiers.database_store import Rows, fetched, settled, translated
from cachesvc.tiers.schema import CHANNEL

T = TypeVar("T")
Wake = Callable[[int], None]
_OF_SQLALCHEMY: Final = frozenset({"prepared_statement_cache_size", "prepared_statement_name_func"})  # parameters of a URL
_NUMBERS: Final = frozenset(  # which the driver does not take as texts
    {"statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size"}
)
_LOCK: Final = 7163412915
_BEGIN: Final = f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})"
_BEGIN_PATIENTLY: Final = f"BEGIN; SET LOCAL lock_timeout = %d; SELECT pg_advisory_xact_lock({_LOCK})"
_HALTED: Final = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid::bigint << 32 | objid::bigint = $2 AND granted AND datname = current_database()
AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - make_interval(secs => $1)
"""
_IDLE: Final = 30.0  # seconds after which a silent listening connection is tried


@asynccontextmanager
async def opened(url: URL, *, pool_size: int, timeout: float, wake: Wake) -> AsyncIterator[PostgresStore]:
    """The database of the URL. `wake` is called with the sequence up to which a transaction has appended, or may have.

    Raises `SettingsError` for a parameter of the URL that cannot be given.
    """
    url = url.set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:  # libpq's name of what asyncpg calls ssl
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
    engine = _engine(url, timeout)
    arguments = {
        name: value for name, value in engine.dialect.create_connect_args(url)[1].items() if name not in _OF_SQLALCHEMY
    }
    known = inspect.signature(asyncpg.connect).parameters.keys() - _NUMBERS
    if unknown := sorted(arguments.keys() - known):
        shown = url.set(drivername="postgresql", query={}).render_as_string()
        raise SettingsError("levels.database.url", shown, f"has parameters that cannot be given: {', '.join(unknown)}")
    pool = Pool(engine, pool_size)
    failed: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            own: deque[int] = deque(maxlen=2 * pool_size)
            listening = tasks.create_task(_listen(arguments, timeout, wake, own))
            try:
                yield PostgresStore(engine, pool, timeout, wake, own)
            except Exception as exc:  # noqa: BLE001 - raised again below: here it would be put into a group
                failed = exc
            listening.cancel()
    finally:
        await pool.close()
    if failed is not None:
        raise failed


def _engine(url: URL, timeout: float) -> AsyncEngine:
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",  # a transaction is begun by hand, in one round trip with its lock
        poolclass=NullPool,
        connect_args={
            "timeout": timeout,
            "server_settings": {
                "application_name": "cachesvc",
                "lock_timeout": str(_waits(timeout)),
                "idle_in_transaction_session_timeout": str(int(timeout * 1000)),  # a frozen node does not keep the lock
                "jit": "off",
                "enable_seqscan": "off",  # all that is asked is found by an index, whatever the statistics say
            },
        },
    )


def _waits(timeout: float) -> int:
    """Milliseconds that the server waits for a lock: it says so just before it is given up, and would wait on by itself."""
    return max(1, int(timeout * 900))


class PostgresStore:
    """`Store` over one database."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, engine: AsyncEngine, pool: Pool, timeout: float, wake: Wake, own: deque[int]) -> None:
        self._engine = engine
        self._pool = pool
        self._timeout = timeout
        self._wake = wake
        self._own = own  # the server's processes that this store writes through
        self._turn = asyncio.Lock()  # writers of this process wait here, not each on a connection of the pool

    async def read(self, ask: Callable[[Connection], T]) -> T:
        with translated(*DRIVER_ERRORS):
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._ask(ask)
                except Lost:
                    return await self._ask(ask)

    async def maintain(self, work: Callable[[Connection], T]) -> T:
        return await settled(self.write(work))

    async def change(self, work: Callable[[Connection], T]) -> T:
        return await self.read(work)

    async def _ask(self, ask: Callable[[Connection], T]) -> T:
        async with self._pool.lent() as lent:
            return await lent.connection.run_sync(ask)

    async def write(self, work: Callable[[Connection], T], *, within: float | None = None) -> T:
        limit = within or self._timeout
        with translated(*DRIVER_ERRORS):
            async with asyncio.timeout(limit):
                await self._turn.acquire()
            try:
                try:
                    return await self._transact(work, limit)
                except Lost:  # before the commit: nothing was written
                    return await self._transact(work, limit)
            except asyncpg.LockNotAvailableError:
                await self.read(self._free)
                raise
            finally:
                self._turn.release()

    async def _transact(self, work: Callable[[Connection], T], limit: float) -> T:
        async with asyncio.timeout(limit) as deadline, self._pool.lent() as (connection, driver):
            if driver.get_server_pid() not in self._own:
                self._own.append(driver.get_server_pid())
            await driver.execute(_BEGIN if limit == self._timeout else _BEGIN_PATIENTLY % _waits(limit))
            result = await connection.run_sync(work)
            deadline.reschedule(None)  # from here on, out of time means something else
            try:
                await driver.execute("COMMIT", timeout=limit)
            except Exception as exc:
                raise OutcomeUnknown("the connection was lost while committing") from exc
            return result

    def _free(self, connection: Connection) -> None:
        """End the session of a node that has the lock and has halted. Amid a statement the server itself sets it no limit."""
        fetched(connection, _HALTED, [self._timeout, _LOCK])

    def ready(self, statement: Select[Any]) -> Rows:
        compiled = statement.compile(dialect=self._engine.dialect)
        text, given = str(compiled), compiled.params
        names: list[str] = compiled.positiontup or []

        def rows(connection: Connection, bound: Mapping[str, object]) -> Sequence[Any]:
            return fetched(connection, text, [bound[name] if name in bound else given[name] for name in names])

        return rows

    def announce(self, sequence: int) -> None:
        """Others are notified by the transaction; this process may know of it sooner."""
        self._wake(sequence)

    def now(self) -> ColumnElement[float]:
        # the same for a whole statement: an index is no help against what might be another time for each row
        return cast(extract("epoch", func.statement_timestamp()), Double)

    def one_of(self, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
        return column == any_(bindparam(name, type_=ARRAY(Text)))

    def among(self, name: str) -> TableValuedAlias:
        texts = func.string_to_array(bindparam(name, type_=Text), func.chr(literal_column("10")))
        return func.unnest(texts).table_valued("value", name=name).render_derived()

    def texts(self, values: Collection[str]) -> object:
        return list(values)

    def joined(self, values: Collection[str]) -> object:
        """As one text: the driver looks at each element of an array, which takes ten times as long."""
        return "\n".join(values)


async def _listen(arguments: dict[str, Any], timeout: float, wake: Wake, own: Collection[int]) -> None:
    """Listen for ever, connecting anew when the connection is lost. What this process appended it announces itself."""

    def heard(_: object, pid: int, __: str, payload: object) -> None:
        if pid not in own:
            told = str(payload)
            wake(int(told) if told.isdigit() and len(told) <= 16 else MAX_SEQ)  # anyone may notify of anything

    pause = 0.05
    while True:
        lost = asyncio.Event()
        try:
            connection = await asyncpg.connect(**{**arguments, "timeout": timeout, "command_timeout": timeout})
        except (*DRIVER_ERRORS, OSError):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
            continue
        try:
            connection.add_termination_listener(lambda *_, lost=lost: lost.set())
            await connection.add_listener(CHANNEL, heard)
            wake(MAX_SEQ)  # for what was announced while nobody listened
            pause = 0.05
            while not await _set_within(lost, _IDLE):
                await connection.execute("SELECT 1")
        except (*DRIVER_ERRORS, OSError):
            await asyncio.sleep(pause)
        finally:
            connection.terminate()


async def _set_within(event_: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event_.wait()
    except TimeoutError:
        return False
