"""Copies: a tier above the authority, as the audit walks over it and looks at what it holds.

Only what a read might be answered with is shown: what a pattern in force has killed, or a partition that is not believed,
says nothing of whether the rules were kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final, Protocol

from cachesvc.engine.floors import Floors
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.ports import Copy, Memory, Replica, Tier

EVERYTHING: Final = parse_pattern("*")


class Copies(Protocol):
    """What the audit asks of a tier."""

    @property
    def name(self) -> str: ...

    def walk(self) -> AsyncIterator[Key]:
        """Every key held when it was begun, or more, in no order; a key may come twice."""
        ...

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        """What is held there of those keys, as far as a read might be answered with it. Raises `Unavailable`."""
        ...


class MemoryCopies:
    """The memory of this node, which has been told of all that the node has applied."""

    def __init__(self, memory: Memory, floors: Floors) -> None:
        self.name = memory.name
        self._memory = memory
        self._floors = floors

    async def walk(self) -> AsyncIterator[Key]:
        async for key, _ in self._memory.scan(EVERYTHING):
            yield key

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        held = ((key, self._memory.peek(key)) for key in keys)
        return {key: Copy(entry, self._floors.applied, entry.size) for key, entry in held if entry is not None}


class SharedTier(Tier, Replica, Protocol):
    """A tier that nodes share, and that says itself how far the log was replayed into it."""


class RedisCopies:
    """The Redis tier, each of its partitions told of all that was replayed into it.

    What a pattern killed stays there until it is swept, and it is the node that passes over it. So a copy has been told of
    no more than the node that looks at it.
    """

    def __init__(self, redis: SharedTier, floors: Floors) -> None:
        self.name = redis.name
        self._redis = redis
        self._floors = floors

    async def walk(self) -> AsyncIterator[Key]:
        async for key, _ in self._redis.scan(EVERYTHING):
            yield key

    async def look(self, keys: Collection[Key]) -> Mapping[Key, Copy]:
        copies = await self._redis.look(keys)
        horizon, patterns = self._floors.horizon, self._floors.patterns
        return {
            key: copy._replace(told=min(copy.told, self._floors.applied))
            for key, copy in copies.items()
            if copy.told.epoch == horizon.epoch
            and copy.told.sequence >= horizon.sequence
            and not patterns.newest(key, copy.entry.version)
        }
