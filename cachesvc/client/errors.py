"""The errors of a client, one tree.

ClientError                  the sentence is its text
├── ServiceError             the service refused: `status`, `code`, `field`, `retry_after`, `request_id`, `current_version`
│   ├── NotFound             there is no such thing                                        (404)
│   ├── Conflict             a condition was not met; nothing was changed                  (409, 412)
│   ├── StartOver            the log cannot go on from that position                       (410)
│   └── Away                 not now, nothing was changed: again after `retry_after`       (429, 503)
│       └── Unknown          it may have been done: `request_id` as `Idempotency-Key` finds out
├── Unreachable              no answer, or not all of it
├── QueueFull                as many commands wait as may; none is taken until some are answered
├── Ended                    the socket is closed for good: `code` is the close code, or the status of the handshake
├── NotTheService            an answer that this service does not give: the URL is another's
└── Damaged                  a snapshot that is not whole, or was altered
"""

from __future__ import annotations

from cachesvc.errors import CacheError


class ClientError(CacheError):
    """Root of what a client raises."""


class ServiceError(ClientError):
    """What the service answered instead of what was asked for (RFC 9457), by its members."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        field: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        current_version: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.field = field
        self.retry_after = retry_after
        self.request_id = request_id
        self.current_version = current_version


class NotFound(ServiceError):
    """There is no such thing."""


class Conflict(ServiceError):
    """A condition was not met; nothing was changed."""


class StartOver(ServiceError):
    """The log cannot go on from that position."""


class Away(ServiceError):
    """Not now; nothing was changed."""


class Unknown(Away):
    """It may have been done."""


class Unreachable(ClientError):
    """No answer, or not all of it. `sent` says whether the service may have got the request."""

    def __init__(self, detail: str, *, sent: bool = True) -> None:
        super().__init__(detail)
        self.sent = sent


class QueueFull(ClientError):
    """As many commands wait as may."""


class Ended(ClientError):
    """The socket is closed for good. `code`: the close code, or the status that refused the handshake; 0: by the client."""

    def __init__(self, detail: str, *, code: int = 0) -> None:
        super().__init__(detail)
        self.code = code


class NotTheService(ClientError):
    """An answer that this service does not give."""


class Damaged(ClientError):
    """A snapshot that is not whole, or was altered."""
