"""The history of a run: what each client asked for, when, and what it was told. One JSON object a line.

Times are of one clock, that of the process all clients live in; an operation with its retries is one record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

TRUTH = "truth"  # as a node: the authority, which reads that must be fresh are asked of


class Kind(StrEnum):
    READ = "read"
    SET = "set"
    DELETE = "delete"
    INCREMENT = "increment"
    INVALIDATE = "invalidate"
    RESTORE = "restore"  # no client's: an older backup took the place of the database


class Outcome(StrEnum):
    """How an operation ended for the client."""

    OK = "ok"  # a read was answered (with an entry, or that there is none), a write acknowledged
    REFUSED = "refused"  # it was said that nothing was written
    UNKNOWN = "unknown"  # nobody knows
    AWAY = "away"  # a read that was not answered
    OVER = "over"  # a read was told to start over, since what it wants may be lost with a history
    ODD = "odd"  # an answer that the contract does not know


class Mode(StrEnum):
    """What a read asked for."""

    PLAIN = "plain"
    LEAST = "least"  # Min-Version
    FRESH = "fresh"  # from the authority
    FINAL = "final"  # plain, after everything has healed and come to rest


class Op(NamedTuple):
    """One operation. `version` 0: nothing was found, or is known; of a read `value` is what was seen, of a write what was sent.

    `node` is the life of a process that gave the last answer. `expected` is the version that a write demanded (0: none,
    -1: it demanded nothing), `token` the sequence of the miss that it fills (-1: it fills none).
    """

    client: int
    number: int
    kind: Kind
    key: str
    start: float
    end: float
    outcome: Outcome
    node: str = ""
    version: int = 0
    value: str = ""
    mode: Mode = Mode.PLAIN
    least: int = 0
    expected: int = -1
    token: int = -1
    keys: tuple[str, ...] = ()  # that an invalidation matches
    total: str = ""  # that an increment was answered with
    attempts: int = 1
    detail: str = ""


class Restored(NamedTuple):
    """A backup that was taken between `first` and `last`, and put back between `gone` and `noticed`, when every node knew."""

    first: float
    last: float
    gone: float
    noticed: float


def restore(times: Restored) -> Op:
    """As it stands in a history."""
    detail = f"{times.last!r} {times.gone!r}"
    return Op(-1, 0, Kind.RESTORE, "", times.first, times.noticed, Outcome.OK, detail=detail)


def restored(op: Op) -> Restored:
    last, gone = map(float, op.detail.split())
    return Restored(op.start, last, gone, op.end)


def ended(history: Iterable[Op]) -> Counter[tuple[Kind, Outcome]]:
    """How often what ended how."""
    return Counter((op.kind, op.outcome) for op in history)


def ended_table(history: Iterable[Op], kinds: Iterable[Kind] = Kind) -> list[str]:
    """The same as the lines of a Markdown table."""
    counted = ended(history)
    rows = [f"| {kind} | " + " | ".join(str(counted[kind, outcome]) for outcome in Outcome) + " |" for kind in kinds]
    return ["| operation | " + " | ".join(Outcome) + " |", "|---|" + "---|" * len(Outcome), *rows]


def dumped(op: Op) -> str:
    """The line of an operation, without what is as it usually is."""
    usual = Op._field_defaults
    return json.dumps({name: value for name, value in op._asdict().items() if name not in usual or value != usual[name]})


def loaded(line: str) -> Op:
    said = json.loads(line)
    said |= {"kind": Kind(said["kind"]), "outcome": Outcome(said["outcome"]), "mode": Mode(said.get("mode", Mode.PLAIN))}
    return Op(**{**said, "keys": tuple(said.get("keys", ()))})


def write_history(path: Path, history: Iterable[Op]) -> None:
    with path.open("w") as file:
        file.writelines(dumped(op) + "\n" for op in history)


def read_history(path: Path) -> Iterator[Op]:
    with path.open() as file:
        for line in file:
            yield loaded(line)
