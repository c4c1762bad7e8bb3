"""Last reads: how the last read of a key ended at each level, for whoever asks why it missed.

A hit in memory is not noted and costs nothing: memory itself knows since when it would have been one. The others are noted
batch by batch in a bounded dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from cachesvc.model.keys import Key

KEPT: Final = 1_000  # keys, the latest of each level; at most twice as many are held, and two batches


class Reason(StrEnum):
    """Why a read hit or missed at one level. Fixed in the API: add, never rename."""

    HIT = "hit"
    ABSENT = "absent"
    EXPIRED = "expired"
    DELETED = "deleted"
    BELOW_FLOOR = "below the floor"  # older than what this node has served, or knows to have been written
    BEHIND = "behind the horizon"  # Redis has not been replayed far enough to be believed
    AWAY = "away"  # it did not answer, or its breaker is open
    OVERTAKEN = "overtaken"  # written meanwhile: read again
    NOT_LOADED = "not loaded"  # the loader had nothing
    STALE = "stale"  # past its life, and served by a policy that allows it
    NEGATIVE = "negative"  # the loader had nothing a short while ago
    LEFT = "left to another node"  # which loads the key already


class LastRead(NamedTuple):
    """How a read ended, and when (Unix seconds)."""

    reason: Reason
    at: float


class LastReads:
    """The last read of the latest keys at one level."""

    def __init__(self) -> None:
        self._young: dict[Key, tuple[Reason, float]] = {}
        self._old: dict[Key, tuple[Reason, float]] = {}

    def note(self, key: Key, reason: Reason, at: float) -> None:
        self.note_many((key,), reason, at)

    def note_many(self, keys: Iterable[Key], reason: Reason, at: float) -> None:
        """The same for a whole batch, at a tenth of the cost for each."""
        young = self._young
        young.update(dict.fromkeys(keys, (reason, at)))
        if len(young) >= KEPT:
            self._old, self._young = young, {}

    def of(self, key: Key) -> LastRead | None:
        found = self._young.get(key) or self._old.get(key)
        return LastRead(*found) if found is not None else None
