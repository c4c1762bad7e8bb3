"""Jobs over HTTP: told, followed, cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from cachesvc.model.job import Job, JobState
from cachesvc.protocol.operations import Jobs, JobTold
from cachesvc.web.service import Limits
from tests.web.site import Site, opened


async def begin(site: Site, what: str = "x") -> Job:
    return (await site.service.jobs.begin("warm", f"warm {what}", b"", what=what)).job


async def move(site: Site, job: Job, **more: Any) -> Job:
    moved = job.moved(site.clock.now())._replace(**more)
    assert await site.store.move_job(moved)
    return moved


async def test_jobs_are_told(site: Site, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/jobs")).json() == {"jobs": []}
    job = await begin(site)
    site.clock.advance(1.0)
    job = await move(site, job, state=JobState.RUNNING, node="n1", started_at=job.created_at, done=5, total=10)
    told = (await http.get(f"/v1/jobs/{job.id}")).json()
    JobTold.model_validate(told)
    assert {name: told[name] for name in ("state", "node", "done", "total", "rate", "eta", "reason")} == {
        "state": "running",
        "node": "n1",
        "done": 5,
        "total": 10,
        "rate": 5.0,
        "eta": 1.0,
        "reason": None,
    }
    listed = (await http.get("/v1/jobs", params={"limit": 1})).json()
    Jobs.model_validate(listed)
    assert listed == {"jobs": [told]}


async def test_the_sweep_of_an_invalidation_is_a_job(http: httpx.AsyncClient) -> None:
    await http.put("/v1/cache/a:1", content=b"1")
    name = (await http.post("/v1/invalidate", json={"pattern": "a:*"})).json()["job"]
    told = (await http.get(f"/v1/jobs/{name}")).json()
    assert (told["id"], told["kind"], told["state"], told["title"]) == (name, "invalidation", "done", "sweep of a:*")
    assert [job["id"] for job in (await http.get("/v1/jobs")).json()["jobs"]] == [name]
    refused = await http.delete(f"/v1/jobs/{name}")
    assert (refused.status_code, refused.json()["field"]) == (409, "id")
    assert "cannot be cancelled" in refused.json()["detail"]


async def test_a_job_is_cancelled_once(site: Site, http: httpx.AsyncClient) -> None:
    job = await begin(site)
    told = (await http.delete(f"/v1/jobs/{job.id}")).json()
    assert told["state"] == "cancelled"
    assert (await http.delete(f"/v1/jobs/{job.id}")).json() == told


@pytest.mark.parametrize(
    "path", ["/v1/jobs/none", "/v1/jobs/", "/v1/jobs/none/events", "/v1/jobs/invalidation-7", "/v1/jobs/a/b"]
)
async def test_a_job_that_is_not_known(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_bad_questions(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/jobs?limit=0")).json()["field"] == "limit"
    assert (await http.get("/v1/jobs?state=x")).status_code == 422
    assert (await http.get("/v1/jobs/%ff")).status_code == 400
    assert (await http.put("/v1/jobs/x")).status_code == 405


async def events(http: httpx.AsyncClient, name: str) -> list[tuple[str, Any]]:
    text = (await http.get(f"/v1/jobs/{name}/events")).text
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    return [(block[0].removeprefix("event: "), orjson.loads(block[1].removeprefix("data: "))) for block in blocks]


async def test_progress_is_told_to_its_end(site: Site, http: httpx.AsyncClient) -> None:
    job = await begin(site)
    job = await move(site, job, state=JobState.RUNNING, done=3)
    listening = asyncio.create_task(events(http, job.id))
    while not site.listeners():
        await asyncio.sleep(0)
    await site.store.move_job(job.ended(JobState.DONE, site.clock.now()))
    told = await listening
    assert [name for name, _ in told] == ["progress", "end"]
    assert [job["state"] for _, job in told] == ["running", "done"]
    assert [name for name, _ in await events(http, job.id)] == ["end"]
    assert site.listeners() == 0


async def test_only_so_many_listen() -> None:
    async with opened(limits=Limits(max_job_listeners=1)) as site, site.client() as http:
        job = await begin(site)
        listening = asyncio.create_task(events(http, job.id))
        while not site.listeners():
            await asyncio.sleep(0)
        refused = await http.get(f"/v1/jobs/{job.id}/events")
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        await http.delete(f"/v1/jobs/{job.id}")
        assert [name for name, _ in await listening][-1] == "end"
