"""Delays: how long changes took until they were in force on a node, counted by size.

Bounded whatever is noted: a count for each size, ten to a decade, so that what is told is too high by a quarter at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_STEPS: Final = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
BOUNDS: Final = tuple(step * 10.0**power for power in range(-4, 3) for step in _STEPS)  # 0.1 ms to 800 s
SLICE: Final = 10.0  # seconds
SLICES: Final = 6


@dataclass(slots=True)
class _Slice:
    """What was noted within some seconds, from `since` on."""

    since: float
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    highest: float = 0.0


class Delays:
    """Delays in seconds, of the last minute and since the start. `now` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)  # since the start, by bound; the last is over all bounds
        self.total = 0.0  # seconds since the start
        self._now = now
        self._slices: deque[_Slice] = deque(maxlen=SLICES)

    def note(self, seconds: float, times: int = 1) -> None:
        """So many took so long. Less than nothing, as clocks that differ have it, is nothing."""
        seconds = max(0.0, seconds)
        place = bisect_left(BOUNDS, seconds)
        now = self._now()
        if not self._slices or now >= self._slices[-1].since + SLICE:
            self._slices.append(_Slice(now))
        latest = self._slices[-1]
        latest.counts[place] += times
        latest.highest = max(latest.highest, seconds)
        self.counts[place] += times
        self.total += times * seconds

    def latest(self) -> Mapping[str, float | int | None]:
        """`count`, `p50`, `p99` and `max` of the last minute; None where nothing was noted."""
        since = self._now() - SLICE * SLICES
        slices = [one for one in self._slices if one.since > since]
        counts = [sum(column) for column in zip(*(one.counts for one in slices), strict=True)]
        count = sum(counts)
        if not count:
            return {"count": 0, "p50": None, "p99": None, "max": None}
        highest = max(one.highest for one in slices)
        p50, p99 = (min(highest, _at(counts, share * count)) for share in (0.5, 0.99))
        return {"count": count, "p50": p50, "p99": p99, "max": highest}


def _at(counts: Iterable[int], rank: float) -> float:
    """The least bound up to which there are so many."""
    seen = 0
    for bound, count in zip((*BOUNDS, float("inf")), counts, strict=True):
        seen += count
        if seen >= rank:
            return bound
    return float("inf")
