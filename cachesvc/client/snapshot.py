"""Snapshots: checksummed lines, checked as they come by; no I/O of its own.

A snapshot counts only once its last checksum was seen: until then it may have been cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import xxhash
from pydantic import ValidationError

from cachesvc.client.errors import Damaged
from cachesvc.protocol.operations import SnapshotChecksum, SnapshotHeader

MAX_LINE: Final = 128 << 20  # bytes; a value has up to 64 MiB, written in base64
_CHECKSUM: Final = b'{"checksum":'


class SnapshotCheck:
    """Takes the bytes of a snapshot in any pieces. `count` is how many entries are vouched for."""

    def __init__(self) -> None:
        self.count = 0
        self.header: SnapshotHeader | None = None
        self._seen = 0
        self._hash = xxhash.xxh3_128()
        self._rest = b""
        self._whole = False

    def feed(self, chunk: bytes) -> None:
        """Raises `Damaged`."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        if len(self._rest) > MAX_LINE:
            raise Damaged(f"the snapshot was altered: a line is longer than {MAX_LINE} bytes")

    def finish(self) -> None:
        """The end of the bytes. Raises `Damaged`."""
        if self._rest or not self._whole:
            raise Damaged(f"the snapshot is cut off: it has no last checksum, and {self.count} entries that are vouched for")

    def _line(self, line: bytes) -> None:
        if self._whole:
            raise Damaged("the snapshot was altered: something follows its last checksum")
        if self.header is None:
            self.header = _header(line)
        elif line.startswith(_CHECKSUM):
            self._compare(line)
        else:
            self._seen += 1
        self._hash.update(line)

    def _compare(self, line: bytes) -> None:
        try:
            told = SnapshotChecksum.model_validate_json(line)
        except ValidationError as exc:
            raise Damaged("the snapshot was altered: a checksum cannot be read") from exc
        if told.checksum != self._hash.hexdigest() or told.count != self._seen:
            raise Damaged(f"the snapshot was altered after entry {self.count}: its checksum is another")
        self.count, self._whole = told.count, told.end


def _header(line: bytes) -> SnapshotHeader:
    try:
        return SnapshotHeader.model_validate_json(line)
    except ValidationError as exc:
        raise Damaged("this is no snapshot, or one of another version: its first line is not the header of one") from exc


def checked(chunks: Iterable[bytes], check: SnapshotCheck) -> Iterator[bytes]:
    """The chunks as they were, checked to their end."""
    for chunk in chunks:
        check.feed(chunk)
        yield chunk
    check.finish()
