"""S3-FIFO: which key goes when something has to."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.tiers.s3fifo import S3FIFOCache


def filled(maxsize: int, keys: Iterable[str]) -> S3FIFOCache[str, int]:
    cache: S3FIFOCache[str, int] = S3FIFOCache(maxsize)
    for key in keys:
        cache[key] = 1
    return cache


def test_a_newcomer_that_nobody_asked_for_goes_first() -> None:
    cache = filled(3, "abc")
    _ = cache["a"], cache["a"]
    cache["d"] = 1
    assert set(cache) == {"a", "c", "d"}


def test_one_hit_is_not_enough_to_stay() -> None:
    cache = filled(3, "abc")
    _ = cache["a"]
    cache["d"] = 1
    assert set(cache) == {"b", "c", "d"}


def test_who_comes_back_from_the_ghosts_outlives_a_scan() -> None:
    cache = filled(20, (f"k{i}" for i in range(20)))
    cache["first"] = 1  # evicts k0, unasked
    assert "k0" not in cache
    cache["k0"] = 1  # remembered: to main at once
    for i in range(1_000):
        cache[f"scan{i}"] = 1
    assert "k0" in cache


def in_main(*keys: str) -> S3FIFOCache[str, int]:
    """A cache in whose main queue these are, in this order, with no hits counted."""
    cache = filled(len(keys) + 1, ("oldest", *keys))
    for key in ("oldest", *keys):
        _ = cache[key], cache[key]
    assert cache.popitem()[0] == "oldest"
    return cache


def test_the_main_queue_gives_another_turn_to_what_was_hit() -> None:
    cache = in_main("a", "b", "c")
    _ = cache["a"]
    assert [cache.popitem()[0] for _ in range(3)] == ["b", "c", "a"]


def test_each_turn_in_the_main_queue_costs_one_hit() -> None:
    cache = in_main("a", "b")
    _ = cache["a"], cache["a"], cache["b"]
    assert cache.popitem()[0] == "b"


def test_more_than_three_hits_count_as_three() -> None:
    cache = in_main("a", "b")
    for key in "aaaaabbb":
        _ = cache[key]
    assert cache.popitem()[0] == "a"


def test_a_value_is_replaced_in_its_place() -> None:
    cache = filled(2, "ab")
    cache["a"] = 2
    assert (cache["a"], cache["b"], len(cache)) == (2, 1, 2)


def test_an_empty_one_has_nothing_to_give() -> None:
    with pytest.raises(KeyError, match="empty"):
        S3FIFOCache[str, int](3).popitem()


def test_clear_forgets_the_ghosts_too() -> None:
    cache = filled(10, (str(i) for i in range(50)))
    cache.clear()
    assert (len(cache), list(cache), cache.currsize) == (0, [], 0)
    assert not any(vars(cache)[queue] for queue in ("_hits", "_small", "_main", "_ghost"))


@pytest.mark.parametrize("maxsize", [1, 2, 3])
def test_the_smallest_hold_something(maxsize: int) -> None:
    cache = filled(maxsize, "abcabcabc")
    assert len(cache) == maxsize
    assert "c" in cache


STEPS = st.lists(st.tuples(st.sampled_from(["get", "set", "delete", "pop"]), st.integers(0, 12)), max_size=200)


@given(st.integers(1, 9), STEPS)
def test_the_queues_always_agree_with_what_is_held(maxsize: int, steps: list[tuple[str, int]]) -> None:
    cache: S3FIFOCache[int, int] = S3FIFOCache(maxsize)
    for step, key in steps:
        if step == "get":
            assert cache.get(key) in (None, key)
        elif step == "set":
            cache[key] = key
            assert key in cache
        elif step == "delete":
            assert cache.pop(key, None) in (None, key)
        elif cache:
            gone, value = cache.popitem()
            assert gone == value
            assert gone not in cache
        small, main, ghost = (set(vars(cache)[queue]) for queue in ("_small", "_main", "_ghost"))
        assert small | main == set(cache) == set(vars(cache)["_hits"])
        assert not small & main
        assert not ghost & set(cache)
        assert len(cache) == cache.currsize <= maxsize
        assert len(ghost) <= maxsize
