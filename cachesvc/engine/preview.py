"""Preview: what an invalidation would hit, without doing it.

It asks what the invalidation itself would ask, a moment earlier; nothing is held still meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation, Related, hit
from cachesvc.model.keys import Key, module_of
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.position import Position
from cachesvc.ports import Clock, Listed

PAGE: Final = 5_000  # entries listed at a time
READ: Final = 500  # entries read at a time, values and all,
READ_BYTES: Final = 8 << 20  # and about so much of values
FIRST_READ: Final = 20  # before it is known how large they are
SAMPLE: Final = 20
TREE: Final = 1_000  # dependents that are shown with their parents


@dataclass(slots=True)
class Preview:
    """What would be hit: entries and their bytes, by module too; a sample; of the dependents, on what they depend.

    `loads` is how many of them a loader would be asked for again, by module, if all are read once.
    """

    matched: int = 0
    cascaded: int = 0
    nbytes: int = 0
    modules: dict[str, Counter[str]] = field(default_factory=dict)
    sample: list[Key] = field(default_factory=list)
    tree: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """As it is answered."""
        return {
            "dryRun": True,
            "matched": self.matched,
            "cascaded": self.cascaded,
            "bytes": self.nbytes,
            "modules": self.modules,
            "sample": self.sample,
            "cascade": self.tree,
            "loads": self.loads,
        }

    def note(self, key: Key, size: int) -> None:
        self.nbytes += size
        self.modules.setdefault(module_of(key), Counter()).update(entries=1, bytes=size)
        if len(self.sample) < SAMPLE:
            self.sample.append(key)


class Outlined(Protocol):
    """What is needed of the authority."""

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]: ...

    async def list_entries(
        self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False
    ) -> Sequence[Listed]: ...

    async def reach(self, invalidation: Invalidation) -> Related: ...


async def preview(authority: Outlined, named: Invalidation, *, at: Position, clock: Clock, loaders: Collection[str]) -> Preview:
    """What it would hit now. Raises `Refused` for a cascade over its limits, and `Unavailable`."""
    related = await authority.reach(named) if named.relates else Related()
    if related.refused is not None:
        raise related.refused
    told = Preview()
    pattern = parse_pattern(named.pattern) if named.pattern else None
    if pattern is not None:
        after: Key | None = None
        while page := await authority.list_entries(pattern, after=after, limit=PAGE, stale=not named.soft):
            for listed in page:
                told.matched += 1
                told.note(listed.key, listed.size)
            after = page[-1].key
    meant = [key for key in dict.fromkeys((*named.keys, *related.tagged)) if pattern is None or not pattern.matches(key)]
    async for entry in _hit(authority, meant, at, clock, soft=named.soft):
        told.matched += 1
        told.note(entry.key, len(entry.value))
    async for entry in _hit(authority, related.dependents, at, clock, soft=named.soft):
        told.cascaded += 1
        told.note(entry.key, len(entry.value))
        if len(told.tree) < TREE:
            told.tree[entry.key] = entry.parents
    told.loads = {module: counts["entries"] for module, counts in told.modules.items() if module in loaders}
    return told


async def _hit(authority: Outlined, keys: Sequence[Key], at: Position, clock: Clock, *, soft: bool) -> AsyncIterator[Entry]:
    """Those of the keys' entries that are hit. Of the values only the sizes are of interest: those of one read are held."""
    start, size = 0, FIRST_READ
    while start < len(keys):
        rows = await authority.get(keys[start : start + size], horizon=at)
        start += size
        nbytes = sum(len(row.value) for row in rows.values())
        size = max(1, min(READ, READ_BYTES * len(rows) // nbytes)) if nbytes else READ
        for row in rows.values():
            if hit(row, clock.now(), soft=soft):
                yield row
