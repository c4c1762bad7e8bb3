"""Popularity: which keys are asked for, and how often: by Zipf's law, or as a recorded trace has it.

The same seed asks for the same keys in the same order.
"""

from __future__ import annotations

import lzma
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final, Protocol

from tests.load.checker import MAX_KEYS

MAX_REQUESTS: Final = 10_000_000  # of a trace: 40 MB


class Popularity(Protocol):
    """A set of keys, and endless choices from it."""

    @property
    def keys(self) -> Sequence[str]: ...
    def reads(self, rng: Random) -> Iterator[str]: ...
    def writes(self, rng: Random) -> Iterator[str]: ...


class Zipf:
    """`count` keys, of which the one of rank r is asked for in proportion to r ** -skew (0: all alike)."""

    def __init__(self, count: int, skew: float, *, seed: int, prefix: str) -> None:
        self.keys = [f"{prefix}{number}" for number in range(count)]
        Random(seed).shuffle(self.keys)  # neighbours in rank are none in name
        self._shares = list(accumulate(rank**-skew for rank in range(1, count + 1)))

    def reads(self, rng: Random) -> Iterator[str]:
        while True:
            yield self.keys[bisect_left(self._shares, rng.random() * self._shares[-1])]

    writes = reads


class Trace:
    """The requests of a file: readers share one walk through it, over and over; writers pick from it at random."""

    def __init__(self, requests: Sequence[int], *, prefix: str) -> None:
        self._requests = requests
        self._prefix = prefix
        self._next = 0
        self.keys = [f"{prefix}{number}" for number in sorted(set(requests))]
        if len(self.keys) > MAX_KEYS:
            raise ValueError(f"has {len(self.keys)} keys; allowed are {MAX_KEYS}")

    def reads(self, rng: Random) -> Iterator[str]:
        del rng
        while True:
            number = self._requests[self._next]
            self._next = (self._next + 1) % len(self._requests)
            yield f"{self._prefix}{number}"

    def writes(self, rng: Random) -> Iterator[str]:
        while True:
            yield f"{self._prefix}{rng.choice(self._requests)}"


def read_trace(path: Path) -> Sequence[int]:
    """The requests in a file of big-endian int32, one key each, plain or (`.xz`) compressed; raises `ValueError`, `OSError`."""
    limit = MAX_REQUESTS * 4
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            content = file.read(limit + 1)
    except (lzma.LZMAError, EOFError) as exc:
        raise ValueError("is not an .xz file") from exc
    if not content or len(content) % 4 or len(content) > limit:
        raise ValueError(f"must hold 1 to {MAX_REQUESTS} numbers of 4 bytes")
    requests = array("i", content)
    if sys.byteorder == "little":
        requests.byteswap()
    return requests
