"""Audit: what memory and Redis hold, compared with the authority by key, version and content, in paced batches.

The rule that must not break: what differs is judged only on a second look, when the tier has been told of all that the
authority had at the first. So what is on its way is never taken for a fault, and a repair is a fault found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from itertools import islice
from typing import Final, NamedTuple

from cachesvc.cluster.audit_report import Report, Totals
from cachesvc.cluster.copies import Copies
from cachesvc.engine.cache import Cache
from cachesvc.errors import Unavailable
from cachesvc.model.entry import Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Position, Version
from cachesvc.ports import Clock, Copy

_log = logging.getLogger(__name__)

BATCH: Final = 250  # entries of one look, and of one statement
PATIENCE: Final = 5.0  # seconds that a tier may take until it was told
SOON: Final = 0.02  # between two looks at what it is waited for
REPAIRED: Final = "an entry differed from the authority and was repaired"
LOGGED: Final = 10  # repairs of one round that are logged one by one


class Suspect(NamedTuple):
    """A copy that differed from the authority: its version, what the authority had, where that stood then."""

    version: Version
    held: tuple[Version, bool, bytes] | None
    upto: Position


class Order:
    """An audit that was asked for: of these tiers, up to `sample` entries each, None for all. `done` is set at its end."""

    def __init__(self, tiers: Sequence[str], sample: int | None) -> None:
        self.tiers = tiers
        self.sample = sample
        self.reports: dict[str, Report] = {}
        self.done = asyncio.Event()


class Auditor:
    """The audits of one node, one round at a time. `interval` in seconds, `sample` in entries, `rate` in entries a second.

    Rounds go over a tier one after the other, each from where the last one ended.
    """

    def __init__(
        self, cache: Cache, tiers: Sequence[Copies], clock: Clock, *, interval: float, sample: int, rate: float
    ) -> None:
        self.tiers = {tier.name: tier for tier in tiers}
        self.totals = {name: Totals() for name in self.tiers}
        self.latest: dict[str, Report] = {}
        self.order: Order | None = None
        self._cache = cache
        self._clock = clock
        self._interval = interval
        self._sample = sample
        self._rate = rate
        self._walks: dict[str, AsyncGenerator[Key, None]] = {}
        self._turn = asyncio.Lock()
        self._ordered = asyncio.Event()
        self._due = clock.monotonic() + interval

    async def run(self) -> None:
        """For ever: memory every interval, and what is asked for."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._interval):
                        await self._ordered.wait()
                except TimeoutError:
                    await self.round(self._cache.memory.name)
                else:
                    await self._carry_out()
        finally:
            for name in list(self._walks):
                await self._begin_anew(name)

    async def shared(self) -> None:
        """A step of the duty: once in every interval one of the nodes audits what they share."""
        name = self._cache.redis.name if self._cache.redis is not None else ""
        if name in self.tiers and self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + self._interval
            await self.round(name)

    def ask(self, tiers: Sequence[str], sample: int | None) -> Order:
        """Have an audit done as soon as may be, by `run`; one that was asked for before and has not ended is joined."""
        if self.order is None:
            self.order = Order(tiers, sample)
            self._ordered.set()
        return self.order

    def told(self) -> dict[str, dict[str, object]]:
        """The latest report of each tier."""
        return {name: report.told() for name, report in self.latest.items()}

    def stats(self) -> dict[str, dict[str, object]]:
        """Counts of each tier since the start, and when its latest round began, how long that took and what share agreed."""
        told: dict[str, dict[str, object]] = {}
        for name, totals in self.totals.items():
            told[name] = asdict(totals)
            if name in self.latest:
                latest = self.latest[name]
                told[name]["latest"] = {"at": latest.at, "seconds": latest.seconds, "coherence": latest.coherence}
        return told

    async def round(self, name: str) -> Report | None:
        """Audit the next sample of a tier; None where there is no such tier."""
        if name not in self.tiers or not self._sample:
            return None
        async with self._turn:
            return await self._audit(self.tiers[name], Report(name, self._clock.now(), asked=False), self._sample)

    async def _carry_out(self) -> None:
        order = self.order
        assert order is not None
        self._ordered.clear()
        try:
            for name in order.tiers:
                async with self._turn:
                    report = order.reports[name] = Report(name, self._clock.now(), asked=True)
                    await self._audit(self.tiers[name], report, order.sample)
        finally:
            self.order = None
            order.done.set()

    async def _audit(self, tier: Copies, report: Report, sample: int | None) -> Report:
        began = self._clock.monotonic()
        try:
            if sample is None:
                async with aclosing(_walk(tier)) as walk:
                    report.whole = await self._go(tier, walk, report, None)
            else:
                walk = self._walks.setdefault(tier.name, _walk(tier))
                if await self._go(tier, walk, report, sample):
                    await self._begin_anew(tier.name)
        except Unavailable as exc:
            report.error = str(exc)
            await self._begin_anew(tier.name)
        report.seconds = self._clock.monotonic() - began
        self.latest[tier.name] = report
        self.totals[tier.name].note(report)
        if report.repaired > LOGGED:
            _log.warning("%d entries of %s differed from the authority and were repaired", report.repaired, tier.name)
        return report

    async def _begin_anew(self, name: str) -> None:
        walk = self._walks.pop(name, None)
        if walk is not None:
            await walk.aclose()

    async def _go(self, tier: Copies, walk: AsyncIterator[Key], report: Report, sample: int | None) -> bool:
        """Audit what the walk comes by, at the rate, up to `sample` keys; whether it came to its end."""
        began = self._clock.monotonic()
        walked = 0
        while sample is None or walked < sample:
            room = BATCH if sample is None else min(BATCH, sample - walked)
            keys = [key async for key in _some(walk, room)]
            walked += len(keys)
            await self._look(tier, list(dict.fromkeys(keys)), report)
            report.seconds = self._clock.monotonic() - began
            if len(keys) < room:
                return True
            await self._clock.sleep(max(0.0, walked / self._rate - report.seconds))
        return False

    async def _look(self, tier: Copies, keys: Collection[Key], report: Report) -> None:
        """Look once at these, and again at those that differ."""
        copies = await self._copies(tier, keys)
        held = await self._outline(copies)
        report.bytes += sum(copy.size for copy in copies.values())
        differing = [key for key, copy in copies.items() if not _agree(copy.entry, held.get(key))]
        report.audited += len(copies) - len(differing)
        report.agreed += len(copies) - len(differing)
        if differing:
            upto = await self._cache.authority.head()
            await self._look_again(
                tier,
                {key: Suspect(copies[key].entry.version, _said(held.get(key)), upto) for key in differing},
                report,
            )

    async def _look_again(self, tier: Copies, suspects: dict[Key, Suspect], report: Report) -> None:
        """Look at suspects until each has agreed, has gone, or is wrong; who takes too long stays undecided."""
        until = self._clock.monotonic() + PATIENCE
        while suspects:
            copies = await self._copies(tier, suspects)
            held = await self._outline(copies)
            head: Position | None = None
            wrong: dict[Key, Copy] = {}
            for key, suspect in list(suspects.items()):
                copy, now = copies.get(key), held.get(key)
                if copy is None or copy.entry.version != suspect.version or _agree(copy.entry, now):
                    del suspects[key]
                    report.audited += 1
                    report.agreed += 1
                elif copy.told.epoch != suspect.upto.epoch or copy.told.sequence < suspect.upto.sequence:
                    continue  # not told yet
                else:
                    head = head or await self._cache.authority.head()
                    if copy.told > head or copy.told.epoch != head.epoch:
                        continue  # the authority was set back, which its follower is about to notice
                    if _said(now) == suspect.held:
                        del suspects[key]
                        wrong[key] = copy
                    else:  # written meanwhile: of that it need not have been told
                        suspects[key] = Suspect(suspect.version, _said(now), head)
            await self._repair(tier, wrong, held, report)
            if not suspects:
                return
            if self._clock.monotonic() >= until:
                report.undecided += len(suspects)
                return
            await self._clock.sleep(SOON)

    async def _repair(self, tier: Copies, wrong: Mapping[Key, Copy], held: Mapping[Key, Entry], report: Report) -> None:
        """Have these forgotten here and in Redis, from where they may have come, so that the authority is asked for them."""
        if not wrong:
            return
        cache = self._cache
        if cache.redis is not None:
            try:
                await cache.redis.evict(wrong)
            except Unavailable as exc:
                _log.info("what differed could not be taken out of Redis: %s", exc)
        for key, copy in wrong.items():
            truth = held.get(key)
            if truth is not None:
                cache.floors.raise_to(key, truth.version)
            cache.memory.drop(key, below=copy.entry.version + 1)
        for key, copy in islice(wrong.items(), max(0, LOGGED - report.repaired)):
            found = {"tier": tier.name, "key": key, "version": copy.entry.version, "why": _why(copy.entry, held.get(key))}
            _log.warning(REPAIRED, extra=found)
        report.audited += len(wrong)
        report.repaired += len(wrong)

    async def _copies(self, tier: Copies, keys: Collection[Key]) -> Mapping[Key, Copy]:
        redis = self._cache.redis
        if redis is not None and tier.name == redis.name and self._cache.breaker.state != "closed":
            raise self._cache.breaker.away(tier.name)
        return await tier.look(keys)

    async def _outline(self, keys: Collection[Key]) -> Mapping[Key, Entry]:
        cache = self._cache
        if cache.authority_reads.refuses:
            raise cache.authority_reads.away(cache.authority.name)
        return await cache.authority.outline(keys, horizon=cache.floors.horizon)


async def _walk(tier: Copies) -> AsyncGenerator[Key, None]:
    async for key in tier.walk():
        yield key


async def _some(walk: AsyncIterator[Key], most: int) -> AsyncIterator[Key]:
    """Up to so many, the rest left for the next time."""
    for _ in range(most):
        try:
            yield await anext(walk)
        except StopAsyncIteration:
            return


def _agree(copy: Entry, held: Entry | None) -> bool:
    return not _why(copy, held)


def _why(copy: Entry, held: Entry | None) -> str:
    """How a copy differs from what the authority has; "" where it does not."""
    if held is None:
        return "not in the authority"
    if copy.version != held.version:
        return f"{'older' if copy.version < held.version else 'newer'} than version {held.version}"
    if held.deleted:
        return "deleted"
    if content_hash(copy.content_type, copy.value) != held.content_hash:
        return "other content"
    return ""


def _said(held: Entry | None) -> tuple[Version, bool, bytes] | None:
    return (held.version, held.deleted, held.content_hash) if held is not None else None
