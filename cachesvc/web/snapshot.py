"""Snapshots: `GET /v1/snapshot` streams entries, `POST /v1/restore` takes them back as a job.

What is sent is spooled to a file under `data_dir` and verified to its last line before anything is written, so that of a
snapshot that was cut off or altered nothing is half done. Neither holds more than a few batches in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cachesvc.engine.restore import reaches
from cachesvc.engine.snapshots import live_entries
from cachesvc.errors import InvalidInput, Unavailable
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.protocol.codes import Code
from cachesvc.protocol.snapshot import MEDIA_TYPE, SnapshotReader, SnapshotWriter
from cachesvc.web.call import Call, flag, single
from cachesvc.web.jobs import answer_begun
from cachesvc.web.problems import Problem, ProblemRaised
from cachesvc.web.service import Service, Spool
from cachesvc.web.streams import Followers, Stream

_log = logging.getLogger(__name__)
_PIECE: Final = 256 << 10  # bytes that are sent at once
_WRITTEN_AT_ONCE: Final = 1 << 20


class Snapshots:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._leaving = Followers(service, service.limits.max_snapshots, "snapshots")
        self._coming = Followers(service, service.limits.max_snapshots, "restores")

    async def get(self, call: Call) -> Response:
        glob = single(call.query("pattern"), "pattern")
        pattern = parse_pattern("*" if glob is None else glob)
        call.require_all("read", pattern.text)
        return SnapshotStream(self._service, self._leaving, pattern)

    async def post(self, call: Call) -> Response:
        force = flag(call.query("force"), "force", default=False)
        call.require_all("write", "*")
        spool = self._service.spool
        if spool is None:
            raise Unavailable("there is no folder to restore from")
        return Restore(call, self._coming, spool, force=force)


class SnapshotStream(Stream):
    """The lines of a snapshot. One that ends early lacks its last line, and is refused."""

    media_type = MEDIA_TYPE

    def __init__(self, service: Service, followers: Followers, pattern: Pattern) -> None:
        super().__init__(service, followers)
        self.headers["Content-Disposition"] = 'attachment; filename="snapshot.ndjson"'
        self._pattern = pattern

    async def tell(self, send: Send) -> None:
        service, writer = self.service, SnapshotWriter()
        authority, at = service.cache.authority, service.cache.applied
        piece = bytearray(writer.header(at, at=service.clock.now(), pattern=self._pattern.text, service=service.version))
        async with aclosing(live_entries(authority, self._pattern, at=at, clock=service.clock)) as pages:
            async for page in pages:
                for entry in page:
                    piece += writer.entry(entry)
                    if len(piece) >= _PIECE:
                        await self.send(send, bytes(piece))
                        piece.clear()
        await self.send(send, bytes(piece + writer.end()))


class Restore(Response):
    """Takes a snapshot, verifies it, and begins the job; all of it in the answer, since it takes as long as the client."""

    def __init__(self, call: Call, followers: Followers, spool: Spool, *, force: bool) -> None:
        super().__init__()
        self._call = call
        self._followers = followers
        self._spool = spool
        self._force = force

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._followers.enter()
        try:
            response = await self._taken()
        finally:
            self._followers.leave()
        await response(scope, receive, send)

    async def _taken(self) -> Response:
        service = self._call.service
        file = self._spool.folder / f"{uuid4().hex}.ndjson"
        reader = SnapshotReader(max_value_size=service.limits.max_value_size)
        begun = None
        try:
            await asyncio.to_thread(self._spool.folder.mkdir, parents=True, exist_ok=True)
            await self._spooled(file, reader)
            since = reader.position
            known = since is not None and await reaches(service.cache.authority, since)
            if not known and not self._force:
                raise ProblemRaised(_unknown(str(since)))
            body = orjson.dumps({"file": file.name, "since": str(since) if known else None, "count": reader.count})
            title = f"restore {reader.count} entries of {reader.pattern} as of {since}"
            begun = await service.jobs.begin("restore", title, body, what=reader.checksum, place=self._spool.place)
        except OSError as exc:
            raise Unavailable(f"the snapshot cannot be kept: {exc.strerror}") from exc
        finally:
            if begun is None or begun.known:
                with suppress(OSError):  # what is left is tidied up later
                    file.unlink()
        return answer_begun(begun)

    async def _spooled(self, file: Path, reader: SnapshotReader) -> None:
        """The whole body in the file, every line of it verified."""
        rest = b""
        with await asyncio.to_thread(open, file, "xb") as out:
            async for chunk in self._chunks():
                if len(chunk) > await asyncio.to_thread(self._spool.room):  # others come at the same time
                    most = self._spool.max_bytes
                    raise InvalidInput("body", f"is larger than what is left of {most} bytes for restores", too_large=True)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    reader.line(line)
                if len(rest) > reader.max_line:
                    raise InvalidInput("body", "has a line that is longer than any of a snapshot", too_large=True)
                await asyncio.to_thread(out.write, chunk)
            if rest:
                raise InvalidInput("body", "is cut off within a line")
            reader.close()
            await asyncio.to_thread(_synced, out)

    async def _chunks(self) -> AsyncIterator[bytes]:
        """The body, in pieces of about a mebibyte; a client that sends nothing for long is let go."""
        limit = self._call.service.limits.request_timeout
        held = bytearray()
        more = True
        while more:
            try:
                async with asyncio.timeout(limit):
                    message = await self._call.receive()
            except TimeoutError:
                raise ProblemRaised(Problem(408, Code.BAD_MESSAGE, f"body: did not go on within {limit:g} s", "body")) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            held += message.get("body", b"")
            more = message.get("more_body", False)
            if held and (not more or len(held) >= _WRITTEN_AT_ONCE):
                yield bytes(held)
                held.clear()


def _synced(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())


def _unknown(since: str) -> Problem:
    detail = (
        f"force: the log does not reach back to {since}, so what was deleted or invalidated since the snapshot would come"
        " back; send force=true to accept that"
    )
    return Problem(409, Code.VERSION_CONFLICT, detail, "force")
