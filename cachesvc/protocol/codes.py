"""Codes: what went wrong, in one word, the same over HTTP and over the socket.

Clients decide by the code whether to try again, so a code never changes its meaning: add, never rename.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from cachesvc.errors import (
    Forbidden,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    PositionLost,
    Refusal,
    Refused,
    TokenExpired,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)


class Code(StrEnum):
    """The codes of errors, as clients see them."""

    INTERNAL = "INTERNAL"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    UNAVAILABLE = "UNAVAILABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a word, not a secret
    RECOVERY_UNAVAILABLE = "RECOVERY_UNAVAILABLE"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    BAD_MESSAGE = "BAD_MESSAGE"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    TOO_LARGE = "TOO_LARGE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    CONFLICT_CLOSED = "CONFLICT_CLOSED"

    @property
    def recoverable(self) -> bool:
        """Whether the same request, sent again or after reading again, can succeed."""
        return self in _RECOVERABLE


_RECOVERABLE: Final = frozenset(
    {
        Code.INTERNAL,
        Code.TOO_MANY_REQUESTS,
        Code.UNAVAILABLE,
        Code.OUTCOME_UNKNOWN,
        Code.TOKEN_EXPIRED,
        Code.RECOVERY_UNAVAILABLE,
        Code.VERSION_CONFLICT,
    }
)

_REFUSALS: Final = {
    Refusal.VERSION_CONFLICT: Code.VERSION_CONFLICT,
    Refusal.STALE_FILL: Code.VERSION_CONFLICT,
    Refusal.TOO_MANY_PATTERNS: Code.UNAVAILABLE,
    Refusal.TOO_MUCH: Code.LIMIT_EXCEEDED,
    Refusal.NOT_FOUND: Code.NOT_FOUND,
    Refusal.CONFLICT_CLOSED: Code.CONFLICT_CLOSED,
    Refusal.INTERNAL: Code.INTERNAL,
}


class CloseCode(IntEnum):
    """Why the server closes a socket. After those below 4500 a client connects again; after the others it should not."""

    GOING_AWAY = 1001
    TOO_BIG = 1009
    RESTART = 1012
    DRAIN = 4001
    TOKEN_EXPIRED = 4003
    SLOW = 4008
    STATE_LOST = 4009
    NO_PONG = 4011
    RATE = 4029
    BAD_TOKEN = 4500
    PROTOCOL = 4501
    AUTH_TIMEOUT = 4502
    FORBIDDEN = 4503
    TOO_MANY_CONNECTIONS = 4504
    REVOKED = 4505
    TOO_MANY_ERRORS = 4509


_CODES: Final[dict[type[Exception], Code]] = {
    OutcomeUnknown: Code.OUTCOME_UNKNOWN,
    Unauthenticated: Code.UNAUTHENTICATED,
    TokenExpired: Code.TOKEN_EXPIRED,
    Forbidden: Code.FORBIDDEN,
    LimitExceeded: Code.LIMIT_EXCEEDED,
    TooManyRequests: Code.TOO_MANY_REQUESTS,
}


def code_of(error: Exception) -> Code:
    """The code that tells a client of an error; `INTERNAL` for what nobody foresaw."""
    match error:
        case InvalidInput():
            return Code.TOO_LARGE if error.too_large else Code.BAD_MESSAGE
        case Refused():
            return _REFUSALS.get(error.code, Code.BAD_MESSAGE)
        case Unavailable():
            return Code.UNAVAILABLE
        case PositionLost():
            return Code.RECOVERY_UNAVAILABLE
        case _:
            return _CODES.get(type(error), Code.INTERNAL)
