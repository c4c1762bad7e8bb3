"""Options: the limits of a client of the socket."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Counts and seconds."""

    max_pending: int = 1_000  # commands that are not answered, sent or not
    max_held: int = 10_000  # live messages while what was missed is recovered
    max_seen: int = 100_000  # versions past the position of a subscription that are known to have been told
    max_events: int = 10_000  # of one subscription, that are not taken up
    greeting_timeout: float = 15.0
    answer_timeout: float = 30.0  # of a subscription, and of each part of a recovery
    first_pause: float = 0.5  # before the second attempt to connect, at most; doubled from one to the next
    longest_pause: float = 30.0
    stable: float = 10.0  # a connection that lasted so long was a success
