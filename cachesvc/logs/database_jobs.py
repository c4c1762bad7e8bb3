"""Jobs in the database: a row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, select

from cachesvc.model.job import Job, JobState, forgotten, pack_job, twin, unpack_job
from cachesvc.tiers.database_store import Store
from cachesvc.tiers.schema import jobs

_OPEN: Final = jobs.c.state.in_([state.value for state in JobState if not state.ended])


class DatabaseJobs:
    """`ports.Jobs`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add_job(self, job: Job, body: bytes, *, most: int) -> Job:
        def add(connection: Connection) -> Job:
            if (held := _named(connection, job.id)) is not None:
                return held  # it was added already, by a try whose end was not seen
            held = twin(_open(connection), job, most=most)
            if held is None:
                connection.execute(jobs.insert().values(id=job.id, body=body, **_columns(job)))
            return held or job

        return await self._store.maintain(add)  # under the log's lock, so that there is no second of the same

    async def keep_job(self, job: Job) -> None:
        def keep(connection: Connection) -> None:
            if _named(connection, job.id) is None:
                connection.execute(jobs.insert().values(id=job.id, body=b"", **_columns(job)))

        await self._store.maintain(keep)

    async def move_job(self, job: Job) -> bool:
        known = jobs.c.id == job.id, jobs.c.revision == job.revision - 1
        columns = _columns(job) | ({"body": b""} if job.state.ended else {})
        statement = jobs.update().where(*known).values(columns)
        return await self._store.change(lambda connection: connection.execute(statement).rowcount) > 0

    async def find_job(self, name: str) -> Job | None:
        return await self._store.read(lambda connection: _named(connection, name))

    async def job_body(self, name: str) -> bytes | None:
        statement = select(jobs.c.body).where(jobs.c.id == name, _OPEN)
        return await self._store.read(lambda connection: connection.execute(statement).scalar_one_or_none())

    async def list_jobs(self, *, limit: int) -> Sequence[Job]:
        statement = select(jobs.c.record).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        found = await self._store.read(lambda connection: connection.execute(statement).scalars().all())
        return [unpack_job(record) for record in found]

    async def open_jobs(self) -> Sequence[Job]:
        return await self._store.read(_open)

    async def forget_jobs(self, *, before: float, most: int) -> int:
        ended = select(jobs.c.record).where(~_OPEN)
        found = await self._store.read(lambda connection: connection.execute(ended).scalars().all())
        names = forgotten(map(unpack_job, found), before=before, most=most)
        if not names:
            return 0
        statement = jobs.delete().where(jobs.c.id.in_(names))
        return await self._store.change(lambda connection: connection.execute(statement).rowcount)


def _named(connection: Connection, name: str) -> Job | None:
    record = connection.execute(select(jobs.c.record).where(jobs.c.id == name)).scalar_one_or_none()
    return unpack_job(record) if record is not None else None


def _open(connection: Connection) -> list[Job]:
    statement = select(jobs.c.record).where(_OPEN).order_by(jobs.c.created_at, jobs.c.id)
    return [unpack_job(record) for record in connection.execute(statement).scalars()]


def _columns(job: Job) -> dict[str, object]:
    return {
        "kind": job.kind,
        "state": job.state.value,
        "record": pack_job(job),
        "revision": job.revision,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }
