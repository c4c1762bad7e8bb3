"""Changes: the change log as server-sent events, so that clients follow and resume.

What a client has not read yet is not kept for it: a slow one holds a position, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cachesvc.errors import CacheError, Overloaded
from cachesvc.model.change import Change
from cachesvc.model.entry import Entry
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.position import Position, parse_position
from cachesvc.protocol.values import value_members
from cachesvc.web.call import Call, single
from cachesvc.web.problems import problem_of
from cachesvc.web.service import Service

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 256
_FIRST_LOOK: Final = 1.0  # seconds to find out whether a position can be resumed, before the answer begins
_RETRY: Final = 1_000  # milliseconds after which a client comes back


class Followers:
    """How many streams are open, of how many may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @property
    def open(self) -> int:
        return self._open

    def enter(self) -> None:
        """Raises `Overloaded` when there is no room."""
        if self._open >= self._most:
            raise Overloaded(f"{self._most} streams of changes are open, which is the limit", retry_after=5.0)
        self._open += 1

    def leave(self) -> None:
        self._open -= 1


class Changes:
    """The endpoint of `GET /v1/changes`."""

    def __init__(self, service: Service) -> None:
        self.followers = Followers(service.limits.max_followers)

    async def get(self, call: Call) -> Response:
        """A stream, once it is known that it can begin where it is asked to. Raises `PositionLost`."""
        query = call.query("after", "pattern")
        glob = single(query, "pattern")
        pattern = parse_pattern(glob) if glob is not None else None
        after = _start(call, single(query, "after"))
        feed = call.service.feed
        first: Sequence[Change] = ()
        if after is None:
            after = feed.position
        elif after != feed.position:
            try:
                async with asyncio.timeout(_FIRST_LOOK):
                    first = await feed.next(after, _AT_ONCE)
            except TimeoutError:
                pass  # ahead of this node: what comes after it will come
        return EventStream(call.service, self.followers, after, first, pattern)


class EventStream(Response):
    """Changes after a position as they come, until the client leaves, the position is lost or the service closes."""

    def __init__(
        self,
        service: Service,
        followers: Followers,
        after: Position,
        first: Sequence[Change],
        pattern: Pattern | None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._service = service
        self._followers = followers
        self._after = after
        self._told = after
        self._first = first
        self._pattern = pattern

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._followers.enter()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with asyncio.TaskGroup() as group:
                    ends = [
                        group.create_task(self._tell(send)),
                        group.create_task(_gone(receive)),
                        group.create_task(self._service.closing.wait()),
                    ]
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    for task in ends:
                        task.cancel()
            await self._send(send, b"", more=False)
        except* TimeoutError:
            # the server cuts a connection whose answer was left unfinished
            _log.info("a follower stopped reading at %s", self._told)
        finally:
            self._followers.leave()

    async def _tell(self, send: Send) -> None:
        await self._send(send, b"retry: %d\nid: %s\n\n" % (_RETRY, str(self._after).encode()))
        loop = asyncio.get_running_loop()
        heartbeat = self._service.limits.heartbeat
        due = loop.time() + heartbeat
        changes = self._first
        while True:
            events = [self._event(change) for change in changes if self._concerns(change)]
            if changes:
                self._after = Position(self._after.epoch, changes[-1].sequence)
            if events or loop.time() >= due:
                # a beat moves the id past what the pattern left out, so that a client never resumes from long ago
                await self._send(send, b"".join(events) or self._beat())
                due = loop.time() + heartbeat
            try:
                async with asyncio.timeout_at(due):
                    changes = await self._service.feed.next(self._after, _AT_ONCE)
            except TimeoutError:
                changes = ()
            except CacheError as error:
                body = orjson.dumps(problem_of(error).body())
                await self._send(send, b"event: error\ndata: %s\n\n" % body)
                return

    def _concerns(self, change: Change) -> bool:
        """A change without a key may concern any."""
        return self._pattern is None or change.key is None or self._pattern.matches(change.key)

    def _event(self, change: Change) -> bytes:
        self._told = Position(self._after.epoch, change.sequence)
        # a line break in JSON can only be space between its parts
        data = orjson.dumps(described(change)).replace(b"\n", b" ").replace(b"\r", b" ")
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(self._told).encode(), change.kind.value.encode(), data)

    def _beat(self) -> bytes:
        if self._told == self._after:
            return b":\n\n"
        self._told = self._after
        return b"id: %s\n\n" % str(self._after).encode()

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Send, and wait until the client has room for more; one that never has loses the stream."""
        async with asyncio.timeout(self._service.limits.request_timeout):
            await send({"type": "http.response.body", "body": body, "more_body": more})


def described(change: Change) -> dict[str, object]:
    """A change as it is told."""
    told: dict[str, object] = {
        "sequence": change.sequence,
        "version": change.sequence,
        "kind": change.kind.value,
        "key": change.key,
        "at": change.at,
    }
    if not change.distribute:
        told["distribute"] = False
    if change.conflict:
        told["conflictId"] = change.conflict
    if change.invalidation is not None:
        told |= {name: said for name, said in change.invalidation._asdict().items() if said}
    entry = change.entry
    if entry is not None and not entry.deleted:
        told |= _metadata(entry)
        # same content as before: a fill or a write that a follower need not act upon
        told["unchanged"] = change.before == entry.content_hash
        told |= value_members(entry) if change.value_held else {"contentType": entry.content_type, "truncated": True}
    return told


def _metadata(entry: Entry) -> dict[str, object]:
    metadata: dict[str, object] = {
        "createdAt": entry.created_at,
        "updatedAt": entry.updated_at,
        "expiresAt": entry.expires_at,
        "tags": entry.tags,
        "dependsOn": entry.parents,
    }
    if entry.updated_by:
        metadata["updatedBy"] = entry.updated_by
    if entry.source:
        metadata["source"] = entry.source
    return metadata


def _start(call: Call, after: str | None) -> Position | None:
    last = call.headers.get("last-event-id", "")
    if last:
        return parse_position(last, field="Last-Event-ID")
    return parse_position(after, field="after") if after is not None else None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
