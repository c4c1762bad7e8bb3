"""Digests: whatever happened, they are what would be worked out anew, and two of them find exactly where they differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.digest import DIGITS, MODULUS, MOST, NOTHING, Digest, Sum, hashed, parse_prefix, parse_sum
from cachesvc.model.keys import Key

MARKS = st.binary(min_size=16, max_size=16)
KEYS = st.integers(0, 200).map(lambda number: Key(f"key:{number}"))
HISTORIES = st.lists(st.tuples(KEYS, st.none() | MARKS), max_size=400)


def digest_of(held: dict[Key, bytes]) -> Digest:
    digest = Digest()
    for key, mark in held.items():
        digest.put(key, mark)
    return digest


def sum_of(held: dict[Key, bytes], prefix: str) -> Sum:
    marks = [int.from_bytes(mark) for key, mark in held.items() if hashed(key).startswith(prefix)]
    return Sum(sum(marks) % MODULUS, len(marks))


@settings(deadline=None)
@given(HISTORIES, st.text("0123456789abcdef", max_size=4))
def test_it_is_what_is_worked_out_anew_after_any_history(history: list[tuple[Key, bytes | None]], prefix: str) -> None:
    digest = Digest()
    held: dict[Key, bytes] = {}
    for key, mark in history:
        digest.put(key, mark)
        if mark is None:
            held.pop(key, None)
        else:
            held[key] = mark
    assert len(digest) == len(held)
    assert dict(digest.marks("")) == held
    for asked in ("", "0", prefix, *(hashed(key) for key in held)):
        assert digest.sum(asked) == sum_of(held, asked)
        assert dict(digest.marks(asked)) == {key: mark for key, mark in held.items() if hashed(key).startswith(asked)}
        below = digest.below(asked)
        assert all(name.startswith(asked) and digest.sum(name) == found != NOTHING for name, found in below.items())
        assert sum(found.total for found in below.values()) % MODULUS == digest.sum(asked).total


def differing(ours: Digest, theirs: Digest) -> set[Key]:
    """The keys that differ, as two nodes find them that only tell each other sums."""
    waiting, found = [""], set()
    while waiting:
        prefix = waiting.pop()
        if ours.sum(prefix) == theirs.sum(prefix):
            continue
        if len(prefix) == DIGITS:
            found |= {key for key, _ in ours.marks(prefix)} | {key for key, _ in theirs.marks(prefix)}
        else:
            waiting.extend(ours.below(prefix).keys() | theirs.below(prefix).keys())
    return found


@settings(deadline=None)
@given(st.dictionaries(KEYS, MARKS, max_size=150), st.dictionaries(KEYS, st.none() | MARKS, max_size=20))
def test_two_find_where_they_differ_and_nothing_else(held: dict[Key, bytes], other: dict[Key, bytes | None]) -> None:
    changed = {key: mark for key, mark in (held | other).items() if mark is not None}
    expected = {key for key in held.keys() | changed.keys() if held.get(key) != changed.get(key)}
    assert differing(digest_of(held), digest_of(changed)) == expected


def test_leaves_stay_small_and_hold_about_sixteen_keys() -> None:
    digest = digest_of({Key(f"task:{number}"): number.to_bytes(16) for number in range(20_000)})
    sizes = []
    waiting = [""]
    while waiting:
        below = digest.below(waiting.pop())
        if all(len(name) == DIGITS for name in below):
            sizes.append(len(below))
        else:
            waiting.extend(below)
    assert max(sizes) <= MOST
    assert 2 <= sum(sizes) / len(sizes) <= MOST


def test_what_a_peer_says_is_checked() -> None:
    assert parse_sum(str(Sum(MODULUS - 1, 7)), field="checksums") == Sum(MODULUS - 1, 7)
    assert parse_prefix("a3f0", field="requestSync") == "a3f0"
    for text in ("", ":", "1:", "1", ":1", "xyz:1", "1:-1", "1" * 33 + ":1", "1:" + "9" * 17, "1:٣", " 1:1"):
        with pytest.raises(InvalidInput):
            parse_sum(text, field="checksums")
    for text in ("g", "A", "0" * 17, " ", "٣"):
        with pytest.raises(InvalidInput):
            parse_prefix(text, field="requestSync")
