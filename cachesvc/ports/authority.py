"""The authority: the deepest enabled level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import InForce, Invalidation, Related
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Version
from cachesvc.ports.agenda import Agenda
from cachesvc.ports.jobs import Jobs
from cachesvc.ports.log import ChangeLog
from cachesvc.ports.registry import Registry
from cachesvc.ports.tiers import Inspected, Source


class Listed(NamedTuple):
    """An entry as it is listed: without its value, whose bytes are `size`."""

    entry: Entry
    size: int

    @property
    def key(self) -> Key:
        return self.entry.key


class Burial(NamedTuple):
    """How far ending what a pattern kills has come: keys looked at and entries ended, since it came into force.

    `ended_at`, in Unix seconds, is told by `burials`.
    """

    done: bool
    looked: int = 0
    buried: int = 0
    ended_at: float | None = None


class Authority(Source, Inspected, ChangeLog, Registry, Jobs, Agenda, Protocol):
    """The deepest enabled level: it holds the truth and gives the versions."""

    async def time(self) -> float:
        """Unix seconds of its clock."""
        ...

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        """What `get` would answer, each `value` left out; not counted as read. Raises `TierUnavailable`."""
        ...

    async def expired(self, *, limit: int, past: float = 0.0) -> Sequence[tuple[Key, Version]]:
        """Entries over `past` seconds past their life, the oldest first, for the sweep to append as expired."""
        ...

    async def sweep(self, *, limit: int) -> int:
        """Drop up to `limit` tombstones and kept answers past their time; how many. Not a change of anything.

        Retired patterns are forgotten here too, when they were retired long ago.
        """
        ...

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        """Go on with ending what an active pattern kills: look at up to `limit` keys more.

        How far it came is kept with the pattern. Nothing of this is a change: what is dead is only taken away.
        """
        ...

    async def burials(self) -> Mapping[InForce, Burial]:
        """How far that has come, for each pattern in force."""
        ...

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False) -> Sequence[Listed]:
        """Live entries that match, in byte order of their keys, from after `after`; with `stale` those past their life too.

        No value is read.
        """
        ...

    async def reach(self, invalidation: Invalidation) -> Related:
        """What an invalidation by tags or with a cascade would come to now; nothing is done."""
        ...

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        """Live entries whose indexed fields have one of the given values, each field; ordered and paged as `list_entries`.

        Raises `InvalidInput` for a field that is not indexed, or where the authority keeps no index.
        """
        ...

    async def dependents(self, name: str, *, limit: int) -> Sequence[Key] | None:
        """Keys, in byte order, of what names this parent (a key or a tag); None where the authority keeps no index of that."""
        ...

    async def backfill(self) -> None:
        """Bring the index of fields to what is set, paced; can be stopped and gone on with. Nothing where there is none."""
        ...
