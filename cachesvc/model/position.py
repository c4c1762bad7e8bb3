"""Sequences, versions and positions in the change log.

A key's version is the sequence of the change that last wrote it. A position is only comparable within its epoch:
one of another epoch is answered "start over", never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, NewType

from cachesvc.errors import InvalidInput

Seq = NewType("Seq", int)
Version = NewType("Version", int)
Epoch = NewType("Epoch", int)

MAX_SEQ = 2**53 - 1  # exact in a double, hence in JSON and in Redis scripts
MAX_GAPS: Final = 100  # of a log; of more the two oldest are taken for one
_GAP: Final = re.compile(r"([0-9]+)-([0-9]+)")


class Position(NamedTuple):
    """A place in the log: everything up to and including `sequence`, in `epoch`."""

    epoch: Epoch
    sequence: Seq

    def __str__(self) -> str:
        return f"{self.epoch}:{self.sequence}"


class Gap(NamedTuple):
    """Sequences, both ends counted, of which nothing can be told: they were lost with their history, or never given out."""

    first: Seq
    last: Seq

    def holds(self, sequence: int) -> bool:
        return self.first <= sequence <= self.last


def parse_gaps(text: str) -> tuple[Gap, ...]:
    """What `pack_gaps` wrote."""
    return tuple(Gap(Seq(int(first)), Seq(int(last))) for first, last in _GAP.findall(text))


def pack_gaps(gaps: Sequence[Gap]) -> str:
    """The gaps of a log in a line, the newest last, bounded. Fixed on disk; the script of the Redis log adds to it as well."""
    over = len(gaps) - MAX_GAPS
    if over > 0:
        gaps = [Gap(gaps[0].first, gaps[over].last), *gaps[over + 1 :]]
    return ",".join(f"{gap.first}-{gap.last}" for gap in gaps)


def parse_position(text: str, *, field: str) -> Position:
    """A position as clients send it back, `epoch:sequence`; raises `InvalidInput` naming `field`."""
    epoch, colon, sequence = text.partition(":")
    if not (colon and _is_number(epoch) and _is_number(sequence)):
        raise InvalidInput(field, "is not a position (epoch:sequence)")
    return Position(Epoch(int(epoch)), Seq(int(sequence)))


def first_sequence(now: float, head: int = 0) -> Seq:
    """Where a new epoch begins to count: the Unix time in µs, past all that was seen, so no version means two things."""
    return Seq(max(head + 1, int(now * 1_000_000)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_SEQ
