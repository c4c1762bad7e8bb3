"""Jobs: carried out by whichever node takes one, under a lease, and gone on with by another when that node is gone.

The rule that must not break: what a job has done is kept with where it goes on, in one step; so it is gone on with from
there, whoever does it. A node that lost the lease, or whose job was cancelled, finds the revision moved and stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from cachesvc.errors import CacheError, Unavailable
from cachesvc.model.job import Job, JobState
from cachesvc.ports import Clock, Jobs, Registry

_log = logging.getLogger(__name__)
_TOLD_EVERY: Final = 0.25  # seconds: how far a job has come is kept no more often

Work = Callable[[Job, bytes], AsyncGenerator[Job, None]]  # the job, and its body; each job that it yields has come further


class JobStore(Jobs, Registry, Protocol):
    """What is needed of the authority."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Jobs that a node runs at once; when they are looked for; how long ended ones are kept."""

    at_once: int = 2
    poll: float = 1.0
    lease: float = 5.0
    kept_for: float = 86_400.0
    kept: int = 1_000
    unreached: float = 3_600.0  # a job that no node can run fails after so many seconds
    max_attempts: int = 5  # nodes that may go while they run a job, which comes no further meanwhile, before it fails


class JobRunner:
    """Looks for open jobs and carries them out; `works` are the kinds it knows, `place` what it has at hand."""

    def __init__(
        self,
        store: JobStore,
        works: Mapping[str, Work],
        clock: Clock,
        *,
        node: str,
        place: str,
        limits: JobLimits | None = None,
    ) -> None:
        self.limits = limits or JobLimits()
        self.ended = {JobState.DONE.value: 0, JobState.FAILED.value: 0}  # cancelled they are by the job book
        self.resumed = 0  # jobs that this node took while another was said to run them
        self._store = store
        self._works = works
        self._clock = clock
        self._node = node
        self._place = place
        self._running: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()

    @property
    def running(self) -> int:
        """How many run on this node."""
        return len(self._running)

    def wake(self) -> None:
        """There may be a job to take."""
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._look(group)
                except Unavailable as exc:
                    _log.debug("jobs wait: %s", exc)
                try:
                    async with asyncio.timeout(self.limits.poll):
                        await self._woken.wait()
                except TimeoutError:
                    continue
                self._woken.clear()

    async def forget(self) -> None:
        """Forget what ended long ago, and fail what nobody can run."""
        now = self._clock.now()
        await self._store.forget_jobs(before=now - self.limits.kept_for, most=self.limits.kept)
        for job in await self._store.open_jobs():
            if job.place and job.updated_at < now - self.limits.unreached:
                reason = f"what it needs is on {job.place}, and no node there went on with it"
                await self._end(job, JobState.FAILED, reason)

    async def _look(self, group: asyncio.TaskGroup) -> None:
        if len(self._running) >= self.limits.at_once:
            return
        for job in await self._store.open_jobs():
            if len(self._running) >= self.limits.at_once:
                return
            if job.id in self._running or job.kind not in self._works or job.place not in ("", self._place):
                continue
            if await self._holds(_lease(job)):
                self._running[job.id] = group.create_task(self._hold(job.id), name=f"job {job.id}")

    async def _hold(self, name: str) -> None:
        """Carry a job out for as long as its lease is held."""
        lease = f"job {name}"
        try:
            async with asyncio.TaskGroup() as group:
                ends = [group.create_task(self._carry_out(name)), group.create_task(self._renew(lease))]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in ends:
                    task.cancel()
        finally:
            try:
                await self._store.release([lease], self._node)
            except Unavailable:
                _log.info("the lease of job %s could not be released; it runs out", name)
            finally:  # not before: taken again meanwhile, it would lose its new lease
                del self._running[name]
                self._woken.set()

    async def _renew(self, lease: str) -> None:
        """Until the lease is lost."""
        held_until = self._clock.monotonic() + self.limits.lease
        while self._clock.monotonic() < held_until:
            await self._clock.sleep(self.limits.lease / 3)
            asked = self._clock.monotonic()
            try:
                if not await self._holds(lease):
                    return
                held_until = asked + self.limits.lease
            except Unavailable as exc:
                _log.debug("the %s is not renewed: %s", lease, exc)

    async def _holds(self, lease: str) -> bool:
        return not (await self._store.acquire([lease], self._node, self.limits.lease))[lease]

    async def _carry_out(self, name: str) -> None:
        try:
            await self._steps(name)
        except Unavailable as exc:  # it stays open, and is taken again
            _log.info("job %s waits: %s", name, exc)
            await self._clock.sleep(self.limits.poll)

    async def _steps(self, name: str) -> None:
        job = await self._store.find_job(name)
        body = await self._store.job_body(name)
        if job is None or body is None or job.state.ended:
            return
        now = self._clock.now()
        if job.state is JobState.RUNNING:  # whoever ran it put it back neither ended nor waiting
            self.resumed += 1
            if job.attempts >= self.limits.max_attempts:
                reason = f"{job.attempts} times the node that ran it was gone before it came any further"
                await self._end(job, JobState.FAILED, reason)
                return
        kept = job.moved(now)._replace(
            state=JobState.RUNNING, node=self._node, started_at=job.started_at or now, attempts=job.attempts + 1
        )
        if not await self._store.move_job(kept):
            return
        reached = kept
        due = self._clock.monotonic() + _TOLD_EVERY
        state, reason = JobState.DONE, ""
        try:
            async with aclosing(self._works[job.kind](kept, body)) as steps:
                async for reached in steps:
                    # all of it done is always kept: what the work does after that, such as to tidy up, it may do but once
                    if self._clock.monotonic() >= due or reached.done == reached.total:
                        kept = reached._replace(revision=kept.revision, attempts=0).moved(self._clock.now())
                        if not await self._store.move_job(kept):
                            _log.info("job %s was ended, or taken over", name)
                            return
                        due = self._clock.monotonic() + _TOLD_EVERY
        except Unavailable:
            # nothing of it is the job's fault: it waits, as if it had not been begun
            waiting = reached._replace(revision=kept.revision, state=JobState.WAITING, attempts=0)
            await self._store.move_job(waiting.moved(self._clock.now()))
            raise
        except CacheError as exc:
            state, reason = JobState.FAILED, str(exc)
        except Exception:  # noqa: BLE001 - a job that breaks fails alone
            _log.exception("job %s could not be carried out", name)
            state, reason = JobState.FAILED, "could not be carried out; the log has why"
        await self._end(reached._replace(revision=kept.revision), state, reason)

    async def _end(self, job: Job, state: JobState, reason: str) -> None:
        if await self._store.move_job(job.ended(state, self._clock.now(), reason=reason)):
            self.ended[state.value] += 1


def _lease(job: Job) -> str:
    return f"job {job.id}"
