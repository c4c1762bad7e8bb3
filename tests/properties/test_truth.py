"""The judge of histories is judged: each kind of lie, planted, is convicted, and what is right is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachesvc.model.change import Change, Kind
from cachesvc.model.entry import JSON, Entry, content_hash, tombstone
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.keys import Key
from cachesvc.model.position import Seq, Version
from tests.properties.truth import Meaning, Truth

A, B, C = Key("a:1"), Key("b:1"), Key("c:1")
NOW = 100.0


def entry(key: Key, version: int, value: bytes = b"", *, ends: float | None = None) -> Entry:
    value = value or b"w%d" % version
    return Entry(key, Version(version), value, JSON, 0.0, 0.0, ends, content_hash(JSON, value))


def written(key: Key, version: int, value: bytes = b"", *, kind: Kind = Kind.WRITE, ends: float | None = None) -> Change:
    return Change(Seq(version), kind, "i", 0.0, key, entry(key, version, value, ends=ends))


def deleted(key: Key, version: int) -> Change:
    return Change(Seq(version), Kind.DELETE, "i", 0.0, key, tombstone(key, Version(version), now=0.0, keep=1.0))


def invalidated(version: int, pattern: str = "", *keys: Key) -> Change:
    return Change(Seq(version), Kind.INVALIDATE, "i", 0.0, invalidation=Invalidation(pattern, keys))


def retired(version: int, pattern: str, sequence: int) -> Change:
    return Change(Seq(version), Kind.RETIRE, "i", 0.0, invalidation=Invalidation(pattern, retires=Seq(sequence)))


@pytest.fixture
def truth() -> Truth:
    """a:1 is written at 1 and 3, and killed by a pattern at 5; b:1 ends at 50 s; c:1 never was."""
    truth = Truth([A, B, C])
    truth.commit([written(A, 1), written(B, 2, ends=50.0), written(A, 3)])
    truth.commit([deleted(C, 4), invalidated(5, "a:*")])
    return truth


def convicted(truth: Truth) -> list[str]:
    return [violation.kind for violation in truth.violations]


def test_what_is_right_is_not_convicted(truth: Truth) -> None:
    assert truth.check("n", A, 0, None, NOW) == 0  # before it was there
    assert truth.check("n", A, 0, entry(A, 1), NOW) == 1
    assert truth.check("n", A, 2, entry(A, 1), NOW) == 1
    assert truth.check("n", A, 3, entry(A, 3), NOW) == 3
    assert truth.check("n", A, 3, None, NOW) == 5  # who says so has seen the pattern
    assert truth.check("n", B, 2, entry(B, 2, ends=50.0), 49.0) == 2
    assert truth.check("n", B, 2, None, NOW) == 2  # it has ended
    truth.holds("n", A, 3, 4)
    truth.replayed(A, 3, 4)
    truth.replayed(A, 3, 5)  # the pattern is in force, and known to all who read
    truth.acknowledged(A, 3, b"w3")
    truth.refuse(b"w9")
    assert convicted(truth) == []


@pytest.mark.parametrize(
    ("kind", "lie"),
    [
        ("backwards", lambda truth: truth.check("n", A, 3, entry(A, 1), NOW)),
        ("invalidated served", lambda truth: truth.check("n", A, 5, entry(A, 3), NOW)),
        ("absent", lambda truth: truth.check("n", B, 2, None, 49.0)),
        ("never written", lambda truth: truth.check("n", A, 0, entry(A, 2), NOW)),
        ("never written", lambda truth: truth.check("n", A, 0, entry(A, 5), NOW)),
        ("other value", lambda truth: truth.check("n", A, 3, entry(A, 3, b"w1"), NOW)),
        ("stale", lambda truth: truth.check("n", B, 2, entry(B, 2, ends=50.0), 50.0)),
        ("held", lambda truth: truth.holds("n", A, 1, 3)),
        ("held", lambda truth: truth.holds("n", A, 3, 5)),
        ("Redis holds what was overtaken", lambda truth: truth.replayed(A, 1, 3)),
        ("lost write", lambda truth: truth.acknowledged(A, 2, b"w2")),
        ("lost write", lambda truth: truth.acknowledged(A, 3, b"w4")),
        ("applied refused write", lambda truth: truth.refuse(b"w3")),
        ("doubled write", lambda truth: truth.commit([written(C, 6, b"w3")])),
    ],
)
def test_a_lie_is_convicted(truth: Truth, kind: str, lie: Callable[[Truth], Any]) -> None:
    lie(truth)
    assert convicted(truth) == [kind]


def test_redis_that_passed_a_retirement_unswept_is_convicted(truth: Truth) -> None:
    truth.commit([retired(6, "a:*", 5)])
    truth.replayed(A, 3, 5)
    assert convicted(truth) == []
    truth.replayed(A, 3, 6)
    assert convicted(truth) == ["Redis holds what a retired pattern killed"]


@pytest.mark.parametrize("named", [invalidated(6, "c:*"), invalidated(6, "", C)])
def test_what_was_loaded_before_an_invalidation_is_convicted(truth: Truth, named: Change) -> None:
    truth.meanings |= {b"old": Meaning(C, origin=0), b"new": Meaning(C, origin=1)}
    truth.origin[C] = 1
    truth.commit([named, written(C, 7, b"new", kind=Kind.FILL)])
    assert convicted(truth) == []
    truth.commit([written(C, 8, b"old", kind=Kind.FILL)])
    assert convicted(truth) == ["invalidated value filled"]


def test_what_was_computed_from_an_older_parent_is_convicted(truth: Truth) -> None:
    truth.meanings |= {b"old": Meaning(C, parent=B, seen=2), b"new": Meaning(C, parent=B, seen=7)}
    truth.commit([written(C, 6, b"old", kind=Kind.FILL), written(B, 7), written(C, 8, b"new", kind=Kind.FILL)])
    assert convicted(truth) == []
    truth.commit([written(C, 9, b"old", kind=Kind.FILL)])
    assert convicted(truth) == ["filled from an old parent"]
