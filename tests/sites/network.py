"""Sites in one process, on a clock that stands still, over stores and lines of memory: the code of sites without any I/O."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import orjson

from cachesvc.cluster.losses import Losses
from cachesvc.engine.answers import Written
from cachesvc.errors import CacheError, EpochChanged, Refused, Unavailable
from cachesvc.model.change import Change, Draft, Operation
from cachesvc.model.entry import Entry
from cachesvc.model.fold import fold
from cachesvc.model.fold_state import State, Terms
from cachesvc.model.invalidation import Patterns
from cachesvc.model.keys import Key
from cachesvc.model.position import Epoch, Gap, Position, Seq
from cachesvc.model.replica import mark_of, shared
from cachesvc.ports import Followed, Reply, Standing, Trail
from cachesvc.protocol.api import parse
from cachesvc.protocol.frames import CacheSyncPayload
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.peer import Peer, PeerLimits
from cachesvc.sites.teller import Teller
from cachesvc.sites.witness import Witness
from tests.fakes import FakeClock

_FIRST = Epoch(1)


@dataclass
class Store:
    """An authority and its log, in memory, that folds as all do."""

    site: str
    clock: FakeClock
    rows_held: dict[Key, Entry] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    followed_to: dict[str, Followed] = field(default_factory=dict)
    patterns: Patterns = field(default_factory=Patterns)
    ordered: list[Key] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    epoch: Epoch = _FIRST
    gaps: tuple[Gap, ...] = ()

    def __post_init__(self) -> None:
        self.patterns = Patterns(site=self.site)

    @property
    def position(self) -> Position:
        return Position(self.epoch, Seq(self.epoch + len(self.changes)))

    async def trail(self, _: Iterable[int]) -> Trail:
        return Trail(self.position, Position(self.epoch, Seq(self.epoch)), {})

    async def new_epoch(self, seen: Position, *, kept: Seq | None = None) -> Position:
        lost = Gap(Seq((kept or 0) + 1), seen.sequence)
        self.epoch, self.changes, self.gaps = Epoch(seen.sequence + 1), [], (*self.gaps, lost)
        return self.position

    async def standing(self) -> Standing:
        return Standing(self.position, (), self.gaps, ())

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]:
        outcomes: list[Written | CacheError] = []
        for draft in drafts:
            state = State(self.position, self.clock.now(), self.rows_held, patterns=self.patterns, site=self.site)
            folded = fold(state, [draft], batch="b", terms=Terms(site=self.site))
            self.rows_held |= folded.rows
            for one in folded.patterns:
                self.patterns.add(one)
            self.changes += folded.changes
            (outcome,) = folded.outcomes
            outcomes.append(outcome if isinstance(outcome, Refused) else Written(outcome, "b"))
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()
        return outcomes

    async def do(self, operation: Operation, key: str, value: bytes = b"1", **more: Any) -> None:
        (outcome,) = await self.write_many([Draft(operation, Key(key), value, **more)])
        assert isinstance(outcome, Written)

    async def next(self, after: Position, limit: int) -> Sequence[Change]:
        while after.sequence >= self.position.sequence:
            await self.moved.wait()
        if after.epoch != self.epoch:
            raise EpochChanged(after.epoch, self.epoch)
        return self.changes[after.sequence - self.epoch :][:limit]

    async def get(self, keys: Collection[Key], *, horizon: Position) -> Mapping[Key, Entry]:
        return {key: row for key in keys if (row := self.row(key)) is not None}

    def row(self, key: Key) -> Entry | None:
        """As it stands, with the patterns in force, which nobody sweeps."""
        return self.patterns.hide(self.rows_held[key]) if key in self.rows_held else None

    outline = get

    async def rows(self, *, after: str, limit: int) -> Sequence[Entry]:
        if not after:
            self.ordered = sorted(self.rows_held)
        first = bisect_right(self.ordered, after)
        return [self.patterns.hide(self.rows_held[key]) for key in self.ordered[first : first + limit]]

    async def followed(self, site: str) -> Followed | None:
        return self.followed_to.get(site)

    async def follow_on(self, site: str, position: Position) -> None:
        self.followed_to[site] = Followed(position, self.clock.now())

    @property
    def state(self) -> dict[Key, bytes]:
        held = {key: shared(self.patterns.hide(row)) for key, row in self.rows_held.items()}
        return {key: mark_of(row, self.site) for key, row in held.items() if row is not None}


class Line:
    """`ports.Link` to a teller: what is asked and answered goes through JSON, and may be cut."""

    def __init__(self, site: SimulatedSite, asker: str) -> None:
        self._site = site
        self._asker = asker

    async def ask(self, payload: Mapping[str, object]) -> Reply:
        if self._site.cut:
            raise Unavailable("the line is cut")
        text = orjson.dumps(payload)
        kind, answer = await self._site.teller.answer(parse(CacheSyncPayload, orjson.loads(text)), self._asker)
        told = orjson.dumps({"type": kind, "payload": answer})
        if self._site.cut:
            raise Unavailable("the line is cut")
        return Reply(kind, orjson.loads(told)["payload"], told, len(text))


class SimulatedSite:
    """One site and what it has to do with the others."""

    def __init__(self, name: str, names: Sequence[str], clock: FakeClock, policies: str = "") -> None:
        self.name = name
        self.cut = False
        self.clock = clock
        self.policies = policies
        self.store = Store(name, clock)
        self.losses = Losses()
        self.witness = Witness(self.store, self.store, self.losses, clock, site=name)
        self.keeper = Keeper(self.store, self.store, clock, site=name, idle=1e9)
        others = [other for other in names if other != name]
        self.teller = Teller(
            self.store,
            self.store,
            self.keeper,
            clock,
            witness=self.witness,
            site=name,
            peers=frozenset(others),
            new_id=lambda: "batch",
            policies=policies,
        )
        self.peers: dict[str, Peer] = {}

    def meet(self, sites: Mapping[str, SimulatedSite], limits: PeerLimits | None = None) -> None:
        for name, other in sites.items():
            if name != self.name:
                self.peers[name] = Peer(
                    name,
                    lambda other=other: line(other, self.name),  # type: ignore[misc]
                    self.store,
                    self.store,
                    self.clock,
                    keeper=self.keeper,
                    witness=self.witness,
                    site=self.name,
                    others=tuple(there for there in sites if there not in (name, self.name)),
                    limits=limits or PeerLimits(),
                    policies=self.policies,
                )


@asynccontextmanager
async def line(site: SimulatedSite, asker: str) -> AsyncIterator[Line]:
    if site.cut:
        raise Unavailable("the line is cut")
    yield Line(site, asker)


@asynccontextmanager
async def network(
    *names: str, limits: PeerLimits | None = None, clock: FakeClock | None = None, policies: Sequence[str] = ()
) -> AsyncIterator[dict[str, SimulatedSite]]:
    """Sites of these names, whose digests are kept; nobody follows yet."""
    clock = clock or FakeClock()
    told = zip_longest(names, policies, fillvalue="")
    sites = {name: SimulatedSite(name, names, clock, policies) for name, policies in told}
    async with asyncio.TaskGroup() as group:
        keeping = [group.create_task(site.keeper.run()) for site in sites.values()]
        for site in sites.values():
            site.meet(sites, limits)
        try:
            yield sites
        finally:
            for task in keeping:
                task.cancel()
