"""Jobs of the memory authority: kept as long as the process lives, as everything of it is."""

from __future__ import annotations

from collections.abc import Sequence

from cachesvc.model.job import Job, forgotten, twin


class MemoryJobs:
    """`ports.Jobs`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._bodies: dict[str, bytes] = {}

    async def add_job(self, job: Job, body: bytes, *, most: int) -> Job:
        held = twin(await self.open_jobs(), job, most=most)
        if held is not None:
            return held
        self._jobs[job.id] = job
        self._bodies[job.id] = body
        return job

    async def keep_job(self, job: Job) -> None:
        self._jobs.setdefault(job.id, job)

    async def move_job(self, job: Job) -> bool:
        held = self._jobs.get(job.id)
        if held is None or held.revision != job.revision - 1:
            return False
        self._jobs[job.id] = job
        if job.state.ended:
            self._bodies.pop(job.id, None)
        return True

    async def find_job(self, name: str) -> Job | None:
        return self._jobs.get(name)

    async def job_body(self, name: str) -> bytes | None:
        return self._bodies.get(name)

    async def list_jobs(self, *, limit: int) -> Sequence[Job]:
        return sorted(self._jobs.values(), key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def open_jobs(self) -> Sequence[Job]:
        return [job for job in self._jobs.values() if not job.state.ended]

    async def forget_jobs(self, *, before: float, most: int) -> int:
        names = forgotten(self._jobs.values(), before=before, most=most)
        for name in names:
            del self._jobs[name]
        return len(names)
