"""An engine over fake stores, its lanes running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from cachesvc.engine.cache import Cache, Limits
from cachesvc.engine.load_terms import Loading
from cachesvc.model.change import Draft, Operation
from cachesvc.model.keys import Key
from cachesvc.ports import Loader, Memory
from tests.engine.stores import FakeAuthority, FakeMemory, FakeRedis
from tests.fakes import FakeClock


def put(key: str, value: bytes = b"1", **more: Any) -> Draft:
    return Draft(Operation.SET, Key(key), value, **more)


class Site:
    """One authority, one Redis, and as many nodes as a test opens."""

    def __init__(self) -> None:
        self.authority = FakeAuthority()
        self.redis = FakeRedis(self.authority.position)
        self.clock = FakeClock(self.authority.now)

    @asynccontextmanager
    async def node(
        self,
        *,
        redis: bool = True,
        memory: Memory | None = None,
        loaders: Mapping[str, Loader] | None = None,
        loading: Loading | None = None,
        limits: Limits | None = None,
    ) -> AsyncIterator[Cache]:
        numbers = count()
        cache = Cache(
            memory=memory if memory is not None else FakeMemory(self.authority),
            redis=self.redis if redis else None,
            authority=self.authority,
            start=self.authority.position,
            clock=self.clock,
            new_batch=lambda: f"{next(numbers):032x}",
            loaders=loaders,
            loading=loading,
            limits=limits,
        )
        async with asyncio.TaskGroup() as group:
            for lane in cache.lanes():
                group.create_task(lane)
            try:
                yield cache
            finally:
                cache.close()

    def advance(self, seconds: float) -> None:
        """Time passes, for all."""
        self.authority.now += seconds
        self.clock.advance(seconds)

    def catch_up(self, cache: Cache) -> None:
        """Let a node apply the whole log."""
        after = cache.applied.sequence - self.authority.base.sequence
        cache.apply(self.authority.log[after:])

    def replay(self) -> None:
        after = self.redis.cursor.sequence - self.authority.base.sequence
        self.redis.replay(self.authority.log[after:])


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def forgotten() -> Callable[[Cache, str], None]:
    """Evict a key from a node's memory."""

    def forget(cache: Cache, key: str) -> None:
        assert isinstance(cache.memory, FakeMemory)
        cache.memory.entries.pop(Key(key), None)

    return forget
