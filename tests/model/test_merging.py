"""Merging: the same versions are settled alike, whoever does it and in whatever order they came."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.model.merging import (
    MOST_MERGED,
    NOTHING,
    Merged,
    Policy,
    Sibling,
    Strategy,
    by_priority,
    fingerprint,
    latest,
    merge_fields,
    settle,
)

NOW = 1_000.0
FIELDS = st.dictionaries(
    st.sampled_from("abcd"),
    st.one_of(st.integers(0, 3), st.just(None), st.dictionaries(st.sampled_from("xy"), st.integers(0, 2))),
)
SIBLINGS = st.builds(
    Sibling,
    st.one_of(st.none(), FIELDS.map(lambda value: json.dumps(value).encode())),
    st.integers(0, 3).map(float),
    st.integers(1, 4),
    st.sampled_from(["", "motion", "manual"]),
)
POLICIES = st.builds(
    Policy,
    st.sampled_from(Strategy),
    st.sampled_from([Strategy.LAST_WRITE_WINS, Strategy.MANUAL]),
    st.just(("manual", "motion")),
)


def version(value: object, at: float, source: str = "", number: int = 0) -> Sibling:
    return Sibling(json.dumps(value).encode(), at, number or int(at), source)


def merged(base: object, *values: object) -> Merged:
    found = merge_fields(version(base, 1), [version(value, 2 + place) for place, value in enumerate(values)])
    assert found is not None
    return found


def test_fields_that_only_one_changed_are_all_taken() -> None:
    found = merged({"a": 1, "b": 2, "c": 3}, {"a": 9, "b": 2, "c": 3}, {"a": 1, "b": 8, "d": 4})
    assert json.loads(found.value) == {"a": 9, "b": 8, "d": 4}
    assert found.clashes == ()


def test_a_field_that_both_changed_is_a_clash_and_the_later_stands() -> None:
    found = merged({"a": 1, "b": 1}, {"a": 2, "b": 5}, {"a": 3, "b": 1})
    assert json.loads(found.value) == {"a": 3, "b": 5}
    assert (found.clashes, found.rejected) == (("a",), frozenset({0}))


def test_the_same_change_by_both_is_no_clash() -> None:
    assert merged({"a": 1}, {"a": 2}, {"a": 2}) == (b'{"a":2}', (), frozenset())


def test_objects_within_are_merged_and_arrays_are_not() -> None:
    found = merged({"o": {"x": 1, "y": 1}, "l": [1]}, {"o": {"x": 2, "y": 1}, "l": [1, 2]}, {"o": {"x": 1, "y": 3}, "l": [3]})
    assert json.loads(found.value) == {"o": {"x": 2, "y": 3}, "l": [3]}
    assert found.clashes == ("l",)


def nested(levels: int, value: object) -> object:
    return {"a": nested(levels - 1, value)} if levels else value


@pytest.mark.parametrize(("levels", "apart"), [(31, True), (32, False), (480, False)])
def test_what_is_deeper_is_one_field(levels: int, apart: bool) -> None:
    found = merged(*(nested(levels, value) for value in ({}, {"x": 1}, {"y": 2})))
    assert (found.clashes == ()) is apart
    assert json.loads(found.value) == nested(levels, {"x": 1, "y": 2} if apart else {"y": 2})


def test_a_value_that_is_too_large_is_not_merged() -> None:
    large = version({"a": "x" * MOST_MERGED}, 1.0)
    assert merge_fields(NOTHING, [large, version({"b": 1}, 2.0)]) is None
    assert settle(Policy(Strategy.FIELD_LEVEL), [large, version({"b": 1}, 2.0)], base=NOTHING, now=NOW).winner is not None


def test_many_clashes_are_looked_at_in_one_reading() -> None:
    """Were each looked up in the whole value, this would take minutes, with the log's lock held."""
    one, two = (version({f"k{place}": value for place in range(3_000)}, at) for at, value in ((1.0, 0), (2.0, 1)))
    settled = settle(Policy(), [one, two], base=NOTHING, now=NOW)
    assert (len(settled.clashes), settled.conflict_type) == (3_000, "data")


def test_a_field_removed_here_and_changed_there_is_a_clash() -> None:
    found = merged({"a": 1}, {}, {"a": 2})
    assert (json.loads(found.value), found.clashes) == ({"a": 2}, ("a",))
    assert merged({"a": 1, "b": 1}, {"a": 1}, {"a": 2, "b": 1}).value == b'{"a":2}'


def test_no_digit_of_a_number_is_lost() -> None:
    base = Sibling(b'{"n": 1, "m": 1}', 1, 1)
    found = merge_fields(
        base, [Sibling(b'{"n": 1.10, "m": 1}', 2, 2), Sibling(b'{"n":1,"m":123456789012345678901234567890}', 3, 3)]
    )
    assert found is not None
    assert found.value == b'{"n":1.10,"m":123456789012345678901234567890}'


def test_a_number_is_not_its_text() -> None:
    assert merged({"a": 0}, {"a": 1}, {"a": "1"}).clashes == ("a",)


@pytest.mark.parametrize("value", [b"[1]", b"1", b'"text"', None])
def test_what_is_no_object_cannot_be_merged(value: bytes | None) -> None:
    assert merge_fields(version({}, 1), [version({"a": 1}, 2), Sibling(value, 3, 3)]) is None


def test_without_its_base_nothing_is_merged() -> None:
    policy = Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL)
    settled = settle(policy, [version({"a": 1}, 1), version({"b": 1}, 2)], base=None, now=NOW)
    assert (settled.strategy, settled.value, settled.conflict_type) == (Strategy.MANUAL, b'{"b": 1}', "version")


