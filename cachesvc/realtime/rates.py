"""Rates: how much each connection, user and address may ask for, by buckets of tokens that fill with time.

The rule that must not break: asking is done here and now, never by a round trip. What nodes share is drawn ahead in chunks, in
the background; so all together take at most one chunk a node too much, and where nothing can be drawn each takes its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cachesvc.errors import TooManyRequests, Unavailable
from cachesvc.ports import Clock, Quotas

_log = logging.getLogger(__name__)
CONNECTION: Final = "connection"
USER: Final = "user"
ADDRESS: Final = "address"
HAIR: Final = 1e-6  # tokens that are lost in rounding
LANES: Final = 4  # draws under way at once
_AWAY_FOR: Final = 1.0  # seconds in which quotas that did not answer are not asked again
_COUNTED: Final = 10.0  # seconds between two countings of the nodes
_SOONEST: Final = 0.05  # seconds until a bucket that was not given all that it asked for asks again


class Rate(NamedTuple):
    """Tokens a second, and the most that are saved up; 0 a second: without a limit."""

    rate: float
    burst: float

    @property
    def window(self) -> float:
        """Seconds in which an empty bucket fills."""
        return self.burst / self.rate


@dataclass(frozen=True, slots=True)
class RateLimits:
    """By what is counted; what each type of message or part of the API costs, 1 where nothing is said."""

    scopes: Mapping[str, Rate]
    costs: Mapping[str, float] = field(default_factory=dict)
    chunk: float = 0.1  # of a burst, drawn at a time
    max_buckets: int = 100_000


class Standing(NamedTuple):
    """How a bucket stands: tokens left of how many, and in how many seconds it is full."""

    scope: str
    left: float
    rate: Rate

    @property
    def share(self) -> float:
        return self.left / self.rate.burst

    @property
    def full_in(self) -> float:
        return (self.rate.burst - self.left) / self.rate.rate


class Bucket:
    """Of one connection, user or address, as this node knows it.

    Alone it is told by the time at which it is full. Of a shared one some tokens are `held` here; the first chunk is advanced,
    and paid back by what is drawn next.
    """

    __slots__ = ("advanced", "drawing", "full_at", "held", "left", "next_draw", "rate")

    def __init__(self, rate: Rate, chunk: float) -> None:
        self.rate = rate
        self.full_at = 0.0  # by the monotonic clock
        self.held = self.advanced = chunk * rate.burst
        self.left = rate.burst  # in the quota, when it was asked last
        self.drawing = False
        self.next_draw = 0.0

    def alone(self, now: float, share: float) -> float:
        """Tokens left, where `share` of the rate is this node's."""
        return max(0.0, (self.rate.burst - max(0.0, self.full_at - now) * self.rate.rate) * share)

    def spend_alone(self, cost: float, now: float, share: float) -> None:
        self.full_at = max(self.full_at, now) + cost / (self.rate.rate * share)


