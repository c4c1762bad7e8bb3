"""Ids of batches: UUIDv7 (RFC 9562), in hex, so that they sort by time and are unique among all nodes."""

from __future__ import annotations

import os
import time


def new_batch() -> str:
    """48 bits of Unix milliseconds, then random bits, with version 7 and the variant where the RFC wants them."""
    number = int.from_bytes(os.urandom(10), "big") & ~(0xF << 76 | 0x3 << 62)
    return f"{time.time_ns() // 1_000_000 << 80 | 0x7 << 76 | number | 0x2 << 62:032x}"
