"""A node while its PostgreSQL is frozen or stopped: refusals at once, reads from above it, nothing changed, back by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cachesvc.engine.cache import Cache
from cachesvc.errors import OutcomeUnknown, TierUnavailable, Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from tests import servers
from tests.node.conftest import settings
from tests.processes.services import LIMIT

A, B = Key("a:1"), Key("b:1")


@pytest.fixture
def own_postgres() -> Iterator[servers.Server]:
    with servers.postgres() as server:
        yield server


def processes(server: servers.Server) -> list[psutil.Process]:
    assert server.process is not None
    postmaster = psutil.Process(server.process.pid)
    return [postmaster, *postmaster.children()]


def freeze(server: servers.Server) -> Callable[[], None]:
    frozen = processes(server)
    for process in frozen:
        process.suspend()

    def thaw() -> None:
        for process in frozen:
            process.resume()

    return thaw


def stop(server: servers.Server) -> Callable[[], None]:
    server.stop(signal.SIGINT)
    return server.start


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


async def written(cache: Cache, draft: Draft) -> None:
    """Write, again where the time limit was too short for a busy machine."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                await cache.write(draft)
                return
            except TierUnavailable:
                await asyncio.sleep(0.01)


async def check_away(node: Node) -> None:
    """Once its breakers are open, nobody waits: what is refused never gets as far as a queue."""
    cache = node.cache
    with pytest.raises((TierUnavailable, OutcomeUnknown)):
        await cache.write(Draft(Operation.SET, A, b"2"))
    refused = 0
    queued = cache.writes.combiner.items
    for _ in range(100):
        try:
            await cache.write(Draft(Operation.SET, A, b"3"))
        except (TierUnavailable, OutcomeUnknown) as exc:
            refused += "not asked again yet" in str(exc)
    assert refused > 90
    assert cache.writes.combiner.items - queued == 100 - refused
    while cache.authority_reads.state == "closed":
        with pytest.raises(Unavailable):
            await cache.read(B)
    ready, parts = await node.readiness()
    assert not ready
    assert "breaker" in parts["database"]
    said = (await node.stats())["tiers"]["database"]
    assert said["breakerOpen"]
    assert said["writesBreakerOpen"]
    assert (await cache.read(A)).tier == "memory"
    cache.memory.clear()
    answer = await cache.read(A)
    assert answer.tier == "redis"
    assert answer.entry is not None
    assert answer.entry.value == b"1"


@pytest.mark.parametrize("leave", [freeze, stop])
async def test_away_and_back(
    tmp_path: Path, own_postgres: servers.Server, valkey_url: str, leave: Callable[[servers.Server], Callable[[], None]]
) -> None:
    chosen = settings(tmp_path, redis={"url": valkey_url}, database={"url": own_postgres.url, "timeout": 0.5})
    async with opened(chosen) as node:
        cache = node.cache
        await until(lambda: cache.authority_writes.state == "closed")  # half a second may be too short on a busy machine
        await written(cache, Draft(Operation.SET, A, b"1"))
        await cache.puts.drained()
        head = await node.authority.head()
        come_back = await asyncio.to_thread(leave, own_postgres)
        try:
            await check_away(node)
        finally:
            await asyncio.to_thread(come_back)
        await until(lambda: cache.authority_reads.state == cache.authority_writes.state == "closed")
        await until(lambda: node.follower.following)
        async with asyncio.timeout(LIMIT):
            while not (await node.readiness())[0]:
                await asyncio.sleep(0.01)
        assert (await node.readiness())[1]["database"] == "ok"
        assert await node.authority.head() == head
        for fresh in (await node.authority.get([A], horizon=cache.floors.horizon), {A: await cache.get(A)}):
            entry = fresh[A]
            assert entry is not None
            assert entry.value == b"1"
        await written(cache, Draft(Operation.SET, A, b"4"))
