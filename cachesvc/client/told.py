"""Told: what subscriptions are told, as typed events: the models of `cachesvc.protocol`, and what only a client can know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from cachesvc.errors import InvalidInput
from cachesvc.protocol.compression import decompressed
from cachesvc.protocol.envelope import Message
from cachesvc.protocol.exact import read_value
from cachesvc.protocol.messages import FROM_SERVER, BatchPayload

MAX_BATCH = 64 << 20  # bytes of one batch, unpacked


class Other(Message):
    """A message of a type that this version does not know: of a module that configuration added, or of a newer service."""

    type: str
    payload: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missed:
    """Something may have been missed that cannot be told any more: read again what you need. Everything after it is told."""

    reason: str


Event = Message | Missed


def event_of(members: Mapping[str, Any]) -> Message:
    """A pushed message as its model; `Other` where none fits. Raises `ValidationError` for what is no message at all."""
    model = FROM_SERVER.get(members["type"])
    if model is not None:
        try:
            return model.model_validate(members)
        except ValidationError:
            pass  # a newer service may tell more kinds of a thing
    return Other.model_validate(members)


def unpacked(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a batch. Raises `InvalidInput` for one that is not what it says, or larger than `MAX_BATCH`."""
    try:
        batch = BatchPayload.model_validate(payload)
        if batch.compression is None or batch.data is None:
            return batch.updates
        text = decompressed(batch.data, batch.compression, size=batch.total_size, most=MAX_BATCH)
        return BatchPayload.model_validate({**payload, "updates": read_value(text)}).updates
    except ValidationError as exc:
        raise InvalidInput("payload", "is no batch") from exc
