"""Numbers as options give them."""

from __future__ import annotations

from math import isfinite, nan
from typing import Final

import typer

_PAUSES: Final = 0.1, 86_400.0  # seconds


def finite(text: str) -> float:
    """The number that a text is: `nan` and `inf` are floats, and mean nothing here."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise typer.BadParameter(f"{text} is not a number")
    return value


def pause(text: str) -> float:
    """Seconds between two looks."""
    value = finite(text)
    least, most = _PAUSES
    if not least <= value <= most:
        raise typer.BadParameter(f"{text} is not from {least:g} to {most:g}")
    return value
