"""Nodes that load from a real origin over real stores: once for all, within their policies, and never a failure as a value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cachesvc.engine.answers import Mark
from cachesvc.engine.last_reads import Reason
from cachesvc.errors import Unavailable
from cachesvc.model.keys import Key
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from tests.loaders.origin import HttpOrigin, response
from tests.node.conftest import settings
from tests.processes.services import LIMIT

A = Key("task:1")
JSON = "application/json"


@pytest.fixture
async def origin() -> AsyncIterator[HttpOrigin]:
    async with HttpOrigin().served() as origin:
        origin.answer = lambda *_: response(200, b"%d" % len(origin.asked), Content_Type=JSON)
        yield origin


def loader(origin: HttpOrigin, **more: Any) -> dict[str, Any]:
    return {"task": {"kind": "http", "url": f"{origin.url}/{{id}}", **more}}


async def until(true: Any) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stores", ["postgres+valkey", "postgres", "sqlite"])
async def test_a_thousand_misses_on_four_nodes_ask_the_origin_once(
    stores: str, origin: HttpOrigin, tmp_path: Path, request: pytest.FixtureRequest, postgres_url: str
) -> None:
    levels: dict[str, Any] = {"database": {"url": "sqlite:a.db" if stores == "sqlite" else postgres_url}}
    if stores == "postgres+valkey":
        levels["redis"] = {"url": request.getfixturevalue("valkey_url")}
    origin.gate.clear()
    async with AsyncExitStack() as stack:
        made = settings(tmp_path, loaders=loader(origin), **levels)
        nodes = [await stack.enter_async_context(opened(made)) for _ in range(4)]
        crowd = [asyncio.create_task(nodes[i % 4].cache.read(A)) for i in range(1_000)]
        await until(lambda: sum(len(node.cache.reads.loads.room) for node in nodes) == 3 and origin.asked)
        origin.gate.set()
        answers = await asyncio.gather(*crowd)
        assert {answer.entry.value for answer in answers if answer.entry} == {b"1"}
        assert all(answer.entry for answer in answers)
        assert origin.asked == ["/1"]
        assert sum(node.cache.reads.loads.leases.without for node in nodes) == 0


async def ended(node: Node) -> None:
    """Until what the node holds of the key is past its life."""
    await until(lambda: (held := node.cache.memory.peek(A)) is not None and not held.live(node.clock.now()))


@pytest.mark.parametrize("forgotten", [False, True], ids=["memory", "redis"])
async def test_a_stale_window_over_real_stores(
    forgotten: bool, origin: HttpOrigin, tmp_path: Path, valkey_url: str, postgres_url: str
) -> None:
    policy = {"ttl": 0.2, "stale_while_revalidate": 60}
    levels = {"redis": {"url": valkey_url}, "database": {"url": postgres_url}}
    async with opened(settings(tmp_path, loaders=loader(origin, **policy), **levels)) as node:
        await until(lambda: node.redis is not None and node.replayer is not None and node.replayer.counts.position)
        assert (await node.cache.read(A)).stored
        await node.cache.puts.drained()
        await ended(node)
        if forgotten:
            node.cache.memory.clear()
        origin.gate.clear()
        stale = await node.cache.read(A)
        assert stale.entry is not None
        assert (stale.entry.value, stale.mark) == (b"1", Mark.REVALIDATING)
        assert stale.tier == ("redis" if forgotten else "memory")
        assert stale.ttl is not None
        assert stale.ttl < 0
        origin.gate.set()
        await until(lambda: (held := node.cache.memory.peek(A)) is not None and held.value == b"2")
        told = await node.stats()
        assert (told["loading"]["refreshes"], told["loading"]["stale"]["revalidating"]) == (1, 1)
        assert told["loaders"]["task"]["loaded"] == 2


async def test_a_failing_origin_is_told_and_never_kept(origin: HttpOrigin, tmp_path: Path) -> None:
    async with opened(settings(tmp_path, loaders=loader(origin), database={"url": "sqlite:a.db"})) as node:
        origin.answer = lambda *_: response(500)
        with pytest.raises(Unavailable, match="loader task: the origin answered 500"):
            await node.cache.read(A)
        assert await node.authority.get([A], horizon=node.cache.applied) == {}


async def test_what_is_not_there_is_remembered_across_nodes(origin: HttpOrigin, tmp_path: Path) -> None:
    origin.answer = lambda *_: response(404)
    made = settings(tmp_path, loaders=loader(origin, negative_ttl=60), database={"url": "sqlite:a.db"})
    async with opened(made) as here, opened(made) as there:
        assert (await here.cache.read(A)).entry is None
        for node in (here, there):
            assert (await node.cache.read(A)).mark is Mark.NEGATIVE
        assert len(origin.asked) == 1


async def test_what_is_of_use_past_its_life_is_not_swept_before(origin: HttpOrigin, tmp_path: Path) -> None:
    made = settings(
        tmp_path,
        loaders=loader(origin, ttl=0.05, stale_if_error=60),
        database={"url": "sqlite:a.db", "sweep_interval": 0.05},
    )
    async with opened(made) as node:
        await node.cache.read(A)
        await ended(node)
        node.cache.memory.clear()
        await node.sweeper.step()
        assert node.sweeper.expired == 0
        origin.answer = lambda *_: response(500)
        answer = await node.cache.read(A)
        assert (answer.mark, answer.tier) == (Mark.FAILED, "database")
        last = (await node.explain(A)).levels["database"].last
        assert last is not None
        assert last.reason is Reason.STALE
