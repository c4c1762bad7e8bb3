"""Admission: who is let in when more is asked for than a node carries. No time is measured: the clock stands still."""

from __future__ import annotations

import asyncio

from cachesvc.web.admission import LEAST_ROOM, LEAST_SHARE, WINDOW, Admission, AdmissionLimits
from tests.fakes import FakeClock

LATE = 0.5


async def turn(admission: Admission, clock: FakeClock, *, takes: float, asked: int = 100, writing: bool = False) -> int:
    """So many requests read in one turn of the event loop, which then takes so long; how many were let in.

    It follows the one before at once if that was late, as it does where more is asked for than can be done.
    """
    if not takes:
        clock.advance(WINDOW)
    let_in = sum(admission.admits(writing=writing) for _ in range(asked))
    await asyncio.sleep(0)
    clock.advance(takes)
    await asyncio.sleep(0)
    return let_in


async def test_a_burst_is_no_overload() -> None:
    clock = FakeClock()
    admission = Admission(clock)
    for _ in range(5):
        assert await turn(admission, clock, takes=LATE) == 100
        for _ in range(3):
            assert await turn(admission, clock, takes=0.0) == 100
    assert admission.stats()["shed"] == 0


async def test_delay_that_lasts_lets_fewer_in_and_its_end_all_again() -> None:
    clock = FakeClock()
    admission = Admission(clock)
    let_in = [await turn(admission, clock, takes=LATE) for _ in range(30)]
    assert let_in[:2] == [100, 100]
    assert let_in[5] <= 50
    assert let_in[-1] == 100 * LEAST_SHARE
    assert admission.shedding
    let_in = [await turn(admission, clock, takes=0.0) for _ in range(30)]
    assert let_in == sorted(let_in)
    assert let_in[-1] == 100
    assert admission.stats()["shed"] == admission.reads.shed > 0


async def test_turns_that_follow_one_another_at_once_are_no_silence() -> None:
    """As uvloop has it: what a turn has read is begun after the end of the turn before was noted, and takes its time."""
    clock = FakeClock()
    admission = Admission(clock)
    let_in = []
    for _ in range(30):
        await asyncio.sleep(0)
        clock.advance(LATE)
        let_in.append(sum(admission.admits(writing=False) for _ in range(100)))
    assert let_in[-1] == 100 * LEAST_SHARE


async def test_a_turn_takes_up_no_more_than_it_can_begin_soon() -> None:
    clock = FakeClock()
    admission = Admission(clock)
    assert await turn(admission, clock, takes=LATE) == 100  # so one costs 5 ms
    assert await turn(admission, clock, takes=WINDOW / 2, asked=1_000) == 101
    assert admission.reads.shed == 899
    for _ in range(30):  # it costs less now
        await turn(admission, clock, takes=0.01)
    assert await turn(admission, clock, takes=WINDOW / 2, asked=1_000) == 1_000
    await turn(admission, clock, takes=LATE, asked=20)
    clock.advance(60.0)
    assert await turn(admission, clock, takes=LATE, asked=1_000) == 1_000  # a burst


async def test_few_are_always_taken_up() -> None:
    clock = FakeClock()
    admission = Admission(clock)
    assert [await turn(admission, clock, takes=10.0, asked=20) for _ in range(2)] == [20, LEAST_ROOM]


async def test_turns_of_few_requests_are_no_overload_however_long_they_take() -> None:
    """A machine that gives a node no core for moments, again and again."""
    clock = FakeClock()
    admission = Admission(clock)
    few = LEAST_ROOM - 1
    assert [await turn(admission, clock, takes=LATE, asked=few) for _ in range(30)] == [few] * 30
    assert not admission.shedding


async def test_after_a_silence_all_are_let_in() -> None:
    clock = FakeClock()
    admission = Admission(clock)
    for _ in range(30):
        await turn(admission, clock, takes=LATE)
    assert admission.shedding
    clock.advance(60.0)
    assert await turn(admission, clock, takes=0.0) == 100


async def test_a_log_that_falls_behind_keeps_out_writes_only() -> None:
    clock = FakeClock()
    admission = Admission(clock, writes_delay=lambda: LATE)
    for _ in range(20):
        await turn(admission, clock, takes=WINDOW / 2, writing=True)
    assert await turn(admission, clock, takes=WINDOW / 2, writing=True) < 20
    assert await turn(admission, clock, takes=WINDOW / 2) == 100


def test_in_progress_are_only_so_many() -> None:
    async def ask() -> None:
        admission = Admission(FakeClock(), AdmissionLimits(max_requests=3))
        admission.tasks = range(3)
        assert not admission.admits(writing=False)
        admission.tasks = range(2)
        assert admission.admits(writing=False)
        assert admission.stats()["crowdedOut"] == 1

    asyncio.run(ask())
