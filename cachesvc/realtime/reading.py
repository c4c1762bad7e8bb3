"""Reading: the parts of a frame that no model reads. Whatever is wrong is an `InvalidInput` that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from cachesvc.errors import InvalidInput, LimitExceeded
from cachesvc.protocol.exact import check_members, find_text, read_message, read_object
from cachesvc.protocol.frames import EXACT, MAX_FILTER_SIZE, MAX_FILTERED, MAX_ID

Filters = Mapping[tuple[str, ...], Sequence[Any]]
_PLAIN: Final = 8  # what a value that is no text counts for


def filters_of(asked: Mapping[str, Any]) -> Filters:
    """For each field, by the way to it, the values that it may have. Raises `InvalidInput` and `LimitExceeded`."""
    filters: dict[tuple[str, ...], Sequence[Any]] = {}
    size = 0
    for name, wanted in asked.items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if len(allowed) > MAX_FILTERED or any(isinstance(value, list | dict) for value in allowed):
            reason = f"must be a text, number, boolean or null, or an array of up to {MAX_FILTERED} of them"
            raise InvalidInput(f"payload.filters.{name}", reason)
        size += len(name) + sum(len(value) if isinstance(value, str) else _PLAIN for value in allowed)
        if size > MAX_FILTER_SIZE:
            raise LimitExceeded("payload.filters", "are too long together", MAX_FILTER_SIZE)
        filters[tuple(name.split("."))] = allowed
    return filters


def members_of(data: str | bytes) -> dict[str, Any]:
    """The members of a frame. Raises `InvalidInput`."""
    if isinstance(data, bytes):
        raise InvalidInput("message", "is binary: frames are JSON texts", malformed=True)
    return read_message(data)


def exactly(members: Mapping[str, Any], kind: str, text: bytes) -> Mapping[str, Any]:
    """The members of a frame of that type, with the values that are kept as they were sent. Raises `InvalidInput`, also where
    a member is given twice: what has two readings is refused."""
    if kind in EXACT:
        return read_object(text, EXACT[kind], field="message")
    check_members(text.decode(), field="message")
    return members


def request_id_of(members: Mapping[str, Any]) -> str | None:
    """What an answer to it is told by. One that is too long is not repeated: the error names `requestId`."""
    asked = members.get("requestId")
    return asked if isinstance(asked, str) and len(asked) <= MAX_ID else None


def request_id_in(data: str | bytes) -> str | None:
    """The same of a frame whose members cannot be read, as far as it can be made out."""
    return request_id_of({"requestId": find_text(data, "requestId")}) if isinstance(data, str) else None


def seconds_of(timestamp: str) -> float:
    try:
        read = datetime.fromisoformat(timestamp)
    except ValueError:
        raise InvalidInput("payload.timestamp", "is not a time of ISO 8601, like 2024-01-15T10:30:00Z") from None
    if read.tzinfo is None:
        raise InvalidInput("payload.timestamp", "has no time zone")
    return read.timestamp()
