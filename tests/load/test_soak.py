from __future__ import annotations

from dataclasses import replace

import pytest

from tests.load.soak import Sample, drift

MIB = 1 << 20
STEADY = [Sample(100 * MIB + (n % 3) * MIB, 40 + n % 4, 0.001 + (n % 5) / 10_000) for n in range(80)]


def test_what_stays_as_it_was_is_no_drift() -> None:
    filling = [replace(sample, memory=(n + 1) * 5 * MIB) for n, sample in enumerate(STEADY[:20])]
    lines, steady = drift([*filling, *STEADY[20:]])
    assert steady
    assert len(lines) == 3


@pytest.mark.parametrize(("name", "step"), [("memory", MIB), ("descriptors", 1), ("latency", 0.001)])
def test_what_grows_all_the_time_is(name: str, step: float) -> None:
    grown = [replace(sample, **{name: getattr(sample, name) + n * step}) for n, sample in enumerate(STEADY)]
    lines, steady = drift(grown)
    assert not steady
    assert [line.partition(":")[0] for line in lines if "DRIFTED" in line] == [name]


def test_too_few_samples_tell_nothing() -> None:
    assert drift(STEADY[:5])[1] is False
