"""What the two databases have in common: how work is given to them, and what their errors become.

Work is a plain function over a connection. It may be run twice, so it changes nothing but the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, TableValuedAlias
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cachesvc.errors import OutcomeUnknown, TierUnavailable

T = TypeVar("T")
Rows = Callable[[Connection, Mapping[str, object]], Sequence[Any]]
NAME: Final = "database"
_NOT_THERE: Final = ("08", "53300", "55P03", "57P")  # of SQLSTATE: no connection, none left, a lock, being stopped or started
_TAKEN: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP})


class Store(Protocol):
    """A database that is open."""

    dialect: Literal["sqlite", "postgresql"]

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """Run statements that change nothing, each in a snapshot of its own. Raises `TierUnavailable`."""
        ...

    async def write(self, work: Callable[[Connection], T], *, within: float | None = None) -> T:
        """Run one durable transaction that holds the log's lock from before its first statement.

        `within` is a time limit in seconds instead of the store's own. Raises `TierUnavailable` when nothing was written,
        `OutcomeUnknown` when the commit was begun and its end not seen.
        """
        ...

    async def change(self, work: Callable[[Connection], T]) -> T:
        """Run one statement, which may be run twice, beside the log. Raises `TierUnavailable`, done or not."""
        ...

    async def maintain(self, work: Callable[[Connection], T]) -> T:
        """As `write`, for what may be done again: raises `TierUnavailable`, whether it was done or not."""
        ...

    def ready(self, statement: Select[Any]) -> Rows:
        """A statement that is run again and again, made ready once: its rows cost hardly more than the driver takes."""
        ...

    def announce(self, sequence: int) -> None:
        """Wake the other processes that follow, where the transaction itself does not do it. Never fails, may be lost."""
        ...

    def now(self) -> ColumnElement[float]:
        """The database's clock in Unix seconds, as an expression."""
        ...

    def one_of(self, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
        """Whether the column is among the texts bound as `name`, by one parameter however many they are."""
        ...

    def among(self, name: str) -> TableValuedAlias:
        """The texts bound as `name` by `joined`, as a table with the column `value`: to be joined with where they may be many.

        `one_of` would look through all of them for every row that it comes by.
        """
        ...

    def texts(self, values: Collection[str]) -> object:
        """The texts, as `one_of` wants them bound."""
        ...

    def joined(self, values: Collection[str]) -> object:
        """The texts, none of which has a line break, as `among` wants them bound."""
        ...


def fetched(connection: Connection, text: str, arguments: Sequence[object]) -> Sequence[Any]:
    """The rows of a statement, by an asynchronous driver alone: through SQLAlchemy it would take twice as long."""
    adapted: Any = connection.connection.dbapi_connection
    rows: Sequence[Any] = adapted.run_async(lambda driver: driver.fetch(text, *arguments))
    return rows


@contextmanager
def translated(*drivers: type[Exception]) -> Iterator[None]:
    """What drivers raise inside becomes `TierUnavailable`."""
    try:
        yield
    except Exception as exc:  # a TimeoutError is an OSError
        if not isinstance(exc, (SQLAlchemyError, OSError, *drivers)):
            raise
        raise TierUnavailable(NAME, sentence(exc), answered=_answered(exc)) from exc


async def settled(writing: Awaitable[T]) -> T:
    """What a write gives that may be done again: to its caller, a commit in doubt is one that failed."""
    try:
        return await writing
    except OutcomeUnknown as exc:
        raise TierUnavailable(NAME, exc.reason) from exc


def _answered(exc: Exception) -> bool:
    """Whether the database itself said no, and is there: its disk is full, it is only read."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF not in _TAKEN
    state = getattr(cause, "sqlstate", None)
    return state is not None and not state.startswith(_NOT_THERE)


def sentence(exc: Exception) -> str:
    """The driver's own words, without the statement and its values."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if getattr(cause, "sqlite_errorcode", 0) in _NO_ROOM:
        return "its disk is full: there is no room for the -shm file without which it cannot be read"
    text = str(cause).partition("\n")[0]
    return text.rpartition(">: ")[2] or type(cause).__name__
