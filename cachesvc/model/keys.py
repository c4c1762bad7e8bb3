"""Keys, modules and partitions.

A key is 1 to 512 bytes of UTF-8 without control characters. `:` separates segments; the first names the module.
"""

from __future__ import annotations

import re
from typing import Final, NewType

import xxhash

from cachesvc.errors import InvalidInput

Key = NewType("Key", str)

MAX_KEY_BYTES: Final = 512
PARTITIONS: Final = 64
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_key(raw: str | bytes, *, field: str = "key") -> Key:
    """A key from outside, checked; raises `InvalidInput` naming `field`."""
    return Key(parse_name(raw, field=field))


def parse_name(raw: str | bytes, *, field: str) -> str:
    """A key, tag or parent from outside: 1 to 512 bytes of UTF-8 without control characters."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        size = len(raw) if isinstance(raw, bytes) else len(raw.encode())
    except UnicodeError:
        raise InvalidInput(field, "is not UTF-8") from None
    if not 1 <= size <= MAX_KEY_BYTES:
        raise InvalidInput(field, f"has {size} bytes; allowed are 1 to {MAX_KEY_BYTES}")
    if _CONTROL.search(text):
        raise InvalidInput(field, "has a control character")
    return text


def module_of(key: Key) -> str:
    """The segment before the first `:`, the whole key where there is none."""
    return key.partition(":")[0]


def partition_of(key: Key) -> int:
    """The partition, 0 to 63, that holds the key in Redis."""
    return xxhash.xxh3_64_intdigest(key.encode()) % PARTITIONS
