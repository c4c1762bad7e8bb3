"""Node: what a running node is made of, and what it says of itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cachesvc.breaker import Breaker
from cachesvc.clock import SystemClock
from cachesvc.cluster.audit import Auditor, Order
from cachesvc.cluster.delays import Delays
from cachesvc.cluster.duties import Duty
from cachesvc.cluster.feed import Feed
from cachesvc.cluster.follower import Follower
from cachesvc.cluster.jobs import JobRunner
from cachesvc.cluster.losses import Losses
from cachesvc.cluster.replayer import Replayer
from cachesvc.cluster.sweeper import Sweeper
from cachesvc.cluster.vigil import Vigil
from cachesvc.cluster.voucher import Voucher
from cachesvc.engine.cache import Cache
from cachesvc.engine.explain import Explanation, explain
from cachesvc.engine.jobs import JobBook
from cachesvc.engine.warm import Warmer
from cachesvc.errors import JobFailed, Unavailable
from cachesvc.model.job import Job
from cachesvc.model.keys import PARTITIONS, Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.revocation import Revocations
from cachesvc.model.warming import Warming, WarmSource, pack_warming
from cachesvc.node.offset import authority_offset
from cachesvc.node.restoring import Restorer
from cachesvc.node.stats import replay_of, stats_of
from cachesvc.ports import Authority, NodeRecord, Reached
from cachesvc.settings import Settings
from cachesvc.sites.own import OwnSite

if TYPE_CHECKING:
    from cachesvc.tiers.redis import RedisTier

T = TypeVar("T")
_log = logging.getLogger(__name__)
_READS_ONLY = "reads only: "
SOON = 0.02  # seconds
TIDYING = 600.0  # seconds


@dataclass(slots=True, eq=False)
class Node:
    """A running node. Built by `building.opened`."""

    id: str
    address: str
    version: str
    settings: Settings
    clock: SystemClock
    cache: Cache
    feed: Feed
    follower: Follower
    authority: Authority
    redis: RedisTier | None
    replayer: Replayer | None
    voucher: Voucher | None
    losses: Losses
    vigil: Vigil
    sweeper: Sweeper
    auditor: Auditor
    duties: Sequence[Duty]
    jobs: JobBook
    runner: JobRunner
    warmer: Warmer
    restorer: Restorer
    revocations: Revocations
    sites: OwnSite | None = None
    warming: bool = False  # before it says that it is ready
    started_at: float = 0.0
    clock_known: bool = True
    authority_answers: bool = True  # to a heartbeat, which is a write
    unheard: str = ""  # why not

    # background

    async def first_beat(self) -> None:
        """Tell the others that this node is there. Raises `Unavailable`."""
        self.started_at = self.clock.now()
        await self._beat()

    async def beat(self) -> None:
        """A heartbeat every so often, for ever, and soon after an invalidation, which may be waited for."""
        while True:
            await self._until_due()
            try:
                await self._beat()
            except Unavailable as exc:
                if self.authority_answers:
                    _log.warning("the authority does not answer: %s", exc)
                self.authority_answers = False

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(self.settings.cluster.heartbeat):
                await self.cache.invalidated.wait()
        except TimeoutError:
            return
        await self.clock.sleep(SOON)  # of many at once one heartbeat tells
        self.cache.invalidated.clear()

    async def _beat(self) -> None:
        breaker = self.cache.authority_writes
        was_away = breaker.state != "closed"
        try:
            await probed(breaker, self.authority.heartbeat(self._record()))
        except Unavailable as exc:
            self.unheard = exc.reason
            raise
        if was_away and breaker.state == "closed":
            self.cache.writes.failure = ""
        self.authority_answers = True
        self.unheard = ""

    async def upkeep(self) -> None:
        """What a node does for itself now and then: its idea of the authority's time, its dictionaries."""
        while True:
            await self.clock.sleep(1.0)
            await self._probe()
            try:
                self.clock.offset = await probed(self.cache.authority_reads, authority_offset(self.authority, self.clock))
                self.clock_known = True
                if self.redis is not None:
                    await self.redis.maintain()
            except Unavailable as exc:
                _log.debug("upkeep waits: %s", exc)

    async def _probe(self) -> None:
        """Ask a Redis, or masters of it, that were left alone whether they are back, so that an idle node knows it too."""
        if self.redis is None:
            return
        state = self.cache.breaker.state
        if state == "half-open" or (state == "closed" and self.redis.masters_away):
            try:
                await probed(self.cache.breaker, self.redis.lagging(horizon=self.cache.floors.horizon))
            except Unavailable as exc:
                _log.debug("redis is still away: %s", exc)

    async def index(self) -> None:
        """Bring the index of fields to what the settings say; ends when it is done."""
        while True:
            try:
                return await self.authority.backfill()
            except Unavailable as exc:
                _log.info("the index of fields waits: %s", exc)
                await self.clock.sleep(1.0)

    async def warm_up(self) -> None:
        """Warm what the settings say, within their time, before this node says that it is ready."""
        if not self.warming:
            return
        warm = self.settings.warm
        pattern = parse_pattern(warm.on_start_pattern).text
        warming = Warming(WarmSource(warm.on_start), pattern=pattern, rate=warm.max_rate)
        job = Job("", "warm", warming.title)
        try:
            async with asyncio.timeout(warm.on_start_within), aclosing(self.warmer.work(job, pack_warming(warming))) as steps:
                async for job in steps:  # noqa: B007 - how far it came is told below
                    pass
        except (TimeoutError, JobFailed, Unavailable) as exc:
            _log.warning("not all is warm: %s", str(exc) or "there was no more time")
        _log.info("%s: %d of %s keys", job.title, job.done, job.total)
        self.warming = False

    async def tidy(self) -> None:
        """Remove what restores that never ran have left, now and then."""
        while True:
            try:
                await self.restorer.tidy(self.clock.now())
            except (Unavailable, OSError) as exc:
                _log.info("restores are not tidied up: %s", exc)
            await self.clock.sleep(TIDYING)

    async def leave(self) -> None:
        """Give up the leases and the place in the list."""
        for duty in self.duties:
            await duty.resign()
        try:
            await self.authority.leave(self.id)
        except Unavailable:
            _log.info("the node could not say that it leaves; its heartbeat runs out")

    # what it says of itself

    def _record(self) -> NodeRecord:
        return NodeRecord(
            self.id,
            self.started_at,
            self.clock.now(),
            self.cache.applied,
            self.version,
            self.address,
            {
                "duties": [duty.name for duty in self.duties if duty.held],
                "redis": self.cache.breaker.state,
                "redisMastersAway": self.redis.masters_away if self.redis is not None else 0,
                "replay": replay_of(self),
                "audit": self.auditor.told(),
                "visibility": self.delays["others"].latest(),
                "sites": self._compared(),
                **self.losses.stats(),
            },
        )

    async def readiness(self) -> tuple[bool, Mapping[str, str]]:
        """Whether this node can serve, and for each of its parts `"ok"` or why not.

        It can without Redis, which reads pass by, and with an authority that takes no writes.
        """
        parts = {"clock": "ok" if self.clock_known else "the authority's time is not known"}
        parts["log"] = "ok" if self.follower.following else "cannot be followed"
        if self.clock.monotonic() >= self.cache.leash.until:
            parts["log"] = "this node was frozen, and has not caught up yet"
        if self.settings.levels.memory.enabled:
            parts[self.cache.memory.name] = "ok"
        if self.redis is not None:
            parts[self.redis.name] = await self._redis_readiness(self.redis)
        parts[self.authority.name] = said = await self._authority_readiness()
        if self.warming:
            parts["warming"] = "warming: what is hot is brought up first"
        able = said == "ok" or said.startswith(_READS_ONLY)
        return able and not self.warming and parts["clock"] == parts["log"] == "ok", parts

    async def _authority_readiness(self) -> str:
        if self.cache.authority_reads.state != "closed":
            return f"not asked: its breaker is {self.cache.authority_reads.state}"
        try:
            await self.authority.head()
        except Unavailable as exc:
            return str(exc)
        refused = self.cache.writes.failure or self.unheard
        if not refused and self.cache.authority_writes.state != "closed":
            refused = f"its breaker is {self.cache.authority_writes.state}"
        return f"{_READS_ONLY}{refused}" if refused else "ok"

    async def _redis_readiness(self, redis: RedisTier) -> str:
        if self.cache.breaker.state != "closed":
            return f"passed by: its breaker is {self.cache.breaker.state}"
        try:
            lagging = await redis.lagging(horizon=self.cache.floors.horizon)
        except Unavailable as exc:
            return str(exc)
        if redis.masters_away:
            away = f"{redis.masters_away} of {redis.masters} masters do not answer"
            return f"{away}: {lagging} of {PARTITIONS} partitions are passed by or behind"
        return "ok" if not lagging else f"not replayed yet: {lagging} of {PARTITIONS} partitions are behind"

    async def reached(self, sequence: int, *, within: float) -> Reached:
        """Who has applied a sequence, after waiting for the live nodes for up to `within` seconds."""
        lately = self.settings.cluster.gone_after
        longest = lately + self.settings.levels.memory.serves_for
        deadline = self.clock.monotonic() + within
        while True:
            try:
                found = await self.authority.nodes(seen_within=lately)
                missing = self._behind(found, sequence)
                if not missing or self.clock.monotonic() >= deadline:
                    holding = await self.authority.nodes(seen_within=longest)
                    heard = {record.node for record in found}
                    return Reached(
                        missing, [one for one in self._behind(holding, sequence) if one not in heard and one != self.id]
                    )
            except Unavailable:
                if self.clock.monotonic() >= deadline:
                    return Reached(None, [])
            await self.clock.sleep(SOON)

    def _behind(self, nodes: Sequence[NodeRecord], sequence: int) -> list[str]:
        """Those that have not applied it; this one is known best here."""
        behind = [record.node for record in nodes if record.node != self.id and record.applied.sequence < sequence]
        return [*behind, self.id] if self.cache.applied.sequence < sequence else behind

    async def explain(self, key: Key) -> Explanation:
        """What each level holds of a key, and why its last read on this node hit or missed."""
        return await explain(self.cache, key)

    @property
    def delays(self) -> Mapping[str, Delays]:
        """Of own changes and of others': from the authority's time of a change until it was in force here."""
        return self.follower.delays

    @property
    def audited(self) -> Collection[str]:
        """The levels above the authority, which are audited."""
        return self.auditor.tiers.keys()

    @property
    def auditing(self) -> Order | None:
        """The audit that was asked for and has not ended."""
        return self.auditor.order

    def audit(self, tiers: Sequence[str], sample: int | None) -> Order:
        """Have these tiers audited, up to `sample` entries of each; an audit that has not ended is joined instead."""
        return self.auditor.ask(tiers, sample)

    async def audits(self) -> list[dict[str, Any]]:
        """The latest reports of every node that was heard of lately, this one's as they are now."""
        return [
            {
                "node": record.node,
                "address": record.address,
                "self": record.node == self.id,
                "tiers": self.auditor.told() if record.node == self.id else record.info.get("audit", {}),
                "sites": self._compared() if record.node == self.id else record.info.get("sites", {}),
            }
            for record in await self.authority.nodes(seen_within=self.settings.cluster.gone_after)
        ]

    def _compared(self) -> dict[str, dict[str, object]]:
        return self.sites.told() if self.sites is not None else {}

    async def nodes(self) -> list[dict[str, Any]]:
        """Every node that was heard of lately, with the sequence that it has applied and its lag behind the head."""
        head = await self.authority.head()
        found = await self.authority.nodes(seen_within=self.settings.cluster.gone_after)
        return [
            {
                "node": record.node,
                "self": record.node == self.id,
                "address": record.address,
                "version": record.version,
                "startedAt": record.started_at,
                "seenAt": record.seen_at,
                "epoch": record.applied.epoch,
                "applied": record.applied.sequence,
                "lag": max(0, head.sequence - record.applied.sequence) if record.applied.epoch == head.epoch else None,
                **record.info,
            }
            for record in found
        ]

    async def stats(self) -> dict[str, Any]:
        """Counts since the start of this node: by tier, of the log, of the engine's queues."""
        return await stats_of(self)


async def probed(breaker: Breaker, asking: Awaitable[T]) -> T:
    """What a node asks for itself, with what it says of the tier: a failure counts, a success only after an outage.

    So a tier that answers to this, but not to others, does not look healthy for it. Raises `Unavailable`.
    """
    probing = breaker.state == "half-open" and breaker.allows()
    try:
        answer = await asking
    except Unavailable as exc:
        if probing or not getattr(exc, "answered", False):
            breaker.failed_with(exc)
        raise
    except BaseException:
        if probing:
            breaker.abandoned()
        raise
    if probing:
        breaker.succeeded()
    return answer
