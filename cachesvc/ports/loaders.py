"""Loaders: where a miss gets its value from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachesvc.errors import Unavailable
from cachesvc.model.keys import Key


class Loader(Protocol):
    """Where a miss gets its value from."""

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded | Unavailable]:
        """The values of those keys that exist at the origin; a failure is never a value.

        What fails for one key stands in that key's place. Raises `Unavailable` when nothing could be had. It may hang: whoever
        calls sets a limit, and cancels.
        """
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader got."""

    value: bytes
    content_type: str
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