class Rates:
    """The buckets of a node. `quotas` None: it has no others to share them with. `nodes` counts those that do."""

    def __init__(
        self,
        limits: RateLimits,
        clock: Clock,
        quotas: Quotas | None = None,
        nodes: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self.limits = limits
        self.refused = dict.fromkeys((CONNECTION, USER, ADDRESS), 0)
        self.evicted = 0
        self.draws = 0
        self.failed = 0
        self._clock = clock
        self._quotas = quotas
        self._count = nodes
        self._nodes = 1
        self._away_until = 0.0
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._wanting: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._woken = asyncio.Event()

    def connection(self) -> Bucket | None:
        """A bucket for a connection, which has it alone."""
        rate = self.limits.scopes.get(CONNECTION)
        return Bucket(rate, 0.0) if rate is not None else None

    def take(self, kind: str, *, user: str = "", address: str = "", connection: Bucket | None = None) -> Standing | None:
        """Pay for something of a kind, by all that count; how the scarcest of them stands then, None where nothing counts.

        Raises `TooManyRequests` where one has too little; then nothing is paid.
        """
        cost = self.limits.costs.get(kind, 1.0)
        now = self._clock.monotonic()
        paying: list[tuple[str, Bucket, bool]] = []
        if connection is not None:
            paying.append((CONNECTION, connection, False))
        shared = self._quotas is not None and now >= self._away_until
        for scope, name in ((USER, user), (ADDRESS, address)):
            if name and scope in self.limits.scopes:
                paying.append((scope, self._bucket(scope, name, now, shared=shared), shared))
        if not cost:
            return None
        for scope, bucket, drawn in paying:
            left = bucket.held if drawn else bucket.alone(now, self._share(scope))
            if left + HAIR < min(cost, bucket.rate.burst * self._share(scope)):
                self.refused[scope] += 1
                raise self._refusal(scope, bucket, cost, left, now, shared=drawn)
        scarcest: Standing | None = None
        for scope, bucket, drawn in paying:
            if drawn:
                bucket.held -= cost
                left = bucket.held + bucket.left
            else:
                bucket.spend_alone(cost, now, self._share(scope))
                left = bucket.alone(now, self._share(scope))
            standing = Standing(scope, max(0.0, min(left, bucket.rate.burst)), bucket.rate)
            if scarcest is None or standing.share < scarcest.share:
                scarcest = standing
        return scarcest

    async def run(self) -> None:
        """Draw what is wanted, and count the nodes, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(LANES if self._quotas is not None else 0):
                group.create_task(self._lane())
            if self._count is not None:
                group.create_task(self._counting(self._count))

    def stats(self) -> dict[str, object]:
        return {
            "buckets": len(self._buckets),
            "evicted": self.evicted,
            "draws": self.draws,
            "drawsFailed": self.failed,
            "drawsWaiting": len(self._wanting),
            "away": self._quotas is not None and self._clock.monotonic() < self._away_until,
            "refused": dict(self.refused),
        }

    def _bucket(self, scope: str, name: str, now: float, *, shared: bool) -> Bucket:
        key = scope, name
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self.limits.scopes[scope], self.limits.chunk)
            if len(self._buckets) > self.limits.max_buckets:
                self._buckets.popitem(last=False)  # the one that was used the longest ago
                self.evicted += 1
        else:
            self._buckets.move_to_end(key)
        wants = bucket.advanced or bucket.held * 2 < self.limits.chunk * bucket.rate.burst
        if shared and wants and not bucket.drawing and now >= bucket.next_draw:
            bucket.drawing = True
            self._wanting[key] = bucket
            self._woken.set()
        return bucket

    def _share(self, scope: str) -> float:
        """The part of the rate that is this node's while it draws nothing."""
        return 1.0 if self._quotas is None or scope == CONNECTION else 1.0 / self._nodes

    def _refusal(self, scope: str, bucket: Bucket, cost: float, left: float, now: float, *, shared: bool) -> TooManyRequests:
        rate = bucket.rate
        wait = (min(cost, rate.burst) - left) / (rate.rate * (1.0 if shared else self._share(scope)))
        if shared:
            wait = max(wait, bucket.next_draw - now)
        standing = Standing(scope, left, rate)
        return TooManyRequests(
            scope, round(rate.burst), 0, standing.full_in, rate.window, retry_after=max(0.001, round(wait, 3))
        )

    async def _lane(self) -> None:
        while True:
            while not self._wanting:
                self._woken.clear()
                await self._woken.wait()
            (scope, name), bucket = self._wanting.popitem(last=False)
            try:
                await self._draw(scope, name, bucket)
            finally:
                bucket.drawing = False

    async def _draw(self, scope: str, name: str, bucket: Bucket) -> None:
        """Fill what is held here up to a chunk, once what was advanced is paid."""
        assert self._quotas is not None
        rate = bucket.rate
        asked = self.limits.chunk * rate.burst - bucket.held + bucket.advanced
        try:
            drawn = await self._quotas.draw(f"{scope}:{name}", asked=asked / rate.rate, most=rate.window)
        except Unavailable as exc:
            now = self._clock.monotonic()
            if now >= self._away_until:
                _log.warning("quotas cannot be drawn, each node takes its share: %s", exc)
            self._away_until = now + _AWAY_FOR
            self.failed += 1
            return
        self.draws += 1
        given = drawn.given * rate.rate
        paid = min(given, bucket.advanced)
        bucket.advanced -= paid
        bucket.held += given - paid
        bucket.left = max(0.0, rate.burst - drawn.used * rate.rate)
        if given < asked * 0.999:
            wait = (asked - given) / rate.rate
            bucket.next_draw = self._clock.monotonic() + max(_SOONEST, min(wait, 1.0))

    async def _counting(self, count: Callable[[], Awaitable[int]]) -> None:
        while True:
            with contextlib.suppress(Unavailable):  # as many as there were
                self._nodes = max(1, await count())
            await self._clock.sleep(_COUNTED)
