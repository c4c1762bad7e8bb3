"""The pool of connections, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from cachesvc.tiers.database_postgres_pool import Lent, Lost, Pool
from tests import servers


@asynccontextmanager
async def opened(server: servers.Server, size: int = 2) -> AsyncIterator[Pool]:
    url = server.url.replace("postgresql://", "postgresql+asyncpg://")
    pool = Pool(create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool), size)
    try:
        yield pool
    finally:
        await pool.close()


def pid(lent: Lent) -> int:
    return lent.driver.get_server_pid()


async def lend(pool: Pool) -> int:
    async with pool.lent() as lent:
        return pid(lent)


async def test_the_connection_used_last_is_lent_first(postgres_server: servers.Server) -> None:
    async with opened(postgres_server) as pool:
        async with pool.lent() as first, pool.lent() as second:
            pids = pid(first), pid(second)
        for _ in range(3):
            async with pool.lent() as again:
                assert pid(again) == pids[0]  # given back last


async def test_no_more_are_lent_at_once_than_it_holds(postgres_server: servers.Server) -> None:
    async with opened(postgres_server, size=1) as pool:
        async with pool.lent() as lent:
            waiting = asyncio.create_task(lend(pool))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting == pid(lent)


async def _cut_off(lent: Lent) -> None:
    async with asyncio.timeout(0.05):
        await lent.driver.execute("SELECT pg_sleep(60)")


async def _refused(lent: Lent) -> None:
    await lent.driver.execute("BEGIN")
    await lent.driver.execute("SELECT 1 / 0")


async def _killed(lent: Lent) -> None:
    await lent.driver.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize(
    ("fail", "error"), [(_cut_off, TimeoutError), (_refused, asyncpg.DivisionByZeroError), (_killed, Lost)]
)
async def test_one_on_which_something_failed_is_lent_to_nobody_again(
    postgres_server: servers.Server, fail: Callable[[Lent], Awaitable[None]], error: type[Exception]
) -> None:
    async with opened(postgres_server, size=1) as pool:
        mine = await lend(pool)

        async def borrow() -> None:
            async with pool.lent() as lent:
                await fail(lent)

        with pytest.raises(error):
            await borrow()
        async with pool.lent() as again:
            assert pid(again) != mine
            assert not again.driver.is_in_transaction()


async def test_one_that_was_lost_while_it_was_idle_is_not_lent(postgres_server: servers.Server) -> None:
    async with opened(postgres_server, size=2) as pool:
        async with pool.lent() as one, pool.lent() as other:
            gone = asyncio.Event()
            one.driver.add_termination_listener(lambda *_: gone.set())
            mine = pid(one)
            killer = other.driver
        await killer.execute("SELECT pg_terminate_backend($1)", mine)
        async with asyncio.timeout(10):
            await gone.wait()
        async with pool.lent() as first, pool.lent() as second:
            assert mine not in (pid(first), pid(second))
