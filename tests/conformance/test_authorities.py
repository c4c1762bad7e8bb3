"""Every authority, on the real server behind it, keeps the one contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from cachesvc.clock import SystemClock
from cachesvc.logs import memory, redis
from cachesvc.model.fold_state import Terms
from cachesvc.ports import Authority
from cachesvc.tiers.memory import MemoryTier
from tests import databases, servers
from tests.conformance.authority_contract import AuthorityContract
from tests.conformance.authority_store import LONG, TERMS, Store
from tests.logs.database_store import DatabaseStore


@dataclass
class MemoryStore:
    shared: bool = False

    @asynccontextmanager
    async def opened(
        self, *, terms: Terms = TERMS, poll_interval: float = LONG, idempotency_ttl: float = LONG, nodes_kept: float = LONG
    ) -> AsyncIterator[Authority]:
        clock = SystemClock()
        tier = MemoryTier(ttl=LONG, max_size=10_000, max_bytes=64 << 20, clock=clock)
        yield memory.MemoryAuthority(
            tier, terms=terms, clock=clock, poll_interval=poll_interval, idempotency_ttl=idempotency_ttl, nodes_kept=nodes_kept
        )


@dataclass
class RedisStore:
    url: str
    shared: bool = True

    @asynccontextmanager
    async def opened(
        self, *, terms: Terms = TERMS, poll_interval: float = LONG, idempotency_ttl: float = LONG, nodes_kept: float = LONG
    ) -> AsyncIterator[Authority]:
        async with redis.opened(
            self.url,
            key_prefix="test",
            terms=terms,
            timeout=5.0,
            max_connections=8,
            poll_interval=poll_interval,
            idempotency_ttl=idempotency_ttl,
            nodes_kept=nodes_kept,
            clock=SystemClock(),
            durable=False,
        ) as authority:
            yield authority


@pytest.fixture
def memory_store() -> Store:
    return MemoryStore()


@pytest.fixture
def valkey_store(valkey_url: str) -> Store:
    return RedisStore(valkey_url)


@pytest.fixture
def redis7_store(redis7_server: servers.Server) -> Store:
    with Redis(port=redis7_server.port) as client:
        client.flushall()
    return RedisStore(redis7_server.url)


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Store:
    databases.put_sqlite(tmp_path / "cache.db")
    return DatabaseStore(f"sqlite:///{tmp_path}/cache.db", tmp_path)


@pytest.fixture
def postgres_store(postgres_url: str, tmp_path: Path) -> Store:
    return DatabaseStore(postgres_url, tmp_path)


@pytest.fixture(params=["memory", "valkey", "redis7", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """One store of each kind: add a fixture `NAME_store`, and its name here."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


class TestAuthorities(AuthorityContract):
    """The suite, over every store."""
