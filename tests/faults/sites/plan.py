"""The plan of a run over sites: what each client does, and what goes wrong where and when. A pure function of the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations
from random import Random
from typing import Final

from tests.faults.plan import Action, Fault, Habits, Stores, Trouble

NAMES: Final = ("berlin", "oslo", "porto")
NODES: Final = 2  # of each site
CLIENTS: Final = 2  # of each site
RATE: Final = 40.0  # operations a second, of all clients
REGISTERS: Final = tuple(f"register:{number}" for number in range(16))
COUNTERS: Final = tuple(f"counter:{number}" for number in range(3))  # nothing but increments
TALLIES: Final = tuple(f"tally:{number}" for number in range(2))  # increments, and now and then a deletion
KEYS: Final = REGISTERS + COUNTERS + TALLIES

_SHARES: Final = {Action.SET: 45, Action.SWAP: 12, Action.CREATE: 4, Action.DELETE: 12, Action.INCREMENT: 20, Action.READ: 7}
_CLEARED: Final = 0.1  # of the deletions, that are of a tally


def _key(rng: Random, action: Action) -> str:
    if action is Action.INCREMENT:
        return rng.choice(COUNTERS + TALLIES)
    return rng.choice(TALLIES if action is Action.DELETE and rng.random() < _CLEARED else REGISTERS)


HABITS: Final = Habits(_SHARES, _key)


class Line(StrEnum):
    """What goes wrong between sites."""

    CUT = "one does not reach the other"
    APART = "two do not reach each other"
    ALONE = "one reaches nobody, and nobody reaches it"
    HELD = "nothing passes between two, and nobody is told"
    SLOW = "an answer takes longer"


@dataclass(frozen=True, slots=True)
class Break:
    """A fault of lines, when it begins, how long it lasts, and whose it is."""

    fault: Line
    at: float
    seconds: float
    asker: str
    told: str

    def of(self, lines: Iterable[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        """Those of the lines that it breaks."""
        if self.fault is Line.ALONE:
            return [line for line in lines if self.asker in line]
        both = self.fault in (Line.APART, Line.HELD)
        return [(self.asker, self.told), (self.told, self.asker)][: 1 + both]


_ANYWHERE: Final = (
    Fault.NODE_KILLED,
    Fault.NODE_KILLED,
    Fault.NODE_FROZEN,
    Fault.SERVICE_KILLED,
    Fault.REDIS_KILLED,
    Fault.REDIS_CUT,
    Fault.WAKE_UPS_LOST,
)
_OF_SITES: Final = {
    Stores.SQLITE: (*_ANYWHERE, Fault.DATABASE_BUSY),
    Stores.POSTGRES: (
        *_ANYWHERE,
        Fault.DATABASE_RESTARTED,
        Fault.DATABASE_CUT_ONE,
        Fault.COMMIT_CUT_BEFORE,
        Fault.COMMIT_CUT_AFTER,
    ),
}
_AT_ONCE: Final = frozenset({Fault.NODE_KILLED, Fault.SERVICE_KILLED, Fault.DATABASE_RESTARTED})
_LASTING: Final = (0.5, 2.0, 4.0, 8.0, 20.0, 45.0)  # seconds; the last ones longer than the logs go back


def lines_of(names: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Who asks, and whom."""
    return tuple(permutations(names, 2))


def breaks(seed: int, names: Sequence[str], seconds: float) -> Sequence[Sequence[Break]]:
    """The faults of the lines, in two lanes beside each other, so that some overlap."""
    lanes = []
    for lane in range(2):
        rng = Random(f"{seed} lines {lane}")
        planned: list[Break] = []
        at = rng.uniform(0.5, 2.0)
        while at < seconds - 0.5:
            lasts = min(rng.choice(_LASTING), max(0.5, seconds / 4))
            planned.append(Break(rng.choice(list(Line)), round(at, 3), lasts, *rng.choice(lines_of(names))))
            at += lasts + rng.uniform(0.5, 6.0)
        lanes.append(planned)
    return lanes


def troubles(seed: int, site: str, stores: Stores, seconds: float) -> Sequence[Trouble]:
    """The faults of one site, one after the other, from a shuffled pack."""
    rng = Random(f"{seed} site {site}")
    planned: list[Trouble] = []
    pack: list[Fault] = []
    at = rng.uniform(1.0, min(8.0, seconds / 2))
    while at < seconds - 0.5:
        pack = pack or rng.sample(_OF_SITES[stores], len(_OF_SITES[stores]))
        fault = pack.pop()
        lasts = 0.0 if fault in _AT_ONCE else min(rng.choice((0.3, 1.0, 2.5, 4.0)), max(0.3, seconds / 6))
        planned.append(Trouble(fault, round(at, 3), lasts, rng.randrange(1 << 16)))
        at += lasts + rng.uniform(3.0, 9.0)
    return planned
