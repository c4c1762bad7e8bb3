"""S3-FIFO, an eviction policy with the interface of a cachetools cache.

"FIFO queues are all you need for cache eviction", Yang et al., SOSP '23: a small queue of a tenth takes what is new, the
main queue what was asked for again while it was there, a ghost queue remembers the keys that left the small one unasked. The
rule that must not break: a key is in exactly one of small and main, and never held and in the ghost queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, TypeVar

from cachetools import Cache

K = TypeVar("K")
V = TypeVar("V")

_SMALL: Final = 10  # one part in so many is the small queue's
_MOST: Final = 3  # what a counter of two bits holds
_AGAIN: Final = 2  # hits that make a newcomer one to keep
_value_of: Final = Cache.__getitem__  # bound once: `super()` costs a third of a hit


class S3FIFOCache(Cache[K, V]):
    """A cache of `maxsize` items. A hit only counts up; queues are moved when something has to go."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._hits: dict[K, int] = {}
        self._small: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._ghost: OrderedDict[K, None] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        value = _value_of(self, key)
        hits = self._hits[key]
        if hits < _MOST:
            self._hits[key] = hits + 1
        return value

    use = __getitem__

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)  # makes room first: what it evicts is already a ghost when `key` is looked up
        if key in self._hits:
            return
        self._hits[key] = 0
        if key in self._ghost:
            del self._ghost[key]
            self._main[key] = None
        else:
            self._small[key] = None

    def __delitem__(self, key: K) -> None:
        super().__delitem__(key)
        del self._hits[key]
        if key in self._small:
            del self._small[key]
        else:
            del self._main[key]

    def popitem(self) -> tuple[K, V]:
        """Remove and return the pair that is least worth keeping."""
        if not self._hits:
            raise KeyError("S3FIFOCache is empty")
        key = self._victim()
        value = _value_of(self, key)
        newcomer = key in self._small
        del self[key]
        if newcomer:
            self._remember(key)
        return key, value

    def hottest(self) -> Iterator[K]:
        """The keys that were asked for again first, then the newcomers; of each the youngest first."""
        yield from reversed(self._main)
        yield from reversed(self._small)

    def clear(self) -> None:
        super().clear()
        for queue in (self._hits, self._small, self._main, self._ghost):
            queue.clear()

    def _victim(self) -> K:
        # Ends: a turn moves a key to main, where it can only lose hits, or takes a hit of a key in main.
        # The small queue's share is of what is held, not of `maxsize`, since a limit in bytes may be reached sooner.
        while True:
            if self._small and len(self._small) * _SMALL >= len(self._hits):
                key = next(iter(self._small))
                if self._hits[key] < _AGAIN:
                    return key
                del self._small[key]
                self._main[key] = None
                self._hits[key] = 0
            else:
                key = next(iter(self._main))
                if not self._hits[key]:
                    return key
                self._hits[key] -= 1
                self._main.move_to_end(key)

    def _remember(self, key: K) -> None:
        self._ghost[key] = None
        while len(self._ghost) * _SMALL > self.maxsize * (_SMALL - 1):
            self._ghost.popitem(last=False)
