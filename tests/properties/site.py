"""A site of nodes over one database and one Redis, in one process, moved on step by step.

What runs is the engine itself, the follower, the replay, the retirement and the sweep, the Redis tier and the memory tier; what
is fake is what lies beyond them. Every step is followed by a look at what the tiers hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from random import Random
from typing import Any, Final, TypeVar
from unittest.mock import patch

from cachesvc.engine.cache import Limits
from cachesvc.model import keys as model_keys
from cachesvc.model.change import Change
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded
from cachesvc.tiers import memory, redis_partitions
from cachesvc.tiers import redis as redis_tier
from cachesvc.tiers.codec import Codec
from tests.properties.database import Database
from tests.properties.loop import Time
from tests.properties.node import LIMITS, Node
from tests.properties.redis_server import RedisServer, Server, Value
from tests.properties.truth import Meaning, Truth
from tests.properties.wire import Call, Wire

T = TypeVar("T")
PARTITIONS: Final = 2
KEYS: Final = tuple(map(Key, ("a:1", "a:2", "b:1", "l:1", "n:1")))  # l has a loader, n is a counter, b is computed from a


@contextmanager
def small() -> Iterator[None]:
    """What is bounded is small, so that few steps reach the bounds."""
    codec = Codec(compression=False)  # it keeps nothing, and costs more to make than all else of a node
    with ExitStack() as stack:
        stack.enter_context(patch.object(redis_tier, "Codec", lambda *_, **__: codec))
        stack.enter_context(patch.object(model_keys, "PARTITIONS", PARTITIONS))
        stack.enter_context(patch.object(redis_partitions, "PARTITIONS", PARTITIONS))
        stack.enter_context(patch.object(memory, "_SETTLE_STEP", 1))
        yield


class Site:
    """Nodes, stores, the wire between them, and the truth. `held(call)` says which calls `settle` leaves alone."""

    def __init__(self, random: Random, *, redis: Callable[[Time], Server] = RedisServer) -> None:
        self.random = random
        self.time = Time()
        self.wire = Wire()
        self.truth = Truth(KEYS)
        self.database = Database(self.time, self._committed)
        self.redis = redis(self.time)
        self.nodes: list[Node] = []
        self.bells: list[tuple[Node, int]] = []  # wake-ups under way
        self.numbers = count(1)
        self.errors: list[str] = []
        self.barren = 0.0  # how often the origin has nothing
        self.trace: list[str] | None = None
        self._in_redis: dict[bytes, tuple[int, float]] = {}  # versions and their ends, when last looked at
        self._holds: list[Callable[[Call], bool]] = []
        self._names = count(1)

    # nodes

    def node(self, limits: Limits = LIMITS, *, settled: bool = True) -> Node:
        """A new node, up when this returns if `settled`."""
        node = Node(self, f"n{next(self._names)}")
        self.nodes.append(node)
        node.start(node.boot(limits))
        node.loop.run()
        if settled:
            self.settle()
        return node

    def crash(self, node: Node) -> None:
        """It is killed: what it had asked for may still happen, and it hears of nothing any more."""
        self.wire.drop(node)
        node.alive = False
        self.bells = [bell for bell in self.bells if bell[0] is not node]
        self.nodes.remove(node)
        node.loop.end()
        node.loop.errors.clear()  # of how it ended

    def end(self) -> None:
        for node in list(self.nodes):
            self.crash(node)

    def _collect(self, node: Node) -> None:
        self.errors += node.loop.errors
        node.loop.errors.clear()

    # steps

    def arrive(self, call: Call) -> None:
        self.note(call)
        self.wire.arrive(call)
        if call.store == "redis":
            self.look_at_redis()

    def deliver(self, call: Call) -> None:
        self.note(call)
        self.wire.deliver(call)
        assert isinstance(call.caller, Node)
        self.run(call.caller)

    def cut(self, call: Call, error: Exception) -> None:
        self.note(call, f"{error!r}")
        self.wire.cut(call, error)
        assert isinstance(call.caller, Node)
        self.run(call.caller)

    def arrive_late(self, call: Call) -> None:
        self.note(call, "late")
        self.wire.arrive_late(call)
        self.look_at_redis()

    def ring(self, place: int, *, again: bool = False) -> None:
        """Deliver a wake-up; `again` keeps it, so that it comes twice."""
        node, sequence = self.bells[place]
        if not again:
            del self.bells[place]
        node.bell.ring(sequence)
        self.run(node)

    def tick(self, node: Node) -> None:
        """Time goes on to the node's next timer."""
        due = node.loop.due
        if due is not None:
            self.time.reach(due)
            node.loop.ring()
            self.run(node)

    def run(self, node: Node) -> None:
        """Let it do what it can, and look at what it then holds."""
        node.loop.run()
        if node.loop.errors:
            self._collect(node)
        if node.up:
            upto = node.cache.floors.applied.sequence
            for entry in node.memory.held():
                self.truth.holds(node.name, entry.key, entry.version, upto)

    def look_at_redis(self) -> None:
        """Hold what Redis has against how far it says that it was replayed, and against what it had before."""
        redis = self.redis
        held = redis.live() if isinstance(redis, RedisServer) else redis.dump()
        ends = redis.ends if isinstance(redis, RedisServer) else {}
        now = self.time.seconds
        versions: dict[bytes, tuple[int, float]] = {}
        for name, value in held.items():
            parts = redis_partitions.entry_key(name)
            if parts is None or not isinstance(value, bytes):
                continue
            _, head, key = parts
            version = int.from_bytes(value[1:8])
            versions[name] = version, ends.get(name, math.inf)
            before, until = self._in_redis.get(name, (0, math.inf))
            if version < before and now < until:
                self.truth.violated("put over something newer", f"{key}@{version} over @{before}")
            stem, _, generation = head[:-1].rpartition(b":")
            said = held.get(stem + b":state")
            state = redis_partitions.parse_state(said) if isinstance(said, bytes) else None
            if state is not None and state.generation == generation and state.epoch == self.database.base.epoch:
                self.truth.replayed(key, version, state.cursor)
        self._in_redis = versions

    def evict(self, name: bytes) -> None:
        """Redis lets go of a key."""
        self.redis.evict(name)
        self._in_redis.pop(name, None)

    def set_back(self, held: dict[bytes, Value]) -> None:
        """Redis comes back with something else."""
        self.redis.restore(held)
        self._in_redis = {}
        self.look_at_redis()

    # for schedules that are written down

    @contextmanager
    def hold(self, node: Node, store: str, name: str, *, answer: bool = False) -> Iterator[None]:
        """Within, such calls of the node wait where they are; with `answer`, their answers."""

        def held(call: Call) -> bool:
            return call.caller is node and call.store == store and call.name == name and call.arrived == answer

        self._holds.append(held)
        try:
            yield
        finally:
            self._holds.remove(held)

    def settle(self) -> None:
        """Deliver, in order, all that is not held: calls, answers and wake-ups. Time stands still."""
        for node in self.nodes:
            self.run(node)
        while True:
            moving = next((call for call in self.wire.calls if not any(held(call) for held in self._holds)), None)
            if moving is not None:
                (self.deliver if moving.arrived else self.arrive)(moving)
            elif self.bells:
                self.ring(0)
            else:
                return

    def does(self, node: Node, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have a node do something, and wait until it has done it and all has settled."""
        task = node.start(coroutine)
        self.settle()
        return task.result()

    def replay(self, node: Node) -> None:
        """Let a node replay all there is, and every node vouch for what Redis has then."""
        node.replayer._at = None
        while self._ends(node, node.replayer.step()):
            continue
        for other in self.nodes:
            if other.up:
                self._ends(other, other.voucher.survey())

    def _ends(self, node: Node, coroutine: Coroutine[Any, Any, object]) -> bool:
        """Whether it ends, all being delivered that is not held; it is cancelled where it does not."""
        task = node.start(coroutine)
        self.settle()
        if task.done():
            task.result()
            return True
        task.cancel()
        self.run(node)
        return False

    # what is outside

    def has_origin(self, key: Key) -> bool:
        return self.truth.origin[key] >= 0 and (not self.barren or self.random.random() >= self.barren)

    def made_from_origin(self, key: Key) -> Loaded:
        value = b"o%d" % next(self.numbers)
        self.truth.meanings[value] = Meaning(key, origin=self.truth.origin[key])
        return Loaded(value, "text/plain")

    def _committed(self, changes: Sequence[Change]) -> None:
        if changes:
            self.truth.commit(changes)
            self.bells += [(node, changes[-1].sequence) for node in self.nodes if node.up]

    def note(self, what: object, more: str = "") -> None:
        if self.trace is not None:
            self.trace.append(f"{self.time.seconds:8.3f} {what} {more}")

    def look_at_patterns(self, node: Node) -> None:
        """Where all patterns were retired, and the node knows it, none is in force there."""
        active = [one.pattern.text for one in node.cache.floors.patterns if not one.retired]
        if active:
            self.truth.violated("a pattern stays", f"{node.name} has {active} in force, which were retired")

    @property
    def broken(self) -> Iterable[str]:
        """What was violated, in words."""
        return [f"{one.kind}: {one.text}" for one in self.truth.violations] + [f"error: {text}" for text in self.errors]
