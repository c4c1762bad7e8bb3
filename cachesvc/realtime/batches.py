"""Batches: several messages in one frame, plain or compressed."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import brotli

from cachesvc.errors import Forbidden, InvalidInput, LimitExceeded
from cachesvc.model.keys import parse_name
from cachesvc.model.syncs import Sync, resource_of
from cachesvc.protocol.compression import decompressed
from cachesvc.protocol.exact import parts, read_object
from cachesvc.protocol.frames import BatchPayload
from cachesvc.realtime.identity import Identity
from cachesvc.realtime.replies import frame

MOST: Final = 64  # messages that the server puts into one batch
WINDOW: Final = 0.05  # seconds that it collects them
_PARTS: Final = parts("value", "message", "data", within=("payload", "updates"))


def packed(text: bytes, compression: str, at: float, *, name: str) -> bytes:
    """A `batch:update` of the messages that are the items of an array."""
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
        _check_count(asked.updates, most)
        payload = read_object(text, _PARTS, field="message")["payload"]
        assert isinstance(payload, dict)  # its model has seen it
        updates = payload.get("updates", [])
    else:
        if asked.updates:
            raise InvalidInput("payload.updates", "must be empty beside data")
        array = decompressed(asked.data, asked.compression, size=asked.total_size, most=size)
        updates = read_object(b'{"updates":%s}' % array, _PARTS.up_to(most), field="payload.data").get("updates")
    if not isinstance(updates, list) or not all(isinstance(update, dict) for update in updates):
        raise InvalidInput("payload.data", "is not an array of messages")
    _check_count(updates, most)
    return updates


def _check_count(updates: Sequence[object], most: int) -> None:
    if len(updates) > most:
        raise LimitExceeded("payload.updates", f"has {len(updates)} messages", most)


def sync_of(asked: BatchPayload, identity: Identity | None, total: int) -> Sync | None:
    """How far it has come, where that is to be told. Raises `InvalidInput`, and `Forbidden` for who may not tell."""
    if asked.sync_id is None:
        return None
    resource = resource_of(parse_name(asked.sync_id, field="payload.syncId"))
    if identity is None or not identity.may("write", resource):
        raise Forbidden("write", resource)
    return Sync(asked.sync_id, total)


_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda text: gzip.compress(text, 5, mtime=0),
    "brotli": lambda text: bytes(brotli.compress(text, quality=4)),
}
