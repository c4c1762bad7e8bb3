"""Two sides of a comparison, measured in turns in one process, so that a noisy machine is noisy for both."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Row:
    """A row of the table: what is compared, with whom, and the ratio it should reach."""

    work: str
    ours: Side
    theirs: Side
    goal: float

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.ours.rates, self.theirs.rates, strict=True))

    def markdown(self) -> str:
        said = "" if self.ratio >= self.goal else " **short**"
        ours, theirs = self.ours, self.theirs
        return (
            f"| {self.work} | {ours.rate:,.0f} ± {ours.spread:.0%} | {theirs.name}: {theirs.rate:,.0f} ± {theirs.spread:.0%} "
            f"| {self.ratio:.2f} × | {self.goal:g} ×{said} |"
        )


@dataclass(slots=True)
class Bounded:
    """A row that is no race: what was measured, in words, and how many times it is within its bound (or over it)."""

    work: str
    ours: str
    bound: str
    ratio: float
    goal: float = 1.0

    def markdown(self) -> str:
        said = "" if self.ratio >= self.goal else " **short**"
        return f"| {self.work} | {self.ours} | {self.bound} | {self.ratio:.2f} × | {self.goal:g} ×{said} |"


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
