"""Delays: counted by size, over a minute and since the start."""

from __future__ import annotations

import random

import pytest

from cachesvc.cluster.delays import BOUNDS, SLICE, SLICES, Delays
from tests.fakes import FakeClock


def test_percentiles_are_too_high_by_a_quarter_at_most() -> None:
    delays = Delays(FakeClock().monotonic)
    rng = random.Random(1)
    noted = sorted(rng.lognormvariate(-5, 2) for _ in range(10_000))
    for seconds in rng.sample(noted, k=len(noted)):
        delays.note(seconds)
    latest = delays.latest()
    assert (latest["count"], latest["max"]) == (10_000, noted[-1])
    for name, true in (("p50", noted[4_999]), ("p99", noted[9_899])):
        assert true <= float(latest[name] or 0.0) <= 1.28 * true
    assert sum(delays.counts) == 10_000
    assert delays.total == pytest.approx(sum(noted))


def test_a_minute_later_it_is_forgotten_but_for_the_counts() -> None:
    clock = FakeClock()
    delays = Delays(clock.monotonic)
    delays.note(1.0, 3)
    clock.advance(SLICE)
    delays.note(0.002)
    assert delays.latest() == {"count": 4, "p50": 1.0, "p99": 1.0, "max": 1.0}
    clock.advance(SLICE * (SLICES - 1))
    assert delays.latest() == {"count": 1, "p50": 0.002, "p99": 0.002, "max": 0.002}
    clock.advance(SLICE)
    assert delays.latest() == {"count": 0, "p50": None, "p99": None, "max": None}
    assert sum(delays.counts) == 4


def test_what_is_beyond_all_bounds_is_counted() -> None:
    delays = Delays(FakeClock().monotonic)
    delays.note(-1.0)
    delays.note(1e6)
    assert (delays.counts[0], delays.counts[-1]) == (1, 1)
    assert delays.latest() == {"count": 2, "p50": BOUNDS[0], "p99": 1e6, "max": 1e6}


def test_whatever_is_noted_it_stays_small() -> None:
    clock = FakeClock()
    delays = Delays(clock.monotonic)
    for _ in range(1_000):
        clock.advance(SLICE / 2)
        delays.note(0.1)
    assert delays.latest()["count"] == 2 * SLICES
    assert len(delays._slices) == SLICES
