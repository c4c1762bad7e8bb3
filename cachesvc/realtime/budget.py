"""Budget: how often something may go wrong within a window."""

from __future__ import annotations

from typing import Final

from cachesvc.ports import Clock
from cachesvc.protocol.codes import Code

NOT_COUNTED: Final = frozenset(  # errors that are no fault of the client's
    {
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.OUTCOME_UNKNOWN,
        Code.VERSION_CONFLICT,
        Code.NOT_FOUND,
        Code.RECOVERY_UNAVAILABLE,
    }
)


class Budget:
    """Of one session: up to `most` in each window of `window` seconds."""

    def __init__(self, most: int, window: float, clock: Clock) -> None:
        self.most = most
        self._window = window
        self._clock = clock
        self._spent = 0
        self._since = clock.monotonic()

    def allows(self) -> bool:
        """It went wrong once more: whether it may again."""
        now = self._clock.monotonic()
        if now - self._since >= self._window:
            self._spent, self._since = 0, now
        self._spent += 1
        return self._spent <= self.most
