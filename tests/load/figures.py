"""Figures: how many requests of each kind, how long they took, what answered them, what went wrong.

Their size does not depend on the number of requests.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.load.checker import Checker

ALL: Final = "all"
TIERS: Final = ("memory", "redis", "database", "loader", "miss")
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_STEP: Final = math.log(1.01)  # a percentile is right within 1 %
_MAX_ERRORS: Final = 50  # different ones; all are counted
WRONG: Final = {
    "content": "values that are not what was written",
    "version": "versions that did not grow",
    "push": "messages missed by a subscriber, told twice or in the wrong order",
}
_HIT: Final = re.compile(r"cachesvc; hit;.*detail=(memory|redis|database)(?:;|$)")


class Timings:
    """A histogram of durations in seconds, its buckets growing by 1 % each."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self.count += 1
        self.longest = max(self.longest, seconds)
        self._buckets[math.ceil(math.log(max(seconds, 1e-6)) / _STEP)] += 1

    def percentile(self, share: float) -> float:
        """The duration that `share` of all did not exceed; 0 when there were none."""
        wanted = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(math.exp(bucket * _STEP), self.longest)
        return 0.0


@dataclass(slots=True)
class _Interval:
    """What has happened since it began; `tiers` as they stood then."""

    began: float = 0.0
    tiers: Counter[str] = field(default_factory=Counter)
    timings: Timings = field(default_factory=Timings)


class Figures:
    """What a run measured."""

    def __init__(self) -> None:
        self.timings: dict[str, Timings] = {ALL: Timings()}
        self.errors: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()  # requests, by kind
        self.tiers: Counter[str] = Counter()
        self.refused = 0  # fills that came too late, as they may
        self.told = 0  # messages that subscribers got
        self._since = _Interval()

    def add(self, kind: str, seconds: float, error: str | None = None) -> None:
        for name in (kind, ALL):
            self.timings.setdefault(name, Timings()).add(seconds)
        self._since.timings.add(seconds)
        if error is not None:
            self.fail(kind, error)

    def fail(self, kind: str, error: str) -> None:
        for name in (kind, ALL):
            self.failed[name] += 1
        text = f"{kind}: {error[:200]}"
        self.errors[text if text in self.errors or len(self.errors) < _MAX_ERRORS else f"{kind}: others"] += 1

    def pushed(self, seconds: float) -> None:
        """A subscriber was told of a write so long after it had begun."""
        self.timings.setdefault("push", Timings()).add(seconds)

    def progress(self, elapsed: float) -> str:
        """A line about what has happened since the last one."""
        last, self._since = self._since, _Interval(elapsed, self.tiers.copy())
        times = ", ".join(f"{name} {last.timings.percentile(share) * 1_000:.1f}" for name, share in PERCENTILES.items())
        tiers = self.tiers - last.tiers
        rate = last.timings.count / max(elapsed - last.began, 1e-9)
        answered = ", ".join(f"{tier} {100 * tiers[tier] / (tiers.total() or 1):.0f} %" for tier in TIERS)
        return f"{elapsed:5.0f} s: {rate:,.0f}/s, {times} ms, {self.failed[ALL]:,} errors; reads from {answered}"

    def tables(self, elapsed: float) -> Iterator[str]:
        """The figures in lines; times in milliseconds."""
        yield f"{'':8}{'requests':>10}{'per s':>10}{'errors':>8}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'max ms':>10}"
        for kind, timings in sorted(self.timings.items(), key=lambda item: (item[0] == ALL, -item[1].count)):
            shown = [timings.percentile(share) for share in (0.5, 0.95, 0.99)] + [timings.longest]
            times = "".join(f"{seconds * 1_000:>10.2f}" for seconds in shown)
            yield f"{kind:8}{timings.count:>10,}{timings.count / elapsed:>10,.0f}{self.failed[kind]:>8,}{times}"
        answered = self.tiers.total() or 1
        yield "reads answered by " + ", ".join(f"{tier} {100 * self.tiers[tier] / answered:.2f} %" for tier in TIERS)
        if self.refused:
            yield f"{self.refused:,} fills came after a newer change, and were refused"
        if self.told:
            yield f"{self.told:,} messages pushed to subscribers"
        for text, times_ in self.errors.most_common():
            yield f"error, {times_:,} ×: {text}"


def tier_of(cache_status: str | None, status: int) -> str | None:
    """Which tier answered a read, "miss" for none, by its `Cache-Status` (RFC 9211); None when it does not say or fit."""
    text = cache_status or ""
    if status == 404:
        return "miss" if text.startswith("cachesvc; fwd=uri-miss") else None
    if text.startswith("cachesvc; fwd=uri-miss") and text.endswith("detail=loader"):
        return "loader"
    found = _HIT.match(text)
    return found[1] if found else None


def verdict(figures: Figures, checker: Checker) -> tuple[list[str], bool]:
    """What the checker found, in lines, and whether the run passed: no error, no violation, and something was checked."""
    lines = [f"{checker.checked:,} reads checked, {checker.violations['old']:,} older than what was known when they began"]
    if checker.lagged:
        lines.append(f"{checker.lagged:,} reads without Min-Version lagged behind, as other nodes may")
    for kind, text in WRONG.items():
        if checker.violations[kind]:
            lines.append(f"{checker.violations[kind]:,} {text}")
    lines += [f"  {text}" for text in checker.told]
    passed = not (figures.failed[ALL] or checker.violations.total()) and checker.checked > 0
    return [*lines, "passed" if passed else "FAILED"], passed
