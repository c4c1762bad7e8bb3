"""Acknowledged means durable: what a PUT was answered for is read after kill -9 of everything at once.

`KILLS=100` makes it that many kills for each pair of stores; without it there are a few.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from tests import servers
from tests.e2e.services import connected, kill_at_once, started

KILLS = int(os.environ.get("KILLS", "2"))
WRITERS, KEYS = 6, 4  # keys of each writer


@dataclass(slots=True)
class Told:
    """What a writer knows of its key: the last number it was answered for, its version, and what it does not know of since."""

    number: int = 0
    version: int = 0
    unknown: set[int] = field(default_factory=set)


@dataclass(slots=True)
class History:
    """What was sent and answered for, over all kills. `numbers` differ for every write."""

    keys: dict[str, Told] = field(default_factory=dict)
    answered: int = 0
    numbers: count[int] = field(default_factory=lambda: count(1))

    async def write(self, client: httpx.AsyncClient, writer: int, *, enough: int, reached: asyncio.Event) -> None:
        """Write in turn to the keys that are this writer's alone, until the connection breaks."""
        keys = [f"writer:{writer}:{place}" for place in range(KEYS)]
        try:
            for number in self.numbers:
                told = self.keys.setdefault(keys[number % KEYS], Told())
                told.unknown.add(number)
                answer = await client.put(f"/v1/cache/{keys[number % KEYS]}", json={"number": number})
                if answer.status_code == 503:  # too busy: not acknowledged, and not written unless it says so
                    if answer.json()["code"] != "OUTCOME_UNKNOWN":
                        told.unknown.discard(number)
                    continue
                assert answer.status_code in (200, 201), answer.text
                told.number, told.version = number, answer.json()["version"]
                told.unknown.clear()
                self.answered += 1
                if self.answered >= enough:
                    reached.set()
        except httpx.TransportError:
            assert reached.is_set()

    async def check(self, client: httpx.AsyncClient) -> None:
        """Every key is what was last answered for, or what was sent after it and not answered."""
        for key, told in self.keys.items():
            if told.number == 0:
                continue
            answer = await client.get(f"/v1/cache/{key}")
            assert answer.status_code == 200, f"{key} is lost, of version {told.version}: {answer.text}"
            number, version = answer.json()["number"], int(answer.headers["ETag"].strip('"'))
            newer = number in told.unknown and version > told.version
            assert newer or (number, version) == (told.number, told.version), (key, told, number, version)
            told.number, told.version = number, version
            told.unknown.clear()


async def write_until_killed(url: str, history: History, *, enough: int, kill: Callable[[], None]) -> None:
    """All writers at once; everything is killed as soon as `enough` more writes were answered for, amid the next ones."""
    reached = asyncio.Event()
    enough += history.answered
    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(_write(url, history, writer, enough, reached))
        await reached.wait()
        kill()


async def _write(url: str, history: History, writer: int, enough: int, reached: asyncio.Event) -> None:
    async with connected(url) as client:
        await history.write(client, writer, enough=enough, reached=reached)


async def kill_and_check(data_dir: Path, stores: list[servers.Server], **settings: str) -> None:
    """Start, check what earlier rounds were answered for, write, kill; again and again on the same data."""
    history, rng = History(), random.Random(KILLS)
    for kills in range(KILLS + 1):
        with ExitStack() as stack:
            service, url = stack.enter_context(started(data_dir, **settings))
            async with connected(url) as client:
                await history.check(client)
            if kills < KILLS:
                roots = [service.process.pid, *(_pid(store) for store in stores)]
                await write_until_killed(url, history, enough=rng.randint(1, 100), kill=lambda: kill_at_once(*roots))  # noqa: B023
                for store in stores:
                    store.kill()  # which is long done: it is only waited for
                    store.start()
    assert history.answered >= KILLS


def _pid(store: servers.Server) -> int:
    assert store.process is not None
    return store.process.pid


async def test_sqlite_and_the_embedded_valkey(tmp_path: Path) -> None:
    await kill_and_check(tmp_path, [], server__workers="2")


async def test_postgresql_and_a_valkey_that_comes_back_with_an_old_snapshot(tmp_path: Path) -> None:
    with servers.postgres() as postgres, servers.valkey("--save", "1 1") as valkey:
        await kill_and_check(tmp_path, [postgres, valkey], levels__database__url=postgres.url, levels__redis__url=valkey.url)
