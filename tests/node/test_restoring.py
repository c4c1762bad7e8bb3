"""Restoring over every choice of levels: what is gone comes back, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from cachesvc.engine.invalidate import invalidate
from cachesvc.engine.snapshots import live_entries
from cachesvc.errors import TierUnavailable
from cachesvc.model.change import Draft, Operation
from cachesvc.model.change import invalidate as draft_of
from cachesvc.model.entry import Entry
from cachesvc.model.invalidation import Invalidation
from cachesvc.model.job import Job, JobState
from cachesvc.model.keys import Key
from cachesvc.model.pattern import parse_pattern
from cachesvc.model.position import Version
from cachesvc.node.building import opened
from cachesvc.node.node import Node
from cachesvc.node.restoring import spool_of
from cachesvc.protocol.snapshot import SnapshotWriter
from tests.node.conftest import settings

EVERYTHING = parse_pattern("*")


async def put(node: Node, *keys: str, value: bytes = b"1", **more: object) -> None:
    drafts = [Draft(Operation.SET, Key(key), value)._replace(**more) for key in keys]  # type: ignore[arg-type]
    assert all(hasattr(outcome, "receipt") for outcome in await node.cache.write_many(drafts))


async def snapshot(node: Node) -> list[Entry]:
    at = node.cache.applied
    pages = live_entries(node.authority, EVERYTHING, at=at, clock=node.clock)
    return [entry async for page in pages for entry in page]


async def restored(node: Node, entries: list[Entry], since: object) -> Job:
    writer = SnapshotWriter()
    lines = [writer.header(node.cache.applied, at=0.0, pattern="*", service=""), *map(writer.entry, entries), writer.end()]
    spool = spool_of(node.settings)
    spool.folder.mkdir(parents=True, exist_ok=True)
    (spool.folder / "s.ndjson").write_bytes(b"".join(lines))
    body = orjson.dumps({"file": "s.ndjson", "since": str(since) if since else None, "count": len(entries)})
    begun = await node.jobs.begin("restore", "restore", body, what=[], place=spool.place)
    async with asyncio.timeout(30):
        while True:
            job = await node.jobs.find(begun.job.id)
            if job is not None and job.state.ended:
                return job
            await asyncio.sleep(0.02)


async def read(node: Node, key: str) -> bytes | None:
    entry = (await node.cache.read(Key(key))).entry
    return entry.value if entry is not None else None


async def test_only_what_is_lost_comes_back(node: Node) -> None:
    await put(node, "same", "newer", "gone", "bad:1", "bad:2", "soft:1")
    await put(node, "kept", tags=("t",), parents=("p",), actor="ann", ttl=500.0)
    since = node.cache.applied
    entries = await snapshot(node)
    await put(node, "newer", value=b"2")
    await node.cache.write(Draft(Operation.DELETE, Key("gone")))
    await invalidate(node.cache, draft_of(Invalidation("bad:*")))
    await invalidate(node.cache, draft_of(Invalidation("soft:*", soft=True)))
    async with asyncio.timeout(30):
        while node.cache.floors.patterns.active:
            await asyncio.sleep(0.01)
    ahead = Version(node.cache.applied.sequence + 1_000)  # as if this authority were an older copy of itself
    entries = [e._replace(version=ahead, updated_at=e.updated_at + 0.001) if e.key == "kept" else e for e in entries]
    job = await restored(node, entries, since)
    assert (job.state, job.done, job.total, job.error_count) == (JobState.DONE, 7, 7, 0), job
    assert job.counts == {"restored": 1, "skipped": 2, "refused": 4}
    assert [await read(node, key) for key in ("same", "newer", "gone", "bad:1", "bad:2", "soft:1")] == [
        b"1",
        b"2",
        None,
        None,
        None,
        None,
    ]
    [was] = [entry for entry in entries if entry.key == "kept"]
    [entry] = [entry for entry in await snapshot(node) if entry.key == "kept"]
    assert entry == was._replace(version=entry.version)
    assert not (spool_of(node.settings).folder / "s.ndjson").exists()


async def test_into_a_store_that_is_empty(tmp_path: Path) -> None:
    async with opened(settings(tmp_path / "a", database={"url": "sqlite:a.db"})) as node:
        await put(node, *(f"k:{number}" for number in range(1_200)))
        entries = await snapshot(node)
    async with opened(settings(tmp_path / "b", database={"url": "sqlite:b.db"})) as node:
        job = await restored(node, entries, None)
        assert (job.state, job.counts) == (JobState.DONE, {"restored": 1_200, "skipped": 0, "refused": 0})
        assert [entry.key for entry in await snapshot(node)] == [entry.key for entry in entries]
        again = await restored(node, entries, None)
        assert again.counts == {"restored": 0, "skipped": 1_200, "refused": 0}


async def test_an_end_that_is_not_kept_at_first_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path, database={"url": "sqlite:a.db"}, jobs={"poll_interval": 0.05})
    async with opened(chosen) as node:
        await put(node, "k")
        entries = await snapshot(node)
        move, away = node.authority.move_job, 1

        async def once_away(job: Job) -> bool:
            nonlocal away
            if job.state.ended and away:
                away -= 1
                raise TierUnavailable("database", "away")
            return await move(job)

        monkeypatch.setattr(node.authority, "move_job", once_away)
        job = await restored(node, entries, None)
        assert (job.state, job.done, job.reason, away) == (JobState.DONE, 1, "", 0)
        assert not (spool_of(node.settings).folder / "s.ndjson").exists()


async def test_a_file_that_is_gone_fails_the_job(tmp_path: Path) -> None:
    async with opened(settings(tmp_path, database={"url": "sqlite:a.db"})) as node:
        body = orjson.dumps({"file": "none.ndjson", "since": None, "count": 1})
        begun = await node.jobs.begin("restore", "restore", body, what=[], place=spool_of(node.settings).place)
        async with asyncio.timeout(30):
            while (job := await node.jobs.find(begun.job.id)) is None or not job.state.ended:
                await asyncio.sleep(0.02)
        assert job.state is JobState.FAILED
        assert "cannot be read" in job.reason
