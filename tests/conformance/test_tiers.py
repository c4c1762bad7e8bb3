"""Every tier passes the contract of tiers. Another one is one more function in `TIERS`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from cachesvc.ports import Tier
from cachesvc.tiers.memory import EvictionPolicy, MemoryTier
from tests.conformance.tier_contract import AT, TierContract
from tests.fakes import FakeClock
from tests.servers import cluster_url
from tests.tiers.shelf import redis_tier

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


# `request.getfixturevalue` gives a tier its server.
TIERS: dict[str, Opening] = {
    "memory-LRU": memory("LRU"),
    "memory-FIFO": memory("FIFO"),
    "memory-S3FIFO": memory("S3FIFO"),
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
