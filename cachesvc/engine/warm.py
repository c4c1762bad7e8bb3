"""Warming: bring entries up into Redis and memory before they are asked for, at a pace that leaves room for who asks.

The rule that must not break: what is brought up passes the floors and tokens that a read passes, so nothing newer is ever
replaced; and memory takes it only where there is room, so nothing goes that was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from cachesvc.engine.cache import Cache
from cachesvc.errors import CacheError, Overloaded, TierUnavailable
from cachesvc.model.job import Job
from cachesvc.model.keys import Key
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.warming import Warming, WarmSource, unpack_warming
from cachesvc.ports import Clock

BATCH: Final = 100  # keys of one SELECT: what more would hold up who reads meanwhile
BATCH_BYTES: Final = 8 << 20  # of their values, where those are known before
STEPS: Final = 4  # a second at least, however slow the pace
COUNTED: Final = 5_000  # keys counted at a time
HOT: Final = 10_000  # keys that a peer is asked for, at most

Hot = Callable[[str, int], Awaitable[Sequence[Key]]]  # the node, "" for any; how many. Raises `JobFailed`


class Pace:
    """So many a second: each batch makes the next one wait for its turn; what was slow is not caught up with."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        self._next = clock.monotonic()

    async def turn(self, keys: int) -> None:
        """Wait until a batch of so many keys may begin."""
        await self._clock.sleep(max(0.0, self._next - self._clock.monotonic()))
        self._next = self._clock.monotonic() + keys / self._rate


class Warmer:
    """Carries warm-ups out. `hot` asks a peer for the keys that it holds."""

    def __init__(self, cache: Cache, clock: Clock, *, hot: Hot) -> None:
        self._cache = cache
        self._clock = clock
        self._hot = hot

    async def work(self, job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        """Go on with a warm-up from where the job says. Raises `JobFailed`, and `Unavailable` to be tried again."""
        warming = unpack_warming(body)
        if warming.source is WarmSource.DATABASE and warming.pattern:
            steps = self._matching(job, warming)
        else:
            keys: Sequence[Key] = warming.keys
            if warming.source is WarmSource.PEER:
                keys = await self._hot_keys(warming)
                # gone on with, they may come from another, in another order
                job = job._replace(checkpoint="", done=0, counts={})
            steps = self._named(job, warming, keys)
        async for reached in steps:
            yield reached

    async def _named(self, job: Job, warming: Warming, keys: Sequence[Key]) -> AsyncGenerator[Job, None]:
        pace = Pace(self._clock, warming.rate)
        loads = warming.source is WarmSource.LOADER
        size = min(warming.concurrency, BATCH) if loads else BATCH
        size = max(1, min(size, int(warming.rate / STEPS)))
        job = job._replace(total=len(keys))
        for start in range(int(job.checkpoint or 0), len(keys), size):
            batch = keys[start : start + size]
            await pace.turn(len(batch))
            job = await self._load(job, batch) if loads else await self._lift(job, batch)
            yield job._replace(checkpoint=str(start + len(batch)))

    async def _matching(self, job: Job, warming: Warming) -> AsyncGenerator[Job, None]:
        """What matches, page by page, from after the last key; a page holds no more bytes than are read at once."""
        pattern = parse_pattern(warming.pattern)
        pace = Pace(self._clock, warming.rate)
        size = max(1, min(BATCH, int(warming.rate / STEPS)))
        if job.total is None:
            job = job._replace(total=await self._count(pattern))
        after = Key(job.checkpoint) if job.checkpoint else None
        while page := await self._cache.authority.list_entries(pattern, after=after, limit=size):
            room, taken = BATCH_BYTES, 0
            for listed in page:
                room -= listed.size
                if room < 0 and taken:
                    break
                taken += 1
            batch = [listed.key for listed in page[:taken]]
            after = batch[-1]
            await pace.turn(len(batch))
            job = await self._lift(job, batch)
            job = job._replace(checkpoint=after)
            yield job

    async def _count(self, pattern: Pattern) -> int:
        total = 0
        after: Key | None = None
        while page := await self._cache.authority.list_entries(pattern, after=after, limit=COUNTED):
            total += len(page)
            after = page[-1].key
        return total

    async def _hot_keys(self, warming: Warming) -> Sequence[Key]:
        found = await self._hot(warming.peer, HOT)
        if not warming.pattern:
            return found
        pattern = parse_pattern(warming.pattern)
        return [key for key in found if pattern.matches(key)]

    async def _lift(self, job: Job, keys: Sequence[Key]) -> Job:
        warmed, skipped, lost = await self._cache.lift(keys)
        job = job.counted(warmed=warmed, skipped=skipped, absent=len(keys) - warmed - skipped - len(lost))
        return job.failed_for((key, "redis is away, and memory has no room") for key in lost)

    async def _load(self, job: Job, keys: Sequence[Key]) -> Job:
        """Read them all at once, so that a loader is called once for all that is nowhere."""
        answers = await asyncio.gather(*(self._cache.read(key) for key in keys), return_exceptions=True)
        authority = self._cache.authority.name
        counts = {"warmed": 0, "skipped": 0, "absent": 0}
        errors: list[tuple[str, str]] = []
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, Overloaded) or (isinstance(answer, TierUnavailable) and answer.tier == authority):
                raise answer  # not the loader's fault: all of them again
            if isinstance(answer, CacheError):
                errors.append((key, str(answer)))
            elif isinstance(answer, BaseException):
                raise answer
            elif answer.entry is None:
                counts["absent"] += 1
            else:
                counts["warmed" if answer.stored else "skipped"] += 1
        return job.counted(**counts).failed_for(errors)
