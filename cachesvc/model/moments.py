"""Moments: Unix seconds, and the texts of ISO 8601 that stand for them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def moment(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    micros = round(at * 1_000_000)
    return f"{_second(micros // 1_000_000)}.{micros // 1_000 % 1_000:03}Z"


@lru_cache(64)
def _second(whole: int) -> str:
    """Made once a second, for all that is told in it."""
    return datetime.fromtimestamp(whole, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def parse_moment(text: str) -> float | None:
    """An ISO 8601 time, in UTC unless it says otherwise, as Unix seconds; None for what is none."""
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
