"""Exact decimal numbers, read from JSON text and written back, never by way of a float."""

from __future__ import annotations

import re
import sys
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from typing import Final

from cachesvc.errors import InvalidInput

MAX_DIGITS: Final = 100  # before and after the point together

_NUMBER = re.compile(rb"[ \t\r\n]*(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?([0-9]+))?)[ \t\r\n]*")
_EXACT = Context(prec=MAX_DIGITS, traps=[Inexact, InvalidOperation, Overflow])
_ROUNDED = Context(prec=MAX_DIGITS, Emax=4 * MAX_DIGITS, Emin=-4 * MAX_DIGITS, traps=[])
_LARGEST = Decimal(sys.float_info.max)  # that every reader of JSON takes


def parse_number(text: bytes, *, field: str) -> Decimal:
    """The number that a JSON text is; raises `InvalidInput` if it is none, or has over 100 digits written out."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise InvalidInput(field, "is not a JSON number")
    # what is far too long is not worked out
    number = Decimal(found[1].decode()) if len(found[1]) <= 4 * MAX_DIGITS and len(found[2] or b"") <= 9 else None
    if number is None or not _fits(number):
        raise InvalidInput(field, f"is out of range: numbers have up to {MAX_DIGITS} digits")
    return number


def add_exactly(a: Decimal, b: Decimal) -> Decimal | None:
    """The exact sum, or None where it would have over 100 digits."""
    try:
        total = _EXACT.add(a, b)
    except DecimalException:
        return None
    return total if _fits(total) else None


def roughly(text: bytes) -> Decimal:
    """The number that a JSON text is, exact up to 100 digits and as far as a double reaches; 0 for what is no number."""
    found = _NUMBER.fullmatch(text)
    return _bounded(_ROUNDED.create_decimal(found[1].decode())) if found is not None else Decimal(0)


def add_roughly(a: Decimal, b: Decimal) -> Decimal:
    """The sum, exact up to 100 digits and as far as a double reaches."""
    return _bounded(_ROUNDED.add(a, b))


def format_number(number: Decimal) -> bytes:
    """The number as JSON text, written out without an exponent."""
    return format(number or abs(number), "f").encode()  # abs: zero has no sign in JSON


def _bounded(number: Decimal) -> Decimal:
    return max(_LARGEST.copy_negate(), min(_LARGEST, number))


def _fits(number: Decimal) -> bool:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return number.adjusted() < MAX_DIGITS and -exponent < MAX_DIGITS and number.adjusted() - exponent < MAX_DIGITS
