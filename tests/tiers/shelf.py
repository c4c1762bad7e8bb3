"""A shelf for dictionaries in memory, and the Redis tier over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

from cachesvc.model.keys import PARTITIONS
from cachesvc.model.position import Epoch, Position, Seq
from cachesvc.ports import Clock, Mark
from cachesvc.tiers.redis import RedisTier, opened
from cachesvc.tiers.redis_connection import Connection

AT: Final = Position(Epoch(7), Seq(1_000))
ALL: Final = range(PARTITIONS)
OPTIONS: Final[dict[str, Any]] = {
    "key_prefix": "test",
    "ttl": 3_600.0,
    "ttl_jitter": 0.1,
    "compression": True,
    "max_recent": 100,
    "random": Random(1),
}
CONNECTING: Final[dict[str, Any]] = {"timeout": 5.0, "max_connections": 4}


class MemoryShelf:
    """What the authority keeps of dictionaries; counts how often it was asked."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, bytes]] = []
        self.asked = 0

    async def add_dictionary(self, module: str, data: bytes) -> int:
        number = len(self.rows) + 1
        self.rows.append((number, module, data))
        return number

    async def dictionaries(self, *, after: int) -> Sequence[tuple[int, str, bytes]]:
        self.asked += 1
        return [row for row in self.rows if row[0] > after]


@asynccontextmanager
async def redis_tier(url: str, clock: Clock, *, at: Position | None = AT, **others: Any) -> AsyncIterator[RedisTier]:
    """A Redis tier that stands at `at` in all partitions; with None as it is found."""
    async with opened(url, clock=clock, **(OPTIONS | CONNECTING | {"dictionaries": MemoryShelf()} | others)) as tier:
        if at is not None:
            await tier.restart(ALL, at=Mark(at, ""))
        yield tier


@asynccontextmanager
async def redis_tier_over(connection: Connection, clock: Clock) -> AsyncIterator[RedisTier]:
    """The same over a connection that a test made."""
    tier = RedisTier(connection, clock=clock, dictionaries=MemoryShelf(), **OPTIONS)
    await tier.restart(ALL, at=Mark(AT, ""))
    yield tier


async def places(tier: RedisTier) -> set[Position | None]:
    """Where the partitions stand."""
    return {mark.position if mark is not None else None for mark in (await tier.cursors()).values()}


async def vouch(*tiers: RedisTier) -> None:
    """As a node does that has found all of it in the log."""
    for tier in tiers:
        await tier.cursors()
        tier.vouch(ALL)
