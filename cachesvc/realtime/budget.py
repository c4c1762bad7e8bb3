"""Budget: how many errors a client may cause within a window."""

from __future__ import annotations

from typing import Final

from cachesvc.ports import Clock
from cachesvc.protocol.codes import Code

_NOT_COUNTED: Final = frozenset(  # no fault of the client's
    {
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.OUTCOME_UNKNOWN,
        Code.VERSION_CONFLICT,
        Code.NOT_FOUND,
        Code.RECOVERY_UNAVAILABLE,
    }
)


class ErrorBudget:
    """Of one session: up to `most` errors in each window of `window` seconds."""

    def __init__(self, most: int, window: float, clock: Clock) -> None:
        self.most = most
        self._window = window
        self._clock = clock
        self._caused = 0
        self._since = clock.monotonic()

    def allows(self, code: str) -> bool:
        """An error was answered: whether the client may cause more."""
        if code in _NOT_COUNTED:
            return True
        now = self._clock.monotonic()
        if now - self._since >= self._window:
            self._caused, self._since = 0, now
        self._caused += 1
        return self._caused <= self.most
