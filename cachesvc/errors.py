"""The errors of the service, one tree.

    CacheError
    ├── InvalidInput          a value from outside is not acceptable; names the field        (400, 413, 422)
    ├── SettingsError         a setting is not acceptable; the start stops                   (exit 2)
    ├── StartError            the service cannot start, or cannot go on                      (exit 1)
    ├── Refused               a draft that the fold refused; nothing was written             (409, 412, 422)
    ├── Unavailable           a part that is needed is away; nothing was written             (503)
    │   ├── TierUnavailable   one tier, by name
    │   └── Overloaded        a bounded queue is full
    ├── JobFailed             a job cannot be carried out, however often it is tried         (its state)
    ├── OutcomeUnknown        the connection was lost while committing                       (503)
    ├── PositionLost          the log cannot go on from there: start over                    (410)
    │   ├── LogTrimmed        the records after the position are no longer kept
    │   └── EpochChanged      the position belongs to another epoch
    ├── Unauthenticated       who calls is not known                                         (401)
    │   └── TokenExpired      the token was good, and its time is over
    ├── Forbidden             who calls may not do that                                      (403)
    ├── TooManyRequests       a caller asks for more than its rate allows                    (429)
    ├── LimitExceeded         more is asked for than one caller may have                     (422)
    └── SchemaMismatch        the store was written by a newer version                       (exit 3)

Adapters translate what their drivers raise (`raise … from exc`). Absence is `None`, never an error.
"""

from __future__ import annotations

from enum import StrEnum


class CacheError(Exception):
    """Root of every error that the service raises on purpose."""


class InvalidInput(CacheError):
    """A value from outside is not acceptable.

    `field` is the path of what is wrong (`"key"`, `"operations[3].ttl"`), `too_large` tells 413 from 422,
    `malformed` tells 400 (the syntax is broken) from 422 (well-formed, not acceptable).
    """

    def __init__(self, field: str, reason: str, *, too_large: bool = False, malformed: bool = False) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason
        self.too_large = too_large
        self.malformed = malformed

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class SettingsError(CacheError):
    """A setting is not acceptable: its dotted name, the value given, and what is allowed."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(setting, value, allowed)
        self.setting = setting
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"setting {self.setting} = {self.value!r}: {self.allowed}"


class StartError(CacheError):
    """The service cannot start, or cannot go on: one line for whoever started it."""


class Refusal(StrEnum):
    """Why the fold refused a draft."""

    VERSION_CONFLICT = "VERSION_CONFLICT"  # the entry is not at the version that was expected
    STALE_FILL = "STALE_FILL"  # the key or a parent changed since the miss that the fill answers
    NOT_A_NUMBER = "NOT_A_NUMBER"  # an increment of something that is not a JSON number
    OUT_OF_RANGE = "OUT_OF_RANGE"  # an increment whose exact result is too long to keep
    KEY_REUSED = "KEY_REUSED"  # an idempotency key that came with another request before
    TOO_MUCH = "TOO_MUCH"  # a cascade over more keys or levels than are allowed
    UNSUPPORTED = "UNSUPPORTED"  # the authority keeps no index of what is asked for
    TOO_MANY_PATTERNS = "TOO_MANY_PATTERNS"  # as many invalidations by pattern are active as are allowed
    CONFLICT_CLOSED = "CONFLICT_CLOSED"  # the conflict was settled already, or is forgotten
    NOT_FOUND = "NOT_FOUND"  # there is no such conflict
    NO_OPTION = "NO_OPTION"  # not one of the options of a conflict
    INTERNAL = "INTERNAL"  # the draft could not be folded; the others were


class Refused(CacheError):
    """A draft that the fold refused: why, which field, and the version that the entry has (0: absent).

    `replayed` says that it is the answer given before, to the same idempotency key.
    """

    def __init__(self, code: Refusal, field: str, reason: str, *, current: int = 0, replayed: bool = False) -> None:
        super().__init__(code, field, reason, current)
        self.code = code
        self.field = field
        self.reason = reason
        self.current = current
        self.replayed = replayed

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class Unavailable(CacheError):
    """A part that is needed is away; nothing was written. `retry_after` is in seconds."""

    def __init__(self, reason: str, *, retry_after: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.reason


class TierUnavailable(Unavailable):
    """A tier did not answer, by its name (`"redis"`, `"database"`), or if `answered` said that it cannot (a full disk)."""

    def __init__(self, tier: str, reason: str, *, retry_after: float = 1.0, answered: bool = False) -> None:
        super().__init__(f"{tier}: {reason}", retry_after=retry_after)
        self.tier = tier
        self.answered = answered


class Overloaded(Unavailable):
    """A bounded queue is full: asked again a little later, it will have room."""


class JobFailed(CacheError):
    """A job cannot be carried out, however often it is tried: the reason that its state tells."""


class OutcomeUnknown(CacheError):
    """The connection was lost while committing. `request_id`, sent as `Idempotency-Key`, finds out what happened."""

    def __init__(self, reason: str, *, request_id: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.request_id = request_id

    def __str__(self) -> str:
        return f"outcome unknown: {self.reason}"


class PositionLost(CacheError):
    """The log cannot go on from a position; whoever follows it starts over."""


class LogTrimmed(PositionLost):
    """The records after `after` are no longer kept; the oldest that can be read comes after `oldest`."""

    def __init__(self, after: int, oldest: int) -> None:
        super().__init__(after, oldest)
        self.after = after
        self.oldest = oldest

    def __str__(self) -> str:
        return f"the log after {self.after} was trimmed; it starts after {self.oldest}"


class EpochChanged(PositionLost):
    """The position belongs to another epoch than the log's (`current`), or to none: the log has another past."""

    def __init__(self, epoch: int, current: int) -> None:
        super().__init__(epoch, current)
        self.epoch = epoch
        self.current = current

    @property
    def history_lost(self) -> bool:
        """Whether the log is behind what was seen of it, or has another past: nobody has begun an epoch for that yet."""
        return self.current <= self.epoch

    def __str__(self) -> str:
        if self.epoch == self.current:
            return f"the position is not in the log's history in epoch {self.epoch}, or past its end"
        return f"epoch {self.epoch} is over; the log is in epoch {self.current}"


class Unauthenticated(CacheError):
    """Who calls is not known: no credentials, or none that are believed."""


class TokenExpired(Unauthenticated):
    """The token was good, and its time is over: with a new one the same request can succeed."""


class Forbidden(CacheError):
    """Who calls is known, and may not do `action` to `resource`."""

    def __init__(self, action: str, resource: str, reason: str = "") -> None:
        super().__init__(action, resource, reason)
        self.action = action
        self.resource = resource
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.action} of {self.resource} is not allowed to you" + (f": {self.reason}" if self.reason else "")


class LimitExceeded(CacheError):
    """More is asked for than one caller may have: of what, how it is too much, and how many are allowed."""

    def __init__(self, field: str, reason: str, most: int) -> None:
        super().__init__(field, reason, most)
        self.field = field
        self.reason = reason
        self.most = most

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}; allowed are up to {self.most}"


class TooManyRequests(CacheError):
    """A caller asks for more than its rate allows. Which `scope` counts ("user"), and how its bucket stands; seconds."""

    def __init__(self, scope: str, limit: int, remaining: int, full_in: float, window: float, *, retry_after: float) -> None:
        super().__init__(scope, limit)
        self.scope = scope
        self.limit = limit
        self.remaining = remaining
        self.full_in = full_in
        self.window = window
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"more than the rate of this {self.scope} allows"


class SchemaMismatch(CacheError):
    """The store holds a schema that this version does not know."""
