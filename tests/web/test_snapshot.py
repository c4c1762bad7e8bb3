"""GET /v1/snapshot and POST /v1/restore: there, verified, and begun as a job."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest

from cachesvc.errors import TierUnavailable
from cachesvc.protocol.operations import JobTold, SnapshotChecksum, SnapshotEntry, SnapshotHeader
from cachesvc.web.app import create_app
from cachesvc.web.service import Spool
from tests.web.site import Site, Transport


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "restores", "here", 10_000)


@pytest.fixture
async def http(site: Site, spool: Spool) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(dataclasses.replace(site.service, spool=spool))
    async with httpx.AsyncClient(transport=Transport(app, raise_app_exceptions=False), base_url="http://site") as client:
        yield client


async def fill(http: httpx.AsyncClient) -> None:
    for key, value in (("t:1", b"1"), ("t:2", b'"\xc3\xa9"'), ("n:1", b"3")):
        await http.put(f"/v1/cache/{key}", content=value, params={"ttl": 50, "tags": "t"})
    await http.put("/v1/cache/t:3", content=b"\xff", headers={"Content-Type": "image/png"})


def files(spool: Spool) -> list[str]:
    return [file.name for file in spool.folder.iterdir()] if spool.folder.exists() else []


async def test_the_lines_of_a_snapshot(site: Site, http: httpx.AsyncClient) -> None:
    await fill(http)
    answer = await http.get("/v1/snapshot", params={"pattern": "t:*"})
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    header, *lines, end = answer.content.splitlines()
    assert SnapshotHeader.model_validate_json(header).position == str(site.store.position)
    entries = [SnapshotEntry.model_validate_json(line) for line in lines]
    assert [(one.key, one.text, one.base64) for one in entries] == [
        ("t:1", "1", None),
        ("t:2", '"é"', None),
        ("t:3", None, "/w=="),
    ]
    assert (entries[0].tags, entries[0].content_type) == (["t"], "application/json")
    assert SnapshotChecksum.model_validate_json(end).count == 3
    assert (await http.get("/v1/snapshot?pattern=[")).json()["field"] == "pattern"


async def test_one_that_breaks_off_has_no_end(site: Site, http: httpx.AsyncClient) -> None:
    await fill(http)

    async def fails(*_: object, **__: object) -> None:
        raise TierUnavailable("database", "away")

    site.store.get = fails  # type: ignore[method-assign,assignment]
    async with site.served() as port, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{port}/v1/snapshot")


async def test_a_restore_is_a_job_once(site: Site, http: httpx.AsyncClient, spool: Spool) -> None:
    await fill(http)
    text = (await http.get("/v1/snapshot")).content
    first = await http.post("/v1/restore", content=text)
    assert first.status_code == 202, first.text
    told = JobTold.model_validate(first.json())
    assert told.title.startswith("restore 4 entries of * as of ")
    body = orjson.loads(await site.store.job_body(told.id) or b"")
    assert (body["count"], files(spool)) == (4, [body["file"]])
    assert (spool.folder / body["file"]).read_bytes() == text
    second = await http.post("/v1/restore", content=text)
    assert (second.status_code, second.json()["id"]) == (200, told.id)
    assert files(spool) == [body["file"]]


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (lambda text: b"", 422),
        (lambda text: text[:-5], 422),
        (lambda text: b"\n".join(text.split(b"\n")[:-2]) + b"\n", 422),
        (lambda text: text.replace(b'"text":"1"', b'"text":"2"'), 422),
        (lambda text: text.replace(b"t:1", b"t:9"), 422),
        (lambda text: text + b"{}\n", 422),
        (lambda text: b"what is this?\n", 422),
        (lambda text: text + b"x" * 10_000, 413),
    ],
)
async def test_of_what_is_cut_off_or_altered_nothing_is_left(
    site: Site, http: httpx.AsyncClient, spool: Spool, broken: object, status: int
) -> None:
    await fill(http)
    text = (await http.get("/v1/snapshot")).content
    head = site.store.position
    answer = await http.post("/v1/restore", content=broken(text))  # type: ignore[operator]
    assert answer.status_code == status, answer.text
    assert answer.json()["field"]
    assert await site.store.open_jobs() == []
    assert files(spool) == []
    assert site.store.position == head


async def test_what_comes_at_once_has_no_more_room_than_there_is(http: httpx.AsyncClient, spool: Spool) -> None:
    await fill(http)
    text = (await http.get("/v1/snapshot")).content
    written, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield text[:100]
        written.set()
        await go_on.wait()
        yield text[100:]

    async with asyncio.timeout(30):
        first = asyncio.create_task(http.post("/v1/restore", content=slowly()))
        await written.wait()
        (spool.folder / "another").write_bytes(b"x" * (spool.max_bytes - 150))
        go_on.set()
        answer = await first
    assert (answer.status_code, answer.json()["field"]) == (413, "body")
    assert files(spool) == ["another"]


async def test_one_that_does_not_go_on_is_told_so(site: Site, spool: Spool) -> None:
    limits = dataclasses.replace(site.service.limits, request_timeout=0.01)
    app = create_app(dataclasses.replace(site.service, spool=spool, limits=limits))

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with httpx.AsyncClient(transport=Transport(app, raise_app_exceptions=False), base_url="http://site") as client:
        answer = await client.post("/v1/restore", content=never())
    assert (answer.status_code, answer.json()["field"]) == (408, "body"), answer.text
    assert files(spool) == []


async def test_a_folder_that_cannot_be_made_is_no_fault_of_ours(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = create_app(dataclasses.replace(site.service, spool=Spool(tmp_path / "file" / "restores", "here", 10_000)))
    async with httpx.AsyncClient(transport=Transport(app, raise_app_exceptions=False), base_url="http://site") as client:
        answer = await client.post("/v1/restore", content=b"{}")
    assert (answer.status_code, "cannot be kept" in answer.json()["detail"]) == (503, True), answer.text


async def test_where_the_log_does_not_reach_it_asks_first(site: Site, http: httpx.AsyncClient, spool: Spool) -> None:
    await fill(http)
    text = (await http.get("/v1/snapshot")).content
    await fill(http)
    site.store.trimmed = site.store.position.sequence - 1
    answer = await http.post("/v1/restore", content=text)
    assert (answer.status_code, answer.json()["field"], files(spool)) == (409, "force", [])
    answer = await http.post("/v1/restore?force=true", content=text)
    assert answer.status_code == 202
    body = orjson.loads(await site.store.job_body(answer.json()["id"]) or b"")
    assert body["since"] is None


async def test_without_a_folder_nothing_is_restored(site: Site) -> None:
    async with site.client() as http:
        assert (await http.post("/v1/restore", content=b"")).status_code == 503
