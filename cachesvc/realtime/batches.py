"""Batches: several messages in one frame, plain or compressed.

The rule that must not break: no more is decompressed than was promised and is allowed, however little it came in.
"""

from __future__ import annotations

import gzip
import zlib
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import brotli

from cachesvc.errors import InvalidInput, LimitExceeded
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.frames import BatchPayload
from cachesvc.realtime.replies import frame

MOST: Final = 64  # messages that the server puts into one batch
WINDOW: Final = 0.05  # seconds that it collects them
MAX_RATIO: Final = 200  # of what is compressed; JSON comes to a tenth of it
_SLACK: Final = 4_096
_PARTS: Final = parts("value", "message", within=("payload", "updates"))


def packed(frames: Sequence[bytes], compression: str, at: float, *, name: str) -> bytes:
    """A `batch:update` of these frames."""
    text = b"[%s]" % b",".join(frames)
    data = b64encode(_COMPRESS[compression](text)).decode()
    payload = {"batchId": name, "updates": [], "data": data, "compression": compression, "totalSize": len(text)}
    return frame("batch:update", payload, at)


def unpacked(text: bytes, asked: BatchPayload, *, most: int, size: int) -> list[dict[str, Any]]:
    """The messages of a batch that came as `text`, with exact values, at most `most` of together `size` bytes.

    Raises `InvalidInput` and `LimitExceeded`.
    """
    if asked.compression is None or asked.data is None:
        if asked.data is not None:
            raise InvalidInput("payload.compression", "is missing: data says nothing without it")
        payload = read_object(text, _PARTS, field="message")["payload"]
        assert isinstance(payload, dict)  # its model has seen it
        updates = payload.get("updates", [])
    else:
        if asked.updates:
            raise InvalidInput("payload.updates", "must be empty beside data")
        array = _decompressed(asked, asked.data, asked.compression, size)
        updates = read_object(b'{"updates":%s}' % array, _PARTS, field="payload.data").get("updates")
    if not isinstance(updates, list) or not all(isinstance(update, dict) for update in updates):
        raise InvalidInput("payload.data", "is not an array of messages")
    if len(updates) > most:
        raise LimitExceeded("payload.updates", f"has {len(updates)} messages", most)
    return updates


def _decompressed(asked: BatchPayload, data: str, compression: str, most: int) -> bytes:
    size = asked.total_size
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


_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda text: gzip.compress(text, 5, mtime=0),
    "brotli": lambda text: bytes(brotli.compress(text, quality=4)),
}
_DECOMPRESS: Final[Mapping[str, Callable[[bytes, int], bytes | None]]] = {"gzip": _gunzipped, "brotli": _unbrotlied}
