"""A node of an interleaving: all that `node/building.py` makes of one but the web, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cachesvc.cluster.feed import Feed
from cachesvc.cluster.follower import Follower
from cachesvc.cluster.losses import Losses
from cachesvc.cluster.replayer import Replayer
from cachesvc.cluster.retirer import Retirer
from cachesvc.cluster.sweeper import Sweeper
from cachesvc.cluster.voucher import Voucher
from cachesvc.engine.cache import Cache, Limits
from cachesvc.engine.load_terms import Loading
from cachesvc.errors import CacheError, Unavailable
from cachesvc.logs.following import Bell
from cachesvc.model.keys import Key
from cachesvc.ports import Loaded, Retention, Standing
from cachesvc.tiers.memory import MemoryTier
from cachesvc.tiers.redis import RedisTier
from tests.properties.database import Authority
from tests.properties.loop import Loop
from tests.properties.redis_server import NodeConnection

if TYPE_CHECKING:
    from tests.properties.site import Site

T = TypeVar("T")
PREFIX: Final = "p"
LIMITS: Final = Limits(floors=6, read_lanes=2, pending_puts=4, min_version_wait=0.5)
KEPT: Final = Retention(age=1e9, count=6, bytes=1 << 30)


class Node:
    """One node. `boot` is awaited on its loop; until it has ended the node is not `up`."""

    cache: Cache
    memory: MemoryTier
    redis: RedisTier
    follower: Follower
    replayer: Replayer
    voucher: Voucher
    retirer: Retirer
    sweeper: Sweeper

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self.site = site
        self.loop = Loop(site.time)  # type: ignore[abstract] # it has no I/O
        self.alive = True
        self.up = False
        self.frozen = False
        self.known: dict[Key, int] = {}  # by key the highest sequence that it served or acknowledged
        self.bell = Bell()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._duty = asyncio.Event()

    async def boot(self, limits: Limits) -> None:
        site, time = self.site, self.site.time
        authority: Any = Authority(site.database, site.wire, self, self.bell)
        standing = await self._standing(authority)
        self.memory = MemoryTier(ttl=60.0, max_size=100, max_bytes=1 << 20, clock=time)
        self.redis = RedisTier(
            NodeConnection(site.redis, site.wire, self),
            key_prefix=PREFIX,
            ttl=600.0,
            ttl_jitter=0.0,
            compression=False,
            max_recent=3,
            clock=time,
            dictionaries=authority,
            random=site.random,
        )
        feed = Feed(authority, standing.position, count=10)
        losses = Losses()
        self.cache = cache = Cache(
            memory=self.memory,
            redis=self.redis,
            authority=authority,
            start=standing.position,
            patterns=standing.patterns,
            clock=time,
            new_batch=lambda: f"{next(site.numbers):032x}",
            loaders={"l": _Origin(self)},
            loading=Loading(holder=f"node {self.name}"),
            limits=limits,
            appended=lambda appended: self.follower.offer(appended),  # noqa: PLW0108 - it is made below
        )
        self.follower = Follower(
            authority,
            feed,
            time,
            start=standing.position,
            apply=cache.apply,
            start_over=lambda standing: cache.start_over(*standing[:3]),
            losses=losses,
        )
        self.sweeper = Sweeper(authority, cache.write_many, retention=KEPT, batch=2)
        self.retirer = Retirer(authority, lambda: cache.floors.patterns, cache.write, time, batch=2, pause=0.01, share=1.0)
        self.voucher = Voucher(self.redis, authority, losses, time)
        self.replayer = Replayer(self.redis, self.voucher, feed, time)
        for lane in (*cache.lanes(), self.follower.run(), self.voucher.run()):
            self.loop.create_task(lane)
        self.up = True

    async def _standing(self, authority: Any) -> Standing:
        while True:
            try:
                standing: Standing = await authority.standing()
            except Unavailable:
                await asyncio.sleep(0.1)  # it is started again
            else:
                return standing

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Something to be done on this node; it begins when its loop runs."""
        task: asyncio.Task[T] = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def serve_duties(self) -> None:
        """From now on it replays, retires and sweeps whenever the duties are its own."""
        for work, interval in ((self.replayer.step, 0.01), (self.retirer.step, 0.1), (self.sweeper.step, 1.0)):
            self.loop.create_task(self._serve(work, interval))

    def hold_duties(self, holds: bool) -> None:
        if holds:
            self._duty.set()
        else:
            self._duty.clear()

    async def _serve(self, work: Callable[[], Coroutine[Any, Any, None]], interval: float) -> None:
        while True:
            await self._duty.wait()
            try:
                await work()
                await asyncio.sleep(interval)
            except CacheError:
                await asyncio.sleep(0.25)


class _Origin:
    """Where the loader of a node gets its values from."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Loaded]:
        site = self._node.site
        return await site.wire.call(
            self._node,
            "origin",
            "load",
            lambda: {key: site.made_from_origin(key) for key in keys if site.has_origin(key)},
        )
