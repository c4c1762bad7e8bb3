"""A world of sites: each a store and nodes that follow its log, one of which follows other sites, over lines that take time.

Follower, feed, keeper, teller, peer, duty and lease are the real ones. What is made up is the store under them, the network and
the time. Whatever is left to chance follows from the seed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import orjson

from cachesvc.cluster.duties import Duty
from cachesvc.cluster.feed import Feed
from cachesvc.cluster.follower import Follower
from cachesvc.cluster.losses import Losses
from cachesvc.engine.answers import Written
from cachesvc.errors import CacheError, Unavailable
from cachesvc.logs.following import Bell, following
from cachesvc.logs.memory import MemoryAuthority
from cachesvc.model.change import Change, Draft, Operation
from cachesvc.model.fold_state import Terms
from cachesvc.model.keys import Key
from cachesvc.model.position import Position
from cachesvc.ports import NodeRecord, Reply
from cachesvc.protocol.api import parse
from cachesvc.protocol.frames import CacheSyncPayload
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.links import Links
from cachesvc.sites.peer import Peer, PeerLimits
from cachesvc.sites.teller import Teller
from cachesvc.sites.witness import Witness
from cachesvc.tiers.memory import MemoryTier
from tests.simulation.time import VirtualClock
from tests.sites.network import Store

HEARTBEAT: Final = 1.0  # seconds, and the others as they are without settings
GONE_AFTER: Final = 5.0
LEASE: Final = 5.0
POLL: Final = 0.25
LOST: Final = 0.1  # of the wake-ups
STEP: Final = 0.02  # seconds between two looks at the world


@dataclass
class Log(Store):
    """A site's store, whose log its nodes hear of by wake-ups that take a while, or are lost."""

    random: Random = field(default_factory=Random)
    bells: dict[str, Bell] = field(default_factory=dict)  # by node

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]:
        outcomes = await super().write_many(drafts)
        for bell in self.bells.values():
            if self.random.random() >= LOST:
                asyncio.get_running_loop().call_later(self.random.uniform(0.0005, 0.003), bell.ring)
        return outcomes

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        return self.changes[after.sequence - 1 :][:limit]


class _Heard:
    """The log as one node hears of it."""

    def __init__(self, log: Log, bell: Bell) -> None:
        self._log = log
        self._bell = bell
        self.read = log.read

    def follow(
        self, after: Position, *, known: Callable[[], Position] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        return following(self._log.read, after, bell=self._bell, poll_interval=POLL, known=known)


class Node:
    """One node of a site, until it is killed."""

    def __init__(self, world: World, site: Site, name: str) -> None:
        self.name = name
        self.alive = True
        clock, log = world.clock, site.log
        bell = log.bells[name] = Bell()
        heard: Any = _Heard(log, bell)
        start = log.position
        self.feed = Feed(heard, start)
        nothing: Any = lambda _: None  # noqa: E731
        self.follower = Follower(heard, self.feed, clock, start=start, apply=nothing, start_over=nothing, losses=Losses())
        witness = Witness(log, self.feed, Losses(), clock, site=site.name)
        self.keeper = Keeper(log, self.feed, clock, site=site.name)
        others = [other for other in world.names if other != site.name]
        self.teller = Teller(
            log,
            self.feed,
            self.keeper,
            clock,
            witness=witness,
            site=site.name,
            peers=frozenset(others),
            new_id=lambda: "batch",
        )
        self.peers = [
            Peer(
                other,
                lambda other=other: world.line(site.name, other),  # type: ignore[misc]
                log,
                log,
                clock,
                keeper=self.keeper,
                witness=witness,
                site=site.name,
                others=tuple(name for name in others if name != other),
                limits=PeerLimits(interval=world.interval),
            )
            for other in others
        ]
        self.links = Links(self.peers, clock, lease=LEASE)
        self.duty = Duty(
            "sites", self.links.hold, registry=site.registry, node=name, clock=clock, interval=LEASE / 4, lease=LEASE
        )
        self._site = site
        self._clock = clock
        self._running = asyncio.gather(self.follower.run(), self.keeper.run(), self.links.run(), self.duty.run(), self._beat())

    @property
    def follows(self) -> bool:
        """Whether it follows all other sites."""
        return self.alive and all(peer.counts.connected for peer in self.peers)

    def kill(self) -> None:
        self.alive = False
        del self._site.log.bells[self.name]
        self._running.cancel()

    async def ended(self) -> None:
        await asyncio.gather(self._running, return_exceptions=True)

    async def _beat(self) -> None:
        began = self._clock.now()
        while True:
            await self._site.registry.heartbeat(NodeRecord(self.name, began, began, self.feed.position, "1"))
            await self._clock.sleep(HEARTBEAT)


class Site:
    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.log = Log(name, world.clock, random=world.random)
        rows = MemoryTier(ttl=1.0, max_size=1, max_bytes=1, clock=world.clock)
        self.registry = MemoryAuthority(rows, terms=Terms(), clock=world.clock)
        self.nodes: list[Node] = []
        self._names = 0

    def add(self, world: World) -> Node:
        self._names += 1
        node = Node(world, self, f"{self.name}-{self._names}")
        self.nodes.append(node)
        return node

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.alive]

    async def write(self, key: str, value: int) -> None:
        await self.log.do(Operation.SET, key, b"%d" % value)


