"""Reading: the parts of a frame that no model reads. Whatever is wrong is an `InvalidInput` that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cachesvc.errors import InvalidInput
from cachesvc.protocol.exact import read_message
from cachesvc.protocol.frames import MAX_FILTERED, MAX_ID


def filters_of(asked: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """For each field the values that it may have. Raises `InvalidInput`."""
    filters: dict[str, Sequence[Any]] = {}
    for name, wanted in asked.items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if len(allowed) > MAX_FILTERED or any(isinstance(value, list | dict) for value in allowed):
            reason = f"must be a text, number, boolean or null, or an array of up to {MAX_FILTERED} of them"
            raise InvalidInput(f"payload.filters.{name}", reason)
        filters[name] = allowed
    return filters


def members_of(data: str | bytes) -> dict[str, Any]:
    """The members of a frame. Raises `InvalidInput`."""
    if isinstance(data, bytes):
        raise InvalidInput("message", "is binary: frames are JSON texts", malformed=True)
    return read_message(data)


def request_id_of(members: Mapping[str, Any]) -> str | None:
    asked = members.get("requestId")
    return asked if isinstance(asked, str) and len(asked) <= MAX_ID else None


def seconds_of(timestamp: str) -> float:
    try:
        read = datetime.fromisoformat(timestamp)
    except ValueError:
        raise InvalidInput("payload.timestamp", "is not a time of ISO 8601, like 2024-01-15T10:30:00Z") from None
    if read.tzinfo is None:
        raise InvalidInput("payload.timestamp", "has no time zone")
    return read.timestamp()
