"""Amounts: exact decimal numbers, as increments take them."""

from __future__ import annotations

from decimal import Decimal

import orjson

from cachesvc.model.numbers import format_number, parse_number


def exactly(amount: str | int | Decimal) -> orjson.Fragment:
    """An amount, to be sent. Raises `InvalidInput`, and `TypeError` for what is not exact, as a float."""
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise TypeError(f"amount is {amount!r}: give an int, a Decimal, or the text of a number")
    return orjson.Fragment(format_number(parse_number(str(amount).encode(), field="amount")))
