"""A history: one seed, one interleaving of clients, nodes, stores and faults; then all is mended and has to agree.

The same seed is the same history, to the last step.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from cachesvc.engine.answers import Answer, Want
from cachesvc.errors import CacheError, OutcomeUnknown, TierUnavailable
from cachesvc.model.change import Draft, Kind, Operation
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version
from tests.properties import clients
from tests.properties.loop import Time
from tests.properties.node import LIMITS, Node
from tests.properties.redis_server import RedisServer, Server, Value
from tests.properties.site import KEYS, Site
from tests.properties.wire import Call

STEPS: Final = 260
NODES: Final = 3
BUSY: Final = 10  # clients at once
PATTERNS: Final = ("a:*", "a:1", "?:1", "b:*", "l:*")
PARENT, CHILD, LOADED, COUNTER = Key("a:1"), Key("b:1"), Key("l:1"), Key("n:1")
_SETTLING: Final = 5_000  # steps in which all must have come to rest


class History:
    """One run. `run()` plays it and returns what was violated."""

    def __init__(
        self,
        seed: int,
        *,
        redis: Callable[[Time], Server] | None = None,
        steps: int = STEPS,
        trace: bool = False,
        without: str = "",
    ) -> None:
        self.random = Random(seed)
        self.site = Site(self.random, redis=redis or (lambda time: RedisServer(time, without=without)))
        self.site.trace = [] if trace else None
        self.site.barren = 0.15
        self.steps = steps
        self._snapshot: dict[bytes, Value] | None = None
        self._tokens: list[tuple[Node, Position, int]] = []  # of misses, and the origin's state when it was asked
        self._added = 0
        self._unsure = 0  # increments whose outcome is not known
        self._duty: Node | None = None

    def run(self) -> list[str]:
        site = self.site
        try:
            for _ in range(NODES):
                self._boot()
            site.settle()
            for _ in range(self.steps):
                self._step()
            self._mend()
            self._agree()
        finally:
            site.end()
        return list(site.broken)

    # at random

    def _step(self) -> None:
        site, rng = self.site, self.random
        chance = rng.random()
        if chance < 0.25:
            self._ask()
        elif chance < 0.33:
            self._fault()
        else:
            calls = site.wire.calls
            # an answer reaches no node that is frozen; what it asked for happens all the same
            place = rng.randrange(len(calls) + len(site.bells) + 2)
            if place < len(calls):
                self._move(calls[place])
            elif place < len(calls) + len(site.bells):
                self._ring(place - len(calls))
            else:
                self._tick()

    def _move(self, call: Call) -> None:
        site = self.site
        if not call.arrived:
            site.arrive(call)
        elif not call.caller.frozen:  # type: ignore[attr-defined]
            site.deliver(call)

    def _ring(self, place: int) -> None:
        site = self.site
        chance = self.random.random()
        if chance < 0.3:
            del site.bells[place]  # lost
        elif not site.bells[place][0].frozen:
            site.ring(place, again=chance < 0.4)

    def _tick(self) -> None:
        waiting = [node for node in self.site.nodes if not node.frozen and node.loop.due is not None]
        if waiting:
            self.site.tick(min(waiting, key=lambda node: node.loop.due or 0.0))

    def _ask(self) -> None:
        site, rng = self.site, self.random
        awake = [node for node in site.nodes if node.up and not node.frozen]
        if not awake or sum(len(node.tasks) for node in awake) >= BUSY:
            return
        node = rng.choice(awake)
        coroutine = self._client(node, rng.random())
        if coroutine is not None:
            node.start(coroutine)
            site.run(node)

    def _client(self, node: Node, chance: float) -> Any:
        rng = self.random
        key = rng.choice(KEYS)
        if chance < 0.38:
            return clients.read(node, key)
        if chance < 0.41:
            return clients.read(node, key, Want(max_stale=1.0))
        if chance < 0.46:
            return clients.read(node, key, Want(fresh=True))
        if chance < 0.50:
            latest = self.site.database.position.sequence
            return clients.read(node, key, Want(min_version=Version(rng.randint(max(1, latest - 3), latest))))
        if chance < 0.70 and key == COUNTER:
            return self._increment(node)
        if chance < 0.66:
            return self._insist(node, clients.set_draft(node, key, ttl=rng.choice((None, None, 0.25, 2.0))))
        if chance < 0.70:
            held = self.site.truth.states[key].at[-1]
            return self._insist(node, clients.set_draft(node, key, expected=Version(held)))
        if chance < 0.74:
            return clients.write(node, Draft(Operation.DELETE, key))
        if chance < 0.79:
            return self._increment(node)
        if chance < 0.84:
            return clients.fill(node, rng.choice(self.site.nodes), CHILD, PARENT)
        if chance < 0.88:
            return self._fill_late(node)
        if chance < 0.94:
            text = rng.choice(PATTERNS) if rng.random() < 0.5 else "l:*"
            return clients.change_origin(node, LOADED, clients.wipe(text, soft=rng.random() < 0.2))
        if chance < 0.97:
            return clients.change_origin(node, LOADED, clients.wipe("", LOADED, key))
        return clients.write(node, clients.wipe("", PARENT, cascade=True))

    async def _insist(self, node: Node, draft: Draft) -> None:
        """Write until the outcome is known, or the node is gone."""
        for _ in range(4):
            outcome = await clients.write(node, draft)
            if not isinstance(outcome, OutcomeUnknown):
                return

    async def _increment(self, node: Node) -> None:
        self._unsure += 1
        outcome = await clients.write(node, Draft(Operation.INCREMENT, COUNTER))
        if not isinstance(outcome, OutcomeUnknown):
            self._unsure -= 1
            self._added += not isinstance(outcome, CacheError)

    async def _fill_late(self, node: Node) -> None:
        """Miss what has an origin, and fill in, some time, what the origin said right after the miss."""
        origin = self.site.truth.origin[LOADED]
        if self._tokens and self.random.random() < 0.7:
            _, token, origin = self._tokens.pop(self.random.randrange(len(self._tokens)))
            await self._fill_from(node, token, origin)
            return
        token = node.cache.applied
        missed = await clients.read(node, LOADED, Want(only_cached=True))
        if missed is not None and missed.entry is None:
            token = missed.token
        self._tokens.append((node, token, self.site.truth.origin[LOADED]))

    async def _fill_from(self, node: Node, token: Position, origin: int) -> None:
        truth = self.site.truth
        now, truth.origin[LOADED] = truth.origin[LOADED], origin
        coroutine = clients.fill_with(node, LOADED, token, None, 0)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        finally:
            truth.origin[LOADED] = now

    # what goes wrong

    def _boot(self) -> None:
        node = self.site.node(LIMITS, settled=False)
        node.start(self._when_up(node))

    async def _when_up(self, node: Node) -> None:
        await self._booted(node)
        node.serve_duties()
        if self._duty is None or not self._duty.alive:
            self._give_duties(node)

    async def _booted(self, node: Node) -> None:
        while not node.up:
            await self.site.time.sleep(0.01)

    def _give_duties(self, node: Node) -> None:
        if self._duty is not None:
            self._duty.hold_duties(False)  # what it is at, it still does
        self._duty = node
        node.hold_duties(True)

    def _fault(self) -> None:
        site, rng = self.site, self.random
        chance = rng.random()
        node = rng.choice(site.nodes)
        if chance < 0.20:
            names = site.redis.names()
            if names:
                site.note(name := rng.choice(names), "evicted")
                site.evict(name)
        elif chance < 0.26:
            self._snapshot = site.redis.dump()
            site.note("snapshot")
        elif chance < 0.32 and self._snapshot is not None:
            self._restart_redis(self._snapshot)
        elif chance < 0.34:
            self._restart_redis({})
        elif chance < 0.38:
            site.redis.away = True
            site.note("Redis away")
        elif chance < 0.52:
            site.redis.away = False
        elif chance < 0.54:
            site.note(node.name, "killed")
            site.crash(node)
            self._boot()
        elif chance < 0.60:
            node.frozen = True
            site.note(node.name, "frozen")
        elif chance < 0.75:
            self._thaw(node)
        elif chance < 0.77 and self._duty is not None:
            self._duty.hold_duties(False)  # nobody has them for a while
        elif chance < 0.80 and node.up:
            self._give_duties(node)
        elif chance < 0.87 and node.up:
            site.note(node.name, "forgets its floors")
            for _ in range(2):
                node.cache.floors._forget()
        elif chance < 0.92 and node.up:
            site.note(node.name, "memory evicted")
            for entry in list(node.memory.held()):
                if rng.random() < 0.5:
                    node.memory.drop(entry.key, below=entry.version + 1)
        elif chance < 0.96 and site.wire.calls:
            self._cut(rng.choice(site.wire.calls))
        elif site.wire.lost:
            late = rng.choice(site.wire.lost)
            if rng.random() < 0.5 and not (late.store == "redis" and site.redis.away):
                site.arrive_late(late)
            else:
                site.wire.lost.remove(late)

    def _thaw(self, node: Node) -> None:
        if node.frozen:
            node.frozen = False
            self.site.run(node)

    def _restart_redis(self, held: dict[bytes, Value]) -> None:
        """It comes back with something else: what had not arrived fails."""
        site = self.site
        site.note("Redis comes back", f"with {len(held)} keys")
        for call in [call for call in site.wire.calls if call.store == "redis" and not call.arrived]:
            call.arrived = True
            call.error = TierUnavailable("redis", "connection lost")
        site.wire.lost = [call for call in site.wire.lost if call.store != "redis"]
        site.set_back(held)

    def _cut(self, call: Call) -> None:
        if call.caller.frozen:  # type: ignore[attr-defined]
            return
        if call.name == "append":
            self.site.cut(call, OutcomeUnknown("connection lost"))
        elif call.store != "origin":
            self.site.cut(call, TierUnavailable(call.store, "connection lost"))

    # at rest

    def _mend(self) -> None:
        """All is well again: everything under way ends, and every node has applied, and Redis replayed, the whole log."""
        site = self.site
        site.note("mended")
        site.redis.away = False
        site.wire.lost.clear()
        for node in list(site.nodes):
            self._thaw(node)
        if self._duty is not None:
            self._duty.hold_duties(True)
        for _ in range(_SETTLING):
            if site.wire.calls:
                self._move(site.wire.calls[0])
            elif site.bells:
                site.ring(0)
            elif self._at_rest():
                return
            else:
                self._tick()
        site.truth.violated("no rest", self._unrest())

    def _at_rest(self) -> bool:
        site = self.site
        head = site.database.position
        if any(not one.retired for one in site.database.patterns):
            return False
        if any(not node.up or node.tasks or node.cache.applied != head for node in site.nodes):
            return False
        if self._duty is None:
            return False
        states = [partition.see(value) for partition, value in zip(self._duty.redis._partitions, self._states(), strict=True)]
        return all(state is not None and state.position == head for state in states)

    def _states(self) -> list[bytes | None]:
        assert self._duty is not None
        return self.site.redis.read([[one.state_key] for one in self._duty.redis._partitions])

    def _unrest(self) -> str:
        site = self.site
        nodes = ", ".join(
            f"{n.name} up {n.up} applied {n.cache.applied if n.up else '-'} busy {len(n.tasks)}" for n in site.nodes
        )
        active = [one.pattern.text for one in site.database.patterns if not one.retired]
        return f"head {site.database.position}, active {active}, {nodes}, Redis {self._states() if self._duty else '-'}"

    def _agree(self) -> None:
        """Every node, a new one too, answers every key as the log has it, from every tier."""
        site = self.site
        if site.truth.violations:
            return
        for node in [*site.nodes, site.node(LIMITS)]:
            self._same(node, "with its memory")
            node.memory.clear()
            self._same(node, "without its memory")
            site.look_at_patterns(node)
        self._exact()

    def _same(self, node: Node, how: str) -> None:
        site = self.site
        for key, answer in self._read_all(node).items():
            wanted = site.truth.now_is(key, site.time.now())
            if answer is None:
                site.truth.violated("no answer at rest", f"{node.name} does not answer {key}")
            elif answer.entry != wanted:
                text = f"{node.name}, {how}, has {answer.entry} of {key} from {answer.tier}, not {wanted}"
                site.truth.violated("disagreement at rest", text)

    def _read_all(self, node: Node) -> dict[Key, Answer | None]:
        """All keys at once, again after a while where a breaker is still open."""
        answers: dict[Key, Answer | None] = {}
        for _ in range(5):
            asked = {key: node.start(clients.read(node, key, Want(only_cached=True))) for key in KEYS}
            self.site.settle()
            answers = {key: task.result() for key, task in asked.items()}
            if None not in answers.values():
                break
            self.site.time.reach(self.site.time.seconds + 5.0)
        return answers

    def _exact(self) -> None:
        """Every increment that was acknowledged is in the log once, and no other but those of which nobody knows."""
        added = sum(change.key == COUNTER and change.kind is Kind.WRITE for change in self.site.database.log)
        if not self._added <= added <= self._added + self._unsure:
            text = f"{added}, with {self._added} acknowledged and {self._unsure} unsure"
            self.site.truth.violated("increments not exact", text)


def play(seed: int, **options: Any) -> list[str]:
    """What was violated in the history of a seed."""
    return History(seed, **options).run()
