"""Following dependents, against trying every path."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import Refusal, Refused
from cachesvc.model.relations import closure

NAMES = st.sampled_from("abcdefg")
EDGES = st.sets(st.tuples(NAMES, NAMES), max_size=20)  # (child, parent), cycles and loops among them


def dependents_among(edges: set[tuple[str, str]], asked: list[list[str]] | None = None):  # type: ignore[no-untyped-def]
    def of(names: Collection[str]) -> tuple[list[str], list[str]]:
        if asked is not None:
            asked.append(list(names))
        found = [child for child, parent in sorted(edges) if parent in names]
        return found, [child for child in found if any(parent == child for _, parent in edges)]

    return of


def reached(edges: set[tuple[str, str]], start: set[str]) -> set[str]:
    found = set(start)
    for _ in edges:
        found |= {child for child, parent in edges if parent in found}
    return found - start


@given(EDGES, st.sets(NAMES, max_size=3))
def test_all_that_depends_and_nothing_else(edges: set[tuple[str, str]], start: set[str]) -> None:
    asked: list[list[str]] = []
    found = closure(start, dependents_among(edges, asked), depth=20, most=100)
    assert set(found) == reached(edges, start)
    assert len(found) == len(set(found))
    visited = [name for names in asked for name in names]
    assert len(visited) == len(set(visited))


def test_too_deep_and_too_many_are_refused() -> None:
    chain = {(chr(ord("a") + i + 1), chr(ord("a") + i)) for i in range(6)}
    assert closure({"a"}, dependents_among(chain), depth=6, most=6) == list("bcdefg")
    for limits in ({"depth": 5, "most": 6}, {"depth": 6, "most": 5}):
        with pytest.raises(Refused) as caught:
            closure({"a"}, dependents_among(chain), **limits)
        assert (caught.value.code, caught.value.field) == (Refusal.TOO_MUCH, "cascade")
