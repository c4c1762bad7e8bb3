"""Jobs: what runs or ran, with its progress as server-sent events, and cancelling."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Send

from cachesvc.engine.jobs import INVALIDATION, Begun
from cachesvc.errors import CacheError, Forbidden
from cachesvc.model.entry import JSON
from cachesvc.model.job import Job
from cachesvc.protocol.codes import Code
from cachesvc.protocol.jobs import job_told
from cachesvc.protocol.operations import Jobs
from cachesvc.web.call import Call, whole_number
from cachesvc.web.problems import Problem, ProblemRaised
from cachesvc.web.service import Service
from cachesvc.web.streams import EventStream, Followers

PREFIX: Final = len("/v1/jobs/")
EVENTS: Final = "/events"
MAX_LISTED: Final = 1_000
_LOOK_AGAIN: Final = 0.25  # seconds
_NO_STORE: Final = {"Cache-Control": "no-store"}
_UNKNOWN: Final = Problem(404, Code.NOT_FOUND, "there is no job of this id, or it ended long ago", "id")
_NO_END: Final = Problem(
    409, Code.BAD_MESSAGE, "id: the sweep of an invalidation cannot be cancelled: what it sweeps is dead already", "id"
)


async def get_jobs(call: Call) -> Response:
    limit = whole_number(call.query("limit"), "limit", default=100, least=1, most=MAX_LISTED)
    jobs = await call.service.jobs.newest(limit=limit)
    body = Jobs(jobs=[job_told(job) for job in jobs]).model_dump_json(by_alias=True)
    return Response(body, 200, _NO_STORE, JSON)


async def get_job(call: Call) -> Response:
    call.query()
    return answer(_readable(call, await call.service.jobs.find(call.part(PREFIX))))


async def delete_job(call: Call) -> Response:
    call.query()
    job = _known(await call.service.jobs.cancel(call.part(PREFIX)))
    if job.kind == INVALIDATION:
        raise ProblemRaised(_NO_END)
    return answer(job)


class JobEvents:
    """The endpoint of `GET /v1/jobs/{id}/events`."""

    def __init__(self, service: Service) -> None:
        self.followers = Followers(service, service.limits.max_job_listeners, "jobs")

    async def get(self, call: Call) -> Response:
        call.query()
        job = _readable(call, await call.service.jobs.find(call.part(PREFIX, EVENTS)))
        return JobStream(call.service, self.followers, job)


class JobStream(EventStream):
    """A job each time it has come further: events `progress`, and `end` when it has ended."""

    def __init__(self, service: Service, followers: Followers, job: Job) -> None:
        super().__init__(service, followers)
        self._job = job

    async def tell(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        job: Job | None = self._job
        seen = -1
        due = 0.0
        while job is not None:
            if job.revision != seen or loop.time() >= due:
                await self.send(send, _event(job))
                seen = job.revision
                due = loop.time() + self.service.limits.heartbeat
            if job.state.ended:
                return
            await asyncio.sleep(_LOOK_AGAIN)
            try:
                job = await self.service.jobs.find(job.id)
            except CacheError as error:
                await self.fail(send, error)
                return


def answer(job: Job) -> Response:
    return Response(job_told(job).model_dump_json(by_alias=True), 200, _NO_STORE, JSON)


def answer_begun(begun: Begun) -> Response:
    """202 with a new job and where it is, or 200 with the one that does the same already."""
    told = job_told(begun.job, known=begun.known)
    headers = {**_NO_STORE, "Location": f"/v1/jobs/{begun.job.id}"}
    return Response(told.model_dump_json(by_alias=True), 200 if begun.known else 202, headers, JSON)


def _event(job: Job) -> bytes:
    name = "end" if job.state.ended else "progress"
    return f"event: {name}\ndata: {job_told(job).model_dump_json(by_alias=True)}\n\n".encode()


def _readable(call: Call, job: Job | None) -> Job:
    """For administrators, and for who may begin such a job and was told its id, which nobody guesses. Raises `Forbidden`."""
    identity = call.identity
    warms = any(scope.startswith("warm:") for scope in identity.scopes)
    kinds = {"warm": warms, "restore": identity.may_all("write", "*")}
    allowed = any(kinds.values()) if job is None else kinds.get(job.kind, False)
    if not (identity.unrestricted or allowed):
        raise Forbidden("admin", call.scope["path"])
    return _known(job)


def _known(job: Job | None) -> Job:
    if job is None:
        raise ProblemRaised(_UNKNOWN)
    return job
