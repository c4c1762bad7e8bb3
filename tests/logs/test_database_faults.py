"""The database authority while its database is restarted, killed, frozen, full or read-only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import event

from cachesvc.errors import OutcomeUnknown, TierUnavailable
from cachesvc.model.change import Idempotency, request_id
from cachesvc.tiers.database_postgres import _BEGIN
from tests import servers
from tests.conformance.authority_store import add, append, put, receipts, values
from tests.logs.database_store import DatabaseStore

NOBODY: Final = 65_534


async def test_a_restart_between_calls_goes_unnoticed(own_postgres: servers.Server, tmp_path: Path) -> None:
    async with DatabaseStore(own_postgres.url, tmp_path).opened() as authority:
        await append(authority, put("a", b"1"))
        await asyncio.gather(*(values(authority, "a") for _ in range(3)))  # every connection of the pool is open
        await asyncio.to_thread(own_postgres.stop, signal.SIGINT)
        with pytest.raises(TierUnavailable, match="database"):
            await values(authority, "a")
        with pytest.raises(TierUnavailable, match="database"):
            await append(authority, put("a", b"2"))
        await asyncio.to_thread(own_postgres.start)
        assert await asyncio.gather(*(values(authority, "a") for _ in range(3))) == [[b"1"]] * 3
        await asyncio.to_thread(own_postgres.stop, signal.SIGINT)
        await asyncio.to_thread(own_postgres.start)
        receipts(await append(authority, put("a", b"2")))  # every connection of the pool is dead, and nobody was told
        start = await authority.head()
        async with asyncio.timeout(20), authority.follow(start) as batches:
            # the listening connection comes back by itself, and tells of what it may have missed
            await append(authority, put("a", b"3"))
            assert [change.key for change in await anext(batches)] == ["a"]


def halted(port: int) -> socket.socket:
    """A session that has the log's lock, and went silent after the first half of a statement, as a frozen node may."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(message(b"", b"\0\x03\0\0user\0postgres\0database\0postgres\0\0"))
    client.sendall(message(b"Q", f"{_BEGIN}\0".encode()) + message(b"P", b"\0SELECT 1\0\0\0") + message(b"H", b""))
    told = b""
    while not told.endswith(b"1\0\0\0\4"):  # parsed
        told += client.recv(4_096)
    return client


async def test_a_node_that_halts_amid_a_statement_keeps_the_lock_from_nobody(postgres_url: str, tmp_path: Path) -> None:
    async with DatabaseStore(postgres_url, tmp_path, timeout=1.5).opened() as authority:
        receipts(await append(authority, put("a", b"1")))
        with await asyncio.to_thread(halted, urlsplit(postgres_url).port or 0):
            with pytest.raises(TierUnavailable) as refused:
                await append(authority, put("a", b"2"))
            assert not refused.value.answered
            async with asyncio.timeout(60):
                while await values(authority, "a") == [b"1"]:  # who waited in vain frees it
                    with suppress(TierUnavailable):
                        await append(authority, put("a", b"3"))
        assert await values(authority, "a") == [b"3"]


async def test_who_gave_up_waiting_for_the_lock_waits_no_longer_in_the_server(postgres_url: str, tmp_path: Path) -> None:
    async with DatabaseStore(postgres_url, tmp_path, timeout=1.0).opened() as authority:
        holding, looking = [await asyncpg.connect(postgres_url) for _ in range(2)]
        at_work = asyncio.create_task(holding.execute(f"{_BEGIN}; SELECT pg_sleep(60)"))
        while not await looking.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"):
            await asyncio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(TierUnavailable):
                await append(authority, put("a", b"1"))
        async with asyncio.timeout(60):
            while await looking.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        assert not at_work.done()
        await looking.execute("SELECT pg_terminate_backend($1)", holding.get_server_pid())
        with pytest.raises(asyncpg.PostgresError):
            await at_work
        await looking.close()
        receipts(await append(authority, put("a", b"1")))


async def test_what_was_acknowledged_survives_a_kill(own_postgres: servers.Server, tmp_path: Path) -> None:
    """Every append is acknowledged, refused or in doubt; asking again settles the doubt, and nothing is applied twice."""
    async with DatabaseStore(own_postgres.url, tmp_path, timeout=3.0).opened() as authority:
        acknowledged, doubtful = 0, []
        running = asyncio.Event()

        async def write() -> None:
            nonlocal acknowledged
            for i in range(10_000):
                batch = f"{i:032x}"
                try:
                    draft = add("count", idempotency=Idempotency("me", "", "f"))
                    receipts(await authority.append([draft], batch=batch))
                    acknowledged += 1
                    if acknowledged == 20:
                        running.set()
                except OutcomeUnknown:
                    doubtful.append(batch)
                    return
                except TierUnavailable:
                    return

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            await running.wait()
            await asyncio.to_thread(own_postgres.kill)
        lock = own_postgres.directory / "postmaster.pid"
        await asyncio.to_thread(lambda: lock.unlink(missing_ok=True))
        await asyncio.to_thread(own_postgres.start)
        for batch in doubtful:
            again = add("count", idempotency=Idempotency("me", request_id(batch, 0), "f"))
            receipts(await append(authority, again))
            acknowledged += 1
        assert await values(authority, "count") == [str(acknowledged).encode()]


