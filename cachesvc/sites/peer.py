"""Peer: another site, followed by this one over one connection at a time, and compared with now and then.

The rule that must not break: how far its log was taken in is kept only when all up to there is in the authority; after it has
started over, that is when all before was compared. What was taken in twice is news once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cachesvc.errors import CacheError, InvalidInput, PositionLost, Unavailable
from cachesvc.model.position import Position, parse_position
from cachesvc.ports import Clock, Link, Reply, SiteStore
from cachesvc.sites.comparison import Comparison, check_name
from cachesvc.sites.intake import Intake, IntakeLimits, Writes
from cachesvc.sites.keeper import Keeper
from cachesvc.sites.report import PeerCounts, SiteReport
from cachesvc.sites.witness import Witness

_log = logging.getLogger(__name__)
RETRIES: Final = (0.2, 1.0, 2.0, 5.0)  # seconds between attempts, the last for ever

Connect = Callable[[], AbstractAsyncContextManager[Link]]


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Seconds between comparisons, bytes a second that may come, seconds that tombstones are kept."""

    interval: float = 60.0
    bandwidth: float = 0.0  # 0: as many as come
    remembered: float = 86_400.0
    intake: IntakeLimits = field(default_factory=IntakeLimits)


class _Told(NamedTuple):
    """Up to where a log was told, and what."""

    position: Position
    reply: Reply


