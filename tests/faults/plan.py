"""The plan of a run: what each client does, and what goes wrong when. A pure function of the seed, the stores and the time.

The same seed gives the same plan; how operations and faults then fall together is the machine's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from random import Random
from typing import Final, NamedTuple

CLIENTS: Final = 8
GROUPS: Final = "abcd"
REGISTERS: Final = tuple(f"register:{group}:{number}" for group in GROUPS for number in range(6))
COUNTERS: Final = tuple(f"counter:{number}" for number in range(4))
KEYS: Final = REGISTERS + COUNTERS
STEP: Final = "0.1"  # of every increment: exact only where it is added as a decimal


class Stores(StrEnum):
    """Over what a run goes."""

    POSTGRES = "postgres"  # PostgreSQL and a Valkey, services of their own
    CLUSTER = "cluster"  # PostgreSQL and a Valkey Cluster of three masters
    SQLITE = "sqlite"  # SQLite and a Valkey, workers of one service

    @property
    def nodes(self) -> int:
        return 2 if self is Stores.SQLITE else 3


class Action(StrEnum):
    """What a client does."""

    READ = "read"
    READ_LEAST = "read with Min-Version"
    READ_FRESH = "read from the authority"
    SET = "set"
    DELETE = "delete"
    INCREMENT = "increment"
    SWAP = "compare and set"
    CREATE = "create"
    FILL = "fill"
    INVALIDATE = "invalidate"
    FLOOD = "flood"  # many writes of other keys: what is forgotten, trimmed and evicted is so because of them


_SHARES: Final = {
    Action.READ: 400,
    Action.READ_LEAST: 100,
    Action.READ_FRESH: 60,
    Action.SET: 150,
    Action.DELETE: 40,
    Action.INCREMENT: 100,
    Action.SWAP: 60,
    Action.CREATE: 30,
    Action.FILL: 50,
    Action.INVALIDATE: 8,
    Action.FLOOD: 2,
}


class Wish(NamedTuple):
    """One operation of a client. `retried`: it carries an `Idempotency-Key` and is sent again until its outcome is known."""

    number: int
    action: Action
    key: str
    node: int
    retried: bool
    pause: float  # seconds before it


def _key(rng: Random, action: Action) -> str:
    if action is Action.INCREMENT:
        return rng.choice(COUNTERS)
    if action is Action.INVALIDATE:
        return f"register:{rng.choice(GROUPS)}:*"
    return rng.choice(KEYS if action in (Action.READ, Action.READ_LEAST, Action.READ_FRESH) else REGISTERS)


class Habits(NamedTuple):
    """How often a client does what, and the key of an action."""

    shares: Mapping[Action, int]
    key: Callable[[Random, Action], str]


USUAL: Final = Habits(_SHARES, _key)


def wishes(seed: int, client: int, nodes: int, *, pause: float, habits: Habits = USUAL) -> Iterator[Wish]:
    """What a client does, without end. `pause` is the mean of the pauses."""
    rng = Random(f"{seed} client {client}")
    actions, shares = list(habits.shares), list(habits.shares.values())
    for number in count(1):
        [action] = rng.choices(actions, shares)
        key = habits.key(rng, action)
        yield Wish(number, action, key, rng.randrange(nodes), rng.random() < 0.8, rng.uniform(0, 2 * pause))


class Fault(StrEnum):
    """What goes wrong."""

    REDIS_STOPPED = "Redis is stopped, and comes back empty"
    REDIS_KILLED = "Redis is killed, and comes back empty"
    REDIS_OLD = "Redis is killed, and comes back with what it had earlier"
    REDIS_FROZEN = "Redis is frozen"
    REDIS_FLUSHED = "Redis is flushed"
    REDIS_SLOW = "Redis takes 2 s for an answer"
    REDIS_EVICTING = "Redis has too little memory"
    REDIS_CUT = "no node reaches Redis"
    REDIS_HELD = "nothing passes to or from Redis"
    REDIS_CUT_ONE = "one node does not reach Redis"
    REDIS_FAILED_OVER = "a replica of Redis that lags takes over"
    REDIS_HALF = "a part of the Cluster is killed, and comes back empty"
    DATABASE_RESTARTED = "PostgreSQL is restarted at once"
    DATABASE_CUT = "no node reaches PostgreSQL"
    DATABASE_CUT_ONE = "one node does not reach PostgreSQL"
    DATABASE_HELD = "nothing passes to or from PostgreSQL"
    DATABASE_SLOW = "PostgreSQL takes 0.3 s longer for an answer"
    DATABASE_RESTORED = "PostgreSQL is restored from a backup of a while ago"
    COMMIT_CUT_BEFORE = "connections break before the commit"
    COMMIT_CUT_AFTER = "connections break after the commit"
    DATABASE_BUSY = "another writer holds the SQLite file"
    WAKE_UPS_LOST = "wake-ups are lost"
    NODE_KILLED = "a node is killed"
    NODE_FROZEN = "a node is frozen"
    NODE_OUTRUN = "a node is frozen for longer than the log is kept"
    SERVICE_KILLED = "a service is killed, and started anew"


_REDIS: Final = (
    Fault.REDIS_STOPPED,
    Fault.REDIS_KILLED,
    Fault.REDIS_OLD,
    Fault.REDIS_OLD,
    Fault.REDIS_FROZEN,
    Fault.REDIS_FLUSHED,
    Fault.REDIS_SLOW,
    Fault.REDIS_EVICTING,
    Fault.REDIS_CUT,
    Fault.REDIS_HELD,
)
_POSTGRES: Final = (
    Fault.DATABASE_RESTARTED,
    Fault.DATABASE_CUT,
    Fault.DATABASE_CUT_ONE,
    Fault.DATABASE_HELD,
    Fault.DATABASE_SLOW,
    Fault.DATABASE_RESTORED,
    Fault.COMMIT_CUT_BEFORE,
    Fault.COMMIT_CUT_AFTER,
    Fault.COMMIT_CUT_AFTER,
    Fault.WAKE_UPS_LOST,
)
_NODES: Final = (Fault.NODE_KILLED, Fault.NODE_FROZEN, Fault.NODE_FROZEN, Fault.NODE_OUTRUN, Fault.SERVICE_KILLED)

LANES: Final[dict[Stores, tuple[tuple[Fault, ...], ...]]] = {
    Stores.POSTGRES: ((*_REDIS, Fault.REDIS_FAILED_OVER, Fault.REDIS_CUT_ONE, Fault.REDIS_CUT_ONE), _POSTGRES, _NODES),
    Stores.CLUSTER: ((*_REDIS, Fault.REDIS_HALF, Fault.REDIS_HALF, Fault.REDIS_HALF), _POSTGRES, _NODES),
    Stores.SQLITE: ((*_REDIS, Fault.REDIS_FAILED_OVER), (Fault.DATABASE_BUSY, Fault.WAKE_UPS_LOST), _NODES),
}
_AT_ONCE: Final = frozenset({Fault.REDIS_FLUSHED, Fault.DATABASE_RESTARTED, Fault.NODE_KILLED, Fault.SERVICE_KILLED})


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault, when it begins (seconds into the run), how long it lasts, and a number to choose its victim by."""

    fault: Fault
    at: float
    seconds: float
    victim: int


def troubles(seed: int, stores: Stores, seconds: float) -> Sequence[Sequence[Trouble]]:
    """The faults of each lane; those of a lane come one after the other, lanes run beside each other.

    A lane takes its faults from a shuffled pack, so that in a run long enough each comes in turn.
    """
    lanes = []
    for lane, faults in enumerate(LANES[stores]):
        rng = Random(f"{seed} {stores} lane {lane}")
        planned: list[Trouble] = []
        pack: list[Fault] = []
        at = rng.uniform(0.5, 2.0)
        while at < seconds - 0.5:
            if not pack:
                pack = rng.sample(faults, len(faults))
            fault = pack.pop()
            lasts = 0.0 if fault in _AT_ONCE else min(rng.choice((0.3, 0.8, 1.5, 2.5, 4.0)), max(0.3, seconds / 6))
            planned.append(Trouble(fault, round(at, 3), lasts, rng.randrange(1 << 16)))
            at += lasts + rng.uniform(0.5, 3.0)
        lanes.append(planned)
    return lanes
