"""Explain, stats and readiness over real stores: what a node tells of a key, of its levels, and of whether it can serve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as driver

from cachesvc.engine.answers import Want
from cachesvc.errors import TierUnavailable
from cachesvc.model.change import Draft, Operation, invalidate
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key, partition_of
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.protocol.operations import Explanation, Readiness, Stats
from cachesvc.web.app import create_app
from cachesvc.web.service import Service
from tests.node.conftest import settings
from tests.servers import free_port

A = Key("a:1")
VALUE = b'{"text": "' + b"all the same " * 100 + b'"}'


def client(node: Node) -> httpx.AsyncClient:
    service = Service(node.cache, node.feed, node, node.clock, node.jobs)
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://node")


async def told(node: Node, key: str = A) -> dict[str, Any]:
    async with client(node) as http:
        answer = await http.get(f"/v1/explain/{key}")
        assert answer.status_code == 200, answer.text
        Explanation.model_validate(answer.json())
        said: dict[str, Any] = answer.json()
        return said


async def replayed(node: Node) -> None:
    """Wait until Redis, where it is a tier, is believed."""
    async with asyncio.timeout(10):
        while node.redis is not None and await node.redis.lagging(horizon=node.cache.applied):
            await asyncio.sleep(0)


async def test_what_every_level_holds(node: Node) -> None:
    await replayed(node)
    cache, name = node.cache, node.authority.name
    draft = Draft(Operation.SET, A, VALUE, ttl=60.0, tags=("t",), parents=("p:1",), actor="me", source="test")
    written = await cache.write(draft)
    await cache.puts.drained()
    said = await told(node)
    assert list(said["tiers"]) == [
        level for level in ("memory", "redis", "database") if getattr(node.settings.levels, level).enabled
    ]
    for tier in said["tiers"].values():
        assert (tier["present"], tier["live"], tier["believed"], tier["doubt"]) == (True, True, True, None)
        assert (tier["version"], tier["size"]) == (written.receipt.version, len(VALUE))
        assert 50.0 < tier["ttl"] <= 60.0
    assert (said["tags"], said["parents"], said["contentType"]) == (["t"], ["p:1"], "application/json")
    by = said["writtenBy"]
    assert (by["sequence"], by["kind"], by["actor"], by["source"]) == (written.receipt.version, "write", "me", "test")
    assert written.request_id == f"{by['batch']}-0"
    assert said["floor"] == written.receipt.version
    assert said["applied"] == str(cache.applied)
    if node.redis is not None:
        tier = said["tiers"]["redis"]
        assert tier["storedSize"] < len(VALUE) / 4
        assert tier["stays"] < 61.0
        assert tier["replayedTo"]
    dependents = (await told(node, "p:1"))["dependents"]
    assert dependents == ({"keys": [A], "more": False} if name == "database" else None)


async def test_a_key_that_nobody_has(node: Node) -> None:
    await replayed(node)
    await node.cache.read(Key("no:1"))
    said = await told(node, "no:1")
    assert not any(tier["present"] or tier["live"] for tier in said["tiers"].values())
    assert said["writtenBy"] is None
    assert said["tags"] == []
    assert {tier["lastRead"]["reason"] for tier in said["tiers"].values()} == {"absent"}


async def test_a_hit_in_memory_has_a_reason_too(node: Node) -> None:
    if not node.settings.levels.memory.enabled:
        return
    before = node.clock.now()
    await node.cache.write(Draft(Operation.SET, A, b"1"))
    after = node.clock.now()
    said = (await told(node))["tiers"]
    assert said["memory"]["lastRead"]["reason"] == "hit"
    assert before - 0.1 < said["memory"]["lastRead"]["at"] < after + 0.1  # of two clocks
    if node.authority.name != "memory":
        await node.cache.memory.evict([A])
        await node.cache.read(A)  # from below, into memory again
        said = (await told(node))["tiers"]
        assert said["memory"]["lastRead"]["reason"] == "hit"
    await node.cache.write(Draft(Operation.DELETE, A))
    await node.cache.read(A)
    assert (await told(node))["tiers"]["memory"]["lastRead"]["reason"] in ("absent", "deleted")


async def test_a_deleted_key_and_one_past_its_life(node: Node) -> None:
    cache, name = node.cache, node.authority.name
    await cache.write(Draft(Operation.SET, A, b"1"))
    gone = await cache.write(Draft(Operation.DELETE, A))
    await cache.puts.drained()
    await cache.read(A, Want(fresh=True))
    said = await told(node)
    assert not any(tier["present"] for tier in said["tiers"].values())
    if name != "memory":  # which keeps no tombstones
        assert said["tiers"][name]["lastRead"]["reason"] == "deleted"
        assert (said["writtenBy"]["sequence"], said["writtenBy"]["kind"]) == (gone.receipt.version, "delete")
    await cache.write(Draft(Operation.SET, A, b"2", ttl=0.001))
    async with asyncio.timeout(10):
        while (await cache.read(A, Want(fresh=True))).entry is not None:
            await asyncio.sleep(0)
    reason = (await told(node))["tiers"][name]["lastRead"]["reason"]
    assert reason in ("expired", "deleted")  # it may have been swept
    assert not (await told(node))["tiers"][name]["live"]


async def test_what_was_invalidated_names_the_patterns_and_the_record(node: Node) -> None:
    for key in (A, Key("b:1")):
        await node.cache.write(Draft(Operation.SET, key, b"1"))
    soft = await node.cache.write(invalidate(Invalidation("a*", soft=True)))
    hard = await node.cache.write(invalidate(Invalidation("a:[0-9]")))
    said = await told(node)
    assert [(one["pattern"], one["sequence"], one["soft"]) for one in said["invalidations"]] == [
        ("a:[0-9]", hard.receipt.version, False),
        ("a*", soft.receipt.version, True),
    ]
    assert (await told(node, "b:1"))["invalidations"] == []
    async with asyncio.timeout(10):
        while not all(one["swept"] for one in (await told(node))["invalidations"]):
            await asyncio.sleep(0)
    named = await node.cache.write(invalidate(Invalidation(keys=(Key("b:1"),))))
    by = (await told(node, "b:1"))["writtenBy"]
    if node.authority.name != "memory":  # which keeps no tombstones
        assert (by["sequence"], by["kind"]) == (named.receipt.version, "invalidate")


async def test_a_redis_that_was_emptied_says_so(tmp_path: Path, valkey_url: str) -> None:
    chosen = settings(
        tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"}, cluster={"replay_interval": 3_600.0}
    )
    async with opened(chosen) as node:
        await replayed(node)
        await node.cache.write(Draft(Operation.SET, A, b"1"))
        await node.cache.puts.drained()
        with driver.Redis.from_url(valkey_url) as server:
            prefix = chosen.levels.redis.key_prefix
            server.delete(f"{prefix}:{{{partition_of(A)}}}:state")
            node.cache.memory.clear()
            assert (await node.cache.read(A)).tier == "database"
            tier = (await told(node))["tiers"]["redis"]
            assert (tier["believed"], tier["live"], tier["lastRead"]["reason"]) == (False, False, "behind the horizon")
            assert "not been replayed" in tier["doubt"]


async def test_what_redis_missed_is_below_the_floor(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(
        tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"}, cluster={"replay_interval": 3_600.0}
    )
    async with opened(chosen) as node:
        await replayed(node)
        old = await node.cache.write(Draft(Operation.SET, A, b"1"))
        await node.cache.puts.drained()
        monkeypatch.setattr(node.cache.puts, "add_all", lambda *_, **__: None)
        new = await node.cache.write(Draft(Operation.SET, A, b"2"))
        node.cache.memory.clear()
        assert (await node.cache.read(A)).tier == "database"
        said = await told(node)
        tier = said["tiers"]["redis"]
        assert (tier["present"], tier["live"], tier["version"]) == (True, False, old.receipt.version)
        assert tier["doubt"] == f"its version is below the floor, {new.receipt.version}"
        assert tier["lastRead"]["reason"] == "below the floor"
        assert said["writtenBy"]["sequence"] == new.receipt.version


async def test_stats_tell_how_much_there_is(node: Node) -> None:
    for n in range(7):
        await node.cache.write(Draft(Operation.SET, Key(f"k:{n}"), VALUE))
    await node.cache.write(Draft(Operation.DELETE, Key("k:0")))
    await node.cache.puts.drained()
    async with client(node) as http:
        answer = (await http.get("/v1/stats")).json()
        Stats.model_validate(answer)
        for name, tier in answer["tiers"].items():
            assert tier["bytes"] > 6 * len(VALUE)
            assert tier["entries"] == 6 if name in (node.authority.name, "memory") else tier["entries"] >= 6
        assert 'cachesvc_tier_entries{tier="' in (await http.get("/metrics")).text


async def test_ready_level_by_level(node: Node) -> None:
    await replayed(node)
    async with client(node) as http:
        answer = await http.get("/readyz")
    Readiness.model_validate(answer.json())
    levels = {level for level in ("memory", "redis", "database") if getattr(node.settings.levels, level).enabled}
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "tiers": dict.fromkeys(levels | {"clock", "log"}, "ok")},
    )


async def test_ready_without_redis_and_without_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    async with opened(settings(tmp_path, redis={"url": url}, database={"url": "sqlite:a.db"})) as node:
        await node.cache.write(Draft(Operation.SET, A, b"1"))
        ready, parts = await node.readiness()
        assert ready
        assert parts["redis"] != "ok"
        assert parts["database"] == "ok"
        said = await told(node)
        assert (said["tiers"]["redis"]["believed"], said["tiers"]["database"]["live"]) == (False, True)

        async def full(*_: object, **__: object) -> Any:
            raise TierUnavailable("database", "disk is full", answered=True)

        with monkeypatch.context() as patched:
            patched.setattr(node.authority, "append", full)
            with pytest.raises(TierUnavailable):
                await node.cache.write(Draft(Operation.SET, A, b"2"))
            ready, parts = await node.readiness()
            assert (ready, parts["database"]) == (True, "reads only: database: disk is full")
            patched.setattr(node.authority, "head", full)
            ready, parts = await node.readiness()
            assert (ready, parts["database"]) == (False, "database: disk is full")
        await node.cache.write(Draft(Operation.SET, A, b"3"))
        assert (await node.readiness())[1]["database"] == "ok"
