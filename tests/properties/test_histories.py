"""Random histories, few enough for every run of the tests: `make faults` plays a hundred thousand."""

from __future__ import annotations

import logging
import shlex

import pytest

from tests.properties.__main__ import main, report
from tests.properties.history import History, play
from tests.properties.redis_server import RealServer
from tests.properties.run import BATCH, Convicted, convict
from tests.properties.site import small
from tests.servers import Server

PART = 60  # in four parts, which run side by side
SEED = 1
MET = ("floors", "patterns", "resweep", "fill: parent", "merge", "fence")  # each has a schedule, too (test_rules.py)
ENOUGH = 1_000  # histories, for the rarest of them
FEW = 10  # histories, between two looks whether it was missed


@pytest.mark.parametrize("part", range(4))
def test_no_history_breaks_a_promise(part: int) -> None:
    first = SEED + part * PART
    for convicted in convict(range(first, first + PART)):
        pytest.fail(f"{convicted.violations[0]}; again: {convicted.replay}")


@pytest.mark.parametrize("rule", MET)
def test_a_rule_that_is_left_out_is_missed(rule: str) -> None:
    batches = (range(first, first + FEW) for first in range(SEED, SEED + ENOUGH, FEW))
    assert any(convict(batch, without=rule) for batch in batches)


def test_the_same_seed_is_the_same_history() -> None:
    with small():
        traces = []
        for _ in range(2):
            history = History(SEED, trace=True)
            history.run()
            traces.append(history.site.trace)
    assert traces[0] == traces[1]


def test_a_violation_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    [convicted, *_] = convict(range(SEED, SEED + BATCH), without="drop")
    assert f"seed {convicted.seed}: {convicted.violations[0]} (`{convicted.replay}`)" in report(1, 2, 3.0, [convicted], "drop")
    _, _, arguments = convicted.replay.partition("tests.properties ")
    assert main(shlex.split(arguments)) == 1
    told = capsys.readouterr().out
    assert all(f"VIOLATION {violation}" in told for violation in convicted.violations)
    assert main(["--replay", str(convicted.seed)]) == 0
    assert logging.getLogger("tests").isEnabledFor(logging.CRITICAL)  # what comes after is logged again
    assert Convicted(5, ()).replay.endswith("--replay 5")


def test_histories_over_the_real_scripts(valkey_server: Server, valkey_url: str) -> None:
    with small():
        for seed in range(10):
            server = RealServer(valkey_server.port)
            server.restore({})
            assert play(seed, redis=lambda _, server=server: server) == []
            server.close()
