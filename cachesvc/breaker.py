"""Circuit breaker: a tier that fails is left alone for a while, then asked again by one caller at a time.

The rule: while it is open nobody waits for the tier.
"""

from __future__ import annotations

from typing import Final

from cachesvc.errors import CacheError, TierUnavailable
from cachesvc.ports import Clock

_PAUSE: Final = 0.1  # seconds, doubled by each failed probe
_LONGEST: Final = 5.0


class Breaker:
    """Closed, open, or half-open (one probe under way). The pause doubles with each failed probe, up to five seconds."""

    def __init__(self, clock: Clock, *, threshold: int = 2) -> None:
        self._clock = clock
        self._threshold = threshold
        self._pause = _PAUSE
        self._failures = 0
        self._until = 0.0
        self._probing = False
        self.opened = 0

    @property
    def state(self) -> str:
        """`"closed"`, `"open"` or `"half-open"`."""
        if self._failures < self._threshold:
            return "closed"
        return "open" if self._clock.monotonic() < self._until else "half-open"

    @property
    def refuses(self) -> bool:
        """Whether a caller that came now would be refused: it is open, or another one probes."""
        return self._failures >= self._threshold and (self._probing or self._clock.monotonic() < self._until)

    def away(self, tier: str) -> TierUnavailable:
        """What callers are told whom it refuses."""
        left = max(self._until - self._clock.monotonic(), _PAUSE)
        return TierUnavailable(tier, "did not answer, and is not asked again yet", retry_after=left)

    def allows(self) -> bool:
        """Whether to ask the tier now. Each True is followed by `succeeded`, `failed` or `abandoned`."""
        if self._failures < self._threshold:
            return True
        if self._probing or self._clock.monotonic() < self._until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = _PAUSE
        self._probing = False

    def failed(self) -> None:
        self._failures += 1
        if self._failures == self._threshold:
            self.opened += 1
        elif self._failures > self._threshold and self._probing:
            self._pause = min(_LONGEST, 2 * self._pause)
        self._probing = False
        self._until = self._clock.monotonic() + self._pause

    def failed_with(self, error: CacheError) -> None:
        """A tier that says no is there: nobody waits for it, so nobody has to be kept from it."""
        if isinstance(error, TierUnavailable) and error.answered:
            self.succeeded()
        else:
            self.failed()

    def abandoned(self) -> None:
        """The call was cancelled: it says nothing of the tier."""
        self._probing = False
