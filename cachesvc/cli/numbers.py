"""Numbers as options give them."""

from __future__ import annotations

from math import isfinite

import typer


def finite(value: float | None) -> float | None:
    """The number, if it is one: `nan` and `inf` are floats, and mean nothing here."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is not a number")
    return value
