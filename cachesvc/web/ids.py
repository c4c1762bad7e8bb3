"""Ids of requests: those of one process are numbered on from what no other process has, for a tenth of what a random one costs.

The rule that must not break: no two requests have the same, since who got no answer sends it as `Idempotency-Key`.
"""

from __future__ import annotations

from itertools import count
from typing import Final
from uuid import uuid4

_OURS: Final = uuid4().hex[:16]
_numbers: Final = count(1)


def new_id() -> str:
    """32 hexadecimal digits."""
    return f"{_OURS}{next(_numbers):016x}"
