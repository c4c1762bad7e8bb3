"""What a site needs of its authority to agree with others, and how it speaks with one of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Position


class Followed(NamedTuple):
    """How far the log of another site was taken in, and when it was last heard of, by the authority's clock."""

    position: Position
    at: float


class SiteStore(Protocol):
    """What is kept for other sites. Every call raises `TierUnavailable`."""

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]: ...

    async def outline(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]: ...

    async def rows(self, *, after: str, limit: int) -> Sequence[Entry]:
        """Entries in byte order of their keys, from after one on: tombstones and expired ones too, without their values."""
        ...

    async def followed(self, site: str) -> Followed | None: ...

    async def follow_on(self, site: str, position: Position) -> None:
        """Keep how far it was taken in, for good."""
        ...


class Reply(NamedTuple):
    """What another site answers: its type, its payload, and its text, of which exact values are read.

    `asked`: how many bytes it is the answer to.
    """

    type: str
    payload: Mapping[str, Any]
    text: bytes
    asked: int = 0


class Link(Protocol):
    """A connection to a node of another site."""

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        """Send a `cache:sync` and wait for its answer.

        Raises `Unavailable` when it cannot be had, `PositionLost` when the other's log does not go on from the position asked
        for, `InvalidInput` when it cannot be understood.
        """
        ...
