"""The checker: a planted violation of each kind is found, and what a correct service may answer is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.checker import Violation, Wrong, check, repaired
from tests.faults.history import Kind, Mode, Op, Outcome, Restored, restore

_WHERE = {"key": "k", "node": "a"}


def op(kind: Kind, start: float, end: float, version: int = 0, value: str = "", **more: Any) -> Op:
    """An operation that was answered, by node a on key k unless said otherwise."""
    told = {"outcome": Outcome.OK, **_WHERE, **more}
    return Op(client=0, number=int(start * 10), kind=kind, start=start, end=end, version=version, value=value, **told)


def read(start: float, version: int = 0, value: str = "", **more: Any) -> Op:
    return op(Kind.READ, start, start + 0.5, version, value, **more)


def wrote(start: float, version: int, value: str, **more: Any) -> Op:
    return op(Kind.SET, start, start + 0.5, version, value, **more)


def deleted(start: float, version: int = 0, **more: Any) -> Op:
    return op(Kind.DELETE, start, start + 0.5, version, **more)


def added(start: float, version: int = 0, total: str = "", **more: Any) -> Op:
    return op(Kind.INCREMENT, start, start + 0.5, version, "0.1", total=total, **more)


def invalidated(start: float, version: int = 0, **more: Any) -> Op:
    return op(Kind.INVALIDATE, start, start + 0.5, version, **{"key": "", "keys": ("k", "l"), **more})


More = dict[str, Any]
UNKNOWN: More = {"outcome": Outcome.UNKNOWN}
REFUSED: More = {"outcome": Outcome.REFUSED}
FRESH: More = {"mode": Mode.FRESH}
FINAL: More = {"mode": Mode.FINAL}
B: More = {"node": "b"}


def set_back(first: float, last: float, gone: float, noticed: float) -> Op:
    return restore(Restored(first, last, gone, noticed))


SET_BACK = set_back(2, 3, 6, 8)
CLEAN: dict[str, list[Op]] = {
    "nothing": [],
    "what was written is read": [wrote(1, 10, "x"), read(2, 10, "x"), read(2, 10, "x", **FRESH, **B)],
    "another node lags": [
        wrote(1, 10, "x"),
        wrote(2, 11, "y"),
        read(3, 10, "x", **B),
        deleted(3.2, 12),
        read(4, **B),
        read(5, 11, "y", node="c"),
    ],
    "another node has not seen it at all": [wrote(1, 10, "x"), read(2, **B)],
    "what overlaps may come in any order": [
        wrote(1, 10, "x"),
        op(Kind.SET, 2, 5, 11, "y"),
        read(3, 10, "x"),
        op(Kind.READ, 2.5, 4.5, 11, "y"),
        read(4.2, 11, "y"),
        op(Kind.READ, 3, 6, 10, "x"),
    ],
    "an unknown write was done": [wrote(1, 10, "x"), wrote(2, 0, "y", **UNKNOWN), read(3, 11, "y"), read(4, 11, "y", **FINAL)],
    "an unknown write was not done": [wrote(1, 10, "x"), wrote(2, 0, "y", **UNKNOWN), read(3, 10, "x", **FINAL)],
    "an unknown write was done late": [
        wrote(1, 10, "x"),
        wrote(2, 0, "y", **UNKNOWN),
        wrote(3, 11, "z"),
        read(4, 12, "y", **FINAL),
    ],
    "a refused write was not done": [wrote(1, 10, "x"), wrote(2, 0, "y", **REFUSED), read(3, 10, "x", **FINAL)],
    "a deletion": [wrote(1, 10, "x"), deleted(2, 11), read(3), read(4, **FRESH), read(5, **FINAL), read(6, **FINAL, **B)],
    "a deletion of unknown outcome": [wrote(1, 10, "x"), deleted(2, **UNKNOWN), read(3), wrote(4, 12, "y"), read(5, 12, "y")],
    "an unknown deletion that comes late": [wrote(1, 10, "x"), deleted(2, **UNKNOWN), read(3, 10, "x"), read(4, **FINAL)],
    "a deletion that is on its way": [wrote(1, 10, "x"), op(Kind.DELETE, 2, 9, 11), read(3), read(4)],
    "nothing yet on a node, while it is deleted elsewhere": [
        wrote(1, 10, "x"),
        op(Kind.DELETE, 2, 9, 11, **B),
        read(3, node="c"),
        read(4, 10, "x", node="c"),
    ],
    "nothing, by a read that began early": [
        wrote(1, 10, "x"),
        deleted(2, **UNKNOWN),
        op(Kind.READ, 1.2, 5, node="c"),
        read(3, 10, "x", node="c"),
        read(6, 10, "x", node="c"),
    ],
    "deleted and written again": [wrote(1, 10, "x"), deleted(2, 11), wrote(3, 12, "y"), read(4, 12, "y", **FRESH)],
    "Min-Version": [wrote(1, 10, "x"), wrote(2, 11, "x", key="l"), read(3, 10, "x", mode=Mode.LEAST, least=11, **B)],
    "another process": [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 11, "y", **B), read(4, 10, "x", node="b later")],
    "increments": [added(1, 10, "0.1"), added(2, 11, "0.2"), read(3, 11, "0.2"), read(4, 10, "0.1", **B)],
    "an unknown increment was done": [
        added(1, 10, "0.1"),
        added(2, **UNKNOWN),
        added(3, 12, "0.3"),
        read(4, 12, "0.3", **FINAL),
    ],
    "an unknown increment was not done": [added(1, 10, "0.1"), added(2, **UNKNOWN), added(3, 12, "0.2"), read(4, 12, "0.2")],
    "compare and set": [wrote(1, 10, "x"), wrote(2, 11, "y", expected=10), wrote(3, 12, "z", key="l", expected=0)],
    "created after a deletion": [wrote(1, 10, "x"), deleted(2, 11), wrote(3, 12, "y", expected=0)],
    "created after an unknown deletion": [wrote(1, 10, "x"), deleted(2, **UNKNOWN), wrote(3, 12, "y", expected=0)],
    "filled": [deleted(1, 10), read(2), wrote(3, 12, "y", token=11)],
    "invalidated": [wrote(1, 10, "x"), invalidated(2, 11), read(3), read(4, 10, "x", **B), read(5, **B), read(6, **FINAL)],
    "invalidated and written again": [wrote(1, 10, "x"), invalidated(2, 11), wrote(3, 12, "y"), read(4, 12, "y", **FINAL)],
    "an unknown invalidation": [wrote(1, 10, "x"), invalidated(2, **UNKNOWN), read(3), wrote(4, 12, "y"), read(5, **B)],
    "set back to what a backup had": [
        wrote(1, 10, "x"),
        wrote(4, 11, "y"),
        read(5, 11, "y"),
        SET_BACK,
        read(7, 11, "y"),
        read(9, 10, "x"),
        read(9, 10, "x", **FRESH, **B),
        wrote(10, 90, "z"),
        read(11, 90, "z", **FINAL),
    ],
    "a number that was lost is given again": [wrote(4, 11, "y"), SET_BACK, wrote(7, 11, "z"), read(9, 11, "z", **FINAL)],
    "written while the backup was taken": [wrote(1, 10, "x"), op(Kind.SET, 1.8, 2.5, 11, "y"), SET_BACK, read(9, 11, "y")],
    "not in the backup taken meanwhile": [
        wrote(1, 10, "x"),
        op(Kind.SET, 1.8, 2.5, 11, "y"),
        SET_BACK,
        read(9, 10, "x"),
    ],
    "written again after it was lost": [op(Kind.SET, 4, 9, 90, "y"), SET_BACK, read(10, 90, "y", **FINAL)],
    "committed before it was lost, and answered after": [
        wrote(1, 10, "x"),
        op(Kind.SET, 5.9, 6.1, 11, "y"),
        SET_BACK,
        op(Kind.SET, 8.1, 8.2, 90, "z", expected=10),
        read(9, 90, "z", **FINAL),
    ],
    "an attempt that its client gave up is carried out after the loss": [
        wrote(4, 11, "y", attempts=2),
        SET_BACK,
        read(9, 90, "y", **FINAL),
    ],
    "increments after a loss": [added(1, 10, "0.1"), added(4, 11, "0.2"), SET_BACK, added(9, 90, "0.2"), read(10, 90, "0.2")],
    "told to start over": [wrote(4, 11, "y"), SET_BACK, read(9, mode=Mode.LEAST, least=11, outcome=Outcome.OVER)],
    "set back twice": [
        wrote(1, 10, "x"),
        SET_BACK,
        wrote(9, 90, "y"),
        set_back(10, 11, 14, 16),
        wrote(12, 91, "z"),
        read(13, 91, "z"),
        read(17, 90, "y", **FINAL),
    ],
    "reads that were not answered": [wrote(1, 10, "x"), read(2, outcome=Outcome.AWAY), read(3, outcome=Outcome.AWAY, **FRESH)],
}

PLANTED: list[tuple[str, Wrong, list[Op]]] = [
    (
        "an acknowledged write is older at the authority",
        Wrong.LOST,
        [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 10, "x", **FRESH, **B)],
    ),
    ("an acknowledged write is not there", Wrong.LOST, [wrote(1, 10, "x"), read(3, **FRESH, **B)]),
    ("what was read is not there", Wrong.LOST, [wrote(1, 0, "x", **UNKNOWN), read(2, 10, "x"), read(3, **FRESH, **B)]),
    ("a deletion is undone", Wrong.LOST, [wrote(1, 10, "x"), deleted(2, 11), read(3, 10, "x", **FRESH, **B)]),
    (
        "an unknown deletion is undone",
        Wrong.LOST,
        [wrote(1, 10, "x"), deleted(2, **UNKNOWN), read(3, **FRESH), read(4, 10, "x", **FRESH, **B)],
    ),
    ("a refused deletion was done", Wrong.LOST, [wrote(1, 10, "x"), deleted(2, **REFUSED), read(3, **FRESH, **B)]),
    ("lost when a deletion came before", Wrong.LOST, [deleted(1, 10), wrote(2, 11, "x"), read(3, **FRESH, **B)]),
    ("lost when a deletion comes later", Wrong.LOST, [wrote(1, 10, "x"), read(2, **FRESH, **B), deleted(3, 11)]),
    ("a refused write was done", Wrong.REFUSED, [wrote(1, 0, "x", **REFUSED), read(2, 10, "x")]),
    ("a node goes back", Wrong.BACKWARD, [wrote(1, 10, "x"), wrote(2, 11, "y", **B), read(3, 11, "y"), read(4, 10, "x")]),
    ("a node goes back behind what it acknowledged", Wrong.BACKWARD, [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 10, "x")]),
    ("a node forgets what it showed", Wrong.BACKWARD, [wrote(1, 10, "x", **B), read(2, 10, "x"), read(3)]),
    (
        "a node shows again what it had not",
        Wrong.BACKWARD,
        [wrote(1, 10, "x"), deleted(2, **UNKNOWN, **B), read(3), read(4, 10, "x")],
    ),
    ("a node shows what it deleted", Wrong.BACKWARD, [wrote(1, 10, "x"), deleted(2, 11), read(3, 10, "x")]),
    (
        "older than Min-Version",
        Wrong.LEAST,
        [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 10, "x", mode=Mode.LEAST, least=11, **B)],
    ),
    ("nothing under Min-Version", Wrong.LEAST, [wrote(1, 10, "x"), read(3, mode=Mode.LEAST, least=10, **B)]),
    (
        "Min-Version of another key",
        Wrong.LEAST,
        [wrote(1, 10, "x"), wrote(2, 11, "y"), wrote(3, 12, "z", key="l"), read(4, 10, "x", mode=Mode.LEAST, least=12, **B)],
    ),
    ("a value under another version", Wrong.CONTENT, [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 11, "x")]),
    ("a value that nobody wrote", Wrong.CONTENT, [read(1, 10, "x")]),
    ("a value of another key", Wrong.CONTENT, [wrote(1, 10, "x", key="l"), read(2, 10, "x")]),
    ("a value of a deletion", Wrong.CONTENT, [wrote(1, 10, "x"), deleted(2, 11), read(3, 11, "x")]),
    ("a version given twice", Wrong.CONTENT, [op(Kind.SET, 1, 9, 10, "x"), op(Kind.SET, 1, 9, 10, "y")]),
    ("a write was done twice", Wrong.DOUBLED, [wrote(1, 10, "x"), read(2, 11, "x")]),
    ("an unknown write was done twice", Wrong.DOUBLED, [wrote(1, 0, "x", **UNKNOWN), read(2, 10, "x"), read(3, 11, "x")]),
    ("an increment is lost", Wrong.INCREMENT, [added(1, 10, "0.1"), added(2, 11, "0.1")]),
    ("an increment was done twice", Wrong.INCREMENT, [added(1, 10, "0.1"), read(3, 11, "0.2")]),
    ("an unknown increment was done twice", Wrong.INCREMENT, [added(1, 10, "0.1"), added(2, **UNKNOWN), read(3, 12, "0.3")]),
    (
        "an increment was rounded",
        Wrong.INCREMENT,
        [added(1, 10, "0.1"), added(2, 11, "0.2"), added(3, **UNKNOWN), read(4, 12, "0.20001")],
    ),
    ("a refused increment was done", Wrong.INCREMENT, [added(1, 10, "0.1"), added(2, **REFUSED), read(3, 11, "0.2")]),
    ("stale at the end", Wrong.STALE, [wrote(1, 10, "x"), wrote(2, 11, "y"), read(3, 10, "x", **FINAL, **B)]),
    ("missing at the end", Wrong.STALE, [wrote(1, 10, "x"), read(3, **FINAL, **B)]),
    (
        "nodes disagree",
        Wrong.DISAGREE,
        [wrote(1, 10, "x"), deleted(2, **UNKNOWN), read(3, **FINAL), read(4, 10, "x", **FINAL, **B)],
    ),
    ("no answer at the end", Wrong.AWAY, [read(3, outcome=Outcome.AWAY, **FINAL)]),
    ("over another version", Wrong.CONDITION, [wrote(1, 10, "x"), wrote(2, 11, "y"), wrote(3, 12, "z", expected=10)]),
    ("over what was deleted", Wrong.CONDITION, [wrote(1, 10, "x"), deleted(2, 11), wrote(3, 12, "z", expected=10)]),
    ("over what was invalidated", Wrong.CONDITION, [wrote(1, 10, "x"), invalidated(2, 11), wrote(3, 12, "z", expected=10)]),
    ("created over something", Wrong.CONDITION, [wrote(1, 10, "x"), wrote(2, 11, "y", expected=0)]),
    ("filled after a write", Wrong.CONDITION, [wrote(1, 10, "x"), wrote(2, 11, "y", token=9)]),
    ("filled after a deletion", Wrong.CONDITION, [deleted(1, 10), wrote(2, 11, "y", token=9)]),
    ("filled after an invalidation", Wrong.CONDITION, [invalidated(1, 10), wrote(2, 11, "y", token=9)]),
    ("invalidated, and seen again", Wrong.INVALIDATED, [wrote(1, 10, "x"), invalidated(2, 11), read(3, 10, "x")]),
    (
        "invalidated, and there at the end",
        Wrong.INVALIDATED,
        [wrote(1, 10, "x"), invalidated(2, 11), read(3, 10, "x", **FINAL, **B)],
    ),
    ("a later write has a lower version", Wrong.ORDER, [wrote(1, 10, "x"), wrote(2, 9, "y", key="l")]),
    ("a lost write is seen after all knew", Wrong.CONTENT, [wrote(1, 10, "x"), wrote(4, 11, "y"), SET_BACK, read(9, 11, "y")]),
    (
        "an attempt that was given up is seen twice after the loss",
        Wrong.DOUBLED,
        [wrote(4, 11, "y", attempts=2), SET_BACK, read(9, 90, "y"), wrote(10, 91, "z"), read(11, 92, "y")],
    ),
    ("what the backup had is lost too", Wrong.LOST, [wrote(1, 10, "x"), SET_BACK, read(9, **FRESH, **B)]),
    ("what came after is lost", Wrong.LOST, [SET_BACK, wrote(9, 90, "x"), read(10, **FRESH, **B)]),
    (
        "a lost increment is counted",
        Wrong.INCREMENT,
        [added(1, 10, "0.1"), added(4, 11, "0.2"), SET_BACK, added(9, 90, "0.3")],
    ),
    (
        "an older backup than was said",
        Wrong.LOST,
        [wrote(0, 9, "v"), wrote(1, 10, "x"), SET_BACK, read(9, 9, "v", **FRESH, **B)],
    ),
    ("a loss before the backup", Wrong.BACKWARD, [wrote(1, 9, "v"), wrote(4, 11, "y"), read(5, 9, "v"), SET_BACK]),
    ("told to start over for nothing", Wrong.ODD, [wrote(1, 10, "x"), read(2, outcome=Outcome.OVER)]),
    ("an answer that does not exist", Wrong.ODD, [read(1, outcome=Outcome.ODD, detail="500")]),
]


@pytest.mark.parametrize("history", CLEAN.values(), ids=CLEAN.keys())
def test_what_a_correct_service_may_answer_passes(history: list[Op]) -> None:
    assert check(history) == []


@pytest.mark.parametrize(("kind", "history"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_a_planted_violation_is_found(kind: Wrong, history: list[Op]) -> None:
    assert {violation.kind for violation in check(history)} == {kind}


def test_each_kind_is_planted() -> None:
    assert {kind for _, kind, _ in PLANTED} == set(Wrong) - {Wrong.REPAIRED}  # that one is told by the services


def test_a_repair_that_a_service_logged_is_found() -> None:
    logged = '{"event": "an entry differed from the authority and was repaired", "tier": "redis", "key": "k:1"}'
    assert repaired(["ready", logged]) == [Violation(Wrong.REPAIRED, logged)]
