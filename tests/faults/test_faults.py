"""A short run over each of the stores: `make faults` is the same for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.history import Kind, Outcome
from tests.faults.plan import Stores
from tests.faults.run import replay, run

SEED = 1
RATE = 100.0


@pytest.mark.parametrize(("stores", "seconds"), [(Stores.POSTGRES, 5.0), (Stores.SQLITE, 5.0), (Stores.CLUSTER, 3.0)])
def test_no_promise_is_broken(tmp_path: Path, stores: Stores, seconds: float) -> None:
    result = run(stores, SEED, seconds, tmp_path, rate=RATE)
    assert result.violations == [], replay(stores, SEED, seconds)
    ended = result.outcomes()
    assert ended[Kind.READ, Outcome.OK] > 0
    assert ended[Kind.SET, Outcome.OK] + ended[Kind.INCREMENT, Outcome.OK] > 0  # a short run may have few of each
    assert result.troubles
    assert min(result.audited["memory"], result.audited["redis"]) > 0
