from __future__ import annotations

import random

import pytest

from tests.load.checker import Checker
from tests.load.figures import Figures, Timings, tier_of, verdict


def test_percentiles_are_right_within_one_percent() -> None:
    timings, rng = Timings(), random.Random(1)
    durations = sorted(rng.lognormvariate(-6, 1) for _ in range(10_000))
    for duration in durations:
        timings.add(duration)
    for share in (0.5, 0.95, 0.99):
        assert timings.percentile(share) == pytest.approx(durations[int(share * 10_000) - 1], rel=0.01)
    assert timings.percentile(1) == timings.longest == durations[-1]
    assert Timings().percentile(0.5) == 0


def test_the_tables_name_kinds_tiers_and_errors() -> None:
    figures = Figures()
    figures.add("read", 0.001)
    figures.add("read", 0.002)
    figures.add("write", 0.004, "503")
    figures.tiers.update(["memory", "miss"])
    lines = list(figures.tables(2.0))
    assert lines[1].split() == ["read", "2", "1", "0", "1.00", "2.00", "2.00", "2.00"]
    assert lines[2].split()[:4] == ["write", "1", "0", "1"]
    assert lines[3].split()[:4] == ["all", "3", "2", "1"]
    assert lines[4] == "reads answered by memory 50.00 %, redis 0.00 %, database 0.00 %, loader 0.00 %, miss 50.00 %"
    assert lines[5] == "error, 1 ×: write: 503"


def test_different_errors_are_bounded_and_all_are_counted() -> None:
    figures = Figures()
    for number in range(1_000):
        figures.add("read", 0.001, f"error {number}")
    assert len(figures.errors) <= 51
    assert figures.errors.total() == figures.failed["read"] == 1_000


@pytest.mark.parametrize(
    ("header", "status", "tier"),
    [
        ("cachesvc; hit; ttl=299; detail=memory", 200, "memory"),
        ("cachesvc; hit; detail=redis", 200, "redis"),
        ("cachesvc; hit; ttl=-3; detail=database", 200, "database"),
        ("cachesvc; fwd=uri-miss; stored; detail=loader", 200, "loader"),
        ("cachesvc; fwd=uri-miss", 404, "miss"),
        ("cachesvc; fwd=uri-miss", 200, None),
        ("cachesvc; hit; detail=memory", 404, None),
        ("other; hit; detail=memory", 200, None),
        (None, 200, None),
    ],
)
def test_the_tier_is_read_from_the_cache_status(header: str | None, status: int, tier: str | None) -> None:
    assert tier_of(header, status) == tier


def test_it_passes_when_something_was_checked_and_nothing_was_wrong() -> None:
    figures, checker = Figures(), Checker()
    assert verdict(figures, checker)[1] is False
    checker.end_miss(checker.begin_read("a"))
    assert verdict(figures, checker)[1] is True
    checker.end_write(checker.begin_write("a"), 5)
    checker.end_miss(checker.begin_read("a"))
    lines, passed = verdict(figures, checker)
    assert not passed
    assert lines[0] == "2 reads checked, 1 older than what was known when they began"
    figures.add("read", 0.001, "500")
    assert verdict(figures, Checker())[1] is False
