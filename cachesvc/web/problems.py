"""Problems: every error as `application/problem+json` (RFC 9457), mapped from the error tree here and nowhere else.

What nobody foresaw is told without a word of its inside; the log has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Final

import orjson
from starlette.responses import Response

from cachesvc.errors import (
    Forbidden,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    PositionLost,
    Refusal,
    Refused,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from cachesvc.protocol.codes import Code, code_of
from cachesvc.web.ids import new_id
from cachesvc.web.phrases import PHRASES, STATUS_LINES

MEDIA_TYPE: Final = "application/problem+json"

_REFUSED_STATUS: Final = {
    Refusal.VERSION_CONFLICT: 412,
    Refusal.STALE_FILL: 412,
    Refusal.NOT_FOUND: 404,
    Refusal.INTERNAL: 500,
}
_LONGEST: Final = 1_000  # characters of a text that may come from outside


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is told.

    `request_id` "" means that of the request; None that there is none to ask again with, so none is told.
    """

    status: int
    code: Code
    detail: str
    field: str = ""
    retry_after: float | None = None
    request_id: str | None = ""
    members: Mapping[str, object] = default(default_factory=dict)
    headers: Mapping[str, str] = default(default_factory=dict)

    def body(self, request_id: str = "") -> dict[str, object]:
        """The members, for an answer of its own or within a batch."""
        told = request_id if self.request_id == "" else self.request_id
        body: dict[str, object] = {
            "type": "about:blank",
            "title": PHRASES[self.status],
            "status": self.status,
            "detail": _printable(self.detail),
            "code": self.code.value,
            "recoverable": self.code.recoverable,
        }
        if self.field:
            body["field"] = _printable(self.field)
        if self.retry_after is not None:
            body["retryAfter"] = self.retry_after
        if told:
            body["requestId"] = told
        return body | dict(self.members)

    def response(self, request_id: str) -> Response:
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.request_id:
            headers["X-Request-Id"] = self.request_id
        return Response(orjson.dumps(self.body(request_id)), self.status, headers, MEDIA_TYPE)

    def raw(self, request_id: str = "", *, last: bool = True, bodiless: bool = False) -> bytes:
        """The whole answer as bytes, for what never reaches the application; if `last`, the last of its connection."""
        request_id = request_id or new_id()
        response = self.response(request_id)
        response.headers["X-Request-Id"] = request_id
        head = [STATUS_LINES[self.status].rstrip()]
        head += [b"%s: %s" % header for header in response.raw_headers]
        if last:
            head.append(b"connection: close")
        return b"\r\n".join([*head, b"", b"" if bodiless else bytes(response.body)])


class ProblemRaised(Exception):
    """A request that is answered with a problem of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911, PLR0912 - one return a case
    """The problem that an error is to a client."""
    code = code_of(error)
    match error:
        case ProblemRaised():
            return error.problem
        case InvalidInput():
            status = 413 if error.too_large else 400 if error.malformed else 422
            return Problem(status, code, str(error), error.field)
        case Refused(code=Refusal.TOO_MANY_PATTERNS):
            return Problem(503, code, str(error), error.field, retry_after=5.0)
        case Refused(code=Refusal.INTERNAL):
            return Problem(500, code, "the operation could not be carried out")
        case Refused():
            members = {"currentVersion": error.current} if code is Code.VERSION_CONFLICT else {}
            headers = {"Idempotency-Replayed": "true"} if error.replayed else {}
            status = _REFUSED_STATUS.get(error.code, 422)
            return Problem(status, code, str(error), error.field, members=members, headers=headers)
        case OutcomeUnknown():
            return Problem(503, code, str(error), retry_after=1.0, request_id=error.request_id or None)
        case Unavailable():
            return Problem(503, code, str(error), retry_after=error.retry_after)
        case PositionLost():
            return Problem(410, code, f"{error}; start over from what you read now")
        case LimitExceeded():
            return Problem(422, code, str(error), error.field, members={"limit": error.most})
        case TooManyRequests():
            quota = f'"{error.scope}";q={error.limit};w={math.ceil(error.window)}'
            headers = {
                "RateLimit-Policy": quota,
                "RateLimit": f'"{error.scope}";r={error.remaining};t={math.ceil(error.retry_after)}',
            }
            return Problem(429, code, str(error), retry_after=error.retry_after, headers=headers)
        case Unauthenticated() | Forbidden():
            if code is Code.FORBIDDEN:
                return Problem(403, code, str(error))
            return Problem(401, code, str(error), headers={"WWW-Authenticate": "Bearer"})
        case _:
            return Problem(500, code, "an error that is not yours; the log of the service has it")


def _printable(text: str) -> str:
    """A text that may quote what came from outside, short and encodable."""
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()
