"""Restoring: reads a spooled snapshot from its file, batch by batch, and puts it back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Final, Protocol

import orjson

from cachesvc.engine.restore import Logged, Restorable, Restoring
from cachesvc.errors import JobFailed
from cachesvc.model.change import Publication, publish
from cachesvc.model.entry import Entry
from cachesvc.model.job import Job
from cachesvc.model.position import Position, parse_position
from cachesvc.model.syncs import Sync
from cachesvc.ports import Jobs
from cachesvc.protocol.snapshot import SnapshotReader
from cachesvc.settings import Settings
from cachesvc.web.service import Spool

BATCH: Final = 500  # entries put back at once
BATCH_BYTES: Final = 4 << 20  # of their values
_ABANDONED: Final = 3_600.0  # seconds after which a file that no open job names is removed


class Kept(Logged, Jobs, Protocol):
    """What is needed of the authority."""


class Restorer:
    """Carries restores out, from files in a folder."""

    def __init__(self, cache: Restorable, authority: Kept, folder: Path, *, max_value_size: int) -> None:
        self._cache = cache
        self._authority = authority
        self._folder = folder
        self._max_value_size = max_value_size

    async def work(self, job: Job, body: bytes) -> AsyncGenerator[Job, None]:
        """Go on from the entry that the job says. Raises `JobFailed`, and `Unavailable` to be tried again."""
        said = orjson.loads(body)
        file = self._folder / said["file"]
        since = parse_position(said["since"], field="since") if said["since"] else None
        job = job._replace(total=said["count"])
        start = int(job.checkpoint or 0)
        if start < said["count"]:  # else all is back, and only the end of the job was not kept
            sync = Sync(job.id, said["count"], processed=start, begun=start > 0)
            await self._tell(sync.next())
            try:
                async with aclosing(self._put_back(job, file, start, since)) as steps:
                    async for reached in steps:
                        new = (message for _, message in reached.errors[len(job.errors) :])
                        sync.note(int(reached.checkpoint) - sync.processed, *new)
                        job = reached
                        await self._tell(sync.next())
                        yield reached
            except JobFailed as failed:
                await self._tell(sync.next(str(failed)))
                raise
            except GeneratorExit:
                await self._tell(sync.next("was cancelled, or is gone on with by another node"))
                raise
        await asyncio.to_thread(file.unlink, missing_ok=True)

    async def _tell(self, said: Publication | None) -> None:
        """Tell the subscribers of `task` how far it has come. What cannot be told is passed over: the next step tells more."""
        if said is not None:
            await self._cache.write_many([publish(said, distribute=False)])

    async def _put_back(self, job: Job, file: Path, start: int, since: Position | None) -> AsyncGenerator[Job, None]:
        restoring = Restoring(self._cache, self._authority, since)
        try:
            opened = await asyncio.to_thread(file.open, "rb")
        except OSError as exc:
            raise JobFailed(f"the spooled snapshot cannot be read: {exc.strerror}") from exc
        with opened:
            batches = self._batches(opened, start)
            while batch := await asyncio.to_thread(next, batches, None):
                job = await restoring.put(job, batch)
                start += len(batch)
                yield job._replace(checkpoint=str(start))

    def _batches(self, opened: IO[bytes], start: int) -> Iterator[list[Entry]]:
        """The entries from the `start`th on; checked once more, as the file was read before."""
        reader = SnapshotReader(max_value_size=self._max_value_size)
        batch: list[Entry] = []
        nbytes = 0
        for line in opened:
            entry = reader.line(line.rstrip(b"\n"))
            if entry is None or reader.count <= start:
                continue
            batch.append(entry)
            nbytes += len(entry.value)
            if len(batch) == BATCH or nbytes >= BATCH_BYTES:
                yield batch
                batch, nbytes = [], 0
        reader.close()
        if batch:
            yield batch

    async def tidy(self, now: float) -> None:
        """Remove files that no open job names: of jobs that were cancelled or failed."""
        named = set()
        for job in await self._authority.open_jobs():
            body = await self._authority.job_body(job.id) if job.kind == "restore" else None
            if body is not None:
                named.add(orjson.loads(body)["file"])
        await asyncio.to_thread(self._remove, named, now - _ABANDONED)

    def _remove(self, named: set[Any], before: float) -> None:
        if not self._folder.is_dir():
            return
        for file in self._folder.iterdir():
            if file.name not in named and file.stat().st_mtime < before:
                file.unlink(missing_ok=True)


def spool_of(settings: Settings) -> Spool:
    """Where this machine's nodes keep what is to be restored: those that share a data_dir go on with each other's."""
    folder = settings.server.data_dir.resolve() / "restores"
    return Spool(folder, f"{socket.gethostname()}:{folder}", settings.jobs.max_spool)
