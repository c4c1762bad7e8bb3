"""Invalidation on running nodes over every choice of levels: gone everywhere, swept, retired, and never back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import pytest

from cachesvc.engine.answers import Want
from cachesvc.engine.cache import Cache
from cachesvc.engine.invalidate import invalidate
from cachesvc.errors import TierUnavailable
from cachesvc.model.change import Draft, Idempotency, Operation
from cachesvc.model.change import invalidate as draft_of
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Seq
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.ports import NodeRecord, Reached
from tests.node.conftest import settings

KEYS = [Key(f"task:{number}") for number in range(200)]
OTHER = Key("note:1")


async def fill(node: Node) -> None:
    await node.cache.write_many([Draft(Operation.SET, key, b"1") for key in (*KEYS, OTHER)])


async def found(cache: Cache) -> set[Entry | None]:
    """What all of the keys are read as."""
    return {answer.entry for answer in await asyncio.gather(*map(cache.read, KEYS))}


async def retired(node: Node) -> None:
    """Wait until the sweep has ended what was killed, and the retirement was applied here."""
    async with asyncio.timeout(20):
        while node.cache.floors.patterns.active:
            await asyncio.sleep(0.01)


async def test_a_pattern_is_in_force_swept_and_retired(node: Node) -> None:
    await fill(node)
    done = await invalidate(node.cache, draft_of(Invalidation("task:*")))
    assert done.matched == len(KEYS)
    assert await found(node.cache) == {None}
    assert await node.cache.get(OTHER) is not None
    await retired(node)
    everything = parse_pattern("*")
    assert [key async for key, _ in node.authority.scan(everything)] == [OTHER]
    if node.redis is not None:
        async with asyncio.timeout(20):  # the replay passes the retirement when Redis has been swept
            while await node.redis.lagging(horizon=node.cache.applied):
                await asyncio.sleep(0.01)
        assert KEYS[0] not in [key async for key, _ in node.redis.scan(everything)]
    await node.cache.write(Draft(Operation.SET, KEYS[0], b"2"))
    entry = await node.cache.get(KEYS[0])
    assert entry is not None
    assert entry.value == b"2"


async def test_sent_again_a_pattern_has_the_count_that_it_had(node: Node) -> None:
    await fill(node)
    draft = draft_of(Invalidation("task:*"), idempotency=Idempotency("me", "night-1", "f"))
    first = await invalidate(node.cache, draft)
    assert first.matched == len(KEYS)
    assert (await invalidate(node.cache, draft)).told() == first.told()
    await retired(node)
    assert (await invalidate(node.cache, draft)).told() == first.told()
    another = await invalidate(node.cache, draft_of(Invalidation("task:*")))  # takes the place of the first
    assert another.matched == 0
    assert (await invalidate(node.cache, draft)).told() == {**first.told(), "matched": None, "job": None}


async def test_every_live_node_has_applied_it(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    chosen = settings(tmp_path, redis={"url": valkey_url}, database={"url": postgres_url})
    async with opened(chosen) as one, opened(chosen) as two:
        await fill(one)
        await found(two.cache)
        done = await invalidate(one.cache, draft_of(Invalidation("task:*")))
        assert await one.reached(done.written.receipt.version, within=10.0) == Reached([], [])
        assert two.cache.applied.sequence >= done.written.receipt.version
        assert await found(two.cache) == {None}
        future = done.written.receipt.version + 1_000
        missing, silent = await one.reached(future, within=0.0)
        assert (sorted(missing or ()), silent) == (sorted([one.id, two.id]), [])


async def test_a_node_that_is_not_heard_of_is_named_while_it_may_serve_what_it_holds(tmp_path: Path, postgres_url: str) -> None:
    chosen = settings(tmp_path, database={"url": postgres_url}, cluster={"heartbeat": "10ms"})
    async with opened(chosen) as node:
        applied = node.cache.applied
        for name, at in (("cut", applied._replace(sequence=Seq(0))), ("dead", applied)):
            await node.authority.heartbeat(NodeRecord(name, 0.0, 0.0, at, "1", "", {}))
        await asyncio.sleep(node.settings.cluster.gone_after)  # so that they are not counted any more
        assert await node.reached(applied.sequence, within=10.0) == Reached([], ["cut"])


async def test_who_has_applied_it_is_not_known_where_nobody_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(settings(tmp_path)) as node:

        async def away(**_: object) -> NoReturn:
            raise TierUnavailable("database", "away")

        monkeypatch.setattr(node.authority, "nodes", away)
        assert (await node.reached(1, within=0.0)).told() == {"applied": None, "missing": [], "silent": []}


async def test_a_node_that_starts_knows_what_is_in_force(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    chosen = settings(
        tmp_path, redis={"url": valkey_url}, database={"url": postgres_url, "sweep_batch": 1, "sweep_pause": 3600.0}
    )
    async with opened(chosen) as one:
        await fill(one)
        await one.cache.puts.drained()
        await one.cache.write(draft_of(Invalidation("task:*")))
        async with opened(chosen) as two:
            assert two.cache.floors.patterns.active == 1
            assert await found(two.cache) == {None}


async def test_what_was_invalidated_softly_is_stale_in_every_tier(node: Node) -> None:
    key = Key("s:1")
    await node.cache.write(Draft(Operation.SET, key, b"1"))
    await node.cache.puts.drained()
    assert (await node.cache.read(key)).live
    done = await invalidate(node.cache, draft_of(Invalidation("s:*", soft=True)))
    assert (done.matched, done.job) == (1, f"invalidation-{done.written.receipt.version}")

    async def stale() -> bool:
        answer = await node.cache.read(key, Want(max_stale=60.0))
        assert answer.entry is None or (answer.entry.value == b"1" and not answer.live)
        return answer.entry is not None and answer.entry.version == done.written.receipt.version

    assert await stale()
    assert (await node.cache.read(key)).entry is None
    await retired(node)
    assert (await node.cache.read(key)).entry is None
    await node.cache.write(Draft(Operation.SET, key, b"2"))
    assert (await node.cache.read(key)).live
