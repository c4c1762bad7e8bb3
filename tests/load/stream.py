"""What a subscriber was told, checked: of each key in order, nothing twice, no hole, and in the end what was last written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.load.checker import Checker

VALUES = frozenset({"cache:update"})


class Stream:
    """The messages of one session, in the order of their arrival."""

    def __init__(self, checker: Checker) -> None:
        self.told = 0
        self.position = 0  # everything up to here has been told
        self._checker = checker
        self._seq = 0
        self._seen: dict[str, int] = {}  # by key: the newest version
        self._invalidated: dict[str, int] = {}  # by pattern: the newest version

    def take(self, frame: Mapping[str, Any]) -> int:
        """A pushed message; the counter of the value that it carries, 0 if it carries none."""
        if "seq" not in frame:
            return 0  # a reply
        self.told += 1
        seq = int(frame["seq"])
        if seq != self._seq + 1:
            self._checker.violated("push", f"message {seq} came after message {self._seq}")
        self._seq = seq
        self.position = max(self.position, int(frame.get("position") or 0))
        payload, version = frame["payload"], int(frame["version"])
        if frame["type"] not in VALUES:
            self._invalidated[payload["pattern"]] = version
            return 0
        key = str(payload["key"])
        if version <= self._seen.get(key, 0):
            self._checker.violated("push", f"{key}: version {version} was told after version {self._seen[key]}")
        self._seen[key] = version
        value = payload.get("value")
        if not isinstance(value, dict):
            return 0
        counter = int(value["counter"])
        self._checker.note(key, version, counter)
        return counter

    def end(self) -> None:
        """Nothing is written any more, and all of it has been told."""
        for key, newest in self._checker.newest():
            told = [version for pattern, version in self._invalidated.items() if matches(pattern, key)]
            if max([self._seen.get(key, 0), *told]) < newest:
                self._checker.violated("push", f"{key}: version {newest} was never told")


def matches(pattern: str, key: str) -> bool:
    """Whether a key matches a pattern with one star in it, as the operator has them."""
    before, _, after = pattern.partition("*")
    return len(key) >= len(before) + len(after) and key.startswith(before) and key.endswith(after)
