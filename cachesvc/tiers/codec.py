"""The codec: how an entry is written into Redis, a header of 18 to 21 bytes before the payload.

Whatever the format, it is 18 bytes or longer, byte 0 says which, bytes 1 to 7 are the version (big-endian, compared by the
scripts) and bytes 8 to 10 a checksum over key and all the rest. So any node tells corruption (the checksum is wrong: evict)
from what a newer node wrote (the checksum is right, the form unknown: a miss, left alone), now and later. That must stay so
in every future format.

    0       bits 5 to 7: format (1), bits 3 and 4: bytes of updated_at less 4, bit 2: rare fields follow, bits 0 and 1: codec
    1-7     version
    8-10    lowest 24 bits of xxh3-64 over the key, bytes 0 to 7, and the bytes from 11
    11      id of the dictionary, 0: none
    12-13   life in s, or with the highest bit in min; 0: does not end
    14-     updated_at, in ticks of 2^-22 s: what a double can tell of the years 2004 to 2038. In 4 to 6 bytes since the
            version, taken as µs; in 7 bytes since 2020

No time is rounded: those that do not fit are written as rare fields.
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
_PLAIN, _ZSTD, _DICTIONARY = range(3)

_HEADER: Final = struct.Struct(">QIH")  # up to updated_at
_TIME: Final = _HEADER.size  # where updated_at begins
_LEAST: Final = _TIME + 4
_CHECKED: Final = 11  # where the checksum has ended
_CHECK: Final = 0xFFFFFF
_VERSION: Final = (1 << 56) - 1

# rare fields, in this order; a bit not known here is of a newer node
_EXACT, _CREATED, _WIDE, _TYPE, _DETAILS = 1, 2, 4, 8, 16
_KNOWN: Final = 31
_EXACT_TIMES: Final = struct.Struct(">ddd")
_NEVER: Final = float("inf")

_TICKS: Final = float(1 << 22)
_TICK: Final = 1 / _TICKS
_SINCE: Final = 1_577_836_800 << 22  # 2020-01-01
_ABSOLUTE: Final = 7
_MINUTES: Final = 0x8000

_ABSOLUTE_START: Final = _TIME + _ABSOLUTE
_FORMS: Final = {  # what byte 0 may be: the codec, where the payload or the rare fields begin, whether there are any
    _FORMAT << 5 | size - 4 << 3 | rare | codec: (codec, _TIME + size, rare)
    for size in (4, 5, 6, _ABSOLUTE)
    for rare in (0, _RARE)
    for codec in (_PLAIN, _ZSTD, _DICTIONARY)
}


_digest: Final = xxhash.xxh3_64_intdigest


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
        """The dictionary's id and what it makes of the value, perhaps nothing shorter; None while the module has none."""
        ...

    def decompress(self, number: int, packed: bytes, limit: int) -> bytes:
        """The value. Raises `KeyError` for a dictionary that is not loaded, `ZstdError` for what it does not explain."""
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
        form = (_FORMAT << 5) | (len(updated) - 4 << 3) | codec
        if rare:
            form |= _RARE
        head = ((form << 56) | entry.version).to_bytes(8)
        rest = b"%c%b%b%b%b" % (number, life.to_bytes(2), updated, rare, payload)
        check = _digest(entry.key.encode() + head + rest) & _CHECK
        return head + check.to_bytes(3) + rest

    def decode(self, key: Key, stored: bytes) -> Entry:
        """The entry that was written under that key. Raises `Corrupt`, `Newer`, `DictionaryUnknown`."""
        # the hot line of a hit in Redis: few calls, few copies
        if len(stored) < _LEAST:
            raise Corrupt(key)
        first, second, life = _HEADER.unpack_from(stored)
        if second >> 8 != _digest(b"%b%.8b%b" % (key.encode(), stored, stored[_CHECKED:])) & _CHECK:
            raise Corrupt(key)
        version = first & _VERSION
        try:
            codec, start, rare = _FORMS[first >> 56]
        except KeyError:
            raise Newer(key) from None
        since = _SINCE if start == _ABSOLUTE_START else (version << 22) // 1_000_000  # as in `_begun`
        at = (int.from_bytes(stored[_TIME:start]) + since) * _TICK
        if life & _MINUTES:
            life = (life - _MINUTES) * 60
        ends = at + life if life else None
        try:
            if rare:
                return self._decode_rare(key, stored, start, at, ends)
            value = self._unpack(codec, second & 0xFF, stored[start:])
        except (struct.error, zstandard.ZstdError, ValueError, IndexError) as exc:
            raise Corrupt(key) from exc
        return Entry(key, Version(version), value, JSON, at, at, ends, content_hash(JSON, value))

    def _decode_rare(self, key: Key, stored: bytes, start: int, at: float, ends: float | None) -> Entry:
        """The same where something does not fit into the header."""
        version, number, flags = Version(int.from_bytes(stored[1:8])), stored[_CHECKED], stored[start]
        if flags & ~_KNOWN:
            raise Newer(key)
        fields = _Fields(stored, start + 1)
        created_at = at
        if flags & _EXACT:
            created_at, at, end = _EXACT_TIMES.unpack(fields.take(_EXACT_TIMES.size))
            ends = None if end == _NEVER else end
        if flags & _CREATED:
            created_at = (_SINCE + fields.number(_ABSOLUTE)) * _TICK
        if flags & _WIDE:
            number = fields.number(4)
        content_type = fields.take(fields.number(2)).decode() if flags & _TYPE else JSON
        details = fields.take(fields.number(4)) if flags & _DETAILS else b""
        value = self._unpack(stored[0] & 3, number, fields.remaining())
        digest = content_hash(content_type, value)
        return with_details(Entry(key, version, value, content_type, created_at, at, ends, digest), details)

    def _pack(self, key: Key, value: bytes) -> tuple[int, int, bytes]:
        """`(codec, dictionary, payload)`, whichever is smallest."""
        size = len(value)
        if size < MIN_DICTIONARY_VALUE:
            return _PLAIN, 0, value
        if self._dictionaries is not None and size <= MAX_DICTIONARY_VALUE:
            found = self._dictionaries.compress(module_of(key), value)
            if found is not None:
                number, packed = found
                return (_DICTIONARY, number, packed) if len(packed) < size else (_PLAIN, 0, value)
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
        try:
            return self._dictionaries.decompress(number, payload, MAX_DICTIONARY_VALUE)
        except KeyError:
            raise DictionaryUnknown(number) from None