class Peer:
    """One other site. `connect` raises `Unavailable` when it cannot be reached, or does not believe who this is."""

    def __init__(
        self,
        name: str,
        connect: Connect,
        store: SiteStore,
        writes: Writes,
        clock: Clock,
        *,
        keeper: Keeper,
        witness: Witness,
        site: str,
        others: tuple[str, ...],
        limits: PeerLimits,
        policies: str = "",
    ) -> None:
        self.name = name
        self.counts = PeerCounts()
        self.latest: SiteReport | None = None
        self.position: Position | None = None
        self._connect = connect
        self._store = store
        self._clock = clock
        self._site = site
        self._others = others
        self._limits = limits
        self._policies = policies  # the fingerprint of how this site settles conflicts
        self._moved = asyncio.Event()
        self._followers = 0  # who follow it on this node, or will again
        self._intake = Intake(writes, clock, witness=witness, peer=name, counts=self.counts, limits=limits.intake)
        self._keeper = keeper
        self._turn = asyncio.Lock()
        self._paid_at = 0.0  # when what came is within the budget
        self._complete_at: float | None = None  # when all that it had to tell was taken in; None: this node does not follow it
        self._unseen = False  # since it started over: what it has and this site lacks is no fault

    async def run(self) -> None:
        """Follow it, and compare with it, for ever."""
        self._complete_at = self._clock.now()
        try:
            with self._following():
                await self._run()
        finally:
            self._complete_at = None

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Its log is, or will be again, followed meanwhile: what waits for that waits no longer than there is somebody."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._move()

    @property
    def lag(self) -> float:
        """Seconds since all that it had to tell was taken in; 0 where this node does not follow it."""
        return max(0.0, self._clock.now() - self._complete_at) if self._complete_at is not None else 0.0

    async def _run(self) -> None:
        failed = 0
        while True:
            try:
                async with self._connect() as link:
                    self.counts.connections += 1
                    self.counts.connected = True
                    failed = 0
                    await self._hold(link)
            except* CacheError as group:
                self.counts.failures += 1
                level = logging.DEBUG if failed else logging.WARNING
                _log.log(level, "the site %s is not followed: %s", self.name, _first(group))
            finally:
                self.counts.connected = False
            await self._clock.sleep(RETRIES[min(failed, len(RETRIES) - 1)])
            failed += 1

    async def compare(self) -> SiteReport:
        """Compare with it now, over a connection of its own, whether or not this node follows it."""
        report = SiteReport(self.name, self._clock.now(), asked=True)
        try:
            async with self._connect() as link:
                if self.counts.connected:
                    return await self._compare(link, report)
                start = await self._head(link)
                async with asyncio.TaskGroup() as group:
                    with self._following():
                        following = group.create_task(self._follow(link, await self._begin(start)))
                        report = await self._compare(link, report)
                        following.cancel()
        except* CacheError as failed:
            report.error = str(_first(failed))
        return report

    async def _hold(self, link: Link) -> None:
        head = await self._head(link)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(link, await self._begin(head)))
            while True:
                await self._compare(link, SiteReport(self.name, self._clock.now()))
                await self._clock.sleep(self._limits.interval)

    async def _begin(self, head: Position) -> Position:
        """Where its log is to be gone on with: at its head where that cannot be told, as comparing finds what is missing."""
        kept = await self._store.followed(self.name)
        silent = kept is not None and self._clock.now() - kept.at > self._limits.remembered
        if kept is None or kept.position.epoch != head.epoch or kept.position > head or silent:
            self._start_over(
                head, "it was silent for longer than deletions are remembered" if silent else "", met=kept is not None
            )
            return head
        self._stand(kept.position)
        return kept.position

    def _start_over(self, head: Position, why: str, *, met: bool = True) -> None:
        self.counts.started_over += met
        self._unseen = True
        if why:
            _log.warning("the site %s starts over: %s; entries deleted meanwhile may come back", self.name, why)
        self._stand(head)

    async def _follow(self, link: Link, position: Position) -> None:
        while True:
            try:
                answer = await self._ask(link, str(position))
            except PositionLost as lost:
                _log.warning("the log of %s cannot be gone on with: %s", self.name, lost)
                position = await self._head(link)
                self._start_over(position, "")
                continue
            await self._intake.take(answer.reply)
            await self._intake.take_due()
            said = answer.reply.payload
            if self._complete_at is not None and said.get("head", said["position"]) == said["position"]:
                self._complete_at = self._clock.now()
            if answer.position != position:
                position = answer.position
                if not self._unseen:
                    await self._store.follow_on(self.name, position)
            self._stand(position)

    async def _head(self, link: Link) -> Position:
        """Where its log stands; it is told how far this site has seen it, and tells how it settles conflicts."""
        kept = await self._store.followed(self.name)
        told = await self._ask(link, "", seen=str(kept.position) if kept is not None else None)
        theirs = told.reply.payload.get("policies", self._policies)  # a site of an older version does not say
        if theirs != self._policies and not self.counts.policies_differ:
            _log.error(
                "the site %s settles conflicts by OTHER POLICIES than this one: what both write may differ for good,"
                " until [conflicts] is the same at both",
                self.name,
            )
        self.counts.policies_differ = theirs != self._policies
        return told.position

    async def _ask(self, link: Link, position: str, *, seen: str | None = None) -> _Told:
        payload = {"nodeId": self._site, "position": position, "follows": list(self._others), "compression": "gzip"}
        reply = await link.ask(payload | {"seen": seen} if seen is not None else payload)
        await self._pace(len(reply.text))
        if reply.type != "batch:update":
            raise InvalidInput("type", f"of the answer of {self.name} is not batch:update")
        check_name(str(reply.payload.get("nodeId", self.name)), self.name)  # a site of an older version does not say
        return _Told(parse_position(str(reply.payload.get("position", "")), field="payload.position"), reply)

    async def _compare(self, link: Link, report: SiteReport) -> SiteReport:
        async with self._turn:
            started_over = self.counts.started_over
            comparison = Comparison(
                self._keeper,
                self._intake,
                self._clock,
                site=self._site,
                peer=self.name,
                others=self._others,
                caught_up=self._caught_up,
                pace=self._pace,
            )
            self.latest = await comparison.run(link, report)
            report.policies_differ = self.counts.policies_differ
            report.initial = self._unseen  # it may have started over meanwhile
            begun = self._unseen and started_over == self.counts.started_over
            if begun and self.position is not None and not report.error:
                await self._store.follow_on(self.name, self.position)
                self._unseen = False
        counts = self.counts
        counts.synced += 1
        counts.sent += report.sent
        counts.sync_failures += bool(report.error)
        if not report.initial:
            counts.repaired += report.repaired
            if report.repaired:
                _log.error("%d entries differed from those of the site %s and were repaired", report.repaired, self.name)
        return report

    async def _caught_up(self, position: Position) -> None:
        while self.position is None or (self.position.epoch == position.epoch and self.position < position):
            if not self._followers:
                raise Unavailable(f"this node does not follow {self.name} any more")
            await self._moved.wait()

    def _stand(self, position: Position) -> None:
        self.position = position
        self._move()

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _pace(self, received: int) -> None:
        """Count what came, and wait until it fits into the budget, which following and comparing share."""
        self.counts.received += received
        if self._limits.bandwidth:
            seconds, now = received / self._limits.bandwidth, self._clock.monotonic()
            self.counts.paused += seconds
            self._paid_at = max(self._paid_at, now) + seconds
            await self._clock.sleep(self._paid_at - now)


def _first(group: BaseExceptionGroup[CacheError]) -> CacheError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
