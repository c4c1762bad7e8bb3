"""Patterns in force: what they find, against trying them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachesvc.model.invalidation import InForce, Patterns, in_force
from cachesvc.model.position import Seq

TEXTS = ["*", "a*", "a:*", "a:b*", "a:b:c", "*c", "a?b", "[ab]*", "\\*", "日*"]
KEYS = ["a", "a:b", "a:b:c", "abc", "*", "日本", "b", "x"]
ADDED = st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(1, 50)), max_size=12)


@given(ADDED, st.sampled_from(KEYS), st.integers(0, 60))
def test_the_newest_that_matches(added: list[tuple[str, int]], key: str, above: int) -> None:
    patterns = Patterns(in_force(Seq(sequence), text) for text, sequence in added)
    newest = {text: max(s for t, s in added if t == text) for text, _ in added}
    expected = max((s for t, s in newest.items() if in_force(Seq(s), t).pattern.matches(key) and s > above), default=0)
    assert patterns.newest(key, above) == expected
    assert len(patterns) == patterns.active == len(newest)


def test_the_same_text_is_one_pattern_the_newer() -> None:
    patterns = Patterns([in_force(Seq(5), "a*"), in_force(Seq(3), "a*")])
    assert [one.sequence for one in patterns] == [5]
    patterns.add(in_force(Seq(9), "a*"))
    assert [one.sequence for one in patterns] == [9]
    patterns.retire("a*", Seq(5), at=Seq(10))  # of one whose place was taken
    assert patterns.active == 1


def test_a_retired_pattern_is_in_force_until_it_is_forgotten() -> None:
    patterns = Patterns([in_force(Seq(5), "a*"), in_force(Seq(6), "b*")])
    patterns.retire("a*", Seq(5), at=Seq(8))
    assert (len(patterns), patterns.active, patterns.newest("abc")) == (2, 1, 5)
    patterns.forget_retired(7)
    assert patterns.newest("abc") == 5
    patterns.forget_retired(8)
    assert (patterns.newest("abc"), patterns.newest("bc"), patterns.highest) == (0, 6, 6)


def test_a_retired_pattern_that_comes_again_is_active() -> None:
    patterns = Patterns([in_force(Seq(5), "a*", retired=Seq(7))])
    patterns.add(in_force(Seq(9), "a*"))
    assert list(patterns) == [InForce(Seq(9), in_force(Seq(9), "a*").pattern)]


def test_an_invalidation_that_is_told_late_is_not_active_again() -> None:
    patterns = Patterns([in_force(Seq(5), "a*")])
    patterns.retire("a*", Seq(5), at=Seq(8))
    patterns.add(in_force(Seq(5), "a*"))  # of an append whose answer came after the retirement was followed
    assert patterns.active == 0
