"""A node over a Cluster of which one master is killed, or frozen: the others go on, and what comes back old is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from redis.crc import key_slot

from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key, partition_of
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.web.app import create_app
from tests.node.conftest import OFF, settings
from tests.observability.test_metrics import service_of
from tests.servers import Server, cluster_url, valkey_cluster

LIMIT = 30.0
KEYS = [Key(f"k:{n}") for n in range(60)]
LOST = [key for key in KEYS if key_slot(f"cachesvc:{{{partition_of(key)}}}:".encode()) * 3 // 16_384 == 2]
LEFT = [key for key in KEYS if key not in LOST]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with valkey_cluster() as servers:
        yield servers


class Values:
    """What was written last, and reads that are held against it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.number = 0

    async def write(self) -> None:
        self.number += 1
        await self.node.cache.write_many([Draft(Operation.SET, key, b"%d" % self.number) for key in KEYS])

    async def read(self, keys: list[Key]) -> int:
        """Read and compare all; how many of them Redis answered."""
        answers = await asyncio.gather(*(self.node.cache.read(key) for key in keys))
        assert {answer.entry.value for answer in answers if answer.entry is not None} == {b"%d" % self.number}
        assert None not in [answer.entry for answer in answers]
        return sum(answer.tier == "redis" for answer in answers)

    async def until_hits(self, number: int) -> None:
        """Until Redis answers for so many of all, asked for together, nothing old in between."""
        async with asyncio.timeout(LIMIT):
            while await self.read(KEYS) != number:
                await self.node.clock.sleep(0.05)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await holds():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", ["killed, comes back empty", "killed, comes back as it was", "frozen"])
async def test_one_master_away(tmp_path: Path, servers: list[Server], fault: str) -> None:
    levels = {"redis": {"url": cluster_url(servers), "timeout": 1.0}, "database": {"url": "sqlite:a.db"}}
    server = servers[2]
    async with opened(settings(tmp_path, memory=OFF, **levels)) as node:
        assert node.redis is not None
        transport = httpx.ASGITransport(create_app(service_of(node)))
        values = Values(node)
        await values.write()
        await values.until_hits(len(KEYS))
        with redis.Redis(port=server.port) as client:
            client.save()
        server.freeze() if fault == "frozen" else server.kill()
        # the others' keys are hits and its own come from the database; writes go on
        await values.read(KEYS)
        for _ in range(3):
            await values.write()
            await values.until_hits(len(LEFT))
            assert await values.read(LOST) == 0
        assert node.cache.breaker.state == "closed"
        await until(lambda: behind(node))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            ready = await http.get("/readyz")
            assert ready.status_code == 200
            assert "1 of 3 masters do not answer" in ready.text
            assert "does not answer" in (await http.get(f"/v1/explain/{LOST[0]}")).json()["tiers"]["redis"]["doubt"]
            stats = (await http.get("/v1/stats")).json()["tiers"]["redis"]
            assert (stats["breaker"], stats["extra"]["masters_away"]) == ("closed", 1)
            assert 'cachesvc_tier_masters_away{tier="redis"} 1' in (await http.get("/metrics")).text
            node.cache.invalidated.set()  # have it beat
            await until(lambda: told(http))
        report = await node.auditor.round("redis")
        assert report is not None
        assert "did not answer" in report.error
        # it comes back with nothing, or with what was true before
        if fault == "frozen":
            server.thaw()
        else:
            if fault == "killed, comes back empty":
                (server.directory / "dump.rdb").unlink()
            server.start()
        await values.until_hits(len(KEYS))
        await values.write()
        await values.until_hits(len(KEYS))
        assert node.redis.masters_away == 0


async def behind(node: Node) -> bool:
    assert node.replayer is not None
    return node.replayer.counts.behind > 0


async def told(http: httpx.AsyncClient) -> bool:
    nodes = (await http.get("/v1/nodes")).json()["nodes"]
    return bool(nodes[0]["redisMastersAway"] == 1)
