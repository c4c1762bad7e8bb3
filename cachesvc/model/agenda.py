"""Agenda: what the authority is to look at again at a time: reminders to tell, conflicts to settle and to forget.

The rule that must not break: an item is looked at in the fold, by its name and the time that it was due as it was seen, so what
is told of it is committed with what is kept of it, and whoever comes second finds it moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

CONFLICT: Final = "conflict:"
REMINDER: Final = "reminder:"


class Item(NamedTuple):
    """What is kept under a name: when it is due, in Unix seconds; what is to be known of it; and what else is kept of it."""

    name: str
    due: float
    record: bytes
    body: bytes = b""


class Called(NamedTuple):
    """The item that a draft is about: as it was due when it was seen, or which of its options is chosen (None: neither)."""

    name: str
    due: float | None = None
    option: int | None = None


Items = Mapping[str, Item | None]  # by name; None where one is to be forgotten


def pack_item(item: Item) -> bytes:
    """All but name and body."""
    return orjson.dumps([item.due, item.record.decode()])


def unpack_item(name: str, packed: bytes, body: bytes = b"") -> Item:
    due, record = orjson.loads(packed)
    return Item(name, due, record.encode(), body)
