"""Conflicts: what is kept of one, and how it is told.

The rule that must not break: every version that did not stand is kept, whole, for as long as the conflict is.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from cachesvc.model.agenda import CONFLICT, Item
from cachesvc.model.entry import JSON, Entry, pack_fields, unpack_fields
from cachesvc.model.keys import Key, module_of
from cachesvc.model.merging import ConflictType, Strategy, sibling_of, source_of
from cachesvc.model.moments import moment
from cachesvc.model.position import Version

DETECT: Final = "conflict:detect"
AUTO_MERGE: Final = "conflict:auto-merge"
MANUAL: Final = "conflict:manual-resolution"
RESOLVED: Final = "conflict:resolved"
LOCAL, REMOTE, BASE, MERGED = "local", "remote", "base", "merged"
EXTERNAL: Final = "external"  # of a third site; of a fourth "external-2"
OVERWRITTEN: Final = "overwritten"  # what stood when it was settled by hand, and had not been part of it
MAX_TOLD: Final = 16 << 10  # bytes of a value within a message; a larger one is read from where the conflict is kept
MAX_FIELDS: Final = 100  # that are named
SYSTEM: Final = "system"  # settles what nobody does: by the policy of the module, or since its time was over


class Held(NamedTuple):
    """A version that is kept, by the part that it plays."""

    role: str
    entry: Entry


class Conflict(NamedTuple):
    """One conflict. `winner` is the version of the entry that it left, `accepted` and `rejected` are roles of what is held.

    While it is open somebody may settle it; `settled_at` and `settled_by` ("": nobody) are of its end, which may be its
    beginning.
    """

    id: str
    key: Key
    conflict_type: ConflictType
    strategy: Strategy
    at: float
    open: bool
    winner: Version
    fields: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    settled_at: float | None = None
    settled_by: str = ""
    held: tuple[Held, ...] = ()

    @property
    def module(self) -> str:
        return module_of(self.key)

    @property
    def entity(self) -> str:
        """What is left of the key behind its module."""
        return self.key.partition(":")[2] or self.key

    @property
    def options(self) -> tuple[Held, ...]:
        """What may be chosen, in order."""
        return tuple(one for one in self.held if one.role in (LOCAL, REMOTE, MERGED) or one.role.startswith(EXTERNAL))

    @property
    def resolver(self) -> str:
        """Who settled it, as it is told."""
        return self.settled_by or SYSTEM

    def by_role(self, *roles: str) -> list[Held]:
        return [one for one in self.held if one.role in roles]

    def settled(self, strategy: Strategy, *, winner: Version, at: float, by: str = "") -> Conflict:
        return self._replace(strategy=strategy, open=False, winner=winner, settled_at=at, settled_by=by)


def item_name(conflict_id: str) -> str:
    return f"{CONFLICT}{conflict_id}"


def pack_conflict(conflict: Conflict, *, due: float) -> Item:
    """The conflict as it is kept: what is listed of it, and its versions beside that."""
    said = conflict._asdict()
    del said["held"]
    heads = [[one.role, one.entry.version, len(one.entry.value), pack_fields(one.entry)] for one in conflict.held]
    head = orjson.dumps(heads)
    body = b"%08d%b%b" % (len(head), head, b"".join(one.entry.value for one in conflict.held))
    return Item(item_name(conflict.id), due, orjson.dumps(said), body)


def unpack_conflict(item: Item) -> Conflict:
    """What `pack_conflict` wrote, without its versions where the body was not read; unknown names are passed over."""
    said = orjson.loads(item.record)
    known: dict[str, Any] = {name: said[name] for name in Conflict._fields if name in said}
    for name in ("fields", "accepted", "rejected"):
        known[name] = tuple(known.get(name, ()))
    known["strategy"] = Strategy(said["strategy"])
    return Conflict(**known, held=_held(Key(said["key"]), item.body))


def _held(key: Key, body: bytes) -> tuple[Held, ...]:
    if not body:
        return ()
    place = 8 + int(body[:8])
    held: list[Held] = []
    for role, version, length, fields in orjson.loads(body[8:place]):
        held.append(Held(role, unpack_fields(key, Version(version), body[place : place + length], fields)))
        place += length
    return tuple(held)


# How it is told. Values keep their own text: no digit of a number is lost.


def versioned(conflict: Conflict, entry: Entry, *, most: int | None = MAX_TOLD) -> dict[str, object]:
    """`VersionedData`, as the specification has it. A value of over `most` bytes is left out, and that is said."""
    told: dict[str, object] = {"id": conflict.entity, "version": entry.version, **_data(entry, most)}
    told["metadata"] = {
        "createdAt": moment(entry.created_at),
        "updatedAt": moment(entry.updated_at),
        "updatedBy": entry.author,
        "source": source_of(sibling_of(entry)) or "internal",
    }
    if not conflict.open and conflict.settled_at is not None:
        merges = conflict.strategy in (Strategy.FIELD_LEVEL, Strategy.TIMESTAMP, Strategy.PRIORITY)
        told["conflictResolution"] = {
            "strategy": "merge" if merges else conflict.strategy.value,
            "resolvedAt": moment(conflict.settled_at),
            "resolvedBy": conflict.resolver,
        }
    return told


def _data(entry: Entry, most: int | None) -> dict[str, object]:
    if entry.deleted:
        return {"data": None, "deleted": True}
    if most is not None and len(entry.value) > most:
        return {"data": None, "truncated": True}
    if entry.content_type == JSON:
        return {"data": orjson.Fragment(entry.value)}
    return {"data": b64encode(entry.value).decode(), "encoding": "base64", "contentType": entry.content_type}


def detected(conflict: Conflict) -> bytes:
    """The payload of `conflict:detect`."""
    told = conflict._replace(open=True)
    versions = {one.role: versioned(told, one.entry) for one in conflict.by_role(LOCAL, REMOTE, BASE, EXTERNAL)}
    return orjson.dumps({**_named(conflict), "versions": versions, "conflictType": conflict.conflict_type})


def auto_merged(conflict: Conflict, merged: Entry) -> bytes:
    """The payload of `conflict:auto-merge`."""
    plain = conflict._replace(open=True)
    result = {
        "merged": versioned(conflict, merged),
        "rejected": _all(plain, conflict.by_role(*conflict.rejected)),
        "accepted": _all(plain, conflict.by_role(*conflict.accepted)),
    }
    return orjson.dumps({**_named(conflict), "strategy": conflict.strategy.value, "result": result})


def asked(conflict: Conflict, *, expires_at: float) -> bytes:
    """The payload of `conflict:manual-resolution`."""
    fields = f" in {', '.join(conflict.fields)}" if conflict.fields else ""
    told = {
        **_named(conflict),
        "options": _all(conflict, conflict.options),
        "ui": {
            "title": f"Two versions of {conflict.module} {conflict.entity}",
            "description": f"It was changed twice without knowing of each other{fields}. Which one holds?",
            "fields": conflict.fields,
        },
        "expiresAt": moment(expires_at),
    }
    return orjson.dumps(told)


def resolved(conflict: Conflict, result: Entry | None) -> bytes:
    """The payload of `conflict:resolved`; `result` is what stands now, where that is known."""
    told = {**_named(conflict), "strategy": conflict.strategy.value, "resolvedBy": conflict.resolver}
    if conflict.settled_at is not None:
        told["resolvedAt"] = moment(conflict.settled_at)
    if result is not None:
        told["result"] = versioned(conflict, result)
    return orjson.dumps(told)


def told(conflict: Conflict, *, due: float) -> dict[str, object]:
    """The conflict as it is listed."""
    said = {
        **_named(conflict),
        "conflictType": conflict.conflict_type,
        "state": "open" if conflict.open else "settled",
        "strategy": conflict.strategy.value,
        "detectedAt": moment(conflict.at),
        "expiresAt": moment(due),
        "version": conflict.winner,
        "fields": conflict.fields,
        "accepted": conflict.accepted,
        "rejected": conflict.rejected,
    }
    if conflict.settled_at is not None:
        said |= {"resolvedAt": moment(conflict.settled_at), "resolvedBy": conflict.resolver}
    return said


def told_whole(conflict: Conflict, *, due: float) -> dict[str, object]:
    """The conflict with every version that is kept of it, whole."""
    plain = conflict._replace(open=True)
    versions = [{"role": one.role, "version": versioned(plain, one.entry, most=None)} for one in conflict.held]
    return told(conflict, due=due) | {"versions": versions}


def _named(conflict: Conflict) -> dict[str, Any]:
    return {"conflictId": conflict.id, "entityType": conflict.module, "entityId": conflict.entity, "key": conflict.key}


def _all(conflict: Conflict, held: Iterable[Held]) -> Sequence[dict[str, object]]:
    return [versioned(conflict, one.entry) for one in held]
