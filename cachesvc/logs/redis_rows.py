"""How the Redis authority writes things down: the names of its keys, its rows and its records.

A row begins with its version in 16 digits, so that a script compares it without reading the rest. Fixed on disk: add to
the header's list, never change what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from cachesvc.model.change import Change, pack_change, unpack_change
from cachesvc.model.entry import Entry, pack_fields, unpack_fields
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version

VERSION_DIGITS: Final = 16
_HEADER: Final = VERSION_DIGITS + 8  # and the length of the header in 8 more

OUTLINE: Final = 4_096  # bytes of a row within which its header ends, but for one with very many tags or parents
RECORD_OVERHEAD: Final = 200  # bytes that a record is counted for beside its value


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one cache in a Redis that others may use too."""

    prefix: str

    @property
    def state(self) -> str:
        return f"{self.prefix}:log:state"

    @property
    def log(self) -> str:
        return f"{self.prefix}:log:records"

    @property
    def channel(self) -> str:
        return f"{self.prefix}:log:appended"

    @property
    def keys(self) -> str:
        """A sorted set, all scores 0: the keys that have a row and are not deleted, in byte order."""
        return f"{self.prefix}:keys"

    @property
    def ends(self) -> str:
        """A sorted set of keys by the end of their life."""
        return f"{self.prefix}:ends"

    @property
    def gone(self) -> str:
        """A sorted set of deleted keys by the end of their tombstone."""
        return f"{self.prefix}:gone"

    @property
    def patterns(self) -> str:
        """A hash of the patterns in force: their text, and what is noted with it."""
        return f"{self.prefix}:patterns"

    @property
    def revocations(self) -> str:
        """A hash of the tokens that are not believed any more."""
        return f"{self.prefix}:revocations"

    @property
    def nodes(self) -> str:
        return f"{self.prefix}:nodes"

    @property
    def dictionaries(self) -> str:
        return f"{self.prefix}:dictionaries"

    @property
    def jobs(self) -> str:
        return f"{self.prefix}:jobs"

    @property
    def job_bodies(self) -> str:
        return f"{self.prefix}:jobs:bodies"

    @property
    def open_jobs(self) -> str:
        """A hash of the jobs that have not ended: what each does."""
        return f"{self.prefix}:jobs:open"

    @property
    def agenda(self) -> str:
        return f"{self.prefix}:agenda"

    @property
    def agenda_bodies(self) -> str:
        return f"{self.prefix}:agenda:bodies"

    @property
    def agenda_names(self) -> str:
        """A sorted set, all scores 0: the names, in order."""
        return f"{self.prefix}:agenda:names"

    @property
    def agenda_due(self) -> str:
        """A sorted set of the names by when they are due."""
        return f"{self.prefix}:agenda:due"

    @property
    def rows(self) -> str:
        """What a row's key begins with."""
        return f"{self.prefix}:row:"

    def answer(self, subject: str, key: str) -> str:
        return f"{self.prefix}:answer:{len(subject)}:{subject}:{key}"

    @property
    def batches(self) -> str:
        """What the key of a batch's record begins with."""
        return f"{self.prefix}:batch:"

    def batch(self, batch: str) -> str:
        return self.batches + batch

    def quota(self, name: str) -> str:
        return f"{self.prefix}:quota:{name}"

    def lease(self, lease: str) -> str:
        return f"{self.prefix}:lease:{lease}"


def pack_row(entry: Entry) -> bytes:
    header = orjson.dumps(pack_fields(entry))
    return b"%016d%08d%b%b" % (entry.version, len(header), header, entry.value)


def unpack_row(key: Key, row: bytes) -> Entry:
    """The entry that `pack_row` wrote."""
    end = _HEADER + int(row[VERSION_DIGITS:_HEADER])
    return unpack_fields(key, version_of(row), row[end:], orjson.loads(row[_HEADER:end]))


def outline_of(key: Key, start: bytes) -> Entry | None:
    """The entry, but for its value, of a row's first bytes; None where its header goes on after them."""
    end = _HEADER + int(start[VERSION_DIGITS:_HEADER])
    return unpack_row(key, start[:end]) if end <= len(start) else None


def version_of(row: bytes) -> Version:
    return Version(int(row[:VERSION_DIGITS]))


def pack_record(change: Change, before: int) -> tuple[list[str | bytes | int], int]:
    """A record as the append script takes it, and the bytes it counts for. `before`: the bytes of all records before it."""
    record, value = pack_change(change)
    held = value is not None
    arguments = [f"{change.sequence}-0", change.kind, change.key or "", record, before, int(held), value or b""]
    return arguments, RECORD_OVERHEAD + len(record) + len(value or b"")


def unpack_record(record: tuple[bytes, Mapping[bytes, bytes]]) -> Change:
    entry_id, fields = record
    key = fields[b"n"].decode() or None
    return unpack_change(sequence_of(entry_id), fields[b"k"].decode(), key, fields[b"r"], fields.get(b"v"))


def sequence_of(entry_id: bytes) -> Seq:
    return Seq(int(entry_id.partition(b"-")[0]))


def milliseconds(seconds: float) -> int:
    """As Redis takes a time to live, which is one at least."""
    return max(1, int(seconds * 1_000))
