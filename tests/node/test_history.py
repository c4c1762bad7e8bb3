"""Nodes under which the authority is set back: nothing of the lost future is served or mixed in, and what was lost is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from cachesvc.engine.answers import ANY, Want
from cachesvc.errors import PositionLost, Refused, Unavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.settings import Settings
from tests.backups import Backup, PostgresBackup, RedisBackup, SqliteBackup
from tests.node.conftest import OFF, settings

A, B = Key("a:1"), Key("b:1")
LIMIT = 20.0  # seconds
Kept = tuple[Settings, Backup]


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """Settings of a node over each kind of authority, and a backup of that."""
    if request.param == "redis":
        url = request.getfixturevalue("durable_valkey_url")
        return settings(tmp_path, redis={"url": url}), RedisBackup(url)
    redis = {"url": request.getfixturevalue("valkey_url")}
    if request.param == "sqlite":
        return settings(tmp_path, redis=redis, database={"url": "sqlite:a.db"}), SqliteBackup(tmp_path / "a.db")
    url = request.getfixturevalue("postgres_url")
    return settings(tmp_path, redis=redis, database={"url": url}), PostgresBackup(url)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


async def put(node: Node, key: Key, value: bytes) -> Version:
    return (await node.cache.write(Draft(Operation.SET, key, value))).receipt.version


async def read(node: Node, key: Key, want: Want = ANY) -> bytes | None:
    """The value; asked again while the log has another epoch than the node, which then says that it does not know."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                entry = (await node.cache.read(key, want)).entry
            except Unavailable:
                await asyncio.sleep(0.01)
            else:
                return entry.value if entry is not None and not entry.deleted else None


async def replayed(node: Node) -> None:
    """Until all of Redis, where it is a tier, has been replayed to the log's head and is believed."""
    head = await node.authority.head()
    async with asyncio.timeout(LIMIT):
        while node.redis is not None and await node.redis.lagging(horizon=head):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def two(chosen: Settings) -> AsyncIterator[tuple[Node, Node]]:
    async with opened(chosen) as one, opened(chosen) as other:
        yield one, other


async def written_past(chosen: Settings, count: int) -> None:
    """By a node that knows nothing of what was lost, and that does not reach Redis where that is a tier."""
    levels = chosen.levels.model_dump() | ({} if chosen.authority == "redis" else {"redis": OFF})
    if not count:
        return
    async with opened(chosen.model_copy(update={"levels": type(chosen.levels)(**levels)})) as stranger:
        for number in range(count):
            await put(stranger, B, b"past %d" % number)


@pytest.mark.parametrize("past", [0, 1, 3, 8])
async def test_running_nodes_notice(kept: Kept, past: int, caplog: pytest.LogCaptureFixture) -> None:
    chosen, backup = kept
    async with two(chosen) as (one, other):
        old = await put(one, A, b"old")
        await backup.take()
        await put(one, A, b"lost 1")
        lost = await put(one, A, b"lost 2")
        await put(one, B, b"lost 3")
        assert await read(other, A, Want(min_version=lost)) == b"lost 2"
        await replayed(one)
        before = one.cache.applied
        token = (await one.cache.read(Key("none"))).token
        caplog.clear()
        await backup.put_back()
        await written_past(chosen, past)
        await until(lambda: one.cache.applied.epoch == other.cache.applied.epoch > before.sequence)
        for node in (one, other):
            assert await read(node, A) == b"old"
            assert await read(node, B) == (b"past %d" % (past - 1) if past else None)
            assert await read(node, A, Want(min_version=old)) == b"old"
            with pytest.raises(PositionLost):
                await node.cache.read(A, Want(min_version=lost))
            with pytest.raises(PositionLost):
                await node.feed.next(before, 10)
            told = (await node.stats())["log"]
            assert (told["historiesLost"], told["changesLost"]) == (1, 3)
            assert told["lastLost"]["from"] == f"{before.epoch}:{old + 1}"
            assert told["lastLost"]["to"] == str(before)
        with pytest.raises(Refused):
            await one.cache.write(Draft(Operation.SET, Key("none"), b"x", token=token))
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert sum(f"{old + 1} to {before.sequence}" in error and "HISTORY LOST: 3 changes" in error for error in errors) >= 2
        new = await put(other, A, b"new")
        assert await read(one, A, Want(min_version=new)) == b"new"
        await replayed(one)
        for node in (one, other):
            node.cache.memory.clear()
            assert await read(node, A) == b"new"
            assert await read(node, B) == (b"past %d" % (past - 1) if past else None)


@pytest.mark.parametrize("past", [0, 3, 8])
async def test_a_node_that_starts_finds_it_in_redis(
    tmp_path: Path, valkey_url: str, past: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every node had ended; Redis alone has outlived what was lost."""
    chosen, backup = (
        settings(tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"}),
        SqliteBackup(tmp_path / "a.db"),
    )
    async with opened(chosen) as node:
        await replayed(node)
        await put(node, A, b"old")
        await backup.take()
        await put(node, A, b"lost")
        last = await put(node, B, b"lost too")
        await node.cache.puts.drained()
        await replayed(node)
    await backup.put_back()
    await written_past(chosen, past)
    async with opened(chosen) as node:
        assert node.cache.applied.epoch > last
        assert await read(node, A) == b"old"
        assert await read(node, B) == (b"past %d" % (past - 1) if past else None)
        told = (await node.stats())["log"]
        assert told["historiesLost"] == 1
        assert told["changesLost"] > 0
        assert "HISTORY LOST" in caplog.text
        await replayed(node)


async def test_a_redis_that_returns_from_a_lost_history(tmp_path: Path, valkey_url: str) -> None:
    """Redis was away while the authority was set back and written past, and every node had started anew meanwhile."""
    chosen, backup = (
        settings(tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"}),
        SqliteBackup(tmp_path / "a.db"),
    )
    outlived = RedisBackup(valkey_url)
    async with opened(chosen) as node:
        await replayed(node)
        await put(node, A, b"old")
        await backup.take()
        await put(node, A, b"lost")
        await put(node, B, b"lost too")
        await node.cache.puts.drained()
        await replayed(node)
    await outlived.take()
    await backup.put_back()
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    async with opened(chosen) as node:
        for number in range(10):
            await put(node, B, b"past %d" % number)
        await replayed(node)
        before = node.cache.applied
        await outlived.put_back()
        node.cache.memory.clear()
        assert await read(node, A) == b"old"
        assert await read(node, B) == b"past 9"
        await until(lambda: node.cache.applied.epoch != before.epoch)
        assert await read(node, A) == b"old"
        assert await read(node, B) == b"past 9"
        await replayed(node)


async def test_what_redis_keeps_is_believed_by_a_node_that_starts(tmp_path: Path, valkey_url: str) -> None:
    chosen = settings(tmp_path, redis={"url": valkey_url}, database={"url": "sqlite:a.db"})
    async with opened(chosen) as node:
        await replayed(node)
        await put(node, A, b"old")
        await node.cache.puts.drained()
        await replayed(node)
        at: Position = node.cache.applied
    async with opened(chosen) as node:
        assert (await node.cache.read(A)).tier == "redis"
        assert node.cache.applied.epoch == at.epoch
        assert (await node.stats())["log"]["historiesLost"] == 0