class _Fields:
    """Reads the rare fields one after the other."""

    def __init__(self, stored: bytes, at: int) -> None:
        self._stored = stored
        self._at = at

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._stored):
            raise ValueError("a field runs over the end")
        return self._stored[start : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def remaining(self) -> bytes:
        return self._stored[self._at :]


def _describe(entry: Entry, number: int) -> tuple[bytes, int, int, bytes]:
    """`(updated, life, dictionary, rare fields)`: the header's fields, and what does not fit into them."""
    flags = 0
    rare = b""
    updated, created, life = _ticks(entry.updated_at), _ticks(entry.created_at), _life(entry)
    if updated is None or created is None or life is None:
        flags |= _EXACT
        rare = _EXACT_TIMES.pack(entry.created_at, entry.updated_at, _NEVER if entry.expires_at is None else entry.expires_at)
        when, life = bytes(4), 0
    else:
        when = _when(updated, entry.version)
        if created != updated:
            flags |= _CREATED
            rare = created.to_bytes(_ABSOLUTE)
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
    return when, life, number, flags.to_bytes(1) + rare if flags else b""


def _ticks(time: float) -> int | None:
    """Ticks since 2020; None for a time that is before, or between two ticks."""
    ticks = time * _TICKS
    since = int(ticks) - _SINCE
    return since if ticks == int(ticks) and 0 <= since < 1 << 56 else None


def _when(ticks: int, version: Version) -> bytes:
    """The header's time, since the version where that is shorter."""
    # versions are counted from the µs at which the epoch began, so this is not more than the age of the epoch: one byte
    # less for two years, two for three days, three for a quarter of an hour
    since = ticks + _SINCE - _begun(version)
    if 0 <= since < 1 << 32:
        return since.to_bytes(4)
    if 0 <= since < 1 << 48:
        return since.to_bytes(5 if since < 1 << 40 else 6)
    return ticks.to_bytes(_ABSOLUTE)


def _begun(version: Version) -> int:
    """The version taken as µs, in ticks, rounded down."""
    return (version << 22) // 1_000_000


def _life(entry: Entry) -> int | None:
    """The header's life; None for one that is not whole seconds, or days long and not whole minutes."""
    if entry.expires_at is None:
        return 0
    life = entry.expires_at - entry.updated_at
    seconds = int(life)
    if seconds != life or seconds <= 0 or entry.updated_at + seconds != entry.expires_at:
        return None
    if seconds < _MINUTES:
        return seconds
    minutes, odd = divmod(seconds, 60)
    return minutes | _MINUTES if minutes < _MINUTES and not odd else None
