"""Compression of batches, unpacked again within bounds, by either side of the socket.

The rule that must not break: no more is decompressed than was promised and is allowed, however little it came in.
"""

from __future__ import annotations

import zlib
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping
from typing import Final

import brotli

from cachesvc.errors import InvalidInput
from cachesvc.protocol.frames import Compression

MAX_RATIO: Final = 200  # of what is compressed; JSON comes to a tenth of it
_SLACK: Final = 4_096


def decompressed(data: str, compression: Compression, *, size: int, most: int) -> bytes:
    """The text that `data` holds in base64, which is to have `size` bytes, at most `most`. Raises `InvalidInput`."""
    if size > most:
        raise InvalidInput("payload.totalSize", f"is over the limit of {most} bytes", too_large=True)
    try:
        compressed = b64decode(data, validate=True)
    except (NotBase64, ValueError):
        raise InvalidInput("payload.data", "is not base64") from None
    if size > len(compressed) * MAX_RATIO + _SLACK:
        raise InvalidInput("payload.totalSize", f"is over {MAX_RATIO} times what came", too_large=True)
    try:
        text = _DECOMPRESS[compression](compressed, size)
    except (zlib.error, brotli.error):
        raise InvalidInput("payload.data", f"is not {compression}") from None
    if text is None or len(text) != size:
        raise InvalidInput("payload.totalSize", "is not the size of what data holds")
    return text


def _gunzipped(data: bytes, size: int) -> bytes | None:
    """None when there is more, or less, than one stream of that size."""
    reader = zlib.decompressobj(wbits=31)
    text = reader.decompress(data, size + 1)
    return text if reader.eof and not reader.unused_data else None


def _unbrotlied(data: bytes, size: int) -> bytes | None:
    reader = brotli.Decompressor()
    text: bytes = reader.process(data, output_buffer_limit=size + 1)
    while len(text) <= size and not reader.is_finished():
        more: bytes = reader.process(b"", output_buffer_limit=size + 1 - len(text))
        if not more:
            break
        text += more
    return text if reader.is_finished() else None


_DECOMPRESS: Final[Mapping[str, Callable[[bytes, int], bytes | None]]] = {"gzip": _gunzipped, "brotli": _unbrotlied}
