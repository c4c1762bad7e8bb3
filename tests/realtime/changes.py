"""Changes as a node follows them, made by hand."""

from __future__ import annotations

from typing import Any

import orjson

from cachesvc.model.change import Change, Kind, Publication
from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version

AT = 1_705_314_600.0  # 2024-01-15T10:30:00Z
BEFORE = bytes(range(16))


def entry(key: str, sequence: int, value: object, **members: Any) -> Entry:
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    kind = members.pop("content_type", JSON)
    return Entry(Key(key), Version(sequence), text, kind, AT, AT, AT + 60, content_hash(kind, text), **members)


def written(
    sequence: int, key: str, value: object, *, before: bytes | None = None, kind: Kind = Kind.WRITE, **members: Any
) -> Change:
    """A write; `held`, `previous`, `conflict` are the change's own, other members the entry's."""
    held, previous, conflict = members.pop("held", True), members.pop("previous", None), members.pop("conflict", "")
    made = entry(key, sequence, value, **members)
    return Change(Seq(sequence), kind, f"c-{sequence}", AT, Key(key), made, held, before, conflict=conflict, previous=previous)


def deleted(sequence: int, key: str, *, previous: bytes | None = None) -> Change:
    gone = tombstone(Key(key), Version(sequence), now=AT, keep=60.0)
    return Change(Seq(sequence), Kind.DELETE, f"c-{sequence}", AT, Key(key), gone, before=BEFORE, previous=previous)


def expired(sequence: int, key: str) -> Change:
    return Change(Seq(sequence), Kind.EXPIRE, f"c-{sequence}", AT, Key(key), before=BEFORE)


def invalidated(sequence: int, *keys: str, pattern: str = "", cascade: bool = False) -> Change:
    named = Invalidation(pattern, tuple(map(Key, keys)), cascade=cascade)
    return Change(Seq(sequence), Kind.INVALIDATE, f"c-{sequence}", AT, invalidation=named)


def published(sequence: int, resource: str, message: object) -> Change:
    said = Publication(resource, orjson.dumps(message), "ann")
    return Change(Seq(sequence), Kind.PUBLISH, f"c-{sequence}", AT, publication=said)
