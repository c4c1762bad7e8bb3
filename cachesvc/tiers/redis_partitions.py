"""Partitions: the 64 parts of the keyspace in Redis, what each says of itself, and the names of its keys.

A partition is believed only by its own state, read in the same atomic step as the values. The state is one string, not a
hash, so that a plain `MGET` reads it together with the entries.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cachesvc.model.keys import PARTITIONS, Key, partition_of
from cachesvc.model.position import Epoch, Position, Seq

NO_ID = "-"  # stands for the id of the change at a cursor where there is none: where an epoch begins
_STATE = re.compile(rb"([0-9]+) ([0-9]+) ([0-9]+) ([0-9a-f]+) ([!-~]+)")


class State(NamedTuple):
    """What a partition says of itself.

    Every change up to `cursor` has been replayed into it; a put that began before `low` is refused, and what changed since
    is in its `recent`. `generation` is part of its entries' keys: another one, and the partition is empty. `id` is of the
    change at the cursor.
    """

    epoch: Epoch
    cursor: Seq
    low: Seq
    generation: bytes
    id: str = NO_ID

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.cursor)

    def reaches(self, horizon: Position) -> bool:
        """Whether it is of that epoch and has seen every change up to there."""
        return self.epoch == horizon.epoch and self.cursor >= horizon.sequence


def parse_state(raw: bytes | None) -> State | None:
    """The state written by the scripts; None where there is none, or something else stands in its place."""
    found = _STATE.fullmatch(raw) if raw is not None else None
    if found is None:
        return None
    return State(Epoch(int(found[1])), Seq(int(found[2])), Seq(int(found[3])), found[4], found[5].decode())


class Partition:
    """The names of a partition's keys, all in the hash slot of its number, and its state as last seen."""

    __slots__ = ("_raw", "_stem", "away", "head", "number", "recent", "state", "state_key", "vouched")

    def __init__(self, key_prefix: str, number: int) -> None:
        self.number = number
        self._stem = f"{key_prefix}:{{{number}}}:".encode()
        self.state_key = self._stem + b"state"
        self.recent = self._stem + b"recent"
        self.state: State | None = None
        self.vouched = b""  # the generation that is known to be of the log's history
        self.head = b""  # what its entries' keys begin with; empty while its generation is not known
        self.away = False  # its master did not answer when it was last asked
        self._raw: bytes | None = None

    def see(self, raw: bytes | None) -> State | None:
        """Take over the state that was just read."""
        self.away = False
        if raw != self._raw:
            self._raw = raw
            self.state = parse_state(raw)
            self.head = self.head_of(self.state) if self.state is not None else b""
        return self.state

    def lose(self) -> None:
        """It did not answer: nothing that it said before counts until it does."""
        self.away = True

    @property
    def strange(self) -> bool:
        """Whether nobody has vouched for what it says."""
        return not self.away and self.state is not None and self.state.generation != self.vouched

    def believed(self, horizon: Position) -> bool:
        """Whether it was seen to be of that epoch and history, and to have seen every change up to there."""
        state = self.state
        return not self.away and state is not None and state.reaches(horizon) and state.generation == self.vouched

    def head_of(self, state: State) -> bytes:
        """What the keys of its entries begin with in that state. The colon after the generation tells them from the state."""
        return self._stem + state.generation + b":"


def entry_key(stored: bytes) -> tuple[int, bytes, Key] | None:
    """`(partition, head, key)` of a key found in Redis; None if it is no entry's."""
    stem, brace, rest = stored.partition(b":{")
    number, close, rest = rest.partition(b"}:")
    generation, colon, name = rest.partition(b":")
    if not (brace and close and colon and number.isdigit()):
        return None
    try:
        key = Key(name.decode())
    except UnicodeDecodeError:
        return None
    if partition_of(key) != int(number):
        return None
    return int(number), b"%b:{%b}:%b:" % (stem, number, generation), key


def partitions(key_prefix: str) -> tuple[Partition, ...]:
    """All of them, by number."""
    return tuple(Partition(key_prefix, number) for number in range(PARTITIONS))
