"""The job book: jobs as they are begun, told of and cancelled, whichever node runs them.

The sweep of an invalidation is a job too, told from what is kept with its pattern, and kept as others are when that is
retired; it cannot be cancelled, since what it sweeps is dead already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import orjson
import xxhash

from cachesvc.engine.invalidate import job_of
from cachesvc.model.invalidation import InForce
from cachesvc.model.job import Job, JobState
from cachesvc.ports import Burial, Clock, Jobs

INVALIDATION: Final = "invalidation"
_SWEEP: Final = "invalidation-"  # what the id of a sweep begins with


class JobStore(Jobs, Protocol):
    """What is needed of the authority."""

    async def burials(self) -> Mapping[InForce, Burial]: ...


class Begun(NamedTuple):
    """A job, and whether it was there already."""

    job: Job
    known: bool


class JobBook:
    """All jobs of a site. `begun` is called when there is a new one to take."""

    def __init__(
        self, store: JobStore, clock: Clock, *, new_id: Callable[[], str], most: int, begun: Callable[[], None] = lambda: None
    ) -> None:
        self.cancelled = 0  # jobs that were cancelled here
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._most = most
        self._begun = begun

    async def begin(self, kind: str, title: str, body: bytes, *, what: object, place: str = "") -> Begun:
        """A new job, or the one that does the same and has not ended. `what` is what it does, whatever the pace.

        Raises `Overloaded`.
        """
        now = self._clock.now()
        same = xxhash.xxh3_128_hexdigest(orjson.dumps([kind, what]))
        name = f"{kind}-{self._new_id()}"
        job = Job(name, kind, title, same, place, created_at=now, updated_at=now)
        kept = await self._store.add_job(job, body, most=self._most)
        self._begun()
        return Begun(kept, kept.id != name)

    async def find(self, name: str) -> Job | None:
        sweeps = await self._sweeps() if name.startswith(_SWEEP) else ()
        return next((job for job in sweeps if job.id == name), None) or await self._store.find_job(name)

    async def newest(self, *, limit: int) -> list[Job]:
        """Jobs, newest first."""
        kept = {job.id: job for job in await self._store.list_jobs(limit=limit)}
        jobs = kept | {job.id: job for job in await self._sweeps()}
        return sorted(jobs.values(), key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def cancel(self, name: str) -> Job | None:
        """End a job that has not ended; how it stands then, None where there is none. A sweep goes on."""
        while True:
            job = await self.find(name)
            if job is None or job.state.ended or job.kind == INVALIDATION:
                return job
            cancelled = job.ended(JobState.CANCELLED, self._clock.now())
            if await self._store.move_job(cancelled):
                self.cancelled += 1
                return cancelled

    async def _sweeps(self) -> list[Job]:
        now = self._clock.now()
        return [sweep_of(one, burial, now) for one, burial in (await self._store.burials()).items()]


def sweep_of(one: InForce, burial: Burial, now: float) -> Job:
    """The sweep of an invalidation, as a job."""
    done = burial.done or one.retired > 0
    ended_at = (burial.ended_at or one.at) if done else None
    return Job(
        job_of(one),
        INVALIDATION,
        f"{'soft ' if one.soft else ''}sweep of {one.pattern.text}",
        state=JobState.DONE if done else JobState.RUNNING,
        created_at=one.at,
        started_at=one.at,
        updated_at=ended_at or now,
        ended_at=ended_at,
        done=burial.looked,
        total=burial.looked if done else None,
        counts={"buried": burial.buried},
        revision=burial.looked + done,
    )
