"""Pace: how many commands may be sent, where the service has said by `rate-limit` that it counts them.

A bucket as the service has one: `remaining` tokens now, `limit` at most, all of them again at `resetAt`. A command counts as
one; the service may count it as more, and refuses it then, with the time after which it can be paid for.
"""

from __future__ import annotations

import math
import sys
from typing import Final

from cachesvc.model.moments import parse_moment
from cachesvc.protocol.messages import RateLimitPayload

_HAIR: Final = 1e-6  # tokens that are lost in rounding


class Pace:
    """As many as wanted, until something is told; and again once the bucket is full."""

    def __init__(self) -> None:
        self._limit = 0
        self._rate = math.inf  # tokens a second
        self._left = 0.0  # tokens, at that time
        self._at = 0.0

    def told(self, payload: RateLimitPayload, timestamp: str, now: float) -> None:
        """A `rate-limit` of that timestamp came. `now` is by the monotonic clock, as everywhere here."""
        full, sent = parse_moment(payload.reset_at), parse_moment(timestamp)
        missing = payload.limit - payload.remaining
        if full is None or sent is None or full <= sent or missing <= 0:
            self._rate = math.inf
            return
        self._limit, self._rate = payload.limit, missing / (full - sent)
        self._left, self._at = float(payload.remaining), now

    def hold(self, until: float) -> None:
        """A command was refused that can be paid for then: what is asked for until then goes after it."""
        if self._rate < math.inf and until > self.free_at:
            self._left, self._at = 1.0, until

    def allows(self, now: float) -> int:
        """How many may be sent now."""
        if self._rate == math.inf:
            return sys.maxsize
        left = self._left + (now - self._at) * self._rate
        if left >= self._limit:
            self._rate = math.inf
            return sys.maxsize
        return max(0, int(left + _HAIR))

    def spend(self, sent: int) -> None:
        """So many were sent."""
        self._left -= sent

    @property
    def free_at(self) -> float:
        """When one may be sent: it may be in the past."""
        return -math.inf if self._rate == math.inf else self._at + (1.0 - self._left) / self._rate
