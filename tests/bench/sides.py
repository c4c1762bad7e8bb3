"""Two sides of a comparison, measured in turns in one process, so that a noisy machine is noisy for both."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def on_the_other_core() -> Iterator[None]:
    """What is started meanwhile, the servers, gets the last core; the one who asks, the client of both sides, the first."""
    os.sched_setaffinity(0, CORES[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES[:1])


@dataclass(slots=True)
class Side:
    """One of the two: `run(seconds)` works for about so long and returns how many operations it did."""

    name: str
    run: Callable[[float], Awaitable[int]]
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median of its rounds, in operations a second."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Half of what lies between its slowest and its fastest round, as a share of the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.rate


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it is told: no ratio where it was not measured, goal 0 where none is set."""

    work: str
    ours: str
    against: str
    ratio: float | None
    goal: float

    def markdown(self) -> str:
        ratio = f"{self.ratio:.2f} ×" if self.ratio is not None else "—"
        said = " **short**" if self.ratio is not None and self.ratio < self.goal else ""
        return f"| {self.work} | {self.ours} | {self.against} | {ratio} | {f'{self.goal:g} ×' if self.goal else '—'}{said} |"


@dataclass(slots=True)
class Row:
    """A row of the table: what is compared, with whom, and the ratio it should reach; 0 where none is set."""

    work: str
    ours: Side
    theirs: Side
    goal: float

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.ours.rates, self.theirs.rates, strict=True))

    def line(self) -> Line:
        ours, theirs = (f"{side.rate:,.0f} ± {side.spread:.0%}" for side in (self.ours, self.theirs))
        return Line(self.work, ours, f"{self.theirs.name}: {theirs}", self.ratio, self.goal)


@dataclass(frozen=True, slots=True)
class Missing:
    """A row that cannot be measured here, and why."""

    work: str
    why: str

    def line(self) -> Line:
        return Line(self.work, "not measured", self.why, None, 0.0)


@dataclass(slots=True)
class Bounded:
    """A row that is no race: what was measured, in words, and how many times it is within its bound (or over it)."""

    work: str
    ours: str
    bound: str
    ratio: float
    goal: float = 1.0

    def line(self) -> Line:
        return Line(self.work, self.ours, self.bound, self.ratio, self.goal)


@dataclass(slots=True)
class Curve:
    """What something costs at each of several sizes. `bound` says how it may grow: as the logarithm, or in proportion."""

    HEADER: ClassVar[str] = "| cost of | against the number of | at each | grows as | at most as |\n|---|---|---|---|---|"

    work: str
    against: str
    unit: str = "µs"
    bound: str = "log"
    points: list[tuple[int, float]] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """The exponent of the power of the size that the cost grows with, between the first point and the last."""
        (x, first), (y, last) = next(point for point in self.points if point[0]), self.points[-1]
        return math.log(last / first) / math.log(y / x)

    @property
    def within(self) -> bool:
        """Whether it grows no faster than it may, give or take a quarter."""
        (x, first), (y, last) = next(point for point in self.points if point[0]), self.points[-1]
        allowed = math.log(y) / math.log(x) if self.bound == "log" and x > 1 else y / x
        return last / first <= 1.25 * allowed

    def markdown(self) -> str:
        costs = ", ".join(f"{x:,}: {cost:,.2f}" for x, cost in self.points)
        said = "" if self.within else " **more**"
        return f"| {self.work} | {self.against} | {costs} {self.unit} | size^{self.growth:.2f} | {self.bound}{said} |"


HEADER = "| work | ours, 1/s | against, 1/s | ratio | goal |\n|---|---|---|---|---|"


async def compare(row: Row, *, rounds: int, seconds: float) -> Row:
    """Measure both sides in turns, after one short round each that does not count."""
    for side in (row.ours, row.theirs):
        await side.run(seconds / 4)
    for _ in range(rounds):
        for side in (row.ours, row.theirs):
            began = time.perf_counter()
            done = await side.run(seconds)
            side.rates.append(done / (time.perf_counter() - began))
    return row


async def by_many(callers: int, seconds: float, call: Callable[[int], Awaitable[object]]) -> int:
    """`callers` tasks that each call again and again for so long; `call` is given a running number."""
    until = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            done += 1
            await call(done)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return done
