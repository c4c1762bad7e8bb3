"""The runner of jobs, over the jobs and leases of a memory authority, with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cachesvc.cluster.jobs import JobLimits, JobRunner, Work
from cachesvc.engine.jobs import JobBook
from cachesvc.errors import JobFailed, TierUnavailable, Unavailable
from cachesvc.logs.memory import MemoryAuthority
from cachesvc.model.fold_state import Terms
from cachesvc.model.job import MAX_ERRORS, Job, JobState
from cachesvc.tiers.memory import MemoryTier
from tests.fakes import FakeClock

LIMITS = JobLimits(at_once=2, poll=0.01, lease=5.0)


class Store(MemoryAuthority):
    """One that a node may lose touch with: then it neither renews nor gives up its leases."""

    def __init__(self, clock: FakeClock) -> None:
        rows = MemoryTier(ttl=60.0, max_size=100, max_bytes=1 << 20, clock=clock)
        super().__init__(rows, terms=Terms(), clock=clock)
        self.lost: set[str] = set()
        self.releasing = asyncio.Event()  # somebody gives leases up
        self.released = asyncio.Event()  # and may
        self.released.set()

    async def acquire(self, leases: Collection[str], holder: str, ttl: float) -> Mapping[str, float]:
        if holder in self.lost:
            raise TierUnavailable("memory", "away")
        return await super().acquire(leases, holder, ttl)

    async def release(self, leases: Collection[str], holder: str) -> None:
        if holder in self.lost:
            raise TierUnavailable("memory", "away")
        self.releasing.set()
        await self.released.wait()
        await super().release(leases, holder)


class Site:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.book = JobBook(self.store, self.clock, new_id=iter("abcdefghij").__next__, most=5)
        self.turn = asyncio.Semaphore(0)  # of a step
        self.steps: list[tuple[str, int]] = []  # node and number
        self.stopped: list[str] = []

    def count(self, node: str) -> Work:
        """Counts to ten, a step a turn, from where it stopped."""

        async def work(job: Job, body: bytes) -> AsyncGenerator[Job, None]:
            try:
                for number in range(int(job.checkpoint or 0), 10):
                    await self.turn.acquire()
                    self.steps.append((node, number))
                    job = job.counted(warmed=1)._replace(checkpoint=str(number + 1), total=10)
                    self.clock.advance(0.3)
                    yield job
            finally:
                self.stopped.append(node)

        return work

    @asynccontextmanager
    async def node(self, name: str, work: Work | None = None, *, place: str = "here") -> AsyncIterator[JobRunner]:
        runner = JobRunner(self.store, {"warm": work or self.count(name)}, self.clock, node=name, place=place, limits=LIMITS)
        running = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def begin(self, what: str = "x", **more: Any) -> Job:
        return (await self.book.begin("warm", "count", b"", what=what, **more)).job

    async def until(self, true: Callable[[Job], bool], name: str) -> Job:
        async with asyncio.timeout(10):
            while True:
                job = await self.book.find(name)
                if job is not None and true(job):
                    return job
                await asyncio.sleep(0)


@pytest.fixture
async def site() -> Site:
    return Site()


def ended(job: Job) -> bool:
    return job.state.ended


async def test_a_job_is_carried_out_and_says_how_far_it_is(site: Site) -> None:
    job = await site.begin()
    assert (job.state, job.done) == (JobState.WAITING, 0)
    async with site.node("a") as runner:
        site.turn.release()
        half = await site.until(lambda job: job.done == 1, job.id)
        assert (half.state, half.node, half.total, half.counts) == (JobState.RUNNING, "a", 10, {"warmed": 1})
        assert half.rate == pytest.approx(1 / 0.3)
        assert half.eta == pytest.approx(9 * 0.3)
        for _ in range(9):
            site.turn.release()
        done = await site.until(ended, job.id)
    assert (done.state, done.done, done.reason, runner.ended["done"]) == (JobState.DONE, 10, "", 1)


async def test_a_job_that_ends_its_nodes_is_given_up(site: Site) -> None:
    job = await site.begin()
    for attempt in range(1, LIMITS.max_attempts + 1):
        async with site.node(f"n{attempt}"):
            await site.until(lambda job, attempt=attempt: job.attempts == attempt, job.id)  # type: ignore[misc]
        site.clock.advance(LIMITS.lease + 1)
    async with site.node("last") as runner:
        failed = await site.until(ended, job.id)
    assert (failed.state, runner.ended["failed"], runner.resumed, site.steps) == (JobState.FAILED, 1, 1, [])
    assert failed.reason == "5 times the node that ran it was gone before it came any further"


async def test_what_comes_further_or_waits_is_not_given_up(site: Site) -> None:
    job = await site.begin()
    for step in range(1, LIMITS.max_attempts + 3):
        async with site.node(f"n{step}"):
            site.turn.release()
            came = await site.until(lambda job, step=step: job.done == step, job.id)  # type: ignore[misc]
            assert came.attempts == 0
        site.clock.advance(LIMITS.lease + 1)

    async def away(job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        raise Unavailable("away")
        yield job

    def tried_often(job: Job) -> bool:
        site.clock.advance(LIMITS.poll)  # what waits is looked at again
        return job.revision > 4 * LIMITS.max_attempts

    other = await site.begin("y")
    async with site.node("away", away):
        tried = await site.until(tried_often, other.id)
        assert not tried.state.ended


async def test_another_node_goes_on_from_where_one_that_is_gone_was(site: Site) -> None:
    job = await site.begin()
    async with site.node("a"):
        for _ in range(4):
            site.turn.release()
        await site.until(lambda job: job.done == 4, job.id)
        site.store.lost.add("a")
        async with site.node("b"):
            for _ in range(4):  # the lease runs out; whoever held it stops by itself
                site.clock.advance(LIMITS.lease / 3 + 0.1)
                await asyncio.sleep(0)
            await site.until(lambda job: job.node == "b", job.id)
            for _ in range(6):
                site.turn.release()
            done = await site.until(ended, job.id)
    assert site.steps == [("a", number) for number in range(4)] + [("b", number) for number in range(4, 10)]
    assert (done.state, done.done, done.counts) == (JobState.DONE, 10, {"warmed": 10})


async def test_a_node_that_closes_leaves_its_jobs_to_others_at_once(site: Site) -> None:
    job = await site.begin()
    async with site.node("a"):
        site.turn.release()
        await site.until(lambda job: job.done == 1, job.id)
    assert site.stopped == ["a"]
    async with site.node("b"):
        site.turn.release()
        assert (await site.until(lambda job: job.done == 2, job.id)).node == "b"


async def test_a_cancelled_job_stops(site: Site) -> None:
    job = await site.begin()
    async with site.node("a"):
        site.turn.release()
        await site.until(lambda job: job.done == 1, job.id)
        cancelled = await site.book.cancel(job.id)
        assert cancelled is not None
        assert (cancelled.state, cancelled.done) == (JobState.CANCELLED, 1)
        site.turn.release()
        async with asyncio.timeout(10):
            while not site.stopped:
                await asyncio.sleep(0)
    assert len(site.steps) == 2
    assert await site.book.find(job.id) == cancelled == await site.book.cancel(job.id)


async def test_one_that_waits_is_cancelled_too(site: Site) -> None:
    job = await site.begin()
    await site.book.cancel(job.id)
    async with site.node("a") as runner:
        site.turn.release()
        other = await site.begin("y")
        runner.wake()
        await site.until(lambda job: job.done == 1, other.id)
    assert len(site.steps) == 1


@pytest.mark.parametrize(
    ("error", "reason"), [(JobFailed("no such node"), "no such node"), (ValueError("?"), "could not be carried out")]
)
async def test_a_job_that_breaks_fails_alone(site: Site, error: Exception, reason: str) -> None:
    async def breaks(job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        yield job.failed_for(("k", "no") for _ in range(MAX_ERRORS + 5))
        raise error

    job = await site.begin()
    async with site.node("a", breaks):
        failed = await site.until(ended, job.id)
    assert failed.state is JobState.FAILED
    assert failed.reason.startswith(reason)
    assert (failed.error_count, len(failed.errors), failed.done) == (MAX_ERRORS + 5, MAX_ERRORS, MAX_ERRORS + 5)


async def test_while_the_authority_is_away_a_job_waits(site: Site) -> None:
    tries = 0

    async def away(job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("away")
        yield job.counted(warmed=1)

    job = await site.begin()
    async with site.node("a", away):
        async with asyncio.timeout(10):
            while (await site.store.find_job(job.id) or job).state is not JobState.DONE:
                site.clock.advance(0.01)
                await asyncio.sleep(0)
    assert tries == 3


async def test_a_job_is_not_taken_again_before_its_lease_is_given_up(site: Site) -> None:
    tries: list[str] = []

    async def waits(job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        tries.append(job.id)
        if len(tries) == 1:
            raise Unavailable("away")
        await site.turn.acquire()
        yield job

    job = await site.begin()
    site.store.released.clear()
    async with site.node("a", waits) as runner, asyncio.timeout(10):
        try:
            while not site.store.releasing.is_set():
                site.clock.advance(LIMITS.poll)
                await asyncio.sleep(0)
            other = await site.begin("y")
            runner.wake()
            while other.id not in tries:
                await asyncio.sleep(0)
            assert tries == [job.id, other.id]  # who looked for the one came by the other first
        finally:
            site.store.released.set()
        while len(tries) < 3:
            await asyncio.sleep(0)
        assert (await site.store.acquire([f"job {job.id}"], "b", LIMITS.lease))[f"job {job.id}"] > 0


async def test_a_node_runs_only_so_many_at_once_and_only_where_they_can_run(site: Site) -> None:
    far = await site.begin("far", place="there")
    jobs = [await site.begin(what) for what in "xyz"]
    async with site.node("a") as runner:
        await site.until(lambda job: job.state is JobState.RUNNING, jobs[1].id)
        assert runner.running == 2
        await site.book.cancel(jobs[0].id)
        site.turn.release()
        site.turn.release()
        await site.until(lambda job: job.state is JobState.RUNNING, jobs[2].id)
        assert (await site.until(lambda _: True, far.id)).state is JobState.WAITING
        site.clock.advance(LIMITS.unreached + 1)
        await runner.forget()
        failed = await site.until(ended, far.id)
    assert failed.state is JobState.FAILED
    assert "there" in failed.reason


async def test_two_who_begin_the_same_share_one(site: Site) -> None:
    first = await site.book.begin("warm", "t", b"", what=["x"])
    second = await site.book.begin("warm", "t", b"", what=["x"])
    other = await site.book.begin("warm", "t", b"", what=["y"])
    assert (first.known, second.known, other.known) == (False, True, False)
    assert first.job == second.job != other.job