async def test_a_frozen_server_is_given_up_in_time(own_postgres: servers.Server, tmp_path: Path) -> None:
    async with DatabaseStore(own_postgres.url, tmp_path, timeout=0.5).opened() as authority:
        await append(authority, put("a", b"1"))
        children = _children(own_postgres)
        try:
            for pid in children:
                os.kill(pid, signal.SIGSTOP)
            async with asyncio.timeout(10):
                with pytest.raises(TierUnavailable, match="no answer in time"):
                    await values(authority, "a")
                with pytest.raises(TierUnavailable, match="no answer in time"):
                    await append(authority, put("a", b"2"))
        finally:
            for pid in children:
                os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(30):
            while True:  # on a busy machine the first answers come too late as well
                with suppress(TierUnavailable):
                    assert await values(authority, "a") == [b"1"]
                    receipts(await append(authority, put("a", b"3")))
                    break


def _children(server: servers.Server) -> list[int]:
    assert server.process is not None
    pid = server.process.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, found)]


async def test_a_full_disk_writes_nothing_until_there_is_room(sqlite_store: DatabaseStore) -> None:
    pages = {"max": 1 << 30}
    async with sqlite_store.opened() as authority:
        engine: Any = authority._store._engine  # type: ignore[attr-defined]

        @event.listens_for(engine, "checkout")
        def limit(connection: Any, *_: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages['max']}")

        await append(authority, put("a", b'"kept"'))
        pages["max"] = 1  # the pragma makes of it: no more than there are
        head = await authority.head()
        with pytest.raises(TierUnavailable, match="full"):
            await append(authority, put("a", b'"lost"'), put("b", b"x" * 100_000, content_type="text/plain"))
        assert await authority.head() == head
        assert await values(authority, "a", "b") == [b'"kept"', None]
        pages["max"] = 1 << 30
        receipts(await append(authority, put("b", b"x" * 100_000, content_type="text/plain")))


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    store = DatabaseStore(f"sqlite:///{directory}/cache.db", directory)
    async with store.opened() as authority:
        await append(authority, put("a", b"1"))
    with _read_only(directory), pytest.raises(TierUnavailable, match="database"):
        async with store.opened():
            pass
    async with store.opened() as authority:
        assert await values(authority, "a") == [b"1"]
        receipts(await append(authority, put("a", b"2")))


@contextmanager
def _read_only(directory: Path) -> Iterator[None]:
    """Nobody may write there, nor the superuser, who lays that down for the while."""
    was = os.geteuid()
    above = [path for path in directory.parents if was == 0 and not path.stat().st_mode & 0o001]
    modes = {path: path.stat().st_mode for path in (directory, *directory.iterdir(), *above)}
    for path, mode in modes.items():
        path.chmod(mode | 0o011 if path in above else 0o555 if path.is_dir() else 0o444)
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)
        for path, mode in modes.items():
            path.chmod(mode)


_HAMMER = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
sys.path.insert(0, sys.argv[3])
from tests.conformance.authority_store import add, append
from tests.logs.database_store import DatabaseStore

async def main():
    store = DatabaseStore(sys.argv[1], Path(sys.argv[2]), timeout=60.0)
    async with store.opened() as authority:
        print("ready", flush=True)
        while True:
            await append(authority, add("hammer"))

asyncio.run(main())
"""


async def test_a_busy_process_lets_others_in(sqlite_store: DatabaseStore) -> None:
    """While another process appends without a pause, at most a few of its appends lie between two of ours."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _HAMMER, sqlite_store.url, str(sqlite_store.data_dir), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as hammer:
        try:
            assert hammer.stdout is not None
            assert await asyncio.to_thread(hammer.stdout.readline) == b"ready\n"
            async with replace(sqlite_store, timeout=60.0).opened() as authority:
                heads = []
                for _ in range(50):
                    heads.append((await append(authority, put("mine"))).before.sequence)
        finally:
            hammer.kill()
    between = [after - before - 1 for before, after in pairwise(heads)]
    assert sum(between) > 0, "the other process did not write at all"
    assert sorted(between)[-5] <= 5, between  # a fair turn is one; the machine may pause us now and then


async def test_a_killed_holder_of_the_lock_keeps_nobody_out(sqlite_store: DatabaseStore) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _HAMMER, sqlite_store.url, str(sqlite_store.data_dir), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as hammer:
        assert hammer.stdout is not None
        assert await asyncio.to_thread(hammer.stdout.readline) == b"ready\n"
        hammer.kill()
    async with sqlite_store.opened() as authority:
        async with asyncio.timeout(10):
            receipts(await append(authority, put("mine")))


async def test_a_frozen_holder_of_the_lock_is_not_waited_for_longer_than_allowed(sqlite_store: DatabaseStore) -> None:
    async with replace(sqlite_store, timeout=1.0).opened() as authority, sqlite_store.opened() as other:
        turns: Any = other._store._turns  # type: ignore[attr-defined]
        with turns.taken():
            with pytest.raises(TierUnavailable, match="no answer in time"):
                await append(authority, put("a", b"1"))
            assert await values(authority, "a") == [None]  # reads go on
        receipts(await append(authority, put("b", b"2")))
        assert await values(authority, "a", "b") == [None, b"2"]


async def test_a_turn_that_fails_after_its_caller_went_away_does_not_end_the_writer(
    sqlite_store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replace(sqlite_store, timeout=0.2).opened() as authority:
        turns: Any = authority._store._turns  # type: ignore[attr-defined]
        given_up = threading.Event()

        @contextmanager
        def failing() -> Iterator[None]:
            given_up.wait(10)
            raise OSError("the disk is gone")
            yield

        with monkeypatch.context() as patched:
            patched.setattr(turns, "taken", failing)
            with pytest.raises(TierUnavailable, match="no answer in time"):
                await append(authority, put("a", b"1"))
            given_up.set()
            with pytest.raises(TierUnavailable, match="the disk is gone"):
                await append(authority, put("a", b"2"))
        receipts(await append(authority, put("a", b"3")))
