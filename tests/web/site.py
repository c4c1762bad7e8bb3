"""A node as the web needs it: the real engine and feed over an authority in a dict, and its application."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import httpx
import uvicorn

from cachesvc.cluster.audit import Auditor, Order
from cachesvc.cluster.copies import MemoryCopies
from cachesvc.cluster.delays import Delays
from cachesvc.cluster.feed import Feed
from cachesvc.engine.cache import Cache
from cachesvc.engine.explain import Explanation, explain
from cachesvc.engine.jobs import JobBook
from cachesvc.engine.load_terms import Loading
from cachesvc.errors import InvalidInput, LogTrimmed
from cachesvc.logs.memory_jobs import MemoryJobs
from cachesvc.model.change import Appended, Change, Draft
from cachesvc.model.entry import Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import Result, State, Terms, buried, noted
from cachesvc.model.invalidation import InForce, Invalidation, Related, hit
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern
from cachesvc.model.position import Position, Seq
from cachesvc.model.relations import related
from cachesvc.ports import Burial, Listed, Loader, Reached
from cachesvc.realtime.modules import Modules
from cachesvc.tiers.memory import MemoryTier
from cachesvc.web.admission import Admission
from cachesvc.web.app import App, create_app
from cachesvc.web.live import Live, LiveLimits
from cachesvc.web.live_protocol import SocketLimits, live_protocol
from cachesvc.web.protocol import HeadLimits, limited
from cachesvc.web.service import Limits, Service
from tests.engine.stores import FakeAuthority
from tests.fakes import FakeClock


class Store(FakeAuthority, MemoryJobs):
    """The fake authority, with kept answers, reading of the log, listing and a query by top-level fields."""

    def __init__(self, clock: FakeClock) -> None:
        FakeAuthority.__init__(self)
        MemoryJobs.__init__(self)
        self.clock = clock
        self.terms = Terms(max_patterns=3, remembers=Modules().remembers, reminds=Modules().reminds)
        self.results: dict[tuple[str, str], Result] = {}
        self.trimmed = 0

    async def append(self, drafts: Sequence[Draft], *, batch: str) -> Appended:
        await self.gates["commits"]()
        self._check()
        before = self.position
        named = drafts[0].invalidation
        relations = related(named, self.rows.values(), depth=3, most=100) if named and named.relates else Related()
        state = State(before, self.clock.now(), dict(self.rows), dict(self.results), Seq(0), self.patterns, relations)
        state = replace(state, items=self._held(noted(drafts, self.terms)))
        folded = fold(state, drafts, batch=batch, terms=self.terms)
        self._note(folded.items)
        self.rows |= folded.rows
        for pattern in folded.patterns:
            self.patterns.add(pattern)
        self.results |= folded.results
        self.log += folded.changes
        await self.gates["acks"]()
        return Appended(before, batch, folded.changes, folded.outcomes, frozenset(folded.replayed))

    async def bury(self, pattern: InForce, *, limit: int) -> Burial:
        dead = [row for row in self.rows.values() if self.patterns.hide(row) is not row]
        for row in dead[:limit]:
            left = self.patterns.hide(row)
            self.rows[row.key] = buried(row, now=self.clock.now()) if left.deleted else left
        return Burial(len(dead) <= limit, len(dead), len(dead))

    async def burials(self) -> Mapping[InForce, Burial]:
        rows = self.rows.values()
        return {
            one: Burial(
                not any(row.version < one.sequence and not row.deleted and one.pattern.matches(row.key) for row in rows)
            )
            for one in self.patterns
        }

    async def read(self, after: Position, limit: int) -> Sequence[Change]:
        if after.sequence < self.trimmed:
            raise LogTrimmed(after.sequence, self.trimmed)
        return [change for change in self.log if change.sequence > after.sequence][:limit]

    async def list_entries(self, pattern: Pattern, *, after: Key | None, limit: int, stale: bool = False) -> Sequence[Listed]:
        self._check()
        now = self.clock.now()
        listed = (entry for entry in self.rows.values() if hit(entry, now, soft=not stale) and pattern.matches(entry.key))
        ordered = sorted(listed, key=lambda entry: entry.key.encode())
        found = [entry for entry in ordered if after is None or entry.key.encode() > after.encode()][:limit]
        return [Listed(entry._replace(value=b""), len(entry.value)) for entry in found]

    async def reach(self, invalidation: Invalidation) -> Related:
        return related(invalidation, self.rows.values(), depth=3, most=100)

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]:
        for name in fields:
            if name not in ("status", "owner.id"):
                raise InvalidInput(name, "is not an indexed field")
        found = []
        for entry in self.rows.values():
            value = json.loads(entry.value)
            if isinstance(value, dict) and all(str(value.get(name)) in allowed for name, allowed in fields.items()):
                found.append(entry)
        ordered = sorted(found, key=lambda entry: entry.key.encode())
        return [entry for entry in ordered if after is None or entry.key.encode() > after.encode()][:limit]


@dataclass
class FakeNode:
    """What a node would tell."""

    cache: Cache
    auditor: Auditor
    id: str = "n1"
    tiers: dict[str, str] = field(default_factory=lambda: {"memory": "ok", "database": "ok"})
    ready: bool = True
    behind: list[str] = field(default_factory=list)

    async def stats(self) -> Mapping[str, object]:
        return {
            "tiers": {"memory": {"hits": 3, "latency": {"p99": 0.5}, "breaker": "closed"}, "database": {"hits": 1}},
            "log": {"applied": 7, "following": True},
        }

    async def nodes(self) -> Sequence[Mapping[str, object]]:
        return [{"node": "n1", "lag": 0}]

    async def readiness(self) -> tuple[bool, Mapping[str, str]]:
        return self.ready, self.tiers

    async def reached(self, sequence: int, *, within: float) -> Reached:
        return Reached(self.behind, [])

    async def explain(self, key: Key) -> Explanation:
        return await explain(self.cache, key)

    @property
    def delays(self) -> Mapping[str, Delays]:
        others = Delays(lambda: 0.0)
        others.note(0.003, 4)
        return {"others": others}

    @property
    def audited(self) -> Collection[str]:
        return self.auditor.tiers.keys()

    @property
    def auditing(self) -> Order | None:
        return self.auditor.order

    def audit(self, tiers: Sequence[str], sample: int | None) -> Order:
        return self.auditor.ask(tiers, sample)

    async def audits(self) -> Sequence[Mapping[str, object]]:
        return [{"node": self.id, "address": "", "self": True, "tiers": self.auditor.told()}]


@dataclass
class Site:
    """One node, its parts at hand."""

    store: Store
    cache: Cache
    feed: Feed
    node: FakeNode
    clock: FakeClock
    service: Service
    live: Live
    app: App

    def listeners(self) -> int:
        """How many follow a job."""
        return self.service.streams["jobs"].open

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = Transport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            yield client

    @asynccontextmanager
    async def served(
        self,
        *,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        admission: Admission | None = None,
        sockets: SocketLimits | None = None,
    ) -> AsyncIterator[int]:
        """A real server on loopback; its port."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            config = uvicorn.Config(
                self.app,
                log_config=None,
                lifespan="off",
                http=limited(HeadLimits(), admission),
                ws=live_protocol(admission, sockets),
                ws_max_size=self.live.limits.session.max_frame_size,
                ws_ping_interval=ping_interval,
                ws_ping_timeout=ping_timeout,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=5,
            )
            server = Server(config)
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve([listening]))
                await server.ready.wait()
                # a test may have put another in the place of the one that runs
                others = [] if self.live.running else [group.create_task(self.live.run())]
                try:
                    yield listening.getsockname()[1]
                finally:
                    self.service.closing.set()
                    server.should_exit = True
                    for task in others:
                        task.cancel()


