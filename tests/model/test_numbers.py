"""Exact numbers, against fractions."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cachesvc.errors import InvalidInput
from cachesvc.model.numbers import MAX_DIGITS, add_exactly, format_number, parse_number
from tests.model.naive import digits_written

# digits and an exponent: as likely within the limits as over them
NUMBERS = st.builds(
    lambda sign, digits, exponent: f"{sign}{digits}e{exponent}",
    st.sampled_from(["", "-"]),
    st.one_of(st.integers(0, 10**12), st.integers(0, 10**110)),
    st.integers(-110, 110),
)


def parsed(text: str) -> Decimal | None:
    try:
        return parse_number(text.encode(), field="value")
    except InvalidInput:
        return None


@given(NUMBERS)
@example("1e99")
@example("1e-99")
@example("-0e0")
@example("0e-99")
def test_a_number_is_read_exactly_or_refused(text: str) -> None:
    number = parsed(text)
    exact = Fraction(text)
    if number is None:
        digits, _, exponent = text.lstrip("-").partition("e")
        # the digits as they are given count, trailing zeros after the point among them
        places = max(0, -int(exponent))
        assert len(str(int(digits) * 10 ** max(0, int(exponent)) // 10**places)) + places > MAX_DIGITS or exact == 0
    else:
        assert Fraction(number) == exact


@given(NUMBERS)
def test_what_is_written_is_read_again_as_the_same(text: str) -> None:
    number = parsed(text)
    assume(number is not None)
    assert number is not None
    written = format_number(number)
    assert parse_number(written, field="value") == number
    assert format_number(parse_number(written, field="value")) == written
    assert Fraction(json.loads(written, parse_int=Fraction, parse_float=Fraction)) == Fraction(text)
    assert b"e" not in written.lower()
    assert not (written.startswith(b"-") and number == 0)


@given(NUMBERS, NUMBERS)
@example("1e99", "1")
@example("1e99", "1e-1")
@example("1e99", "0.0")
@example("9" * 100 + "e0", "1")
@example("1e-99", "1")
@example("1e-99", "10")
@example("0.1", "0.2")
@example("1e-50", "-1e-50")
def test_a_sum_is_exact_or_refused(one: str, other: str) -> None:
    a, b = parsed(one), parsed(other)
    assume(a is not None and b is not None)
    assert a is not None
    assert b is not None
    total = add_exactly(a, b)
    exact = Fraction(one) + Fraction(other)
    digits = digits_written(exact)
    assert digits is not None
    if digits > MAX_DIGITS:
        assert total is None
    else:
        assert total is not None
        assert Fraction(total) == exact
        assert Fraction(format_number(total).decode()) == exact


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"0", b"0"),
        (b"-0", b"0"),
        (b"-0.0", b"0.0"),
        (b" 1\n", b"1"),
        (b"1.50", b"1.50"),
        (b"1e3", b"1000"),
        (b"1E+3", b"1000"),
        (b"15e-1", b"1.5"),
        (b"9223372036854775808", b"9223372036854775808"),
        (b"-18446744073709551617", b"-18446744073709551617"),
        (b"0.1", b"0.1"),
    ],
)
def test_these_are_numbers(text: bytes, written: bytes) -> None:
    assert format_number(parse_number(text, field="value")) == written


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"1 2",
        b"01",
        b"-01",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"0x10",
        b"1_000",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b'"1"',
        b"true",
        b"null",
        b"[1]",
        b"1\x00",
        b"\xff",
        "٣".encode(),
        b"1,5",
        b"--1",
        b"1e1e1",
        b"1" * 100000 + b"x",
    ],
)
def test_these_are_none(text: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^value: is not a JSON number$"):
        parse_number(text, field="value")


@pytest.mark.parametrize(
    "text",
    [
        b"1e400",
        b"1e100",
        b"-1e999999999",
        b"1e-100",
        b"1e-999999999",
        b"1" * 101,
        b"1." + b"0" * 100,
        b"1" * 100_000,
        b"1e9999999999",
    ],
)
def test_these_are_out_of_range(text: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^amount: is out of range: numbers have up to 100 digits$"):
        parse_number(text, field="amount")


def test_a_tenth_and_two_tenths_are_three_tenths() -> None:
    assert add_exactly(Decimal("0.1"), Decimal("0.2")) == Decimal("0.3")
