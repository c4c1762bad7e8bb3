"""The audit on running nodes over real stores: a planted fault is found, a busy node shows none."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cachesvc.cluster.audit_report import Report
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, partition_of
from cachesvc.model.position import Version
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.tiers.redis import RedisTier
from tests.node.conftest import settings

KEYS = [Key(f"task:{number}") for number in range(300)]
A, B = KEYS[:2]
KINDS = ("older", "newer", "content")


async def fill(node: Node) -> None:
    """In every tier, and Redis told of all of it."""
    await told(node)
    outcomes = await node.cache.write_many([Draft(Operation.SET, key, b'{"n": 1}') for key in KEYS])
    assert not any(isinstance(outcome, Exception) for outcome in outcomes)
    await node.cache.puts.drained()
    await told(node)


async def told(node: Node) -> None:
    """Wait until the log was replayed into Redis."""
    if node.redis is not None:
        async with asyncio.timeout(20):
            while await node.redis.lagging(horizon=node.cache.applied):
                await asyncio.sleep(0.01)


async def audited(node: Node, tier: str) -> Report:
    order = node.audit([tier], None)
    async with asyncio.timeout(20):
        await order.done.wait()
    return order.reports[tier]


def wrong(entry: Entry, kind: str) -> Entry:
    version = {"older": entry.version - 1, "newer": entry.version + 1, "content": entry.version}[kind]
    return entry._replace(version=Version(version), value=b'{"n": 2}')


async def plant(redis: RedisTier, entry: Entry) -> None:
    """Write into Redis what no rule would have let in, as the codec writes it."""
    partition = redis._partitions[partition_of(entry.key)]
    await redis._connection.send([("SET", partition.head + entry.key.encode(), redis._codec.encode(entry))])


async def test_what_is_wrong_in_memory(node: Node) -> None:
    await fill(node)
    if "memory" not in node.audited:
        return
    for repaired, kind in enumerate(KINDS):
        held = node.cache.memory.peek(A)
        assert held is not None
        await node.cache.memory.evict([A])
        node.cache.memory.store(wrong(held, kind))
        report = await audited(node, "memory")
        assert (report.audited, report.agreed, report.repaired, report.undecided) == (300, 299, 1, 0)
        assert report.whole
        assert (await node.cache.read(A)).entry == held
        assert (await audited(node, "memory")).coherence == 1.0
        assert (await node.stats())["audit"]["memory"]["repaired"] == repaired + 1


async def test_what_is_wrong_in_redis(node: Node) -> None:
    await fill(node)
    if node.redis is None:
        return
    for kind in KINDS:
        right = (await node.redis.look([A]))[A].entry
        await plant(node.redis, wrong(right, kind))
        report = await audited(node, "redis")
        assert (report.audited, report.agreed, report.repaired, report.undecided) == (300, 299, 1, 0)
        assert set(await node.redis.look([A, B])) == {B}
        await node.cache.memory.evict([A])
        entry = (await node.cache.read(A)).entry
        assert entry is not None
        assert (entry.version, entry.value) == (right.version, b'{"n": 1}')
        await node.cache.puts.drained()
        assert (await audited(node, "redis")).repaired == 0


async def test_large_values_are_compared_too(tmp_path: Path, valkey_url: str) -> None:
    async with opened(settings(tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"})) as node:
        await told(node)
        large = random.Random(1).randbytes(900_000)
        for number in range(4):
            await node.cache.write(Draft(Operation.SET, Key(f"large:{number}"), large, content_type="application/x"))
        await fill(node)
        for tier in ("memory", "redis"):
            report = await audited(node, tier)
            assert (report.audited, report.agreed) == (304, 304)
            assert report.bytes > 3_600_000


async def test_two_busy_nodes_have_nothing_to_repair(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    levels: dict[str, Any] = {"memory": {"max_size": 100}, "redis": {"url": valkey_url}, "database": {"url": postgres_url}}
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(opened(settings(tmp_path / name, **levels, audit={"rate": 1_000_000})))
            for name in "ab"
        ]
        working = True

        async def work(node: Node, seed: int) -> None:
            rng = random.Random(seed)
            for number in range(100):
                key = rng.choice(KEYS[:50])
                if number % 25 == 24:
                    await node.cache.write(invalidate(Invalidation("task:1*")))
                elif rng.random() < 0.5:
                    await node.cache.write(Draft(Operation.SET, key, b"%d" % number))
                else:
                    await node.cache.read(key)

        async def audit(node: Node) -> None:
            while working:
                await audited(node, "memory")
                await audited(node, "redis")

        async with asyncio.TaskGroup() as auditing:
            for node in nodes:
                auditing.create_task(audit(node))
            await asyncio.gather(*(work(node, seed) for seed, node in enumerate(nodes * 3)))
            working = False
        for node in nodes:
            for totals in node.auditor.totals.values():
                assert totals.audited > 0
                assert (totals.repaired, totals.failed) == (0, 0)


async def test_every_node_tells_of_every_nodes_audits_and_delays(tmp_path: Path, postgres_url: str) -> None:
    levels: dict[str, Any] = {"database": {"url": postgres_url}, "cluster": {"heartbeat": 0.05}}
    async with (
        opened(settings(tmp_path / "a", **levels)) as one,
        opened(settings(tmp_path / "b", **levels)) as other,
    ):
        await fill(one)
        report = await audited(one, "memory")
        assert report.audited == len(KEYS)
        async with asyncio.timeout(20):
            while not any(told["node"] == one.id and told["tiers"] for told in await other.audits()):
                await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            while not all(told["visibility"]["count"] for told in await one.nodes() if told["node"] == other.id):
                await asyncio.sleep(0.01)
        assert one.follower.delays["own"].latest()["count"] == len(KEYS)
        seen = {told["node"]: told for told in await other.audits()}
        assert seen[one.id]["tiers"] == {"memory": report.told()}
        assert (seen[other.id]["self"], seen[other.id]["tiers"]) == (True, {})


async def test_it_happens_by_itself(tmp_path: Path, valkey_url: str) -> None:
    levels: dict[str, Any] = {"redis": {"url": valkey_url}, "database": {"url": "sqlite:a.db"}, "audit": {"interval": 0.2}}
    async with opened(settings(tmp_path, **levels)) as node:
        await fill(node)
        async with asyncio.timeout(20):
            while any(totals.agreed < len(KEYS) for totals in node.auditor.totals.values()):
                await asyncio.sleep(0.01)
        assert not any(report.asked for report in node.auditor.latest.values())
