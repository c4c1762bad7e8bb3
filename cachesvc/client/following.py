"""Following: one subscription of a client, by which it tells what is its own and what it was told before."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.syncs import resource_of

_GLOB: Final = "cache:"


class Following:
    """A subscription. Every version up to `floor` was told, or is none of its business; above it, those in `seen` were."""

    def __init__(self, number: int, payload: Mapping[str, object], resources: Sequence[str]) -> None:
        self.number = number
        self.payload = payload
        self.names = tuple(resources)  # as the service calls them, once it has said so
        self._globs: list[Pattern] = []
        self.opened = False
        self.floor = 0
        self.missed: str | None = None  # why something was, which is told once it is live again
        self.began = 0  # the position at which it was made on this connection
        self._seen: set[int] = set()
        self._newest: dict[str, int] = {}  # by key: the last of those
        self._order: list[tuple[int, tuple[str, ...]]] = []  # of those with their keys, a heap

    def __len__(self) -> int:
        return len(self._seen)

    def acknowledged(self, names: Sequence[str], position: int) -> None:
        """It is live on this connection, from a position on."""
        self.names = tuple(names)
        self._globs = [parse_pattern(name.removeprefix(_GLOB)) for name in names if name.startswith(_GLOB)]
        self.began = position
        if not self.opened:
            self.opened, self.floor = True, position

    def accept(self, version: int, keys: Sequence[str]) -> bool:
        """Whether a version was not told yet, nor one that superseded it: a log tells what a throttle had passed over."""
        if version <= self.floor or version in self._seen:
            return False
        if keys and all(self._newest.get(key, 0) > version for key in keys):
            return False
        self._seen.add(version)
        self._newest.update(dict.fromkeys(keys, version))
        heapq.heappush(self._order, (version, tuple(keys)))
        return True

    def complete(self, position: int) -> None:
        """Everything up to a position was told."""
        self.floor = max(self.floor, position)
        while self._order and self._order[0][0] <= self.floor:
            version, keys = heapq.heappop(self._order)
            self._seen.discard(version)
            for key in keys:
                if self._newest.get(key) == version:
                    del self._newest[key]

    def start_over(self) -> None:
        """What was told before does not count: from this connection's beginning on."""
        self.floor = self.began
        self._seen.clear()
        self._newest.clear()
        self._order.clear()

    def covers(self, message: Mapping[str, Any]) -> bool:
        """Whether a message is of what is followed, by the key, keys, pattern or resource that it names."""
        payload = message["payload"]
        if message["type"] == "cache:invalidate":
            pattern = payload.get("pattern")
            met = pattern is not None and self._meets(parse_pattern(pattern).prefix)
            return met or any(map(self._covers, payload["keys"]))
        if "key" in payload:
            return self._covers(payload["key"])
        if "syncId" in payload:
            return self._covers(resource_of(payload["syncId"]))
        return "resource" in payload and self._includes(payload["resource"])

    def _includes(self, resource: str) -> bool:
        """Whether what is published to a resource is for who follows this: all of that is of what is followed."""
        if not resource.startswith(_GLOB):
            return self._covers(resource)
        pattern = parse_pattern(resource.removeprefix(_GLOB))
        if pattern.exact:
            return self._covers(pattern.prefix)
        named = any(pattern.prefix.startswith(f"{name}:") for name in self.names)
        return named or any(glob.text == pattern.text or glob.covers(pattern) for glob in self._globs)

    def _covers(self, key: str) -> bool:
        named = any(key == name or key.startswith(f"{name}:") for name in self.names)
        return named or any(glob.matches(key) for glob in self._globs)

    def _meets(self, prefix: str) -> bool:
        """Whether there may be a key with this prefix."""
        own = [*(name for name in self.names if not name.startswith(_GLOB)), *(glob.prefix for glob in self._globs)]
        return any(one.startswith(prefix) or prefix.startswith(one) for one in own)
