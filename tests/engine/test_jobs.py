"""The job book: what is kept of jobs, and the sweeps that are told from what is kept with their patterns."""

from __future__ import annotations

from collections.abc import Mapping

from cachesvc.engine.jobs import JobBook, sweep_of
from cachesvc.logs.memory_jobs import MemoryJobs
from cachesvc.model.invalidation import InForce, in_force
from cachesvc.model.job import Job, JobState
from cachesvc.model.position import Seq
from cachesvc.ports import Burial
from tests.fakes import FakeClock

SWEPT = in_force(Seq(5), "zz*", at=1.0)
DONE = Burial(done=True, looked=7, buried=2, ended_at=2.0)


class Store(MemoryJobs):
    def __init__(self) -> None:
        super().__init__()
        self.in_force: dict[InForce, Burial] = {}

    async def burials(self) -> Mapping[InForce, Burial]:
        return self.in_force


async def test_a_sweep_is_told_once_and_still_when_its_pattern_is_forgotten() -> None:
    store, clock = Store(), FakeClock()
    book = JobBook(store, clock, new_id=lambda: "1", most=10)
    other = (await book.begin("warm", "all", b"", what="all")).job
    store.in_force[SWEPT] = Burial(done=False, looked=3)
    running = await book.find("invalidation-5")
    assert running is not None
    assert (running.state, running.done) == (JobState.RUNNING, 3)
    store.in_force[SWEPT] = DONE
    await store.keep_job(sweep_of(SWEPT, DONE, clock.now()))
    told = await listed(book)
    store.in_force.clear()
    assert await listed(book) == told
    assert told.keys() == {other.id, "invalidation-5"}
    swept = await book.find("invalidation-5")
    assert swept == told["invalidation-5"]
    assert (swept.state, swept.total, swept.counts, swept.ended_at) == (JobState.DONE, 7, {"buried": 2}, 2.0)
    assert await book.cancel("invalidation-5") == swept
    assert await book.find("invalidation-6") is None


async def test_what_was_cancelled_is_counted_once() -> None:
    book = JobBook(Store(), FakeClock(), new_id=lambda: "1", most=10)
    job = (await book.begin("warm", "all", b"", what="all")).job
    for _ in range(2):
        cancelled = await book.cancel(job.id)
        assert cancelled is not None
        assert (cancelled.state, book.cancelled) == (JobState.CANCELLED, 1)


async def listed(book: JobBook) -> dict[str, Job]:
    jobs = await book.newest(limit=10)
    assert len({job.id for job in jobs}) == len(jobs)
    return {job.id: job for job in jobs}
