"""The checker finds planted violations, each of them, and convicts no honest history."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.load.checker import Checker, Write

KEY = "load:1"


def wrote(checker: Checker, version: int) -> Write:
    write = checker.begin_write(KEY)
    checker.end_write(write, version)
    return write


def deleted(checker: Checker, version: int) -> None:
    checker.end_delete(checker.begin_delete(KEY), version)


def saw(checker: Checker, write: Write, version: int) -> None:
    checker.end_read(checker.begin_read(KEY), version, write.counter, about=KEY)


def test_a_read_older_than_what_was_acknowledged_before_it_began() -> None:
    checker = Checker()
    first = wrote(checker, 5)
    wrote(checker, 7)
    saw(checker, first, 5)
    assert checker.violations == {"old": 1}
    assert checker.told == ["load:1: version 5 was read, after version 7 was known"]


def test_an_acknowledgement_during_the_read_convicts_nobody() -> None:
    checker = Checker()
    first = wrote(checker, 5)
    read = checker.begin_read(KEY)
    wrote(checker, 7)
    checker.end_read(read, 5, first.counter, about=KEY)
    assert not checker.violations


def test_a_newer_version_than_any_acknowledged_is_fine_and_becomes_the_floor() -> None:
    checker = Checker()
    first = wrote(checker, 5)
    second = checker.begin_write(KEY)
    saw(checker, second, 9)
    assert not checker.violations
    saw(checker, first, 5)
    assert checker.violations == {"old": 1}


def test_a_miss_that_nobody_deleted() -> None:
    checker = Checker()
    checker.end_miss(checker.begin_read(KEY))
    assert not checker.violations
    wrote(checker, 5)
    checker.end_miss(checker.begin_read(KEY))
    assert checker.violations == {"old": 1}


def test_a_miss_after_a_deletion_that_an_acknowledged_write_replaced() -> None:
    checker = Checker()
    wrote(checker, 5)
    deleted(checker, 6)
    checker.end_miss(checker.begin_read(KEY))
    assert not checker.violations
    wrote(checker, 7)
    checker.end_miss(checker.begin_read(KEY))
    assert checker.violations == {"old": 1}


def test_a_deletion_on_its_way_excuses_a_miss_until_its_version_is_known() -> None:
    checker = Checker()
    delete = checker.begin_delete(KEY)
    wrote(checker, 5)
    checker.end_miss(checker.begin_read(KEY))
    assert not checker.violations
    checker.end_delete(delete, 4)
    wrote(checker, 6)
    checker.end_miss(checker.begin_read(KEY))
    assert checker.violations == {"old": 1}


def test_a_value_after_its_acknowledged_deletion() -> None:
    checker = Checker()
    write = wrote(checker, 5)
    deleted(checker, 6)
    saw(checker, write, 5)
    assert checker.violations == {"old": 1}


def test_the_version_of_a_deletion_with_a_value() -> None:
    checker = Checker()
    write = wrote(checker, 5)
    deleted(checker, 6)
    saw(checker, write, 6)
    assert checker.violations == {"old": 1, "content": 1}


def test_a_value_after_it_was_seen_to_be_gone() -> None:
    checker = Checker()
    write = wrote(checker, 5)
    checker.begin_delete(KEY)
    checker.end_miss(checker.begin_read(KEY))
    assert not checker.violations
    saw(checker, write, 5)
    assert checker.violations == {"old": 1}


def test_a_version_that_did_not_grow() -> None:
    checker = Checker()
    wrote(checker, 5)
    wrote(checker, 5)
    assert checker.violations == {"version": 1, "content": 1}


def test_another_value_than_the_one_written_in_that_version() -> None:
    checker = Checker()
    wrote(checker, 5)
    other = checker.begin_write(KEY)
    saw(checker, other, 5)
    assert checker.violations == {"content": 1}


def test_a_write_that_was_seen_as_another_value_before_it_was_acknowledged() -> None:
    checker = Checker()
    first, second = checker.begin_write(KEY), checker.begin_write(KEY)
    saw(checker, first, 5)
    checker.end_write(second, 5)
    assert checker.violations["content"] == 1


def test_the_value_of_another_key() -> None:
    checker = Checker()
    write = wrote(checker, 5)
    checker.end_read(checker.begin_read(KEY), 5, write.counter, about="load:2")
    assert checker.violations == {"content": 1}


def test_with_several_nodes_a_plain_read_may_lag_and_an_exact_one_may_not() -> None:
    checker = Checker(one_node=False)
    first = wrote(checker, 5)
    wrote(checker, 7)
    saw(checker, first, 5)
    assert checker.lagged == 1
    assert not checker.violations
    checker.end_read(checker.begin_read(KEY, exact=True), 5, first.counter, about=KEY)
    assert checker.violations == {"old": 1}


def test_with_several_nodes_a_miss_on_one_says_nothing_of_another_that_was_asked_for_less() -> None:
    checker = Checker(one_node=False)
    write = wrote(checker, 5)
    checker.begin_delete(KEY)
    checker.end_miss(checker.begin_read(KEY, exact=True))
    checker.end_read(checker.begin_read(KEY, exact=True), 5, write.counter, about=KEY)
    assert not checker.violations


def test_it_is_bounded() -> None:
    checker = Checker(max_keys=2)
    checker.begin_read("a")
    checker.begin_read("b")
    checker.begin_read("a")
    with pytest.raises(ValueError, match="more than 2 keys"):
        checker.begin_read("c")
    for version in range(1, 1_000):
        wrote(Checker(), version)
    old = wrote(checker := Checker(), 1_000)
    for version in range(1_001, 2_000):
        wrote(checker, version)
    for _ in range(100):
        saw(checker, old, 1_000)
    assert checker.violations == {"old": 100}
    assert len(checker.told) == 20
    assert all(len(record.contents) <= 16 for record in checker._records.values())


class Store:
    """One key, linearizable: each operation takes effect at some step between its begin and its end."""

    def __init__(self, rng: random.Random, checker: Checker, *, broken: bool) -> None:
        self.rng, self.checker, self.broken = rng, checker, broken
        self.history = [(0, 0)]  # version, counter

    def operation(self) -> Iterator[None]:
        kind = self.rng.choice(["read", "read", "read", "write", "delete"])
        if kind == "read":
            read = self.checker.begin_read(KEY)
            yield
            stale = self.broken and self.rng.random() < 0.1
            version, counter = self.rng.choice(self.history) if stale else self.history[-1]
            yield
            if counter:
                self.checker.end_read(read, version, counter, about=KEY)
            else:
                self.checker.end_miss(read)
            return
        write = self.checker.begin_write(KEY) if kind == "write" else self.checker.begin_delete(KEY)
        yield
        self.history.append((len(self.history), write.counter))
        version = self.history[-1][0]
        yield
        (self.checker.end_write if kind == "write" else self.checker.end_delete)(write, version)


def violations_of_a_random_history(seed: int, *, broken: bool) -> int:
    rng, checker = random.Random(seed), Checker()
    store = Store(rng, checker, broken=broken)
    running: list[Iterator[None]] = []
    for _ in range(600):
        if not running or (len(running) < 6 and rng.random() < 0.4):
            running.append(store.operation())
        step = rng.choice(running)
        if next(step, step) is step:
            running.remove(step)
    return checker.violations.total()


def test_random_histories_of_an_honest_store() -> None:
    assert [violations_of_a_random_history(seed, broken=False) for seed in range(100)] == [0] * 100


def test_random_histories_of_a_store_that_now_and_then_serves_an_old_value() -> None:
    assert all(violations_of_a_random_history(seed, broken=True) for seed in range(100))
