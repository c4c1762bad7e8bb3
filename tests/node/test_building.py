"""Nodes built from settings, on real stores: every choice of levels reads, writes, follows and tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from redis import Redis

from cachesvc.engine.answers import Want
from cachesvc.errors import JobFailed, SettingsError, TierUnavailable
from cachesvc.model.change import Draft, Idempotency, Operation
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq
from cachesvc.model.warming import Warming, WarmSource, pack_warming
from cachesvc.node import building
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.ports import NODES_KEPT, NodeRecord
from tests.node.conftest import settings
from tests.servers import Server, cluster_url, free_port, valkey

A = Key("a:1")


async def test_every_choice_of_levels_works(node: Node) -> None:
    cache = node.cache
    written = await cache.write(Draft(Operation.SET, A, b'{"n": 1}', ttl=60.0, tags=("t",)))
    added = await asyncio.gather(*(cache.write(Draft(Operation.INCREMENT, Key("n"), amount=Decimal("0.1"))) for _ in range(50)))
    assert max(added, key=lambda one: one.receipt.version).receipt.value == b"5.0"
    entry = await cache.get(A)
    assert entry is not None
    assert (entry.value, entry.version, entry.tags) == (b'{"n": 1}', written.receipt.version, ("t",))
    assert (await cache.read(A, Want(fresh=True))).tier == node.authority.name
    changes = await node.feed.next(Position(cache.applied.epoch, Seq(cache.applied.sequence - 51)), 100)
    assert [change.key for change in changes] == [A, *["n"] * 50]
    ready, parts = await node.readiness()
    assert ready
    assert {part: said for part, said in parts.items() if said != "ok" and part != "redis"} == {}
    assert [record["self"] for record in await node.nodes()] == [True]
    stats = await node.stats()
    assert stats["authority"] == node.authority.name
    assert stats["engine"]["writes"] == 51


async def test_two_nodes_follow_each_other(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    chosen = settings(tmp_path, redis={"url": valkey_url}, database={"url": postgres_url})
    async with opened(chosen) as one, opened(chosen) as two:
        for n in range(20):
            written = await one.cache.write(Draft(Operation.SET, A, b"%d" % n))
            answer = await two.cache.read(A, Want(min_version=written.receipt.version))
            assert answer.entry is not None
            assert answer.entry.value == b"%d" % n
            back = await two.cache.write(Draft(Operation.SET, A, b"back"))
            answer = await one.cache.read(A, Want(min_version=back.receipt.version))
            assert answer.entry is not None
            assert answer.entry.value == b"back"
        assert len(await one.nodes()) == 2


@asynccontextmanager
async def _over_a_closed_port(tmp_path: Path) -> AsyncIterator[Node]:
    async with opened(
        settings(tmp_path, redis={"url": f"redis://127.0.0.1:{free_port()}"}, database={"url": "sqlite:a.db"})
    ) as node:
        yield node


async def test_a_node_starts_and_works_while_redis_is_away(tmp_path: Path) -> None:
    async with _over_a_closed_port(tmp_path) as node:
        for _ in range(5):
            await node.cache.write(Draft(Operation.SET, A, b"1"))
            node.cache.memory.clear()
            assert (await node.cache.read(A)).tier == "database"
        assert (await node.stats())["tiers"]["redis"]["breaker"] != "closed"


async def test_a_cluster_cannot_be_the_authority(tmp_path: Path, valkey_cluster_servers: list[Server]) -> None:
    with pytest.raises(SettingsError, match="Cluster"):
        settings(tmp_path, redis={"url": cluster_url(valkey_cluster_servers)})
    plain = f"redis://127.0.0.1:{valkey_cluster_servers[0].port}"
    with pytest.raises(SettingsError, match="Cluster"):
        async with opened(settings(tmp_path, redis={"url": plain})):
            pass


async def test_an_authority_that_is_away_stops_the_start(tmp_path: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    with pytest.raises(TierUnavailable):
        async with opened(settings(tmp_path, database={"url": url})):
            pass


async def test_an_idle_node_notices_that_redis_is_back(tmp_path: Path) -> None:
    port = free_port()
    chosen = settings(tmp_path, redis={"url": f"redis://127.0.0.1:{port}"}, database={"url": "sqlite:a.db"})
    async with opened(chosen) as node:
        while node.cache.breaker.state == "closed":
            await node.cache.write(Draft(Operation.SET, A, b"1"))
            await node.cache.puts.drained()
        with valkey(port=port):
            async with asyncio.timeout(20):
                while node.cache.breaker.state != "closed":
                    await asyncio.sleep(0.01)


async def test_a_node_counts_as_long_as_its_heartbeat_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(settings(tmp_path, cluster={"heartbeat": "10s"})) as node:
        asked, nodes = [], node.authority.nodes

        async def noted(*, seen_within: float) -> Sequence[NodeRecord]:
            asked.append(seen_within)
            return await nodes(seen_within=seen_within)

        monkeypatch.setattr(node.authority, "nodes", noted)
        assert (await node.reached(node.cache.applied.sequence, within=0.0)).missing == []
        await node.nodes()
        await node.audits()
        with pytest.raises(JobFailed):
            await node.warmer.work(Job("", "warm", ""), pack_warming(Warming(WarmSource.PEER))).__anext__()
        assert asked == [50.0, 350.0, *[50.0] * 3]


def test_a_silent_node_is_remembered_for_as_long_as_it_may_serve(tmp_path: Path) -> None:
    long = settings(tmp_path, memory={"ttl": "3d"})
    assert building._nodes_kept(long) == 3 * 86_400.0 + long.cluster.gone_after
    assert building._nodes_kept(settings(tmp_path, memory={"ttl": "5m"})) == NODES_KEPT


async def test_redis_keeps_answers_for_as_long_as_is_set(tmp_path: Path, durable_valkey: Server) -> None:
    with Redis(port=durable_valkey.port) as client:
        client.flushall()
        said = {"redis": {"url": durable_valkey.url}, "database": {"enabled": False, "idempotency_ttl": "1m"}}
        async with opened(settings(tmp_path, **said)) as node:
            await node.cache.write(Draft(Operation.SET, A, b"1", idempotency=Idempotency("someone", "1", "same")))
        lives = [client.pttl(name) for name in client.scan_iter("*")]
        assert lives
        assert max(lives) in range(1, 60_001)
