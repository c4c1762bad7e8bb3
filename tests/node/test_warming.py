"""Warming over real stores: a job that any node runs, and a new node that warms before it says that it is ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from cachesvc.model.change import Draft, Operation
from cachesvc.model.job import Job, JobState
from cachesvc.model.keys import Key
from cachesvc.model.warming import Warming, WarmSource, pack_warming
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.ports import NodeRecord
from cachesvc.web.app import create_app
from cachesvc.web.service import Service
from tests.node.conftest import settings
from tests.web.site import Server

KEYS = [Key(f"t:{number:03}") for number in range(600)]


async def fill(node: Node) -> None:
    outcomes = await node.cache.write_many([Draft(Operation.SET, key, b"1") for key in KEYS])
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    await node.cache.puts.drained()


async def warmed(node: Node, warming: Warming) -> Job:
    begun = await node.jobs.begin("warm", warming.title, pack_warming(warming), what=warming.what)
    async with asyncio.timeout(30):
        while True:
            job = await node.jobs.find(begun.job.id)
            if job is not None and job.state.ended:
                return job
            await asyncio.sleep(0.02)


async def test_from_the_authority_up(node: Node) -> None:
    await fill(node)
    if node.cache.redis is not None:
        await node.cache.redis.evict(KEYS)
    for warming in (Warming(WarmSource.DATABASE, pattern="t:*"), Warming(WarmSource.DATABASE, tuple(KEYS[:10]))):
        job = await warmed(node, warming)
        assert (job.state, job.done, job.total, job.error_count) == (JobState.DONE, job.total, job.done, 0), job
        assert job.node == node.id
    if node.cache.redis is not None:
        found = await node.cache.redis.get(KEYS, horizon=node.cache.floors.horizon)
        assert len(found) == len(KEYS)


@asynccontextmanager
async def served(node: Node, listening: socket.socket) -> AsyncIterator[None]:
    app = create_app(Service(node.cache, node.feed, node, node.clock, node.jobs))
    server = Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listening]))
        await server.ready.wait()
        try:
            yield
        finally:
            server.should_exit = True


async def until_ready(node: Node) -> list[Any]:
    """What it says of its warming until it is ready."""
    said: list[Any] = []
    async with asyncio.timeout(30):
        while True:
            ready, parts = await node.readiness()
            if ready:
                return said
            said.append(parts.get("warming"))
            await asyncio.sleep(0.01)


async def test_a_new_node_takes_over_what_a_peer_has_hot(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    levels = {"redis": {"url": valkey_url}, "database": {"url": postgres_url}}
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    async with opened(settings(tmp_path, **levels), address=f"{address}#0") as old, served(old, listening):
        await fill(old)
        await old.cache.read(KEYS[7])
        at = old.cache.applied
        await old.authority.heartbeat(NodeRecord("gone", 0.0, 0.0, at, "1", "127.0.0.1:1#0"))  # the oldest, and it has died
        async with opened(settings(tmp_path, **levels, warm={"on_start": "peer"})) as new:
            assert "warming" in str((await until_ready(new))[0])
            held = [key for key, _ in new.cache.memory.hot(1_000)]
            assert sorted(held) == KEYS
            assert held[-1] == KEYS[7]  # the hottest came first
            job = await warmed(new, Warming(WarmSource.PEER, pattern="t:00*"))
            assert (job.state, job.total) == (JobState.DONE, 10)
            none = await warmed(new, Warming(WarmSource.PEER, peer="nobody"))
            assert (none.state, none.reason) == (JobState.FAILED, "the node nobody is not there")


async def test_a_node_that_finds_no_peer_is_ready_all_the_same(tmp_path: Path) -> None:
    levels = {"database": {"url": "sqlite:a.db"}}
    async with opened(settings(tmp_path, **levels, warm={"on_start": "peer"})) as node:
        await until_ready(node)


async def test_a_node_warms_for_no_longer_than_is_set(tmp_path: Path) -> None:
    levels = {"database": {"url": "sqlite:a.db"}}
    async with opened(settings(tmp_path, **levels)) as node:
        await fill(node)
    slow = {"on_start": "database", "max_rate": 1.0, "on_start_within": 3.0}
    async with opened(settings(tmp_path, **levels, warm=slow)) as node:
        await until_ready(node)
        assert 0 < len(node.cache.memory.hot(1_000)) < len(KEYS)
