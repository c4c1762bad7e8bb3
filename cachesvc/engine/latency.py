"""Latencies: percentiles over the latest calls of a tier."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


class Latencies:
    """The durations, in seconds, of the last `kept` calls."""

    def __init__(self, kept: int = 1_024) -> None:
        self._seconds: deque[float] = deque(maxlen=kept)

    def note(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def percentiles(self) -> Mapping[str, float]:
        """`p50`, `p95` and `p99` in seconds; empty when nothing was measured."""
        ordered = sorted(self._seconds)
        if not ordered:
            return {}
        last = len(ordered) - 1
        return {f"p{share}": ordered[round(last * share / 100)] for share in (50, 95, 99)}
