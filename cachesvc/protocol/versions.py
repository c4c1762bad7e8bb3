"""Versions of the wire, as both sides name them in the handshake of the socket.

The rule that must not break: a new version is spoken beside the one before it, so that nodes of both work together while one
after the other is upgraded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

SPOKEN: Final = ("v1",)  # by this code, the newest first


def chosen(offered: Collection[str], spoken: Sequence[str] = SPOKEN) -> str | None:
    """The newest that both speak."""
    return next((version for version in spoken if version in offered), None)
