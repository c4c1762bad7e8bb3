"""The codec: how an entry is written into Redis, a header of 21 bytes before the payload.

Whatever the format, byte 0 says which, bytes 1 to 7 are the version (big-endian, compared by the scripts) and bytes 8 to 11 a
checksum over key and all the rest. So any node tells corruption (the checksum is wrong: evict) from what a newer node wrote
(the checksum is right, the form unknown: a miss, left alone), now and later. That must stay so in every future format.

    0       format in the upper four bits (1), bit 2: rare fields follow the header, bits 0 and 1: codec
    1-7     version
    8-11    low half of xxh3-64 over the key, bytes 0-7, and the bytes from 12
    12-16   updated_at, in ms since 2020
    17-19   life from then in s, 0: does not end
    20      id of the dictionary, 0: none

Times are kept to the millisecond; those that do not fit are written as rare fields, exactly.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

import xxhash
import zstandard

from cachesvc.errors import CacheError
from cachesvc.model.entry import JSON, Entry, content_hash, pack_details, with_details
from cachesvc.model.keys import Key, module_of
from cachesvc.model.position import Version

MAX_VALUE: Final = 64 << 20  # what a corrupt or hostile frame may at most unpack to
MAX_DICTIONARY_VALUE: Final = 4096  # beyond it a dictionary gains little and costs 50 µs
MIN_DICTIONARY_VALUE: Final = 24
MIN_PLAIN_VALUE: Final = 64
_LEVEL: Final = 3
_LEVEL_LARGE: Final = 1  # keeps the event loop free: 2 ms/MiB
_LARGE: Final = 64 << 10

_FORMAT: Final = 1
_RARE: Final = 4
_RESERVED: Final = 8
_PLAIN, _ZSTD, _DICTIONARY, _BARE = range(4)  # _BARE: a dictionary's frame without its usual first two bytes
_USUAL: Final = b"\0\0"  # frame header of a window of 1 KiB, nothing else said

_HEADER: Final = struct.Struct(">QIBIBHB")
_HEAD: Final = struct.Struct(">Q")
_CHECK: Final = struct.Struct(">I")
_VERSION: Final = (1 << 56) - 1

# rare fields, in this order; a bit not known here is of a newer node
_CREATED, _TYPE, _DETAILS, _EXACT, _WIDE = 1, 2, 4, 8, 16
_EXACT_TIMES: Final = struct.Struct(">ddd")
_NEVER: Final = float("inf")

_SINCE: Final = 1_577_836_800_000  # 2020-01-01 in ms
_MAX_LIFE: Final = (1 << 24) - 1


class Unreadable(CacheError):
    """A stored value that this node cannot read: a miss."""


class Corrupt(Unreadable):
    """It is not what was written."""


class Newer(Unreadable):
    """A newer node wrote it, in a form not known here. It is left alone."""


class DictionaryUnknown(Unreadable):
    """It needs a dictionary that is not loaded here."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Dictionaries(Protocol):
    """Compression with what a module's values have in common."""

    def compress(self, module: str, value: bytes) -> tuple[int, bytes] | None:
        """The dictionary's id and the frame; None while the module has none."""
        ...

    def decompress(self, number: int, frame: bytes, *, limit: int) -> bytes:
        """What the frame holds. Raises `KeyError` for a dictionary that is not loaded, `ZstdError` for a bad frame."""
        ...


