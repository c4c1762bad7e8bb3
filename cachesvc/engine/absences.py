"""Absences: keys of which the origin said that there is nothing, for as long as that is believed.

The rule that must not break: an absence is forgotten as an entry is, by what changes its key, and is no older than the floor.
"""

from __future__ import annotations

from collections.abc import Iterable

from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key


class Absences:
    """Bounded: over `most` the oldest goes."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._known: dict[Key, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, entry: Entry, *, until: float) -> None:
        """What a load left that found nothing; believed until a time in Unix seconds."""
        self._known.pop(entry.key, None)
        self._known[entry.key] = (entry.version, until)
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def find(self, key: Key, now: float) -> int | None:
        """The version at which it is known to be absent, None where that is not known."""
        found = self._known.get(key)
        if found is None:
            return None
        version, until = found
        if now < until:
            return version
        del self._known[key]
        return None

    def drop(self, key: Key, *, below: int) -> None:
        """Forget what is known of a version lower than `below`."""
        found = self._known.get(key)
        if found is not None and found[0] < below:
            del self._known[key]

    def drop_all(self, keys: Iterable[Key], *, below: int) -> None:
        if self._known:
            for key in keys:
                self.drop(key, below=below)

    def seen(self, entries: Iterable[Entry]) -> None:
        """These are there: what is known of something older is forgotten."""
        if self._known:
            for entry in entries:
                self.drop(entry.key, below=entry.version)

    def clear(self) -> None:
        self._known.clear()
