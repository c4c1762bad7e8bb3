"""Entry: the newest change of a key that a tier has seen.

Expiry is decided here and nowhere else, in `Entry.live(now)`, by the authority's time.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson
import xxhash

from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version

JSON: Final = "application/json"
ANONYMOUS: Final = "anonymous"  # the subject of who need not say a name; what it writes is kept without one


class Origin(NamedTuple):
    """The change that first made this content: its site and the sequence there."""

    site: str
    sequence: Seq


class Stamp(NamedTuple):
    """The write that something is of, in the order in which the later counts."""

    at: float
    origin: Origin


Vector = tuple[tuple[str, int], ...]  # known writes: of each site those up to a sequence, in the order of their names


class Fields(NamedTuple):
    """Of an object that is merged by field: the write that it is of, but for what was written since, or removed.

    `known` is what its last write knew of.
    """

    root: Stamp
    known: Vector
    changed: tuple[tuple[tuple[str, ...], Stamp], ...] = ()  # by path, in order


class Entry(NamedTuple):
    """A value and all that is known of it. A NamedTuple: as immutable as a frozen dataclass, built five times as fast.

    Times are Unix seconds of the authority's clock. `expires_at` is the end of the logical life, None for never.
    A tombstone (`deleted`) has no value; its `expires_at` says until when it is kept.
    `origin` is None for a change of this site (then it is this site at `version`); `vector` is empty for an entry that
    only this site has ever written (then it is this site at `version`). What is `local` is of no other site's concern; where
    somebody wrote it, and it was not loaded or ended, it has an `origin`, and only what is later takes its place. `rivals`
    are what the entry was settled from, itself among them: writes that did not know of each other, and what was added. Of a
    local one it is what it stands before: the entry that other sites are to have, whole.
    `fields` are kept where sites merge by field.
    """

    key: Key
    version: Version
    value: bytes
    content_type: str
    created_at: float
    updated_at: float
    expires_at: float | None
    content_hash: bytes  # 16 bytes: xxh3-128 of content type and value
    deleted: bool = False
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()  # keys or tags that it was computed from
    updated_by: str = ""
    source: str = ""
    origin: Origin | None = None
    vector: Vector = ()
    local: bool = False
    rivals: tuple[Rival, ...] = ()
    fields: Fields | None = None

    def live(self, now: float) -> bool:
        """Whether it may be served at `now` without being marked stale."""
        return not self.deleted and (self.expires_at is None or now < self.expires_at)

    @property
    def author(self) -> str:
        """Who wrote it, as it is told; where nobody said a name, what it came from."""
        return self.updated_by or self.source or ANONYMOUS

    @property
    def size(self) -> int:
        """Bytes it is counted for: the value, the key, tags and parents, and 200 for the rest."""
        size = len(self.value) + len(self.key) + 200
        if self.tags or self.parents:
            size += sum(map(len, self.tags)) + sum(map(len, self.parents))
        if self.rivals:
            size += sum(rival.entry.size for rival in self.rivals)
        if self.fields is not None:
            size += 60 * len(self.fields.changed)
        return size


class Rival(NamedTuple):
    """One of the writes that an entry was settled from: its own origin, and what it wrote, without a version.

    `of` is None for content. Of an increment, whose value is all that its site has added, it is the origin of what that was
    added to; `NO_ORIGIN` where there was nothing.
    """

    origin: Origin
    of: Origin | None
    entry: Entry


NO_ORIGIN: Final = Origin("", Seq(0))

_JSON_PREFIX: Final = JSON.encode() + b"\0"


def content_hash(content_type: str, value: bytes) -> bytes:
    """A checksum of 16 bytes over content type and value (xxh3-128: against accidents, not against an adversary)."""
    prefix = _JSON_PREFIX if content_type == JSON else content_type.encode() + b"\0"
    return xxhash.xxh3_128_digest(prefix + value)


NO_CONTENT: Final = b"\0" * 16


def tombstone(key: Key, version: Version, *, now: float, keep: float) -> Entry:
    """What a deletion leaves in the authority for `keep` seconds, so that what is older is known to be older."""
    return Entry(key, version, b"", "", now, now, now + keep, NO_CONTENT, deleted=True)


# What is seldom set is written down together, as one small JSON object; an empty one as nothing.


def pack_details(entry: Entry) -> bytes:
    """Tags, parents, author, source and what sites have of it as JSON bytes; `b""` when none is set."""
    details: dict[str, object] = {}
    if entry.tags:
        details["t"] = entry.tags
    if entry.parents:
        details["p"] = entry.parents
    if entry.updated_by:
        details["b"] = entry.updated_by
    if entry.source:
        details["s"] = entry.source
    if entry.origin:
        details["o"] = list(entry.origin)  # orjson takes no subclass of a tuple
    if entry.vector:
        details["v"] = entry.vector
    if entry.local:
        details["l"] = True
    if entry.rivals:
        details["w"] = [_pack_rival(rival) for rival in entry.rivals]
    if entry.fields is not None:
        details["f"] = pack_stamps(entry.fields)
    return orjson.dumps(details) if details else b""


def with_details(entry: Entry, packed: bytes) -> Entry:
    """The entry with what `pack_details` wrote; unknown names, of a newer version, are passed over."""
    if not packed:
        return entry
    details = orjson.loads(packed)
    origin = details.get("o")
    return entry._replace(
        tags=tuple(details.get("t", ())),
        parents=tuple(details.get("p", ())),
        updated_by=details.get("b", ""),
        source=details.get("s", ""),
        origin=Origin(origin[0], Seq(origin[1])) if origin else None,
        vector=tuple((site, counter) for site, counter in details.get("v", ())),
        local=details.get("l", False),
        rivals=tuple(_unpack_rival(entry.key, rival) for rival in details["w"]) if "w" in details else (),
        fields=unpack_stamps(details["f"]) if "f" in details else None,
    )


def pack_stamps(fields: Fields) -> list[object]:
    """As JSON takes it: the root, what is known, what has changed; a stamp as its time, site and sequence."""
    changed = [[path, at, *origin] for path, (at, origin) in fields.changed]
    return [[fields.root.at, *fields.root.origin], fields.known, changed]


def unpack_stamps(packed: Sequence[Any]) -> Fields:
    root, known, changed = packed
    return Fields(
        _stamp(*root),
        tuple((site, counter) for site, counter in known),
        tuple((tuple(path), _stamp(*stamp)) for path, *stamp in changed),
    )


def _stamp(at: float, site: str, sequence: int) -> Stamp:
    return Stamp(at, Origin(site, Seq(sequence)))


def _pack_rival(rival: Rival) -> list[object]:
    of = list(rival.of) if rival.of is not None else None
    return [list(rival.origin), of, pack_fields(rival.entry), b64encode(rival.entry.value).decode()]


def _unpack_rival(key: Key, packed: Sequence[Any]) -> Rival:
    (site, sequence), of, fields, value = packed[:4]
    entry = unpack_fields(key, Version(0), b64decode(value), fields)
    return Rival(Origin(site, Seq(sequence)), Origin(of[0], Seq(of[1])) if of is not None else None, entry)


# What rows of the Redis authority and records of every log have in common. Fixed on disk: add at the end, change nothing.


def pack_fields(entry: Entry) -> list[object]:
    """All but key, version and value, as JSON takes it."""
    return [
        entry.content_type,
        entry.created_at,
        entry.updated_at,
        entry.expires_at,
        entry.content_hash.hex(),
        entry.deleted,
        pack_details(entry).decode(),
    ]


def unpack_fields(key: Key, version: Version, value: bytes, fields: Sequence[Any]) -> Entry:
    """The entry of what `pack_fields` wrote; fields behind those, of a newer version, are passed over."""
    content_type, created_at, updated_at, expires_at, digest, deleted, details = fields[:7]
    content_hash = bytes.fromhex(digest)
    entry = Entry(key, version, value, content_type, created_at, updated_at, expires_at, content_hash, deleted)
    return with_details(entry, details.encode())
