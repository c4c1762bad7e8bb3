"""Every tier passes the contract of tiers. Another one is one more function in `TIERS`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import fakeredis
import pytest

from cachesvc.ports import Tier
from cachesvc.tiers.memory import EvictionPolicy, MemoryTier
from cachesvc.tiers.redis_connection import Connection
from tests.conformance.tier_contract import AT, TierContract
from tests.fakes import FakeClock
from tests.servers import cluster_url
from tests.tiers.shelf import redis_tier, redis_tier_over

Opening = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Tier]]


def memory(policy: EvictionPolicy) -> Opening:
    @asynccontextmanager
    async def opened(_: pytest.FixtureRequest) -> AsyncIterator[Tier]:
        clock = FakeClock(time.time())
        yield MemoryTier(ttl=300.0, max_size=10_000, max_bytes=64 << 20, eviction_policy=policy, clock=clock)

    return opened


def redis(fixture: str) -> Opening:
    @asynccontextmanager
    async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Tier]:
        server = request.getfixturevalue(fixture)
        url = cluster_url(server) if isinstance(server, list) else server.url
        async with redis_tier(url, FakeClock(time.time()), at=AT) as tier:
            yield tier

    return opened


@asynccontextmanager
async def fake(_: pytest.FixtureRequest) -> AsyncIterator[Tier]:
    """The Redis tier on fakeredis: fast, for a first look, beside the real servers and never instead of them."""
    client = fakeredis.FakeAsyncRedis()
    async with redis_tier_over(Connection(client, 5.0, asyncio.Semaphore(4)), FakeClock(time.time())) as tier:
        yield tier
    await client.aclose()


# `request.getfixturevalue` gives a tier its server.
TIERS: dict[str, Opening] = {
    "memory-LRU": memory("LRU"),
    "memory-FIFO": memory("FIFO"),
    "memory-S3FIFO": memory("S3FIFO"),
    "fakeredis": fake,
    "valkey": redis("valkey_server"),
    "redis7": redis("redis7_server"),
    "valkey-cluster": redis("valkey_cluster_servers"),
}


@pytest.fixture(params=TIERS)
async def tier(request: pytest.FixtureRequest) -> AsyncIterator[Tier]:
    async with TIERS[request.param](request) as tier:
        yield tier


class TestTiers(TierContract):
    """The contract, over each."""
