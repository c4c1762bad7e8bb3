"""A short run of two sites: `make faults SCENARIO=sites` is three, over PostgreSQL, for longer."""

from __future__ import annotations

from pathlib import Path

from tests.faults.plan import Stores
from tests.faults.sites.run import report, run


def test_no_write_is_lost_but_by_policy(tmp_path: Path) -> None:
    outcomes = run(4, 3.0, tmp_path, names=("berlin", "oslo"), stores=Stores.SQLITE)
    assert outcomes.violations == [], report(outcomes)
    verdict = outcomes.verdict
    assert min(verdict.stands, verdict.replaced) > 0
    assert outcomes.lines
    assert min(outcomes.carried.values()) > 0
