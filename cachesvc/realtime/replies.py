"""Replies: frames as bytes, and errors as the protocol tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from cachesvc.errors import Forbidden, InvalidInput, LimitExceeded, OutcomeUnknown, Refused, TooManyRequests, Unavailable
from cachesvc.model.moments import moment
from cachesvc.protocol.codes import Code, code_of

_LONGEST: Final = 1_000  # characters of a text that may quote what came from outside
# what the engine refuses by a name that it has over HTTP
_MEMBERS: Final = {"Idempotency-Key": "idempotencyKey", "Fill-Token": "fillToken"}


def frame(kind: str, payload: Mapping[str, object], at: float, *, answers: str | None = None, **more: object) -> bytes:
    """A frame of a type; `answers` is the requestId of what it answers."""
    members: dict[str, object] = {"type": kind, "payload": payload, "timestamp": moment(at)}
    if answers is not None:
        members["correlationId"] = answers
    return orjson.dumps(members | more)


def rate_limit(limit: int, remaining: int, full_in: float, window: float, now: float) -> dict[str, object]:
    """The payload of a `rate-limit`: tokens, and when all of them are there again."""
    minutes = window % 60 == 0
    return {
        "limit": limit,
        "remaining": remaining,
        "resetAt": moment(now + full_in),
        "window": f"{window / 60:g}m" if minutes else f"{window:g}s",
    }


def refusal(code: Code, message: str, details: Mapping[str, object] | None = None) -> dict[str, object]:
    """The payload of an `error`."""
    payload: dict[str, object] = {"code": code.value, "message": _printable(message), "recoverable": code.recoverable}
    if details:
        payload["details"] = details
    return payload


def refusal_of(error: Exception) -> dict[str, object]:
    """An error of the tree as the payload of an `error`. What nobody foresaw is told without a word of its inside."""
    code = code_of(error)
    if code is Code.INTERNAL:
        return refusal(code, "an error that is not yours; the log of the service has it")
    details: dict[str, object] = {}
    match error:
        case InvalidInput():
            details["field"] = _printable(error.field)
        case Refused():
            details["field"] = f"payload.{_MEMBERS.get(error.field, error.field)}"
        case LimitExceeded():
            details |= {"field": _printable(error.field), "limit": error.most}
        case OutcomeUnknown(request_id=asked) if asked:
            details["idempotencyKey"] = asked
        case Forbidden():
            details |= {"action": error.action, "resource": _printable(error.resource)}
    if isinstance(error, Refused) and code is Code.VERSION_CONFLICT:
        details["currentVersion"] = error.current
    if isinstance(error, Refused) and error.replayed:
        details["replayed"] = True
    said = f"{details['field']}: {error.reason}" if isinstance(error, Refused) else str(error)
    payload = refusal(code, said, details)
    if isinstance(error, Unavailable | TooManyRequests):
        payload["retryAfter"] = error.retry_after
    return payload


def _printable(text: str) -> str:
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()
