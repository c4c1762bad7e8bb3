"""Truth: what became of every key, as the log tells it, and which answers that allows. It convicts, and never guesses.

A key's history is a list of states, each from one sequence up to the next. An answer is right if one of the states that were
there since `floor` says it; the floor is the highest sequence that the node had applied, acknowledged or served of the key,
or was asked for, when the read began.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachesvc.model.change import Change, Kind
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import softened
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern, parse_pattern


class Violation(NamedTuple):
    """A broken promise: which, and how."""

    kind: str
    text: str


@dataclass(slots=True)
class States:
    """The states of one key: `at[i]` is the sequence from which on it is `entries[i]`, None for absent."""

    at: list[int] = field(default_factory=lambda: [0])
    entries: list[Entry | None] = field(default_factory=lambda: [None])
    named: list[int] = field(default_factory=list)  # the sequences of changes that named it
    ended: set[int] = field(default_factory=set)  # those among them that only ended what was past its life
    killed: list[int] = field(default_factory=list)  # of patterns that matched it

    def index(self, sequence: int) -> int:
        """The state at a sequence."""
        return bisect_right(self.at, sequence) - 1

    def add(self, sequence: int, entry: Entry | None) -> None:
        self.at.append(sequence)
        self.entries.append(entry)


class Meaning(NamedTuple):
    """What a value was made from: the origin's content at some time, or a parent's state."""

    key: Key
    origin: int = -1  # how often the origin had changed
    parent: Key | None = None
    seen: int = -1  # the version of the parent


class Truth:
    """Told of every commit in order; asked about every answer. What it convicts is in `violations`."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.states = {key: States() for key in keys}
        self.violations: list[Violation] = []
        self.meanings: dict[bytes, Meaning] = {}
        self.origin: dict[Key, int] = dict.fromkeys(self.states, 0)
        self.retired: list[tuple[int, int, Pattern]] = []  # retirement, invalidation, pattern
        self._written: dict[bytes, int] = {}
        self._fresh: dict[Key, int] = dict.fromkeys(self.states, 0)  # how often the origin had changed when last invalidated

    def violated(self, kind: str, text: str) -> None:
        self.violations.append(Violation(kind, text))

    # what was committed

    def commit(self, changes: Sequence[Change]) -> None:
        for change in changes:
            named = change.invalidation
            if change.kind is Kind.RETIRE:
                assert named is not None
                self.retired.append((change.sequence, named.retires, parse_pattern(named.pattern)))
                continue
            for key in change.touches:
                if key in self.states:
                    self._write(key, change)
            if named is not None:
                self._invalidate(change, named.pattern, named.keys)

    def _write(self, key: Key, change: Change) -> None:
        states = self.states[key]
        entry = change.entry if change.entry is not None and not change.entry.deleted else self._left(key, change)
        states.named.append(change.sequence)
        if change.kind is Kind.EXPIRE:
            states.ended.add(change.sequence)
        states.add(change.sequence, entry)
        if entry is None or change.invalidation is not None:
            return
        if entry.value in self.meanings or change.kind is Kind.FILL:
            self._filled(key, change, entry)
        if change.kind is Kind.WRITE and entry.value.startswith(b"w"):
            if entry.value in self._written:
                self.violated("doubled write", f"{key}@{change.sequence} is {self._written[entry.value]} again")
            self._written[entry.value] = change.sequence

    def _filled(self, key: Key, change: Change, entry: Entry) -> None:
        meaning = self.meanings[entry.value]
        if meaning.origin >= 0 and meaning.origin < self._fresh[key]:
            self.violated("invalidated value filled", f"{key}@{change.sequence} was loaded before it was invalidated")
        if meaning.parent is not None:
            parents = self.states[meaning.parent]
            latest = next(sequence for sequence in reversed(parents.at) if sequence not in parents.ended)
            if latest != meaning.seen:
                text = f"{key}@{change.sequence} was computed from {meaning.parent}@{meaning.seen}, not @{latest}"
                self.violated("filled from an old parent", text)

    def _invalidate(self, change: Change, text: str, keys: Sequence[Key]) -> None:
        pattern = parse_pattern(text) if text else None
        for key, states in self.states.items():
            if pattern is not None and pattern.matches(key):
                states.killed.append(change.sequence)
                if states.at[-1] != change.sequence:
                    states.add(change.sequence, self._left(key, change))
                self._fresh[key] = self.origin[key]
            elif key in keys:
                self._fresh[key] = self.origin[key]

    def _left(self, key: Key, change: Change) -> Entry | None:
        """What an invalidation leaves of a key: its content, past its life, if it was a soft one."""
        held = self.states[key].entries[-1]
        if held is None or change.invalidation is None or not change.invalidation.soft:
            return None
        return softened(held, change.sequence, at=change.at)

    # what was answered

    def check(self, who: str, key: Key, floor: int, entry: Entry | None, now: float, *, stale: float = 0.0) -> int:
        """Convict an answer that no state since `floor` allows; the least sequence that it shows to have been served.

        `stale` is how many seconds past its life the reader would take it.
        """
        states = self.states[key]
        first = states.index(floor)
        if entry is None:
            for place in range(first, len(states.at)):
                held = states.entries[place]
                if held is None or not held.live(now):
                    return max(floor, states.at[place])
            self.violated("absent", f"{who} says that {key} is absent, which it has not been since {floor}")
            return floor
        place = states.index(entry.version)
        if states.at[place] != entry.version or states.entries[place] is None:
            self.violated("never written", f"{who} serves {key}@{entry.version}, which was never written")
            return floor
        if states.entries[place].value != entry.value:  # type: ignore[union-attr]
            self.violated("other value", f"{who} serves {key}@{entry.version} as {entry.value!r}")
        if place < first:
            kind = "invalidated served" if entry.version < max(states.killed, default=0) <= floor else "backwards"
            self.violated(kind, f"{who} serves {key}@{entry.version} after it had {states.at[first]} (floor {floor})")
        if not entry.live(now - stale):
            self.violated("stale", f"{who} serves {key}@{entry.version} past its life, unasked")
        return entry.version

    def holds(self, who: str, key: Key, version: int, upto: int) -> None:
        """Convict memory that holds what was overtaken by a change up to `upto`."""
        states = self.states.get(key)
        if states is not None and version < states.at[states.index(upto)]:
            self.violated("held", f"{who} holds {key}@{version} though it has applied {upto}")

    def replayed(self, key: Key, version: int, cursor: int) -> None:
        """Convict a Redis that holds what the log up to its cursor has ended."""
        states = self.states.get(key)
        if states is None:
            return
        place = bisect_right(states.named, cursor)
        if place and states.named[place - 1] > version:
            self.violated("Redis holds what was overtaken", f"{key}@{version} with the cursor at {cursor}")
        for retired, sequence, pattern in self.retired:
            if retired <= cursor and version < sequence and pattern.matches(key):
                self.violated("Redis holds what a retired pattern killed", f"{key}@{version}, {pattern.text}@{sequence}")

    def acknowledged(self, key: Key, version: int, value: bytes) -> None:
        """Convict an acknowledgement of what the log does not have."""
        states = self.states.get(key)
        if states is None:
            return
        place = states.index(version)
        held = states.entries[place]
        if states.at[place] != version or held is None or held.value != value:
            self.violated("lost write", f"{key}@{version} was acknowledged")

    def refuse(self, value: bytes) -> None:
        """Convict a log that has what was refused."""
        if value in self._written:
            self.violated("applied refused write", f"{value!r} was refused and is at {self._written[value]}")

    def now_is(self, key: Key, now: float) -> Entry | None:
        """What every level has to agree on at rest."""
        entry = self.states[key].entries[-1]
        return entry if entry is not None and entry.live(now) else None
