"""Snapshots on a client's side: checked as they come by, whichever way they go.

One counts only when its last line was seen: until then it may have been cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cachesvc.client.errors import Damaged
from cachesvc.errors import InvalidInput
from cachesvc.protocol.snapshot import SnapshotReader

MAX_VALUE: Final = 64 << 20  # bytes; no service keeps a larger one


def reader() -> SnapshotReader:
    """What knows a snapshot's count and position while it is read."""
    return SnapshotReader(max_value_size=MAX_VALUE)


def checked(chunks: Iterable[bytes], told: SnapshotReader) -> Iterator[bytes]:
    """The chunks as they are, each once its lines were found whole. Raises `Damaged`, at the latest at the end."""
    rest = b""
    try:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                told.line(line)
            if len(rest) > told.max_line:
                raise Damaged("this is no whole snapshot: a line is longer than any of one")
            yield chunk
        if rest:
            raise Damaged("this is no whole snapshot: it is cut off within a line")
        told.close()
    except InvalidInput as wrong:
        raise Damaged(f"this is no whole snapshot: {wrong.field} {wrong.reason}") from wrong
