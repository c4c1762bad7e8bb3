"""Quotas wherever nodes may share them keep the one contract, on the real server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from cachesvc.errors import TierUnavailable
from cachesvc.ports import Quotas
from cachesvc.tiers.redis_quotas import RedisQuotas
from cachesvc.tiers.redis_url import connected
from tests.conformance.authority_store import Store
from tests.conformance.quota_contract import QuotaContract
from tests.conformance.test_authorities import RedisStore
from tests.fakes import FakeClock
from tests.logs.database_store import DatabaseStore
from tests.servers import cluster_url, free_port

Place = Callable[[], AbstractAsyncContextManager[Quotas]]


@pytest.fixture(params=["valkey_server", "redis7_server", "valkey_cluster_servers", "redis authority", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Opens the same place, for each who asks."""
    name, kind = request.node.name, str(request.param)
    if kind in ("sqlite", "postgres"):
        url = request.getfixturevalue("postgres_url") if kind == "postgres" else f"sqlite:///{tmp_path}/cache.db"
        return partial(_authority, DatabaseStore(url, tmp_path))
    if kind == "redis authority":
        return partial(_authority, RedisStore(request.getfixturevalue("valkey_url")))
    server = request.getfixturevalue(kind)
    return partial(_redis, cluster_url(server) if isinstance(server, list) else str(server.url), name)


@asynccontextmanager
async def _authority(store: Store) -> AsyncIterator[Quotas]:
    async with store.opened() as authority:
        assert isinstance(authority, Quotas)
        yield authority


@asynccontextmanager
async def _redis(url: str, key_prefix: str) -> AsyncIterator[Quotas]:
    async with connected(url, timeout=5.0, max_connections=8, clock=FakeClock()) as connection:
        yield RedisQuotas(connection, key_prefix=key_prefix)


class TestQuotas(QuotaContract):
    """The contract, over every place."""

    @pytest.fixture
    async def quotas(self, place: Place) -> AsyncIterator[Quotas]:
        async with place() as quotas:
            yield quotas

    @pytest.fixture
    async def others(self, quotas: Quotas, place: Place) -> AsyncIterator[Quotas]:
        async with place() as others:
            yield others


async def test_a_redis_that_is_away_says_so() -> None:
    async with connected(f"redis://127.0.0.1:{free_port()}", timeout=0.5, max_connections=1, clock=FakeClock()) as connection:
        with pytest.raises(TierUnavailable):
            await RedisQuotas(connection, key_prefix="x").draw("a", asked=1.0, most=1.0)
