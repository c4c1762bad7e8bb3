"""Service: what the web stands on, as it needs it. Whoever builds a node hands one in; nothing here is global."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cachesvc.cluster.audit import Order
from cachesvc.cluster.delays import Delays
from cachesvc.engine.answers import ANY, Answer, Want, Written
from cachesvc.engine.explain import Explanation
from cachesvc.engine.invalidate import Buries, Floored
from cachesvc.engine.jobs import JobBook
from cachesvc.engine.leash import Leash
from cachesvc.engine.preview import Outlined
from cachesvc.errors import CacheError
from cachesvc.model.change import Change, Draft
from cachesvc.model.entry import Entry
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version
from cachesvc.model.revocation import Revocations
from cachesvc.observability.metrics import Metrics
from cachesvc.ports import Agenda, Clock, Reached
from cachesvc.protocol.warming import WarmLimits
from cachesvc.realtime.identity import Doorman, OpenDoor
from cachesvc.realtime.rates import Rates
from cachesvc.sites.own import OwnSite
from cachesvc.web.admission import Admission
from cachesvc.web.deadlines import Deadlines


class Searched(Buries, Outlined, Agenda, Protocol):
    """Where keys are listed and queried: the authority."""

    async def query(self, fields: Mapping[str, Sequence[str]], *, after: Key | None, limit: int) -> Sequence[Entry]: ...

    async def read(self, after: Position, limit: int) -> Sequence[Change]: ...


class Hot(Protocol):
    """Where keys are told that are often asked for: memory."""

    def hot(self, limit: int) -> Sequence[tuple[Key, Version]]: ...


class Cache(Protocol):
    """The cache, read and written."""

    @property
    def memory(self) -> Hot: ...

    @property
    def authority(self) -> Searched: ...

    @property
    def leash(self) -> Leash: ...

    @property
    def applied(self) -> Position: ...

    @property
    def floors(self) -> Floored: ...

    @property
    def modules_loaded(self) -> Collection[str]:
        """The modules that have a loader."""
        ...

    def hit(self, key: Key) -> Entry | None:
        """The live entry that memory has, without an await."""
        ...

    async def read(self, key: Key, want: Want = ANY) -> Answer: ...

    async def read_many(self, keys: Collection[Key]) -> list[Answer | CacheError]: ...

    async def write(self, draft: Draft) -> Written: ...

    async def write_many(self, drafts: Sequence[Draft]) -> list[Written | CacheError]: ...


class Feed(Protocol):
    """The log as this node has applied it."""

    @property
    def position(self) -> Position: ...

    async def next(self, after: Position, limit: int) -> Sequence[Change]: ...

    async def head(self) -> Position:
        """Up to where the log has come, whoever has applied it. Raises `Unavailable`."""
        ...


class Node(Protocol):
    """What the operations tell of."""

    @property
    def id(self) -> str: ...

    async def stats(self) -> Mapping[str, object]: ...

    async def nodes(self) -> Sequence[Mapping[str, object]]: ...

    async def readiness(self) -> tuple[bool, Mapping[str, str]]:
        """Whether it can serve, and for each of its parts `"ok"` or why not."""
        ...

    async def reached(self, sequence: int, *, within: float) -> Reached:
        """Who has applied a sequence, after waiting for the live nodes for up to `within` seconds."""
        ...

    async def explain(self, key: Key) -> Explanation: ...

    @property
    def delays(self) -> Mapping[str, Delays]:
        """How long changes took until they were in force here, by whose they were."""
        ...

    @property
    def audited(self) -> Collection[str]:
        """The levels above the authority, which are audited."""
        ...

    @property
    def auditing(self) -> Order | None:
        """The audit that was asked for and has not ended."""
        ...

    def audit(self, tiers: Sequence[str], sample: int | None) -> Order:
        """Have these tiers audited; an audit that has not ended is joined instead."""
        ...

    async def audits(self) -> Sequence[Mapping[str, object]]:
        """The latest reports of every node that was heard of lately."""
        ...


class Streams(Protocol):
    """Streams of one kind that clients keep open."""

    @property
    def open(self) -> int: ...

    @property
    def refused(self) -> int:
        """How many, ever, since too many were open."""
        ...


@dataclass(frozen=True, slots=True)
class Spool:
    """Where what is to be restored waits: a folder of this machine, by the name of the place, and its bytes at most."""

    folder: Path
    place: str
    max_bytes: int = 1 << 30

    def room(self) -> int:
        """Bytes that are left. Files that no job needs any more are removed by who restores."""
        taken = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # removed since
                taken += file.stat().st_size
        return self.max_bytes - taken


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the web; bytes, counts, seconds."""

    max_value_size: int = 1 << 20
    max_batch_operations: int = 1_000
    max_invalidate_keys: int = 100_000
    max_followers: int = 1_000
    max_job_listeners: int = 100
    max_snapshots: int = 4  # leaving at once, and coming
    request_timeout: float = 10.0
    warming: WarmLimits = field(default_factory=WarmLimits)
    max_revocations: int = 100_000
    revoked_for: float = 30 * 86_400.0  # where it is not said when the tokens end
    heartbeat: float = 15.0  # the longest silence of a stream of changes

    @property
    def max_update_size(self) -> int:
        """Bytes of a body that carries one value as JSON among its members."""
        return self.max_value_size + (64 << 10)

    @property
    def max_batch_size(self) -> int:
        """Bytes of a batch, and of the values in one answer: eight values of the largest size, or 64 MiB over one."""
        return self.max_update_size + min(7 * self.max_value_size, 64 << 20)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a node that the web answers from. Setting `closing` ends the streams of changes."""

    cache: Cache
    feed: Feed
    node: Node
    clock: Clock
    jobs: JobBook
    limits: Limits = field(default_factory=Limits)
    version: str = ""
    spool: Spool | None = None  # None: nothing can be restored
    admission: Admission | None = None  # None: all is taken up
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    deadlines: Deadlines = field(default_factory=Deadlines)
    streams: dict[str, Streams] = field(default_factory=dict)  # by what they are of
    sites: OwnSite | None = None  # None: there are no others
    metrics: Metrics = field(default_factory=Metrics)
    doorman: Doorman = field(default_factory=OpenDoor)
    rates: Rates | None = None  # None: nothing is counted
    revocations: Revocations = field(default_factory=lambda: Revocations((), lambda: 0.0))
