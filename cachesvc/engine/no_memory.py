"""No memory: the memory tier where that level is disabled. It holds nothing, so nobody need ask whether it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import TierStats


class NoMemory:
    """`ports.Memory`, empty whatever it is given."""

    name = "memory"

    def hit(self, key: Key) -> Entry | None:
        return None

    def missed(self) -> None:
        pass

    def peek(self, key: Key) -> Entry | None:
        return None

    def store(self, entry: Entry) -> Entry:
        return entry

    def store_all(self, entries: Iterable[Entry]) -> None:
        pass

    def drop(self, key: Key, *, below: int) -> None:
        pass

    def drop_all(self, keys: Iterable[Key], *, below: int) -> None:
        pass

    def held(self) -> Iterable[Entry]:
        return ()

    def room(self, entry: Entry) -> bool:
        return False

    def hot(self, limit: int) -> Sequence[tuple[Key, Version]]:
        return ()

    def doubt(self, pattern: InForce) -> None:
        pass

    async def settle(self) -> None:
        pass

    def clear(self) -> None:
        pass

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        return {}

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        return entries

    async def evict(self, keys: Collection[Key]) -> None:
        pass

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        return
        yield

    async def stats(self) -> TierStats:
        return TierStats()
