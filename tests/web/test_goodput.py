"""Goodput of the real admission in front of a worker that is only reckoned: what it answers in time of what is offered.

The worker works as uvloop has it: a turn reads what has come, up to a thousand, then begins what it read; meanwhile more comes.
Its clients give up after a second, which it does not know. Time is virtual, so that nothing here depends on the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

import pytest

from cachesvc.web.admission import Admission
from tests.fakes import FakeClock

PATIENCE = 1.0
AT_ONCE = 1_024  # events of one look at the sockets
CONNECTIONS = 2_000
SETTLE, SECONDS = 2.0, 8.0


@dataclass(frozen=True)
class Worker:
    """Seconds to answer a request and to refuse one, and by how much others hold up one in fifty turns, at most."""

    answers: float
    refuses: float
    held_up: float = 0.0


async def goodput(worker: Worker, load: float, *, seed: int = 1) -> float:
    """Answered in time, as a share of what it could answer if it did nothing else; `load` as a multiple of that."""
    rng = random.Random(seed)
    clock = FakeClock()
    admission = Admission(clock)
    waiting: deque[float] = deque()
    taken: list[float] = []
    pause = worker.answers / load
    coming = 0.0
    good = 0
    while (now := clock.monotonic()) < SETTLE + SECONDS:
        await asyncio.sleep(0)  # what admission has scheduled
        for came in taken:
            clock.advance(worker.answers)
            good += came >= SETTLE and clock.monotonic() - came <= PATIENCE
        taken.clear()
        if rng.random() < 0.02:
            clock.advance(rng.random() * worker.held_up)
        now = clock.monotonic()
        while coming <= now:
            if len(waiting) < CONNECTIONS:
                waiting.append(coming)
            coming += pause
        if not waiting:
            clock.advance(max(1e-5, coming - now))
        for _ in range(min(AT_ONCE, len(waiting))):
            came = waiting.popleft()
            if admission.admits(writing=False):
                taken.append(came)
            else:
                clock.advance(worker.refuses)
    return good * worker.answers / SECONDS


USUAL = Worker(answers=0.000_4, refuses=0.000_025)
SLOW = Worker(answers=0.002, refuses=0.000_1)
HELD_UP = Worker(answers=0.002, refuses=0.000_1, held_up=0.3)


@pytest.mark.parametrize("worker", [USUAL, SLOW, HELD_UP], ids=["usual", "slow", "held up by others"])
async def test_past_saturation_four_fifths_of_the_peak_are_left(worker: Worker) -> None:
    peak = max([await goodput(worker, load) for load in (0.5, 0.9, 1.0)])
    assert peak > 0.7
    assert await goodput(worker, 2.0) >= 0.8 * peak
    # refusing the rest costs what it costs
    spent = 3 * worker.refuses / worker.answers
    assert await goodput(worker, 4.0) >= 0.8 * peak * (1 - spent)


async def test_what_it_can_carry_is_not_refused() -> None:
    assert await goodput(USUAL, 0.9) == pytest.approx(0.9, rel=0.01)
