"""Conflicts, as they are looked up, and settled by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cachesvc.errors import InvalidInput, Refusal, Refused
from cachesvc.model.agenda import CONFLICT
from cachesvc.model.change import Draft, resolve
from cachesvc.model.conflict import Conflict, item_name, unpack_conflict
from cachesvc.model.keys import Key
from cachesvc.ports import Agenda

PAGE = 100  # looked at in one step


class Kept(NamedTuple):
    """A conflict, and when it is looked at again: then it is settled, or forgotten."""

    conflict: Conflict
    due: float


async def find(agenda: Agenda, conflict_id: str) -> Kept:
    """A conflict with its versions. Raises `Refused`."""
    item = await agenda.find_item(item_name(conflict_id))
    if item is None:
        raise Refused(Refusal.NOT_FOUND, "conflictId", "is of no conflict, or of one that was forgotten")
    return Kept(unpack_conflict(item), item.due)


async def newest(agenda: Agenda, wanted: Callable[[Conflict], bool], *, before: str, limit: int) -> Sequence[Kept]:
    """Up to `limit` conflicts that are wanted, the newest first, from before one of that id; without their versions."""
    found: list[Kept] = []
    last = item_name(before) if before else ""
    while True:
        items = await agenda.list_items(CONFLICT, before=last, limit=PAGE)
        kept = (Kept(unpack_conflict(item), item.due) for item in items)
        found += [one for one in kept if wanted(one.conflict)]
        if len(found) >= limit or len(items) < PAGE:
            return found[:limit]
        last = items[-1].name


def choice(conflict_id: str, key: Key, *, option: int | None, value: bytes | None) -> Draft:
    """The draft that settles a conflict by one of its options, or by a value. Raises `InvalidInput`."""
    if (option is None) == (value is None):
        raise InvalidInput("payload.option", "or payload.data is needed, and not both")
    return resolve(item_name(conflict_id), key, option=option, value=value or b"")