class Codec:
    """Writes and reads entries; `dictionaries` None: without any. With `compression` off it still reads everything."""

    def __init__(self, dictionaries: Dictionaries | None = None, *, compression: bool = True) -> None:
        self._dictionaries = dictionaries
        self._compression = compression
        self._level = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self._level_large = zstandard.ZstdCompressor(level=_LEVEL_LARGE, write_checksum=False)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, entry: Entry) -> bytes:
        """The entry, without its key, as bytes."""
        codec, number, payload = self._pack(entry.key, entry.value) if self._compression else (_PLAIN, 0, entry.value)
        updated, life, number, rare = _describe(entry, number)
        form = (_FORMAT << 4) | codec
        if rare:
            form |= _RARE
            payload = rare + payload
        stored = _HEADER.pack(
            (form << 56) | entry.version, 0, updated >> 32, updated & 0xFFFFFFFF, life >> 16, life & 0xFFFF, number
        )
        rest = stored[12:] + payload
        return stored[:8] + _CHECK.pack(_check(entry.key, stored[:8], rest)) + rest

    def decode(self, key: Key, stored: bytes) -> Entry:
        """The entry that was written under that key. Raises `Corrupt`, `Newer`, `DictionaryUnknown`."""
        if len(stored) < 12:
            raise Corrupt(key)
        if _CHECK.unpack_from(stored, 8)[0] != _check(key, stored[:8], stored[12:]):
            raise Corrupt(key)
        form = stored[0]
        if form >> 4 != _FORMAT or form & _RESERVED:
            raise Newer(key)
        try:
            return self._decode(key, stored, form)
        except (struct.error, zstandard.ZstdError, ValueError, IndexError) as exc:
            raise Corrupt(key) from exc

    def _decode(self, key: Key, stored: bytes, form: int) -> Entry:
        first, _, high, low, life_high, life_low, number = _HEADER.unpack_from(stored)
        updated_ms = _SINCE + ((high << 32) | low)
        life = (life_high << 16) | life_low
        updated_at = created_at = updated_ms / 1000
        expires_at = (updated_ms + life * 1000) / 1000 if life else None
        content_type, details, at = JSON, b"", 21
        if form & _RARE:
            flags = stored[at]
            at += 1
            if flags >= 32:
                raise Newer(key)
            if flags & _CREATED:
                created_at = (_SINCE + int.from_bytes(stored[at : at + 5])) / 1000
                at += 5
            if flags & _EXACT:
                created_at, updated_at, ends = _EXACT_TIMES.unpack_from(stored, at)
                expires_at = None if ends == _NEVER else ends
                at += 24
            if flags & _WIDE:
                number = int.from_bytes(stored[at : at + 4])
                at += 4
            if flags & _TYPE:
                size = int.from_bytes(stored[at : at + 2])
                content_type = stored[at + 2 : at + 2 + size].decode()
                at += 2 + size
            if flags & _DETAILS:
                size = int.from_bytes(stored[at : at + 4])
                details = stored[at + 4 : at + 4 + size]
                at += 4 + size
        value = self._unpack(form & 3, number, stored[at:])
        digest = content_hash(content_type, value)
        entry = Entry(key, Version(first & _VERSION), value, content_type, created_at, updated_at, expires_at, digest)
        return with_details(entry, details) if details else entry

    def _pack(self, key: Key, value: bytes) -> tuple[int, int, bytes]:
        """`(codec, dictionary, payload)`, whichever is smallest."""
        size = len(value)
        if size < MIN_DICTIONARY_VALUE:
            return _PLAIN, 0, value
        if self._dictionaries is not None and size <= MAX_DICTIONARY_VALUE:
            found = self._dictionaries.compress(module_of(key), value)
            if found is not None:
                number, frame = found
                if len(frame) >= size:
                    return _PLAIN, 0, value
                if frame.startswith(_USUAL):
                    return _BARE, number, frame[2:]
                return _DICTIONARY, number, frame
        if size < MIN_PLAIN_VALUE:
            return _PLAIN, 0, value
        frame = (self._level if size < _LARGE else self._level_large).compress(value)
        return (_ZSTD, 0, frame) if len(frame) < size else (_PLAIN, 0, value)

    def _unpack(self, codec: int, number: int, payload: bytes) -> bytes:
        if codec == _PLAIN:
            return payload
        if codec == _ZSTD:
            if not 0 <= zstandard.frame_content_size(payload) <= MAX_VALUE:
                raise ValueError("a frame that does not say its size, or too large a one")
            return self._decompressor.decompress(payload)
        if self._dictionaries is None:
            raise DictionaryUnknown(number)
        frame = _USUAL + payload if codec == _BARE else payload
        try:
            return self._dictionaries.decompress(number, frame, limit=MAX_DICTIONARY_VALUE)
        except KeyError:
            raise DictionaryUnknown(number) from None


def _check(key: Key, first: bytes, rest: bytes) -> int:
    return xxhash.xxh3_64_intdigest(key.encode() + first + rest) & 0xFFFFFFFF


def _describe(entry: Entry, number: int) -> tuple[int, int, int, bytes]:
    """`(updated, life, dictionary, rare fields)`: the header's fields, and what does not fit into them."""
    flags = 0
    rare = b""
    updated = round(entry.updated_at * 1000) - _SINCE
    created = round(entry.created_at * 1000) - _SINCE
    life = 0 if entry.expires_at is None else round(entry.expires_at * 1000) - _SINCE - updated
    seconds, odd = divmod(life, 1000)
    ends_at_once = entry.expires_at is not None and life <= 0
    if odd or ends_at_once or seconds > _MAX_LIFE or not (0 <= updated < 1 << 40 and 0 <= created < 1 << 40):
        flags |= _EXACT
        ends = _NEVER if entry.expires_at is None else entry.expires_at
        rare = _EXACT_TIMES.pack(entry.created_at, entry.updated_at, ends)
        updated = seconds = 0
    elif created != updated:
        flags |= _CREATED
        rare = created.to_bytes(5)
    if number > 255:
        flags |= _WIDE
        rare += number.to_bytes(4)
        number = 0
    if entry.content_type != JSON:
        flags |= _TYPE
        content_type = entry.content_type.encode()
        rare += len(content_type).to_bytes(2) + content_type
    details = pack_details(entry)
    if details:
        flags |= _DETAILS
        rare += len(details).to_bytes(4) + details
    return updated, seconds, number, flags.to_bytes(1) + rare if flags else b""