def test_made_from_nothing_two_are_merged_over_nothing() -> None:
    settled = settle(Policy(Strategy.FIELD_LEVEL), [version({"a": 1}, 1), version({"b": 2}, 2)], base=NOTHING, now=NOW)
    assert (settled.value, settled.winner, settled.conflict_type) == (b'{"a":1,"b":2}', None, "version")


def test_a_clash_goes_to_who_decides_where_the_policy_says_so() -> None:
    base, local, remote = version({"a": 1, "b": 1}, 1), version({"a": 2, "b": 2}, 2), version({"a": 3, "b": 1}, 3)
    by_hand = settle(Policy(Strategy.FIELD_LEVEL, Strategy.MANUAL), [local, remote], base=base, now=NOW)
    assert (by_hand.strategy, by_hand.value, by_hand.clashes) == (Strategy.MANUAL, b'{"a":3,"b":2}', ("a",))
    at_once = settle(Policy(Strategy.FIELD_LEVEL), [local, remote], base=base, now=NOW)
    assert (at_once.strategy, at_once.accepted, at_once.rejected) == (Strategy.FIELD_LEVEL, (remote,), (local,))


def test_the_later_by_its_own_word_wins_but_nobody_comes_from_the_future() -> None:
    early = version({"updatedAt": "1970-01-01T00:00:05Z", "v": "early"}, 20)
    late = version({"updatedAt": "1970-01-01T00:00:09Z", "v": "late"}, 10)
    ahead = version({"updatedAt": "2970-01-01T00:00:00Z", "v": "ahead"}, 15)
    policy = Policy(Strategy.TIMESTAMP)
    assert settle(policy, [early, late], base=None, now=NOW).winner == late
    assert settle(policy, [late, ahead, version({"v": 1}, NOW, number=99)], base=None, now=NOW).value == b'{"v": 1}'


def test_the_source_that_ranks_first_wins_and_the_later_of_the_same_rank() -> None:
    manual, google = version({"source": "manual", "v": 1}, 1), version({"v": 2}, 2, "google")
    policy = Policy(Strategy.PRIORITY, sources=("manual", "google"))
    assert settle(policy, [manual, google], base=None, now=NOW).winner == manual
    assert settle(policy, [version({"v": 3}, 3), google], base=None, now=NOW).winner == google
    assert settle(policy, [version({"v": 4}, 4, "google"), google], base=None, now=NOW).value == b'{"v": 4}'


def test_deleted_here_and_changed_there() -> None:
    settled = settle(Policy(), [Sibling(None, 3, 3), version({"a": 1}, 2)], base=version({}, 1), now=NOW)
    assert (settled.value, settled.conflict_type, len(settled.rejected)) == (None, "data", 1)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ({"a": 2}, {"a": "two"}, "schema"),
        ({"a": 2}, [1], "schema"),
        ({"a": 2}, {"a": 3}, "data"),
        ({"a": 2}, {"a": None}, "data"),
        ({"a": 1, "b": 1}, {"a": 2}, "version"),
    ],
)
def test_what_a_conflict_is_of(first: object, second: object, kind: str) -> None:
    assert settle(Policy(), [version(first, 2), version(second, 3)], base=version({"a": 1}, 1), now=NOW).conflict_type == kind


def test_nobody_is_asked_to_decide_between_the_same() -> None:
    settled = settle(Policy(Strategy.MANUAL), [version({"a": 1}, 1), version({"a": 1}, 2)], base=None, now=NOW)
    assert (settled.strategy, settled.rejected) == (Strategy.LAST_WRITE_WINS, ())


@settings(max_examples=60)
@given(POLICIES, st.lists(SIBLINGS, min_size=2, max_size=4), st.one_of(st.none(), SIBLINGS))
def test_the_order_they_come_in_does_not_matter(policy: Policy, siblings: list[Sibling], base: Sibling | None) -> None:
    expected = settle(policy, siblings, base=base, now=NOW)
    for shuffled in permutations(siblings):
        assert settle(policy, shuffled, base=base, now=NOW) == expected
    assert settle(policy, [*siblings, siblings[0]], base=base, now=NOW) == expected


@settings(max_examples=60)
@given(st.lists(SIBLINGS, min_size=3, max_size=3))
def test_who_wins_is_the_same_however_they_are_grouped(three: list[Sibling]) -> None:
    a, b, c = three
    assert latest([latest([a, b]), c]) == latest([a, latest([b, c])]) == latest(three)
    ranks = ("motion", "manual")
    once = by_priority([by_priority([a, b], ranks), c], ranks)
    assert once == by_priority([a, by_priority([b, c], ranks)], ranks) == by_priority(three, ranks)


@settings(max_examples=100)
@given(FIELDS, FIELDS)
def test_what_only_one_changed_is_what_it_made_of_it(base: dict[str, object], changed: dict[str, object]) -> None:
    found = merged(base, base, changed)
    assert (json.loads(found.value), found.clashes) == (changed, ())


def test_a_fingerprint_is_the_same_for_whoever_settles_all_alike() -> None:
    plain, by_hand = Policy(), Policy(Strategy.MANUAL)
    assert fingerprint({}) == fingerprint({"": plain}) == fingerprint({"task": plain})
    assert fingerprint({"": by_hand, "task": plain}) != fingerprint({"": by_hand}) != fingerprint({"task": by_hand})
    assert fingerprint({"a": by_hand, "b": by_hand}) == fingerprint({"b": by_hand, "a": by_hand})
    assert fingerprint({"": Policy(sources=("a", "b"))}) != fingerprint({"": Policy(sources=("b", "a"))})
