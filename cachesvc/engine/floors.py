"""Floors: the oldest version of a key that this node may still serve.

Raising a floor and dropping the older copy is one step without an `await`. Raise a floor only after the authority has the
write; sooner, readers find nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Seq


class Floors:
    """Which versions this node may serve, how far it has applied the log, and up to where it has forgotten.

    Floors are bounded: they live in two generations, and when the young one is full the old one is forgotten. What was
    forgotten lies at or below the `horizon`; whoever began to read before it (token < horizon) reads again.
    `on_raise(key, version)` drops what is older than `version` wherever this process keeps it.
    """

    def __init__(self, start: Position, *, limit: int, on_raise: Callable[[Key, int], None]) -> None:
        self.applied = start
        self.horizon = start
        self._limit = max(1, limit // 2)
        self._on_raise = on_raise
        self._young: dict[Key, int] = {}
        self._old: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def floor(self, key: Key) -> int:
        """The lowest version that may be served, 0 where none is known."""
        young = self._young.get(key)
        return young if young is not None else self._old.get(key, 0)

    def raise_to(self, key: Key, version: int) -> None:
        """From now on nothing of this key that is older than `version` is served here."""
        if version > self.floor(key):
            self._young[key] = version
            self._on_raise(key, version)
            if len(self._young) >= self._limit:
                self._forget()

    def observe(self, key: Key, version: int) -> None:
        """The same for a version that this very step serves and keeps: it takes the place of what is older."""
        if version > self.floor(key):
            self._young[key] = version
            if len(self._young) >= self._limit:
                self._forget()

    def admits(self, key: Key, version: int, token: Position) -> bool:
        """Whether an entry, read by someone who began at `token`, may be served and kept above the authority.

        A version is a token too: what is read at a version is as young as the change that wrote it.
        """
        return (
            token.epoch == self.applied.epoch
            and max(token.sequence, version) >= self.horizon.sequence
            and version >= self.floor(key)
        )

    def apply(self, sequence: Seq) -> None:
        """Everything up to `sequence` has been applied here."""
        self.applied = Position(self.applied.epoch, sequence)

    def start_over(self, at: Position) -> None:
        """Forget all but what lies past `at`, where this node now stands. Memory must be cleared in the same step."""
        past = {key: version for key, version in (self._old | self._young).items() if version > at.sequence}
        self.applied = self.horizon = at
        self._young, self._old = past, {}

    def _forget(self) -> None:
        """Forget the old generation. What lies past `applied` stays while there is room: no token is as high yet."""
        applied = self.applied.sequence
        kept: dict[Key, int] = {}
        highest = self.horizon.sequence
        for key, version in self._old.items():
            if key in self._young:
                continue
            if version > applied:
                kept[key] = version
            elif version > highest:
                highest = Seq(version)
        if len(kept) > self._limit // 2:  # this node lags far behind: it admits nothing until it has caught up
            highest = Seq(max(highest, *kept.values()))
            kept = {}
        self.horizon = Position(self.applied.epoch, highest)
        self._old = self._young
        self._young = kept
