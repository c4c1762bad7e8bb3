"""Positions in the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.position import MAX_SEQ, Epoch, Position, Seq, first_sequence, parse_position

NUMBERS = st.integers(0, MAX_SEQ)


@given(NUMBERS, NUMBERS)
def test_a_position_is_read_as_it_is_written(epoch: int, sequence: int) -> None:
    position = Position(Epoch(epoch), Seq(sequence))
    assert parse_position(str(position), field="after") == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "1",
        "1:",
        ":1",
        "1:2:3",
        "-1:2",
        "1:-2",
        "+1:2",
        "1.0:2",
        " 1:2",
        "1:2 ",
        "1:٣",
        "1:²",
        "a:b",
        "1:1_0",
        f"1:{MAX_SEQ + 1}",
        f"{MAX_SEQ + 1}:1",
        "1:" + "9" * 5000,
    ],
)
def test_anything_else_is_an_error_that_names_the_field(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^after: is not a position"):
        parse_position(text, field="after")


def test_a_new_epoch_numbers_on_past_all_that_was_seen() -> None:
    assert first_sequence(1_700_000_000.000_001) == 1_700_000_000_000_001
    assert first_sequence(1.0, head=5_000_000) == 5_000_001
    assert first_sequence(5.0, head=4_999_999) == 5_000_000


def test_a_sequence_stays_exact_in_a_double_for_two_hundred_years() -> None:
    assert first_sequence(8_000_000_000.0) < MAX_SEQ
    assert int(float(MAX_SEQ)) == MAX_SEQ
