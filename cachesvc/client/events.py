"""Server-sent events, read from bytes as they come (HTML standard, 9.2); no I/O of its own.

A line ends at LF, CR or CRLF and nowhere else: JSON may carry U+2028, at which `str.splitlines` would cut it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_EVENT: Final = 16 << 20  # bytes of one event; a change carries at most 64 KiB of value
_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\n|\r(?!\Z))")  # a CR at the end may be half a CRLF


class Event(NamedTuple):
    """An event, or a mere move of the position: `name` and `data` are empty then. `id` is the last that was told."""

    id: str
    name: str
    data: bytes


class EventParser:
    """Takes bytes, gives events. Raises `ValueError` for an event larger than `MAX_EVENT`."""

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._id = ""
        self._moved = False
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        self._rest += chunk
        end = 0
        for line in _LINE.finditer(self._rest):
            end = line.end()
            self._size += len(line[1])
            if not line[1]:
                yield from self._dispatch()
            else:
                self._field(line[1])
        self._rest = self._rest[end:]
        if self._size + len(self._rest) > MAX_EVENT:
            raise ValueError(f"an event is larger than {MAX_EVENT} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id, self._moved = value.decode("utf-8", "replace"), True

    def _dispatch(self) -> Iterator[Event]:
        if self._data or self._moved:
            yield Event(self._id, self._name if self._data else "", b"\n".join(self._data))
        self._size, self._moved, self._name, self._data = 0, False, "", []
