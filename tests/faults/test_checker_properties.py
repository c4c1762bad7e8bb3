"""The checker over random histories: of a correct model none is convicted, of one that breaks a rule some are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checker import Wrong, check
from tests.faults.model import Broken, history

_PROOF = {
    Broken.LOSES: Wrong.LOST,
    Broken.APPLIES_REFUSED: Wrong.REFUSED,
    Broken.GOES_BACK: Wrong.BACKWARD,
    Broken.IGNORES_LEAST: Wrong.LEAST,
    Broken.REPEATS: Wrong.DOUBLED,
    Broken.IGNORES_CONDITIONS: Wrong.CONDITION,
    Broken.KEEPS_INVALIDATED: Wrong.INVALIDATED,
    Broken.STAYS_STALE: Wrong.STALE,
}


@settings(max_examples=90, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 300))
def test_no_history_of_a_correct_model_is_convicted(seed: int, steps: int) -> None:
    assert check(history(seed, steps=steps)) == []


@pytest.mark.parametrize("broken", list(Broken))
def test_a_model_without_a_rule_is_convicted(broken: Broken) -> None:
    found = {violation.kind for seed in range(20) for violation in check(history(seed, steps=200, broken=broken))}
    assert _PROOF[broken] in found


def test_increments_applied_twice_are_found() -> None:
    found = {violation.kind for seed in range(20) for violation in check(history(seed, steps=200, broken=Broken.REPEATS))}
    assert Wrong.INCREMENT in found
