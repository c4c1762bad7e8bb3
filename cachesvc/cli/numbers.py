"""Numbers as options give them."""

from __future__ import annotations

from math import isfinite, nan

import typer


def finite(text: str) -> float:
    """The number that a text is: `nan` and `inf` are floats, and mean nothing here."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise typer.BadParameter(f"{text} is not a number")
    return value