class Transport(httpx.ASGITransport):
    """A transport without a network, which gives up on an answer that does not end."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with asyncio.timeout(20):
            return await super().handle_async_request(request)


class Server(uvicorn.Server):
    """A server that tells when it listens, and leaves the signals to the tests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def capture_signals(self) -> Any:
        return nullcontext()


@asynccontextmanager
async def opened(
    *,
    limits: Limits | None = None,
    loaders: Mapping[str, Loader] | None = None,
    loading: Loading | None = None,
    live_limits: LiveLimits | None = None,
) -> AsyncIterator[Site]:
    clock = FakeClock()
    store = Store(clock)
    feed = Feed(store, store.position)
    numbers = count()

    def appended(made: Appended) -> None:
        cache.apply(made.changes)
        feed.publish(made.changes)

    cache = Cache(
        memory=MemoryTier(ttl=300.0, max_size=1000, max_bytes=64 << 20, eviction_policy="LRU", clock=clock),
        redis=None,
        authority=store,
        start=store.position,
        clock=clock,
        new_batch=lambda: f"{next(numbers):032x}",
        loaders=loaders,
        loading=loading,
        appended=appended,
    )
    memory = MemoryCopies(cache.memory, cache.floors)
    auditor = Auditor(cache, [memory], clock, interval=3_600.0, sample=100, rate=math.inf)
    node = FakeNode(cache, auditor)
    jobs = JobBook(store, clock, new_id=lambda: f"{next(numbers):032x}", most=3)
    service = Service(cache, feed, node, clock, jobs, limits or Limits(), "1.2.3")
    live = Live(service, live_limits)
    site = Site(store, cache, feed, node, clock, service, live, create_app(service, live))
    async with asyncio.TaskGroup() as group:
        for lane in cache.lanes():
            group.create_task(_run(lane))
        running = [group.create_task(auditor.run()), group.create_task(live.run())]
        try:
            yield site
        finally:
            for task in running:
                task.cancel()
            service.closing.set()
            cache.close()


async def _run(lane: Any) -> None:
    await lane
