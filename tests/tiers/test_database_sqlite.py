"""What the processes that share an SQLite file share beside it: turns and wake-ups."""

from __future__ import annotations

import asyncio
import fcntl
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cachesvc.clock import SystemClock
from cachesvc.errors import SettingsError
from cachesvc.tiers.database_sqlite import opened
from cachesvc.tiers.database_turns import Turns
from cachesvc.tiers.database_wakeups import Sockets
from tests.logs.database_store import DatabaseStore


def test_who_waits_goes_before_who_comes_back(tmp_path: Path) -> None:
    first, second = Turns(tmp_path), Turns(tmp_path)
    order: list[str] = []
    waiting = threading.Event()

    def other() -> None:
        waiting.set()
        with second.taken():
            order.append("second")

    thread = threading.Thread(target=other)
    with first.taken():
        thread.start()
        waiting.wait()
        deadline = time.monotonic() + 10
        while not _is_taken(tmp_path / "database.turn"):  # the other has not got as far as the lock yet
            assert time.monotonic() < deadline
        order.append("first")
    with first.taken():
        order.append("first again")
    thread.join()
    first.close()
    second.close()
    assert order == ["first", "second", "first again"]


def _is_taken(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def test_a_wake_up_reaches_every_process_and_dead_sockets_go(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 40)  # too long for the address of a socket
    directory.mkdir()
    one: asyncio.Queue[int] = asyncio.Queue()
    two: asyncio.Queue[int] = asyncio.Queue()
    with Sockets(directory, one.put_nowait) as first:
        with Sockets(directory, two.put_nowait):
            names = {path.name for path in directory.iterdir()}
            assert len(names) == 2
            first.send(1)
            async with asyncio.timeout(5):
                assert await one.get() == 1
                assert await two.get() == 1
        assert len(list(directory.iterdir())) == 1
        dead = Sockets(directory, two.put_nowait)
        dead.__enter__()
        asyncio.get_running_loop().remove_reader(dead._socket)
        dead._socket.close()  # as a killed process leaves it
        assert len(list(directory.iterdir())) == 2
        first.send(2)
        assert len(list(directory.iterdir())) == 1
    assert list(directory.iterdir()) == []


async def test_a_socket_nobody_reads_does_not_stop_the_sender(tmp_path: Path) -> None:
    with Sockets(tmp_path, lambda _: None) as first, Sockets(tmp_path, lambda _: None):
        for sequence in range(10_000):
            first.send(sequence)


async def test_a_file_that_is_no_database_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(b"x" * 2_000)
    url = make_url(f"sqlite:///{file}")
    with pytest.raises(SettingsError, match=r"levels\.database\.url.*not a database"):
        async with opened(url, data_dir=tmp_path, pool_size=2, timeout=5.0, clock=SystemClock(), wake=lambda _: None):
            pass


async def test_a_clean_stop_leaves_the_room_without_which_nobody_could_start_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "cachesvc.db"
    store = DatabaseStore(f"sqlite:///{path}", tmp_path)
    async with store.opened() as first:
        async with store.opened():
            pass
        assert (await first.head()).sequence  # what the other left in use is not replaced
    reserved = (tmp_path / "cachesvc.db-shm").stat()
    assert reserved.st_blocks * 512 >= 32 << 10
    assert reserved.st_mode == path.stat().st_mode
    async with store.opened() as again:
        assert (await again.head()).sequence
    assert {found.name for found in tmp_path.iterdir()} <= {
        "cachesvc.db", "cachesvc.db-shm", "database.lock", "database.turn", "wake"
    }  # fmt: skip
