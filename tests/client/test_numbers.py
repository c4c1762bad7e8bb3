"""Numbers of a connection: what is whole, what is missing, and which position counts."""

from __future__ import annotations

from cachesvc.client.numbers import Numbers


def test_a_position_counts_once_everything_before_it_has_come() -> None:
    numbers = Numbers()
    numbers.note(1, 1001)
    numbers.note(4, 1009)  # an answer has overtaken 2 and 3
    assert (numbers.whole, numbers.position, numbers.top) == (1, 1001, 4)
    assert numbers.holes() == [(2, 3)]
    numbers.note(2, 1002)
    assert (numbers.whole, numbers.position) == (2, 1002)
    numbers.note(3, 1003)
    assert (numbers.whole, numbers.position, numbers.holes()) == (4, 1009, [])


def test_a_position_never_goes_back_and_a_number_comes_once() -> None:
    numbers = Numbers()
    numbers.note(1, 1005)
    numbers.note(2, 1003)
    numbers.note(1, 1009)
    assert (numbers.whole, numbers.position) == (2, 1005)


def test_what_came_under_other_numbers_is_no_hole() -> None:
    numbers = Numbers()
    for number in (2, 5, 6):
        numbers.note(number, 1000 + number)
    assert numbers.holes() == [(1, 1), (3, 4)]
    numbers.forgive([(1, 1), (3, 4)])
    assert (numbers.whole, numbers.position, numbers.holes()) == (6, 1006, [])