class Line:
    """`ports.Link` to a node of another site: what is asked and answered takes its time, and may be lost."""

    def __init__(self, world: World, asker: str, told: str, node: Node) -> None:
        self._world = world
        self._ends = asker, told
        self._node = node

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        text = orjson.dumps(payload)
        await self._travel(len(text))
        asked = parse(CacheSyncPayload, orjson.loads(text))
        kind, answer = await self._node.teller.answer(asked, self._ends[0])
        told = orjson.dumps({"type": kind, "payload": answer})
        await self._travel(len(told))
        return Reply(kind, orjson.loads(told)["payload"], told, len(text))

    async def _travel(self, size: int) -> None:
        world = self._world
        world.carried += size
        world.messages += 1
        await asyncio.sleep(world.latency * world.random.uniform(0.9, 1.1) + size / world.bandwidth)
        if self._ends in world.cut or not self._node.alive:
            raise Unavailable("the line is cut")


class World:
    """All sites. `latency`: seconds one way; `bandwidth`: bytes a second of a line."""

    def __init__(self, seed: int, names: Sequence[str], *, interval: float = 60.0) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.names = names
        self.interval = interval
        self.latency = 0.04
        self.bandwidth = 10e6
        self.cut: set[tuple[str, str]] = set()
        self.carried = 0  # bytes
        self.messages = 0
        self.sites = {name: Site(self, name) for name in names}

    @asynccontextmanager
    async def line(self, asker: str, told: str) -> AsyncIterator[Line]:
        alive = self.sites[told].alive
        await asyncio.sleep(2 * self.latency)
        if (asker, told) in self.cut or not alive:
            raise Unavailable("the line is cut")
        yield Line(self, asker, told, self.random.choice(alive))

    def apart(self, one: str, other: str) -> None:
        self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()

    async def until(self, holds: Callable[[], bool], *, within: float = 3_600.0) -> float:
        """Seconds until it holds."""
        began = self.clock.monotonic()
        while not holds():
            await self.clock.sleep(STEP)
            if self.clock.monotonic() - began > within:
                raise TimeoutError(f"it does not come to hold within {within:g} s")
        return self.clock.monotonic() - began

    def connected(self) -> bool:
        return all(any(node.follows for node in site.nodes) for site in self.sites.values())

    def equal(self) -> bool:
        states = [site.log.state for site in self.sites.values()]
        return all(state == states[0] for state in states)

    def have(self, keys: Sequence[str]) -> Callable[[], bool]:
        """Whether all sites have these keys."""
        waiting = deque((site.log.rows_held, Key(key)) for site in self.sites.values() for key in keys)

        def hold() -> bool:
            while waiting and waiting[0][1] in waiting[0][0]:
                waiting.popleft()
            return not waiting

        return hold


@asynccontextmanager
async def opened(seed: int, sites: int, nodes: int, *, interval: float = 60.0) -> AsyncIterator[World]:
    """So many sites of so many nodes each."""
    world = World(seed, [f"site-{number:02d}" for number in range(sites)], interval=interval)
    for site in world.sites.values():
        for _ in range(nodes):
            site.add(world)
    try:
        yield world
    finally:
        every = [node for site in world.sites.values() for node in site.nodes]
        for node in every:
            if node.alive:
                node.kill()
        for node in every:
            await node.ended()
