"""Text frames as they lie on the wire where nothing is compressed (RFC 6455, 5.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # it is not compiled for every machine
    from websockets.utils import apply_mask

_TEXT: Final = 0x81  # whole, of a message that is no other's part
_MASKED: Final = 0x80


def framed(text: bytes) -> bytes:
    """A whole message as a server sends it."""
    return _head(len(text)) + text


@lru_cache(1_024)
def _head(size: int) -> bytes:
    """Made once for all messages of a size: what goes to thousands at once differs little in it."""
    if size < 126:
        return b"\x81%c" % size
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def extent(data: bytes, at: int) -> tuple[int, int, bool] | None:
    """Of the frame that begins there: where its payload begins, where it ends, and whether it is a usual one (a whole text,
    masked). None when its head is not here yet."""
    size = len(data)
    if size - at < 2:
        return None
    second = data[at + 1]
    length = second & 0x7F
    body = at + 2
    if length == 126:
        body += 2
        length = int.from_bytes(data[at + 2 : body], "big")
    elif length == 127:
        body += 8
        length = int.from_bytes(data[at + 2 : body], "big")
    masked = second & _MASKED
    if masked:
        body += 4
    if size < body:
        return None
    return body, body + length, data[at] == _TEXT and masked != 0


def unmasked(data: bytes, body: int, end: int) -> bytes:
    """The payload that lies there, behind its mask."""
    return apply_mask(data[body:end], data[body - 4 : body])
