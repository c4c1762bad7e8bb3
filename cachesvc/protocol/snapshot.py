"""Snapshots: entries as checksummed lines of JSON, written and read one line at a time.

The rule that must not break: what was cut off or altered is told before its last line was read, and never taken for whole.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

import orjson
import xxhash
from pydantic import ValidationError

from cachesvc.errors import InvalidInput
from cachesvc.model.entry import Entry, content_hash
from cachesvc.model.keys import parse_key, parse_name
from cachesvc.model.position import MAX_SEQ, Position, Version, parse_position
from cachesvc.protocol.api import MAX_NAMES
from cachesvc.protocol.exact import check_json
from cachesvc.protocol.operations import SnapshotChecksum, SnapshotEntry, SnapshotHeader
from cachesvc.protocol.values import content_type, is_json

EVERY: Final = 1_000  # entries between two checksums
MEDIA_TYPE: Final = "application/x-ndjson"


class SnapshotWriter:
    """The lines of a snapshot, each with its line break."""

    def __init__(self) -> None:
        self._sum = xxhash.xxh3_128()
        self._count = 0

    def header(self, position: Position, *, at: float, pattern: str, service: str) -> bytes:
        said = SnapshotHeader(snapshot=1, position=str(position), at=at, pattern=pattern, service=service)
        return self._line(said.model_dump_json(by_alias=True).encode())

    def entry(self, entry: Entry) -> bytes:
        """An entry, and from time to time a checksum."""
        said: dict[str, object] = {
            "key": entry.key,
            "version": entry.version,
            "contentType": entry.content_type,
            "createdAt": entry.created_at,
            "updatedAt": entry.updated_at,
            "expiresAt": entry.expires_at,
            "hash": entry.content_hash.hex(),
        }
        told = {"tags": entry.tags, "dependsOn": entry.parents, "updatedBy": entry.updated_by, "source": entry.source}
        said |= {name: value for name, value in told.items() if value}
        try:
            said["text"] = entry.value.decode()
        except UnicodeDecodeError:
            said["base64"] = b64encode(entry.value).decode()
        line = self._line(orjson.dumps(said))
        self._count += 1
        return line if self._count % EVERY else line + self._checksum()

    def end(self) -> bytes:
        return self._checksum(end=True)

    def _checksum(self, *, end: bool = False) -> bytes:
        said = SnapshotChecksum(checksum=self._sum.hexdigest(), count=self._count, end=end)
        return self._line(said.model_dump_json().encode())

    def _line(self, text: bytes) -> bytes:
        self._sum.update(text + b"\n")
        return text + b"\n"


class SnapshotReader:
    """Reads a snapshot line by line, checking each; raises `InvalidInput`, naming the line."""

    def __init__(self, *, max_value_size: int) -> None:
        self.position: Position | None = None
        self.pattern = ""
        self.count = 0
        self.ended = False
        self._sum = xxhash.xxh3_128()
        self._lines = 0
        self._max_value_size = max_value_size

    @property
    def max_line(self) -> int:
        """Bytes that a line has at most: JSON writes a byte by up to six."""
        return 6 * self._max_value_size + (256 << 10)

    @property
    def checksum(self) -> str:
        return self._sum.hexdigest()

    def line(self, line: bytes) -> Entry | None:
        """The entry in a line, without its line break; None in a header or a checksum."""
        self._lines += 1
        if self.ended:
            raise self._wrong("comes after the end")
        try:
            entry = self._read(line)
        except ValidationError as wrong:
            error = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, error["loc"]))
            raise self._wrong(f"{place}: {error['msg'].lower()}" if place else "is not such an object") from None
        except InvalidInput as wrong:
            raise self._wrong(str(wrong)) from None
        except ValueError:
            raise self._wrong("is not as it was written") from None
        self._sum.update(line + b"\n")
        return entry

    def close(self) -> None:
        """All lines were read."""
        if not self.ended:
            raise InvalidInput("body", f"is cut off after line {self._lines}: the last line, which says its end, is missing")

    def _read(self, line: bytes) -> Entry | None:
        if self.position is None:
            header = SnapshotHeader.model_validate_json(line, strict=True)
            self.position = parse_position(header.position, field="position")
            self.pattern = header.pattern
            return None
        if line.startswith(b'{"checksum"'):
            self._check(SnapshotChecksum.model_validate_json(line, strict=True))
            return None
        entry = self._entry(SnapshotEntry.model_validate_json(line, strict=True))
        self.count += 1
        return entry

    def _check(self, said: SnapshotChecksum) -> None:
        if said.checksum != self.checksum or said.count != self.count:
            raise InvalidInput("checksum", "is another: what is above was altered, or parts of it are missing")
        self.ended = said.end

    def _entry(self, said: SnapshotEntry) -> Entry:
        if (said.text is None) == (said.base64 is None):
            raise InvalidInput("text", "or base64 is there once")
        value = said.text.encode() if said.text is not None else b64decode(said.base64 or "", validate=True)
        if len(value) > self._max_value_size:
            raise InvalidInput("text", f"has {len(value)} bytes; allowed are {self._max_value_size}")
        if content_hash(said.content_type, value).hex() != said.hash:
            raise InvalidInput("hash", "is another than the content's")
        if content_type(said.content_type) != said.content_type:
            raise InvalidInput("contentType", "is not written plainly")
        if is_json(said.content_type):
            check_json(value, field="text")
        if not 0 < said.version <= MAX_SEQ:
            raise InvalidInput("version", "is out of range")
        return Entry(
            parse_key(said.key),
            Version(said.version),
            value,
            said.content_type,
            said.created_at,
            said.updated_at,
            said.expires_at,
            bytes.fromhex(said.hash),
            tags=_names(said.tags, "tags"),
            parents=_names(said.depends_on, "dependsOn"),
            updated_by=said.updated_by,
            source=said.source,
        )

    def _wrong(self, reason: str) -> InvalidInput:
        return InvalidInput(f"line {self._lines}", reason)


def _names(values: list[str], field: str) -> tuple[str, ...]:
    if len(values) > MAX_NAMES:
        raise InvalidInput(field, f"has {len(values)} items; allowed are up to {MAX_NAMES}")
    return tuple(parse_name(value, field=field) for value in values)
