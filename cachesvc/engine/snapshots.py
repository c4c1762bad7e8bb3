"""Snapshots: the live entries that match, page by page, with no more of their values at once than is set."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cachesvc.engine.preview import Outlined
from cachesvc.engine.warm import BATCH, BATCH_BYTES
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position
from cachesvc.ports import Clock


async def live_entries(
    authority: Outlined, pattern: Pattern, *, at: Position, clock: Clock
) -> AsyncGenerator[list[Entry], None]:
    """In byte order of their keys. Each is as it is when its page is read. Raises `Unavailable`."""
    after: Key | None = None
    while page := await authority.list_entries(pattern, after=after, limit=BATCH):
        keys: list[Key] = []
        room = BATCH_BYTES
        for listed in page:
            room -= listed.size
            if room < 0 and keys:
                break
            keys.append(listed.key)
        after = keys[-1]
        found = await authority.get(keys, horizon=at)
        yield [found[key] for key in keys if key in found and found[key].live(clock.now())]
