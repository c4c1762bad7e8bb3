"""The memory tier: entries in this process, under one of three eviction policies, within a number and a weight.

The rule that must not break: it holds no older version of a key than it was given, and nothing in its core awaits. It is
kept coherent by the engine alone, which drops what the log says is old; so `get` and `put` ask for no position.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Literal

from cachetools import FIFOCache, LRUCache

from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce, Patterns
from cachesvc.model.keys import Key, module_of
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports import Clock, Holding, TierStats
from cachesvc.tiers.s3fifo import S3FIFOCache

EvictionPolicy = Literal["LRU", "FIFO", "S3FIFO"]
# also the monotonic times from which it is no hit (no wall clock is asked then) and since when it is held, its size, and which
# doubt it has been found to be beyond
Held = tuple[Entry, float, float, int, int]


class _LRU(LRUCache[Key, None]):
    _LRUCache__order: OrderedDict[Key, None]  # cachetools keeps it so, and gives no way to look at it that is no use

    @property
    def use(self) -> Callable[[Key], None]:
        """What looking a key up does to its rank: a fifth of what looking it up costs."""
        return self._LRUCache__order.move_to_end

    def hottest(self) -> Iterator[Key]:
        return reversed(self._LRUCache__order)


class _FIFO(FIFOCache[Key, None]):
    use = FIFOCache.__getitem__

    def hottest(self) -> Iterator[Key]:
        return reversed(list(self))


_POLICIES: Final[Mapping[EvictionPolicy, type[_LRU | _FIFO | S3FIFOCache[Key, None]]]] = {
    "LRU": _LRU,
    "FIFO": _FIFO,
    "S3FIFO": S3FIFOCache,
}
_SCAN_STEP: Final = 1_000  # keys looked at before others have a turn
_SETTLE_STEP: Final = 250  # the same where each is matched against patterns
_SETTLE_AT_ONCE: Final = 10_000  # keys; to look through more begins later, so that other nodes hear of the pattern first
_SETTLE_LATER: Final = 0.1  # seconds
_SETTLE_REST: Final = 9  # times as long as it looks others have their turn


class MemoryTier:
    """`ports.Memory`: a dict of what is held, beside a cachetools cache of its keys that says what goes first.

    An entry is a hit for `ttl` seconds, or to the end of its own life if that is sooner. Over `max_size` items or `max_bytes`
    (of `Entry.size`) the policy chooses what goes; an entry that is larger than `max_bytes` alone passes by.
    In the last share of its life, by module in `ahead`, it is no hit either: whoever asks finds it by `peek`, and refreshes it.
    """

    name = "memory"

    def __init__(
        self,
        *,
        ttl: float,
        max_size: int,
        max_bytes: int,
        eviction_policy: EvictionPolicy = "LRU",
        clock: Clock,
        ahead: Mapping[str, float] | None = None,
    ) -> None:
        self.nbytes = 0
        self._ahead = ahead or {}
        self._ttl = ttl
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._held: dict[Key, Held] = {}
        self._order = _POLICIES[eviction_policy](max_size)
        self._use = self._order.use
        self._now = clock.now
        self._monotonic = clock.monotonic
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._doubts = Patterns()  # what they kill may still be held, and is no hit
        self._doubted = 0  # how many there have ever been, 0 where there is none now: each entry is looked at once for each
        self._doubts_ever = 0

    def hit(self, key: Key) -> Entry | None:
        """The entry, counted and refreshed; None, uncounted, when absent, or past its stay or its life."""
        held = self._held.get(key)
        if held is not None:
            entry, deadline, _, _, beyond = held
            if self._monotonic() < deadline and (beyond >= self._doubted or self._is_beyond(held)):
                self._use(key)
                self._hits += 1
                return entry
        return None

    def missed(self) -> None:
        """Count a miss: what was no hit is looked for further down."""
        self._misses += 1

    def peek(self, key: Key) -> Entry | None:
        """The entry if it is held at all, also past its time; neither counted nor refreshed."""
        held = self._find(key)
        return held[0] if held is not None else None

    def store(self, entry: Entry) -> Entry:
        """Keep the newer of the two; returns the winner. The same version again begins a new stay."""
        return self._keep(entry, self._now(), self._monotonic())

    def store_all(self, entries: Iterable[Entry]) -> None:
        """`store` each, all at the same moment."""
        now, monotonic = self._now(), self._monotonic()
        for entry in entries:
            self._keep(entry, now, monotonic)

    def _keep(self, entry: Entry, now: float, monotonic: float) -> Entry:
        key = entry.key
        older = self._find(key) if key in self._held else None
        if older is not None and older[0].version > entry.version:
            return older[0]
        size = entry.size
        if entry.deleted or size > self._max_bytes:
            if older is not None:
                self._forget(older)
            return entry
        if older is not None:
            self.nbytes -= older[3]
        elif len(self._held) >= self._max_size or self.nbytes + size > self._max_bytes:
            self._shrink(self._max_size - 1, self._max_bytes - size)
        ends, stay = entry.expires_at, self._ttl
        if ends is not None and ends - now < stay:
            stay = ends - now
        if self._ahead and ends is not None and (share := self._ahead.get(module_of(key))):
            stay = min(stay, ends - share * (ends - entry.updated_at) - now)
        self._held[key] = (entry, monotonic + stay, monotonic, size, 0)
        self._order[key] = None
        self.nbytes += size
        if older is not None:
            self._shrink(self._max_size, self._max_bytes)  # it may have grown in its place
        return entry

    def drop(self, key: Key, *, below: int) -> None:
        """Forget a copy of a version lower than `below`."""
        held = self._find(key)
        if held is not None and held[0].version < below:
            self._forget(held)

    def drop_all(self, keys: Iterable[Key], *, below: int) -> None:
        """The same of many keys."""
        held, order, freed = self._held, self._order, 0
        for key in keys:
            found = held.get(key)
            if found is not None and found[0].version < below:  # `_forget`, without a call for each
                del held[key], order[key]
                freed += found[3]
        self.nbytes -= freed

    def held(self) -> Iterable[Entry]:
        """All that is held, neither counted nor refreshed."""
        found = (self._find(key) for key in list(self._held))
        return (held[0] for held in found if held is not None)

    def doubt(self, pattern: InForce) -> None:
        """From now on what matches and is older is not held; `settle` forgets it."""
        self._doubts.add(pattern)
        self._doubts_ever += 1
        self._doubted = self._doubts_ever

    async def settle(self) -> None:
        """Forget what is in doubt and dead, paced; what came into doubt meanwhile is left for the next time."""
        if len(self._held) > _SETTLE_AT_ONCE:
            await asyncio.sleep(_SETTLE_LATER)
        settling, doubted = list(self._doubts), self._doubted
        began = self._monotonic()
        for place, key in enumerate(list(self._held)):
            if place % _SETTLE_STEP == _SETTLE_STEP - 1:
                await asyncio.sleep((self._monotonic() - began) * _SETTLE_REST)
                began = self._monotonic()
            held = self._held.get(key)
            if held is not None and self._doubts.newest(key, held[0].version):
                self._forget(held)
        if self._doubted == doubted:
            self._doubts, self._doubted = Patterns(), 0
        else:
            self._doubts = Patterns(one for one in self._doubts if one not in settling)

    def room(self, entry: Entry) -> bool:
        """Whether it would enter without anything else going."""
        return len(self._held) < self._max_size and self.nbytes + entry.size <= self._max_bytes

    def hot(self, limit: int) -> list[tuple[Key, Version]]:
        """What is held, as the policy ranks it, the hottest first."""
        found: list[tuple[Key, Version]] = []
        for key in islice(self._order.hottest(), limit):
            held = self._held[key]
            if held[4] >= self._doubted or self._is_beyond(held):
                found.append((key, held[0].version))
        return found

    def clear(self) -> None:
        """Forget everything; the counts go on."""
        self._doubts, self._doubted = Patterns(), 0
        self._held.clear()
        self._order.clear()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._held)

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """Those that are hits. `horizon` says nothing here: what is held is coherent, or the engine dropped it."""
        found = {}
        for key in keys:
            entry = self.hit(key)
            if entry is None:
                self.missed()
            else:
                found[key] = entry
        return found

    async def put(self, entries: Sequence[Entry], *, token: Position) -> Sequence[Entry]:
        """`store` each. `token` says nothing here: the engine stores only what its floors and horizon let pass."""
        return [self.store(entry) for entry in entries]

    async def evict(self, keys: Collection[Key]) -> None:
        """Forget these keys, which is not a change of anything."""
        for key in keys:
            held = self._find(key)
            if held is not None:
                self._forget(held)

    async def scan(self, pattern: Pattern) -> AsyncIterator[tuple[Key, Version]]:
        """Every key held that matches, with its version; others have a turn every thousand keys."""
        for place, key in enumerate(list(self._held)):
            if place % _SCAN_STEP == _SCAN_STEP - 1:
                await asyncio.sleep(0)
            entry = self.peek(key)
            if entry is not None and pattern.matches(key):
                yield key, entry.version

    async def inspect(self, key: Key, *, horizon: Position) -> Holding:
        """See `ports.Inspected`."""
        held = self._find(key)
        if held is None:
            return Holding()
        entry, deadline, since, _, _ = held
        now = self._monotonic()
        stays = deadline - now
        return Holding(
            entry, entry.version, stays, since=self._now() - (now - since), doubt="" if stays > 0 else "its stay is over"
        )

    async def stats(self) -> TierStats:
        return TierStats(len(self._held), self.nbytes, self._hits, self._misses, self._evictions)

    def _shrink(self, items: int, nbytes: int) -> None:
        """Let the policy choose what goes until no more than so many items and bytes are held."""
        while len(self._held) > items or self.nbytes > nbytes:
            key, _ = self._order.popitem()
            self.nbytes -= self._held.pop(key)[3]
            self._evictions += 1

    def _find(self, key: Key) -> Held | None:
        """What is held, without using it."""
        held = self._held.get(key)
        if held is not None and held[4] < self._doubted and not self._is_beyond(held):
            self._forget(held)
            return None
        return held

    def _is_beyond(self, held: Held) -> bool:
        """Whether nothing that is in doubt kills it; then it is not looked at for that again."""
        entry = held[0]
        if self._doubts.newest(entry.key, entry.version):
            return False
        self._held[entry.key] = (*held[:4], self._doubted)
        return True

    def _forget(self, held: Held) -> None:
        entry, _, _, size, _ = held
        del self._held[entry.key]
        del self._order[entry.key]
        self.nbytes -= size
