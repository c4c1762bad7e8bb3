"""Moments: Unix seconds, and the texts of ISO 8601 that stand for them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def moment(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    return _millisecond(round(at * 1_000_000) // 1_000)


@lru_cache(64)
def _millisecond(number: int) -> str:
    """Made once a millisecond, for all that is told in it."""
    whole, part = divmod(number, 1_000)
    return f"{datetime.fromtimestamp(whole, UTC).isoformat(timespec='seconds').removesuffix('+00:00')}.{part:03}Z"


def parse_moment(text: str) -> float | None:
    """An ISO 8601 time, in UTC unless it says otherwise, as Unix seconds; None for what is none."""
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
