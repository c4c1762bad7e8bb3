"""Jobs in Redis: one hash of the jobs, one of their bodies, one of those that have not ended and what they do.

A job begins with its revision in 16 digits, so that a script compares it without reading the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cachesvc.errors import Overloaded
from cachesvc.logs.redis_rows import Names
from cachesvc.logs.redis_server import Server
from cachesvc.model.job import Job, forgotten, pack_job, unpack_job

DIGITS: Final = 16


class RedisJobs:
    """`ports.Jobs`."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names

    async def add_job(self, job: Job, body: bytes, *, most: int) -> Job:
        said = (job.id, _packed(job), body, job.same, most)
        held = await self._server.run("job_add", (self._names.jobs, self._names.job_bodies, self._names.open_jobs), said)
        if held is None:
            raise Overloaded(f"{most} jobs wait or run, which is the limit", retry_after=5.0)
        return _unpacked(held)

    async def keep_job(self, job: Job) -> None:
        await self._server.ask("HSETNX", self._names.jobs, job.id, _packed(job))

    async def move_job(self, job: Job) -> bool:
        names = self._names
        said = (job.id, _packed(job), f"{job.revision - 1:0{DIGITS}d}", int(job.state.ended))
        return bool(await self._server.run("job_move", (names.jobs, names.job_bodies, names.open_jobs), said))

    async def find_job(self, name: str) -> Job | None:
        held = await self._server.ask("HGET", self._names.jobs, name)
        return _unpacked(held) if held is not None else None

    async def job_body(self, name: str) -> bytes | None:
        body: bytes | None = await self._server.ask("HGET", self._names.job_bodies, name)
        return body

    async def list_jobs(self, *, limit: int) -> Sequence[Job]:
        return sorted(await self._all(), key=lambda job: (job.created_at, job.id), reverse=True)[:limit]

    async def open_jobs(self) -> Sequence[Job]:
        names = await self._server.ask("HKEYS", self._names.open_jobs)
        held = await self._server.ask("HMGET", self._names.jobs, *names) if names else []
        return sorted((_unpacked(job) for job in held if job is not None), key=lambda job: (job.created_at, job.id))

    async def forget_jobs(self, *, before: float, most: int) -> int:
        names = forgotten(await self._all(), before=before, most=most)
        return int(await self._server.ask("HDEL", self._names.jobs, *names)) if names else 0

    async def _all(self) -> list[Job]:
        return [_unpacked(held) for held in await self._server.ask("HVALS", self._names.jobs)]


def _packed(job: Job) -> bytes:
    return b"%016d%b" % (job.revision, pack_job(job))


def _unpacked(held: bytes) -> Job:
    return unpack_job(held[DIGITS:])
