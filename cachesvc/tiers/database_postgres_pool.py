"""The pool: connections to PostgreSQL, each as SQLAlchemy knows it and as the driver does.

The rule that must not break: a connection on which anything failed is lent to nobody again, whatever state it is in.
SQLAlchemy's own pool took 0.1 ms each time a connection was lent, as long as a read of 64 rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# the last is what it says of a connection that was lost between two of its steps
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Lost(asyncpg.InterfaceError):
    """The connection went away while it was lent. It may only have been idle while the server restarted."""


class Lent(NamedTuple):
    """A connection that one borrower has for itself."""

    connection: AsyncConnection
    driver: asyncpg.Connection


class Pool:
    """At most `size` connections of an engine that pools none itself; the one used last is lent first."""

    def __init__(self, engine: AsyncEngine, size: int) -> None:
        self._engine = engine
        self._room = asyncio.Semaphore(size)
        self._idle: list[Lent] = []

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Lent]:
        """A connection; waits until one is free. Raises `Lost` instead of what the driver says of one that went away."""
        async with self._room:
            lent = await self._take()
            try:
                yield lent
            except BaseException as exc:
                lost = lent.driver.is_closed()
                await _drop(lent)
                if lost and isinstance(exc, (*DRIVER_ERRORS, DBAPIError, OSError)):
                    raise Lost(str(exc)) from exc
                raise
            self._idle.append(lent)

    async def close(self) -> None:
        """Drop what is idle."""
        while self._idle:
            await _drop(self._idle.pop())

    async def _take(self) -> Lent:
        while self._idle:
            lent = self._idle.pop()
            if not lent.driver.is_closed():
                return lent
            await _drop(lent)
        connection = await self._engine.connect()
        assert connection.sync_connection is not None
        driver = connection.sync_connection.connection.driver_connection
        assert isinstance(driver, asyncpg.Connection)
        return Lent(connection, driver)


async def _drop(lent: Lent) -> None:
    lent.driver.terminate()  # at once, and the server rolls back: one that does not answer would be waited for
    await lent.connection.invalidate()
    await lent.connection.close()
