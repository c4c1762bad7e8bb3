"""Leases in Redis above a database keep the contract of leases; those of the authorities are tested with the rest of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cachesvc.errors import TierUnavailable
from cachesvc.ports import Leases
from cachesvc.tiers.redis_leases import RedisLeases
from cachesvc.tiers.redis_url import connected
from tests.conformance.lease_contract import LONG, LeaseContract
from tests.fakes import FakeClock
from tests.servers import cluster_url, free_port


@pytest.fixture(params=["valkey_server", "redis7_server", "valkey_cluster_servers"])
def url(request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue(request.param)
    return cluster_url(server) if isinstance(server, list) else str(server.url)


class TestRedisLeases(LeaseContract):
    """The contract, standalone and as a Cluster."""

    @pytest.fixture
    async def leases(self, url: str, request: pytest.FixtureRequest) -> AsyncIterator[Leases]:
        async with connected(url, timeout=5.0, max_connections=4, clock=FakeClock()) as connection:
            yield RedisLeases(connection, key_prefix=request.node.name)

    @pytest.fixture
    async def others(self, url: str, request: pytest.FixtureRequest) -> AsyncIterator[Leases]:
        async with connected(url, timeout=5.0, max_connections=4, clock=FakeClock()) as connection:
            yield RedisLeases(connection, key_prefix=request.node.name)


async def test_a_redis_that_is_away_says_so() -> None:
    async with connected(f"redis://127.0.0.1:{free_port()}", timeout=0.5, max_connections=1, clock=FakeClock()) as connection:
        with pytest.raises(TierUnavailable):
            await RedisLeases(connection, key_prefix="x").acquire(["a"], "n1", LONG)
