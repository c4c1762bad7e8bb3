"""Rates: how much each connection, user and address may ask for, by buckets of tokens that fill with time.

The rule that must not break: nothing is refused that the whole bucket has, and all nodes together take at most one chunk each
too much. What nodes share is drawn ahead in chunks, in the background, so that asking is a comparison here; who is faster than
that waits for the chunk that is on its way. Where nothing can be drawn nobody waits, and each node takes its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
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


class NotYet(Exception):
    """What is held here does not suffice, and whether the nodes have more is asked: `drawn` is done when that is known."""

    def __init__(self, drawn: asyncio.Future[None]) -> None:
        super().__init__()
        self.drawn = drawn


class Bucket:
    """Of one connection, user or address, as this node knows it.

    Alone it is told by the time at which it is full. Of a shared one some tokens are `held` here; the first chunk is advanced,
    and paid back by what is drawn next.
    """

    __slots__ = ("advanced", "chunk", "drawing", "drawn", "full_at", "held", "left", "next_draw", "rate", "wanted")

    def __init__(self, rate: Rate, chunk: float) -> None:
        self.rate = rate
        self.full_at = 0.0  # by the monotonic clock
        self.chunk = self.held = self.advanced = chunk * rate.burst
        self.left = rate.burst  # in the quota, when it was asked last
        self.wanted = 0.0  # at once, by who waits for a draw
        self.drawing = False
        self.drawn: asyncio.Future[None] | None = None  # of the draw that somebody waits for
        self.next_draw = 0.0

    @property
    def whole(self) -> float:
        """Tokens left on all nodes together, as far as it is known here."""
        return self.held - self.advanced + self.left

    def settle(self) -> None:
        """A draw has ended, for better or worse: who waits for it goes on."""
        self.drawing, self.wanted = False, 0.0
        drawn, self.drawn = self.drawn, None
        if drawn is not None:
            drawn.set_result(None)

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
        self.waits = 0
        self._clock = clock
        self._quotas = quotas
        self._count = nodes
        self._nodes = 1
        self._away = False  # the last draw failed
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

        Raises `TooManyRequests` where one has too little, and `NotYet` where that is not known yet; then nothing is paid.
        """
        cost, now = self.limits.costs.get(kind, 1.0), self._clock.monotonic()
        paying = self._paying(cost, now, user, address, connection)
        if not cost:
            return None
        try:
            self._check(paying, cost, now)
        except TooManyRequests as refusal:
            self.refused[refusal.scope] += 1
            raise
        except NotYet:
            self.waits += 1
            raise
        scarcest: Standing | None = None
        for scope, bucket, drawn in paying:
            if drawn:
                bucket.held -= min(cost, bucket.rate.burst)
                left = bucket.whole
            else:
                bucket.spend_alone(cost, now, self._share(scope))
                left = bucket.alone(now, self._share(scope))
            standing = Standing(scope, max(0.0, min(left, bucket.rate.burst)), bucket.rate)
            if scarcest is None or standing.share < scarcest.share:
                scarcest = standing
        return scarcest

    def affords(self, kind: str, *, user: str = "", address: str = "", connection: Bucket | None = None) -> bool:
        """Whether `take` would raise nothing now. Nothing is paid, and no refusal counted: whoever asks goes on to that."""
        cost, now = self.limits.costs.get(kind, 1.0), self._clock.monotonic()
        try:
            self._check(self._paying(cost, now, user, address, connection), cost, now)
        except (TooManyRequests, NotYet):
            return False
        return True

    def _paying(
        self, cost: float, now: float, user: str, address: str, connection: Bucket | None
    ) -> list[tuple[str, Bucket, bool]]:
        """The buckets that count, and whether each is drawn from what the nodes share."""
        paying: list[tuple[str, Bucket, bool]] = []
        if connection is not None:
            paying.append((CONNECTION, connection, False))
        shared = self._quotas is not None and not self._away
        for scope, name in ((USER, user), (ADDRESS, address)):
            if name and scope in self.limits.scopes:
                paying.append((scope, self._bucket(scope, name, now, cost), shared))
        return paying

    def _check(self, paying: Sequence[tuple[str, Bucket, bool]], cost: float, now: float) -> None:
        """Raises what `take` does."""
        unknown: Bucket | None = None
        for scope, bucket, drawn in paying:
            left = bucket.held if drawn else bucket.alone(now, self._share(scope))
            if left + HAIR >= min(cost, bucket.rate.burst * (1.0 if drawn else self._share(scope))):
                continue
            if drawn and bucket.drawing:
                unknown = bucket
                continue
            raise self._refusal(scope, bucket, cost, now, shared=drawn)
        if unknown is not None:
            if unknown.drawn is None:
                unknown.drawn = asyncio.get_running_loop().create_future()
            raise NotYet(unknown.drawn)

    async def taken(self, kind: str, *, user: str = "", address: str = "") -> None:
        """Pay as `take` does, once it is known whether it can be paid. Raises `TooManyRequests`."""
        while True:
            try:
                self.take(kind, user=user, address=address)
            except NotYet as not_yet:
                await asyncio.shield(not_yet.drawn)  # others wait for it, too
            else:
                return

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
            "waits": self.waits,
            "away": self._away,
            "refused": dict(self.refused),
        }

    def _bucket(self, scope: str, name: str, now: float, cost: float) -> Bucket:
        key = scope, name
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self.limits.scopes[scope], self.limits.chunk)
            if len(self._buckets) > self.limits.max_buckets:
                self._buckets.popitem(last=False)  # the one that was used the longest ago
                self.evicted += 1
        else:
            self._buckets.move_to_end(key)
        if self._quotas is None:
            return bucket
        needed = min(cost, bucket.rate.burst)
        if bucket.held < needed:
            bucket.wanted = max(bucket.wanted, needed)
        wants = self._away or bucket.advanced or bucket.held < max(bucket.wanted, bucket.chunk / 2)
        if wants and not bucket.drawing and now >= max(bucket.next_draw, self._away_until):
            bucket.drawing = True
            self._wanting[key] = bucket
            self._woken.set()
        return bucket

    def _share(self, scope: str) -> float:
        """The part of the rate that is this node's while it draws nothing."""
        return 1.0 if self._quotas is None or scope == CONNECTION else 1.0 / self._nodes

    def _refusal(self, scope: str, bucket: Bucket, cost: float, now: float, *, shared: bool) -> TooManyRequests:
        rate, share = bucket.rate, self._share(scope)
        left = max(0.0, bucket.whole) if shared else bucket.alone(now, share)
        wait = (min(cost, rate.burst) - left) / (rate.rate * (1.0 if shared else share))
        if shared:
            wait = max(wait, bucket.next_draw - now)
        standing = Standing(scope, left, rate)
        return TooManyRequests(
            scope, round(rate.burst), int(left + HAIR), standing.full_in, rate.window, retry_after=max(0.001, round(wait, 3))
        )

    async def _lane(self) -> None:
        try:
            while True:
                while not self._wanting:
                    self._woken.clear()
                    await self._woken.wait()
                (scope, name), bucket = self._wanting.popitem(last=False)
                try:
                    await self._draw(scope, name, bucket)
                finally:
                    bucket.settle()
        finally:  # the node ends: nobody is to wait for what is not drawn any more
            self._away, self._away_until = True, math.inf
            while self._wanting:
                self._wanting.popitem()[1].settle()

    async def _draw(self, scope: str, name: str, bucket: Bucket) -> None:
        """Fill what is held here up to a chunk, or what is wanted, once what was advanced is paid."""
        assert self._quotas is not None
        rate = bucket.rate
        asked = max(bucket.chunk, bucket.wanted) - bucket.held + bucket.advanced
        try:
            drawn = await self._quotas.draw(f"{scope}:{name}", asked=asked / rate.rate, most=rate.window)
        except Unavailable as exc:
            if not self._away:
                _log.warning("quotas cannot be drawn, each node takes its share: %s", exc)
            self._away, self._away_until = True, self._clock.monotonic() + _AWAY_FOR
            self.failed += 1
            return
        self._away = False
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
