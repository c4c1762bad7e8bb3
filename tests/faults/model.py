"""A trivial cache in memory, which several nodes follow, and the histories of clients over it: correct, or broken on purpose.

Each operation takes effect in one step between its beginning and its end; steps of all clients come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from random import Random

from tests.faults.history import Kind, Mode, Op, Outcome

KEYS = ("r:0", "r:1", "c:0")  # the last is a counter
NODES = 3
CLIENTS = 4


class Broken(StrEnum):
    """A rule that the model can do without."""

    LOSES = "an acknowledged write is forgotten"
    APPLIES_REFUSED = "a refused write is applied"
    GOES_BACK = "a node reads an earlier state than before"
    IGNORES_LEAST = "Min-Version is ignored"
    REPEATS = "a write is applied twice"
    IGNORES_CONDITIONS = "conditions are ignored"
    KEEPS_INVALIDATED = "a node ignores invalidations"
    STAYS_STALE = "a node does not follow any more"


@dataclass(slots=True)
class Node:
    life: str
    applied: int = 0
    seen: dict[str, int] = field(default_factory=dict)  # the state of a key that it has read past `applied`


@dataclass(slots=True)
class Model:
    """The log, and who follows it. Version n is the nth change."""

    rng: Random
    broken: Broken | None = None
    now: float = 0.0
    log: list[tuple[tuple[str, ...], str | None, bool]] = field(default_factory=list)  # keys, value, whether by invalidation
    history: list[Op] = field(default_factory=list)
    begun: dict[int, Op] = field(default_factory=dict)  # by client
    late: list[Op] = field(default_factory=list)  # of unknown outcome, not applied yet
    nodes: list[Node] = field(default_factory=list)

    def state(self, key: str, upto: int, *, invalidations: bool = True) -> tuple[int, str]:
        for version in range(upto, 0, -1):
            keys, value, invalidation = self.log[version - 1]
            if key in keys and (invalidations or not invalidation):
                return (version, value) if value is not None else (0, "")
        return 0, ""

    def last(self, key: str, upto: int) -> int:
        return next((version for version in range(upto, 0, -1) if key in self.log[version - 1][0]), 0)

    def apply(self, op: Op) -> Op:
        """A write takes effect, or is refused."""
        ignored = self.broken is Broken.IGNORES_CONDITIONS
        if op.expected >= 0 and self.state(op.key, len(self.log))[0] != op.expected and not ignored:
            return op._replace(outcome=Outcome.REFUSED)
        if op.token >= 0 and self.last(op.key, len(self.log)) > op.token and not ignored:
            return op._replace(outcome=Outcome.REFUSED)
        value: str | None = op.value
        if op.kind is Kind.INCREMENT:
            value = str(Decimal(self.state(op.key, len(self.log))[1] or "0") + Decimal(op.value))
            op = op._replace(total=value)
        elif op.kind is not Kind.SET:
            value = None
        keys = op.keys or (op.key,)
        if self.broken is Broken.LOSES and self.rng.random() < 0.2:
            keys = ()
        self.log.append((keys, value, op.kind is Kind.INVALIDATE))
        done = op._replace(outcome=Outcome.OK, version=len(self.log))
        if self.broken is Broken.REPEATS and self.rng.random() < 0.3:
            again = str(Decimal(value) + Decimal(op.value)) if op.total and value is not None else value
            self.log.append((keys, again, op.kind is Kind.INVALIDATE))
        return done

    def read(self, op: Op, node: Node) -> Op:
        head = len(self.log)
        at = max(node.applied, node.seen.get(op.key, 0))
        if op.mode is Mode.FRESH or self.rng.random() < 0.2 or (at < op.least and self.broken is not Broken.IGNORES_LEAST):
            at = head
        if self.broken is Broken.GOES_BACK and op.mode is not Mode.FRESH and self.rng.random() < 0.3:
            at = self.rng.randint(0, at)
        elif self.broken is not Broken.STAYS_STALE or op.mode is not Mode.FRESH:
            node.seen[op.key] = at
        invalidations = self.broken is not Broken.KEEPS_INVALIDATED or op.mode is Mode.FRESH
        version, value = self.state(op.key, at, invalidations=invalidations)
        return op._replace(outcome=Outcome.OK, version=version, value=value)

    # clients

    def client(self, number: int) -> Iterator[None]:
        """A client without end: a step each time it is its turn."""
        count = 0
        while True:
            count += 1
            op = self.wish(number, count)
            node = self.rng.choice(self.nodes)
            self.begun[number] = op = op._replace(node=node.life, start=self.now)
            yield
            if op.kind is Kind.READ:
                op = self.read(op, node)
            else:
                yield from self.write(op, node)
                continue
            yield
            self.end(op if node in self.nodes else op._replace(outcome=Outcome.AWAY, version=0))

    def end(self, op: Op) -> None:
        del self.begun[op.client]
        self.history.append(op._replace(end=self.now))

    def write(self, op: Op, node: Node) -> Iterator[None]:
        fate = self.rng.random()
        if fate < 0.1:
            if self.broken is Broken.APPLIES_REFUSED:
                self.apply(op)
            self.end(op._replace(outcome=Outcome.REFUSED))
            return
        if fate < 0.25:
            if self.rng.random() < 0.7:
                self.late.append(op)
            yield
            self.end(op._replace(outcome=Outcome.UNKNOWN))
            return
        op = self.apply(op)
        if op.outcome is Outcome.OK:
            for key in op.keys or (op.key,):
                node.seen[key] = max(op.version, node.seen.get(key, 0))
        yield
        self.end(op)

    def follow(self, node: Node, upto: int) -> None:
        if self.broken is not Broken.STAYS_STALE or node is not self.nodes[0]:
            node.applied = upto

    def wish(self, client: int, number: int) -> Op:
        rng = self.rng
        key = rng.choice(KEYS)
        op = Op(client, number, Kind.READ, key, 0.0, 0.0, Outcome.AWAY)
        if rng.random() < 0.5:
            mode = rng.choice((Mode.PLAIN, Mode.PLAIN, Mode.LEAST, Mode.FRESH))
            return op._replace(mode=mode, least=rng.randint(0, len(self.log)) if mode is Mode.LEAST else 0)
        if key.startswith("c"):
            return op._replace(kind=Kind.INCREMENT, value="0.1")
        value = f"{client}:{number}"
        match rng.randrange(6):
            case 0:
                return op._replace(kind=Kind.DELETE)
            case 1:
                return op._replace(kind=Kind.INVALIDATE, key="", keys=KEYS[:2])
            case 2:
                return op._replace(kind=Kind.SET, value=value, expected=self.state(key, len(self.log))[0])
            case 3:
                return op._replace(kind=Kind.SET, value=value, token=len(self.log))
            case _:
                return op._replace(kind=Kind.SET, value=value)

    def finish(self) -> None:
        """Peace: all has been applied, all follow, and all is read."""
        for op in list(self.begun.values()):
            self.end(op._replace(outcome=Outcome.AWAY if op.kind is Kind.READ else Outcome.UNKNOWN))
        for op in self.late:
            self.apply(op)
        for node in self.nodes:
            self.follow(node, len(self.log))
        for mode in (Mode.FRESH, Mode.FINAL, Mode.FRESH):
            for node in self.nodes:
                for key in KEYS:
                    self.now += 1
                    op = Op(-1, 0, Kind.READ, key, self.now, self.now + 0.5, Outcome.AWAY, node.life, mode=mode)
                    self.history.append(self.read(op, node))


def history(seed: int, *, steps: int, broken: Broken | None = None) -> list[Op]:
    """A random history."""
    rng = Random(seed)
    model = Model(rng, broken)
    lives = 0
    for _ in range(NODES):
        lives += 1
        model.nodes.append(Node(f"life {lives}"))
    clients = [model.client(number) for number in range(CLIENTS)]
    for _ in range(steps):
        model.now += rng.random()
        next(rng.choice(clients))
        node = rng.choice(model.nodes)
        if rng.random() < 0.3:
            model.follow(node, rng.randint(node.applied, len(model.log)))
        if model.late and rng.random() < 0.1:
            model.apply(model.late.pop(rng.randrange(len(model.late))))
        if rng.random() < 0.02:
            lives += 1
            model.nodes[model.nodes.index(node)] = Node(f"life {lives}", applied=len(model.log))
    model.finish()
    return model.history
