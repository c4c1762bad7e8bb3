"""Changes: the change log as server-sent events, so that clients follow and resume.

What a client has not read yet is not kept for it: a slow one holds a position, nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Send

from cachesvc.errors import CacheError
from cachesvc.model.change import Change
from cachesvc.model.entry import Entry
from cachesvc.model.pattern import Pattern, parse_pattern
from cachesvc.model.position import Position, parse_position
from cachesvc.protocol.values import value_members
from cachesvc.web.call import Call, single
from cachesvc.web.service import Service
from cachesvc.web.streams import EventStream, Followers

_OF_INVALIDATIONS: Final = ("pattern", "keys", "tags", "cascade", "retires", "soft", "origin")
_AT_ONCE: Final = 256
_FIRST_LOOK: Final = 1.0  # seconds to find out whether a position can be resumed, before the answer begins
_RETRY: Final = 1_000  # milliseconds after which a client comes back


class Changes:
    """The endpoint of `GET /v1/changes`."""

    def __init__(self, service: Service) -> None:
        self.followers = Followers(service, service.limits.max_followers, "changes")

    async def get(self, call: Call) -> Response:
        """A stream, once it is known that it can begin where it is asked to. Raises `PositionLost`."""
        query = call.query("after", "pattern")
        glob = single(query, "pattern")
        pattern = parse_pattern(glob) if glob is not None else None
        call.require_all("read", glob if glob is not None else "*")
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
        return ChangeStream(call.service, self.followers, after, first, pattern)


class ChangeStream(EventStream):
    """Changes after a position as they come, until the client leaves, the position is lost or the service closes."""

    def __init__(
        self,
        service: Service,
        followers: Followers,
        after: Position,
        first: Sequence[Change],
        pattern: Pattern | None,
    ) -> None:
        super().__init__(service, followers)
        self._after = after
        self._told = after
        self._first = first
        self._pattern = pattern

    async def tell(self, send: Send) -> None:
        await self.send(send, b"retry: %d\nid: %s\n\n" % (_RETRY, str(self._after).encode()))
        loop = asyncio.get_running_loop()
        heartbeat = self.service.limits.heartbeat
        due = loop.time() + heartbeat
        changes = self._first
        while True:
            concerning = changes if self._pattern is None else _within(changes, self._pattern)
            events = [self._event(change) for change in concerning]
            if changes:
                self._after = Position(self._after.epoch, changes[-1].sequence)
            if events or loop.time() >= due:
                # a beat moves the id past what the pattern left out, so that a client never resumes from long ago
                await self.send(send, b"".join(events) or self._beat())
                due = loop.time() + heartbeat
            try:
                async with asyncio.timeout_at(due):
                    changes = await self.service.feed.next(self._after, _AT_ONCE)
            except TimeoutError:
                changes = ()
            except CacheError as error:
                await self.fail(send, error)
                return

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


def _within(changes: Sequence[Change], pattern: Pattern) -> Iterator[Change]:
    """What of these changes may concern a key that matches, and no other key: who asks may not read all of them."""
    for change in changes:
        named = change.invalidation
        if named is not None:
            keys = tuple(key for key in named.keys if pattern.matches(key))
            reaches = bool(named.pattern) and _may_meet(parse_pattern(named.pattern), pattern)
            if keys or reaches:
                yield change._replace(invalidation=named._replace(keys=keys, pattern=named.pattern if reaches else ""))
        elif change.key is None or pattern.matches(change.key):
            yield change


def _may_meet(one: Pattern, other: Pattern) -> bool:
    """Whether a key may match both: in doubt it may, as only prefixes are compared."""
    return one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)


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
        named = change.invalidation._asdict()
        told |= {name: named[name] for name in _OF_INVALIDATIONS if named[name]}
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
