"""Large values, which the log does not hold: read where they are still the newest, told without where they are not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from cachesvc.engine.answers import Answer
from cachesvc.errors import CacheError
from cachesvc.model.change import Change
from cachesvc.model.keys import Key


class Reads(Protocol):
    """What is needed of the cache."""

    async def read_many(self, keys: Collection[Key]) -> list[Answer | CacheError]: ...


async def completed(cache: Reads, changes: Sequence[Change], wanted: Callable[[Key], bool]) -> Sequence[Change]:
    """The changes, those of keys that are wanted with their values as far as those can still be had."""
    lacking = {change.key for change in changes if not change.value_held and change.key is not None and wanted(change.key)}
    if not lacking:
        return changes
    answers = await cache.read_many(list(lacking))
    entries = [answer.entry for answer in answers if isinstance(answer, Answer) and answer.entry is not None]
    newest = {int(entry.version): entry for entry in entries}
    return [
        change._replace(entry=newest[change.sequence], value_held=True)
        if not change.value_held and change.sequence in newest
        else change
        for change in changes
    ]
