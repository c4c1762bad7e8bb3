"""Jobs, as the authority keeps them: durable as it is, seen and moved by every node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cachesvc.model.job import Job


class Jobs(Protocol):
    """Where jobs are kept. Every call raises `TierUnavailable`."""

    async def add_job(self, job: Job, body: bytes, *, most: int) -> Job:
        """Keep a new job, or return the one that does the same and has not ended.

        Raises `Overloaded` when `most` have not ended.
        """
        ...

    async def keep_job(self, job: Job) -> None:
        """Keep a job that has ended already; of one that is kept nothing changes."""
        ...

    async def move_job(self, job: Job) -> bool:
        """Write a job over the revision before its own; False when that is not what is kept. One that ended loses its body."""
        ...

    async def find_job(self, name: str) -> Job | None: ...

    async def job_body(self, name: str) -> bytes | None:
        """What a job is to do; None when it has ended, or is not known."""
        ...

    async def list_jobs(self, *, limit: int) -> Sequence[Job]:
        """The newest jobs, newest first."""
        ...

    async def open_jobs(self) -> Sequence[Job]:
        """Those that have not ended, oldest first."""
        ...

    async def forget_jobs(self, *, before: float, most: int) -> int:
        """Forget jobs that ended before a time, and ended ones over `most`, the oldest first; how many."""
        ...
