"""A plan is a function of the seed, and has everything in it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.faults.history import Kind, Mode, Op, Outcome, read_history, write_history
from tests.faults.nemesis import WAYS
from tests.faults.plan import LANES, Action, Fault, Stores, troubles, wishes


@pytest.mark.parametrize("stores", list(Stores))
def test_the_same_seed_is_the_same_plan(stores: Stores) -> None:
    first, again, other = (troubles(seed, stores, 60.0) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    clients = [list(islice(wishes(seed, 3, stores.nodes, pause=0.1), 100)) for seed in (1, 1, 2)]
    assert clients[0] == clients[1]
    assert clients[0] != clients[2]


@pytest.mark.parametrize("stores", list(Stores))
def test_a_long_run_has_every_fault_of_its_stores(stores: Stores) -> None:
    for lane, faults in zip(troubles(1, stores, 300.0), LANES[stores], strict=True):
        assert {trouble.fault for trouble in lane} == set(faults)
        ends = [trouble.at + trouble.seconds for trouble in lane]
        assert all(end < trouble.at for end, trouble in zip(ends, lane[1:], strict=False))


def test_there_is_a_way_to_bring_about_every_fault() -> None:
    assert set(WAYS) == set(Fault) == {fault for lanes in LANES.values() for lane in lanes for fault in lane}


def test_clients_do_everything() -> None:
    assert {wish.action for wish in islice(wishes(1, 1, 3, pause=0.1), 5_000)} == set(Action)


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = [
        Op(1, 2, Kind.READ, "k", 1.25, 2.5, Outcome.OK, "1@2", 7, '"1:1"', Mode.LEAST, 7),
        Op(1, 3, Kind.INVALIDATE, "", 3.0, 4.0, Outcome.UNKNOWN, keys=("a", "b"), attempts=3, detail="503"),
    ]
    write_history(tmp_path / "history.jsonl", history)
    assert list(read_history(tmp_path / "history.jsonl")) == history
